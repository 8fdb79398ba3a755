"""What is known of tasks, by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.configs import SamplingConfig
from rlagents.algos.history import (
    Outcome,
    TaskRecord,
    from_plain,
    learn,
    record_of,
    to_plain,
    zero_variance,
)
from rlagents.types import EpisodeKey

NAN = float("nan")
OFF = SamplingConfig()


def key(iteration, member=0, group=0):
    return EpisodeKey(stream="train", iteration=iteration, group=group, member=member)


def outcome(*scores, index=0, iteration=0):
    keys = tuple(key(iteration, member) for member in range(len(scores)))
    return Outcome(index=index, keys=keys, scores=np.array(scores, np.float32))


def learned(*groups, config=OFF):
    """The record of task 0 after these groups, an iteration each."""
    history = {}
    for iteration, scores in enumerate(groups):
        history = learn(history, [outcome(*scores, iteration=iteration)], config, iteration)
    return history[0]


def test_nothing_known_is_one_success_in_two():
    for record in (TaskRecord(), record_of({}, 3), record_of({3: learned([1, 1])}, None)):
        assert (record.mean, record.variance) == (0.5, 0.25)


def test_a_group_of_zeros_and_ones_by_hand():
    record = learned([1, 0, 0, 0])
    assert (record.attempts, record.score_sum, record.square_sum) == (4, 1, 1)
    # With one imagined success and one failure: 2 of 6; p (1 - p) = 1/3 x 2/3.
    assert record.mean == pytest.approx(1 / 3)
    assert record.variance == pytest.approx(2 / 9)


def test_partial_scores_are_judged_by_their_own_spread():
    record = learned([0.5, 0.5, 0.5, 0.5])
    # Mean (1 + 2) / 6, squares (1 + 4 x 0.25) / 6: 1/3 - 1/4, a third of p (1 - p) = 1/4.
    assert (record.mean, record.variance) == (0.5, pytest.approx(1 / 12))


def test_each_group_halves_the_weight_of_those_before():
    record = learned([1, 1, 1, 1], [1, 1], [0, 1])
    # Attempts 4 -> 2 + 2 -> 2 + 2; scores 4 -> 2 + 2 -> 2 + 1.
    assert (record.attempts, record.score_sum) == (4, 3)


def test_groups_without_variance_are_counted_until_one_has_some():
    assert learned([0, 0], [1, 1], [0, 0]).flat == 3
    assert learned([0, 0], [0, 0], [0, 1]).flat == 0
    # A lone score has no spread and a failed group no score: neither says anything of it.
    assert learned([0, 0], [1, NAN]).flat == 1
    assert learned([0, 0], [NAN, NAN]) == learned([0, 0])


def test_members_without_a_score_are_left_out():
    assert learned([1, NAN, 0]) == learned([1, 0])


def test_retirement_is_for_ever():
    config = SamplingConfig(retire=0.75)
    assert not learned([1, 0], config=config).retired  # 0.5
    # (0.5 x 1 + 2) / (0.5 x 2 + 2) = 2.5 / 3
    assert learned([1, 0], [1, 1], config=config).retired
    assert learned([1, 1], [0, 0], [0, 0], config=config).retired
    assert learned([1, 1, 1, 0], config=config).retired  # reached exactly
    assert not learned([1, 1]).retired  # off


def test_the_newest_successes_are_remembered():
    config = SamplingConfig(replay=2, success=0.9)
    assert learned([1, 0.9, 0.8]).successes == ()
    assert learned([1, 0.8, 1, 1], config=config).successes == (key(0, 0), key(0, 2))
    record = learned([1, 1], [0, 1], config=config)
    assert record.successes == (key(1, 1), key(0, 0))
    assert learned([1, NAN], [0, 0], config=config).successes == (key(0, 0),)


def test_old_successes_are_forgotten_whether_or_not_their_task_is_attempted():
    config = SamplingConfig(replay=3, replay_window=2)
    history = learn({}, [outcome(1, index=7, iteration=4)], config, 4)
    history = learn(history, [outcome(1, index=7, iteration=5)], config, 5)
    # Before iteration 6 the first is 2 iterations old: as old as it may be.
    assert history[7].successes == (key(5), key(4))
    assert learn(history, [], config, 6)[7].successes == (key(5),)
    assert learn(history, [], config, 7)[7].successes == ()


def test_the_history_before_is_left_as_it_was():
    before = {0: learned([1, 0])}
    after = learn(before, [outcome(1, 1), outcome(0, 0, index=4)], OFF, 1)
    assert before == {0: learned([1, 0])}
    assert after == {0: learned([1, 0], [1, 1]), 4: learned([0, 0])}


def test_two_groups_of_a_task_count_one_after_the_other():
    both = learn({}, [outcome(0, 0), outcome(1, 0)], OFF, 0)
    assert both == {0: learned([0, 0], [1, 0])}


SCORES = st.floats(-3, 3, width=32) | st.just(NAN)


@given(st.lists(st.lists(SCORES, min_size=1, max_size=5), max_size=6))
def test_json_keeps_a_history_exactly(groups):
    config = SamplingConfig(replay=3, success=0.5, retire=0.9)
    history = {}
    for iteration, scores in enumerate(groups):
        index = iteration % 3
        history = learn(
            history, [outcome(*scores, index=index, iteration=iteration)], config, iteration
        )
    again = from_plain(json.loads(json.dumps(to_plain(history), allow_nan=False)))
    assert again == history
    assert list(again) == list(history)
    assert all(record.variance > 0 for record in history.values())


@pytest.mark.parametrize(
    "plain",
    [{"x": {"successes": []}}, {"0": {}}, {"0": {"successes": [], "luck": 1}}, {"0": 3}],
)
def test_what_is_no_history_is_refused(plain):
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_plain(plain)


def test_zero_variance_looks_only_at_those_who_count():
    scores = np.array([1, 1, 0, np.nan], np.float32)
    assert not zero_variance(scores, np.array([True, True, True, True]))
    assert zero_variance(scores, np.array([True, True, False, True]))
    assert zero_variance(scores, np.array([False, False, True, True]))  # a lone one
