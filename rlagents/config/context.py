"""How a history longer than the window becomes contexts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlagents.algos.chunking import Truncation
from rlagents.algos.configs import require

SUMMARY_PROMPT = (
    "The window is full. Write down, in your own words, everything that you will still need; "
    "nothing else of the past will be shown to you."
)


@dataclass(frozen=True, kw_only=True)
class CompactSection:
    """`strategy: compact`: the policy sums up its own history where the window is full."""

    tokens: int = 0
    """Sampled tokens of a summary, at most; 0 is `policy.max_tokens`."""
    prompt: str = SUMMARY_PROMPT
    """What the policy is told then, as a message of the user's."""
    label: str = "Your summary of what came before:\n"
    """Stands in front of the summary, and both in front of the observation."""

    def __post_init__(self) -> None:
        require(self.tokens >= 0, "context.compact.tokens", self.tokens, "0 or more")
        require(bool(self.prompt), "context.compact.prompt", self.prompt, "a text")


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """`strategy: notes` (always shown) and `reset_with_memory` (read by tool)."""

    tokens: int = 256
    """Of the notes, or of all entries of the memory; an edit beyond it is refused."""
    edits: int = 4
    """Edits and look-ups before each action, at most."""
    rules: bool = False
    """Explain the commands in front of each context, to policies that were not trained on them."""
    sitting_turns: int = 0
    """`reset_with_memory`: actions of a sitting, after which only the memory is left; 0 ends one
    where the window is full."""

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "context.memory.tokens", self.tokens, "1 or more")
        require(self.edits >= 1, "context.memory.edits", self.edits, "1 or more")
        require(
            self.sitting_turns >= 0, "context.memory.sitting_turns", self.sitting_turns, "0 or more"
        )


@dataclass(frozen=True, kw_only=True)
class RecursiveSection:
    """`strategy: recursive`: long observations are variables of a sandboxed Python.

    The policy may call itself from there (Recursive Language Models, arXiv 2512.24601).
    """

    turns: int = 30
    """Blocks of code before each action, at most."""
    calls: int = 50
    """Calls of the policy to itself in an episode, at most."""
    depth: int = 1
    """1: a call is a plain one. 2 and more: a call of the root may have a REPL of its own."""
    output: int = 500
    """Characters of a block's output that the policy is shown, head and tail."""
    sandbox: dict[str, Any] = field(default_factory=dict)
    """Tier and limits, by the names of `SandboxConfig`."""

    def __post_init__(self) -> None:
        for name in ("turns", "depth", "output"):
            value = getattr(self, name)
            require(value >= 1, f"context.recursive.{name}", value, "1 or more")
        require(self.calls >= 0, "context.recursive.calls", self.calls, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ContextSection:
    """How a history longer than the window becomes contexts (rollouts and SFT alike)."""

    strategy: Literal[
        "pinned_window", "full", "compact", "notes", "recursive", "reset_with_memory"
    ] = "pinned_window"
    """`pinned_window`: the pinned turns, the latest turns and the new one. `full` never cuts: the
    episode ends when the window is full. `compact`: the pinned turns and a summary by the policy.
    `notes`: the pinned turns and a scratchpad that the policy edits. `recursive`: long observations
    in a REPL. `reset_with_memory`: sittings, and a memory that outlasts them."""
    window: int = 512
    """Tokens of a context, and of a training segment."""
    pinned_turns: int = 1
    """This many first turns, observation and action, start every context, after the system
    message. 1 pins the task card."""
    overlap: int = 0
    """Tokens of the latest whole turns that a new context repeats, at most."""
    truncation: Truncation = "sliding"
    """`sliding` repeats as much at every cut; `progressive` the less the later the cut: the n-th
    repeats overlap / n."""
    max_observation: int = 0
    """Tokens of an observation; of a longer one head and tail are shown, with a mark between. 0
    never clips: an observation that does not fit ends the episode."""
    compact: CompactSection = field(default_factory=CompactSection)
    memory: MemorySection = field(default_factory=MemorySection)
    recursive: RecursiveSection = field(default_factory=RecursiveSection)

    def __post_init__(self) -> None:
        require(self.window >= 8, "context.window", self.window, "8 or more")
        require(self.pinned_turns >= 0, "context.pinned_turns", self.pinned_turns, "0 or more")
        require(
            0 <= self.overlap < self.window,
            "context.overlap",
            self.overlap,
            f"between 0 and context.window ({self.window})",
        )
        require(
            0 <= self.max_observation < self.window,
            "context.max_observation",
            self.max_observation,
            f"between 0 and context.window ({self.window})",
        )
