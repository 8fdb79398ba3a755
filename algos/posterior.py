"""What margins, and totals where there are any, say about members: a Gaussian posterior. Pure.

A match has a margin m = q_a - q_b + e and, where the judge gives marks, a total of both marks,
t = 2c + q_a + q_b + f, each the mean over its two calls. What a call is shifted by cancels in m
and is all in t, so the variance of f is rho >= 1 times that of e. A total says little where
judges drift, and as much as a margin where they don't; the data tell which. (In the design of
experiments this is the recovery of inter-block information, Yates 1940: a call is a block of two.)

Letters: N members, M matches, R and L points of the grids of rho and lambda.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.ratings import design, fit_margins
from rlagents.types import IntArray

Floats = NDArray[np.float64]
PRIORS = (1e-8, 1e-6, 1e-4, 0.01, 0.05, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Grid of lambda = var(e) / var(q), over the prior; the small ones are for noiseless judges."""
RATIOS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Grid of rho: a total has all the noise that a margin has, and beyond 64 it says nothing."""
GREATEST_TOTAL = 1e9
"""In greatest margins; beyond it rounding eats what a total could tell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posterior:
    """Of the members' strengths."""

    mean: Floats
    """[N] in units of marks, averaged over the grid."""
    covariance: Floats
    """[N, N] over the variance of a margin, at the likeliest point."""
    noise: float
    """Variance of a margin there."""
    ratio: float
    """rho there; inf where totals tell nothing, or there are none."""


def posterior(
    pairs: IntArray, margins: Floats, totals: Floats, size: int, *, prior: float
) -> Posterior:
    """Strengths q ~ N(0, var(e) / lambda); lambda and rho averaged over a grid by their evidence.

    The grid has the values of rho, and one more case: totals that tell nothing of members, but are
    noise of a variance of their own, as those of a judge are that shares out a sum of marks. The
    variances and c are integrated out (flat in the log of a variance, and in c). lambda has a
    prior that is Cauchy in log2(lambda / prior), of scale 1: without its tails a judge without
    noise would be shrunk.

        2 log evidence = N log(lambda) - (T - 1) log(rho) - log|A| - (M + T - 1) log Q + constant
        A = X'X + Z'Z / rho + lambda I,      Q = |m - X q|^2 + |t - Z q|^2 / rho + lambda |q|^2

    of M margins and T totals, at q = A^-1 (X'm + Z't / rho), X the design of differences, Z that of
    sums, centred as t is. Without what totals tell it is N log(lambda) - log|A| - M log Q, and that
    of t beside it. Evidence of linear models as in MacKay 1992 (Bayesian interpolation).

    Where all margins are 0 everybody is equal, whatever the totals say.

    Args:
        pairs: [M, 2].
        margins: [M]; NaN: no match.
        totals: [M] of the marks of both; NaN (or absurdly large): unknown.
        prior: the middle of what lambda may be, above 0.
    """
    known = ~np.isnan(margins)
    x_MN = design(pairs, size)[known]
    y_M = margins[known]
    if not y_M.any():  # no verdict, or ties only: then totals must not part equals
        _, covariance = fit_margins(pairs[known], y_M, size, prior=prior)
        return Posterior(mean=np.zeros(size), covariance=covariance, noise=0.0, ratio=math.inf)
    scale = np.abs(y_M).max()
    y_M = y_M / scale
    with np.errstate(over="ignore"):
        t_M = totals[known] / scale
    kept_M = np.abs(t_M) < GREATEST_TOTAL
    z_MN, t_M = np.abs(x_MN[kept_M]), t_M[kept_M]
    if len(t_M):  # Subtracting means integrates c out, which costs one degree of freedom.
        z_MN, t_M = z_MN - z_MN.mean(0), t_M - t_M.mean()
    seen, told = len(y_M), max(len(t_M) - 1, 0)

    # The last point is the one where totals are noise. For each the eigenvectors of A are the same
    # whatever lambda is.
    weight_R = np.array([*(1 / ratio for ratio in RATIOS), 0.0] if told else [0.0])
    lambda_L = prior * np.array(PRIORS)
    each_RNN = x_MN.T @ x_MN + weight_R[:, None, None] * (z_MN.T @ z_MN)
    values_RN, vectors_RNN = np.linalg.eigh(each_RNN)
    values_RLN = np.maximum(values_RN, 0)[:, None] + lambda_L[:, None]
    sides_RN = x_MN.T @ y_M + weight_R[:, None] * (z_MN.T @ t_M)
    turned_RN = np.einsum("rij,ri->rj", vectors_RNN, sides_RN)
    mean_RLN = np.einsum("rij,rlj->rli", vectors_RNN, turned_RN[:, None] / values_RLN)
    left_RL = ((y_M - mean_RLN @ x_MN.T) ** 2).sum(2) + lambda_L * (mean_RLN**2).sum(2)
    beside_RL = ((t_M - mean_RLN @ z_MN.T) ** 2).sum(2)

    log_RL = 0.5 * (size * np.log(lambda_L) - np.log(values_RLN).sum(2))
    log_RL -= np.log1p(np.log2(lambda_L / prior) ** 2)
    left_RL[:-1] += weight_R[:-1, None] * beside_RL[:-1]
    log_RL[:-1] += _log_scales(left_RL[:-1], seen + told) + math.log(math.log(2))
    log_RL[:-1] += 0.5 * told * np.log(weight_R[:-1, None])
    log_RL[-1] += _log_scales(left_RL[-1], seen)
    if told:
        log_RL[-1] += _log_scales((t_M**2).sum(), told)
    share_RL = np.exp(log_RL - log_RL.max())
    share_RL /= share_RL.sum()
    r, at = np.unravel_index(share_RL.argmax(), share_RL.shape)
    mute = r == len(weight_R) - 1
    return Posterior(
        mean=np.einsum("rl,rli->i", share_RL, mean_RLN) * scale,
        covariance=(vectors_RNN[r] / values_RLN[r, at]) @ vectors_RNN[r].T,
        noise=float(left_RL[r, at] / (seen if mute else seen + told) * scale**2),
        ratio=math.inf if mute else RATIOS[r],
    )


def _log_scales(squares: Floats, count: int) -> Floats:
    """Log of the integral over log v of v^(-count/2) exp(-squares / 2v), v a variance."""
    return math.lgamma(count / 2) - count / 2 * np.log(np.maximum(squares, 1e-300) / 2)
