"""Deliberately broken environments: each breaks one rule of an otherwise sound one."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np

from rlagents.envs.spaces import UnicodeText


class Sound(gymnasium.Env[str, str]):
    """Three turns; the base that the broken ones spoil. Also the smallest legal environment."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space: gymnasium.Space[str] = UnicodeText(100)
        self.action_space: gymnasium.Space[str] = UnicodeText(100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return f"task {self.np_random.integers(1000)}", {}

    def step(self, action):
        self.turn += 1
        return "next", 0.5, self.turn == 3, False, {"metrics": {"turn": float(self.turn)}}


class NumberObservation(Sound):
    def step(self, action):
        return (7, *super().step(action)[1:])


class NumberFirstObservation(Sound):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2), super().reset(seed=seed)[1]


_serial = itertools.count()


class Nondeterministic(Sound):
    def step(self, action):
        return (f"call {next(_serial)}", *super().step(action)[1:])


class NondeterministicReset(Sound):
    def reset(self, *, seed=None, options=None):
        return f"task {next(_serial)}", super().reset(seed=seed)[1]


class RaisesInStep(Sound):
    def step(self, action):
        if self.turn == 1:
            raise KeyError("no such room")
        return super().step(action)


class RaisesOnOddAction(Sound):
    def step(self, action):
        return (action.split()[0], *super().step(action)[1:])


class RaisesInReset(Sound):
    def reset(self, *, seed=None, options=None):
        raise OSError("the data is missing")


class RaisesInInit(Sound):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class RaisesInClose(Sound):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ValueError("already closed")
        self.closed = True


class BothFlags(Sound):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, terminated, info


class NumpyFlag(Sound):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, np.bool_(terminated), truncated, info


class RewardNaN(Sound):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


class RewardText(Sound):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, "1.0", *rest


class NeverEnds(Sound):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class ResetWithoutOptions(Sound):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class ResetReturnsText(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class FourTuple(Sound):
    def step(self, action):
        return super().step(action)[:4]


class AlphanumericSpace(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Text(100)


class DiscreteSpace(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(3)  # type: ignore[assignment]


class OutsideSpace(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = UnicodeText(3)


class SurrogateObservation(Sound):
    def step(self, action):
        return ("\ud800", *super().step(action)[1:])


class MetricText(Sound):
    def step(self, action):
        return (*super().step(action)[:4], {"metrics": {"rooms": "three"}})


class Promising(Sound):
    """Sound, and reports how much a state promises."""

    potentials: tuple[object, ...] = (0.0, 0.25, 0.5, 0.0)

    def info(self):
        return {"potential": self.potentials[self.turn]}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info()

    def step(self, action):
        return (*super().step(action)[:4], self.info())


class PotentialNaN(Promising):
    potentials = (0.0, float("nan"), 0.5, 0.0)


class PotentialText(Promising):
    potentials = ("0.5", 0.0, 0.0, 0.0)


class PotentialFlag(Promising):
    potentials = (True, True, True, False)


class PotentialOfTwoTypes(Promising):
    potentials = (0.0, 0.5, 1, 0.0)


class PotentialSometimes(Promising):
    def info(self):
        return super().info() if self.turn < 2 else {}


class WeakOracle(Sound):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(action == "random"), *rest


WeakOracle.scripted = {  # type: ignore[attr-defined]
    "random": lambda env, rng: lambda observation: "random",
    "oracle": lambda env, rng: lambda observation: "oracle",
}


class SilentScript(Sound):
    pass


SilentScript.scripted = {"expert": lambda env, rng: lambda observation: None}  # type: ignore[attr-defined]


class OneTask(Sound):
    def reset(self, *, seed=None, options=None):
        return "the same task", super().reset(seed=seed)[1]
