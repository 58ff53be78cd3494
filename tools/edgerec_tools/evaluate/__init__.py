"""Honest evaluation: full ranking of the whole catalogue, baselines beside every model, intervals beside every mean."""
