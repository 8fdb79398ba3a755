"""`strategy: notes`: a scratchpad that the policy edits and every context shows."""

from __future__ import annotations

import re
from collections.abc import Callable

from rlagents.config import ContextSection
from rlagents.rollout.context import ChatCodec
from rlagents.rollout.windows.edits import EditedWindow

_COMMAND = re.compile(r"note([+=-])(.*)", re.DOTALL)


class Notes:
    """Numbered lines and the commands that change them.

    note+ TEXT   add a line (or as many as TEXT has)
    note= TEXT   put TEXT in place of all notes; without TEXT, clear them
    note- N      delete line N

    Answered by `noted`, or by `error: ...` and nothing done.
    """

    rules = "note+ TEXT adds a note, note= TEXT replaces all of them, note- N deletes one.\n"

    def __init__(self, limit: int, size: Callable[[str], int]) -> None:
        """At most `limit` tokens as shown; `size` counts them."""
        self._limit = limit
        self._size = size
        self.lines: tuple[str, ...] = ()

    def command(self, text: str) -> str | None:
        """Do what an answer asks for and say what came of it; None where it is no command."""
        found = _COMMAND.fullmatch(text.strip())
        if found is None:
            return None
        how, said = found[1], found[2].strip()
        if how == "-":
            number = int(said) if said.isdecimal() and len(said) < 10 else 0
            if not 1 <= number <= len(self.lines):
                return f"error: there are {len(self.lines)} notes, none with that number"
            self.lines = self.lines[: number - 1] + self.lines[number:]
            return "noted"
        added = tuple(line.strip() for line in said.splitlines() if line.strip())
        if how == "+" and not added:
            return "error: nothing to note"
        lines = (self.lines if how == "+" else ()) + added
        size = self._size(shown(lines))
        if size > self._limit:
            return f"error: the notes would have {size} tokens, at most {self._limit} are kept"
        self.lines = lines
        return "noted"


def shown(lines: tuple[str, ...]) -> str:
    """Notes as a context shows them."""
    if not lines:
        return ""
    return "Your notes:\n" + "".join(f"{n}. {line}\n" for n, line in enumerate(lines, start=1))


class NotesWindow(EditedWindow):
    """Pinned and overlapping contexts, each with the notes in front of its first observation.

        head | pinned | repeated | notes, observation | note+ ... | noted | action | ...

    The pinned and the repeated turns come without edits, and without the notes as they once were.
    Notes that leave an observation no room end the episode.
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have."""
        self._notes = Notes(section.memory.tokens, lambda text: self._size(text) - self._size(""))
        super().__init__(chat, section, reserve, self._notes)

    def _shown(self) -> str:
        return shown(self._notes.lines)
