"""Cheap environments with known scores: deterministic from the seed, of any horizon."""
