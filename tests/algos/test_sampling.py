"""Plans: by hand, and what must hold for all of them."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.configs import SamplingConfig
from rlagents.algos.history import Outcome, TaskRecord, from_plain, learn, to_plain
from rlagents.algos.sampling import EXPLORED, allocate, plan, rejected
from rlagents.types import EpisodeKey

NAN = float("nan")
OFF = SamplingConfig()
SOLVED = TaskRecord(attempts=8, score_sum=8, square_sum=8, flat=3)
HOPELESS = TaskRecord(attempts=8, flat=3)
EVEN = TaskRecord(attempts=8, score_sum=4, square_sum=4)


def planned(config=OFF, history=None, **changes):
    size = {"tasks": 6, "groups": 4, "group_size": 3, "seed": 0, "iteration": 0, **changes}
    return plan(config, history or {}, **size)


def indices(made):
    return [slot.index for slot in made.slots]


def key(iteration=0, member=0):
    return EpisodeKey(stream="train", iteration=iteration, group=0, member=member)


# --- without switches ---------------------------------------------------------------------------


@given(
    st.integers(0, 99), st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2)
)
def test_without_switches_the_tasks_are_dealt_in_rounds(seed, iteration, tasks, groups, refills):
    config = SamplingConfig(filter="zero_variance", max_refills=refills)
    history = {0: SOLVED, 1: HOPELESS, 2: EVEN}  # which nothing looks at
    made = planned(
        config, history, tasks=tasks, groups=groups, seed=seed, iteration=iteration, group_size=5
    )
    order = np.random.default_rng([seed, 2, iteration]).permutation(tasks)
    assert indices(made) == [order[n % tasks] for n in range(groups * (1 + refills))]
    assert {slot.attempts for slot in made.slots} == {5}
    assert (made.groups, made.attempts) == (groups, 5 * groups)
    assert (made.skipped, made.retired, made.exhausted) == (0, 0, False)


def test_slots_for_refills_only_where_a_filter_drops():
    for chosen, count in (("none", 4), ("zero_variance", 12), ("band", 12)):
        made = planned(SamplingConfig(filter=chosen, max_refills=2))
        assert (len(made.slots), made.groups) == (count, 4)


def test_tasks_that_never_come_back_are_fresh_whatever_the_switches():
    config = SamplingConfig(
        skip=0.5, retire=0.5, curriculum="uncertain", group_sizes=(2, 8), replay=2
    )
    made = planned(config, {0: replace(SOLVED, retired=True)}, tasks=0)
    assert indices(made) == [None] * 4
    assert [slot.attempts for slot in made.slots] == [3] * 4
    assert (made.retired, made.exhausted) == (0, False)


# --- retirement and skipping --------------------------------------------------------------------


@given(st.sets(st.integers(0, 5), max_size=5), st.integers(0, 999))
def test_retired_tasks_are_never_dealt(solved, iteration):
    config = SamplingConfig(retire=0.9, filter="zero_variance", curriculum="easy_first", skip=0.5)
    history = {i: replace(SOLVED, retired=True) for i in solved}
    made = planned(config, history, iteration=iteration)
    assert solved.isdisjoint(indices(made))
    assert set(indices(made)) == set(range(6)) - solved  # 12 slots: each of the others comes
    assert (made.retired, made.exhausted) == (len(solved), False)


def test_when_all_are_retired_all_are_dealt_and_the_plan_says_so():
    history = {i: replace(EVEN, retired=True) for i in range(6)}
    made = planned(SamplingConfig(retire=0.9), history, groups=6)
    assert sorted(indices(made)) == list(range(6))
    assert (made.retired, made.exhausted) == (6, True)


def test_flat_tasks_are_passed_over_as_often_as_the_rule_says():
    # One slot for two tasks. Task 0 was flat 2 times: it is dealt when it comes first (1/2) and is
    # not passed over (0.5^2), so in 1/8 of 4000 plans: 500, with a deviation of 21.
    config = SamplingConfig(skip=0.5)
    history = {0: replace(HOPELESS, flat=2)}
    made = [planned(config, history, tasks=2, groups=1, iteration=i) for i in range(4000)]
    count = sum(indices(m) == [0] for m in made)
    assert abs(count - 500) < 100
    # It is passed over when it comes first (1/2) and luck is against it (3/4).
    assert abs(sum(m.skipped for m in made) - 1500) < 150
    assert all(m.skipped <= 1 and len(m.slots) == 1 for m in made)


def test_every_skipped_task_returns_eventually():
    config = SamplingConfig(skip=0.7)
    history = {i: replace(HOPELESS, flat=8) for i in range(5)}  # 0.7^8: one plan in 17
    dealt = Counter(
        index
        for iteration in range(1000)
        for index in indices(planned(config, history, groups=2, iteration=iteration))
    )
    assert min(dealt[i] for i in range(5)) >= 10
    assert dealt[5] > 5 * max(dealt[i] for i in range(5))


def test_what_is_left_fills_the_slots():
    config = SamplingConfig(skip=0.01)
    history = {i: replace(HOPELESS, flat=50) for i in range(5)}
    made = planned(config, history)
    assert indices(made) == [5, 5, 5, 5]
    assert made.skipped == 5
    # When every task was passed over, they are dealt as if none were.
    history[5] = replace(SOLVED, flat=50)
    made = planned(config, history)
    assert len(set(indices(made))) == 4
    assert made.skipped == 0


# --- curricula ----------------------------------------------------------------------------------


def shares(config, history, groups, iterations=3000):
    dealt = Counter(
        index
        for iteration in range(iterations)
        for index in indices(planned(config, history, groups=groups, iteration=iteration))
    )
    return np.array([dealt[i] / iterations for i in range(6)])


def test_uncertain_tasks_are_drawn_in_proportion_to_their_variance():
    history = dict.fromkeys(range(5), SOLVED) | {5: EVEN}
    # Solved: p = 9/10, so 0.09; even: 0.25. Sum 5 x 0.09 + 0.25 = 0.7.
    solved, even = 0.9 * 0.09 / 0.7 + 0.1 / 6, 0.9 * 0.25 / 0.7 + 0.1 / 6
    got = shares(SamplingConfig(curriculum="uncertain"), history, groups=1)
    np.testing.assert_allclose(got, [solved] * 5 + [even], atol=0.03)
    # Without replacement: in two draws a task comes at most once.
    for iteration in range(50):
        made = planned(SamplingConfig(curriculum="uncertain"), history, groups=6, seed=iteration)
        assert sorted(indices(made)) == list(range(6))


def test_no_task_falls_below_the_floor():
    # 10^6 attempts: a variance of about 10^-6, as good as never chosen without the floor.
    known = TaskRecord(attempts=1e6)
    history = dict.fromkeys(range(5), known) | {5: EVEN}
    got = shares(SamplingConfig(curriculum="uncertain"), history, groups=1)
    np.testing.assert_allclose(got[:5], EXPLORED / 6, atol=0.01)
    assert got[5] == pytest.approx(1 - EXPLORED * 5 / 6, abs=0.03)


def test_easy_tasks_come_first_but_not_always():
    history = {i: replace(HOPELESS, score_sum=float(i)) for i in range(6)}
    got = shares(SamplingConfig(curriculum="easy_first"), history, groups=2)
    assert got.sum() == pytest.approx(2)
    assert got[5] > 0.85 and got[4] > 0.75
    assert (got[:4] > 0.005).all() and (got[:4] < 0.3).all()


def test_unknown_tasks_lie_between_those_known_to_be_easy_and_hard():
    history = {0: SOLVED, 1: HOPELESS}
    made = [
        indices(planned(SamplingConfig(curriculum="easy_first"), history, groups=6, iteration=i))
        for i in range(200)
    ]
    firsts, lasts = Counter(m[0] for m in made), Counter(m[-1] for m in made)
    assert firsts.most_common(1)[0][0] == 0 and firsts[0] > 150
    assert lasts.most_common(1)[0][0] == 1 and lasts[1] > 150
    assert len({tuple(m[1:5]) for m in made}) > 10  # the others are shuffled


# --- group sizes --------------------------------------------------------------------------------


def test_allocation_by_hand():
    # Deviations 0.5 and 0.25: of 12 attempts 8 and 4, in proportion.
    assert allocate([0.25, 0.0625], 12, low=2, high=12) == [8, 4]
    assert allocate([0.25, 0.0625], 12, low=2, high=7) == [7, 5]
    assert allocate([0.25, 0.0625], 12, low=5, high=7) == [7, 5]
    assert allocate([0.2, 0.2, 0.2], 10, low=2, high=9) == [4, 3, 3]
    assert allocate([0.25, 0.0], 6, low=2, high=4) == [4, 2]
    assert allocate([], 0, low=2, high=4) == []


@pytest.mark.parametrize("total", [5, 16])
def test_a_total_that_the_bounds_do_not_allow_is_refused(total):
    with pytest.raises(ValueError, match=f"3 groups of 2 to 5 attempts cannot have {total} in all"):
        allocate([0.1, 0.1, 0.1], total, low=2, high=5)


VARIANCES = st.lists(st.floats(1e-3, 0.25), min_size=1, max_size=4)


@given(VARIANCES, st.integers(0, 6))
def test_no_other_allocation_has_less_variance(variances, spare):
    total = 2 * len(variances) + min(spare, 4 * len(variances))
    got = allocate(variances, total, low=2, high=6)
    assert sum(got) == total and min(got) >= 2 and max(got) <= 6

    def cost(sizes):
        return sum(v / n for v, n in zip(variances, sizes, strict=True))

    others = itertools.product(range(2, 7), repeat=len(variances))
    assert cost(got) <= min(cost(o) for o in others if sum(o) == total) + 1e-12


@given(st.integers(0, 50), st.integers(1, 7), st.integers(2, 6), st.data())
def test_each_set_of_groups_has_the_same_total(iteration, groups, group_size, data):
    records = st.sampled_from([SOLVED, HOPELESS, EVEN])
    history = data.draw(st.dictionaries(st.integers(0, 5), records))
    config = SamplingConfig(group_sizes=(2, 6), filter="zero_variance", max_refills=2)
    made = planned(config, history, groups=groups, group_size=group_size, iteration=iteration)
    sizes = [slot.attempts for slot in made.slots]
    for start in range(0, 3 * groups, groups):
        assert sum(sizes[start : start + groups]) == groups * group_size
    assert made.attempts == groups * group_size
    assert all(2 <= size <= 6 for size in sizes)


def test_attempts_go_where_the_outcome_is_uncertain():
    history = {0: SOLVED, 1: HOPELESS, 2: EVEN, 3: EVEN}
    made = planned(SamplingConfig(group_sizes=(2, 10)), history, tasks=4, group_size=4)
    sizes = {slot.index: slot.attempts for slot in made.slots}
    # Deviations 0.3, 0.3, 0.5, 0.5 of 1.6; of 16 attempts 3, 3, 5, 5.
    assert sizes == {0: 3, 1: 3, 2: 5, 3: 5}
    with pytest.raises(ValueError, match="4 groups of 5 to 9 attempts cannot have 16 in all"):
        planned(SamplingConfig(group_sizes=(5, 9)), history, group_size=4)


# --- replay -------------------------------------------------------------------------------------


def test_successes_go_to_the_first_group_of_their_task():
    history = {0: replace(EVEN, successes=(key(3), key(2), key(1)))}
    made = planned(SamplingConfig(replay=2), history, tasks=2, groups=4)
    replays = [slot.replay for slot in made.slots if slot.index == 0]
    assert replays == [(key(3), key(2)), ()]
    assert all(slot.replay == () for slot in made.slots if slot.index == 1)
    assert all(slot.replay == () for slot in planned(history=history).slots)
    assert planned(SamplingConfig(success=0.8)).success == 0.8


# --- all together -------------------------------------------------------------------------------

EVERYTHING = SamplingConfig(
    filter="zero_variance",
    max_refills=1,
    skip=0.5,
    retire=0.95,
    curriculum="uncertain",
    group_sizes=(2, 6),
    replay=2,
)


def simulated(iterations, through_json):
    """Plans of a run whose task i is solved with probability i / 10."""
    history, plans = {}, []
    for iteration in range(iterations):
        made = plan(
            EVERYTHING, history, tasks=11, groups=4, group_size=3, seed=3, iteration=iteration
        )
        plans.append(made)
        outcomes = [
            Outcome(
                index=slot.index,
                keys=tuple(
                    EpisodeKey(stream="train", iteration=iteration, group=n, member=m)
                    for m in range(slot.attempts)
                ),
                scores=np.random.default_rng([iteration, n])
                .binomial(1, slot.index / 10, slot.attempts)
                .astype(np.float32),
            )
            for n, slot in enumerate(made.slots)
        ]
        history = learn(history, outcomes, EVERYTHING, iteration)
        if through_json:
            history = from_plain(json.loads(json.dumps(to_plain(history))))
    return plans, history


def test_a_resumed_run_plans_as_one_that_never_stopped():
    assert simulated(30, through_json=True) == simulated(30, through_json=False)


def test_what_a_run_comes_to():
    plans, history = simulated(60, through_json=False)
    assert history[10].retired and not history[0].retired and not history[5].retired
    assert sum(p.skipped for p in plans) > 0
    assert plans[-1].retired >= 1
    assert any(slot.replay for p in plans for slot in p.slots)
    late = Counter(slot.index for p in plans[30:] for slot in p.slots)
    assert late[10] == 0
    assert 0 < late[0] < late[5]


# --- which groups are trained on ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "scores", "counts", "reason"),
    [
        ("none", [0, 0, 0], [1, 1, 1], None),
        ("none", [0, NAN, 1], [1, 1, 0], "too_few_scores"),
        ("none", [NAN, NAN], [1, 1], "too_few_scores"),
        ("zero_variance", [0, 0, 1], [1, 1, 1], None),
        ("zero_variance", [0, 0, 1], [1, 1, 0], "zero_variance"),
        ("zero_variance", [1, 1, NAN], [1, 1, 1], "zero_variance"),
        ("zero_variance", [1, 0, 0, 0, 0, 0], [1] * 6, None),
        ("band", [1, 0, 0, 0, 0, 0], [1] * 6, "below_band"),  # 1/6
        ("band", [1, 1, 1, 0], [1] * 4, "above_band"),  # 3/4
        ("band", [1, 1, 1, 0], [1, 1, 0, 1], None),  # 2/3
        ("band", [1, 1, 0, 0], [1, 0, 1, 1], None),  # 1/3
        ("band", [0.25, 0.75, NAN], [1] * 3, None),
        ("band", [0.5, 0.5], [1, 1], "zero_variance"),
        ("band", [0.75, 0.75], [1, 1], "above_band"),
        ("band", [0, NAN], [1, 1], "too_few_scores"),
    ],
)
def test_why_a_group_is_dropped(chosen, scores, counts, reason):
    config = SamplingConfig(filter=chosen)
    assert rejected(config, np.array(scores, np.float32), np.array(counts, bool)) == reason


def test_the_bounds_of_the_band_are_inside_it():
    config = SamplingConfig(filter="band", band=(0.25, 0.75))
    counts = np.ones(4, bool)
    assert rejected(config, np.array([1, 0, 0, 0], np.float32), counts) is None
    assert rejected(config, np.array([1, 1, 1, 0], np.float32), counts) is None
