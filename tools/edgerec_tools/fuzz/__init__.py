"""Fuzzing of everything that edgerec reads from others: `python -m edgerec_tools.fuzz`.

A *target* (`targets.py`) is one reader and what it promises of what it takes. The *engine* is Atheris, which is led by
coverage, where it is installed, else mutations drawn from a seed. Each target runs in a process of its own with
bounded memory. Counts, findings and the grown corpus live in a folder, from which the next run goes on.
"""
