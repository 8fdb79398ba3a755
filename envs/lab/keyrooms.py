"""`rlagents/KeyRooms-v0`: doors whose codes were read long before."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from rlagents.envs.lab.base import MAX_HORIZON, Act, LabEnv, choice, flag, real, whole

LOOK = "?"
_RULES = (
    "Each door has a letter and a code, a digit. When you see the letter of a door, "
    "say its code to go through. ? looks again. Every action costs a turn.\n"
)


class KeyRooms(LabEnv):
    """Walk through doors; the code of each was read long before.

    The task card lists facts (`a3 b7 c1`: door a has code 3) and ends with the first door's line,
    which is the bare letter `c`. The right action is the door's one-character code and leads to
    the next door's line; a wrong code is answered `no c`, text that is no action `bad c`; `?`
    looks and shows `c` again. Each costs a turn. With `facts="rooms"` there is no card: the first
    `keys` rooms show one fact each (`a3`), any action walks on, and the doors follow. The letter
    is the last character before the action: a small model over bytes learns to recall the code
    from there, and not with another character in between.

    With `passing` = p, facts are also told on the way: the line of every p-th door has one in front
    (`Q7 c`: door Q has code 7; now open c), and `gap` doors later comes door `Q`. It is a fact that
    no card repeats, and that a window cut in between has lost. Their letters are upper-case and
    take turns, so that one comes back after 26 p doors only.

    With `tries` a door stays shut after as many answers that did not open it, and the next one's
    line follows as if it had: every door is then asked about, however many were failed.

    Score: doors opened divided by `horizon`, less `penalty` for each wrong code; each door pays
    when it opens. The episode terminates when no door is left or the turns are gone. Of its metrics
    `late` is the share of the doors of the second half that were opened, `late_card` and
    `late_passing` the same for those whose fact was shown at the beginning, or on the way.

    The expert knows every code but double-checks: on reaching a door it looks once with
    probability `expert_waste`, and never again at that door. Then it opens; an opening is wrong
    with probability `expert_error`, and is repeated until it is right. With `expert_waste` above
    one half (and `expert_error` below), its most probable action is to look at a new door and to
    open after a look, so that greedy imitation opens a door every second turn (by default 30 of
    48, 0.6250). Sampled imitation needs expert_waste + 1 / (1 - expert_error) turns a door. Not
    to look is what remains to be learned from reward.

    The scribe is an expert that plays through the context window. Asked for a summary, which is
    whatever the game has not said, it writes the facts it has seen (`a3b7`; none told on the way),
    and forgets each for good with probability `expert_forget`.

    `info["potential"]` is the score that a flawless walk would still add: the doors that are left,
    or the turns for them where these are fewer, divided by `horizon`. Reward and shaping together
    are then 0 for a right code or a look with turns to spare, and -1 / `horizon` for each turn that
    costs a door.

    Known scores, with D doors and T turns for them (and without `penalty`): oracle 1 exactly. The
    random policy says one of `codes` codes or looks, uniformly, and opens with
    p = 1 / (codes + 1) a turn: E[min(D, Bin(T, p))] / D. The expert has opened door k in time
    when the looks at the first k doors, Bin(k, expert_waste) of them, leave enough openings for k
    right ones: the sum of P[Bin(T - Bin(k, expert_waste), 1 - expert_error) >= k] over
    k = 1..D, divided by D. By default random 0.1136, expert and scribe 0.6896.
    """

    known_scores: ClassVar[Mapping[str, float]] = {
        "random": 0.1136,
        "expert": 0.6896,
        "scribe": 0.6896,
        "oracle": 1.0,
    }

    def __init__(
        self,
        horizon: int = 48,
        turns: int | None = None,
        keys: int = 8,
        codes: int = 10,
        facts: Literal["card", "rooms"] = "card",
        order: Literal["loop", "random"] = "loop",
        penalty: float = 0.0,
        rules: bool = False,
        passing: int = 0,
        gap: int = 4,
        tries: int = 0,
        expert_waste: float = 0.75,
        expert_error: float = 0.05,
        expert_forget: float = 0.0,
    ) -> None:
        """Make the environment.

        Args:
            horizon: number of doors, which is how many turns a flawless walk takes.
            turns: turn budget for the doors; unset: a quarter more than `horizon`. The fact rooms
                of `facts="rooms"` come on top.
            keys: number of facts (different doors); doors return.
            codes: number of different codes.
            facts: where the facts are shown, on the card or in the first rooms.
            order: doors in the order of their letters, round and round from a random one, or
                drawn with replacement (much harder to learn for a small model).
            penalty: what a wrong code costs.
            rules: put an explanation in front, for policies that were not trained on the game.
            passing: every how many doors a fact is told on the way; 0 tells none.
            gap: how many doors later the door of that fact comes.
            tries: answers at a door, other than looks, until it stays shut; 0 has no limit.
            expert_waste: probability that the expert looks at a door it has just reached.
            expert_error: probability that the expert's opening is a wrong code.
            expert_forget: probability that the scribe leaves a fact out of a summary.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        self.horizon = whole("horizon", horizon, 1, MAX_HORIZON)
        if turns is None:
            turns = self.horizon + self.horizon // 4
        turns = whole("turns", turns, self.horizon, 10 * MAX_HORIZON)
        self.keys = whole("keys", keys, 1, len(string.ascii_lowercase))
        self.codes = whole("codes", codes, 2, len(string.digits))
        self.facts = choice("facts", facts, ("card", "rooms"))
        self.order = choice("order", order, ("loop", "random"))
        self.penalty = real("penalty", penalty, 0, 1)
        self.rules = flag("rules", rules)
        self.passing = whole("passing", passing, 0, MAX_HORIZON)
        # A letter that came back before its first door would have two codes.
        most = len(string.ascii_uppercase) * (self.passing or MAX_HORIZON) - 1
        self.gap = whole("gap", gap, 1, most)
        self.tries = whole("tries", tries, 0, MAX_HORIZON)
        self.expert_waste = real("expert_waste", expert_waste, 0, 1)
        self.expert_error = real("expert_error", expert_error, 0, 1)
        self.expert_forget = real("expert_forget", expert_forget, 0, 1)
        self._rooms = self.keys if self.facts == "rooms" else 0
        super().__init__(turns=turns + self._rooms, observation_limit=512)

    def _draw(self) -> str:
        codes = self.rng.integers(self.codes, size=self.keys)
        doors = self.rng.integers(self.keys, size=self.horizon)
        if self.order == "loop":
            doors = (doors[0] + np.arange(self.horizon)) % self.keys
        letters = string.ascii_lowercase
        self._codes = {letters[i]: str(code) for i, code in enumerate(codes)}
        self._doors = "".join(letters[i] for i in doors)
        self._passing: dict[int, str] = {}
        self._told: dict[int, str] = {}
        if self.passing:
            self._draw_passing()
        self._counts = dict.fromkeys(("opened", "looks", "wrong", "invalid"), 0)
        self._at, self._tried = 0, 0
        # Counted as they open: a look through all doors at each turn would grow with the horizon.
        self._late = dict.fromkeys(("late", "late_card", "late_passing"), 0)
        self._late_doors = {
            "late": self.horizon - self.horizon // 2,
            "late_passing": sum(door >= self.horizon // 2 for door in self._passing),
        }
        self._late_doors["late_card"] = self._late_doors["late"] - self._late_doors["late_passing"]
        head = _RULES if self.rules else ""
        shown = [letter + code for letter, code in self._codes.items()]
        if self._rooms:
            return head + shown[0]
        return head + " ".join(shown) + "\n" + self._told.get(0, "") + self._line()

    def _draw_passing(self) -> None:
        """Facts told on the way: `_told` by the door whose line they precede, `_passing` by theirs.

        Such a door has the fact's letter instead of one of the card's.
        """
        told = range(0, self.horizon - self.gap, self.passing)
        letters = string.ascii_uppercase
        for number, (door, code) in enumerate(
            zip(told, self.rng.integers(self.codes, size=len(told)), strict=True)
        ):
            letter, behind = letters[number % len(letters)], door + self.gap
            self._told[door] = f"{letter}{code} "
            self._passing[behind] = str(code)
            self._doors = self._doors[:behind] + letter + self._doors[behind + 1 :]

    def _line(self) -> str:
        return self._doors[self._at]

    def _next(self) -> tuple[str, bool]:
        """On to the next door."""
        self._at, self._tried = self._at + 1, 0
        if self._at == self.horizon:
            return "all open" if self._counts["opened"] == self.horizon else "no door left", True
        return self._told.get(self._at, "") + self._line(), False

    def _answer(self, action: str) -> tuple[str, bool]:
        if self._turn < self._rooms:
            letter = string.ascii_lowercase[self._turn]
            return letter + self._codes[letter], False
        if self._turn == self._rooms:
            return self._told.get(0, "") + self._line(), False
        if action == LOOK:
            self._counts["looks"] += 1
            return self._line(), False
        if action == self.code:
            self._counts["opened"] += 1
            if self._at >= self.horizon // 2:
                self._late["late"] += 1
                self._late["late_passing" if self._at in self._passing else "late_card"] += 1
            return self._next()
        legal = len(action) == 1 and action in string.digits[: self.codes]
        self._counts["wrong" if legal else "invalid"] += 1
        self._tried += 1
        if self._tried == self.tries:
            return self._next()
        return f"{'no' if legal else 'bad'} {self._line()}", False

    @property
    def code(self) -> str:
        """The right action now; in a fact room any action is, here `LOOK`."""
        if self._turn < self._rooms or self._at == self.horizon:
            return LOOK
        return self._passing.get(self._at) or self._codes[self._line()]

    def _score(self) -> float:
        return self._counts["opened"] / self.horizon - self.penalty * self._counts["wrong"]

    def _potential(self) -> float:
        # The turns of the fact rooms are on top, so that in them no door is short of a turn.
        left = self.horizon - self._at
        return min(left, self.turns - self._turn) / self.horizon

    def _metrics(self) -> dict[str, float]:
        done = float(self._counts["opened"] == self.horizon)
        found = {"success": done, **{name: float(n) for name, n in self._counts.items()}}
        shown = ("late", "late_card", "late_passing") if self._passing else ("late",)
        for name in shown:
            if self._late_doors[name]:
                found[name] = self._late[name] / self._late_doors[name]
        return found

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: self.code

    def _expert(self, rng: np.random.Generator) -> Act:
        doubted = -1  # the last door for which it was decided whether to look

        def act(observation: str) -> str:
            nonlocal doubted
            if self._turn < self._rooms:
                return LOOK
            door = self._at
            doubts = door != doubted and rng.random() < self.expert_waste
            doubted = door
            if doubts:
                return LOOK
            if rng.random() >= self.expert_error:
                return self.code
            return str((int(self.code) + int(rng.integers(1, self.codes))) % self.codes)

        return act

    def _scribe(self, rng: np.random.Generator) -> Act:
        expert = self._expert(rng)
        seen, known = 0, ""

        def act(observation: str) -> str:
            nonlocal seen, known
            if observation.endswith(self._last):
                return expert(observation)
            # What waits for the summary to be written is not in the context yet.
            shown = min(self._turn, self._rooms) if self._rooms else self.keys
            facts = [known[i : i + 2] for i in range(0, len(known), 2)]
            facts += [k + self._codes[k] for k in string.ascii_lowercase[seen:shown]]
            known = "".join(fact for fact in facts if rng.random() >= self.expert_forget)
            seen = shown
            return known

        return act

    def _random(self, rng: np.random.Generator) -> Act:
        legal = [LOOK, *string.digits[: self.codes]]
        return lambda observation: legal[rng.integers(len(legal))]

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
        "scribe": _scribe,
    }
    windowed: ClassVar[tuple[str, ...]] = ("scribe",)
