"""Iterations that end at a budget: what is paused goes on in the next, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlagents.algos.sampling import Plan, Slot
from rlagents.build import limits_of, make_worker, sampling_of
from rlagents.config import (
    ContextSection,
    EnvSection,
    PolicySection,
    RolloutSection,
    RunConfig,
    ScheduleSection,
    StageSection,
    TinySection,
)
from rlagents.data.segments import segments_of
from rlagents.data.tasks import TaskSource
from rlagents.errors import RlagentsError
from rlagents.policy import models
from rlagents.rollout.collected import Collected
from rlagents.rollout.groups import RolloutState
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.pool import LocalPool, Pool
from rlagents.rollout.recorded import joined
from rlagents.rollout.stream import Budget, RolloutStream
from rlagents.rollout.watch import Watch
from rlagents.rollout.worker import Job, Played, Waiting
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.scorer import ReturnScorer, Scorer
from rlagents.stages import Stage, stage_of
from rlagents.telemetry.spans import Spans
from rlagents.types import EpisodeKey, Group, ScoredGroup, StopReason, Trajectory
from tests.fakes import turn
from tests.rollout.toys import LIMITS, SAMPLING, token_ids

SPREAD = "tests.integration.spread:test/Spread-v0"
STAGES = ScheduleSection(
    stages=(StageSection(iterations=1, env_kwargs={"high": 4}, max_turns=7), StageSection())
)
CONFIG = RunConfig(
    env=EnvSection(id=SPREAD, kwargs={"low": 1, "high": 20}),
    policy=PolicySection(tiny=TinySection(layers=1, width=32, heads=2), max_tokens=3),
    context=ContextSection(window=32, pinned_turns=1, overlap=8),
    rollout=RolloutSection(concurrency=6, deterministic=True, max_turns=30),
    schedule=STAGES,
)
QUIET = Watch(interval_s=1e9, report=lambda line: None, check=lambda: None)
PLAIN = stage_of(RunConfig(), 0)
GROUPS, SIZE = 3, 2


def planned(block: int) -> Plan:
    """Three groups of two, and as many slots again that nobody needs."""
    slots = tuple(Slot(index=None, attempts=SIZE) for _ in range(2 * GROUPS))
    return Plan(slots=slots, groups=GROUPS, success=1.0)


def length_of(of: Job) -> int:
    """1 to 20 turns, by the task."""
    return 1 + of.task.seed // 2 % 20


def played(of: Job, turns: int, stop: StopReason = StopReason.TERMINATED) -> Trajectory:
    made = tuple(turn(i, reward=float(of.key.member)) for i in range(turns))
    return Trajectory(key=of.key, task=of.task, turns=made, final_observation="", stop=stop)


class Clockwork:
    """A pool in which every wait for a result is a turn of all that play."""

    def __init__(self, length: Callable[[Job], int] = length_of, stop: Any = None) -> None:
        self._length = length
        self._stop = stop or (lambda of: StopReason.TERMINATED)
        self.jobs: list[Job] = []
        self._live: list[list[Any]] = []
        self._done: list[Trajectory] = []
        self.paused = False
        self.turns = 0
        self.at_once: set[int] = set()
        """How many groups played when time went on."""

    def submit(self, job: Job) -> None:
        assert not self.paused
        self.jobs.append(job)
        self._live.append([job, len(job.recorded)])

    def wait(self, timeout: float) -> Trajectory | None:
        assert not self.paused
        if not self._done and timeout > 0:
            self.at_once.add(len({(j.key.iteration, j.key.group) for j, _ in self._live}))
            for live in self._live:
                live[1] += 1
            self.turns += len(self._live)
            over = [live for live in self._live if live[1] >= self._length(live[0])]
            self._live = [live for live in self._live if live[1] < self._length(live[0])]
            self._done += [played(job, turns, self._stop(job)) for job, turns in over]
        return self._done.pop() if self._done else None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def snapshot(self) -> list[Trajectory]:
        live = [played(job, turns, StopReason.PAUSED) for job, turns in self._live]
        return live + [replace(t, stop=StopReason.PAUSED) for t in self._done]

    def played(self) -> Played:
        return Played(self.turns, 2 * self.turns)

    def load(self, weights: Mapping[str, Any], version: int) -> None: ...

    def waiting(self) -> list[Waiting]:
        return []

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


class Rig:
    """A stream over such a pool."""

    def __init__(
        self,
        budget: Budget | None,
        *,
        pool: Pool | None = None,
        scorer: Scorer | None = None,
        concurrency: int = 0,
        limit: int = 99,
        reject: Callable[[ScoredGroup], str | None] = lambda group: None,
        tasks: TaskSource | None = None,
        past: Mapping[EpisodeKey, Trajectory] | None = None,
        config: RunConfig | None = None,
        **clockwork: Any,
    ) -> None:
        self.pool: Any = pool or Clockwork(**clockwork)
        self.ledger = Ledger()
        self.recorded: dict[EpisodeKey, Trajectory] = {}
        self.found: list[Collected] = []
        self.stream = RolloutStream(
            pool=self.pool,
            tasks=tasks or TaskSource(EnvSection(id="toy"), 5),
            queue=ScoringQueue(
                scorer or ReturnScorer(), concurrency=concurrency, limit=limit, timeout_s=60
            ),
            reject=reject,
            recall=lambda key: (past or {}).get(key),
            sampling=sampling_of(config) if config else SAMPLING,
            limits=limits_of(config) if config else LIMITS,
            ledger=self.ledger,
            record=self.record,
            watch=QUIET,
            spans=Spans(),
            budget=budget,
        )

    def record(self, trajectory: Trajectory) -> None:
        assert trajectory.key not in self.recorded, "twice"
        self.recorded[trajectory.key] = trajectory

    def collect(self, stage: Stage = PLAIN) -> Collected:
        collected = self.stream.collect(len(self.found), planned, stage)
        self.found.append(collected)
        return collected

    @property
    def settled(self) -> dict[EpisodeKey, Trajectory]:
        """Every trajectory of every iteration, each once."""
        found = [t for collected in self.found for t in collected.trajectories]
        assert len({t.key for t in found}) == len(found)
        return {t.key: t for t in found}


def place(scored: ScoredGroup) -> tuple[int, int]:
    key = scored.group.trajectories[0].key
    return key.iteration, key.group


# --- when an iteration ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "turns"),
    [
        (Budget(turns=30), 30),
        (Budget(tokens=60), 30),
        (Budget(turns=100, tokens=60), 30),
        (Budget(turns=30, seconds=1e9), 30),
    ],
)
def test_an_iteration_ends_when_its_budget_is_spent(budget: Budget, turns: int) -> None:
    rig = Rig(budget, length=lambda of: 4)
    for number in range(1, 5):
        before = rig.pool.turns
        collected = rig.collect()
        assert rig.pool.paused and collected.kept
        # Six play at once, so the budget is spent within a wait for a turn of each.
        assert turns <= rig.pool.turns - before < turns + 6
        assert collected.paused == rig.stream.playing
        assert collected.resumed == (rig.found[-2].paused if number > 1 else 0)


def test_it_waits_for_one_group_at_least() -> None:
    rig = Rig(Budget(turns=1), length=lambda of: 9)
    collected = rig.collect()
    assert rig.pool.turns == 54 and len(collected.kept) == GROUPS
    rig = Rig(Budget(seconds=1e-9), length=lambda of: 9 - of.key.group)
    assert [place(g) for g in rig.collect().kept] == [(0, 2)]


def test_it_does_not_wait_for_ever_for_a_group_with_a_signal() -> None:
    rig = Rig(Budget(turns=1), length=lambda of: 1, reject=lambda group: "zero_variance")
    collected = rig.collect()
    assert not collected.kept
    assert len(collected.dropped) == 2 * GROUPS  # as many as the plan has slots


def test_all_failed_is_an_error() -> None:
    def fails(of: Job) -> StopReason:
        return StopReason.SAMPLER_ERROR

    rig = Rig(Budget(turns=1), stop=fails, reject=lambda group: "too_few_scores")
    with pytest.raises(RlagentsError, match="episodes of iteration 0 failed"):
        rig.collect()


def test_places_that_become_free_are_taken_at_once() -> None:
    rig = Rig(Budget(turns=200))
    for _ in range(4):
        rig.collect()
    assert rig.pool.at_once == {GROUPS}


def test_without_a_budget_nothing_is_ever_paused() -> None:
    rig = Rig(None)
    collected = rig.collect()
    assert (collected.resumed, collected.paused, rig.pool.paused) == (None, None, False)
    assert [place(g) for g in collected.groups] == [(0, 0), (0, 1), (0, 2)]
    assert rig.stream.state == RolloutState(block=1)
    assert [place(g) for g in rig.collect().groups] == [(1, 0), (1, 1), (1, 2)]


# --- which groups there are ----------------------------------------------------------------------


def test_groups_are_those_of_iterations_that_wait_for_all() -> None:
    waiting, partial = Rig(None), Rig(Budget(turns=25))
    for _ in range(6):
        waiting.collect()
    while not waiting.settled.keys() <= partial.settled.keys():
        partial.collect()
    assert len(partial.found) > 6 and max(c.paused or 0 for c in partial.found) > 0
    for key, trajectory in waiting.settled.items():
        same = partial.settled[key]
        assert same.task == trajectory.task and len(same.turns) == len(trajectory.turns)
    assert partial.settled.keys() <= partial.recorded.keys()


def test_groups_are_whole_and_never_mixed() -> None:
    rig = Rig(Budget(turns=17))
    for _ in range(12):
        rig.collect()
    places = [place(g) for c in rig.found for g in c.groups]
    assert len(set(places)) == len(places)
    for scored in (g for c in rig.found for g in c.groups):
        members = scored.group.trajectories
        assert [t.key.member for t in members] == list(range(SIZE))
        assert len({(t.key.iteration, t.key.group, t.task.seed) for t in members}) == 1
        assert scored.scores.tolist() == [t.episode_return for t in members]
    # Blocks are dealt in order, each to its end.
    started = list(dict.fromkeys((j.key.iteration, j.key.group) for j in rig.pool.jobs))
    assert started == [(n // GROUPS, n % GROUPS) for n in range(len(started))]
    assert [c.block for c in rig.found] == sorted(c.block for c in rig.found)


def test_the_ledger_counts_what_is_open() -> None:
    rig = Rig(Budget(turns=17))
    for _ in range(5):
        collected = rig.collect()
        rig.ledger.trained += len(collected.trajectories)
        rig.ledger.check(rig.stream.unsettled)
        assert rig.stream.unsettled == SIZE * len(rig.stream.state.open) > 0


def test_a_group_keeps_the_stage_that_it_was_started_under() -> None:
    tasks = TaskSource(replace(CONFIG.env, id="toy", train_tasks=50), 5)
    rig = Rig(Budget(turns=17), tasks=tasks)
    plan = Plan(
        slots=tuple(Slot(index=i, attempts=SIZE) for i in range(GROUPS)), groups=GROUPS, success=1
    )
    stages = [stage_of(CONFIG, 0)] * 2 + [stage_of(CONFIG, 1)] * 5
    mixed = 0
    for number, stage in enumerate(stages):
        first = len(rig.pool.jobs)
        collected = rig.stream.collect(number, lambda block: plan, stage)
        for job in rig.pool.jobs[first:]:
            assert job.limits is not None and job.context == stage.context
            assert job.limits.max_turns == (7 if stage.number == 0 else CONFIG.rollout.max_turns)
            assert job.limits.env_timeout_s == LIMITS.env_timeout_s
            assert job.task.kwargs["high"] == (4 if stage.number == 0 else 20)
        groups = [collected.of_stage(n) for n in (0, 1)]
        assert sum(map(len, groups)) == len(collected.groups)
        for of, part in enumerate(groups):
            assert {g.group.task.kwargs["high"] for g in part} <= {(4, 20)[of]}
            assert [o.keys for o in collected.outcomes(of)] == [
                tuple(t.key for t in g.group.trajectories) for g in part
            ]
        mixed += bool(groups[0]) and stage.number == 1
    assert mixed  # a group of the first stage ended in the second


# --- scores that take long -----------------------------------------------------------------------


class Slow:
    """A scorer that waits until it is told."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[Group] = []

    def score(self, group: Group) -> ScoredGroup:
        self.asked.append(group)
        assert self.go.wait(30)
        return ReturnScorer().score(group)


