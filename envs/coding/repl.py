"""`rlagents/Repl-v0`: questions about an input that is longer than any context, and a Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from rlagents.envs.lab.base import MAX_HORIZON, Act, LabEnv, flag, real, whole
from rlagents.envs.sandbox import Result, Sandbox, SandboxConfig, Session
from rlagents.envs.sandbox.choice import ready
from rlagents.errors import SandboxBroken

COLOURS = ("amber", "blue", "coral", "green", "ivory", "lilac", "olive", "white")
PLACES = ("attic", "cellar", "garden", "harbour", "library", "market", "tower", "yard")
_RULES = (
    "The variable `text` in a Python session holds {records} lines such as\n{example}\n"
    "Each of your messages is run in that session and answered with its output. A message that is "
    "`answer: X` answers the question. There are {horizon} questions.\n"
)
_SHOWN = 2000
"""Characters of an output that an observation shows: head and tail."""
_START_S = 30.0


class Repl(LabEnv):
    """Answer `horizon` questions about a long table with Python, in a sandbox that keeps state.

    The table has `records` lines, `item 17: 5 blue boxes in the attic`; a question asks how many
    boxes of a colour there are, how many stand in a place, or what the largest single entry of a
    colour in a place is. The text never stands in an observation: it is the variable `text` of a
    Python session that lives as long as the episode, so what an action defines is there for the
    next. `answer: 42` goes on to the next question, right or wrong. The budget is `turns` actions.

    An action that fails (an exception, a limit of the sandbox) is answered with what happened; one
    that ends the session (`exit()`, too much memory) is answered with `[session restarted]`, and
    the session begins anew. A sandbox that fails ends the episode as such.

    Score: right answers divided by `horizon`, paid when given. Known scores: oracle 1. The random
    policy answers a number from 0 to 9, which is right only by accident. The expert computes each
    answer in one action and repeats the output, its last digit wrong with probability
    `expert_error`.
    """

    known_scores: ClassVar[Mapping[str, float]] = {"random": 0.0, "oracle": 1.0, "expert": 0.9}

    def __init__(
        self,
        horizon: int = 4,
        records: int = 2000,
        turns: int | None = None,
        rules: bool = True,
        expert_error: float = 0.1,
        sandbox: SandboxConfig | Mapping[str, Any] | None = None,
    ) -> None:
        """Make the environment.

        Args:
            horizon: number of questions.
            records: lines of the table.
            turns: turn budget; unset: four a question.
            rules: explain the game on the first observation.
            expert_error: probability that the expert's answer is wrong.
            sandbox: tier and limits, by the names of `SandboxConfig`.

        Raises:
            ValueError: naming the argument that is out of its range.
            ConfigError: a wrong setting of the sandbox, or isolation that can't be had here.
            SandboxBroken: the self-probe found the sandbox open.
        """
        self.horizon = whole("horizon", horizon, 1, MAX_HORIZON)
        self.records = whole("records", records, 1, 100_000)
        self.rules = flag("rules", rules)
        self.expert_error = real("expert_error", expert_error, 0, 1)
        self.sandbox = SandboxConfig.of(sandbox)
        ready(self.sandbox)
        budget = 4 * self.horizon if turns is None else turns
        super().__init__(
            turns=whole("turns", budget, self.horizon, 100 * MAX_HORIZON),
            observation_limit=1000 + 2 * _SHOWN,
        )
        self._box: Sandbox | None = None
        self._session: Session | None = None

    def close(self) -> None:
        """End the session and free the sandbox. Twice is fine."""
        box, self._box, self._session = self._box, None, None
        if box is not None:
            box.close()

    def _draw(self) -> str:
        self.close()
        draw = self.rng.integers
        self._table = [
            (int(draw(1, 100)), COLOURS[draw(len(COLOURS))], PLACES[draw(len(PLACES))])
            for _ in range(self.records)
        ]
        self._questions = [self._question(int(draw(3))) for _ in range(self.horizon)]
        self._asked = self._right = 0
        self._counts = dict.fromkeys(("answers", "failures", "restarts"), 0)
        self._start()
        head = ""
        if self.rules:
            example = next(iter(self._lines()))
            head = _RULES.format(records=self.records, example=example, horizon=self.horizon)
        return head + self._line()

    def _lines(self) -> list[str]:
        return [
            f"item {i}: {n} {colour} boxes in the {place}"
            for i, (n, colour, place) in enumerate(self._table)
        ]

    def _question(self, kind: int) -> tuple[str, int, str]:
        """A question, its answer, and an expression of the table `t` that computes it."""
        colour = COLOURS[self.rng.integers(len(COLOURS))]
        place = PLACES[self.rng.integers(len(PLACES))]
        if kind == 0:
            answer = sum(n for n, c, _ in self._table if c == colour)
            return f"How many {colour} boxes?", answer, f"sum(n for n,c,p in t if c=={colour!r})"
        if kind == 1:
            answer = sum(n for n, _, p in self._table if p == place)
            expression = f"sum(n for n,c,p in t if p=={place!r})"
            return f"How many boxes in the {place}?", answer, expression
        among = [n for n, c, p in self._table if (c, p) == (colour, place)]
        return (
            f"Most {colour} boxes in the {place} in one line, or 0?",
            max(among, default=0),
            f"max([n for n,c,p in t if c=={colour!r} and p=={place!r}],default=0)",
        )

    def _start(self) -> None:
        """A session in a sandbox of its own: nothing that the last one did is left in it."""
        self.close()
        self._box = Sandbox(self.sandbox)
        self._box.write("input.txt", "\n".join(self._lines()))
        self._session = self._box.repl()
        started = self._session.run("text = open('input.txt').read()", wall_s=_START_S)
        if not started.ok:
            raise SandboxBroken(f"starting a session: {started.describe()}: {started.output}")

    def _line(self) -> str:
        return f"Question {self._asked + 1}: {self._questions[self._asked][0]}"

    def _answer(self, action: str) -> tuple[str, bool]:
        word, colon, rest = action.partition(":")
        if colon and word.strip().lower() == "answer":
            self._counts["answers"] += 1
            self._right += rest.strip() == str(self._questions[self._asked][1])
            self._asked += 1
            return ("done", True) if self._asked == self.horizon else (self._line(), False)
        assert self._session is not None
        result = self._session.run(action)
        self._counts["failures"] += not result.ok
        shown = _shown(result)
        if result.ended:
            self._counts["restarts"] += 1
            self._start()
            shown += "\n[session restarted]"
        return shown, False

    def _score(self) -> float:
        return self._right / self.horizon

    def _metrics(self) -> dict[str, float]:
        return {
            "right": float(self._right),
            **{name: float(n) for name, n in self._counts.items()},
        }

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: f"answer: {self._questions[self._asked][1]}"

    def _random(self, rng: np.random.Generator) -> Act:
        return lambda observation: f"answer: {rng.integers(10)}"

    def _expert(self, rng: np.random.Generator) -> Act:
        parse = (
            "import re; t = [(int(n),c,p) for n,c,p in "
            "re.findall(r': (\\d+) (\\w+) boxes in the (\\w+)', text)]"
        )
        state = {"computed": False, "parsed": False}

        def act(observation: str) -> str:
            if state["computed"]:
                state["computed"] = False
                if rng.random() < self.expert_error:
                    return f"answer: {observation.strip()[:-1]}{(int(observation[-1:]) + 1) % 10}"
                return f"answer: {observation.strip()}"
            state["computed"] = True
            first, state["parsed"] = not state["parsed"], True
            return (parse + "\n" if first else "") + self._questions[self._asked][2]

        return act

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
    }


def _shown(result: Result) -> str:
    """What the agent sees of a turn: its output, cut in the middle, and how it ended."""
    text = result.output.strip()
    if len(text) > _SHOWN:
        left_out = len(text) - _SHOWN
        text = f"{text[: _SHOWN // 2]}\n[... {left_out:,} characters ...]\n{text[-_SHOWN // 2 :]}"
    if result.limit is not None or result.signal is not None:
        text = f"{text}\n[{result.describe()}]".lstrip()
    return text or "[no output]"
