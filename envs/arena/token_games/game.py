"""`rlagents/TokenGames-v0`: a duel of puzzles, in a grammar or in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from rlagents.envs.arena.game import Game
from rlagents.envs.arena.seat import SeatEnv, seated
from rlagents.envs.arena.token_games.duel import POINTS, Duel
from rlagents.envs.arena.token_games.grammar import DRAWS
from rlagents.envs.arena.token_games.players import SCRIPTED, Factory
from rlagents.envs.arena.token_games.programs import VALUE, ProgramReferee
from rlagents.envs.arena.token_games.statements import GrammarReferee
from rlagents.envs.lab.base import choice, flag, real, whole
from rlagents.envs.sandbox import SandboxConfig

_RULES = """A duel of puzzles. In turns one of you proposes a puzzle with a solution of it that is \
kept secret, and the other solves it. A puzzle that is not solved wins the proposer a point from \
the solver; a puzzle that is no legal one, was used before in this duel, or whose secret solution \
is wrong loses the proposer a point to the solver; a puzzle that is solved is a draw.
"""
MOST_PROBLEM = 60
"""Characters that the other seat is shown of why a proposal was refused."""
_FORMS = {
    "grammar": """Propose as STATEMENT;SOLUTION in one of these forms, and solve with the \
solution alone:
3x+4=2%7;4 (3x + 4 = 2 modulo 7, numbers of up to 4 digits)
w3^a$cb-d;acb (a word of 1 to 6 letters of abcd; ^starts $ends +contains -lacks)
12=3,5,7,9;3,9 (which of up to 12 numbers have the sum 12)
""",
    "python": f"""Propose a short Python program with a function mystery(x) that is exactly True \
for x and depends on nothing but x; x is a value of JSON of at most {VALUE} characters. The last \
line is the secret:
def mystery(x):
    return x * x == 1369