def test_while_scores_are_waited_for_new_groups_play_up_to_a_limit() -> None:
    slow = Slow()
    rig = Rig(Budget(turns=1), scorer=slow, concurrency=1, limit=4, length=lambda of: 3)
    opened: list[int] = []

    def advance(trajectory: Trajectory) -> None:
        opened.append(len(rig.stream.state.open))
        if len(rig.recorded) == (4 + GROUPS - 1) * SIZE:  # nothing plays any more
            slow.go.set()

    collected = rig.stream.collect(0, planned, PLAIN, advance)
    # Three play and up to four wait: while four do, none is started.
    assert max(opened) == 4 + GROUPS - 1
    assert collected.kept
    assert {g.place for g in rig.stream.state.open}.isdisjoint(collected.dealt)


def test_groups_without_scores_carry_over() -> None:
    slow = Slow()
    rig = Rig(Budget(turns=12), scorer=slow, concurrency=1, length=lambda of: 3)
    scored = threading.Event()

    def first(trajectory: Trajectory) -> None:
        if len(rig.recorded) == 10 * SIZE and not scored.is_set():
            scored.set()
            slow.go.set()

    rig.found.append(rig.stream.collect(0, planned, PLAIN, first))
    waiting = [g for g in rig.stream.state.open if len(g.ended) == SIZE]
    rig.ledger.trained += len(rig.settled)
    rig.ledger.check(rig.stream.unsettled)
    while not {g.place for g in waiting} <= {p for c in rig.found for p in c.dealt}:
        rig.collect()
    assert rig.settled.keys() <= rig.recorded.keys()


