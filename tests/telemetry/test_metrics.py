"""Metrics combine like the numbers they stand for; spans add up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.telemetry.metrics import TAGS, Last, Maximum, Mean, Metrics, Total
from rlagents.telemetry.spans import Spans


def test_a_mean_of_unequal_parts_is_weighted() -> None:
    # One worker saw 1 trajectory of score 1, another 3 of score 0: the mean is 1/4, not 1/2.
    first, second = Metrics(), Metrics()
    first.mean("train/score_mean", 1.0, 1)
    second.mean("train/score_mean", 0.0, 3)
    first.merge(second)
    assert first.values() == {"train/score_mean": 0.25}


def test_each_kind_combines_in_its_own_way() -> None:
    metrics = Metrics()
    for value in (2.0, 5.0, 3.0):
        metrics.add("mean", Mean(value))
        metrics.add("total", Total(value))
        metrics.add("most", Maximum(value))
        metrics.add("last", Last(value))
    assert metrics.values() == {"mean": 10 / 3, "total": 10.0, "most": 5.0, "last": 3.0}
    assert (Maximum(math.nan) + Maximum(1.0)).value == 1.0
    assert (Maximum(1.0) + Maximum(math.nan)).value == 1.0


def test_a_mean_of_nothing_is_not_logged_and_kinds_do_not_mix() -> None:
    metrics = Metrics()
    metrics.mean("empty", 0.0, 0)
    metrics.mean("full", 4.0, 2)
    assert metrics.values() == {"full": 2.0}
    with pytest.raises(ValueError, match="full is a Mean, can't add a Total"):
        metrics.add("full", Total(1.0))


@given(st.lists(st.integers(-100, 100), min_size=1), st.integers(0, 100))
def test_merging_parts_equals_collecting_at_once(values: list[int], cut: int) -> None:
    at_once, left, right = Metrics(), Metrics(), Metrics()
    for index, value in enumerate(values):
        for collector in (at_once, left if index < cut else right):
            collector.mean("mean", value)
            collector.add("most", Maximum(value))
            collector.add("total", Total(value))
    left.merge(right)
    assert left.values() == at_once.values()


def test_the_stable_tags_are_there() -> None:
    assert len(TAGS) == 37
    assert {"train/score_mean", "policy/clip_frac_high", "time/sync_s"} <= TAGS.keys()


class Lines(list[Mapping[str, Any]]):
    def write(self, line: Mapping[str, Any]) -> None:
        self.append(line)


def test_spans_are_lines_and_totals() -> None:
    times = iter([10.0, 11.0, 11.5, 14.0, 20.0, 21.0])
    lines = Lines()
    spans = Spans(lines, clock=lambda: next(times), now=lambda: 1e9)
    with spans.span("rollout", iteration=3) as attrs, spans.span("wait"):
        attrs["tokens"] = 7
    with pytest.raises(KeyError), spans.span("rollout"):
        raise KeyError("x")
    assert lines == [
        {"name": "wait", "start": 1e9, "duration": 0.5},
        {"name": "rollout", "start": 1e9, "duration": 4.0, "iteration": 3, "tokens": 7},
        {"name": "rollout", "start": 1e9, "duration": 1.0, "error": "KeyError"},
    ]
    assert spans.take_totals() == {"time/wait_s": 0.5, "time/rollout_s": 5.0}
    assert spans.take_totals() == {}
