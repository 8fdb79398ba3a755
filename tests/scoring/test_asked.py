from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from rlagents.config import JudgeSection
from rlagents.errors import ConfigError, JudgeError
from rlagents.policy.asking import Ask, Reply
from rlagents.scoring.asked import LABEL_TOKENS, AskedJudge
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.scoring.reading import UnclearAnswer
from rlagents.scoring.rubric import load_rubric
from rlagents.types import EpisodeKey

QUESTION = Question(task="Find the key.", reference="It is under the mat.")


def candidate(member: int, transcript: str) -> Candidate:
    key = EpisodeKey(stream="train", iteration=0, group=0, member=member)
    return Candidate(key=key, transcript=transcript, answer=transcript)


ONE, OTHER = candidate(0, "looked under the mat"), candidate(1, "looked at the sky")


def answer(*marks: float, rubric: str = "default") -> str:
    groups = load_rubric(rubric).groups
    return json.dumps(
        {
            label: {name: dict.fromkeys(g.dimensions, mark) for name, g in groups.items()}
            for label, mark in zip("AB", marks, strict=False)
        }
    )


class Scripted:
    """Answers in turn; raises what is an error."""

    identity = "scripted"

    def __init__(self, *replies: str | Reply | Exception) -> None:
        self._replies = list(replies)
        self.asked: list[Ask] = []
        self.closed = 0
        self._lock = threading.Lock()

    def ask(self, ask: Ask) -> Reply:
        with self._lock:
            self.asked.append(ask)
            reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Exception):
            raise reply
        return Reply(text=reply) if isinstance(reply, str) else reply

    def close(self) -> None:
        self.closed += 1


def judge(backend: Scripted, **settings: Any) -> AskedJudge:
    return AskedJudge(backend, JudgeSection(**settings))


