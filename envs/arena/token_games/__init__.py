"""Duels of puzzles, after "The Token Games" (arXiv 2602.17831), and solving them alone."""
