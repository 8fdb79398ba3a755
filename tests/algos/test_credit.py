"""Credit of turns: by hand, and how it relates to the credit of trajectories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.advantages import centred, group_relative
from rlagents.algos.credit import combined, turn_advantages, turn_returns


def f32(*values):
    return np.array(values, np.float32)


def yes(n):
    return np.ones(n, bool)


def by_index(*rewards, counts=None, discount=1.0, normalise=False):
    counts = yes(len(rewards)) if counts is None else np.array(counts)
    return turn_advantages(list(rewards), None, counts, discount=discount, normalise=normalise)


def by_anchor(*members, counts=None, discount=1.0, normalise=False):
    """Members as (states, rewards), the states one letter each."""
    counts = yes(len(members)) if counts is None else np.array(counts)
    return turn_advantages(
        [rewards for _, rewards in members],
        [list(states) for states, _ in members],
        counts,
        discount=discount,
        normalise=normalise,
    )


def same(results, *expected):
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-7)


# Returns.


def test_returns_by_hand():
    # From the end: 4; 0 + 4/2 = 2; 1 + 2/2 = 2.
    np.testing.assert_allclose(turn_returns(f32(1, 0, 4), 0.5), [2, 2, 4])


def test_returns_at_the_ends_of_the_discount():
    np.testing.assert_allclose(turn_returns(f32(1, 0, 4), 0.0), [1, 0, 4])
    np.testing.assert_allclose(turn_returns(f32(1, 0, 4), 1.0), [5, 4, 4])


def test_returns_of_no_turns():
    assert turn_returns(f32(), 0.9).shape == (0,)


@given(st.lists(st.floats(-5, 5, width=32), max_size=12), st.floats(0, 1))
def test_returns_are_the_discounted_sums(rewards, discount):
    expected = [
        sum(discount**k * reward for k, reward in enumerate(rewards[t:]))
        for t in range(len(rewards))
    ]
    np.testing.assert_allclose(turn_returns(f32(*rewards), discount), expected, atol=1e-4)


# Turns of the same index.


def test_same_index_by_hand():
    # Returns 3 2 | 1 1 | 5. Turn 0: mean 3; turn 1: mean 3/2.
    same(by_index(f32(1, 2), f32(0, 1), f32(5)), [0, 0.5], [-2, -0.5], [2])


def test_same_index_with_a_discount():
    # Returns 1 + 2/2 = 2, 2 | 0 + 4/2 = 2, 4: turn 0 is even, turn 1 is 1 around 3.
    same(by_index(f32(1, 2), f32(0, 4), discount=0.5), [0, -1], [0, 1])


def test_same_index_normalised():
    # Returns 3 2 | 1 1 | 5: turn 0 has std 2, turn 1 sqrt(1/2), so 0.5/sqrt(0.5) = sqrt(0.5).
    root = np.sqrt(0.5)
    same(by_index(f32(1, 2), f32(0, 1), f32(5), normalise=True), [0, root], [-1, -root], [1])


def test_last_turns_of_the_longest_have_nobody_to_be_compared_with():
    same(by_index(f32(0, 0, 9), f32(1)), [4, 0, 0], [-4])


@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3), min_size=2, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.floats(0, 1),
)
def test_turns_that_all_have_sum_to_zero_over_counted_members(rewards, counts, discount):
    counted = np.array(counts[: len(rewards)])
    result = np.stack(by_index(*[f32(*r) for r in rewards], counts=counted, discount=discount))
    np.testing.assert_allclose(result[counted].sum(axis=0, dtype=np.float64), 0, atol=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(-10, 10)), min_size=2, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_one_reward_at_the_end_gives_the_trajectory_s_advantage(normalise, members, counts):
    # Undiscounted, each turn's return is the score. Turns that every member has compare all.
    counted = np.array(counts[: len(members)])
    scores = f32(*[score for _, score in members])
    (expected,) = group_relative(
        [scores], [counted], baseline="group", scale="group" if normalise else "none"
    )
    rewards = [f32(*(n - 1) * [0], score) for n, score in members]
    shared = min(n for n, _ in members)
    for result, value in zip(
        by_index(*rewards, counts=counted, normalise=normalise), expected, strict=True
    ):
        np.testing.assert_array_equal(result[:shared], np.full(shared, value))


# Turns that answered the same state.


def test_anchor_states_by_hand():
    # State x: turns (0, 0), (1, 1), (2, 0) with returns 1, 4, 4: mean 3. State y: turns (0, 1) and
    # (1, 0) with returns 1, 4: mean 5/2. State z has one turn.
    result = by_anchor(("xy", f32(0, 1)), ("yx", f32(0, 4)), ("xz", f32(4, 0)))
    same(result, [-2, -1.5], [1.5, 1], [1, 0])


def test_anchor_states_normalised():
    # x: 1 4 4 around 3 have std sqrt((4 + 1 + 1)/2) = sqrt 3; y: 1 4 around 5/2 have sqrt(9/2).
    result = by_anchor(("xy", f32(0, 1)), ("yx", f32(0, 4)), ("xz", f32(4, 0)), normalise=True)
    three, half = np.sqrt(3), np.sqrt(0.5)
    same(result, [-2 / three, -half], [half, 1 / three], [1 / three, 0])


def test_a_state_that_one_trajectory_came_back_to():
    # One member, x at turns 0 and 2: returns 1/4 and 1, mean 5/8. The detour costs the first.
    same(by_anchor(("xyx", f32(0, 0, 1)), discount=0.5), [-0.375, 0, 0.375])


def test_states_met_once_have_no_credit():
    same(by_anchor(("ab", f32(0, 1)), ("cd", f32(0, 5)), normalise=True), [0, 0], [0, 0])


def test_one_state_everywhere_compares_all_turns():
    # Returns 3 2 | 1: mean 2.
    same(by_anchor(("ss", f32(1, 2)), ("s", f32(1))), [1, 0], [-1])


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("xyz"), st.integers(-9, 9)), max_size=5),
        min_size=1,
        max_size=5,
    ),
    st.randoms(),
)
def test_anchor_advantages_are_centred_by_state_and_follow_a_permutation(members, random):
    order = list(range(len(members)))
    random.shuffle(order)
    named = [("".join(s for s, _ in m), f32(*[r for _, r in m])) for m in members]
    plain, permuted = by_anchor(*named), by_anchor(*[named[i] for i in order])
    same(permuted, *[plain[i] for i in order])
    visited = np.array(list("".join(states for states, _ in named)))
    values = np.concatenate(plain)
    for state in "xyz":
        assert abs(values[visited == state].sum()) < 1e-3


def test_states_that_name_the_turn_are_turns_of_the_same_index():
    rewards = [f32(1, 2), f32(0, 1), f32(5)]
    anchored = by_anchor(*zip(["ab", "ab", "a"], rewards, strict=True), normalise=True)
    same(anchored, *by_index(*rewards, normalise=True))


# Members outside the statistics, and where there is no signal.


def test_a_member_that_does_not_count_is_compared_and_moves_nobody():
    # Turn 0: counted 1 3, mean 2; turn 1: counted 1 3, mean 2.
    same(
        by_index(f32(0, 1), f32(0, 3), f32(0, 8), counts=[True, True, False]),
        [-1, -1],
        [1, 1],
        [6, 6],
    )
    same(
        by_anchor(("x", f32(1)), ("x", f32(3)), ("x", f32(8)), counts=[True, True, False]),
        [-1],
        [1],
        [6],
    )


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("counts", [[False, False], [True, False]])
def test_fewer_than_two_that_count_give_zeros(counts, normalise):
    same(by_index(f32(0, 1), f32(0, 3), counts=counts, normalise=normalise), [0, 0], [0, 0])


def test_a_reward_that_is_not_a_number_takes_its_turns_out():
    # The NaN of turn 1 reaches turn 0 of that member, no other.
    result = by_index(f32(0, np.nan), f32(0, 3), f32(0, 5), normalise=False)
    same(result, [0, 0], [-1, -1], [1, 1])


def test_equal_returns_give_zeros_also_to_one_that_does_not_count():
    result = by_index(f32(1), f32(1), f32(9), counts=[True, True, False], normalise=True)
    same(result, [0], [0], [0])


def test_members_without_turns_and_groups_without_members():
    same(by_index(f32(), f32(), normalise=True), [], [])
    assert by_index() == []
    assert turn_advantages([], [], yes(0), discount=1.0, normalise=True) == []


# Combination.


def test_combined_by_hand():
    # 2 * 0.5 + 3 * (-1, 0, 2).
    result = combined(0.5, f32(-1, 0, 2), trajectory=2, turn=3)
    same([result], [-2, 1, 7])


def test_combined_with_one_weight_only():
    same([combined(0.5, f32(-1, 2), trajectory=1, turn=0)], [0.5, 0.5])
    same([combined(0.5, f32(-1, 2), trajectory=0, turn=1)], [-1, 2])


def test_same_credit_for_turn_and_trajectory_is_the_sum_of_the_weights():
    scores = f32(0, 1, 5)
    values = centred(scores, yes(3))
    turns = by_index(*[f32(0, score) for score in scores])
    for value, turns_N in zip(values, turns, strict=True):
        same([combined(float(value), turns_N, trajectory=1, turn=0.5)], [1.5 * value, 1.5 * value])


# What is rejected.


@pytest.mark.parametrize("discount", [-0.1, 1.1])
def test_the_discount_lies_between_zero_and_one(discount):
    with pytest.raises(ValueError, match=r"a discount in \[0, 1\], got \(2,\), "):
        turn_returns(f32(1, 2), discount)


def test_rewards_are_of_one_trajectory():
    with pytest.raises(ValueError, match=r"expected rewards \[N\]"):
        turn_returns(np.zeros((2, 2), np.float32), 1.0)


def test_counts_and_anchors_match_the_rewards():
    with pytest.raises(ValueError, match=r"of \[2\] turns, got 2 counts"):
        turn_advantages([f32(1, 2)], None, yes(2), discount=1.0, normalise=False)
    with pytest.raises(ValueError, match=r"of \[2\] turns, got 1 counts and anchors of \[1\]"):
        turn_advantages([f32(1, 2)], [["x"]], yes(1), discount=1.0, normalise=False)