def test_marks_of_a_comparison() -> None:
    backend = Scripted(answer(4, 6.5))
    verdict = judge(backend, max_tokens=99, temperature=0.5).compare(QUESTION, ONE, OTHER)
    assert verdict == Verdict(first=4, second=6.5)
    (ask,) = backend.asked
    assert (ask.max_tokens, ask.temperature, ask.seed, ask.labels) == (99, 0.5, 0, ())
    text = ask.messages[1][1]
    parts = [
        "  process.direction: Do the steps serve the task",
        "<<< task\n| Find the key.\n<<< end of task",
        "<<< reference\n| It is under the mat.\n<<< end of reference",
        "agent A did:\n<<< candidate A\n| looked under the mat\n<<< end of candidate A",
        "agent B did:\n<<< candidate B\n| looked at the sky\n<<< end of candidate B",
        '{"reason": "...", "A": {"process": {"direction": _, ',
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_overall_marks_are_the_rubrics() -> None:
    groups = {"process": [1, 2, 6], "answer": [4, 6, 8]}
    names = {name: list(g.dimensions) for name, g in load_rubric("default").groups.items()}
    marks = {name: dict(zip(names[name], groups[name], strict=True)) for name in groups}
    text = json.dumps({"A": marks, "B": marks})
    # 0.4 * (1 + 2 + 6) / 3 + 0.6 * (4 + 6 + 8) / 3 = 1.2 + 3.6
    assert judge(Scripted(text)).compare(QUESTION, ONE, OTHER).first == pytest.approx(4.8)


def test_without_a_reference_none_is_mentioned() -> None:
    backend = Scripted(answer(4, 6))
    judge(backend).compare(Question(task="t"), ONE, OTHER)
    assert "reference" not in backend.asked[0].messages[1][1]


def test_a_mark_of_one_candidate_and_seeds_of_repeats() -> None:
    backend = Scripted(answer(7, rubric="travel"), "what?", answer(8, rubric="travel"))
    rater = judge(backend, rubric="travel")
    assert [rater.rate(QUESTION, ONE, repeat) for repeat in (0, 3)] == pytest.approx([7, 8])
    assert [ask.seed for ask in backend.asked] == [0, 6, 7]
    assert "candidate B" not in backend.asked[0].messages[1][1]


def test_an_unclear_answer_is_asked_for_once_more() -> None:
    backend = Scripted("Both are fine.", answer(3, 4))
    asked = judge(backend)
    assert asked.compare(QUESTION, ONE, OTHER) == Verdict(first=3, second=4)
    assert [ask.seed for ask in backend.asked] == [0, 1]
    figures = asked.take_figures()
    assert figures["judge/calls"] == 2 and figures["judge/parse_fail_frac"] == 0.5
    assert figures["judge/fail_frac"] == 0


def test_two_unclear_answers_are_no_verdict() -> None:
    backend = Scripted(answer(11, 4), answer(3))
    asked = judge(backend)
    with pytest.raises(UnclearAnswer, match=r"expected a mark for B\.process\.direction"):
        asked.compare(QUESTION, ONE, OTHER)
    assert len(backend.asked) == 2
    figures = asked.take_figures()
    assert figures["judge/parse_fail_frac"] == 1 and figures["judge/fail_frac"] == 1


@pytest.mark.parametrize("error", [JudgeError("down"), TimeoutError("late"), ValueError("x")])
def test_a_backend_that_fails_is_not_asked_again(error: Exception) -> None:
    backend = Scripted(error)
    asked = judge(backend)
    with pytest.raises(JudgeError):
        asked.rate(QUESTION, ONE, 0)
    figures = asked.take_figures()
    assert (figures["judge/calls"], figures["judge/fail_frac"]) == (1, 1)
    assert "judge/parse_fail_frac" not in figures


def label(text: str = "", **logprobs: float) -> Reply:
    return Reply(text=text, label_logprobs=logprobs)


@pytest.mark.parametrize("form", ["refeval", "refmatch"])
def test_label_probabilities(form: str) -> None:
    backend = Scripted(label("B", A=-0.2, B=-1.7))  # the text does not matter
    verdict = judge(backend, form=form).compare(QUESTION, ONE, OTHER)
    assert (verdict.first, verdict.second) == pytest.approx((0.8176, 0.1824), abs=5e-5)
    (ask,) = backend.asked
    assert (ask.labels, ask.max_tokens) == (("A", "B"), LABEL_TOKENS)
    assert "It is under the mat." in ask.messages[1][1]
    assert ("nearer to the reference" in ask.messages[1][1]) == (form == "refmatch")


@pytest.mark.parametrize("unknown", [{}, {"A": -math.inf, "B": math.nan}])
def test_a_label_without_a_probability_is_a_verdict_that_is_counted(
    unknown: dict[str, float],
) -> None:
    asked = judge(Scripted(label("B", **unknown), label("A", B=-0.1)), form="refeval")
    assert asked.compare(QUESTION, ONE, OTHER) == Verdict(first=0, second=1)
    # one known label: e^-0.1 = 0.9048
    assert asked.compare(QUESTION, ONE, OTHER).second == pytest.approx(0.9048, abs=5e-5)
    assert asked.take_figures()["judge/label_text_frac"] == 0.5


def test_labels_that_are_less_likely_than_another_word_leave_it_to_the_text() -> None:
    unlikely = {"A": math.log(0.2), "B": math.log(0.1)}
    asked = judge(Scripted(label("B.", **unlikely), label("Neither.", **unlikely)), form="refeval")
    assert asked.compare(QUESTION, ONE, OTHER) == Verdict(first=0, second=1)
    with pytest.raises(UnclearAnswer, match="expected one of A, B"):
        asked.compare(QUESTION, ONE, OTHER)


def test_further_meetings_have_seeds_of_their_own() -> None:
    backend = Scripted(answer(1, 2))
    asked = judge(backend)
    for repeat in (0, 1, 3):
        asked.compare(QUESTION, ONE, OTHER, repeat)
    assert [ask.seed for ask in backend.asked] == [0, 2, 6]


def test_the_cost_is_what_the_backend_has_spent_answered_or_not() -> None:
    class Paid(Scripted):
        spent = 5.0  # by somebody before

        def ask(self, ask: Ask) -> Reply:
            self.spent += 0.5
            return super().ask(ask)

    free = Reply(text=answer(1, 2), cost=0.1)
    asked = judge(Paid(free, JudgeError("cut off"), free))
    asked.compare(QUESTION, ONE, OTHER)
    with pytest.raises(JudgeError):
        asked.compare(QUESTION, ONE, OTHER)
    assert asked.take_figures()["judge/cost"] == 1.0
    assert asked.take_figures()["judge/cost"] == 0.0


def test_neither_label_is_no_verdict_rather_than_a_tie() -> None:
    asked = judge(Scripted(label("I can't say.")), form="refeval")
    with pytest.raises(UnclearAnswer, match="expected one of A, B"):
        asked.compare(QUESTION, ONE, OTHER)
    assert asked.take_figures()["judge/fail_frac"] == 1


def test_forms_that_compare_with_a_reference_say_what_is_missing() -> None:
    asked = judge(Scripted(label("A")), form="refmatch")
    with pytest.raises(JudgeError, match="form refmatch needs a reference"):
        asked.compare(Question(task="t"), ONE, OTHER)
    with pytest.raises(JudgeError, match="form refmatch compares pairs"):
        asked.rate(QUESTION, ONE, 0)
    figures = asked.take_figures()
    assert (figures["judge/calls"], figures["judge/fail_frac"]) == (0, 1)


def test_figures_are_of_what_happened_since_they_were_taken() -> None:
    replies: Sequence[Reply] = [
        Reply(text=answer(1, 2), prompt_tokens=90, sampled_tokens=10, cost=0.25),
        Reply(text=answer(1, 2), prompt_tokens=90, sampled_tokens=10, cached=True),
    ]
    asked = judge(Scripted(*replies))
    for _ in replies:
        asked.compare(QUESTION, ONE, OTHER)
    assert asked.take_figures() == {
        "judge/calls": 2,
        "judge/tokens": 100,
        "judge/cost": 0.25,
        "judge/cached_frac": 0.5,
        "judge/fail_frac": 0,
        "judge/parse_fail_frac": 0,
    }
    assert asked.take_figures() == {"judge/calls": 0, "judge/tokens": 0, "judge/cost": 0}


def test_many_threads_at_once() -> None:
    asked = judge(Scripted(Reply(text=answer(1, 2), sampled_tokens=1)))

    def work() -> None:
        for _ in range(20):
            asked.compare(QUESTION, ONE, OTHER)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures = asked.take_figures()
    assert (figures["judge/calls"], figures["judge/tokens"]) == (160, 160)


def test_a_rubric_that_is_not_there_is_found_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"scoring\.judge\.rubric"):
        judge(Scripted(""), rubric="no_such")
    judge(Scripted(""), rubric="no_such", form="refeval")  # which has none


def test_closing_closes_the_backend() -> None:
    backend = Scripted("")
    judge(backend).close()
    assert backend.closed == 1
