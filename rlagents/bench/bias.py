"""What a sampler that is not the policy does to the gradient, and what each correction undoes.

A bandit of five arms a turn, a softmax policy with its own logits at every prefix, one reward a
path. All paths can be listed, so bias and variance are computed, not sampled. The sampler's logits
are the policy's plus noise x N(0, 1). The estimate from one path is

    g = sum_t w_t A grad log policy(a_t | prefix),   A = reward - the sampler's mean reward

(that baseline is what the mean of a large group is), compared with the gradient G of the policy's
mean reward: `bias` is |E g - G| / |G|, `variance` the trace of g's covariance over |G|^2, and
`error` what both make of a batch of 256 paths, sqrt(bias^2 + variance / 256).

Letters: P paths, T turns, S prefixes, K arms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rlagents.algos.corrections import importance_weights
from rlagents.algos.objectives import clip_indicators, log_ratio
from rlagents.bench.report import Result, machine

ARMS, BATCH = 5, 256
NOISES = (0.1, 0.3, 1.0)
CORRECTIONS: dict[str, tuple[Literal["truncate", "mask"], float, float]] = {
    "TIS 2": ("truncate", 0.0, 2.0),
    "IcePop 0.5 to 2": ("mask", 0.5, 2.0),
    "full": ("truncate", 0.0, math.inf),
}
"""Name -> kind of weight and its bounds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bandit:
    """Policy, sampler and the reward of every path, in float64."""

    states_PT: Tensor
    """The number of the prefix that each action was chosen at."""
    actions_PT: Tensor
    policy_SK: Tensor
    """Logits."""
    sampler_SK: Tensor
    rewards_P: Tensor

    def logprobs(self, logits_SK: Tensor) -> Tensor:
        """[P, T] of the actions under these logits."""
        return logits_SK.log_softmax(1)[self.states_PT, self.actions_PT]

    def advantages(self) -> Tensor:
        """[P] the reward minus its mean under the sampler."""
        sampled_P = self.logprobs(self.sampler_SK).sum(1).exp()
        return self.rewards_P - sampled_P @ self.rewards_P


def random_bandit(seed: int, *, noise: float, turns: int) -> Bandit:
    """Logits and rewards are N(0, 1); a seed gives the same ones at every noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    path_P = torch.arange(ARMS**turns)
    # Prefixes are numbered by turn, and in a turn as the paths are: by their digits in base K.
    first_T = [sum(ARMS**u for u in range(t)) for t in range(turns + 1)]
    states = [first_T[t] + path_P // ARMS ** (turns - t) for t in range(turns)]
    actions = [path_P // ARMS ** (turns - 1 - t) % ARMS for t in range(turns)]
    policy_SK, rewards_P = normal(first_T[-1], ARMS), normal(ARMS**turns)
    return Bandit(
        states_PT=torch.stack(states, dim=1),
        actions_PT=torch.stack(actions, dim=1),
        policy_SK=policy_SK,
        sampler_SK=policy_SK + noise * normal(first_T[-1], ARMS),
        rewards_P=rewards_P,
    )


def weights(bandit: Bandit) -> dict[tuple[str, str], Tensor]:
    """(correction, level) -> [P, T] the weights w of the estimate.

    `clip to sampler` corrects nothing, but takes the clipped surrogate's ratio to the sampler
    itself: w is the ratio, and 0 where a bound of 0.2 stops the gradient.
    """
    policy_PT, sampler_PT = bandit.logprobs(bandit.policy_SK), bandit.logprobs(bandit.sampler_SK)
    ratio_PT = log_ratio(policy_PT, sampler_PT)
    paths, turns = ratio_PT.shape
    advantages_PT = bandit.advantages().unsqueeze(1).repeat(1, turns)
    low_PT, high_PT = clip_indicators(ratio_PT, advantages_PT, low=0.2, high=0.2)
    found = {
        ("none", "token"): torch.ones_like(ratio_PT),
        ("clip to sampler", "token"): ratio_PT.exp() * (1 - low_PT - high_PT),
    }
    units_PT = torch.arange(paths).unsqueeze(1).repeat(1, turns)
    levels: tuple[Literal["token", "sequence"], ...] = ("token", "sequence")
    for level in levels if turns > 1 else levels[:1]:
        for name, (weight, low, high) in CORRECTIONS.items():
            found[name, level] = importance_weights(
                policy_PT, sampler_PT, units_PT, weight=weight, level=level, low=low, high=high
            )
    return found


def measure(bandit: Bandit) -> dict[tuple[str, str], tuple[float, float]]:
    """(correction, level) -> (bias, variance)."""
    policy_P = bandit.logprobs(bandit.policy_SK).sum(1).exp()
    sampled_P = bandit.logprobs(bandit.sampler_SK).sum(1).exp()
    # grad log softmax, by the logits of the prefix: one at the action, minus the probabilities.
    states, arms = bandit.policy_SK.shape
    at_action_PTK = one_hot(bandit.actions_PT, arms) - bandit.policy_SK.softmax(1)[bandit.states_PT]
    at_prefix_PTS = one_hot(bandit.states_PT, states).double()

    def gradients(weights_PT: Tensor) -> Tensor:
        """[P, S x K] g of every path."""
        terms_PT = weights_PT * bandit.advantages().unsqueeze(1)
        g_PSK = torch.einsum("pt,pts,ptk->psk", terms_PT, at_prefix_PTS, at_action_PTK)
        return g_PSK.flatten(1)

    found: dict[tuple[str, str], tuple[float, float]] = {}
    for key, weights_PT in weights(bandit).items():
        true = policy_P @ gradients(torch.ones_like(weights_PT))
        each = gradients(weights_PT)
        mean = sampled_P @ each
        variance = sampled_P @ each.square().sum(1) - mean @ mean
        size = true.norm()
        found[key] = ((mean - true).norm() / size).item(), (variance / size**2).item()
    return found


def run(*, bandits: int = 200, turns: Sequence[int] = (1, 3)) -> Result:
    """Means over random bandits with their 95% intervals. Takes a few seconds."""
    rows: list[dict[str, Any]] = []
    for length in turns:
        for noise in NOISES:
            every = [
                measure(random_bandit(seed, noise=noise, turns=length)) for seed in range(bandits)
            ]
            for name, level in every[0]:
                found = [one[name, level] for one in every]
                row = {"turns": length, "noise": noise, "weights": name, "level": level}
                row |= _mean("bias", [bias for bias, _ in found])
                row |= _mean("variance", [variance for _, variance in found])
                row |= _mean("error", [math.sqrt(b**2 + v / BATCH) for b, v in found])
                rows.append(row)
    return Result(bench="bias", machine=machine(bandits=bandits), rows=rows)


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean, and half its 95% interval."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return {name: round(statistics.fmean(values), 3), f"{name} +-": round(half, 3)}
