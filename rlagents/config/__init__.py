"""The configuration of a run, as frozen dataclasses.

Defaults live here; a YAML states only differences; `key=value` overrides. `rlagents.load` reads
both, `rlagents.rules` checks what no section can know alone. Every error names the full key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rlagents.algos.configs import AlgoConfig
from rlagents.config.arena import (
    EndpointSection,
    LeagueSection,
    PlayerKind,
    find_endpoint,
    player_of,
)
from rlagents.config.context import (
    CompactSection,
    ContextSection,
    MemorySection,
    RecursiveSection,
)
from rlagents.config.learning import LearnerSection, WarmStartSection
from rlagents.config.policy import PolicySection, TinySection
from rlagents.config.rollout import EnvSection, RolloutSection, ScheduleSection, StageSection
from rlagents.config.run import (
    CheckpointSection,
    EvalSection,
    FaultSection,
    RunSection,
    TelemetrySection,
    TrainSection,
)
from rlagents.config.scoring import JudgeSection, ScoringSection, TournamentSection

__all__ = [
    "AlgoConfig",
    "CheckpointSection",
    "CompactSection",
    "ContextSection",
    "EndpointSection",
    "EnvSection",
    "EvalSection",
    "FaultSection",
    "JudgeSection",
    "LeagueSection",
    "LearnerSection",
    "MemorySection",
    "PlayerKind",
    "PolicySection",
    "RecursiveSection",
    "RolloutSection",
    "RunConfig",
    "RunSection",
    "ScheduleSection",
    "ScoringSection",
    "StageSection",
    "TelemetrySection",
    "TinySection",
    "TournamentSection",
    "TrainSection",
    "WarmStartSection",
    "find_endpoint",
    "player_of",
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run is made from."""

    run: RunSection = field(default_factory=RunSection)
    env: EnvSection = field(default_factory=EnvSection)
    policy: PolicySection = field(default_factory=PolicySection)
    context: ContextSection = field(default_factory=ContextSection)
    rollout: RolloutSection = field(default_factory=RolloutSection)
    scoring: ScoringSection = field(default_factory=ScoringSection)
    endpoints: tuple[EndpointSection, ...] = ()
    """Models behind servers: judges, opponents, policies to evaluate."""
    league: LeagueSection = field(default_factory=LeagueSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    faults: FaultSection = field(default_factory=FaultSection)
    warm_start: WarmStartSection = field(default_factory=WarmStartSection)
    learner: LearnerSection = field(default_factory=LearnerSection)
    train: TrainSection = field(default_factory=TrainSection)
    eval: EvalSection = field(default_factory=EvalSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    telemetry: TelemetrySection = field(default_factory=TelemetrySection)
