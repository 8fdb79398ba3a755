"""Environments whose actions are code, run in the sandbox."""
