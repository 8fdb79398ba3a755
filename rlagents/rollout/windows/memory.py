"""`strategy: reset_with_memory`: sittings that forget everything, and a memory that does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from rlagents.config import ContextSection
from rlagents.rollout.context import ChatCodec, Prompt, Step
from rlagents.rollout.windows.edits import EditedWindow
from rlagents.types import IntArray, Turn, TurnKind

_COMMAND = re.compile(r"memory\.(\w+)(.*)", re.DOTALL)


class Memory:
    """Texts under keys and the commands that read and change them.

    memory.write KEY: TEXT    a new entry             memory.read KEY       its text
    memory.update KEY: TEXT   another text            memory.search WORDS   entries with all words
    memory.delete KEY         forget an entry         memory.list           the keys

    A key ends at the first colon. Answered by what was asked for, by `done`, or by `error: ...`
    and nothing done. Entries keep the order in which they were written.
    """

    rules = (
        "You will forget everything but your memory: memory.write KEY: TEXT, memory.read KEY, "
        "memory.search WORDS, memory.update KEY: TEXT, memory.delete KEY, memory.list.\n"
    )

    def __init__(self, limit: int, size: Callable[[str], int]) -> None:
        """At most `limit` tokens of keys and texts; `size` counts them."""
        self._limit = limit
        self._size = size
        self.entries: dict[str, str] = {}

    def command(self, text: str) -> str | None:
        """Do what an answer asks for and say what came of it; None where it is no command."""
        found = _COMMAND.fullmatch(text.strip())
        if found is None:
            return None
        name, rest = found[1], found[2].strip()
        key, colon, said = (part.strip() for part in rest.partition(":"))
        if name == "list":
            return "\n".join(self.entries) or "nothing"
        if name == "search":
            return self._search(rest)
        if name in ("write", "update"):
            return self._set(name, key, said) if key and colon else f"error: {name} KEY: TEXT"
        if name not in ("read", "delete"):
            return "error: there are write, read, search, update, delete and list"
        if rest not in self.entries:
            return "error: no such entry"
        if name == "read":
            return self.entries[rest]
        del self.entries[rest]
        return "done"

    def _search(self, words: str) -> str:
        wanted = words.casefold().split()
        lines = [f"{key}: {text}" for key, text in self.entries.items()]
        found = [line for line in lines if all(word in line.casefold() for word in wanted)]
        return "\n".join(found) or "nothing"

    def _set(self, name: str, key: str, text: str) -> str:
        if (key in self.entries) != (name == "update"):
            return "error: no such entry" if name == "update" else "error: there is such an entry"
        entries = {**self.entries, key: text}
        size = self._size("\n".join(f"{k}: {t}" for k, t in entries.items()))
        if size > self._limit:
            return f"error: the memory would have {size} tokens, at most {self._limit} are kept"
        self.entries = entries
        return "done"


class SittingsWindow(EditedWindow):
    """Contexts that share nothing but the head, and a memory that is asked by tool.

        head | observation | memory.write ... | done | action | ...
        head | a new sitting, observation | memory.read ... | text | action | ...

    A sitting ends after `memory.sitting_turns` actions, or where the window is full: also while the
    policy is busy with its memory, and the next one then begins with the same observation. No turn
    is pinned or repeated, not even the first: what the task is must be written down. (MemoryArena,
    arXiv 2602.16313, measures agents so.)
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have."""
        self._memory = Memory(section.memory.tokens, lambda text: self._size(text) - self._size(""))
        section = replace(section, pinned_turns=0, overlap=0)
        super().__init__(chat, section, reserve, self._memory)
        self._actions = 0
        """Of this sitting."""

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        if not 0 < self._section.memory.sitting_turns <= self._actions:
            return super().observe(text)
        self._observed = self._clipped(text)
        self._edits = 0
        return self._begun("")

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled answer: a command, or an action for the environment."""
        step = super().act(action_ids, text)
        self._actions += step.kind is TurnKind.ACTION
        return step

    def _begun(self, reply: str) -> Prompt | None:
        self._actions = 0
        return super()._begun(reply)

    def _shown(self) -> str:
        if self._context < 0:
            return ""
        return f"A new sitting begins. Entries in your memory: {len(self._memory.entries)}.\n"


def memory_use(turns: Iterable[Turn]) -> Mapping[str, float]:
    """How an episode used its memory, from the turns of kind `MEMORY`.

    Returns:
        `writes` (of new entries and of changes), `reads` and `searches` as they were asked for,
        refused ones included.
    """
    counts = {"writes": 0.0, "reads": 0.0, "searches": 0.0}
    names = {"write": "writes", "update": "writes", "read": "reads", "search": "searches"}
    for turn in turns:
        found = _COMMAND.fullmatch(turn.action.strip()) if turn.kind is TurnKind.MEMORY else None
        if found is not None and found[1] in names:
            counts[names[found[1]]] += 1
    return counts
