"""Simulated rounds: real devices send real deltas, the server's own engine makes bundles of them."""