def test_silence_of_the_scorer_is_reported() -> None:
    slow, said = Slow(), []
    rig = Rig(None, scorer=slow, concurrency=1)

    def report(line: str) -> None:
        said.append(line)
        if not rig.stream.playing:
            slow.go.set()

    rig.stream._watch = Watch(interval_s=0, report=report, check=lambda: None)
    rig.collect()
    assert any(line.endswith("groups that wait for their scores: 3") for line in said)


def test_time_in_which_only_scores_are_waited_for_is_told() -> None:
    slow = Slow()
    rig = Rig(None, scorer=slow, concurrency=2)

    def last(trajectory: Trajectory) -> None:
        if len(rig.recorded) == GROUPS * SIZE:
            slow.go.set()

    spans = rig.stream._spans
    rig.stream.collect(0, planned, PLAIN, last)
    assert spans.take_totals().get("time/score_s", 0) > 0


# --- a checkpoint --------------------------------------------------------------------------------


def snapshots(rig: Rig) -> list[Trajectory]:
    return list(rig.stream.snapshot())


def test_snapshots_add_what_is_new() -> None:
    rig = Rig(Budget(turns=17))
    parts: list[Trajectory] = []
    counted = 0
    for number in range(6):
        rig.collect()
        new = snapshots(rig)
        assert {t.key.stream for t in new} <= {f"paused/{number}"}
        assert all(t.turns for t in new)
        parts += new
        turns = joined(parts)
        for unfinished in rig.pool.snapshot():
            known = [t.observation for t in turns.get(unfinished.key, ())]
            assert known == [t.observation for t in unfinished.turns]
        # What was played counts with the snapshot or the end that recorded it.
        known = {key: len(turns) for key, turns in turns.items()}
        known |= {key: len(t.turns) for key, t in rig.recorded.items()}
        now, before = sum(known.values()), counted
        counted += rig.stream.take_played().turns
        assert counted == now > before
    assert rig.stream.state.snapshots == 6
    # Each turn was written once.
    keys = [(t.key.iteration, t.key.group, t.key.member, n.observation)
            for t in parts for n in t.turns]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert snapshots(rig) == []


