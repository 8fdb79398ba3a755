"""What the program that serves a session says on its line: the agent's word, so only parsed here.

A line with a number is the status: the turn is over. Where the session has a library, a line such
as `?11` may come before it, and 11 bytes that are a question.
"""

from __future__ import annotations

import os

QUESTION_LIMIT = 2**20
"""Bytes of one question."""
_HEADER = 20
_READ, _FULL = 65536, 4
"""Bytes of a read, and how many of them empty a full pipe."""


class Replies:
    """Reads one line without ever waiting."""

    def __init__(self, descriptor: int, *, asking: bool) -> None:
        """`asking`: it may put questions."""
        self._descriptor = descriptor
        self._asking = asking
        self._said = b""

    def forget(self) -> None:
        """Drop what was said so far: before a turn begins it answers nothing."""
        self._read()
        self._said = b""

    def next(self) -> int | str | None:
        """The status of the turn (0 to 255), a question, or None while it is not all there.

        Raises:
            ValueError: it is neither, or the line is closed.
        """
        if not self._asking:  # whatever else was said, the last line counts
            self._read()
            return _status(self._said.strip().split(b"\n")[-1])
        while (found := self._found()) is None:
            more = self._more()
            if more is None:
                raise ValueError("the end of the line")
            if not more:
                return None
        return found

    def _found(self) -> int | str | None:
        """What stands first in what was read, and no longer does afterwards."""
        header, newline, rest = self._said.partition(b"\n")
        if len(header) > _HEADER:
            raise ValueError("nonsense")
        if not newline:
            return None
        if not header.startswith(b"?"):
            self._said = rest
            return _status(header)
        size = _number(header[1:])
        if size > QUESTION_LIMIT:
            raise ValueError(f"a question of {size} bytes")
        if len(rest) < size:
            return None
        self._said = rest[size:]
        return rest[:size].decode(errors="replace")

    def _read(self) -> None:
        """Read what a pipe holds; more comes only from somebody who goes on writing."""
        for _ in range(_FULL):
            if not self._more():
                break

    def _more(self) -> bool | None:
        """Read once: whether something was there; None at the end of the line."""
        try:
            data = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return False
        self._said += data
        return True if data else None


def _number(digits: bytes) -> int:
    if not digits.isdigit():
        raise ValueError("no number")
    return int(digits)


def _status(line: bytes) -> int:
    return _number(line[:_HEADER]) & 0xFF
