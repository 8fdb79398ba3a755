"""Does an environment keep the contract? One suite for ours and for yours.

    report = check("your_module:YourTask-v0", {"size": 3})
    print(report)
    assert report.ok

Every finding is a named check with a reason; nothing the environment does escapes as a traceback.
An environment that never returns from a call is outside of what can be checked here: the rollout
bounds it (`rollout.env_timeout_s`).
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from rlagents.envs import find_spec, unknown_kwargs
from rlagents.envs.recording import (
    Broken,
    Played,
    answering,
    check_flags,
    check_info,
    check_observations,
    check_rewards,
    check_same,
    check_shape,
    check_text,
    is_step,
    play,
    policy,
    show,
)
from rlagents.errors import EnvironmentFailure, RlagentsError, boundary, nearest

Factory = Callable[..., gymnasium.Env[Any, Any]]

ODD_ACTIONS = (
    "",
    " ",
    "\n",
    "two words",
    "line one\nline two",
    "é",
    "🙂 中文",
    "\x00\x07\x1b[2J",
    "{}",
    "x" * 10_000,
)
"""What a language model may write: each must be inside of the action space (but for the last,
where `max_length` is shorter) and be answered without an exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    passed: bool
    reason: str = ""
    """Why it failed, in one line; empty when it passed."""
    advisory: bool = False
    """A failure is worth knowing, and doesn't make the environment unusable."""

    def __str__(self) -> str:
        mark = "pass" if self.passed else "note" if self.advisory else "FAIL"
        return f"{mark}  {self.name}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings on one environment."""

    env: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True when everything passed that is not advisory."""
        return all(check.passed or check.advisory for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that make the environment fail."""
        return tuple(c for c in self.checks if not (c.passed or c.advisory))

    def __str__(self) -> str:
        verdict = (
            "conforms" if self.ok else f"failed {len(self.failures)} of {len(self.checks)} checks"
        )
        return "\n".join([*map(str, self.checks), f"{self.env}: {verdict}"])


def check(
    env: str | Factory,
    kwargs: Mapping[str, Any] | None = None,
    *,
    episodes: int = 3,
    max_turns: int = 2_000,
) -> Report:
    """Run the suite.

    Args:
        env: a Gymnasium id (`module:Id-v0` included), or what makes the environment.
        kwargs: keyword arguments for making it.
        episodes: seeds 0, 1, ... that are played.
        max_turns: an episode must end within this many turns.

    Raises:
        ValueError: when `episodes` or `max_turns` is below 1.
    """
    if episodes < 1 or max_turns < 1:
        raise ValueError(f"expected at least 1, got {episodes=} and {max_turns=}")
    suite = _Suite(env, dict(kwargs or {}), episodes, max_turns)
    return Report(env=suite.title, checks=tuple(suite.run()))