def test_a_run_that_was_stopped_goes_on_with_the_same_groups() -> None:
    straight, stopped = Rig(Budget(turns=17)), Rig(Budget(turns=17))
    parts: list[Trajectory] = []
    for _ in range(3):
        straight.collect()
        stopped.collect()
        parts += snapshots(stopped)
    state = stopped.stream.state
    keeps = state.keeps()
    journal = {k: t for k, t in stopped.recorded.items() if keeps(k)}
    lost = Rig(Budget(turns=17), past=journal)
    lost.stream.restore(state, lambda number: PLAIN, joined(p for p in parts if keeps(p.key)))
    assert lost.ledger.started == lost.stream.unsettled
    assert lost.pool.jobs == []  # not before weights are loaded
    lost.recorded = dict(journal)
    for _ in range(4):
        straight.collect()
        collected = lost.stream.collect(len(lost.found), planned, PLAIN)
        lost.found.append(collected)
    assert lost.found[0].resumed == stopped.stream.playing
    again = {j.key: len(j.recorded) for j in lost.pool.jobs}
    assert {t.key: len(t.turns) for t in stopped.pool.snapshot()}.items() <= again.items()
    everything = {**stopped.settled, **lost.settled}
    assert len(everything) == len(stopped.settled) + len(lost.settled)
    assert {k: len(t.turns) for k, t in everything.items()} == {
        k: len(t.turns) for k, t in straight.settled.items()
    }


def test_a_record_that_was_lost_is_played_again() -> None:
    rig = Rig(Budget(turns=17), length=lambda of: 3 + 9 * of.key.member + 4 * of.key.group)
    rig.collect()
    state = rig.stream.state
    ended = [(g.place, m) for g in state.open for m in g.ended]
    assert ended
    bare = Rig(Budget(turns=17))
    bare.stream.restore(state, lambda number: PLAIN)
    bare.collect()
    assert {((j.key.iteration, j.key.group), j.key.member) for j in bare.pool.jobs} >= set(ended)
    assert all(job.recorded == () for job in bare.pool.jobs)


