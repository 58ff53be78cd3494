"""Faults put under the real runtime: a shim between a process and its files, and processes to kill with it."""
