"""Marks one by one: their mean over repeats, and what becomes of those that do not come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError
from rlagents.scoring.judge import Candidate, Question
from rlagents.scoring.pointwise import PointwiseScorer
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.scorer import JUDGE_ERROR
from rlagents.types import Group, StopReason
from tests.fakes import TASK, trajectory

LONG_S = 60.0


def group(*returns: float, broken: tuple[int, ...] = ()) -> Group:
    members = tuple(
        trajectory(
            member=i,
            score=score,
            stop=StopReason.WORKER_LOST if i in broken else StopReason.TERMINATED,
        )
        for i, score in enumerate(returns)
    )
    return Group(task=TASK, trajectories=members)


class Judge:
    def __init__(self, act: Callable[[Candidate, int], Any]) -> None:
        self._act = act

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        return self._act(candidate, repeat)

    def take_figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def how(repeats: int = 1, timeout_s: float = LONG_S) -> JudgeSection:
    return JudgeSection(
        backend="simulated", repeats=repeats, concurrency=4, call_timeout_s=timeout_s
    )


def scorer(act: Callable[[Candidate, int], Any], repeats: int = 2) -> PointwiseScorer:
    return PointwiseScorer([(Judge(act), how(repeats))])


def test_a_score_is_the_mean_of_the_repeats() -> None:
    scored = scorer(lambda c, repeat: c.hidden + repeat).score(group(1.0, 3.0))
    assert scored.scores.tolist() == [1.5, 3.5]  # (1 + 2) / 2, (3 + 4) / 2
    assert scored.parts["marks"].tolist() == [2.0, 2.0]
    assert scored.parts["return"].tolist() == [1.0, 3.0]


def test_a_call_that_fails_is_left_out_of_the_mean_and_counted() -> None:
    def act(candidate: Candidate, repeat: int) -> float:
        if candidate.key.member == 0 and repeat == 1:
            raise JudgeError("no")
        return candidate.hidden + repeat

    pointwise = scorer(act)
    scored = pointwise.score(group(1.0, 3.0))
    assert scored.scores.tolist() == [1.0, 3.5]
    assert scored.parts["missing"].tolist() == [1.0, 0.0]
    assert pointwise.take_figures() == {"judge/fail_frac": 0.25, "judge/missing_frac": 0.0}


@pytest.mark.parametrize("answer", [None, "ten", math.nan, math.inf, 1e300, [1.0]])
def test_garbage_about_a_member_leaves_it_without_a_score(answer: Any) -> None:
    scored = scorer(lambda c, repeat: answer if c.key.member == 1 else c.hidden).score(
        group(1.0, 3.0, 2.0)
    )
    assert np.isnan(scored.scores).tolist() == [False, True, False]
    assert scored.parts["missing"].tolist() == [0.0, 2.0, 0.0]


def test_without_any_mark_the_group_has_no_scores_and_the_queue_counts_it() -> None:
    queue = ScoringQueue(scorer(lambda c, repeat: None), concurrency=1, limit=8, timeout_s=LONG_S)
    queue.submit(0, group(1.0, 3.0))
    result = queue.wait(LONG_S)
    assert result is not None
    assert result[1].parts[JUDGE_ERROR].tolist() == [1.0, 1.0]
    assert queue.last_error is not None
    assert "none of 4 calls has a mark" in queue.last_error.message
    assert queue.take_figures()["score/failed"] == 1.0


def test_members_that_failed_are_not_rated() -> None:
    rated: list[int] = []

    def act(candidate: Candidate, repeat: int) -> float:
        rated.append(candidate.key.member)
        return candidate.hidden

    scored = scorer(act, repeats=1).score(group(1.0, 3.0, 2.0, broken=(1,)))
    assert sorted(rated) == [0, 2]
    assert np.isnan(scored.scores).tolist() == [False, True, False]
    assert scored.parts["missing"].tolist() == [0.0, 0.0, 0.0]
    rated.clear()
    assert np.isnan(scorer(act).score(group(1.0, 3.0, broken=(0, 1))).scores).all()
    assert rated == []


def test_a_group_of_one_has_its_return() -> None:
    assert scorer(lambda c, repeat: 9.0).score(group(0.25)).scores.tolist() == [0.25]


def test_a_judge_that_has_not_marked_everybody_marks_nobody() -> None:
    def generous(candidate: Candidate, repeat: int) -> float:
        if candidate.key.member == 1:
            raise JudgeError("no")
        return candidate.hidden + 5

    judges = [(Judge(lambda c, repeat: c.hidden), how()), (Judge(generous), how(repeats=2))]
    panel = PointwiseScorer(judges)
    scored = panel.score(group(1.0, 3.0, 2.0))
    assert scored.scores.tolist() == [1.0, 3.0, 2.0]
    assert scored.parts["marks"].tolist() == [3.0, 1.0, 3.0]
    assert scored.parts["missing"].tolist() == [0.0, 2.0, 0.0]
    figures = panel.take_figures()
    assert figures["judge/partial_frac"] == 1 / 3
    assert figures["judge/0/fail_frac"] == 0.0 and figures["judge/1/fail_frac"] == 2 / 6
    assert figures["judge/missing_frac"] == 0.0


def test_marks_without_an_answer_at_the_deadline_are_missing() -> None:
    held = threading.Event()

    def act(candidate: Candidate, repeat: int) -> float:
        if candidate.key.member == 1:
            held.wait(LONG_S)
        return candidate.hidden

    scored = scorer(act, repeats=1).score_by(group(1.0, 3.0, 2.0), time.monotonic() + 1.0)
    assert np.isnan(scored.scores).tolist() == [False, True, False]
    held.set()
