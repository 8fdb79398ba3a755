"""Environments with several seats: games, duels, negotiations."""
