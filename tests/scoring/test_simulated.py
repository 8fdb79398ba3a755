"""The judge that sees returns through noise: its marks in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError
from rlagents.scoring.judge import Candidate, Question
from rlagents.scoring.simulated import SimulatedJudge
from rlagents.types import EpisodeKey

QUESTION = Question(task="a task")


def candidate(member: int, hidden: float = 0.0) -> Candidate:
    key = EpisodeKey(stream="train", iteration=0, group=0, member=member)
    return Candidate(key=key, transcript="", answer="", hidden=hidden)


def judge(seed: int = 0, **settings: float) -> SimulatedJudge:
    quiet = {"noise": 0.0, "drift": 0.0, "position_bias": 0.0}
    return SimulatedJudge(JudgeSection(backend="simulated", **{**quiet, **settings}), seed)  # pyright: ignore[reportArgumentType]


def test_without_noise_a_mark_is_seven_and_the_scaled_return() -> None:
    verdict = judge(scale=2.0).compare(QUESTION, candidate(0, 0.5), candidate(1, -1.0))
    assert (verdict.first, verdict.second) == (8.0, 5.0)  # 7 + 2 * 0.5, 7 - 2 * 1
    assert judge(scale=2.0).rate(QUESTION, candidate(0, 0.5), 0) == 8.0


def test_what_is_shown_first_gets_the_position_bias_and_rating_has_no_position() -> None:
    biased = judge(position_bias=0.25)
    assert biased.compare(QUESTION, candidate(0), candidate(1)).first == 7.25
    assert biased.compare(QUESTION, candidate(1), candidate(0)).first == 7.25
    assert biased.rate(QUESTION, candidate(0), 0) == 7.0


def test_drift_shifts_both_marks_of_a_call_alike_and_other_calls_otherwise() -> None:
    drifting = judge(drift=2.0)
    one = drifting.compare(QUESTION, candidate(0), candidate(1))
    other = drifting.compare(QUESTION, candidate(1), candidate(0))
    assert one.first == one.second != other.first == other.second


@pytest.mark.parametrize(("noise", "drift"), [(1.0, 0.0), (0.0, 2.0), (1.0, 2.0)])
def test_marks_have_the_deviation_that_was_asked_for(noise: float, drift: float) -> None:
    marks = [judge(noise=noise, drift=drift).rate(QUESTION, candidate(i), 0) for i in range(2000)]
    # Standard error of the mean: deviation / sqrt(2000); of the deviation: deviation / sqrt(4000).
    deviation = np.hypot(noise, drift)
    assert np.mean(marks) == pytest.approx(7.0, abs=4 * deviation / 2000**0.5)
    assert np.std(marks) == pytest.approx(deviation, rel=4 / 4000**0.5)


def test_a_call_is_known_by_seed_keys_order_and_repeat() -> None:
    def marks(seed: int, first: int, second: int) -> tuple[float, float]:
        verdict = judge(seed, noise=1.0).compare(QUESTION, candidate(first), candidate(second))
        return verdict.first, verdict.second

    assert marks(0, 0, 1) == marks(0, 0, 1)
    different = [marks(0, 0, 1), marks(1, 0, 1), marks(0, 1, 0), marks(0, 0, 2)]
    assert len(set(different)) == 4
    noisy = judge(noise=1.0)
    again = [noisy.compare(QUESTION, candidate(0), candidate(1), repeat) for repeat in (0, 1, 0)]
    assert again[0] == again[2] != again[1]
    rates = [noisy.rate(QUESTION, candidate(0), repeat) for repeat in (0, 1, 0)]
    assert rates[0] == rates[2] != rates[1]


def test_the_share_of_calls_that_fail_and_calls_are_counted() -> None:
    failing, failed = judge(failures=0.3), 0
    for i in range(1000):
        try:
            failing.compare(QUESTION, candidate(2 * i), candidate(2 * i + 1))
        except JudgeError:
            failed += 1
    assert failed == pytest.approx(300, abs=58)  # 4 x sqrt(1000 x .3 x .7)
    assert failing.take_figures() == {"judge/calls": 1000.0}
    assert failing.take_figures() == {"judge/calls": 0.0}


def test_all_calls_fail_and_none() -> None:
    with pytest.raises(JudgeError, match="this call fails"):
        judge(failures=1.0).rate(QUESTION, candidate(0), 0)
    assert judge(failures=0.0).rate(QUESTION, candidate(0), 0) == 7.0
