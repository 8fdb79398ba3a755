"""What changes scores and turn rewards before advantages. Legend: G members of a group, N turns."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlagents.types import FloatArray, IntArray

FORMAT_CHARACTERS = 10_000
"""An action longer than this is not matched: backtracking is bounded for patterns that take
polynomial time (`.*.*!`: 0.05 s). Nested repetition such as `(\\w+ ?)+!` takes exponential time on
text of any length; a possessive quantifier, `(\\w+ ?)++!`, does not."""

DEVIATION_FLOOR = 1e-6
"""Scores that scatter less than this are not scaled."""


def soft_overlong(lengths_G: IntArray, *, limit: int, cache: int, factor: float) -> FloatArray:
    """0 up to limit - cache, then a ramp down to -factor at the limit and beyond.

        p(l) = factor * clip((limit - cache - l) / cache, -1, 0)

    Source: DAPO, arXiv 2503.14476, equation 13. Unlike verl's, it is bounded below for any length.
    With cache 0 it is a step: -factor beyond the limit.

    Args:
        lengths_G: [G] sampled tokens of each trajectory.
        limit: tokens; 0 switches the punishment off.

    Returns:
        [G] numbers in [-factor, 0], to be added to the scores.
    """
    if limit == 0:
        return np.zeros(len(lengths_G), np.float32)
    if not 0 <= cache <= limit:
        raise ValueError(f"expected 0 <= cache <= limit, got cache {cache} and limit {limit}")
    if cache == 0:
        return np.where(lengths_G > limit, -factor, 0.0).astype(np.float32)
    ramp = (limit - cache - lengths_G.astype(np.float64)) / cache
    return (factor * np.clip(ramp, -1.0, 0.0)).astype(np.float32)


def cosine_length(
    scores_G: FloatArray,
    lengths_G: IntArray,
    *,
    limit: int,
    threshold: float,
    correct: tuple[float, float],
    wrong: tuple[float, float],
    exceeded: float,
) -> FloatArray:
    """A reward that goes from one value at length 0 to another at the limit, by half a cosine.

        r(l) = b + (a - b) / 2 * (1 + cos(pi * l / limit)),  (a, b) = correct or wrong

    Source: arXiv 2502.03373, appendix C.1, with (2, 1), (-10, 0) and -10: of the correct the short
    ones earn more, of the wrong the long ones lose less, which keeps exploration alive. Deviations:
    the paper's `exceeded` begins at the limit, ours beyond it, because a trajectory may end of
    itself at any length; a score is correct from `threshold` on, the paper's is 0 or 1.
    Valid for scores with a meaningful threshold: it *replaces* them, so any other difference
    between them is lost. It changes which policy is best.

    Args:
        scores_G: [G] NaN without a score, which stays NaN.
        lengths_G: [G] sampled tokens of each trajectory.
        limit: tokens; 0 gives the scores back unchanged.
        correct: reward at length 0 and at the limit, of scores at or above `threshold`.
        wrong: likewise, of the others.
        exceeded: reward of trajectories longer than the limit, correct or not.

    Returns:
        [G] rewards in place of the scores.

    Raises:
        ValueError: when the arrays differ in shape or the limit is negative.
    """
    if scores_G.shape != lengths_G.shape:
        raise ValueError(f"expected [G] scores and lengths, got {scores_G.shape, lengths_G.shape}")
    if limit < 0:
        raise ValueError(f"expected a limit of 0 or more, got {limit}")
    if limit == 0:
        return scores_G
    fall = (1 + np.cos(np.pi * lengths_G / limit)) / 2
    first, last = np.where((scores_G >= threshold)[:, None], correct, wrong).T
    rewards = np.where(lengths_G > limit, exceeded, last + (first - last) * fall)
    return np.where(np.isnan(scores_G), np.nan, rewards).astype(np.float32)


def repetition(token_ids: IntArray, *, ngram: int, penalty: float) -> float:
    """Minus the penalty, times the share of n-grams that occurred before.

        p = -penalty * (1 - different n-grams / n-grams)

    Source: arXiv 2502.03373, appendix C.2, as a score. Deviation: the paper's is a reward of each
    repeated token in a method with its own discount; the share is what its code adds to scores,
    and TRL's `get_repetition_penalty_reward`. Not valid where the task wants repetition: codes
    that return, a loop of the same command.

    Args:
        token_ids: [A] sampled tokens of a trajectory; n-grams may go across the end of a turn.
        ngram: tokens of an n-gram, 1 or more.

    Returns:
        A number in (-penalty, 0]; 0 for fewer tokens than an n-gram has.

    Raises:
        ValueError: when `ngram` is below 1.
    """
    if ngram < 1:
        raise ValueError(f"expected n-grams of 1 token or more, got {ngram}")
    if len(token_ids) < ngram:
        return 0.0
    ngrams = np.lib.stride_tricks.sliding_window_view(token_ids, ngram)
    return penalty * (len(np.unique(ngrams, axis=0)) / len(ngrams) - 1)


def format_penalties(actions: Sequence[str], pattern: str, penalty: float) -> FloatArray:
    """Minus the penalty for each turn whose action is not of the wanted form.

        p_t = 0 where the pattern matches the whole action of turn t, else -penalty

    Source: the format reward of DeepSeek-R1, arXiv 2501.12948, given per turn and as a penalty, so
    that a trajectory gains nothing from further turns of the right form.

    Args:
        actions: [N] texts that the environment received.
        pattern: a regular expression; empty switches the penalty off.

    Returns:
        [N] numbers, each 0 or -penalty. An action of more than `FORMAT_CHARACTERS` is not of the
        form, whatever it says.

    Raises:
        ValueError: when the pattern is no regular expression.
    """
    if not pattern:
        return np.zeros(len(actions), np.float32)
    try:
        form = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {pattern!r}: {error}") from error
    good = [len(a) <= FORMAT_CHARACTERS and form.fullmatch(a) is not None for a in actions]
    return np.where(np.array(good, np.bool_), 0.0, -penalty).astype(np.float32)


def potential_shaping(potentials_N1: FloatArray, discount: float, *, ended: bool) -> FloatArray:
    """What potential-based shaping adds to the reward of each turn.

        F_t = discount * phi(s_{t+1}) - phi(s_t),  phi = 0 in the state that ends the task

    Source: Ng, Harada and Russell, "Policy invariance under reward transformations", ICML 1999.
    The discounted sum of F over an episode that ended is -phi(s_0) for *any* phi: which policy is
    best does not change, and members of a group, which begin in the same state, keep their
    differences of return. So it moves credit between turns and does nothing to trajectory credit.
    Valid with the discount of the returns that it goes into. An episode that we cut keeps phi of
    its last state, an estimate of what was still to come: its return is then shifted by
    discount**N * phi(s_N) too.

    Args:
        potentials_N1: [N + 1] phi of the state of each turn, then of the state after the last.
        ended: the task itself ended; the last potential then counts as 0.

    Returns:
        [N] to be added to the rewards.

    Raises:
        ValueError: when there is no potential at all.
    """
    if potentials_N1.ndim != 1 or len(potentials_N1) == 0:
        raise ValueError(f"expected [N + 1] potentials, got {potentials_N1.shape}")
    before = potentials_N1[:-1].astype(np.float64)
    after = potentials_N1[1:].astype(np.float64)
    if ended:
        after[-1:] = 0.0
    return (discount * after - before).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and spread of all values so far, in three plain numbers that a checkpoint can hold.

    Merging is exact up to rounding, in any order and any parts: Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    """Sum of the squared distances from the mean."""

    def add(self, values: FloatArray) -> Moments:
        """These moments with more values; NaN and infinity (no score) are passed over.

        With n = n_a + n_b and d = mean_b - mean_a:
            mean = mean_a + d * n_b / n
            m2 = m2_a + m2_b + d**2 * n_a * n_b / n
        """
        new = values[np.isfinite(values)].astype(np.float64)
        if not len(new):
            return self
        center = float(new.mean())
        count, distance = self.count + len(new), center - self.mean
        return Moments(
            count=count,
            mean=self.mean + distance * len(new) / count,
            m2=self.m2
            + float(((new - center) ** 2).sum())
            + distance**2 * self.count * len(new) / count,
        )

    @property
    def deviation(self) -> float:
        """Population standard deviation; 0 for fewer than two values."""
        return math.sqrt(self.m2 / self.count) if self.count > 1 else 0.0


def running_scale(scores_G: FloatArray, moments: Moments) -> FloatArray:
    """Scores divided by the deviation of all scores of the run so far.

        r = score / deviation,  and the score itself where deviation < DEVIATION_FLOOR

    Source: reward scaling by a running deviation, one of PPO's code-level choices: Engstrom et
    al., arXiv 2005.12729. Deviation: they take it of discounted returns, here of scores. The mean
    is not taken off: a baseline is the advantage's matter. Below the floor (no, one or equal
    values) nothing is known of the spread, and to divide by the floor would blow scores up.
    Valid where rewards have an unknown scale and advantages are not divided by a deviation of
    their own; where they are it cancels out.

    Args:
        scores_G: [G] NaN without a score, which stays NaN.
        moments: of the scores so far.

    Returns:
        [G]
    """
    deviation = moments.deviation
    if deviation < DEVIATION_FLOOR:
        return scores_G
    return (scores_G / deviation).astype(np.float32)
