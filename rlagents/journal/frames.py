"""How records lie in a file: framed, checked, and found again after damage.

    marker [12] | body length u32 | head length u16 | BLAKE2b [8] of the rest | head | body

The head is msgpack (kind and key), so that a scan need not decompress. The marker holds the nonce
of the file's name, which no agent can know: a reader that lost its place looks for the next
marker, and text inside a record can't pose as one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from rlagents.journal.codec import BAD_BYTES
from rlagents.types import EpisodeKey

_NAME = re.compile(r"part-(\d{8})-([0-9a-f]{16})\.rlj")
_LENGTHS = struct.Struct("<IH")
_DIGEST_SIZE = 8
_MARKER_SIZE = 12
HEADER_SIZE = _MARKER_SIZE + _LENGTHS.size + _DIGEST_SIZE


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a record is, without its body."""

    kind: Literal["trajectory", "note", "drop", "part"]
    key: EpisodeKey | None = None


class Frame(NamedTuple):
    """A sound frame, and where it lies in the bytes searched."""

    start: int
    end: int
    head: Head
    body: bytes


_HEADS = msgspec.msgpack.Decoder(Head)


def parts(folder: Path) -> list[Path]:
    """The files of a journal in the order they were written."""
    if not folder.exists():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def next_name(previous: str | None) -> str:
    """A name for the file after `previous`, with a nonce of its own."""
    number = 1 if previous is None else int(previous[5:13]) + 1
    return f"part-{number:08d}-{secrets.token_hex(8)}.rlj"


def marker(name: str) -> bytes:
    """The 12 bytes that begin every frame of the file of that name.

    Raises:
        ValueError: when it is not the name of a journal's file.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a journal's file")
    return b"rlj\x01" + bytes.fromhex(match[2])


def make(mark: bytes, head: Head, body: bytes) -> bytes:
    """One frame around a compressed body."""
    packed = msgspec.msgpack.encode(head)
    lengths = _LENGTHS.pack(len(body), len(packed))
    return mark + lengths + _digest(lengths, packed, body) + packed + body


def parse(data: bytes, at: int) -> Frame | None:
    """The frame whose marker lies at `at`, or None when it is damaged or unfinished."""
    if len(data) - at < HEADER_SIZE:
        return None
    lengths = data[at + _MARKER_SIZE : at + _MARKER_SIZE + _LENGTHS.size]
    body_size, head_size = _LENGTHS.unpack(lengths)
    start = at + HEADER_SIZE
    end = start + head_size + body_size
    if end > len(data):
        return None
    head, body = data[start : start + head_size], data[start + head_size : end]
    if _digest(lengths, head, body) != data[start - _DIGEST_SIZE : start]:
        return None
    try:
        return Frame(at, end, _HEADS.decode(head), body)
    except BAD_BYTES:
        return None


def find_all(data: bytes, mark: bytes) -> Iterator[Frame]:
    """The sound frames, in order. What lies between them is damaged."""
    at = data.find(mark)
    while at >= 0:
        frame = parse(data, at)
        if frame is not None:
            yield frame
        at = data.find(mark, frame.end if frame else at + 1)


def load(path: Path, at: int) -> Frame | None:
    """The one frame at `at` in a file, or None when no sound frame lies there.

    Raises:
        OSError: when the file can't be read.
    """
    with path.open("rb") as file:
        file.seek(at)
        header = file.read(HEADER_SIZE)
        if len(header) < HEADER_SIZE or not header.startswith(marker(path.name)):
            return None
        lengths = _LENGTHS.unpack_from(header, _MARKER_SIZE)
        return parse(header + file.read(sum(lengths)), 0)


def _digest(lengths: bytes, head: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(lengths + head + body, digest_size=_DIGEST_SIZE).digest()
