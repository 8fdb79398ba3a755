from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlagents.errors import ConfigError, EnvironmentFailure, SandboxBroken
from rlagents.journal.codec import decode_trajectory, encode_trajectory
from rlagents.rollout.actors import ScriptedActor
from rlagents.rollout.episode import Action, Limits, run_episode
from rlagents.types import StopReason, Trajectory
from tests.rollout.toys import BYTES, LIMITS, Failing, Parrot, Script, job, policy_actor, progress


def play(
    env: Any = None,
    sampler: Any = None,
    *,
    make: Callable[[Any], Any] | None = None,
    window: int = 128,
    **limits: Any,
) -> Trajectory:
    """One episode, which must also fit into the journal."""
    env, sampler = env or Script(), sampler or Parrot()
    trajectory = run_episode(
        progress(),
        make or (lambda task: env),
        lambda made: policy_actor(sampler, job(), window=window),
        dataclasses.replace(LIMITS, **limits),
    )
    assert encode_trajectory(trajectory)
    return trajectory


def test_an_episode_by_hand() -> None:
    env, sampler = Script(("card", "north", "end")), Parrot("go")
    trajectory = play(env, sampler)
    assert trajectory.stop is StopReason.TERMINATED and trajectory.error is None
    assert env.actions == ["go", "go"] and env.seeds == [6] and env.closed == 1
    first, second = trajectory.turns
    assert (first.observation, second.observation) == ("card", "north")
    assert trajectory.final_observation == "end"
    assert trajectory.episode_return == 1 + 2
    user, end = 258, 257
    go = [ord("g"), ord("o"), end]
    assert first.observation_ids.tolist() == [user, *b"card"]
    assert second.observation_ids.tolist() == [user, *b"north"]
    assert first.action_ids.tolist() == second.action_ids.tolist() == go
    assert first.behaviour_logprobs.tolist() == [-0.5] * 3
    whole = [user, *b"card", *go, user, *b"north"]
    assert sampler.requests[1].prompt_ids.tolist() == whole
    assert sampler.released == ["train/0/0/0"]
    assert trajectory.metrics["env/steps"] == 2


def test_each_turn_has_its_own_seed_and_all_follow_from_the_key() -> None:
    samplers = [Parrot(), Parrot()]
    for sampler in samplers:
        play(sampler=sampler)
    seeds = [[request.seed for request in sampler.requests] for sampler in samplers]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


@pytest.mark.parametrize(
    ("limits", "stop", "turns"),
    [
        ({"max_turns": 2}, StopReason.TURN_LIMIT, 2),
        # An action has three tokens: after the second turn six of five are sampled.
        ({"max_tokens": 5}, StopReason.TOKEN_LIMIT, 2),
        ({"max_tokens": 6}, StopReason.TOKEN_LIMIT, 2),
        ({"max_tokens": 7}, StopReason.TOKEN_LIMIT, 3),
        ({"max_seconds": 1e-9}, StopReason.TIME_LIMIT, 0),
    ],
)
def test_limits(limits: dict[str, Any], stop: StopReason, turns: int) -> None:
    env = Script("abcdefgh")
    trajectory = play(env, **limits)
    assert trajectory.stop is stop and trajectory.stop.cut
    assert len(trajectory.turns) == turns
    assert trajectory.final_observation == "abcdefgh"[turns]
    assert env.closed == 1
    # The metrics are those of the last step, whoever stopped the episode.
    assert trajectory.metrics.get("env/steps") == (turns or None)


def test_truncated_and_terminated_keep_gymnasiums_meaning() -> None:
    assert play(Script(step=lambda n: ("x", 0, False, True, {}))).stop is StopReason.TRUNCATED
    both = play(Script(step=lambda n: ("x", 0, np.bool_(True), np.bool_(True), {})))
    assert both.stop is StopReason.TERMINATED


def test_an_observation_larger_than_a_window_is_a_context_limit() -> None:
    # 32 = the user token, 23 bytes, and 8 for the action.
    assert play(Script(("x" * 23, "end")), window=32).stop is StopReason.TERMINATED
    trajectory = play(Script(("x" * 24, "end")), window=32)
    assert trajectory.stop is StopReason.CONTEXT_LIMIT and not trajectory.turns
    later = play(Script(("a", "x" * 40, "end")), window=32)
    assert later.stop is StopReason.CONTEXT_LIMIT and len(later.turns) == 1


def boom(*_: Any) -> Any:
    raise RuntimeError("boom")


def leave(*_: Any) -> Any:
    raise SystemExit(3)


def misconfigured(*_: Any) -> Any:
    raise ConfigError("env.kwargs: no such thing")


