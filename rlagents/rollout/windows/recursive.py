"""`strategy: recursive`: a long input is a variable of a REPL, and the policy may call itself.

Recursive Language Models (arXiv 2512.24601). See `repl.py` for what code may use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from rlagents.algos.chunking import clip_text
from rlagents.config import ContextSection
from rlagents.envs.sandbox import Sandbox, SandboxConfig
from rlagents.envs.sandbox.choice import ready
from rlagents.errors import ConfigError
from rlagents.rollout.context import ChatCodec, ContextWindow, Prompt, Step
from rlagents.rollout.windows.repl import Block, Call, Repl
from rlagents.types import IntArray, TurnKind

_FENCED = re.compile(r"```repl[ \t]*\n(.*?)```", re.DOTALL)
_OPENED = re.compile(r"```repl[ \t]*(\n|$)")
# Linear in whatever a policy writes: `^\s*` would begin anew in every empty line.
_FINAL_VAR = re.compile(r"^[ \t]*FINAL_VAR\(\s*[\"']?(\w+)[\"']?\s*\)", re.MULTILINE)
_FINAL = re.compile(r"^[ \t]*FINAL\(", re.MULTILINE)
PROMPT_MARK = ">>>"
_CHARACTERS = 64
"""A token has fewer of them, on the average of any text."""


def code_of(text: str) -> str | None:
    """The code of an answer, None where it has none.

    Blocks fenced as ```repl (several are one after the other), or the whole answer where it begins
    with `>>>`, which costs a small model less. `FINAL_VAR(name)` is code that makes the variable
    the answer. A block whose end is missing is code that can't be run.
    """
    if blocks := _FENCED.findall(text):
        return "\n".join(blocks)
    if _OPENED.search(text):
        return "raise SyntaxError('the block has no end')"
    if text.lstrip().startswith(PROMPT_MARK):
        return text.lstrip().removeprefix(PROMPT_MARK).removeprefix(" ")
    if (found := _FINAL_VAR.search(text)) and found[1].isidentifier():
        return f"answer.update(content={found[1]}, ready=True)"
    return None


def final_of(text: str) -> str:
    """What an answer without code comes to: the inside of `FINAL(...)`, or all of it."""
    found, end = _FINAL.search(text), text.rfind(")")
    return text[found.end() : end] if found and found.end() <= end else text


class _Conversation(ContextWindow):
    """The contexts of the root, or of one call: they begin with the head and only grow."""

    def open(self, text: str) -> Prompt | None:
        """Open a turn, with a text clipped to the room; None where not even an empty one fits."""
        section = self._section
        pinned = sum(self._sizes[: section.pinned_turns])
        room = section.window - len(self._head) - pinned - self._reserve
        if room < self._size(""):
            return None
        text = clipped(text, room, self._size)
        return self._continued(text) or self._rebuilt(text)

    def size(self, text: str) -> int:
        """Tokens of a turn's opening."""
        return self._size(text)

    def answered(self, action_ids: IntArray) -> None:
        """Append what was sampled."""
        self._append(action_ids)


@dataclass(slots=True, kw_only=True)
class _Level:
    """A conversation, and the REPL that it writes code for."""

    conversation: _Conversation
    branch: str
    depth: int
    repl: Repl | None
    """None for a plain call."""
    blocks: int = 0
    """Run since the environment spoke last."""
    called: bool = False
    """The present block has called."""
    ready: str | None = None
    """An answer that is ready, and only has to be given."""


class RecursiveWindow:
    """The root sees how long its input is and how it begins and ends; code sees the input.

        root     head | context: str, len 200,000 ... | CODE | output | CODE | output | ACTION
        calls           head | prompt | CALL      head | prompt | CALL

    An observation above `max_observation` tokens (a quarter of the window where that is 0) becomes
    `context`; a shorter one is shown and leaves `context` as it is. An answer with code (`code_of`)
    is run and answered with what it prints, at most `recursive.output` characters of it. An answer
    without is the action. Code that makes `answer` ready ends the turn with that content; where it
    has called the policy on the way, so that a callee has spoken last, the root is told so, and its
    next answer, whatever it says if it is no code, gives that content.

    A call is answered in a context of its own, with nothing but the head and the prompt, clipped to
    the window. It is a turn of the trajectory, and its answer is a value in the REPL: not a token
    of it enters the root's context. `rlm_query` gives the callee a REPL where `recursive.depth`
    allows one, and is a plain call otherwise; whatever a callee says, code too, is of kind `CALL`.
    Beyond `recursive.calls` a call fails; beyond `recursive.turns` blocks code is not run any more
    but taken as the answer.

    The root's contexts are cut by the rule of pinned and overlapping turns, all its turns alike.
    What code prints must not depend on the clock or on chance, if the episode is to be played again
    from its record; the order of sets does not.
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have.

        Raises:
            ConfigError: wrong settings of the sandbox, or isolation that can't be had here.
            SandboxBroken: the self-probe found the sandbox open.
        """
        self._chat = chat
        self._section = section
        self._reserve = reserve
        try:
            self._sandbox = SandboxConfig.of(section.recursive.sandbox)
            ready(self._sandbox)
        except ConfigError as error:
            raise ConfigError(f"context.recursive.{error}") from error
        self._shown = section.max_observation or section.window // 4
        self._box: Sandbox | None = None
        self._contexts: dict[tuple[str, int], int] = {}
        """(branch, number of its context) -> number in the episode."""
        self._calls = 0
        self._levels = [self._level("", 0, Repl(self._opened))]

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        (root,) = self._levels
        root.blocks, root.ready = 0, None
        return self._told(root, text)

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled answer, and run what is code in it.

        Raises:
            SandboxBroken: the sandbox failed.
        """
        before = [level.branch for level in self._levels]
        step = self._acted(action_ids, text)
        open_ = {level.branch for level in self._levels}
        return replace(step, closed=tuple(branch for branch in before if branch not in open_))

    def _acted(self, action_ids: IntArray, text: str) -> Step:
        level = self._levels[-1]
        level.conversation.answered(action_ids)
        if level.repl is None:
            return self._follow(TurnKind.CALL, self._returned(text))
        code = code_of(text)
        if code is not None and level.blocks < self._section.recursive.turns:
            level.blocks += 1
            level.called, level.ready = False, None
            kind = TurnKind.CALL if level.depth else TurnKind.CODE
            return self._follow(kind, level.repl.run(code))
        answer = final_of(text) if level.ready is None else level.ready
        if level.depth == 0:
            return Step(text=answer)
        return self._follow(TurnKind.CALL, self._returned(answer))

    def close(self) -> None:
        """End the REPLs and free the sandbox. Twice is fine."""
        box, self._box = self._box, None
        if box is not None:
            box.close()

    def _follow(self, kind: TurnKind, said: Call | Block) -> Step:
        """Go on until somebody is to be sampled, or the environment to be answered.

        Args:
            kind: of the turn that was sampled last.
            said: by the REPL of the last level.
        """
        while True:
            level = self._levels[-1]
            assert level.repl is not None
            if isinstance(said, Call):
                prompt = self._called(level, said)
                if isinstance(prompt, Prompt):
                    return Step(kind=kind, prompt=prompt)
                said = level.repl.answer(prompt)
                continue
            shown = clipped(said.output, self._section.recursive.output, len)
            if said.ready is not None:
                if level.depth:
                    said = self._returned(said.ready)
                    continue
                if not level.called:
                    return Step(text=said.ready)
                level.ready, shown = said.ready, "[answer ready]"
            prompt = level.conversation.open(shown)
            if prompt is None and level.depth:
                said = self._returned("Error: the window is full")
                continue
            return Step(kind=kind, prompt=self._numbered(level, prompt))

    def _called(self, caller: _Level, call: Call) -> Prompt | str:
        """The prompt of a call, or at once its answer: an error."""
        limits = self._section.recursive
        if self._calls >= limits.calls:
            return f"Error: no calls are left, all {limits.calls:,} are used"
        self._calls += 1
        caller.called = True
        recursive = call.recursive and caller.depth + 1 < limits.depth
        repl = Repl(self._opened) if recursive else None
        level = self._level(f"#{self._calls}", caller.depth + 1, repl)
        prompt = self._told(level, call.prompt)
        if prompt is None:
            return "Error: the window has no room for a prompt"
        self._levels.append(level)
        return prompt

    def _returned(self, answer: str) -> Call | Block:
        """Give a call's answer to the code that waits for it."""
        callee = self._levels.pop()
        if callee.repl is not None:
            callee.repl.close()
        caller = self._levels[-1].repl
        assert caller is not None
        return caller.answer(answer)

    def _told(self, level: _Level, text: str) -> Prompt | None:
        """Open a turn with an input: long ones become `context` where there is a REPL."""
        conversation = level.conversation
        short = at_least(text, self._shown, conversation.size) <= self._shown
        if level.repl is None or short:
            return self._numbered(level, conversation.open(text))
        level.repl.put(text)
        about = f"context: str, len {len(text):,}\n"
        room = self._shown - conversation.size(about) + conversation.size("")
        shown = clipped(text, room, conversation.size)
        return self._numbered(level, conversation.open(about + shown))

    def _level(self, branch: str, depth: int, repl: Repl | None) -> _Level:
        conversation = _Conversation(self._chat, self._section, self._reserve)
        return _Level(conversation=conversation, branch=branch, depth=depth, repl=repl)

    def _numbered(self, level: _Level, prompt: Prompt | None) -> Prompt | None:
        if prompt is None:
            return None
        key = (level.branch, prompt.context)
        number = self._contexts.setdefault(key, len(self._contexts))
        return replace(prompt, context=number, branch=level.branch)

    def _opened(self) -> Sandbox:
        if self._box is None:
            self._box = Sandbox(self._sandbox)
        return self._box


def at_least(text: str, limit: int, size: Callable[[str], int]) -> int:
    """`size(text)`, or more than `limit` without asking where a text is far too long for it."""
    return limit + 1 if len(text) > _CHARACTERS * limit else size(text)


def clipped(text: str, limit: int, size: Callable[[str], int]) -> str:
    """Head and tail of a text that is too long, or its tail alone where no mark fits between."""
    try:
        return clip_text(text, limit, lambda part: at_least(part, limit, size))
    except ValueError:
        kept = next((n for n in range(limit, 0, -1) if size(text[-n:]) <= limit), 0)
        return text[len(text) - kept :]
