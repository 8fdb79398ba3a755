"""The rules of a duel: who proposes, who solves, what it is worth. Pure, but for the referee.

    proposer                    solver                 proposer   solver
    no legal puzzle       ->    is not asked              -1        +1     invalid
    its witness fails     ->    is not asked              -1        +1     penalty
    its witness holds     ->    answers wrong             +1        -1     unsolved
                          ->    answers right              0         0     solved (a draw)

After "The Token Games", arXiv 2602.17831. Ours: a proposal that is no legal puzzle, or one that
was used before in this duel, counts as a wrong witness does; the solver is not asked then, since
what it says would decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["invalid", "penalty", "unsolved", "solved"]
POINTS: dict[Outcome, int] = {"invalid": -1, "penalty": -1, "unsolved": 1, "solved": 0}
"""The proposer's; the solver has the opposite."""


class Illegal(ValueError):
    """A proposal that is no puzzle, with the reason in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A puzzle and what its proposer says solves it."""

    statement: str
    key: str
    """Equal for statements that differ only in their wording."""
    witness: str


class Referee(Protocol):
    """Knows what a puzzle is and what solves it. Texts are of the players: anything at all."""

    def read(self, text: str) -> Proposal:
        """The proposal that a text makes.

        Raises:
            Illegal: it makes none.
        """
        ...

    def holds(self, proposal: Proposal) -> bool:
        """Whether the witness solves the puzzle."""
        ...

    def judge(self, proposal: Proposal, answer: str) -> Outcome:
        """What the solver's answer makes of a puzzle whose witness held."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one proposal."""

    proposer: int
    text: str
    """What the proposer said."""
    statement: str
    """Empty where it made no proposal."""
    answer: str | None
    """What the solver said; None where it was not asked."""
    outcome: Outcome
    problem: str = ""
    """Why it is invalid."""


class Duel:
    """Two seats, 0 and 1, who propose in turns."""

    def __init__(self, referee: Referee, *, proposals: int, first: int) -> None:
        """Begin.

        Args:
            referee: says what holds.
            proposals: of both seats together.
            first: the seat that proposes first.
        """
        self.referee = referee
        self.proposals = proposals
        self.first = first
        self.records: list[Record] = []
        self.pending: tuple[str, Proposal] | None = None
        """What the proposer said and meant, while the solver thinks."""
        self._used: set[str] = set()

    @property
    def over(self) -> bool:
        """Whether all proposals are decided."""
        return len(self.records) == self.proposals

    @property
    def proposer(self) -> int:
        """The seat whose proposal is made or solved now."""
        return (self.first + len(self.records)) % 2

    @property
    def seat(self) -> int:
        """The seat whose turn it is."""
        return self.proposer if self.pending is None else 1 - self.proposer

    def act(self, text: str) -> Record | None:
        """What the seat whose turn it is says; the record, when that decides the proposal.

        Raises:
            ValueError: the duel is over.
        """
        if self.over:
            raise ValueError(f"the duel is over: {self.proposals} proposals are decided")
        if self.pending is not None:
            said, proposal = self.pending
            return self._decide(said, proposal, self.referee.judge(proposal, text), text)
        try:
            proposal = self.referee.read(text)
        except Illegal as refused:
            return self._decide(text, None, "invalid", problem=str(refused))
        if proposal.key in self._used:
            return self._decide(text, proposal, "invalid", problem="used before in this duel")
        self._used.add(proposal.key)
        if not self.referee.holds(proposal):
            return self._decide(text, proposal, "penalty")
        self.pending = text, proposal
        return None

    def _decide(
        self,
        text: str,
        proposal: Proposal | None,
        outcome: Outcome,
        answer: str | None = None,
        problem: str = "",
    ) -> Record:
        record = Record(
            proposer=self.proposer,
            text=text,
            statement=proposal.statement if proposal else "",
            answer=answer,
            outcome=outcome,
            problem=problem,
        )
        self.pending = None
        self.records.append(record)
        return record

    def points(self, seat: int) -> int:
        """What a seat has so far: at most one for each proposal."""
        own = (POINTS[r.outcome] * (1 if r.proposer == seat else -1) for r in self.records)
        return sum(own)

    def metrics(self, seat: int) -> dict[str, float]:
        """Shares of this seat's proposals and of the puzzles that it was given.

        `propose_rate` valid and unsolved, `penalty_rate` invalid or with a wrong witness (of its
        own proposals); `solve_rate` of valid puzzles of the other; `draw_rate` of all proposals.
        A share of nothing is left out.
        """

        def share(of: list[Record], test: Callable[[Record], bool]) -> float | None:
            return sum(map(test, of)) / len(of) if of else None

        own = [r for r in self.records if r.proposer == seat]
        given = [r for r in self.records if r.proposer != seat and r.answer is not None]
        shares = {
            "propose_rate": share(own, lambda r: r.outcome == "unsolved"),
            "penalty_rate": share(own, lambda r: POINTS[r.outcome] < 0),
            "solve_rate": share(given, lambda r: r.outcome == "solved"),
            "draw_rate": share(self.records, lambda r: r.outcome == "solved"),
        }
        return {name: value for name, value in shares.items() if value is not None}