BROKEN = {
    "make raises": (None, boom, "making the environment: RuntimeError: boom", 0),
    "make exits": (None, leave, "making the environment: SystemExit: 3", 0),
    "make refuses": (None, misconfigured, "making the environment: ConfigError", 0),
    "reset raises": (Script(reset=boom), None, "reset: RuntimeError: boom", 0),
    "reset gives a number": (
        Script((7, "b")),
        None,
        "reset: TypeError: expected an observation",
        0,
    ),
    "reset gives bytes": (Script((b"x", "b")), None, "type str, got bytes", 0),
    "reset gives text alone": (Script(reset=lambda: "ab"), None, "expected info to be a dict", 0),
    "reset gives a surrogate": (Script(("a\ud800", "b")), None, "surrogate at character 1", 0),
    "step raises": (Script(step=boom), None, "step 0: RuntimeError: boom", 0),
    "step exits": (Script(step=leave), None, "step 0: SystemExit: 3", 0),
    "step runs out": (Script(step=lambda n: next(iter(()))), None, "step 0: StopIteration", 0),
    "step gives None": (Script(("a", None, "c")), None, "step 0: TypeError: expected an obs", 0),
    "step gives a surrogate": (Script(("a", "b", "\udfff")), None, "step 1: ValueError", 1),
    "step gives four": (Script(step=lambda n: ("x", 0, True, {})), None, "not enough values", 0),
    "reward is NaN": (Script(step=lambda n: ("x", np.nan, 0, 0, {})), None, "got nan", 0),
    "reward is infinite": (Script(step=lambda n: ("x", np.inf, 0, 0, {})), None, "got inf", 0),
    "reward is too large": (Script(step=lambda n: ("x", 1e39, 0, 0, {})), None, "float32", 0),
    "reward is text": (Script(step=lambda n: ("x", "0.5", 0, 0, {})), None, "that is a number", 0),
    "reward is None": (Script(step=lambda n: ("x", None, 0, 0, {})), None, "step 0: TypeError", 0),
    "info is None": (Script(step=lambda n: ("x", 0, 1, 0, None)), None, "info to be a dict", 0),
    "potential is NaN": (
        Script(step=lambda n: ("x", 0, 0, 0, {"potential": np.nan})),
        None,
        "step 0: ValueError: expected an info['potential'] that is a finite float32, got nan",
        0,
    ),
    "potential is infinite": (
        Script(reset=lambda: ("x", {"potential": -np.inf})),
        None,
        "reset: ValueError: expected an info['potential'] that is a finite float32, got -inf",
        0,
    ),
    "potential is None": (
        Script(reset=lambda: ("x", {"potential": None})),
        None,
        "reset: TypeError: expected an info['potential'] that is a number, got NoneType",
        0,
    ),
    "potential is text": (
        Script(step=lambda n: ("x", 0, 0, 0, {"potential": "0.5"}) if n else None),
        None,
        "step 1: TypeError: expected an info['potential'] that is a number, got str",
        1,
    ),
    "flags are arrays": (Script(step=lambda n: ("x", 0, np.ones(2), 0, {})), None, "step 0", 0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_ends_one_trajectory_with_a_reason(name: str) -> None:
    env, make, message, turns = BROKEN[name]
    trajectory = play(env, make=make)
    assert trajectory.stop is StopReason.ENVIRONMENT_ERROR
    assert trajectory.error is not None
    assert trajectory.error.boundary == "environment"
    assert message in trajectory.error.message
    assert len(trajectory.turns) == turns
    assert env is None or env.closed == 1


def test_a_sandbox_keeps_its_name() -> None:
    def broken(number: int) -> Any:
        raise SandboxBroken("no disk")

    trajectory = play(Script(step=broken))
    assert trajectory.stop is StopReason.ENVIRONMENT_ERROR
    assert trajectory.error and trajectory.error.boundary == "sandbox"


@pytest.mark.parametrize("failure", [boom, leave, misconfigured])
def test_a_failure_to_close_does_not_void_a_finished_episode(failure: Any) -> None:
    trajectory = play(Script(close=failure))
    assert trajectory.stop is StopReason.TERMINATED and trajectory.error is None


def test_the_environment_is_closed_even_where_the_actor_fails_to() -> None:
    class Leaky(Parrot):
        def release(self, conversation: str) -> None:
            raise RuntimeError("release failed")

    env = Script()
    assert play(env, Leaky()).stop is StopReason.TERMINATED
    assert env.closed == 1


def promising(*potentials: Any, last: tuple[bool, bool] = (True, False)) -> Script:
    """An environment that reports these potentials, the first one at reset; None is no report."""

    def info(number: int) -> dict[str, Any]:
        return {} if potentials[number] is None else {"potential": potentials[number]}

    def step(number: int) -> Any:
        flags = last if number + 2 == len(potentials) else (False, False)
        return ("x", 0.0, *flags, info(number + 1))

    return Script(reset=lambda: ("x", info(0)), step=step)


def potentials_of(trajectory: Trajectory) -> list[float]:
    return [turn.potential for turn in trajectory.turns] + [trajectory.final_potential]


def test_a_turn_has_the_potential_of_the_state_that_it_acts_in() -> None:
    # What the environment reports of the state after the end does not count.
    assert potentials_of(play(promising(1.0, 3, np.float32(2.5), 7))) == [1, 3, 2.5, 0]
    cut = play(promising(1.0, 3, 2.5, 7, last=(False, True)))
    assert cut.stop is StopReason.TRUNCATED and potentials_of(cut) == [1, 3, 2.5, 7]


def test_an_episode_that_we_cut_keeps_the_potential_of_its_last_state() -> None:
    trajectory = play(promising(1, 3, 2, 7, 8), max_turns=2)
    assert trajectory.stop is StopReason.TURN_LIMIT and potentials_of(trajectory) == [1, 3, 2]
    none = play(promising(1, 3), max_turns=0)
    assert potentials_of(none) == [1]
    # The observation "x" and its user token, which leave no room for an action of 8 tokens.
    assert potentials_of(play(promising(4, 3), window=9)) == [4]


def test_a_state_without_a_potential_promises_nothing() -> None:
    assert potentials_of(play()) == [0, 0, 0]
    assert potentials_of(play(promising(2, None, 3, None, last=(False, True)))) == [2, 0, 3, 0]


def test_potentials_come_back_from_the_journal() -> None:
    trajectory = play(promising(0.1, -3.5, 2**-140, 7, last=(False, True)))
    back = decode_trajectory(encode_trajectory(trajectory))
    assert potentials_of(back) == potentials_of(trajectory) == [0.1, -3.5, 2**-140, 7]


@pytest.mark.parametrize("reward", [True, 1, np.float32(1), np.array(1)])
def test_what_counts_as_a_number(reward: Any) -> None:
    assert play(Script(step=lambda n: ("x", reward, True, False, {}))).episode_return == 1.0


def test_a_subclass_of_str_becomes_plain_text() -> None:
    class Loud(str):
        def __str__(self) -> str:
            return "LOUD"

    trajectory = play(Script((np.str_("a"), Loud("b"), np.str_("c"))))
    texts = [turn.observation for turn in trajectory.turns] + [trajectory.final_observation]
    assert texts == ["a", "b", "c"]
    assert {type(text) for text in texts} == {str}


def test_metrics_are_finite_numbers_only() -> None:
    metrics = {
        "a": 1,
        "b": np.float32(0.5),
        "flag": True,
        "text": "x",
        "nan": np.nan,
        "inf": -np.inf,
        "huge": 10**400,
        "array": np.ones(2),
        "none": None,
        "complex": 1j,
    }
    found = play(Script(step=lambda n: ("x", 0, True, False, {"metrics": metrics}))).metrics
    assert found == {"env/a": 1, "env/b": 0.5, "env/flag": 1, "seconds": found["seconds"]}
    nothing = play(Script(step=lambda n: ("x", 0, True, False, {"metrics": 3}))).metrics
    assert set(nothing) == {"seconds"}


def test_an_empty_action_reaches_the_environment_as_it_is() -> None:
    env = Script()
    trajectory = play(env, Parrot(""))
    assert env.actions == ["", ""]
    assert trajectory.stop is StopReason.TERMINATED
    assert [turn.action_ids.tolist() for turn in trajectory.turns] == [[BYTES.end_id]] * 2


@pytest.mark.parametrize(
    ("error", "kind"), [(None, "SamplerError"), (ValueError("bad page"), "ValueError")]
)
def test_a_sampler_that_fails_is_data(error: Exception | None, kind: str) -> None:
    env = Script()
    trajectory = play(env, Failing(error))
    assert trajectory.stop is StopReason.SAMPLER_ERROR and not trajectory.turns
    assert trajectory.error and trajectory.error.kind == kind
    assert trajectory.final_observation == "a" and env.closed == 1 and env.actions == []


def test_a_sampler_that_breaks_its_contract_is_data() -> None:
    class Short(Parrot):
        def sample(self, request: Any) -> Any:
            future = super().sample(request)
            answer = dataclasses.replace(future.result(), logprobs=np.zeros(1, np.float32))
            future = type(future)()
            future.set_result(answer)
            return future

    trajectory = play(sampler=Short())
    assert trajectory.stop is StopReason.SAMPLER_ERROR
    assert trajectory.error and "must both be [A]" in trajectory.error.message


class TestScripted:
    def play(self, act: Callable[[str], Any], env: Any = None) -> Trajectory:
        def make(made: Any) -> ScriptedActor:
            return ScriptedActor(act, None, BYTES.encode_action)

        trajectory = run_episode(progress(), lambda task: env or Script(), make, LIMITS)
        assert encode_trajectory(trajectory)
        return trajectory

    def test_its_actions_get_ids_and_are_certain(self) -> None:
        trajectory = self.play(lambda observation: observation.upper())
        assert [turn.action for turn in trajectory.turns] == ["A", "B"]
        assert [turn.action_ids.tolist() for turn in trajectory.turns] == [[65, 257], [66, 257]]
        assert not any(turn.behaviour_logprobs.any() for turn in trajectory.turns)

    def test_numpy_text_is_text(self) -> None:
        trajectory = self.play(lambda observation: np.str_("x"))
        assert {type(turn.action) for turn in trajectory.turns} == {str}

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (boom, "scripted policy: RuntimeError: boom"),
            (lambda o: 3, "expected an action of type str, got int"),
            (lambda o: "\ud800", "lone surrogate"),
        ],
    )
    def test_a_broken_script_is_the_environments_failure(self, act: Any, message: str) -> None:
        trajectory = self.play(act)
        assert trajectory.stop is StopReason.ENVIRONMENT_ERROR
        assert trajectory.error and message in trajectory.error.message


