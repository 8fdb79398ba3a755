"""`rlagents/MethodSearch-v0`: a research task in miniature: measure, take notes, submit."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from rlagents.envs.lab.base import MAX_HORIZON, Act, LabEnv, real, whole

WORST, SECOND = -1.0, 0.9
"""The methods that are not the best have relative qualities uniform between these."""


class MethodSearch(LabEnv):
    """Run noisy experiments on candidate methods within a budget, and submit one.

    The card states the goal, the baseline to beat, the methods and the budget. `run b` measures
    a method (`b 0.61 left 30`), `note TEXT` replaces the notebook, which every later observation
    repeats after a bar (`left 29 | TEXT`), and `submit b` ends the episode. Anything else is
    answered `bad`. Each costs a turn.

    A method's quality is baseline + gain * r: r is 1 for the best method and uniform in
    [-1, 0.9] for the others, the baseline is uniform in [0.4, 0.6] and gain in [0.1, 0.3].
    A measurement adds Gaussian noise with standard deviation `noise`, and has two decimals.

    `info["potential"]` is the share of the methods that were measured at least once: what a
    submission can be based on. With shaping the first run of each method pays, and the submission
    pays it back, so that looking around is credited where it happens.

    Score, paid at the end: r of the submitted method (the best 1, the baseline 0, a worse one
    negative) less `cost` times the share of the `horizon` turns that were used before the
    submission. Without a submission: -cost.

    Known scores: the oracle knows the truth and submits at once, 1 exactly. The random policy
    runs or submits a random method, so that it submits with probability 1/2 a turn:
    (1 - 2**-H) * ((1 - 0.05 (M - 1)) / M - cost / H), by default 0.0750. The expert goes round
    all methods, notes the best mean after each round until the budget is spent, then submits the
    best mean: by default 0.798, measured over 4,000 seeds.
    """

    known_scores: ClassVar[Mapping[str, float]] = {
        "random": 0.0750,
        "expert": 0.798,
        "oracle": 1.0,
    }

    def __init__(
        self,
        horizon: int = 32,
        methods: int = 8,
        noise: float = 0.05,
        cost: float = 0.2,
        note_limit: int = 64,
        expert_haste: float = 0.0,
    ) -> None:
        """Make the environment.

        Args:
            horizon: turn budget, the submission included.
            methods: number of candidates, called a, b, ..., z, aa, ab, ...
            noise: standard deviation of a measurement, in units of quality.
            cost: what using the whole budget takes off the score.
            note_limit: characters the notebook holds; the rest of a note is cut off.
            expert_haste: probability a turn that the expert submits what has measured best so far
                instead of going on, so that its imitation knows how to stop early.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        self.horizon = whole("horizon", horizon, 2, MAX_HORIZON)
        self.methods = whole("methods", methods, 2, 700)
        self.noise = real("noise", noise, 0, 1)
        self.cost = real("cost", cost, 0, 1)
        self.note_limit = whole("note_limit", note_limit, 0, 1000)
        self.expert_haste = real("expert_haste", expert_haste, 0, 1)
        letters = string.ascii_lowercase
        pairs = [first + second for first in letters for second in letters]
        self.names = tuple([*letters, *pairs][: self.methods])
        self._index = {name: i for i, name in enumerate(self.names)}
        super().__init__(turns=self.horizon, observation_limit=256 + self.note_limit)

    def _draw(self) -> str:
        rng = self.rng
        self.relative = rng.uniform(WORST, SECOND, size=self.methods)
        self.relative[rng.integers(self.methods)] = 1.0
        self._baseline = rng.uniform(0.4, 0.6)
        self._gain = rng.uniform(0.1, 0.3)
        self._submitted: int | None = None
        self._notebook = ""
        self._measured: set[int] = set()
        self._counts = dict.fromkeys(("runs", "notes", "invalid"), 0)
        few = self.methods <= 26
        names = " ".join(self.names) if few else f"{self.names[0]} to {self.names[-1]}"
        return (
            f"goal: the method with the highest score\nbaseline {self._baseline:.2f}\n"
            f"methods {names} ({self.methods})\nbudget {self.horizon} turns, cost {self.cost:g}\n"
            "run X, note TEXT or submit X"
        )

    def _answer(self, action: str) -> tuple[str, bool]:
        verb, _, rest = action.partition(" ")
        method = self._index.get(rest.strip())
        if verb == "note":
            # Printable characters only: a notebook is shown again, and must stay one line.
            kept = rest.strip()[: self.note_limit]
            self._notebook = "".join(c if c.isprintable() else " " for c in kept)
            self._counts["notes"] += 1
            return self._line(""), False
        if verb == "run" and method is not None:
            self._counts["runs"] += 1
            self._measured.add(method)
            quality = self._baseline + self._gain * self.relative[method]
            measured = quality + self.noise * self.rng.normal()
            return self._line(f"{self.names[method]} {measured:.2f} "), False
        if verb == "submit" and method is not None:
            self._submitted = method
            return f"submitted {self.names[method]}", True
        self._counts["invalid"] += 1
        return self._line("bad "), False

    def _line(self, head: str) -> str:
        note = f" | {self._notebook}" if self._notebook else ""
        return f"{head}left {self.turns - self._turn}{note}"

    @property
    def best(self) -> str:
        """Name of the method with the highest true quality."""
        return self.names[int(self.relative.argmax())]

    def _score(self) -> float:
        if self._submitted is None:
            return -self.cost if self._turn >= self.turns else 0.0
        spent = (self._turn - 1) / self.turns
        return float(self.relative[self._submitted]) - self.cost * spent

    def _potential(self) -> float:
        return len(self._measured) / self.methods

    def _metrics(self) -> dict[str, float]:
        chosen = self._submitted
        quality = 0.0 if chosen is None else float(self.relative[chosen])
        return {
            "success": float(quality == 1.0),
            "submitted": float(chosen is not None),
            "quality": quality,
            **{name: float(n) for name, n in self._counts.items()},
        }

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: f"submit {self.best}"

    def _random(self, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            verb = ("run", "submit")[rng.integers(2)]
            return f"{verb} {self.names[rng.integers(self.methods)]}"

        return act

    def _expert(self, rng: np.random.Generator) -> Act:
        """Reads only what it is shown. A round of M runs and a note takes M + 1 turns."""
        rounds = max(1, (self.horizon - 1) // (self.methods + 1))
        order = [self.names[i] for i in rng.permutation(self.methods)]
        script = [*(f"run {name}" for name in order), "note"] * rounds
        plan = iter(script[: self.horizon - 1])
        seen: dict[str, list[float]] = {}

        def act(observation: str) -> str:
            name, *rest = observation.partition(" |")[0].split(" ")
            if name in self._index and len(rest) == 3:
                seen.setdefault(name, []).append(float(rest[0]))
            means = {name: sum(values) / len(values) for name, values in seen.items()}
            best = max(means, key=means.__getitem__) if means else order[0]
            if means and rng.random() < self.expert_haste:
                return f"submit {best}"
            action = next(plan, f"submit {best}")
            return f"note {best} {means[best]:.2f}" if action == "note" else action

        return act

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
    }