witness: 37
Solve with a value of JSON alone, such as 37 or "abc" or [1, 2].
""",
}


class DuelGame(Game):
    """Two players who propose and solve in turns; see `TokenGames`."""

    scripted: ClassVar[Mapping[str, Factory]] = SCRIPTED

    def __init__(
        self,
        mode: Literal["grammar", "python"] = "grammar",
        rounds: int = 10,
        round_is: Literal["proposal", "both"] = "proposal",
        families: Sequence[str] = tuple(DRAWS),
        history: int = 10,
        rules: bool = False,
        expert_error: float = 0.1,
        sandbox: SandboxConfig | Mapping[str, Any] | None = None,
    ) -> None:
        """Make the game: see `TokenGames`."""
        self.mode = choice("mode", mode, ("grammar", "python"))
        self.rounds = whole("rounds", rounds, 1, 1000)
        self.round_is = choice("round_is", round_is, ("proposal", "both"))
        self.proposals = self.rounds * (2 if self.round_is == "both" else 1)
        if isinstance(families, str) or not families:
            raise ValueError(f"families: expected a list of {', '.join(DRAWS)}, got {families!r}")
        self.families = tuple(choice("families", name, tuple(DRAWS)) for name in families)
        self.history = whole("history", history, 0, 1000)
        self.rules = flag("rules", rules)
        self.expert_error = real("expert_error", expert_error, 0, 1)
        if self.mode == "python":
            self.referee = ProgramReferee(sandbox)
        elif sandbox is not None:
            raise ValueError(f"sandbox: only read with mode 'python', got {sandbox!r}")
        else:
            self.referee = GrammarReferee()
        longest = self.referee.longest + 100
        super().__init__(seats=2, observation_limit=2000 + longest * (self.history + 1))

    def _draw(self) -> None:
        first = int(self.rng.integers(2))
        self.duel = Duel(self.referee, proposals=self.proposals, first=first)
        self.agent_selection = self.possible_agents[first]
        self._acted = [False, False]

    def _answer(self, agent: str, action: str) -> str | None:
        self._acted[self.seat(agent)] = True
        record = self.duel.act(action)
        if record is not None:
            # The share of a point makes the return of a duel lie from -1 to 1.
            worth = POINTS[record.outcome] / self.proposals
            self.rewards[self.possible_agents[record.proposer]] += worth
            self.rewards[self.possible_agents[1 - record.proposer]] -= worth
        return None if self.duel.over else self.possible_agents[self.duel.seat]

    def observe(self, agent: str) -> str:
        """What was decided last, own puzzles (when proposing), and the task as the last line."""
        duel, seat, lines = self.duel, self.seat(agent), []
        if self.rules and not self._acted[seat]:
            lines += [_RULES + _FORMS[self.mode].rstrip()]
        if duel.records:
            last = duel.records[-1]
            # Some of it are the other's words: enough to learn from, too little to instruct with.
            problem = f": {last.problem[:MOST_PROBLEM]}" if last.problem else ""
            lines += [f"last {last.outcome}{problem}"]
        if duel.over:
            return "\n".join([*lines, f"over {duel.points(seat):+d}"])
        number = f"{len(duel.records) + 1}/{self.proposals}"
        if seat != duel.seat:
            return "\n".join([*lines, f"{number} wait"])
        if duel.pending is not None:
            gap = "\n" if self.mode == "python" else " "
            return "\n".join([*lines, f"{number} solve{gap}{duel.pending[1].statement}"])
        own = [r for r in duel.records if r.proposer == seat and r.statement]
        past = own[len(own) - min(self.history, len(own)) :]
        return "\n".join(
            [*lines, *(f"{r.statement} # {r.outcome}" for r in past), f"{number} propose"]
        )

    def _metrics(self, agent: str) -> dict[str, float]:
        return self.duel.metrics(self.seat(agent))


class TokenGames(SeatEnv):
    """A duel of puzzles: propose what the other can't solve and you can, and solve the other's.

    After "The Token Games" (arXiv 2602.17831). In each round one seat says a puzzle and its secret
    witness, the other an answer, and what holds is found by running it; `round_is="both"` makes a
    round of one proposal by each (the paper leaves open which). A valid puzzle that is not solved
    pays its proposer, one whose witness is wrong, that is no legal puzzle or was used before in
    the duel pays the other, and one that is solved pays nobody. A point is 1 / proposals, so that
    a duel's return is from -1 to 1; the sum over both seats is 0. Who begins is drawn.

    `mode="grammar"` has puzzles of short lines (`grammar.py`), `3x+4=2%7;4`. `mode="python"` has
    programs (`programs.py`), each checked in a fresh sandbox. What a player sees ends with its
    task, `3/10 propose` or `3/10 solve 3x+4=2%7`; a proposer is shown its last `history` puzzles
    and what became of them.

    Metrics: `propose_rate` (of one's proposals: valid and unsolved), `penalty_rate` (invalid, or
    with a wrong witness), `solve_rate` (of the other's valid puzzles), `draw_rate`.

    Players: `solver4` to `solver1024` look at that many candidates in order and propose what is
    just within their reach, so that their order of strength is theirs by construction. `oracle`
    looks at all; `expert` is a `solver16` that guesses with probability `expert_error`; `random`
    guesses answers and witnesses.

    There is no reward for puzzles of middling difficulty, 4p(1 - p) with p the share of solvers
    who succeed: p is a property of a group of solvers, and in a duel there is one.
    """

    scripted = seated(SCRIPTED)

    def __init__(
        self,
        mode: Literal["grammar", "python"] = "grammar",
        rounds: int = 10,
        round_is: Literal["proposal", "both"] = "proposal",
        families: Sequence[str] = tuple(DRAWS),
        history: int = 10,
        rules: bool = False,
        expert_error: float = 0.1,
        sandbox: SandboxConfig | Mapping[str, Any] | None = None,
        seat: int = 0,
        opponent: str = "solver16",
    ) -> None:
        """Make the environment.

        Args:
            mode: puzzles of a grammar, or programs.
            rounds: how many.
            round_is: whether a round is one proposal, or one by each seat.
            families: which grammars scripted players propose from.
            history: own puzzles that a proposer is shown.
            rules: explain the game on the first observation.
            expert_error: probability that the expert guesses.
            sandbox: of `mode="python"`: tier and limits, by the names of `SandboxConfig`.
            seat: the policy's, 0 or 1.
            opponent: scripted player of the other seat, where it has no other player.

        Raises:
            ValueError: naming the argument that is out of its range.
            ConfigError: a wrong setting of the sandbox, or isolation that can't be had here.
            SandboxBroken: the self-probe found the sandbox open.
        """
        game = DuelGame(
            mode=mode,
            rounds=rounds,
            round_is=round_is,
            families=families,
            history=history,
            rules=rules,
            expert_error=expert_error,
            sandbox=sandbox,
        )
        super().__init__(game, seat=seat, opponent=opponent)
