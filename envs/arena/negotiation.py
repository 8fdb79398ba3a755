"""`rlagents/Negotiation-v0`: two players share items that each values in secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from typing import Any, ClassVar

import numpy as np

from rlagents.envs.arena.game import Act, Game
from rlagents.envs.arena.seat import SeatEnv, seated
from rlagents.envs.lab.base import flag, whole
from rlagents.visible import escape

TOTAL = 10
"""What all items together are worth to each player."""
KINDS = 3
MOST = 5
"""Of one kind."""
CHAT_LIMIT = 200
_RULES = (
    "Share items of three kinds with another player, who values them differently. `items` says "
    "how many there are of each kind, `worth` what one of each is worth to you: together 10. In "
    "turn say `propose 1 0 2` (what you would get of each kind; the other gets the rest), `accept` "
    "(the other's last offer), or `say ...` to talk. Without a deal both get nothing.\n"
)
_PROPOSAL = re.compile(r"propose ([0-9]) ([0-9]) ([0-9])")

Amounts = tuple[int, ...]
"""[KINDS] a number for each kind of item."""


@cache
def valuations(items: Amounts) -> list[Amounts]:
    """Every way to value the items so that all together are worth `TOTAL`."""
    worths = product(*(range(TOTAL // count + 1) for count in items))
    return [worth for worth in worths if value(items, worth) == TOTAL]


def value(amounts: Amounts, worth: Amounts) -> int:
    """What some items are worth."""
    return sum(n * each for n, each in zip(amounts, worth, strict=True))


def splits(items: Amounts) -> list[Amounts]:
    """Every share of the items that one player can get."""
    return list(product(*(range(count + 1) for count in items)))


def rest(items: Amounts, share: Amounts) -> Amounts:
    """What a share leaves."""
    return tuple(count - n for count, n in zip(items, share, strict=True))


class NegotiationGame(Game):
    """Two players divide items with hidden valuations by offers and talk."""

    def __init__(self, messages: int = 10, rules: bool = False) -> None:
        """Make the game: see `Negotiation`."""
        self.messages = whole("messages", messages, 2, 1000)
        self.rules = flag("rules", rules)
        super().__init__(seats=2, observation_limit=len(_RULES) + 100 + CHAT_LIMIT)

    def _draw(self) -> None:
        worths: list[Amounts] = []
        while not worths or not _comparable(*worths):
            self.items = tuple(int(n) for n in self.rng.integers(1, MOST + 1, size=KINDS))
            known = valuations(self.items)
            picks = self.rng.integers(len(known), size=2) if known else ()
            worths = [known[pick] for pick in picks]
        self.worths = dict(zip(self.agents, worths, strict=True))
        self.left = self.messages
        self.offer: tuple[str, Amounts] | None = None
        self.deal: dict[str, Amounts] = {}
        self._event = ""
        self._counts = {a: dict.fromkeys(("said", "offers", "illegal"), 0) for a in self.agents}

    def other(self, agent: str) -> str:
        """The other player."""
        return self.possible_agents[1 - self.seat(agent)]

    def offered(self, agent: str) -> Amounts | None:
        """What the other's standing offer gives the agent; None where there is none."""
        if self.offer is None or self.offer[0] == agent:
            return None
        return rest(self.items, self.offer[1])

    def _answer(self, agent: str, action: str) -> str | None:
        self.left -= 1
        found = _PROPOSAL.fullmatch(action)
        share = tuple(map(int, found.groups())) if found else ()
        verb, _, said = action.partition(" ")
        offered = self.offered(agent)
        if action == "accept" and offered is not None:
            self.deal = {agent: offered, self.other(agent): rest(self.items, offered)}
            for each, amounts in self.deal.items():
                self.rewards[each] += value(amounts, self.worths[each]) / TOTAL
            return None
        if share and min(rest(self.items, share)) >= 0:
            self.offer = (agent, share)
            self._counts[agent]["offers"] += 1
            self._event = ""
        elif verb == "say":
            self._counts[agent]["said"] += 1
            self._event = f"they say {printable(said)}\n"
        else:
            self._counts[agent]["illegal"] += 1
            self._event = "they pass\n"
        return self.other(agent) if self.left else None

    @property
    def _over(self) -> bool:
        return bool(self.deal) or not self.left

    def observe(self, agent: str) -> str:
        if self.deal:
            return f"deal, you get {_show(self.deal[agent])}"
        if self._over:
            return "no deal"
        head = _RULES if self.rules and self.left > self.messages - 2 else ""
        head += f"items {_show(self.items)}\nworth {_show(self.worths[agent])}\nleft {self.left}\n"
        mine = agent == self.agent_selection  # what was said last, the other said
        offered = self.offered(agent)
        offer = f"you get {_show(offered)}" if offered is not None else "no offer"
        return head + (self._event if mine else "") + offer

    def share(self, agent: str) -> float:
        """What the agent's part of the deal is worth to it, of 1; 0 without a deal."""
        return value(self.deal[agent], self.worths[agent]) / TOTAL if self.deal else 0.0

    def _metrics(self, agent: str) -> dict[str, float]:
        # All that depends on the other's valuation is told after the end only.
        mine, theirs = self.share(agent), self.share(self.other(agent))
        highest = tuple(map(max, zip(*self.worths.values(), strict=True)))
        return {
            "agreed": float(bool(self.deal)),
            "share": mine,
            "efficiency": (mine + theirs) * TOTAL / value(self.items, highest),
            "win": float(mine > theirs),
            "loss": float(mine < theirs),
            "draw": float(self._over and mine == theirs),
            **{name: float(n) for name, n in self._counts[agent].items()},
        }

    def target(self, agent: str) -> Amounts:
        """The best share for the agent of those that leave the other half of the total or more."""
        mine, theirs = self.worths[agent], self.worths[self.other(agent)]
        left = {share: value(rest(self.items, share), theirs) for share in splits(self.items)}
        fine = [share for share, worth in left.items() if 2 * worth >= TOTAL]
        return max(fine, key=lambda share: (value(share, mine), left[share]))

    def _last_word(self, agent: str) -> bool:
        """Whether the agent, whose turn it is, has no further one."""
        return self.left <= 2

    def _random(self, agent: str, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            if self.offered(agent) is not None and rng.random() < 0.5:
                return "accept"
            every = splits(self.items)
            return _propose(every[rng.integers(len(every))])

        return act

    def _greedy(self, agent: str, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            worth = self.worths[agent]
            wanted = TOTAL if not self._last_word(agent) else 1
            if self._worth_of_offer(agent) >= wanted:
                return "accept"
            return _propose(
                tuple(n if each else 0 for n, each in zip(self.items, worth, strict=True))
            )

        return act

    def _fair(self, agent: str, rng: np.random.Generator) -> Act:
        proposed = 0

        def act(observation: str) -> str:
            nonlocal proposed
            if 2 * self._worth_of_offer(agent) >= TOTAL:
                return "accept"
            worth = self.worths[agent]
            fine = [share for share in splits(self.items) if 2 * value(share, worth) >= TOTAL]
            fine.sort(key=lambda share: (value(share, worth), sum(share), share))
            proposed += 1
            return _propose(fine[(proposed - 1) % len(fine)])

        return act

    def _oracle(self, agent: str, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            target = self.target(agent)
            wanted = value(target, self.worths[agent]) if not self._last_word(agent) else 1
            return "accept" if self._worth_of_offer(agent) >= wanted else _propose(target)

        return act

    def _worth_of_offer(self, agent: str) -> int:
        """0 where there is no offer, as where it is worth nothing."""
        offered = self.offered(agent)
        return value(offered, self.worths[agent]) if offered is not None else 0

    scripted: ClassVar[Mapping[str, Callable[[Any, str, np.random.Generator], Act]]] = {
        "random": _random,
        "greedy": _greedy,
        "fair": _fair,
        "oracle": _oracle,
    }


class Negotiation(SeatEnv):
    """Divide items with another player by offers and talk; neither knows the other's valuation.

    There are 1 to 5 items of each of three kinds, and each player values the kinds in private, so
    that all items together are worth 10 to each; each kind is worth something to someone, one at
    least to both. (The task is that of "Deal or No Deal?", arXiv 1706.05125, drawn anew.)

    Players speak in turn, seat 0 first, `messages` in all. `propose 1 0 2` offers a deal in which
    the speaker gets 1, 0 and 2 of the kinds and the other the rest; it replaces every earlier
    offer. `accept` takes the other's standing offer and ends the game. `say ...` passes text on, on
    one line, control characters made visible, cut after 200 characters. Anything else, an offer of
    items that are not there and an acceptance of nothing included, is a message without content:
    the other sees `they pass`.

    An observation is what there is, what it is worth to this seat, the messages left with this one,
    what the other said, and what this seat gets by the other's standing offer:

        items 1 4 2
        worth 6 1 0
        left 9
        they say I like the first
        you get 0 4 1

    The last one is `deal, you get 0 4 1` or `no deal`.

    Score: what this seat's part of the deal is worth to it, divided by 10; 0 without a deal.

    `info["metrics"]`: `agreed`; `share`, the score; `efficiency`, what the deal is worth to both
    divided by the most that any is; `win`, `loss` and `draw` by share; and of this seat how often
    it `said` something, made `offers`, or was `illegal`. What depends on the other's valuation is 0
    until the game is over.

    Scripted: `fair` accepts what is worth half of the total to it, and offers the shares worth that
    much, cheapest first; `greedy` wants all that is worth anything to it, and takes any gain with
    its last message; `random` accepts an offer at even odds and makes uniform ones; `oracle` knows
    both valuations and asks for the best that leaves the other half of the total, which is the most
    that any player can get from `fair`, but not from others. Their known scores are those against
    `fair` from seat 0: of `oracle`, `fair` and `greedy` exact over all draws, of `random` measured.
    """

    scripted = seated(NegotiationGame.scripted)
    known_scores: ClassVar[Mapping[str, float]] = {
        "random": 0.445,
        "greedy": 0.6136,
        "fair": 0.5771,
        "oracle": 0.8145,
    }

    def __init__(
        self, messages: int = 10, rules: bool = False, seat: int = 0, opponent: str = "fair"
    ) -> None:
        """Make the environment.

        Args:
            messages: of both players together; after the last there is no deal.
            rules: put an explanation in front, for policies that were not trained on the game.
            seat: this environment's own; seat 0 speaks first.
            opponent: scripted player of the other seat, where no player was given.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        super().__init__(
            NegotiationGame(messages=messages, rules=rules), seat=seat, opponent=opponent
        )


def printable(text: str) -> str:
    """What a stranger wrote, on one line, without control characters, of bounded length."""
    # Cut before escaping too: what is thrown away need not be escaped first.
    return escape(" ".join(text[: 2 * CHAT_LIMIT].split()))[:CHAT_LIMIT]


def _comparable(first: Amounts, second: Amounts) -> bool:
    """Whether each kind is worth something to someone, and one kind at least to both."""
    pairs = list(zip(first, second, strict=True))
    return all(a or b for a, b in pairs) and any(a and b for a, b in pairs)


def _show(amounts: Amounts) -> str:
    return " ".join(map(str, amounts))


def _propose(share: Amounts) -> str:
    return f"propose {_show(share)}"
