"""What margins, and totals where there are any, say about members: a Gaussian posterior. Pure.

A match has a margin m = q_a - q_b + e and, where the judge gives marks, a total of both marks,
t = 2c + q_a + q_b + f, each the mean over its two calls. What a call is shifted by cancels in m
and is all in t, so the variance of f is rho >= 1 times that of e. A total says little where
judges drift, and as much as a margin where they don't; the data tell which. (In the design of
experiments this is the recovery of inter-block information, Yates 1940: a call is a block of two.)

Letters: N members, M matches, R and L points of the grids of rho and lambda,
U different weights of totals.
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
RATIOS = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 1e3, 1e6, 1e10)
"""Grid of rho where totals tell of members: a total has all the noise that a margin has."""
MUTE_RATIOS = (1e-4, 0.01, 0.1, 0.3, *RATIOS)
"""Where they don't: a judge that shares out its marks has totals of nothing but noise."""


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

    var(e) and c are integrated out (flat in log var(e) and in c). lambda has a prior that is Cauchy
    in log2(lambda / prior), of scale 1: without its tails a judge without noise would be shrunk.

        2 log evidence = N log(lambda) - (T - 1) log(rho) - log|A| - (M + T - 1) log Q
        A = X'X + Z'Z / rho + lambda I,      Q = |m - X q|^2 + |t - Z q|^2 / rho + lambda |q|^2

    of M margins and T totals, at q = A^-1 (X'm + Z't / rho), X the design of differences, Z that
    of sums, centred as t is, or 0 at those points of the grid where totals tell nothing. The
    evidence of linear models as in MacKay 1992 (Bayesian interpolation). Where all margins are 0
    everybody is equal, whatever the totals say.

    Args:
        pairs: [M, 2].
        margins: [M]; NaN: no match.
        totals: [M] of the marks of both; NaN: unknown.
        prior: the middle of what lambda may be, above 0.
    """
    known = ~np.isnan(margins)
    x_MN = design(pairs, size)[known]
    y_M = margins[known]
    if not y_M.any():  # no verdict, or ties only: then totals must not part equals
        _, covariance = fit_margins(pairs[known], y_M, size, prior=prior)
        return Posterior(mean=np.zeros(size), covariance=covariance, noise=0.0, ratio=math.inf)
    t_M = totals[known]
    told = ~np.isnan(t_M)
    if told.sum() < 2:
        told[:] = False
    # Subtracting means integrates c out, which costs one degree of freedom.
    z_MN, t_M = np.abs(x_MN[told]), t_M[told]
    if told.any():
        z_MN, t_M = z_MN - z_MN.mean(0), t_M - t_M.mean()
    levels = max(len(t_M) - 1, 0)
    grid = [(r, 1) for r in RATIOS] + [(r, 0) for r in MUTE_RATIOS] if levels else [(1.0, 0)]
    ratio_R, tells_R = np.array(grid).T
    lambda_L = prior * np.array(PRIORS)

    # A = X'X + Z'Z / rho + lambda I has the same eigenvectors for every lambda, and for every rho
    # where totals tell nothing.
    weight_R = tells_R / ratio_R
    weight_U, which_R = np.unique(weight_R, return_inverse=True)
    each_UNN = x_MN.T @ x_MN + weight_U[:, None, None] * (z_MN.T @ z_MN)
    values_UN, vectors_UNN = np.linalg.eigh(each_UNN)
    values_RN, vectors_RNN = values_UN[which_R], vectors_UNN[which_R]
    values_RLN = np.maximum(values_RN, 0)[:, None] + lambda_L[:, None]
    seen_RN = x_MN.T @ y_M + weight_R[:, None] * (z_MN.T @ t_M)
    turned_RN = np.einsum("rij,ri->rj", vectors_RNN, seen_RN)
    mean_RLN = np.einsum("rij,rlj->rli", vectors_RNN, turned_RN[:, None] / values_RLN)
    beside_RLM = t_M - tells_R[:, None, None] * (mean_RLN @ z_MN.T)
    left_RL = (
        ((y_M - mean_RLN @ x_MN.T) ** 2).sum(2)
        + (beside_RLM**2).sum(2) / ratio_R[:, None]
        + lambda_L * (mean_RLN**2).sum(2)
    )
    freedom = len(y_M) + levels
    log_RL = 0.5 * (size * np.log(lambda_L) - np.log(values_RLN).sum(2) - freedom * np.log(left_RL))
    log_RL -= np.log1p(np.log2(lambda_L / prior) ** 2) + 0.5 * levels * np.log(ratio_R)[:, None]
    share_RL = np.exp(log_RL - log_RL.max())
    share_RL /= share_RL.sum()
    r, at = np.unravel_index(share_RL.argmax(), share_RL.shape)
    return Posterior(
        mean=np.einsum("rl,rli->i", share_RL, mean_RLN),
        covariance=(vectors_RNN[r] / values_RLN[r, at]) @ vectors_RNN[r].T,
        noise=float(left_RL[r, at] / freedom),
        ratio=float(ratio_R[r]) if tells_R[r] else math.inf,
    )
