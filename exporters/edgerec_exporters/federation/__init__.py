"""Rounds: many devices' deltas become one result, under a budget, and the result a candidate bundle. No torch here."""
