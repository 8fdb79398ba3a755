"""When a stage ends: by its length, by its measured score."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.schedules import Plateau, ScheduleState, advance

RULE = Plateau(patience=2, min_gain=0.1, min_score=0.5)
SCORES = st.lists(st.none() | st.floats(0, 1) | st.just(math.nan), max_size=40)


def stages(
    scores: Sequence[float | None], lengths: Sequence[int], plateau: Plateau | None = None
) -> list[int]:
    """The stage that follows each iteration."""
    state, seen = ScheduleState(), []
    for score in scores:
        state = advance(state, score, lengths=lengths, plateau=plateau)
        seen.append(state.stage)
    return seen


def test_a_stage_lasts_as_long_as_it_says_and_the_last_one_to_the_end() -> None:
    # Lengths 2, 1, 2: iterations 1 to 8 are of stages 0 0 1 2 2 2 2 2; here is the next one's.
    assert stages([0.5] * 8, [2, 1, 2]) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert stages([None] * 4, [2, 0]) == [0, 1, 1, 1]


def test_without_stages_there_is_one_without_end() -> None:
    state = ScheduleState()
    for _ in range(5):
        state = advance(state, 0.5, lengths=[])
    assert state == ScheduleState(iterations=5, best=0.5, stale=4)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # best 0.6, then no 0.7 twice: over
        ([0.6, 0.6, 0.6], [0, 0, 1]),
        ([0.6, 0.69, 0.5], [0, 0, 1]),
        # 0.7 is a gain of 0.1: the count begins again
        ([0.6, 0.6, 0.7, 0.7, 0.7], [0, 0, 0, 0, 1]),
        # a slow rise adds up: 0.60 -> 0.65 (none) -> 0.70 (gain, of 0.60) -> 0.75 -> 0.80 (gain)
        ([0.6, 0.65, 0.7, 0.75, 0.8], [0, 0, 0, 0, 0]),
        # flat below min_score is no plateau, however long; at 0.5 the count begins anew
        ([0.0] * 6, [0] * 6),
        ([0.2, 0.2, 0.2, 0.5, 0.5, 0.5], [0, 0, 0, 0, 0, 1]),
        # a score that has fallen below min_score is none either
        ([0.6, 0.4, 0.4, 0.4, 0.5], [0, 0, 0, 0, 1]),
        # an iteration without a score is neither a gain nor the want of one
        ([0.6, None, 0.6, math.nan, 0.6], [0, 0, 0, 0, 1]),
        ([0.6, 0.4, 0.4, None, 0.5], [0, 0, 0, 0, 1]),
        ([None, None, None], [0, 0, 0]),
        # the next stage begins with no best of its own: 0.1 is its first, and far below min_score
        ([0.6, 0.6, 0.6, 0.1, 0.1, 0.1, 0.1], [0, 0, 1, 1, 1, 1, 1]),
        ([0.6, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1, 1, 2, 2]),
    ],
)
def test_a_stage_ends_when_its_score_has_stopped_rising(
    scores: list[float | None], expected: list[int]
) -> None:
    assert stages(scores, [0, 0, 0], RULE) == expected


def test_a_gain_of_nothing_is_none() -> None:
    rule = Plateau(patience=1, min_gain=0.0, min_score=0.0)
    assert stages([0.5, 0.5], [0, 0], rule) == [0, 1]
    assert stages([0.5, 0.51, 0.52, 0.51], [0, 0], rule) == [0, 0, 0, 1]


def test_scores_below_zero_have_plateaus_too() -> None:
    assert stages([-2.0, -2.0], [0, 0], Plateau(patience=1, min_gain=0.0)) == [0, 1]
    assert stages([-2.0, -2.0], [0, 0], Plateau(patience=1, min_gain=0.0, min_score=-1.0)) == [0, 0]


def test_what_is_counted() -> None:
    state = ScheduleState(stage=1, iterations=3, best=0.5, stale=1)
    after = advance(state, 0.55, lengths=[0, 0, 0], plateau=RULE)
    assert after == ScheduleState(stage=2)  # stale 2 of 2, best 0.5 of 0.5
    patient = dataclasses.replace(RULE, patience=3)
    after = advance(state, 0.55, lengths=[0, 0, 0], plateau=patient)
    assert after == ScheduleState(stage=1, iterations=4, best=0.5, stale=2)
    after = advance(state, 0.6, lengths=[0, 0, 0], plateau=patient)
    assert after == ScheduleState(stage=1, iterations=4, best=0.6, stale=0)


@given(SCORES, st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans())
def test_a_schedule_never_goes_back_nor_skips_and_a_checkpoint_keeps_it(
    scores: list[float | None], lengths: list[int], measured: bool
) -> None:
    rule = RULE if measured else None
    state, restored, inside = ScheduleState(), ScheduleState(), 0
    for score in scores:
        before = state
        state = advance(state, score, lengths=lengths, plateau=rule)
        plain = json.loads(json.dumps(dataclasses.asdict(restored)))
        restored = advance(ScheduleState(**plain), score, lengths=lengths, plateau=rule)
        assert restored == state
        assert state.stage - before.stage in (0, 1) and state.stage < len(lengths)
        inside = 0 if state.stage != before.stage else inside + 1
        assert state.iterations == inside
        assert 0 <= state.stale <= state.iterations
    if not measured:  # so many whole stages fit into the iterations, the last one apart
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths) - 1)]
        assert state.stage == sum(end <= len(scores) for end in ends)


@pytest.mark.parametrize(("stage", "lengths"), [(2, [1, 1]), (1, []), (-1, [1])])
def test_a_stage_must_be_one_of_the_schedule(stage: int, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"stage: expected one of {len(lengths)}, got number"):
        advance(ScheduleState(stage=stage), 0.5, lengths=lengths)
