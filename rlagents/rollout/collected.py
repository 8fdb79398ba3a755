"""What an iteration's rollouts gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rlagents.algos.history import Outcome
from rlagents.algos.sampling import Plan
from rlagents.rollout.groups import Dealt, Place, place_of
from rlagents.types import EpisodeKey, Group, ScoredGroup, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What an iteration's rollouts gave."""

    plan: Plan
    """The one that was dealt last."""
    block: int = 0
    """Its number."""
    kept: tuple[ScoredGroup, ...]
    dropped: tuple[tuple[ScoredGroup, str], ...]
    """Groups that are not worth training on, and why."""
    replayed: frozenset[EpisodeKey] = frozenset()
    """Members that an earlier iteration sampled, and accounted for."""
    dealt: Mapping[Place, Dealt] = field(default_factory=dict)
    """What each group attempted."""
    resumed: int | None = None
    """Trajectories that went on from earlier iterations; None where none can."""
    paused: int | None = None
    """Trajectories that go on in the next iteration."""

    @property
    def groups(self) -> tuple[ScoredGroup, ...]:
        """All of them."""
        return self.kept + tuple(group for group, _ in self.dropped)

    @property
    def sampled(self) -> tuple[ScoredGroup, ...]:
        """All of them, without replayed members: what was paid for."""
        return tuple(self.own(group) for group in self.groups)

    @property
    def trajectories(self) -> list[Trajectory]:
        """All members, without replayed ones."""
        return [t for g in self.sampled for t in g.group.trajectories]

    def of_stage(self, stage: int) -> list[ScoredGroup]:
        """Groups that were started under a stage, without replayed members, by their places."""
        groups = sorted(self.sampled, key=lambda g: place_of(g.group.trajectories[0]))
        return [g for g in groups if self._dealt(g).stage.number == stage]

    def outcomes(self, stage: int = 0) -> list[Outcome]:
        """What `algos.history.learn` learns from: a stage's groups of tasks that come back."""
        pairs = [(self._dealt(group).slot.index, group) for group in self.of_stage(stage)]
        return [
            Outcome(index=index, keys=tuple(t.key for t in g.group.trajectories), scores=g.scores)
            for index, g in pairs
            if index is not None
        ]

    def _dealt(self, scored: ScoredGroup) -> Dealt:
        return self.dealt[place_of(scored.group.trajectories[0])]

    def own(self, scored: ScoredGroup) -> ScoredGroup:
        """One of the groups without replayed members."""
        members = scored.group.trajectories
        mine = np.array([t.key not in self.replayed for t in members])
        if mine.all():
            return scored
        return ScoredGroup(
            group=Group(
                task=scored.group.task,
                trajectories=tuple(t for t, is_mine in zip(members, mine, strict=True) if is_mine),
            ),
            scores=scored.scores[mine],
            parts={name: values[mine] for name, values in scored.parts.items()},
        )
