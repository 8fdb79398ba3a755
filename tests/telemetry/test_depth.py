"""Means by bucket and survival, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.depth import BUCKETS
from rlagents.telemetry.depth import (
    depth_metrics,
    means_by_depth,
    survival,
    survival_by_depth,
)


def padded(*values):
    return np.array([*values, *[0.0] * (BUCKETS - len(values))])


def test_sums_of_steps_add_up_before_they_are_divided():
    steps = [
        {"turn": {"entropy": padded(1, 2), "count": padded(1, 4)}, "segment": {}},
        {"turn": {"entropy": padded(2, 0, 3), "count": padded(2, 0, 1)}, "segment": {}},
    ]
    assert depth_metrics(steps) == {
        "depth_entropy/turn_0000": (1 + 2) / (1 + 2),
        "depth_entropy/turn_0001_0002": 2 / 4,
        "depth_entropy/turn_0003_0006": 3 / 1,
    }
    assert depth_metrics([]) == {}


def test_one_bucket_says_no_more_than_the_mean():
    assert means_by_depth("score", "turn", padded(0, 3), padded(0, 4)) == {}
    assert means_by_depth("score", "token", padded(1, 0, 3), padded(2, 0, 4), 64) == {
        "depth_score/token_000000_000063": 0.5,
        "depth_score/token_000192_000447": 0.75,
    }


def test_survival_without_cuts_is_plain_shares():
    # Lengths 1, 2, 2, 4; the first 2 and the 4 succeed.
    curve = survival([1, 2, 2, 4], [True] * 4, [False, True, False, True])
    assert curve.lengths.tolist() == [1, 2, 4]
    assert curve.running.tolist() == [0.75, 0.25, 0]
    assert curve.succeeded.tolist() == [0, 0.25, 0.5]
    assert curve.cuts.tolist() == [0, 0, 0]
    assert [curve.running_at(t) for t in (0, 1, 1.5, 2, 3, 9)] == [1, 0.75, 0.75, 0.25, 0.25, 0]
    assert [curve.succeeded_at(t) for t in (0, 2, 4)] == [0, 0.25, 0.5]


def test_cut_episodes_leave_without_an_end():
    # 1: one of five ends, running 4/5. 2: one of four ends well, 4/5 x 3/4 = 3/5, and one is cut.
    # 3: of the two left one ends well: 3/10 run, and 1/5 + 3/5 x 1/2 = 1/2 have succeeded.
    curve = survival(
        [1, 2, 2, 3, 5], [True, True, False, True, False], [False, True, True, True, 0]
    )
    assert curve.lengths.tolist() == [1, 2, 3, 5]
    assert curve.running == pytest.approx([4 / 5, 3 / 5, 3 / 10, 3 / 10])
    assert curve.succeeded == pytest.approx([0, 1 / 5, 1 / 2, 1 / 2])
    assert curve.cuts.tolist() == [0, 1, 0, 1]


def test_nothing_and_all_cut():
    empty = survival([], [], [])
    assert (empty.running_at(3), empty.succeeded_at(3)) == (1, 0)
    cut = survival([4, 4], [False, False], [True, False])
    assert (cut.running.tolist(), cut.succeeded.tolist()) == ([1], [0])
    with pytest.raises(ValueError, match="expected three arrays"):
        survival([1, 2], [True], [True, False])


episodes = st.tuples(st.integers(0, 30), st.booleans(), st.booleans())


@given(st.lists(episodes, min_size=1, max_size=30))
def test_shares_stay_shares(rows):
    lengths, ended, success = zip(*rows, strict=True)
    curve = survival(lengths, ended, success)
    assert (np.diff(curve.running) <= 1e-12).all() and (np.diff(curve.succeeded) >= -1e-12).all()
    assert (curve.running + curve.succeeded <= 1 + 1e-9).all() and (curve.running >= 0).all()
    if all(ended):
        good = np.mean([s for _, s in zip(lengths, success, strict=True)])
        assert curve.running[-1] == pytest.approx(0, abs=1e-12)
        assert curve.succeeded[-1] == pytest.approx(good)
    if not any(ended):
        assert curve.running[-1] == 1


def test_survival_at_the_buckets():
    # Turn 1 exists in episodes longer than 1, turn 3 in those longer than 3.
    curve = survival([1, 2, 4, 5], [True] * 4, [True, False, True, False])
    assert survival_by_depth(curve, "turn") == {
        "depth_running/turn_0000": 1,
        "depth_succeeded/turn_0000": 1 / 4,
        "depth_running/turn_0001_0002": 3 / 4,
        "depth_succeeded/turn_0001_0002": 1 / 4,
        "depth_running/turn_0003_0006": 2 / 4,
        "depth_succeeded/turn_0003_0006": 2 / 4,
    }
    assert survival_by_depth(curve, "token", 64) == {}
    assert survival_by_depth(survival([], [], []), "turn") == {}
