"""Checkpoints that survive a crash and notice a flipped bit, and states in a form they can keep."""

from rlagents.checkpoint.pack import pack_state, random_states, restore_random_states, unpack_state
from rlagents.checkpoint.store import SAVE_POINTS, Checkpoint, checkpoints, load, save

__all__ = [
    "SAVE_POINTS",
    "Checkpoint",
    "checkpoints",
    "load",
    "pack_state",
    "random_states",
    "restore_random_states",
    "save",
    "unpack_state",
]
