"""Nested Python states as tensors and JSON, exact both ways, without pickle.

What JSON has is itself. Everything else is an object with one key that starts with `$`:

    {"$tensor": "0"}            tensor "0" of the tensors beside it
    {"$array": ["0", "<u4", [624]]}   numpy array: its bytes are tensor "0"
    {"$tuple": [...]}  {"$dict": [[key, value], ...]}  {"$float": "nan"}  {"$bytes": "00ff"}
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rlagents.errors import CheckpointError


def pack_state(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Split a state into tensors and JSON.

    Args:
        state: dict, list, tuple, int, float, str, bytes, bool, None, tensor or numpy array,
            nested; keys of a dict may be any of these that are hashable.

    Raises:
        CheckpointError: for any other type, with the place where it lies.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _pack(state, tensors, "state")


def unpack_state(tensors: Mapping[str, torch.Tensor], packed: Any) -> Any:
    """Undo `pack_state`.

    Raises:
        CheckpointError: when the two do not belong together.
    """
    try:
        return _unpack(packed, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"a packed state can't be read: {problem!r}") from problem


def random_states() -> dict[str, Any]:
    """States of the global generators of torch, numpy and Python, for `pack_state`."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Undo `random_states`. States of devices that are not here are left out."""
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    if torch.cuda.is_available() and len(states.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _pack(value: Any, tensors: dict[str, torch.Tensor], where: str) -> Any:
    if isinstance(value, torch.Tensor):
        return {"$tensor": _store(value.detach(), tensors)}
    if isinstance(value, (np.ndarray, np.generic)):
        return {"$array": _pack_array(value, tensors, where)}
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        return value if _is_utf8(value) else {"$text": value.encode("utf-8", "surrogatepass").hex()}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is bytes:
        return {"$bytes": value.hex()}
    if kind in (list, tuple):
        items = [_pack(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if isinstance(value, dict):
        if _is_json_object(value):
            return {k: _pack(v, tensors, f"{where}.{k}") for k, v in value.items()}
        return {
            "$dict": [
                [_pack(k, tensors, f"key of {where}"), _pack(v, tensors, f"{where}[{k!r}]")]
                for k, v in value.items()
            ]
        }
    raise CheckpointError(f"{where} is a {kind.__qualname__}, which has no exact form in JSON")


def _is_json_object(value: dict[Any, Any]) -> bool:
    if not all(type(key) is str and _is_utf8(key) and not key.startswith("$") for key in value):
        return False
    return list(value) == sorted(value)  # a file sorts its keys; the order is part of the state


def _pack_array(
    value: np.ndarray | np.generic, tensors: dict[str, torch.Tensor], where: str
) -> list[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise CheckpointError(f"{where} is an array of {array.dtype}, which has no exact form")
    data = torch.frombuffer(bytearray(array.tobytes() or b"\0"), dtype=torch.uint8)
    form = [_store(data, tensors), array.dtype.str, list(array.shape)]
    return [*form, "scalar"] if isinstance(value, np.generic) else form


def _store(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    key = str(len(tensors))
    tensors[key] = tensor
    return key


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value), "")
    if not mark.startswith("$"):
        return {key: _unpack(item, tensors) for key, item in value.items()}
    content = value[mark]
    match mark:
        case "$tensor":
            return tensors[content]
        case "$array":
            return _unpack_array(content, tensors)
        case "$tuple":
            return tuple(_unpack(item, tensors) for item in content)
        case "$dict":
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
        case "$float":
            return float(content)
        case "$bytes":
            return bytes.fromhex(content)
        case "$text":
            return bytes.fromhex(content).decode("utf-8", "surrogatepass")
    raise ValueError(f"unknown mark {mark!r}")


def _unpack_array(content: list[Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    key, dtype, shape, *scalar = content
    wanted = np.dtype(dtype).itemsize * math.prod(shape)
    data = tensors[key].numpy().tobytes()[:wanted]
    array = np.frombuffer(data, dtype).reshape(shape).copy()
    return array[()] if scalar else array


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
