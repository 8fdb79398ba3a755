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


def double_checking_fraction(doors: int, turns: int, waste: float, error: float) -> float:
    """Expected share of doors opened in `turns` turns by the expert of KeyRooms.

    A dynamic programme over turns. `new[k]` and `old[k]` are the probabilities that k doors are
    open and the door in front was just reached, or was looked at or answered wrongly before.
    """
    new, old = np.zeros(doors + 1), np.zeros(doors + 1)
    new[0] = 1.0
    for _ in range(turns):
        opening = old[:-1] + (1 - waste) * new[:-1]
        old = np.append(waste * new[:-1] + error * opening, 0.0)
        new = np.append(0.0, (1 - error) * opening) + np.append(np.zeros(doors), new[-1])
    return float((new + old) @ np.arange(doors + 1)) / doors


def double_checking_closed_form(doors: int, turns: int, waste: float, error: float) -> float:
    """The same as the sum over doors that the docstring of KeyRooms states."""
    in_time = 0.0
    for k in range(1, doors + 1):
        for looks in range(min(k, turns - k) + 1):
            left = turns - looks
            enough = sum(binomial(left, 1 - error, right) for right in range(k, left + 1))
            in_time += binomial(k, waste, looks) * enough
    return in_time / doors


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
