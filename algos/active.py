"""Tournaments of 2N-2 matches, spent where the order is open, and a posterior as score. Pure.

A round is planned as a whole, so all its judge calls run at once. Courses as in `tournaments`, with
one addition: they may be sent [M, 2], margin and total of every match, instead of margins [M]. The
total is the sum of both members' marks, each the mean over the calls (NaN where there is none);
what it is worth is estimated (`posterior`).

Letters: N members, M matches of a round.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.posterior import Posterior, posterior
from rlagents.algos.tournaments import Course, Match, check_size, evened, standing_of
from rlagents.types import FloatArray, IntArray

TAKES_TOTALS = ("seeded_margins", "active")
"""Topologies that make something of totals."""
ROUNDS = 4
"""Of `active`. With more, or one for each match, nothing was gained."""

Floats = NDArray[np.float64]


def seeded_margins(size: int, rng: np.random.Generator, *, prior: float = 1.0) -> Course:
    """`usual_matches` in one round, on a graph that is as even as can be; scores by a posterior.

    As many as ArenaRL's seeded elimination has (arXiv 2601.06487), but each counts for everybody it
    connects, not for a place in the bracket. The graph is that of `active`, which this is with one
    round. The score is the posterior mean of a member's strength, in marks above the average.
    """
    return _course(size, rng, [usual_matches(size)], prior)


def usual_matches(size: int) -> int:
    """2N-2, and no more than there are pairs: 1 of two members, 3 of three.

    A judge that draws nothing says the same when it sees the same two again.
    """
    return min(2 * size - 2, size * (size - 1) // 2)


def active(size: int, rng: np.random.Generator, *, matches: int = 0, prior: float = 1.0) -> Course:
    """`matches` in four rounds, each planned on what is known by then; scores by a posterior.

    The first N matches are a cycle in random order: everybody meets two others, and everybody is
    connected, so that exact margins give the exact order. Further ones are chosen one by one by
    what they leave of the variance of differences, weighted by how open these are,

        gain(a, b) = sum_ij w_ij cov(d_ij, d_ab)^2 / (var d_ab + 1),
        w_ij = e^(-z_ij^2) / var d_ij,      d = q_i - q_j,  z = E d / sd d,

    the variance of a margin being 1 (a total, where there are any, is counted in after it). That is
    a greedy linear Bayesian design (Chaloner and Verdinelli 1995, Bayesian experimental design: a
    review), with weights for the order, as active ranking has them (Glickman and Jensen 2005,
    adaptive paired comparison design; Heckel et al., arXiv 1606.08842): a difference that is
    settled is worth no match. What a match does to covariances does not depend on what comes of it,
    so a round is planned without its verdicts; only the means wait for them.

    No pair meets again before all have met. Who has no verdict has no score. Margins count as they
    are: of a judge that says only who won, however rightly, the order is not exact.

    Args:
        matches: in all; 0 is `usual_matches`. With fewer than N-1 not everybody is connected:
            whoever is not stands by its own part, whose mean is 0.
        prior: the middle of what the prior may weigh against one match; above 0.

    Raises:
        ValueError: for a size, matches or a prior below their least.
    """
    if matches < 0:
        raise ValueError(f"matches: expected 0 or more, got {matches}")
    total = matches or usual_matches(size)
    first = min(size, total)
    rest = [len(part) for part in np.array_split(np.arange(total - first), ROUNDS - 1)]
    return _course(size, rng, [first, *rest], prior)


def _course(size: int, rng: np.random.Generator, counts: list[int], prior: float) -> Course:
    """Rounds of so many matches each.

    Members are known by places that they draw: so who is which number decides nothing, not even
    which of equals meet, and renumbered members with a renumbered draw play the same tournament.
    """
    check_size(size)
    if not prior > 0:
        raise ValueError(f"prior: expected a number above 0, got {prior}")
    counts = [count for count in counts if count] if size > 1 else []
    pairs, margins, totals = np.zeros((0, 2), np.int32), np.zeros(0), np.zeros(0)
    matches: list[Match] = []
    members = rng.permutation(size) if counts else np.arange(size)
    met_NN = np.zeros((size, size), np.int32)
    known = posterior(pairs, margins, totals, size, prior=prior)
    for number, count in enumerate(counts):
        # Everybody meets two others; of two members there is one match.
        around = [(place - 1, place) for place in range(1, size)] + [(size - 1, 0)] * (size > 2)
        cycle = around[:count] if number == 0 else []
        asked = _plan(known, cycle, count, met_NN, rng)
        meeting = members[asked].astype(np.int32)
        margins_M, totals_M = _verdicts((yield meeting), len(asked))
        pairs = np.concatenate([pairs, asked])
        margins, totals = np.append(margins, margins_M), np.append(totals, totals_M)
        matches += [
            Match(first=int(a), second=int(b), margin=float(margin), round=number)
            for (a, b), margin in zip(meeting, margins_M, strict=True)
        ]
        known = posterior(pairs, margins, totals, size, prior=prior)
    scores = np.empty(size)
    scores[members] = evened(known.mean)
    return standing_of(scores, matches)


def _plan(
    known: Posterior,
    given: list[tuple[int, int]],
    count: int,
    met_NN: IntArray,
    rng: np.random.Generator,
) -> IntArray:
    """[M, 2] the given pairs, and those that gain most after them; `met_NN` counts them in."""
    covariance, pairs = known.covariance, []
    upper_NN = np.triu(np.ones(met_NN.shape, bool), 1)
    while len(pairs) < count:
        if len(pairs) < len(given):
            a, b = given[len(pairs)]
        else:
            free_NN = upper_NN & (met_NN == met_NN[upper_NN].min())
            gains_NN = np.where(free_NN, _gains(known.mean, covariance, known.noise), -1.0)
            # Sums of the same numbers differ in their last digits: those are equals, by lot.
            best = np.argwhere(gains_NN >= gains_NN.max() * (1 - 1e-9))
            a, b = best[rng.integers(len(best))].tolist()
        met_NN[a, b] += 1
        met_NN[b, a] += 1
        pairs.append((a, b))
        covariance = _observe(covariance, covariance[a] - covariance[b], (a, b, -1), 1.0)
        if math.isfinite(known.ratio):
            covariance = _observe(covariance, covariance[a] + covariance[b], (a, b, 1), known.ratio)
    return np.array(pairs, np.int32)


def _observe(
    covariance: Floats, with_it: Floats, what: tuple[int, int, int], noise: float
) -> Floats:
    """[N, N] once q_a + sign q_b has been seen through noise; `with_it` is its covariance [N]."""
    a, b, sign = what
    variance = with_it[a] + sign * with_it[b] + noise
    return covariance - np.outer(with_it, with_it) / variance


def _gains(mean: Floats, covariance: Floats, noise: float) -> Floats:
    """[N, N] of `active`, at least 0; `noise` is the variance of a margin."""
    own = np.diag(covariance)
    variance_NN = np.maximum(own[:, None] + own - 2 * covariance, 1e-12)
    squared_NN = (mean[:, None] - mean) ** 2 / (variance_NN * max(noise, 1e-30))
    weight_NN = np.exp(-squared_NN) / variance_NN
    np.fill_diagonal(weight_NN, 0)
    # sum_ij w_ij (u_i - u_j)^2 = 2 u' L u, L the Laplacian of w, with u = covariance (e_a - e_b).
    form_NN = covariance @ (np.diag(weight_NN.sum(1)) - weight_NN) @ covariance
    on = np.diag(form_NN)
    gain_NN = (on[:, None] + on - 2 * form_NN) / (variance_NN + 1)
    return np.maximum(gain_NN, 0)


def _verdicts(sent: FloatArray, count: int) -> tuple[Floats, Floats]:
    """[M] margins and [M] totals out of what was sent; NaN for what is no number."""
    found = np.asarray(sent, np.float64)
    if found.shape not in {(count,), (count, 2)}:
        raise ValueError(f"margins: expected shape {(count,)} or {(count, 2)}, got {found.shape}")
    found = np.where(np.isfinite(found), found, math.nan).reshape(count, -1)
    totals = found[:, 1] if found.shape[1] == 2 else np.full(count, math.nan)
    return found[:, 0], totals