def test_an_actor_that_can_not_be_made() -> None:
    def attempt(error: Exception) -> tuple[Script, Any]:
        env = Script()

        def make(made: Any) -> Any:
            raise error

        return env, lambda: run_episode(progress(), lambda task: env, make, LIMITS)

    # A script that does not exist is the user's mistake: it ends the command, not an episode.
    env, run = attempt(ConfigError("no scripted policy 'x'"))
    with pytest.raises(ConfigError, match="'x'"):
        run()
    assert env.closed == 1
    env, run = attempt(KeyError("x"))
    assert run().stop is StopReason.ENVIRONMENT_ERROR
    assert env.closed == 1


def test_whoever_finishes_first_decides() -> None:
    playing = progress()
    first = playing.finish(StopReason.TERMINATED)
    assert playing.finish(StopReason.TIME_LIMIT) is first
    # The thread of an episode that the watchdog has ended stops at the next turn.
    env, actions = Script(), []

    class Counting:
        def act(self, observation: str) -> Action | None:
            actions.append(observation)
            return None

        def close(self) -> None: ...

    result = run_episode(playing, lambda task: env, lambda made: Counting(), LIMITS)
    assert result is first and not actions and env.closed == 1


def test_each_turn_is_shown_as_it_happens() -> None:
    shown: list[tuple[int, str, float]] = []
    run_episode(
        progress(),
        lambda task: Script(),
        lambda env: policy_actor(Parrot(), job()),
        LIMITS,
        lambda number, turn: shown.append((number, turn.observation, turn.reward)),
    )
    assert shown == [(0, "a", 1.0), (1, "b", 2.0)]


def test_options_reach_the_environment() -> None:
    seen: list[Any] = []

    class Optioned(Script):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seen.append(options)
            return super().reset(seed=seed)

    for options in ({}, {"level": 2}):
        playing = progress()
        playing.task = dataclasses.replace(playing.task, options=options)
        run_episode(
            playing,
            lambda task: Optioned(),
            lambda env: policy_actor(Parrot(), job()),
            LIMITS,
        )
    assert seen == [None, {"level": 2}]


def test_limits_are_checked_before_the_first_turn() -> None:
    limits = Limits(
        max_turns=0, max_tokens=1, max_seconds=60, env_timeout_s=60, sampler_timeout_s=60
    )
    sampler = Parrot()
    trajectory = run_episode(
        progress(), lambda task: Script(), lambda env: policy_actor(sampler, job()), limits
    )
    assert trajectory.stop is StopReason.TURN_LIMIT and not sampler.requests


def test_failures_are_named_by_their_kind() -> None:
    record = EnvironmentFailure("x").record()
    assert (record.boundary, record.kind) == ("environment", "EnvironmentFailure")
    trajectory = play(Script(step=boom))
    assert trajectory.error and trajectory.error.kind == "RuntimeError"
