"""Texts and JSON documents of an agent."""

from __future__ import annotations

import json
import math
from typing import Any

from rlagents.envs.sandbox.files import UnsafeFile
from rlagents.visible import escape

JSON_BYTES = 2**20
JSON_DEPTH = 64
"""Lists and objects inside each other."""
TEXT_BYTES = 2**20
_DIGITS = 1000
"""Of a whole number: reading one takes time that grows with the square of its length."""


def json_value(data: bytes, *, limit: int = JSON_BYTES, depth: int = JSON_DEPTH) -> Any:
    """The value of a JSON document by the letter of RFC 8259, in UTF-8.

    The standard library's parser with hooks, not msgspec: that takes the last of two equal keys
    without a word, where another reader takes the first.

    Args:
        limit: bytes.
        depth: lists and objects inside each other.

    Returns:
        None, bool, int, finite float, str without lone surrogates, list, dict with str keys.

    Raises:
        UnsafeFile: anything else: NaN, Infinity, a number too large for a float or with more than
            1,000 digits, a key that comes twice, too deep, too large, not JSON.
    """
    if len(data) > limit:
        raise UnsafeFile(f"JSON of {len(data):,} bytes, more than {limit:,}")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise UnsafeFile(f"JSON deeper than {depth}") from None
    except UnsafeFile:
        raise
    except ValueError as error:
        raise UnsafeFile(f"not JSON: {error}") from None
    _check(value, depth)
    return value


def text(data: bytes, *, limit: int = TEXT_BYTES) -> str:
    """UTF-8 for people to read: broken bytes are replaced, control characters made visible.

    Raises:
        UnsafeFile: more than `limit` bytes.
    """
    if len(data) > limit:
        raise UnsafeFile(f"a text of {len(data):,} bytes, more than {limit:,}")
    return escape(data.decode(errors="replace"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnsafeFile("not JSON: a key comes twice in an object")
    return found


def _constant(name: str) -> float:
    raise UnsafeFile(f"not JSON: {name}")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise UnsafeFile("JSON with a number that no float can hold")
    return value


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise UnsafeFile(f"JSON with a number of {len(digits):,} digits")
    return int(digits)


def _check(value: Any, depth: int) -> None:
    """Depth, and texts that could not be written again."""
    level, deep = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _require_encodable(item)
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
        containers = any(isinstance(item, (list, dict)) for item in level)
        deep += containers
        if deep > depth:
            raise UnsafeFile(f"JSON deeper than {depth}")
        level = below


def _require_encodable(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UnsafeFile("JSON with half of a surrogate pair") from None
