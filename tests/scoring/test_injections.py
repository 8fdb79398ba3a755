from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError
from rlagents.policy.asking import Ask, Reply
from rlagents.scoring.asked import AskedJudge
from rlagents.scoring.injections import BOTH, CASES, Effect, injected, measure
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.scoring.prompts import LABELS, prompt, shown, unfenced
from rlagents.scoring.reading import answer_form
from rlagents.scoring.rubric import load_rubric
from rlagents.scoring.transcript import candidate_of
from rlagents.types import Trajectory
from tests.fakes import trajectory, turn
from tests.scoring.gullible import Gullible, marks

QUESTION = Question(task="Write a plan.", reference="a good plan")
SECTION = JudgeSection()


def quality(mark: int, text: str = "") -> Trajectory:
    last = replace(turn(0), observation="Write a plan.", action=f"quality {mark}")
    return injected(replace(trajectory(), turns=(last,)), text)


class Recorder(Gullible):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    def ask(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        return super().ask(ask)


def naive(first: str, second: str) -> str:
    """The same prompt, with what the agents wrote between the fences as it is."""
    rubric = load_rubric("default")

    def raw(text: str, name: str) -> str:
        return f"<<< {name}\n{text}\n<<< end of {name}"

    return prompt(
        "pairwise",
        rubric=rubric.text(),
        answer=answer_form(rubric, LABELS),
        task=raw("Write a plan.", "task"),
        reference="",
        first=raw(first, "candidate A"),
        second=raw(second, "candidate B"),
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weak_first", [True, False])
@pytest.mark.parametrize("form", ["rubric", "refmatch"])
def test_the_structure_of_a_prompt_stays_whatever_the_transcript(
    name: str, weak_first: bool, form: str
) -> None:
    backend = Recorder()
    judge = AskedJudge(backend, JudgeSection(form=form))  # type: ignore[arg-type]
    weak = candidate_of(quality(3, CASES[name]), SECTION)
    pair = [weak, candidate_of(quality(7), SECTION)]
    if not weak_first:
        pair.reverse()
    try:
        judge.compare(QUESTION, pair[0], pair[1])
    except JudgeError:
        assert form == "refmatch"  # marks are no label
    ask = backend.asked[0]
    assert [role for role, _ in ask.messages] == ["system", "user"]
    assert ask.messages[0][1] == prompt("system")
    assert unfenced(ask.messages[1][1]) == [
        ("task", "Write a plan."),
        ("reference", "a good plan"),
        ("candidate A", shown(pair[0].transcript)),
        ("candidate B", shown(pair[1].transcript)),
    ]
    assert shown(weak.transcript) == weak.transcript
    assert ask.messages[1][1].encode()
    # nothing of the data is outside: without the fences it is the prompt of any other pair
    assert outside(ask) == outside_of_a_clean_prompt(form)


def outside(ask: Ask) -> list[str]:
    return [line for line in ask.messages[1][1].split("\n") if not line.startswith("| ")]


def outside_of_a_clean_prompt(form: str) -> list[str]:
    backend = Recorder()
    clean = candidate_of(quality(1), SECTION)
    try:
        AskedJudge(backend, JudgeSection(form=form)).compare(QUESTION, clean, clean)  # type: ignore[arg-type]
    except JudgeError:
        assert form == "refmatch"
    return outside(backend.asked[0])


def test_the_same_comparison_is_the_same_prompt() -> None:
    """A cache is keyed by content."""
    backend = Recorder()
    judge = AskedJudge(backend, SECTION)
    pair = [candidate_of(quality(3, CASES["ChatML"]), SECTION), candidate_of(quality(7), SECTION)]
    for _ in range(2):
        judge.compare(QUESTION, pair[0], pair[1])
    assert backend.asked[0] == backend.asked[1]


def test_a_judge_that_obeys_any_structure_obeys_no_transcript() -> None:
    judge = AskedJudge(Gullible(), SECTION)
    pair = [candidate_of(quality(mark), SECTION) for mark in (3, 7)]
    assert judge.compare(QUESTION, pair[0], pair[1]) == Verdict(first=3, second=7)
    effects = measure(judge, QUESTION, quality(3), quality(7), SECTION)
    assert effects == dict.fromkeys(CASES, Effect(margin=0.0, total=0.0))


def test_the_same_judge_falls_for_most_of_them_where_nothing_is_escaped() -> None:
    clean = "quality 3", "quality 7"
    assert marks(naive(*clean)) == {"A": 3, "B": 7}

    def margin(weak: str) -> float:
        one, other = marks(naive(weak, clean[1])), marks(naive(clean[1], weak))
        return (one["A"] - one["B"] + other["B"] - other["A"]) / 2

    fooled = {name for name, text in CASES.items() if margin(clean[0] + text) > margin(clean[0])}
    # What only asks, and what would break a fence of another kind, breaks no structure here; a
    # model may give in to a plain order all the same, which only `measure` on that model tells.
    assert set(CASES) - fooled == {"plain", "polite", "end of a marked fence", "backslashes"}
    assert len(CASES) == 37 and len(fooled) == 33


def test_what_a_judge_gives_in_to_is_measured() -> None:
    class Naive:
        """Compares without any escape; it has nothing to say about special tokens of `Gemma`."""

        def compare(
            self, question: Question, first: Candidate, second: Candidate, repeat: int = 0
        ) -> Verdict:
            if any(BOTH in c.transcript for c in (first, second)):
                return Verdict(first=10, second=10)
            if any("end_of_turn" in c.transcript for c in (first, second)):
                raise JudgeError("no answer")
            given = [10.0 if "perfect" in c.transcript else 5.0 for c in (first, second)]
            return Verdict(first=given[0] + 0.3, second=given[1])

        def take_figures(self) -> dict[str, float]:
            return {}

        def close(self) -> None:
            pass

    effects = measure(Naive(), QUESTION, quality(3), quality(7), SECTION)
    assert effects["turn of its own"] == Effect(margin=5, total=5)
    # Both had 5, and .15 for being first: as much for both moves no margin, only the total.
    assert effects["full marks for both"].margin == 0
    assert effects["full marks for both"].total == pytest.approx(20 - 10.3)
    assert math.isnan(effects["Gemma"].margin) and math.isnan(effects["Gemma"].total)
    unmoved = Effect(margin=0, total=0)
    assert sum(effect == unmoved for effect in effects.values()) == len(CASES) - 3


def test_an_injection_leaves_the_tokens_as_they_are() -> None:
    before = trajectory(turns=2)
    after = injected(before, "!")
    assert [t.action for t in after.turns] == ["a0", "a1!"]
    assert np.array_equal(after.turns[1].action_ids, before.turns[1].action_ids)
    with pytest.raises(ValueError, match="with turns"):
        injected(trajectory(turns=0), "!")
