"""Closed forms for the known scores, and how scores are measured."""

from __future__ import annotations

from math import comb
from typing import Any

import gymnasium
import numpy as np


def binomial(trials: int, p: float, k: int) -> float:
    """P[Bin(trials, p) = k]."""
    return comb(trials, k) * p**k * (1 - p) ** (trials - k)


def capped_fraction(target: int, trials: int, p: float) -> float:
    """E[min(target, Bin(trials, p))] / target."""
    return sum(min(k, target) * binomial(trials, p, k) for k in range(trials + 1)) / target


def make(env_id: str, **kwargs: Any) -> Any:
    """`gymnasium.make` for tests that look at more than Gymnasium's interface."""
    return gymnasium.make(env_id, **kwargs)


def measured(env_id: str, policy: str, episodes: int = 300, **kwargs: Any) -> tuple[float, float]:
    """Mean return of a scripted policy over seeds 0, 1, ... and its standard error."""
    env = make(env_id, **kwargs)
    returns = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        act = env.unwrapped.scripted[policy](env.unwrapped, np.random.default_rng(seed))
        total, over = 0.0, False
        while not over:
            observation, reward, over, _, _ = env.step(act(observation))
            total += reward
        returns.append(total)
    return float(np.mean(returns)), float(np.std(returns, ddof=1) / episodes**0.5)
