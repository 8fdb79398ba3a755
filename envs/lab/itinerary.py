"""`rlagents/Itinerary-v0`: a plan whose quality is never shown to who writes it."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from rlagents.envs.lab.base import Act, LabEnv, flag, real, whole

NEAR, SEEN, PACE = 0.4, 0.4, 0.2
"""What the parts of the quality weigh."""
_RULES = (
    "Plan a trip. The card lists sights: the number of a district, then the letter of the sight. "
    "Each day, when its number comes, write the letters of the sights to visit that day and "
    "nothing else. A good plan sees everything once, each day what lies in the district of that "
    "number, at an even pace.\n"
)


class Itinerary(LabEnv):
    """Plan a trip, a line a day; how good the plan is shows in no observation.

    The card lists the sights in random order, each after the number of its district: `2c 1a 2d
    1b`. Each district has `stops` of them, and there are as many districts as days (at most 9, and
    26 sights: then the numbers of the days begin again). Then comes the number of the day, `1`,
    and the action is that day's line, `ab`: a visit a letter. Whatever else is written counts as
    visits of nothing; a line is cut after three times `stops` characters. The task is open-ended:
    any line is a plan, none is refused.

    Score, paid at the end, from 0 to 1 in many small steps, each part a share:

    - 0.4 near: of the visits, those of sights in the district that has the day's number;
    - 0.4 seen: of the sights, those that were visited at all;
    - 0.2 pace: mean over the days of 1 - |visits - stops| / stops, not below 0.

    Meant for judges (`scoring.name: tournament`): with `scoring.judge.backend: simulated` they see
    the score through noise, while the policy never does. `info["metrics"]` has the parts and how
    many lines hold something else than sights, `invalid`; `info["potential"]` is the quality of
    the days that are planned.

    Known scores: the oracle visits each district on its day, 1 exactly. The random policy writes
    `stops` letters of random sights a day: with D days and S sights
    0.4 / D + 0.4 (1 - (1 - 1/S)**S) + 0.2, by default 0.5626. The expert takes care of a day with
    probability `expert_care`, and then visits all of the day's district, in random order; on other
    days it goes to any sights, between 1 and 2 `stops` - 1 of them: by default 0.665, measured over
    20,000 seeds.
    """

    known_scores: ClassVar[Mapping[str, float]] = {
        "random": NEAR / 4 + SEEN * (1 - (7 / 8) ** 8) + PACE,
        "expert": 0.665,
        "oracle": 1.0,
    }

    def __init__(
        self, horizon: int = 4, stops: int = 2, rules: bool = False, expert_care: float = 0.4
    ) -> None:
        """Make the environment.

        Args:
            horizon: days, which are turns.
            stops: sights in each district, visits a day.
            rules: put an explanation in front, for policies that were not trained on the game.
            expert_care: probability a day that the expert takes care of it.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        letters = string.ascii_lowercase
        self.horizon = whole("horizon", horizon, 1, 1000)
        self.stops = whole("stops", stops, 1, len(letters))
        self.rules = flag("rules", rules)
        self.expert_care = real("expert_care", expert_care, 0, 1)
        self.districts = min(self.horizon, 9, len(letters) // self.stops)
        self.sights = letters[: self.districts * self.stops]
        super().__init__(turns=self.horizon, observation_limit=512)

    def _draw(self) -> str:
        shuffled = self.rng.permutation(list(self.sights))
        self._district = {sight: 1 + i // self.stops for i, sight in enumerate(shuffled)}
        self._lines: list[str] = []
        card = " ".join(
            f"{self._district[sight]}{sight}" for sight in self.rng.permutation(shuffled)
        )
        return f"{_RULES if self.rules else ''}{card}\n1"

    def _answer(self, action: str) -> tuple[str, bool]:
        self._lines.append(action[: 3 * self.stops])
        return str(self._today()), False

    def _today(self) -> int:
        """Number of the day, which is that of its district."""
        return 1 + len(self._lines) % self.districts

    def _score(self) -> float:
        return self._quality() if len(self._lines) == self.horizon else 0.0

    def _potential(self) -> float:
        return self._quality()

    def _quality(self) -> float:
        parts = self._parts()
        return NEAR * parts["near"] + SEEN * parts["seen"] + PACE * parts["pace"]

    def _parts(self) -> dict[str, float]:
        """Shares that the quality of what is planned so far is made of."""
        visits = [
            (1 + day % self.districts, sight)
            for day, line in enumerate(self._lines)
            for sight in line
        ]
        near = sum(self._district.get(sight) == day for day, sight in visits)
        seen = {sight for _, sight in visits} & set(self.sights)
        pace = [max(0.0, 1 - abs(len(line) - self.stops) / self.stops) for line in self._lines]
        return {
            "near": near / max(1, len(visits)),
            "seen": len(seen) / len(self.sights),
            "pace": sum(pace) / self.horizon,
        }

    def _metrics(self) -> dict[str, float]:
        odd = sum(not set(line) <= set(self.sights) for line in self._lines)
        return {**self._parts(), "invalid": float(odd)}

    def _here(self) -> list[str]:
        """Sights of the day's district, in the order of the alphabet."""
        return [sight for sight in self.sights if self._district[sight] == self._today()]

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: "".join(self._here())

    def _random(self, rng: np.random.Generator) -> Act:
        return lambda observation: "".join(rng.choice(list(self.sights), size=self.stops))

    def _expert(self, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            if rng.random() < self.expert_care:
                return "".join(rng.permutation(self._here()))
            return "".join(rng.choice(list(self.sights), size=rng.integers(1, 2 * self.stops)))

        return act

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
    }
