"""Who meets whom, what is remembered of it, and how it passes through a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rlagents.algos.sampling import Plan, Slot
from rlagents.config import EnvSection, LeagueSection, RunConfig, player_of
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError
from rlagents.league import (
    LeagueState,
    Pairing,
    Version,
    points_of,
    ratings,
    report,
    seated,
    win_rates,
)
from rlagents.load import load
from rlagents.matches import Fixture, fixtures
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory, Turn


def config(**league: Any) -> RunConfig:
    return RunConfig(league=LeagueSection(**league))


def plan(slots: int, groups: int | None = None) -> Plan:
    slot = Slot(index=None, attempts=2)
    return Plan(slots=(slot,) * slots, groups=slots if groups is None else groups, success=1.0)


def state(*numbers: int, **more: Any) -> LeagueState:
    return LeagueState(versions=tuple(Version(number=n, step=n) for n in numbers), **more)


def played(
    *opponents: str, reward: float = 0.0, stop: StopReason = StopReason.TERMINATED, **metrics: float
) -> Trajectory:
    turn = Turn(
        observation="o",
        action="a",
        observation_ids=np.zeros(1, np.int32),
        action_ids=np.zeros(1, np.int32),
        behaviour_logprobs=np.zeros(1, np.float32),
        reward=reward,
    )
    return Trajectory(
        key=EpisodeKey(stream="train", iteration=0, group=0, member=0),
        task=Task(env_id="e", seed=0, opponents=opponents),
        turns=(turn,),
        final_observation="",
        stop=stop,
        metrics={name.replace("__", "/"): value for name, value in metrics.items()},
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", ("self", "")),
        ("self", ("self", "")),
        ("scripted:oracle", ("scripted", "oracle")),
        ("past", ("past", "")),
        ("past:12", ("past", "12")),
        ("endpoint", ("endpoint", "")),
        ("endpoint:big", ("endpoint", "big")),
        ("runs/a", ("model", "runs/a")),
        ("scripted", ("model", "scripted")),
    ],
)
def test_names_of_players(name: str, kind: tuple[str, str]) -> None:
    assert player_of(name) == kind


def test_without_opponents_a_plan_stays_as_it_is() -> None:
    assert seated(config(), LeagueState(), plan(4), 0) == plan(4)


def test_seats_go_round_and_opponents_are_drawn_from_the_list() -> None:
    section = config(opponents=("self", "scripted:random", "past"), snapshot_every=1)
    dealt = [seated(section, state(0, 5), plan(6), block) for block in range(50)]
    assert [slot.seat for slot in dealt[0].slots] == [0, 1, 0, 1, 0, 1]
    names = Counter(slot.opponents[0] for p in dealt for slot in p.slots)
    assert set(names) == {"self", "scripted:random", "past:0", "past:5"}
    # A third each of 300; the two versions share theirs. Four standard deviations are 33 and 25.
    assert names["self"] == pytest.approx(100, abs=33)
    assert names["past:0"] == pytest.approx(50, abs=25)
    assert dealt[3] == seated(section, state(0, 5), plan(6), 3)


def test_one_learned_seat_and_several_others() -> None:
    section = config(opponents=("self",), seats=4, learn=(2,))
    slots = seated(section, LeagueState(), plan(3), 1).slots
    assert {(slot.seat, slot.opponents) for slot in slots} == {(2, ("self", "self", "self"))}


def test_prioritised_play_meets_whom_it_loses_to() -> None:
    section = config(opponents=("past",), snapshot_every=1, choice="prioritised")
    met = {"past:0": (19.0, 20.0), "past:1": (1.0, 20.0)}
    slots = [
        slot.opponents[0]
        for block in range(20)
        for slot in seated(section, state(0, 1, met=met), plan(8), block).slots
    ]
    # (1 - 20/22)^2 = 0.008 -> 0.05 against (1 - 2/22)^2 = 0.826: one in 17.5 of 160.
    assert 1 <= slots.count("past:0") <= 25


def test_only_versions_that_are_kept_are_met() -> None:
    section = config(opponents=("past",), snapshot_every=1, keep=2)
    slots = seated(section, state(0, 1, 2, 3), plan(64), 0).slots
    assert {slot.opponents[0] for slot in slots} == {"past:0", "past:3"}


def test_points_by_margin_by_return_and_of_failures() -> None:
    assert points_of(played(reward=1.0)) == 1.0
    assert points_of(played(reward=-1.0)) == 0.0
    assert points_of(played(reward=0.0)) == 0.5
    assert points_of(played(reward=0.7, env__margin=-0.1)) == 0.0
    assert points_of(played(reward=1.0, stop=StopReason.SAMPLER_ERROR)) is None
    assert points_of(played(reward=1.0, stop=StopReason.TURN_LIMIT)) is None


def test_old_games_are_forgotten_slowly() -> None:
    first = LeagueState().remembered([played("past:0", reward=1.0), played("past:0")])
    assert first.met == {"past:0": (1.5, 2.0)}
    second = first.remembered([played("past:0", reward=-1.0), played("self", reward=1.0)])
    assert second.met["past:0"] == pytest.approx((0.9 * 1.5, 0.9 * 2.0 + 1))
    assert second.met["self"] == (1.0, 1.0)


def test_win_rates_by_kind() -> None:
    games = [
        played("past:0", reward=1.0),
        played("past:3", reward=-1.0),
        played("scripted:oracle"),
        played("self", reward=1.0, stop=StopReason.WORKER_LOST),
    ]
    assert win_rates(games) == {
        "league/win_rate": 0.5,
        "league/win_rate/past": 0.5,
        "league/win_rate/scripted_oracle": 0.5,
    }


def test_games_add_up_by_pair() -> None:
    games = [("a", "b", 1.0), ("a", "b", 0.5), ("a", "c", 0.0), ("a", "b", 1.0)]
    pairings = LeagueState().rated(games).pairings
    assert pairings == (
        Pairing(first="a", second="b", wins=2, draws=1),
        Pairing(first="a", second="c", losses=1),
    )
    assert (pairings[0].points, pairings[0].games) == (2.5, 3)


def test_it_survives_json() -> None:
    whole = state(0, 4, met={"past:0": (1.0, 2.0)}).rated([("past:4", "past:0", 0.5)])
    assert LeagueState.of(json.loads(json.dumps(dataclasses.asdict(whole)))) == whole


def test_freezing_the_same_number_again_replaces_it() -> None:
    again = state(0, 4).frozen(Version(number=4, step=9))
    assert [(v.number, v.step) for v in again.versions] == [(0, 0), (4, 9)]


def test_ratings_are_relative_to_the_first_version() -> None:
    games = [("past:4", "past:0", 1.0)] * 30 + [("past:4", "past:0", 0.0)] * 10
    first = ratings(state(0, 4).rated(games), 0)
    assert first["past:0"].elo == 1500
    # 3 to 1 are 400 log10(3) = 191; the prior, a game each, takes some of it.
    assert 1670 < first["past:4"].elo < 1691
    more = ratings(state(0, 4).rated([*games, *[("scripted:x", "past:0", 0.0)] * 40]), 0)
    assert more["past:4"].elo == pytest.approx(first["past:4"].elo, abs=10)
    assert ratings(state(0, 4), 0) == {}
    assert report(state(0), 0)["ratings"] == {}


def test_every_seat_is_dealt_as_often() -> None:
    section = config(opponents=("self",), seats=3)
    counts = Counter(
        slot.seat
        for block in range(300)
        for slot in seated(section, LeagueState(), plan(6, groups=2), block).slots[:2]
    )
    assert counts == {0: 200, 1: 200, 2: 200}


def test_fixtures_play_each_deal_from_every_seat() -> None:
    assert fixtures([("a", "b")], 3, 2) == [
        Fixture(first="a", second="b", game=0, seat=0),
        Fixture(first="a", second="b", game=0, seat=1),
        Fixture(first="a", second="b", game=1, seat=0),
    ]


def held_out(section: LeagueSection) -> Iterator[tuple[int, tuple[str, ...]]]:
    tasks = TaskSource(EnvSection(id="toy"), 3, section)
    for i in range(4):
        task = tasks.held_out(i)
        yield task.seat, task.opponents


def test_held_out_games_have_all_seats_against_each_opponent() -> None:
    section = LeagueSection(eval_opponents=("scripted:a", "scripted:b"))
    assert list(held_out(section)) == [
        (0, ("scripted:a",)),
        (1, ("scripted:a",)),
        (0, ("scripted:b",)),
        (1, ("scripted:b",)),
    ]
    assert list(held_out(LeagueSection())) == [(0, ())] * 4


def test_another_seat_or_opponent_is_another_task_of_the_same_seed() -> None:
    tasks = TaskSource(EnvSection(id="toy"), 3)
    first, other = tasks.train(0, 0), tasks.train(0, 0, seat=1, opponents=("self",))
    assert first.seed == other.seed
    assert (first.task_id, other.task_id) == (
        f"toy:{first.seed}",
        f"toy:{first.seed}:seat=1:vs=self",
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["league.opponents=[past]"], "league.snapshot_every: expected 1 or more"),
        (["league.eval_opponents=[self]"], "league.eval_opponents: expected players that stay"),
        (["league.learn=[2]", "league.opponents=[self]"], "league.learn: expected seats from 0"),
        (
            ["league.opponents=[past:7]", "league.snapshot_every=1"],
            "league.opponents: expected past,",
        ),
        (["league.eval_opponents=['']"], "league.eval_opponents: expected players that stay"),
        (
            ["league.opponents=[self]", "env.train_tasks=8", "algo.sampling.skip=0.5"],
            "algo.sampling.skip: expected its default with league.opponents",
        ),
        (["league.choice=recent"], "league.choice: got 'recent', which would be ignored"),
        (
            ["league.opponents=[self]", "rollout.budget_turns=8"],
            "rollout.budget_turns: expected no budget with league.opponents",
        ),
    ],
)
def test_settings_that_contradict(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("experiments/quickstart.yaml", overrides)
    assert message in str(error.value)
