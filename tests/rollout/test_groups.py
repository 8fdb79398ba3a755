"""What a checkpoint remembers of groups, and which records it owns."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from rlagents.algos.sampling import Plan, Slot
from rlagents.rollout.groups import RolloutState, SavedGroup
from rlagents.types import EpisodeKey

REPLAYED = EpisodeKey(stream="train", iteration=1, group=2, member=3)
STATE = RolloutState(
    block=3,
    number=2,
    plan=Plan(
        slots=(Slot(index=4, attempts=2, replay=(REPLAYED,)), Slot(index=None, attempts=3)),
        groups=2,
        success=0.5,
        retired=1,
    ),
    open=(
        SavedGroup(place=(2, 1), slot=Slot(index=None, attempts=3), stage=1, ended=(0, 2)),
        SavedGroup(place=(3, 1), slot=Slot(index=4, attempts=2), stage=0, ended=()),
    ),
    snapshots=5,
)


@pytest.mark.parametrize("state", [STATE, RolloutState(), RolloutState(block=9)])
def test_it_survives_a_checkpoint(state: RolloutState) -> None:
    plain = json.loads(json.dumps(dataclasses.asdict(state)))
    assert RolloutState.of(plain) == state


@pytest.mark.parametrize("plain", [{"open": [{}]}, {"plan": {"slots": 3}}, {"blocc": 3}])
def test_what_is_none_is_an_error(plain: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        RolloutState.of(plain)


def kept(state: RolloutState, stream: str, iteration: int, group: int, member: int = 0) -> bool:
    key = EpisodeKey(stream=stream, iteration=iteration, group=group, member=member)
    return state.keeps()(key)


def test_trajectories_of_settled_groups_are_kept() -> None:
    assert kept(STATE, "train", 0, 7) and kept(STATE, "train", 2, 0) and kept(STATE, "train", 3, 0)


def test_of_open_groups_those_that_had_ended() -> None:
    assert [kept(STATE, "train", 2, 1, member) for member in range(3)] == [True, False, True]
    assert not kept(STATE, "train", 3, 1)


def test_what_was_started_since_is_not() -> None:
    assert not kept(STATE, "train", 3, 2) and not kept(STATE, "train", 4, 0)


def test_snapshots_of_what_has_not_ended() -> None:
    # Of member 1, up to the last snapshot that the checkpoint knows; of those that ended, none.
    assert [kept(STATE, f"paused/{n}", 2, 1, 1) for n in (0, 4, 5)] == [True, True, False]
    assert not kept(STATE, "paused/4", 2, 1, 0)
    assert not kept(STATE, "paused/4", 2, 0)


def test_where_iterations_wait_for_all_it_is_the_iteration_that_counts() -> None:
    state = RolloutState(block=4)
    assert kept(state, "train", 3, 99) and not kept(state, "train", 4, 0)
