"""The spine: what flows from an environment to an optimizer step. Imports nothing heavy.

    Task -> Trajectory (turns, stop) -> Group -> ScoredGroup -> Segment -> Batch

Every type is frozen; each stage returns a new type instead of filling a field of an old one.
Array fields are set read-only at birth. Shape letters: G members of a group, N turns,
O observation tokens, A action tokens, T tokens of a segment, B rows of a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class StopReason(StrEnum):
    """Why a trajectory ended. Gymnasium's split is kept: only TERMINATED means the task ended."""

    TERMINATED = "terminated"
    """The environment said that the task ended."""
    TRUNCATED = "truncated"
    """The environment (or a wrapper of it) cut the episode."""
    TURN_LIMIT = "turn_limit"
    """`rollout.max_turns` was reached."""
    TOKEN_LIMIT = "token_limit"
    """`rollout.max_tokens` sampled tokens were reached."""
    TIME_LIMIT = "time_limit"
    """`rollout.max_seconds` of wall clock were reached."""
    CONTEXT_LIMIT = "context_limit"
    """An observation does not fit into the window even in a fresh context."""
    ENVIRONMENT_ERROR = "environment_error"
    """The environment raised, or broke its contract."""
    ENVIRONMENT_TIMEOUT = "environment_timeout"
    """A call of the environment did not return within `rollout.env_timeout_s`."""
    SAMPLER_ERROR = "sampler_error"
    """The sampler failed or did not answer within `rollout.sampler_timeout_s`."""
    WORKER_LOST = "worker_lost"
    """The process that ran the episode died."""
    PAUSED = "paused"
    """It has not ended: a snapshot of a trajectory that goes on in a later iteration."""

    @property
    def failed(self) -> bool:
        """True where infrastructure or the environment broke: the score means nothing."""
        return self in _FAILED

    @property
    def cut(self) -> bool:
        """True where we stopped a healthy episode before its task ended."""
        return self in _CUT


_FAILED = frozenset(
    {
        StopReason.ENVIRONMENT_ERROR,
        StopReason.ENVIRONMENT_TIMEOUT,
        StopReason.SAMPLER_ERROR,
        StopReason.WORKER_LOST,
    }
)
_CUT = frozenset(
    {
        StopReason.TRUNCATED,
        StopReason.TURN_LIMIT,
        StopReason.TOKEN_LIMIT,
        StopReason.TIME_LIMIT,
        StopReason.CONTEXT_LIMIT,
    }
)


