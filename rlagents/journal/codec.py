"""Records to bytes and back, every field exact: zstd over msgpack, decoded under strict types.

The spine's own dataclasses are the schema, so a field that `rlagents.types` gains is recorded
without a change here, and old records get its default.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np
import zstandard

from rlagents.types import EpisodeKey, Trajectory

MAX_RECORD_BYTES = 512 * 2**20
"""Bytes of one record before compression; a longer one is neither written nor read."""

BAD_BYTES = (ValueError, TypeError, OverflowError, RecursionError, zstandard.ZstdError)
"""What decoding of strange bytes may raise (`msgspec.MsgspecError` is a ValueError)."""

_DTYPES = frozenset({"<i4", "<i8", "<f4", "<f8", "|b1", "|u1"})
T = TypeVar("T")


class EpisodeBody(msgspec.Struct, frozen=True):
    """Body of a trajectory's record."""

    trajectory: Trajectory
    escaped: bool = False
    """The texts are JSON literals: one of them had code points that UTF-8 can't hold."""


class NoteBody(msgspec.Struct, frozen=True):
    """Body of a note: what was decided about a trajectory later."""

    notes: dict[str, Any]


class DropBody(msgspec.Struct, frozen=True):
    """Body of a withdrawal: these keys count as never recorded."""

    keys: list[EpisodeKey]


class PartBody(msgspec.Struct, frozen=True):
    """First record of a file: which file it continues, and how long that one had become."""

    previous: str | None = None
    size: int = 0


class IndexBody(msgspec.Struct, frozen=True):
    """What readers may remember instead of reading everything again."""

    parts: dict[str, int]
    """How far each file was read."""
    records: list[tuple[EpisodeKey, str, int]]
    notes: list[tuple[EpisodeKey, dict[str, Any]]]
    damaged_records: int = 0
    damaged_bytes: int = 0
    messages: list[str] = []


def encode(body: msgspec.Struct) -> bytes:
    """A body as msgpack.

    Raises:
        ValueError, TypeError: when a value is not plain data.
    """
    return _ENCODER.encode(body)


def decode(kind: type[T], data: bytes) -> T:
    """The body of that kind.

    Raises:
        BAD_BYTES: when the bytes are anything else.
    """
    return _DECODERS[kind].decode(data)


def compress(data: bytes, level: int = 3) -> bytes:
    """Compress a body.

    Raises:
        ValueError: when it is longer than `MAX_RECORD_BYTES`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(data)} bytes; {MAX_RECORD_BYTES} is the limit")
    return zstandard.ZstdCompressor(level=level).compress(data)


def decompress(data: bytes) -> bytes:
    """Undo `compress`, and refuse a bomb before it goes off.

    Raises:
        BAD_BYTES: when the bytes are anything else.
    """
    # The size in the header is what zstandard allocates and the most that it writes.
    if not 0 <= zstandard.frame_content_size(data) <= MAX_RECORD_BYTES:
        raise ValueError(f"a compressed record must say its size, at most {MAX_RECORD_BYTES}")
    return zstandard.ZstdDecompressor().decompress(data)


def encode_trajectory(trajectory: Trajectory) -> bytes:
    """A trajectory as msgpack; what this returns, `decode_trajectory` reads.

    Raises:
        ValueError, TypeError: when a field is not what its type says.
    """
    trajectory = _tagged(trajectory)
    try:
        data = encode(EpisodeBody(trajectory))
    except UnicodeEncodeError:
        data = encode(EpisodeBody(_map_texts(trajectory, json.dumps), escaped=True))
    decode(EpisodeBody, data)  # what readers would refuse is refused now
    return data


def _tagged(trajectory: Trajectory) -> Trajectory:
    task = trajectory.task
    task = dataclasses.replace(task, kwargs=tag(task.kwargs), options=tag(task.options))
    others = tuple(map(_tagged, trajectory.others))
    return dataclasses.replace(trajectory, task=task, others=others)


def decode_trajectory(data: bytes) -> Trajectory:
    """Undo `encode_trajectory`.

    Raises:
        BAD_BYTES: when the bytes are anything else.
    """
    body = decode(EpisodeBody, data)
    return _map_texts(body.trajectory, json.loads) if body.escaped else body.trajectory


def tag(value: Any) -> Any:
    """Mark what msgpack would change: tuples, huge integers, arrays, text outside UTF-8."""
    match value:
        case Mapping():
            return {tag(key): tag(item) for key, item in value.items()}
        case list():
            return [tag(item) for item in value]
        case tuple():
            return _extension(1, _ENCODER.encode([tag(item) for item in value]))
        case int() if not -(2**63) <= value < 2**64:
            return _extension(2, hex(value).encode())
        case str() if not _is_utf8(value):
            return _extension(3, value.encode("utf-8", "surrogatepass"))
        case np.ndarray():
            return _extension(4, _ENCODER.encode(value))
    return value


def _untag(code: int, data: memoryview) -> Any:
    match code:
        case 1:
            return tuple(_ANY.decode(data))
        case 2:
            return int(bytes(data), 16)
        case 3:
            return bytes(data).decode("utf-8", "surrogatepass")
        case 4:
            return _from_plain(np.ndarray, _ANY.decode(data))
    raise ValueError(f"unknown extension {code}")


def _extension(code: int, data: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, data)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.asarray(value, value.dtype.newbyteorder("<"))
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"arrays of {value.dtype} are not recorded")
        return [array.dtype.str, list(array.shape), array.tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain data")


def _from_plain(wanted: Any, value: Any) -> np.ndarray:
    dtype, shape, data = msgspec.convert(value, tuple[str, tuple[int, ...], bytes])
    if dtype not in _DTYPES or any(size < 0 for size in shape):
        raise ValueError(f"no array of {dtype} {shape}")
    array = np.frombuffer(data, dtype).reshape(shape)
    kind = _kind(wanted)
    if kind and kind != array.dtype.kind:
        raise ValueError(f"expected an array of kind {kind!r}, got {array.dtype}")
    return array


@functools.cache
def _kind(wanted: Any) -> str:
    """Numpy's letter for what an annotation such as `NDArray[np.int32]` wants; empty for any."""
    if not get_args(wanted):
        return ""
    (scalar,) = get_args(get_args(wanted)[1])
    return np.dtype(scalar).kind


def _map_texts(trajectory: Trajectory, change: Callable[[str], str]) -> Trajectory:
    turns = tuple(
        dataclasses.replace(t, observation=change(t.observation), action=change(t.action))
        for t in trajectory.turns
    )
    error = trajectory.error
    if error is not None:
        error = dataclasses.replace(error, message=change(error.message))
    final = change(trajectory.final_observation)
    return dataclasses.replace(
        trajectory,
        turns=turns,
        error=error,
        final_observation=final,
        reference=change(trajectory.reference),
        others=tuple(_map_texts(other, change) for other in trajectory.others),
    )


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_ANY: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ext_hook=_untag)
_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind, dec_hook=_from_plain, ext_hook=_untag)
    for kind in (EpisodeBody, NoteBody, DropBody, PartBody, IndexBody)
}
