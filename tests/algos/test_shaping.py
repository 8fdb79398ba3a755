"""Shaping by hand, against TRL where it has the same function, and the properties it promises."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from trl.rewards.other_rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from rlagents.algos.shaping import (
    DEVIATION_FLOOR,
    FORMAT_CHARACTERS,
    Moments,
    cosine_length,
    format_penalties,
    potential_shaping,
    repetition,
    running_scale,
    soft_overlong,
)

PAPER = {"threshold": 0.5, "correct": (2.0, 1.0), "wrong": (-10.0, 0.0), "exceeded": -20.0}
"""Values of arXiv 2502.03373, but for `exceeded`, which is there the same as the shortest wrong."""

eighths = st.integers(-800, 800).map(lambda n: n / 8)
"""Sums of a few of them are exact in float32."""
scores = st.lists(st.floats(-1000, 1000, width=32), max_size=30)


def f32(*values):
    return np.array(values, np.float32)


def i32(*values):
    return np.array(values, np.int32)


class TestOverlong:
    def test_ramp(self):
        # Limit 10, cache 4: free up to 6, half-way at 8, -1 at 10, and never below.
        values = soft_overlong(i32(5, 6, 8, 10, 50), limit=10, cache=4, factor=1.0)
        np.testing.assert_allclose(values, [0, 0, -0.5, -1, -1])

    def test_switched_off_and_as_a_step(self):
        lengths = i32(1, 11)
        assert (soft_overlong(lengths, limit=0, cache=0, factor=1.0) == 0).all()
        np.testing.assert_allclose(soft_overlong(lengths, limit=10, cache=0, factor=0.5), [0, -0.5])

    def test_a_cache_longer_than_the_limit_is_refused(self):
        with pytest.raises(ValueError, match="got cache 11 and limit 10"):
            soft_overlong(i32(1), limit=10, cache=11, factor=1.0)

    @given(st.lists(st.integers(0, 60), max_size=8), st.integers(1, 40), st.integers(1, 40))
    def test_agrees_with_trl(self, lengths, cache, room):
        ours = soft_overlong(np.array(lengths, np.int32), limit=cache + room, cache=cache, factor=1)
        theirs = get_soft_overlong_punishment(cache + room, cache)([[7] * n for n in lengths])
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


class TestCosine:
    def test_ends_and_middle_of_both_curves(self):
        # Limit 8. Correct: 2 at length 0, (2 + 1) / 2 at 4, 1 at 8. Wrong: -10, -5, 0.
        values = cosine_length(f32(1, 1, 1, 0, 0, 0), i32(0, 4, 8, 0, 4, 8), limit=8, **PAPER)
        np.testing.assert_allclose(values, [2, 1.5, 1, -10, -5, 0], atol=1e-6)

    def test_a_quarter_of_the_way_is_flatter_than_a_line(self):
        # (1 + cos(pi / 4)) / 2 = 0.853553; 1 + 0.853553 and -10 * 0.853553.
        values = cosine_length(f32(1, 0), i32(2, 2), limit=8, **PAPER)
        np.testing.assert_allclose(values, [1.853553, -8.535534], rtol=1e-6)

    def test_beyond_the_limit_correctness_does_not_matter(self):
        values = cosine_length(f32(1, 0, 1), i32(9, 9, 8), limit=8, **PAPER)
        np.testing.assert_allclose(values, [-20, -20, 1], atol=1e-6)

    def test_what_is_correct_begins_at_the_threshold(self):
        values = cosine_length(f32(0.5, 0.49, -3), i32(0, 0, 0), limit=8, **PAPER)
        assert values.tolist() == [2, -10, -10] and values.dtype == np.float32

    def test_no_score_stays_no_score_at_any_length(self):
        values = cosine_length(f32(np.nan, np.nan, 1), i32(3, 99, 0), limit=8, **PAPER)
        assert np.isnan(values).tolist() == [True, True, False]

    def test_limit_zero_gives_the_scores_back_and_nothing_gives_nothing(self):
        given_scores = f32(0.25, np.nan)
        assert cosine_length(given_scores, i32(3, 4), limit=0, **PAPER) is given_scores
        assert cosine_length(f32(), i32(), limit=8, **PAPER).shape == (0,)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"expected \[G\] scores and lengths"):
            cosine_length(f32(1), i32(1, 2), limit=8, **PAPER)
        with pytest.raises(ValueError, match="limit of 0 or more, got -1"):
            cosine_length(f32(1), i32(1), limit=-1, **PAPER)

    @given(st.lists(st.integers(0, 32), min_size=2, max_size=8))
    def test_short_pays_where_correct_and_long_where_wrong(self, lengths):
        lengths = np.sort(np.array(lengths, np.int32))
        right = cosine_length(np.ones(len(lengths), np.float32), lengths, limit=32, **PAPER)
        wrong = cosine_length(np.zeros(len(lengths), np.float32), lengths, limit=32, **PAPER)
        assert (np.diff(right) <= 0).all() and (np.diff(wrong) >= 0).all()
        assert (wrong <= 0).all() and (right >= 1).all()


class TestRepetition:
    def test_by_hand(self):
        # Pairs of 1 2 1 2 1: 12, 21, 12, 21; two of four are new: -0.5 * (1 - 2/4).
        assert repetition(i32(1, 2, 1, 2, 1), ngram=2, penalty=0.5) == -0.25
        # Four equal pairs: -1 * (1 - 1/4).
        assert repetition(i32(5, 5, 5, 5, 5), ngram=2, penalty=1.0) == -0.75
        # Single tokens 7 7 8: 2 of 3 are new.
        assert repetition(i32(7, 7, 8), ngram=1, penalty=1.0) == pytest.approx(-1 / 3)

    @pytest.mark.parametrize("ids", [(), (1,), (1, 1), (1, 1, 1), (1, 2, 3, 4)])
    def test_nothing_repeats(self, ids):
        assert repetition(i32(*ids), ngram=3, penalty=1.0) == 0.0

    def test_n_grams_of_no_token_are_refused(self):
        with pytest.raises(ValueError, match="1 token or more, got 0"):
            repetition(i32(1), ngram=0, penalty=1.0)

    @given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
    def test_agrees_with_trl(self, ids, ngram):
        (theirs,) = get_repetition_penalty_reward(ngram, -2.0)([ids])
        ours = repetition(np.array(ids, np.int32), ngram=ngram, penalty=2.0)
        assert ours == pytest.approx(theirs, abs=1e-12) and -2.0 < ours <= 0.0


class TestFormat:
    def test_the_whole_action_must_match(self):
        actions = ["run a", "run ab", " run a", "run a\n", "submit b", ""]
        values = format_penalties(actions, r"(run|submit) \w", 0.5)
        assert values.tolist() == [0, -0.5, -0.5, -0.5, 0, -0.5] and values.dtype == np.float32

    def test_switched_off_and_without_turns(self):
        assert format_penalties(["x", ""], "", 0.5).tolist() == [0, 0]
        assert format_penalties([], "x", 0.5).shape == (0,)

    def test_a_new_line_is_inside_a_match_only_where_the_pattern_says_so(self):
        assert format_penalties(["a\nb"], ".*", 1.0).tolist() == [-1]
        assert format_penalties(["a\nb"], "(?s).*", 1.0).tolist() == [0]

    def test_an_action_beyond_the_bound_is_not_of_the_form(self):
        actions = ["x" * FORMAT_CHARACTERS, "x" * (FORMAT_CHARACTERS + 1)]
        assert format_penalties(actions, "x*", 1.0).tolist() == [0, -1]

    def test_a_slow_pattern_never_sees_a_long_text(self):
        # Cubic time: a million characters would take years.
        assert format_penalties(["x" * 10**6], ".*.*.*!", 1.0).tolist() == [-1]

    def test_a_bad_pattern_is_refused(self):
        with pytest.raises(ValueError, match=r"regular expression, got '\(': missing \)"):
            format_penalties(["x"], "(", 1.0)

    def test_a_penalty_of_nothing_is_nothing(self):
        assert format_penalties(["x"], "y", 0.0).tolist() == [0]


class TestPotential:
    def test_by_hand(self):
        # phi 1, 3, 2 and then 5; discount 1/2: 1.5 - 1, 1 - 3, 2.5 - 2; ended: 0 - 2.
        potentials = f32(1, 3, 2, 5)
        cut = potential_shaping(potentials, 0.5, ended=False)
        assert cut.tolist() == [0.5, -2.0, 0.5] and cut.dtype == np.float32
        assert potential_shaping(potentials, 0.5, ended=True).tolist() == [0.5, -2.0, -2.0]

    def test_no_turns_and_no_states(self):
        assert potential_shaping(f32(3), 1.0, ended=True).shape == (0,)
        for wrong in (f32(), np.zeros((2, 2), np.float32)):
            with pytest.raises(ValueError, match=r"expected \[N \+ 1\] potentials"):
                potential_shaping(wrong, 1.0, ended=True)

    def test_the_potentials_given_stay_as_they_are(self):
        potentials = f32(1, 2)
        potentials.flags.writeable = False
        potential_shaping(potentials, 1.0, ended=True)
        assert potentials.tolist() == [1, 2]

    @given(st.lists(st.tuples(eighths, eighths), min_size=1, max_size=30), eighths)
    def test_the_return_changes_by_the_first_potential_exactly(self, turns, last):
        """Whatever the potentials: which policy is best stays what it was."""
        rewards, potentials = (np.array(column, np.float32) for column in zip(*turns, strict=True))
        potentials = np.append(potentials, np.float32(last))
        shaped = rewards + potential_shaping(potentials, 1.0, ended=True)
        assert shaped.sum() - rewards.sum() == -potentials[0]
        cut = rewards + potential_shaping(potentials, 1.0, ended=False)
        assert cut.sum() - rewards.sum() == potentials[-1] - potentials[0]

    @given(st.lists(st.floats(-10, 10), min_size=2, max_size=12), st.floats(0, 1))
    def test_the_discounted_return_does_so_too(self, potentials, discount):
        values = potential_shaping(np.array(potentials, np.float32), discount, ended=True)
        total = (values * discount ** np.arange(len(values))).sum()
        assert total == pytest.approx(-potentials[0], abs=1e-4)


def moments_of(values) -> Moments:
    return Moments().add(np.array(values, np.float32))


class TestMoments:
    def test_by_hand(self):
        # 1, 3: mean 2, squares 1 + 1. With 8: n 3, d 6: mean 2 + 6/3, m2 2 + 0 + 36 * 2/3.
        first = moments_of([1, 3])
        assert first == Moments(count=2, mean=2.0, m2=2.0) and first.deviation == 1.0
        second = first.add(f32(8))
        assert second == Moments(count=3, mean=4.0, m2=26.0)
        assert second.deviation == pytest.approx(math.sqrt(26 / 3))

    def test_fewer_than_two_values_have_no_deviation(self):
        assert Moments().deviation == 0.0 and moments_of([5]).deviation == 0.0
        assert Moments().add(f32()) == Moments()

    def test_what_is_no_score_is_passed_over(self):
        assert moments_of([1, np.nan, 3, np.inf, -np.inf]) == moments_of([1, 3])
        assert moments_of([np.nan]) == Moments()

    def test_they_survive_json(self):
        moments = moments_of([0.1, 0.7, -3])
        plain = json.loads(json.dumps(dataclasses.asdict(moments)))
        assert Moments(**plain) == moments and type(plain["count"]) is int

    @given(scores, st.data())
    def test_order_and_parts_do_not_matter(self, values, data):
        whole = moments_of(values)
        shuffled = data.draw(st.permutations(values))
        cut = data.draw(st.integers(0, len(values)))
        parts = moments_of(shuffled[:cut]).add(np.array(shuffled[cut:], np.float32))
        assert parts.count == whole.count == len(values)
        assert parts.mean == pytest.approx(whole.mean, abs=1e-9, rel=1e-9)
        assert parts.m2 == pytest.approx(whole.m2, abs=1e-6, rel=1e-9)
        if len(values) > 1:
            assert whole.deviation == pytest.approx(np.std(np.float64(values)), abs=1e-6)

    def test_a_far_mean_costs_no_precision(self):
        # 1e7 - 1 and 1e7 + 1, one by one: float32 sums of squares would lose the difference.
        moments = Moments()
        for value in (1e7 - 1, 1e7 + 1) * 50:
            moments = moments.add(f32(value))
        assert moments.mean == pytest.approx(1e7) and moments.deviation == pytest.approx(1.0)


class TestRunningScale:
    def test_by_hand(self):
        # Deviation of 0, 4 is 2.
        scaled = running_scale(f32(0, 4, np.nan, -1), moments_of([0, 4]))
        np.testing.assert_array_equal(scaled, f32(0, 2, np.nan, -0.5))
        assert scaled.dtype == np.float32

    @pytest.mark.parametrize("seen", [[], [3], [3, 3, 3], [np.nan], [0.1] * 7])
    def test_without_a_spread_scores_stay_as_they_are(self, seen):
        assert running_scale(f32(3, 1), moments_of(seen)).tolist() == [3, 1]

    def test_no_spread_is_amplified_beyond_the_floor(self):
        tiny = Moments(count=2, mean=0.0, m2=2 * (DEVIATION_FLOOR / 2) ** 2)
        assert running_scale(f32(1), tiny).tolist() == [1]
        enough = Moments(count=2, mean=0.0, m2=2 * (DEVIATION_FLOOR * 2) ** 2)
        assert running_scale(f32(1), enough)[0] == pytest.approx(0.5 / DEVIATION_FLOOR)

    @given(st.lists(eighths, min_size=2, max_size=20), st.integers(-3, 6))
    def test_the_scale_of_the_rewards_does_not_matter(self, values, power):
        """Multiplied by a power of two, they are the same after scaling, to the bit."""
        values = np.array(values, np.float32)
        moments = moments_of(values)
        assume(moments.deviation > 0)
        bigger = values * np.float32(2.0**power)
        np.testing.assert_array_equal(
            running_scale(bigger, moments_of(bigger)), running_scale(values, moments)
        )
