"""Parse bytes that an agent wrote: a value of plain types, or `UnsafeFile`, and nothing else.

Nothing here runs code of the agent, follows what it names, or lets it decide how much is allocated.
What only a pickle can say (objects in arrays, `torch.save`) is refused.

Example:
    scores = reading.json_value(box.read("scores.json"))
    weights = reading.safetensors(box.read("weights.safetensors"))
"""

from rlagents.envs.sandbox.reading.archives import Limits, untar, unzip
from rlagents.envs.sandbox.reading.arrays import npy, npz, safetensors
from rlagents.envs.sandbox.reading.documents import json_value, text

__all__ = [
    "Limits",
    "json_value",
    "npy",
    "npz",
    "safetensors",
    "text",
    "untar",
    "unzip",
]
