"""Strengths out of matches: least squares on margins, Bradley-Terry on wins, the Elo scale. Pure.

Letters: N members, M matches. A match is (first, second, what came of it for the first).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlagents.errors import ConfigError
from rlagents.types import IntArray

Floats = NDArray[np.float64]
Values = NDArray[np.floating]
ELO_CENTRE, ELO_PER_NAT = 1500.0, 400 / math.log(10)
LEAST_PRIOR = 1e-6
"""Of Bradley-Terry: with none at all, someone who won every match has no finite strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A member's strength with its 95% interval."""

    elo: float
    low: float
    high: float
    matches: int
    """That had a verdict."""


def design(pairs: IntArray, size: int) -> Floats:
    """[M, N] 1 at the first of each pair, -1 at the second.

    Raises:
        ValueError: for pairs that are not [M, 2], name nobody, or one member twice.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs: expected shape [M, 2], got {pairs.shape}")
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < size):
        raise ValueError(f"pairs: expected members from 0 to {size - 1}, got {pairs.tolist()}")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError(f"pairs: expected two different members each, got {pairs.tolist()}")
    rows = np.arange(len(pairs))
    found = np.zeros((len(pairs), size))
    found[rows, pairs[:, 0]] = 1
    found[rows, pairs[:, 1]] = -1
    return found


def fit_margins(
    pairs: IntArray, margins: Values, size: int, *, prior: float
) -> tuple[Floats, Floats]:
    """Strengths by least squares: margin = s_first - s_second + noise, s ~ N(0, noise / prior).

        s = A^-1 X^T m,   A = X^T X + prior I,   covariance A^-1 in units of the noise's variance

    Ridge regression, the posterior of the Gaussian model (Thurstone's with seen differences). Since
    margins are differences, strengths sum to 0. Members that no match connects stand at their
    prior: 0 with variance 1 / prior. With prior 0 each connected part is centred by itself, and
    the covariance is the pseudo-inverse. NaN margins are no matches.

    Args:
        pairs: [M, 2] members.
        margins: [M] by how much the first was better.
        prior: weight of the prior, in matches against an average member; 0 or more.

    Returns:
        strengths [N] in the units of the margins, covariance [N, N].

    Raises:
        ValueError: for shapes or members that don't fit, or a negative prior.
    """
    values = _verdicts(pairs, margins, size, prior)
    known = ~np.isnan(values)
    x = design(pairs, size)[known]
    precision = x.T @ x + prior * np.eye(size)
    invert = np.linalg.inv if prior > 0 else np.linalg.pinv
    covariance = np.asarray(invert(precision), np.float64)
    return covariance @ (x.T @ values[known]), covariance


def bradley_terry(pairs: IntArray, wins: Values, size: int, *, prior: float) -> Floats:
    """Strengths by maximum likelihood: P(first wins) = 1 / (1 + exp(s_second - s_first)).

    Bradley and Terry 1952, fitted by I-LSR (Maystre and Grossglauser 2015, `choix`). A draw is half
    a win each way. The prior is `prior` drawn matches of everyone against one more player, who
    stands at 0: with it the graph is connected and the maximum finite, whoever won everything or
    met nobody (who stands at 0). `choix` has a penalty of its own, but that one is in no unit
    of matches, and its other fits count whole wins only. Priors below 1e-6 count as that: connected
    members get their maximum likelihood to five digits, and an unbeaten one a large finite lead.

    Args:
        pairs: [M, 2] members.
        wins: [M] from 0 to 1, of the first; a draw is 0.5; NaN is no match.
        prior: weight of the prior in matches against an average member; 0 or more.

    Returns:
        strengths [N], natural logs, the average player at 0.

    Raises:
        ValueError: for shapes, members or wins that don't fit, or a negative prior.
        ConfigError: where `choix` is not installed.
    """
    values = _verdicts(pairs, wins, size, prior)
    known = ~np.isnan(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise ValueError(f"wins: expected numbers from 0 to 1, got {values.tolist()}")
    design(pairs, size)
    if not known.any():
        return np.zeros(size)
    met = pairs[known]
    won_NN = np.zeros((size + 1, size + 1))
    np.add.at(won_NN, (met[:, 0], met[:, 1]), values[known])
    np.add.at(won_NN, (met[:, 1], met[:, 0]), 1 - values[known])
    half = max(prior, LEAST_PRIOR) / 2
    won_NN[:size, size] = won_NN[size, :size] = half
    strengths = _fitter()(won_NN, max_iter=10_000)
    return strengths[:size] - strengths[size]


def _fitter() -> Callable[..., Floats]:
    try:
        from choix import ilsr_pairwise_dense
    except ImportError:
        raise ConfigError(
            "Bradley-Terry ratings need choix: pip install 'rlagents[arena]'"
        ) from None
    return ilsr_pairwise_dense


def _verdicts(pairs: IntArray, values: Values, size: int, prior: float) -> Floats:
    """[M] what came of the matches, after checks; NaN is no verdict."""
    if size < 1:
        raise ValueError(f"size: expected 1 member or more, got {size}")
    if not prior >= 0:
        raise ValueError(f"prior: expected 0 or more, got {prior}")
    found = np.asarray(values, np.float64)
    if found.shape != (len(pairs),):
        raise ValueError(f"expected a value for each of {len(pairs)} pairs, got {found.shape}")
    if np.isinf(found).any():
        raise ValueError("expected finite values or NaN, got an infinite one")
    return found


def elo(log_strengths: Values, anchor: int | None = None) -> Floats:
    """[N] 1500 + 400 log10(e) (s - mean s): ten to one is 400 points.

    With an anchor 1500 is that member's, so that who else is rated changes nobody's rating.
    """
    strengths = np.asarray(log_strengths, np.float64)
    centre = strengths.mean() if anchor is None else strengths[anchor]
    return ELO_CENTRE + ELO_PER_NAT * (strengths - centre)


def rate(
    results: Sequence[tuple[int, int, float]],
    size: int,
    *,
    rng: np.random.Generator,
    resamples: int = 200,
    prior: float = 1.0,
    blocks: Sequence[Hashable] | None = None,
    anchor: int | None = None,
) -> list[Rating]:
    """Bradley-Terry ratings on the Elo scale, with 95% intervals.

    Ratings are relative: to their mean or, with an anchor, to that member's. Intervals are those of
    a bootstrap over blocks of matches. Where a pair has one outcome only nothing varies in it; so
    an interval is at least as wide as the fit's own, 1.96 standard deviations of a normal posterior
    (`deviations`). Someone without a match stands where the prior has it.

    Args:
        results: (first, second, 1 for a win of the first, 0.5 a draw, 0 a loss; NaN no verdict).
        size: number of members.
        rng: draws the bootstrap.
        resamples: of the bootstrap; 0 for none.
        prior: as in `bradley_terry`.
        blocks: a label of each result; those with equal labels depend on each other and are drawn
            together. None: each stands alone.
        anchor: the member that has 1500.

    Raises:
        ValueError: as `bradley_terry`, and for labels of another number than results.
        ConfigError: likewise.
    """
    labels = range(len(results)) if blocks is None else blocks
    if len(labels) != len(results):
        raise ValueError(f"expected a label for each of {len(results)} results, got {len(labels)}")
    known = [i for i, one in enumerate(results) if not math.isnan(one[2])]
    pairs = np.array([results[i][:2] for i in known], np.int32).reshape(-1, 2)
    wins = np.array([results[i][2] for i in known], np.float64)
    together: dict[Hashable, list[int]] = {}
    for place, i in enumerate(known):
        together.setdefault(labels[i], []).append(place)
    drawn_from = [np.array(places) for places in together.values()]
    strengths = bradley_terry(pairs, wins, size, prior=prior)
    point = elo(strengths, anchor)
    draws = [point]
    for _ in range(resamples if known else 0):
        chosen = np.concatenate(
            [drawn_from[i] for i in rng.integers(len(drawn_from), size=len(drawn_from))]
        )
        draws.append(elo(bradley_terry(pairs[chosen], wins[chosen], size, prior=prior), anchor))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    if known:
        half = 1.96 * ELO_PER_NAT * deviations(pairs, strengths, prior=prior, anchor=anchor)
        low, high = np.minimum(low, point - half), np.maximum(high, point + half)
    counts = np.bincount(pairs.ravel(), minlength=size)
    return [
        Rating(
            elo=float(point[i]),
            low=float(min(low[i], point[i])),
            high=float(max(high[i], point[i])),
            matches=int(counts[i]),
        )
        for i in range(size)
    ]


def deviations(
    pairs: IntArray, strengths: Values, *, prior: float = 1.0, anchor: int | None = None
) -> Floats:
    """[N] standard deviations of strengths less their mean, or less the anchor's.

    Of the normal posterior around a Bradley-Terry fit: its information is the sum of p (1 - p) over
    matches, those of the prior included.

    Args:
        pairs: [M, 2] who met.
        strengths: [N] of the fit.
        prior: its weight.
        anchor: the member whose strength is the zero.
    """
    size = len(strengths)
    games_MN = design(pairs, size)
    weights_M = _spread(strengths[pairs[:, 0]] - strengths[pairs[:, 1]])
    information_NN = games_MN.T @ (weights_M[:, None] * games_MN)
    information_NN += max(prior, LEAST_PRIOR) * np.diag(_spread(np.asarray(strengths)))
    less_NN = np.eye(size)
    if anchor is None:
        less_NN -= 1 / size
    else:
        less_NN[:, anchor] -= 1
    variances = np.diag(less_NN @ np.linalg.inv(information_NN) @ less_NN.T)
    return np.sqrt(np.maximum(variances, 0.0))


def _spread(lead: Values) -> Floats:
    """Variance of the points, p (1 - p), of a match in which one is ahead by so many nats."""
    return np.asarray(1 / (2 + 2 * np.cosh(lead)), np.float64)