def test_a_group_that_only_lacked_its_scores_gets_them() -> None:
    slow = Slow()
    rig = Rig(Budget(turns=12), scorer=slow, concurrency=1, length=lambda of: 3)
    over = False

    def enough(trajectory: Trajectory) -> None:
        nonlocal over
        over = over or len(rig.recorded) == 3 * GROUPS * SIZE
        if over:
            slow.go.set()

    rig.stream.collect(0, planned, PLAIN, enough)
    state = rig.stream.state
    whole = [g.place for g in state.open if len(g.ended) == SIZE]
    again = Rig(Budget(turns=1), past=rig.recorded)
    again.stream.restore(state, lambda number: PLAIN)
    collected = again.collect()
    assert set(whole) <= set(collected.dealt)


# --- the real engine -----------------------------------------------------------------------------


def weights(seed: int) -> dict[str, Any]:
    model, _ = models.load(CONFIG.policy, seed=seed, window=CONFIG.context.window)
    return dict(model.state_dict())


def engine_rig(budget: Budget | None) -> Rig:
    pool = LocalPool(make_worker(CONFIG), CONFIG.rollout.concurrency)
    return Rig(budget, pool=pool, tasks=TaskSource(CONFIG.env, 5), config=CONFIG)


def test_under_frozen_weights_the_same_trajectories_end_with_the_same_scores() -> None:
    stage = stage_of(CONFIG, 1)
    waiting, partial = engine_rig(None), engine_rig(Budget(turns=40))
    for rig in (waiting, partial):
        rig.pool.load(weights(0), 1)
    for _ in range(4):
        waiting.collect(stage)
    while not waiting.settled.keys() <= partial.settled.keys():
        partial.collect(stage)
        partial.pool.load(weights(0), 1)
    assert len(partial.found) >= 3 and any(c.paused for c in partial.found)
    assert max(len(t.turns) for t in waiting.settled.values()) > 12
    scores = [
        {t.key: s for c in rig.found for g in c.groups
         for t, s in zip(g.group.trajectories, g.scores.tolist(), strict=True)}
        for rig in (waiting, partial)
    ]  # fmt: skip
    for key, trajectory in waiting.settled.items():
        assert token_ids(partial.settled[key]) == token_ids(trajectory)
        assert scores[0][key] == scores[1][key]
    for rig in (waiting, partial):
        rig.pool.close()


def test_each_token_is_of_the_version_that_it_says() -> None:
    """Log-probabilities recomputed under the weights of the recorded version are the recorded."""
    stage, rig, spans = stage_of(CONFIG, 1), engine_rig(Budget(turns=6)), [0]
    versions: dict[int, dict[str, Any]] = {}
    # How much is played until the end of a budget is seen is up to the machine: on until some
    # were sampled under three versions and more.
    while max(spans) < 3 or len(versions) < 8:
        version = len(versions)
        assert version < 100, "none spans three"
        versions[version] = weights(version)
        rig.pool.load(versions[version], version)
        collected = rig.collect(stage)
        for t in collected.trajectories:
            ages = [turn.weights_version for turn in t.turns]
            assert ages == sorted(ages) and ages[-1] <= version
        spans += [len({turn.weights_version for turn in t.turns}) for t in collected.trajectories]
    rig.pool.close()
    assert max(spans) > 2
    model, _ = models.load(CONFIG.policy, seed=0, window=CONFIG.context.window)
    checked = 0
    for version, loaded in versions.items():
        model.load_state_dict(loaded)
        for t in rig.settled.values():
            of_turn = np.array([turn.weights_version for turn in t.turns])
            credit = np.zeros(len(t.turns), np.float32)
            for segment in segments_of(t, credit, label=0):
                mine = segment.loss_mask & (of_turn[segment.turns] == version)
                if not mine.any():
                    continue
                with torch.no_grad():
                    ids = torch.from_numpy(segment.token_ids.astype(np.int64))[None]
                    logprobs = torch.log_softmax(model(ids).logits[0].double(), -1)
                places = np.flatnonzero(mine)
                found = logprobs[places - 1, segment.token_ids[places]].numpy()
                recorded = segment.behaviour_logprobs[places]
                np.testing.assert_allclose(found, recorded, atol=1e-5, rtol=0)
                checked += len(places)
    assert checked == sum(t.sampled_tokens for t in rig.settled.values())
