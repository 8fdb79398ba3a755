"""Episodes that are played again from their record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.policy.sampler import Finish, SampleRequest, Sampling
from rlagents.rollout.actors import PolicyActor
from rlagents.rollout.episode import Actor, TextEnv
from rlagents.rollout.recorded import FIRST, RecordedSampler, joined
from rlagents.rollout.worker import Job, RolloutWorker
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory, Turn, TurnKind
from tests.fakes import turn
from tests.rollout.toys import BYTES, LIMITS, SAMPLING, Parrot, Script, job, policy_actor, token_ids

OBSERVATIONS = "abcdefgh"


def player(
    sampler: Parrot, make_env: Callable[[Task], Script] = lambda task: Script(OBSERVATIONS)
) -> RolloutWorker:
    """A worker that answers from the record of its job first, as `build` makes them."""

    def make_actor(of: Job, env: TextEnv) -> Actor:
        source = RecordedSampler(sampler, of.recorded, BYTES) if of.recorded else sampler
        return policy_actor(source, of, window=64)

    return RolloutWorker(sampler=sampler, make_env=make_env, make_actor=make_actor, limits=LIMITS)


@pytest.fixture(scope="module")
def whole() -> Trajectory:
    return player(Parrot()).run(job())


@pytest.mark.parametrize("known", range(8))
def test_an_episode_goes_on_from_its_record(whole: Trajectory, known: int) -> None:
    sampler, env = Parrot(), Script(OBSERVATIONS)
    sampler.version = 3
    made = player(sampler, lambda task: env)
    again = made.run(replace(job(), recorded=whole.turns[:known]))
    assert token_ids(again) == token_ids(whole)
    assert (again.stop, again.episode_return) == (whole.stop, whole.episode_return)
    assert again.final_observation == whole.final_observation
    # Recorded turns are those of then; only what is new is sampled, with the seeds of its turns.
    assert again.turns[:known] == whole.turns[:known]
    assert [t.weights_version for t in again.turns] == [0] * known + [3] * (7 - known)
    seeds = [job().key.seed(0, number) for number in range(known + 1, 8)]
    assert [request.seed for request in sampler.requests] == seeds
    assert len(env.actions) == 7
    sizes = [len(t.action_ids) for t in whole.turns]
    assert made.played() == (7 - known, sum(sizes[known:]))


def other(**changes: Any) -> Callable[[Task], Script]:
    """The environment, but at its fourth step it says or pays something else."""

    def step(number: int) -> Any:
        if number == 3:
            return changes.get("says", "e"), changes.get("pays", 4.0), False, False, {}
        return None

    return lambda task: Script(OBSERVATIONS, step=step)


@pytest.mark.parametrize(("change", "turn"), [({"says": "E"}, 4), ({"pays": 0.5}, 3)])
def test_an_environment_that_does_not_repeat_itself(
    whole: Trajectory, change: dict[str, Any], turn: int
) -> None:
    made = player(Parrot(), other(**change))
    again = made.run(replace(job(), recorded=whole.turns[:6]))
    assert again.stop is StopReason.ENVIRONMENT_ERROR and again.error is not None
    assert again.error.boundary == "environment"
    assert again.error.message == (
        f"turn {turn} did not repeat itself when its episode was played again"
    )
    # What is not recorded may be anything.
    assert made.run(replace(job(), recorded=whole.turns[:3])).stop is StopReason.TERMINATED


def test_time_of_then_counts(whole: Trajectory) -> None:
    slow = tuple(replace(t, sampled_s=20.0, environment_s=5.0) for t in whole.turns[:4])
    again = player(Parrot()).run(replace(job(), recorded=slow))
    assert again.stop is StopReason.TIME_LIMIT  # 4 x 25 s of 60
    assert len(again.turns) == 4
    short = player(Parrot()).run(replace(job(), recorded=slow[:2]))
    assert short.stop is StopReason.TERMINATED and short.metrics["seconds"] >= 50


def request(prompt: Sequence[int], stop: tuple[str, ...] = ()) -> SampleRequest:
    return SampleRequest(
        conversation="c",
        prompt_ids=np.array(prompt, np.int32),
        sampling=Sampling(max_tokens=8, stop=stop),
        seed=1,
    )


@pytest.mark.parametrize(
    ("text", "ended", "stop", "spoken", "finish"),
    [
        ("go on", True, (), "go on", Finish.END),
        ("go on", False, (), "go on", Finish.LENGTH),
        ("go on.", False, (".",), "go on", Finish.STOP),
        ("go.on", True, (".", "o"), "g", Finish.END),
    ],
)
def test_the_text_is_what_an_engine_says(
    text: str, ended: bool, stop: tuple[str, ...], spoken: str, finish: Finish
) -> None:
    ids = BYTES.encode_action(text)
    ids = ids if ended else ids[:-1]
    known = replace(turn(), action_ids=ids, behaviour_logprobs=np.zeros(len(ids), np.float32))
    sampler = RecordedSampler(Parrot(), [known], BYTES)
    sampled = sampler.sample(request([5, 10, 11], stop)).result(0)
    assert (sampled.text, sampled.finish) == (spoken, finish)
    assert sampled.ids is ids


def test_a_prompt_that_is_another_is_refused() -> None:
    for prompt in ([5, 10, 12], [11], [10, 11, 5]):
        sampler = RecordedSampler(Parrot(), [turn()], BYTES)
        error = sampler.sample(request(prompt)).exception(0)
        assert error is not None and "turn 0 did not repeat itself" in str(error)


def test_everything_else_is_the_samplers() -> None:
    parrot = Parrot()
    sampler = RecordedSampler(parrot, [turn()], BYTES)
    actor = PolicyActor(
        sampler,
        policy_actor(parrot, job())._window,
        SAMPLING,
        key=job().key,
        base_seed=0,
        timeout_s=1,
    )
    actor.close()
    sampler.load({}, 4)
    sampler.close()
    assert (parrot.released, parrot.version, parrot.closed) == ([str(job().key)], 4, 1)


# --- snapshots ----------------------------------------------------------------------------------


def part(number: int, first: int, turns: Sequence[Turn], member: int = 0) -> Trajectory:
    return Trajectory(
        key=EpisodeKey(stream=f"paused/{number}", iteration=2, group=1, member=member),
        task=job().task,
        turns=tuple(turns),
        final_observation="",
        stop=StopReason.PAUSED,
        metrics={FIRST: float(first)},
    )


TURNS = [turn(i) for i in range(6)]
KEY = EpisodeKey(stream="train", iteration=2, group=1, member=0)


def test_snapshots_are_put_together_in_their_order() -> None:
    parts = [part(10, 4, TURNS[4:]), part(2, 0, TURNS[:1]), part(9, 1, TURNS[1:4])]
    assert joined(parts) == {KEY: tuple(TURNS)}
    other = part(3, 0, TURNS[:2], member=1)
    assert joined([*parts, other])[replace(KEY, member=1)] == tuple(TURNS[:2])


def test_what_follows_a_lost_snapshot_is_left_out() -> None:
    assert joined([part(2, 0, TURNS[:1]), part(4, 3, TURNS[3:])]) == {KEY: tuple(TURNS[:1])}
    assert joined([part(4, 3, TURNS[3:])]) == {}
    # The next one begins where what could be read ended.
    later = part(5, 1, TURNS[1:])
    assert joined([part(2, 0, TURNS[:1]), part(4, 3, TURNS[3:]), later]) == {KEY: tuple(TURNS)}


@given(st.lists(st.integers(1, 3), max_size=6), st.data())
def test_whatever_is_lost_the_rest_is_a_beginning(sizes: list[int], data: st.DataObject) -> None:
    turns = [turn(i) for i in range(sum(sizes))]
    ends = np.cumsum(sizes).tolist()
    parts = [
        part(n, end - size, turns[end - size : end])
        for n, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    kept = data.draw(st.lists(st.sampled_from(parts), unique_by=id)) if parts else []
    whole = 0
    while whole < len(parts) and any(p is parts[whole] for p in kept):
        whole += 1
    assert joined(kept).get(KEY, ()) == tuple(turns[: ends[whole - 1] if whole else 0])


def test_a_turn_of_another_kind_is_no_repetition(whole: Trajectory) -> None:
    changed = replace(whole.turns[1], kind=TurnKind.SUMMARY)
    recorded = (whole.turns[0], changed, *whole.turns[2:4])
    assert player(Parrot()).run(replace(job(), recorded=recorded)).stop.failed
