"""Judges beside each other: each with its own threads and its own patience."""

from __future__ import annotations

import threading
import time

import pytest

from rlagents.config import JudgeSection
from rlagents.errors import ConfigError, JudgeError
from rlagents.scoring.asked import AskedJudge
from rlagents.scoring.jury import Jury
from tests.scoring.gullible import Gullible

LONG_S = 60.0


class Silent:
    def __init__(self) -> None:
        self.closed = 0

    def take_figures(self) -> dict[str, float]:
        return {"judge/calls": 2.0}

    def close(self) -> None:
        self.closed += 1


def section(timeout_s: float = LONG_S, concurrency: int = 2) -> JudgeSection:
    return JudgeSection(backend="simulated", call_timeout_s=timeout_s, concurrency=concurrency)


def test_judges_are_asked_at_once() -> None:
    meeting = threading.Barrier(4)  # two calls of each judge: were one late, none would go on
    jury = Jury([(Silent(), section()), (Silent(), section())])
    calls = [lambda: meeting.wait(LONG_S)] * 2
    first, second = jury.ask([calls, calls])
    assert sorted(first + second) == [0, 1, 2, 3]


def test_one_that_hangs_costs_its_own_verdicts_only_after_its_own_time() -> None:
    free = threading.Event()
    jury = Jury([(Silent(), section(0.05, concurrency=1)), (Silent(), section())])
    hung, answered = jury.ask([[lambda: free.wait(LONG_S)] * 3, [lambda: 1, lambda: 2, lambda: 3]])
    assert [str(one) for one in hung[:2]] == ["no answer within 0.05 s"] * 2
    assert all(isinstance(one, JudgeError) for one in hung)
    assert answered == [1, 2, 3]
    free.set()


def test_at_the_deadline_nobody_is_waited_for() -> None:
    free = threading.Event()
    jury = Jury([(Silent(), section()), (Silent(), section())])
    calls = [lambda: free.wait(LONG_S)]
    outcomes = jury.ask([calls, [lambda: 1]], time.monotonic() + 0.05)
    assert str(outcomes[0][0]) == "no answer: the group's time is over"
    free.set()


def test_judges_that_mark_on_different_scales_are_refused() -> None:
    rubric, labels, match = (
        (AskedJudge(Gullible(), JudgeSection(form=form)), section())
        for form in ("rubric", "refeval", "refmatch")
    )
    with pytest.raises(ConfigError, match=r"scoring\.panel: expected judges that mark on one"):
        Jury([rubric, (Silent(), section()), labels])
    Jury([labels, match, (Silent(), section())])
    with pytest.raises(ValueError, match="one or more"):
        Jury([])


def test_figures_of_all_and_of_each() -> None:
    jury = Jury([(Silent(), section()), (Silent(), section())])
    assert jury.take_figures() == {"judge/calls": 4.0, "judge/0/calls": 2.0, "judge/1/calls": 2.0}
    assert Jury([(Silent(), section())]).take_figures() == {"judge/calls": 2.0}


def test_closing_closes_all_and_asks_nothing_more() -> None:
    judges = [Silent(), Silent()]
    jury = Jury([(judge, section()) for judge in judges])
    jury.close()
    assert [judge.closed for judge in judges] == [1, 1]
    assert [str(one[0]) for one in jury.ask([[lambda: 1], [lambda: 2]])] == [
        "not asked: scoring was closed"
    ] * 2
