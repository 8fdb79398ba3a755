"""Which groups a run has started, where each is, and what a checkpoint remembers of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rlagents.algos.sampling import Plan, Slot
from rlagents.rollout.recorded import snapshot_of
from rlagents.stages import Stage
from rlagents.types import EpisodeKey, Group, Task, Trajectory

Place = tuple[int, int]
"""Names a group: number of the plan that its slot is of, number of the slot. They are the
`iteration` and the `group` of its keys."""


def place_of(trajectory: Trajectory) -> Place:
    """The group that a trajectory of training belongs to."""
    return trajectory.key.iteration, trajectory.key.group


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """What a group attempts, and under which stage of the schedule: for its whole life."""

    place: Place
    slot: Slot
    stage: Stage

    def key(self, member: int) -> EpisodeKey:
        """Of one of its trajectories."""
        block, number = self.place
        return EpisodeKey(stream="train", iteration=block, group=number, member=member)


@dataclass(slots=True, kw_only=True)
class OpenGroup:
    """A group that is not settled: members play, or it waits for its scores."""

    dealt: Dealt
    task: Task
    members: dict[int, Trajectory] = field(default_factory=dict)
    """Those that have ended."""
    recalled: tuple[Trajectory, ...] = ()
    """Earlier successes that were added, because it has none."""

    @property
    def left(self) -> list[int]:
        """Members that have not ended."""
        return [m for m in range(self.dealt.slot.attempts) if m not in self.members]

    @property
    def group(self) -> Group:
        """All of them."""
        own = tuple(self.members[m] for m in sorted(self.members))
        return Group(task=self.task, trajectories=own + self.recalled)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedGroup:
    """An open group in a checkpoint."""

    place: Place
    slot: Slot
    stage: int
    ended: tuple[int, ...]
    """Members whose trajectories are in the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """How far rollouts are: part of a run's checkpoint."""

    block: int = 0
    """Number of the plan that is being dealt. Where an iteration waits for all of its groups, it is
    that of the iteration."""
    number: int = 0
    """How many of its slots have been dealt."""
    plan: Plan | None = None
    """None before the first of them."""
    open: tuple[SavedGroup, ...] = ()
    snapshots: int = 0
    """How many snapshots of unfinished trajectories the journal has."""

    def keeps(self) -> Callable[[EpisodeKey], bool]:
        """Which records of training a run in this state still owns; the rest is played again.

        A trajectory counts once its group is settled or, in an open one, where it is known to have
        ended; a snapshot's part of a trajectory, as long as that has not.
        """
        saved = {group.place: group for group in self.open}

        def keep(key: EpisodeKey) -> bool:
            place = (key.iteration, key.group)
            group = saved.get(place)
            ended = group is not None and key.member in group.ended
            if key.stream == "train":
                return place < (self.block, self.number) and (group is None or ended)
            return group is not None and not ended and snapshot_of(key) < self.snapshots

        return keep

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Undo `dataclasses.asdict`, also after a passage through JSON.

        Raises:
            KeyError, TypeError, ValueError: when it is not one.
        """
        fields = dict(plain)
        plan = fields.pop("plan", None)
        if plan is not None:
            plan = Plan(**{**plan, "slots": tuple(map(_slot, plan["slots"]))})
        groups = tuple(
            SavedGroup(
                place=(int(saved["place"][0]), int(saved["place"][1])),
                slot=_slot(saved["slot"]),
                stage=saved["stage"],
                ended=tuple(saved["ended"]),
            )
            for saved in fields.pop("open", ())
        )
        return cls(**fields, plan=plan, open=groups)


def _slot(plain: Mapping[str, Any]) -> Slot:
    replay = tuple(EpisodeKey(**key) for key in plain["replay"])
    opponents = tuple(plain.get("opponents", ()))
    return Slot(**{**plain, "replay": replay, "opponents": opponents})
