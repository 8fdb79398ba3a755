"""What a run is wired from, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlagents.algos.grpo import GRPO
from rlagents.algos.history import History
from rlagents.algos.schedules import ScheduleState
from rlagents.algos.state import AlgoState
from rlagents.config import RunConfig
from rlagents.data.tasks import TaskSource
from rlagents.interrupt import Interrupt
from rlagents.journal import Journal
from rlagents.league import LeagueState
from rlagents.learner.group import LearnerGroup
from rlagents.policy.chat import Chat
from rlagents.policy.endpoints import Endpoints
from rlagents.policy.sampler import Sampling
from rlagents.rollout.groups import RolloutState
from rlagents.rollout.lag import WeightLag
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.pool import Pool
from rlagents.rollout.stream import RolloutStream
from rlagents.rollout.watch import Watch
from rlagents.runs import RunFolder
from rlagents.scoring.queue import ScoringQueue
from rlagents.telemetry.progress import Display
from rlagents.telemetry.sinks import Sink
from rlagents.telemetry.spans import Spans


@dataclass(slots=True, kw_only=True)
class ScoringState:
    """What judges and other scorers came to, over all sittings of a run."""

    calls: int = 0
    cost: float = 0.0
    unscored_groups: int = 0
    """Groups that the scorer failed for."""
    unjudged_iterations: int = 0
    """Iterations of which no group has scores."""
    held: dict[str, float] = field(default_factory=dict)
    """Figures that wait for the next optimizer step, the axis they are drawn on."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """How far a run is: what a checkpoint holds beside the learner."""

    iteration: int = 0
    """Finished iterations of reinforcement learning."""
    warm: bool = False
    """The warm start is done, or there is none."""
    evals: list[dict[str, Any]] = field(default_factory=list)
    env_turns: int = 0
    tokens_sampled: int = 0
    tokens_trained: int = 0
    idle_iterations: int = 0
    """Iterations that made no optimizer step, because no group had a signal."""
    wall_s: float = 0.0
    algo: AlgoState = field(default_factory=AlgoState)
    history: History = field(default_factory=dict)
    """What is known of each training task, where tasks come back."""
    schedule: ScheduleState = field(default_factory=ScheduleState)
    """The stage of `schedule.stages`."""
    scoring: ScoringState = field(default_factory=ScoringState)
    spent: dict[str, float] = field(default_factory=dict)
    """Endpoint -> what it has cost; brought up to date when the run is saved."""
    league: LeagueState = field(default_factory=LeagueState)
    """Frozen versions of the policy, and their games."""
    rollouts: RolloutState = field(default_factory=RolloutState)
    """Groups that were started, and what is unfinished."""
    finished: bool = False
    """The last evaluation is in `evals`, and all is saved."""


class TakesWeights(Protocol):
    """Something that wants the policy's newest weights."""

    def load(self, weights: Mapping[str, Any], version: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run is wired from (`rlagents.build`)."""

    config: RunConfig
    folder: RunFolder
    learner: LearnerGroup
    algorithm: GRPO
    pool: Pool
    lag: WeightLag
    stream: RolloutStream
    tasks: TaskSource
    queue: ScoringQueue
    """Scores groups and held-out trajectories."""
    endpoints: Endpoints
    """What judges and players of this process reach their servers through."""
    judging: Sequence[TakesWeights]
    """Judges that are the policy itself."""
    sampling: Sampling
    """Of training turns."""
    eval_sampling: Sampling
    journal: Journal
    ledger: Ledger
    sink: Sink
    spans: Spans
    display: Display
    watch: Watch
    interrupt: Interrupt
    chat: Chat
    pad_id: int
    warm_start: Callable[[Parts], None] | None
    save: Callable[[Parts, RunState], None]
    freeze: Callable[[int], None]
    """Writes the policy as it is now into the run's league, under a number."""
