"""Puzzles of the grammars in a duel: `3x+4=2%7;4` proposes a statement and its witness."""

from __future__ import annotations

from rlagents.envs.arena.token_games.duel import Illegal, Outcome, Proposal
from rlagents.envs.arena.token_games.grammar import LONGEST, parse


class GrammarReferee:
    """Whole numbers and short words; nothing is evaluated."""

    longest = LONGEST
    """Characters of a statement."""

    def read(self, text: str) -> Proposal:
        """`STATEMENT;WITNESS`, with spaces anywhere.

        Raises:
            Illegal: it is of another form, or no family has such a statement.
        """
        if len(text) > 4 * LONGEST:
            raise Illegal("too long")
        statement, semicolon, witness = "".join(text.split()).partition(";")
        if not semicolon:
            raise Illegal("expected STATEMENT;WITNESS")
        puzzle = parse(statement)
        if puzzle is None:
            raise Illegal("no such statement")
        return Proposal(statement=statement, key=puzzle.key, witness=witness)

    def holds(self, proposal: Proposal) -> bool:
        """Whether the witness solves the puzzle."""
        puzzle = parse(proposal.statement)
        return puzzle is not None and puzzle.holds(proposal.witness)

    def judge(self, proposal: Proposal, answer: str) -> Outcome:
        """`solved` by any answer that holds, the witness or not."""
        puzzle = parse(proposal.statement)
        solved = puzzle is not None and puzzle.holds("".join(answer[:LONGEST].split()))
        return "solved" if solved else "unsolved"