class _Suite:
    """The checks, in the order in which they make sense; later ones assume the earlier ones."""

    def __init__(
        self, env: str | Factory, kwargs: dict[str, Any], episodes: int, max_turns: int
    ) -> None:
        self.env, self.kwargs = env, kwargs
        self.episodes, self.max_turns = episodes, max_turns
        self.title = env if isinstance(env, str) else getattr(env, "__name__", repr(env))
        self.played: list[Played] = []

    def run(self) -> Iterator[Check]:
        """Yield the findings. Stops early where nothing further can be known."""
        for name, test in (("make", self._made), ("reset", self._reset)):
            yield (found := _verdict(name, test))
            if not found.passed:
                return
        yield _verdict("spaces", self._spaces)
        yield (stepped := _verdict("step", self._step))
        yield _verdict("odd actions", self._odd_actions)
        yield _verdict("observations are text", self._observations)
        yield _verdict("rewards are finite numbers", lambda: self._each(check_rewards))
        yield _verdict("flags", lambda: self._each(check_flags))
        yield _verdict("info", self._info)
        if stepped.passed:
            yield _verdict("episodes end", self._ends)
            yield _verdict("deterministic", self._deterministic)
            yield _verdict("seeds differ", self._seeds_differ, advisory=True)
            yield _verdict("scripted policies", self._scripted)
        yield _verdict("close twice", self._close_twice)
        yield from self._gymnasium()

    def _make(self) -> gymnasium.Env[Any, Any]:
        with answering("making the environment"):
            if isinstance(self.env, str):
                return gymnasium.make(self.env, disable_env_checker=True, **self.kwargs)
            return self.env(**self.kwargs)

    @contextmanager
    def _open(self) -> Iterator[gymnasium.Env[Any, Any]]:
        env = self._make()
        try:
            yield env
        finally:
            with answering("close()"):
                env.close()

    def _each(self, test: Callable[[Played], None]) -> None:
        for played in self.played:
            test(played)

    def _made(self) -> None:
        if isinstance(self.env, str):
            find_spec(self.env)
            for name, known in unknown_kwargs(self.env, self.kwargs):
                listed = ", ".join(known) or "none"
                raise Broken(f"no argument {name!r} (known: {listed}){nearest(name, known)}")
        env = self._make()
        if not isinstance(env, gymnasium.Env):
            raise Broken(f"expected a gymnasium.Env, got {type(env).__name__}")
        with answering("close()"):
            env.close()

    def _reset(self) -> None:
        with self._open() as env:
            parameters = inspect.signature(env.unwrapped.reset).parameters
            for name in ("seed", "options"):
                if name not in parameters or parameters[name].default is not None:
                    raise Broken(
                        f"reset must be `reset(self, *, seed=None, options=None)`; {name!r} is "
                        f"{'missing' if name not in parameters else 'not None by default'}"
                    )
            for seed in range(self.episodes):
                with answering(f"reset(seed={seed})"):
                    result: Any = env.reset(seed=seed)
                if not isinstance(result, tuple) or len(result) != 2:
                    raise Broken(f"reset must return (observation, info), got {show(result)}")
                if not isinstance(result[1], dict):
                    raise Broken(f"reset must return info as a dict, got {show(result[1])}")

    def _spaces(self) -> None:
        with self._open() as env:
            for name in ("action_space", "observation_space"):
                space = getattr(env, name, None)
                if not isinstance(space, spaces.Text):
                    raise Broken(
                        f"{name} must be a text space such as rlagents.envs.spaces.UnicodeText, "
                        f"got {type(space).__name__}"
                    )
                for text in ODD_ACTIONS:
                    if len(text) <= space.max_length and text not in space:
                        raise Broken(
                            f"{name} excludes {show(text)}: use "
                            f"rlagents.envs.spaces.UnicodeText({space.max_length})"
                        )

    def _step(self) -> None:
        """Play the episodes that most other checks look at."""
        for seed in range(self.episodes):
            with self._open() as env:
                self.played.append(play(env, seed, max_turns=self.max_turns))
        self._each(check_shape)

    def _odd_actions(self) -> None:
        with self._open() as env:
            for action in ODD_ACTIONS:
                with answering("reset(seed=0)"):
                    env.reset(seed=0)
                with answering(f"step({show(action)})"):
                    step = env.step(action)
                if is_step(step):
                    check_text(step[0], f"step({show(action)})")

    def _observations(self) -> None:
        with self._open() as env:
            space = env.observation_space
        self._each(lambda played: check_observations(played, space))

    def _info(self) -> None:
        self._each(check_info)
        with self._open() as env:
            for played in self.played:
                with answering(f"reset(seed={played.seed})"):
                    info = env.reset(seed=played.seed)[1]
                check_potentials(played, info)

    def _ends(self) -> None:
        for played in self.played:
            if not played.ended:
                raise Broken(
                    f"seed {played.seed} did not end within {self.max_turns} turns of the random "
                    "policy: end it, or register with max_episode_steps"
                )

    def _deterministic(self) -> None:
        """The same seed and actions again: in a new environment, then again in that one."""
        with self._open() as env:
            if env.spec is not None and env.spec.nondeterministic:
                return
            for old in (*self.played, self.played[0]):
                again = play(env, old.seed, max_turns=self.max_turns, actions=old.actions)
                check_same(old, again)

    def _seeds_differ(self) -> None:
        """Fixed actions, several seeds: something must come out differently."""
        actions = self.played[0].actions[:32]
        with self._open() as env:
            plays = [play(env, seed, max_turns=32, actions=actions) for seed in range(8)]
        seen = [(p.first, [step[:2] for _, step in p.results()]) for p in plays]
        if all(other == seen[0] for other in seen):
            raise Broken("8 seeds gave the same task")

    def _scripted(self) -> None:
        """Each scripted policy plays; the oracle is at least as good as the random one."""
        with self._open() as env:
            names = tuple(getattr(env.unwrapped, "scripted", {}))
        seeds = range(self.episodes)
        means = {n: float(np.mean([self._return(n, seed) for seed in seeds])) for n in names}
        if {"oracle", "random"} <= means.keys() and means["oracle"] < means["random"] - 1e-9:
            raise Broken(f"oracle scores {means['oracle']:.3f}, random {means['random']:.3f}")

    def _return(self, name: str, seed: int) -> float:
        with self._open() as env, answering(f"scripted policy {name!r}, seed {seed}"):
            observation, _ = env.reset(seed=seed)
            act = policy(env, name, seed)
            total = 0.0
            for _ in range(self.max_turns):
                action = act(observation)
                if not isinstance(action, str):
                    raise Broken(f"policy {name!r} must say a string, got {show(action)}")
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                if terminated or truncated:
                    return total
            raise Broken(f"policy {name!r}, seed {seed}: no end within {self.max_turns} turns")

    def _close_twice(self) -> None:
        with self._open() as env, answering("close()"):
            env.close()

    def _gymnasium(self) -> Iterator[Check]:
        """Gymnasium's own suite, and what it only warns about."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = _verdict("gymnasium check_env", self._check_env, quiet=False)
        yield found
        # A factory makes no spec, which check_env mentions each time.
        told = [str(w.message) for w in caught if "not having a spec" not in str(w.message)]
        yield Check(
            name="gymnasium warnings",
            passed=not told,
            reason=_clean("; ".join(dict.fromkeys(told))),
            advisory=True,
        )

    def _check_env(self) -> None:
        with self._open() as env, answering("check_env"):
            check_env(env.unwrapped, skip_render_check=True)


def check_potentials(played: Played, info: Mapping[str, Any]) -> None:
    """`info["potential"]` is reported always or never, as finite numbers of one type.

    Args:
        played: every info of it is a dict.
        info: what `reset` gave under the same seed.
    """
    infos = [(f"reset(seed={played.seed})", info)]
    infos += [(where, step[4]) for where, step in played.results()]
    found = [(where, i["potential"]) for where, i in infos if "potential" in i]
    if not found:
        return
    # A state without a potential reads as one that promises 0, so a gap would be paid as a fall.
    for where, i in infos:
        if "potential" not in i:
            raise Broken(f"{where}: info['potential'] is missing, but {found[0][0]} has one")
    for where, value in found:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise Broken(f"{where}: info['potential'] must be a finite float, got {show(value)}")
        if type(value) is not type(found[0][1]):
            raise Broken(
                f"{where}: info['potential'] must keep its type, "
                f"got {show(found[0][1])}, then {show(value)}"
            )


def _verdict(
    name: str, test: Callable[[], None], *, advisory: bool = False, quiet: bool = True
) -> Check:
    """Run a test; whatever it raises is the reason why the check failed."""
    try:
        with warnings.catch_warnings(), boundary(EnvironmentFailure, name):
            if quiet:
                warnings.simplefilter("ignore")
            test()
    except RlagentsError as found:
        return Check(name=name, passed=False, reason=_clean(str(found)), advisory=advisory)
    return Check(name=name, passed=True, advisory=advisory)


def _clean(text: str) -> str:
    """One line, without Gymnasium's colour codes."""
    text = text.replace("\x1b[33m", "").replace("\x1b[0m", "")
    return " ".join(text.split())[:500]