class TurnKind(StrEnum):
    """What an action was for. Only `ACTION` reaches the environment."""

    ACTION = "action"
    """It went to the environment."""
    SUMMARY = "summary"
    """The policy's own summary of a context that was full."""
    MEMORY = "memory"
    """An edit of notes or memory, or a look at them, answered by the context window."""
    CODE = "code"
    """A block of code, run in a REPL beside the environment."""
    CALL = "call"
    """The answer to a call that the policy made to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every member of a group attempts."""

    env_id: str
    """A Gymnasium id, `module:Id-v0` included."""
    seed: int
    """Passed to `env.reset(seed=...)`."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `gymnasium.make`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `env.reset(options=...)`."""
    task_id: str = ""
    """Stable name, the same in every run that attempts this task."""
    human_minutes: float | None = None
    """How long a person needs, where known."""
    family: str | None = None
    """Tasks of a family share what they teach."""
    seat: int = 0
    """Which seat the trajectory's player has, where the environment has several."""
    opponents: tuple[str, ...] = ()
    """Players of the other seats, in the order of seats; none: the environment's own."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class EpisodeKey:
    """Names one episode of a run for ever. Seeds derive from it, never from worker or attempt."""

    stream: str
    """What the episode is for: `train`, or `eval/` and a stage."""
    iteration: int
    group: int
    """Index of the task in the iteration."""
    member: int
    """Index of the attempt in the group."""

    def seed(self, base: int, purpose: int = 0) -> int:
        """A 63-bit seed that depends on the key, on `base` (the run's seed) and on `purpose`."""
        words = [base, purpose, zlib.crc32(self.stream.encode())]
        words += [self.iteration, self.group, self.member]
        state = np.random.SeedSequence(words).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    def __str__(self) -> str:
        return f"{self.stream}/{self.iteration}/{self.group}/{self.member}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """A failure as data: it crosses processes and is written to the journal."""

    boundary: str
    """Where it came from: `environment`, `sandbox`, `sampler`, `judge`, `worker`."""
    kind: str
    """Class name of what was raised."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """One observation and the action that answered it. Stores only the tokens it adds."""

    observation: str
    action: str
    """The text the environment received: action tokens decoded, stop string removed."""
    observation_ids: IntArray
    """[O] tokens added before the action. The first turn of a context carries its whole prompt."""
    action_ids: IntArray
    """[A] sampled tokens, A >= 1, exactly as sampled (an end-of-turn token included)."""
    behaviour_logprobs: FloatArray
    """[A] natural-log probability of each action token when it was sampled."""
    reward: float = 0.0
    potential: float = 0.0
    """The environment's `info["potential"]` of the state that the action was chosen in."""
    context: int = 0
    """The context this turn extends. Contexts may interleave."""
    kind: TurnKind = TurnKind.ACTION
    """Other than `ACTION`: no reward; `observation` is then what the window told the policy."""
    dropped_tokens: int = 0
    """Tokens of the history so far that this turn's fresh context leaves out."""
    temperature: float = 1.0
    weights_version: int = 0
    sampled_s: float = 0.0
    """Seconds spent waiting for the sampler."""
    environment_s: float = 0.0
    """Seconds spent in `env.step`."""

    def __post_init__(self) -> None:
        _freeze(self.observation_ids, self.action_ids, self.behaviour_logprobs)
        if self.action_ids.shape != self.behaviour_logprobs.shape or self.action_ids.ndim != 1:
            raise ValueError(
                f"action_ids {self.action_ids.shape} and behaviour_logprobs "
                f"{self.behaviour_logprobs.shape} must both be [A]"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """All turns of one episode, and why it stopped."""

    key: EpisodeKey
    task: Task
    turns: tuple[Turn, ...]
    final_observation: str
    stop: StopReason
    error: ErrorRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the whole episode: those of the environment's final `info["metrics"]`, prefixed
    `env/`, and `seconds`."""
    final_potential: float = 0.0
    """The environment's `info["potential"]` of the last state; 0 where the task terminated."""
    reference: str = ""
    """The environment's `info["reference"]`: a good answer, for judges; no player is shown it."""
    others: tuple[Trajectory, ...] = ()
    """Those of the other seats, where players of ours had them."""

    @property
    def episode_return(self) -> float:
        """Sum of the environment's rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def sampled_tokens(self) -> int:
        return sum(len(turn.action_ids) for turn in self.turns)

    @property
    def actions(self) -> int:
        """Turns with the environment."""
        return sum(turn.kind is TurnKind.ACTION for turn in self.turns)

    @property
    def contexts(self) -> int:
        """Number of contexts, which is the number of segments."""
        return len({turn.context for turn in self.turns})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Trajectories of the same task."""

    task: Task
    trajectories: tuple[Trajectory, ...]
    """[G]"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredGroup:
    """A group and the numbers its members are ranked by."""

    group: Group
    scores: FloatArray
    """[G] NaN where a member failed and has no score."""
    parts: Mapping[str, FloatArray] = field(default_factory=dict)
    """Named [G] arrays that the scores are made of."""

    def __post_init__(self) -> None:
        _freeze(self.scores, *self.parts.values())
        size = len(self.group.trajectories)
        for name, values in {"scores": self.scores, **self.parts}.items():
            if values.shape != (size,):
                raise ValueError(f"{name} must be [G] = ({size},), got {values.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """The turns of a trajectory that share one context, as flat arrays of length T."""

    token_ids: IntArray
    """[T]"""
    loss_mask: BoolArray
    """[T] True where the token was sampled in this context and gets gradient."""
    behaviour_logprobs: FloatArray
    """[T] zero where not sampled."""
    advantages: FloatArray
    """[T] zero where not sampled."""
    temperatures: FloatArray
    """[T] sampling temperature, 1 where not sampled."""
    turns: IntArray
    """[T] which turn of the trajectory sampled the token; -1 where none did."""
    label: int
    """Opaque number of the trajectory, unique in the batch."""
    source: tuple[EpisodeKey, int]
    """Where it came from: the trajectory's key and the number of the context."""

    def __post_init__(self) -> None:
        arrays = (
            self.token_ids,
            self.loss_mask,
            self.behaviour_logprobs,
            self.advantages,
            self.temperatures,
            self.turns,
        )
        _freeze(*arrays)
        if any(a.shape != self.token_ids.shape or a.ndim != 1 for a in arrays):
            raise ValueError(f"segment arrays must all be [T], got {[a.shape for a in arrays]}")
        if len(self.loss_mask) and self.loss_mask[0]:
            raise ValueError("the first token of a segment has no context to be trained under")

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Packed segments for one optimizer step: rows of T tokens, several segments a row.

    A value at [b, t] belongs to the token at t and, for log-probabilities, to its prediction from
    the tokens before it *in its segment*.
    """

    token_ids: IntArray
    """[B, T]"""
    positions: IntArray
    """[B, T] position inside the segment, from 0."""
    segment_ids: IntArray
    """[B, T] 0, 1, 2, ... inside a row, in order; -1 is padding, at the end of a row."""
    sequence_labels: IntArray
    """[B, T] the segment's opaque trajectory label; -1 is padding."""
    turns: IntArray
    """[B, T] which turn of its trajectory sampled the token; -1 where none did."""
    contexts: IntArray
    """[B, T] which context of its trajectory the segment is; -1 is padding."""
    temperatures: FloatArray
    """[B, T]"""
    behaviour_logprobs: FloatArray
    """[B, T]"""
    advantages: FloatArray
    """[B, T]"""
    loss_weights: FloatArray
    """[B, T] mask and global normaliser in one; zero where the token gets no gradient."""
    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    """Named [B, T] arrays of a no-gradient pre-pass, such as `reference_logprobs`."""

    def __post_init__(self) -> None:
        arrays = {name: getattr(self, name) for name in self.__slots__ if name != "columns"}
        arrays |= dict(self.columns)
        _freeze(*arrays.values())
        shapes = {name: array.shape for name, array in arrays.items()}
        if self.token_ids.ndim != 2 or len(set(shapes.values())) != 1:
            raise ValueError(f"batch arrays must all be [B, T], got {shapes}")

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segment_ids >= 0).sum())

    @property
    def trained_tokens(self) -> int:
        return int((self.loss_weights != 0).sum())


def _freeze(*arrays: NDArray[Any]) -> None:
    for array in arrays:
        array.flags.writeable = False
