"""Tournament scoring with judges that answer by rule, and with judges that misbehave."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlagents.config import JudgeSection, TournamentSection
from rlagents.errors import JudgeError
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.scorer import JUDGE_ERROR
from rlagents.scoring.simulated import SimulatedJudge
from rlagents.scoring.tournament import TournamentScorer
from rlagents.types import Group, ScoredGroup, StopReason
from tests.fakes import TASK, trajectory

LONG_S = 60.0
ROUND_ROBIN = TournamentSection(topology="round_robin", rewards="margin")
Act = Callable[[Candidate, Candidate], Any]


def group(*returns: float, broken: tuple[int, ...] = ()) -> Group:
    members = tuple(
        trajectory(
            member=i,
            score=score,
            stop=StopReason.WORKER_LOST if i in broken else StopReason.TERMINATED,
        )
        for i, score in enumerate(returns)
    )
    return Group(task=TASK, trajectories=members)


def honest(first: Candidate, second: Candidate) -> Verdict:
    return Verdict(first=first.hidden, second=second.hidden)


class Judge:
    """Answers by rule; remembers who was shown."""

    def __init__(self, act: Act = honest) -> None:
        self._act = act
        self._lock = threading.Lock()
        self.asked: list[tuple[int, int]] = []
        self.repeats: list[int] = []
        self.closed = 0

    def compare(
        self, question: Question, first: Candidate, second: Candidate, repeat: int = 0
    ) -> Verdict:
        with self._lock:
            self.asked.append((first.key.member, second.key.member))
            self.repeats.append(repeat)
        return self._act(first, second)

    def take_figures(self) -> dict[str, float]:
        return {"judge/own": 1.0}

    def close(self) -> None:
        self.closed += 1


def how(timeout_s: float = LONG_S, concurrency: int = 8) -> JudgeSection:
    return JudgeSection(backend="simulated", call_timeout_s=timeout_s, concurrency=concurrency)


def scorer(
    *judges: Any, section: TournamentSection = ROUND_ROBIN, timeout_s: float = LONG_S
) -> TournamentScorer:
    return TournamentScorer([(judge, how(timeout_s)) for judge in judges], section, seed=0)


def through_queue(scorer: TournamentScorer, group: Group) -> tuple[ScoredGroup, ScoringQueue]:
    queue = ScoringQueue(scorer, concurrency=1, limit=8, timeout_s=LONG_S)
    queue.submit(0, group)
    result = queue.wait(LONG_S)
    assert result is not None
    return result[1], queue


def test_all_meet_in_both_orders_and_the_best_wins() -> None:
    judge = Judge()
    scored = scorer(judge).score(group(0.0, 2.0, 1.0))
    assert sorted(judge.asked) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert scored.parts["rank"].tolist() == [3.0, 1.0, 2.0]
    assert scored.parts["return"].tolist() == [0.0, 2.0, 1.0]
    assert scored.parts["matches"].tolist() == [2.0, 2.0, 2.0]
    assert scored.parts["missing"].tolist() == [0.0, 0.0, 0.0]
    # Least squares on margins -2, -1, 1 with the prior 1: (L + 1) s = sums of margins
    # (-3, 3, 0), and L + 1 is 4 - J: s = (-3, 3, 0) / 4.
    assert scored.scores.tolist() == [-0.75, 0.75, 0.0]


def test_a_margin_is_free_of_position_and_of_what_a_call_is_shifted_by() -> None:
    def shifted(first: Candidate, second: Candidate) -> Verdict:
        drift = 10.0 * first.key.member  # another one in each call
        return Verdict(first=first.hidden + drift + 0.5, second=second.hidden + drift)

    plain = scorer(Judge()).score(group(0.0, 2.0, 1.0))
    biased = scorer(Judge(shifted)).score(group(0.0, 2.0, 1.0))
    assert biased.scores.tolist() == plain.scores.tolist()


def test_figures_by_hand() -> None:
    def biased(first: Candidate, second: Candidate) -> Verdict:
        return Verdict(first=first.hidden + 1.5, second=second.hidden)

    tournament = scorer(Judge(biased))
    tournament.score(group(0.0, 1.0, 3.0))
    # Leads of the first, in both orders: 0-1: 0.5 and 2.5, it flips; 0-2: -1.5 and 4.5, no;
    # 1-2: -0.5 and 3.5, no. Their means are 1.5. All transcripts are as long.
    assert tournament.take_figures() == {
        "judge/fail_frac": 0.0,
        "judge/missing_frac": 0.0,
        "score/comparisons_per_group": 3.0,
        "judge/position_bias": 1 / 3,
        "judge/position_shift": 1.5,
        "judge/own": 1.0,
    }
    assert tournament.take_figures() == {"judge/own": 1.0}


def test_scores_that_follow_the_length_correlate_with_it() -> None:
    members = group(0.0, 1.0, 2.0).trajectories
    longer = tuple(replace(t, final_observation="x" * 10 * (i + 1)) for i, t in enumerate(members))
    tournament = scorer(Judge())
    tournament.score(Group(task=TASK, trajectories=longer))
    assert tournament.take_figures()["score/length_correlation"] == pytest.approx(1.0)


def test_a_match_with_a_failed_call_is_missing_and_no_tie() -> None:
    def fails(first: Candidate, second: Candidate) -> Verdict:
        if (first.key.member, second.key.member) == (1, 0):  # one of two orders is enough
            raise JudgeError("no")
        return honest(first, second)

    tournament = scorer(Judge(fails))
    scored = tournament.score(group(0.0, 2.0, 1.0))
    assert scored.parts["missing"].tolist() == [1.0, 1.0, 0.0]
    assert scored.parts["matches"].tolist() == [1.0, 1.0, 2.0]
    assert scored.parts["rank"].tolist() == [3.0, 1.0, 2.0]
    assert tournament.take_figures()["judge/missing_frac"] == 1 / 3


def test_members_that_failed_take_no_part() -> None:
    judge = Judge()
    scored = scorer(judge).score(group(0.0, 2.0, 1.0, broken=(1,)))
    assert sorted(judge.asked) == [(0, 2), (2, 0)]
    assert np.isnan(scored.scores).tolist() == [False, True, False]
    assert scored.parts["matches"].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("broken", [(0, 1), (0, 1, 2)])
def test_without_two_members_nobody_is_asked_and_nobody_has_a_score(
    broken: tuple[int, ...],
) -> None:
    judge = Judge()
    scored = scorer(judge).score(group(0.0, 2.0, 1.0, broken=broken))
    assert judge.asked == []
    assert np.isnan(scored.scores).all()
    assert JUDGE_ERROR not in scored.parts


def test_a_group_of_one_has_its_return_and_asks_nobody() -> None:
    judge = Judge()
    assert scorer(judge).score(group(0.25)).scores.tolist() == [0.25]
    assert np.isnan(scorer(judge).score(group(0.25, broken=(0,))).scores).all()
    assert judge.asked == []


def test_a_group_in_which_all_are_alike_has_equal_scores() -> None:
    for topology in ("active", "round_robin", "swiss", "seeded_margins"):
        section = TournamentSection(topology=topology)
        scores = scorer(Judge(), section=section).score(group(1.0, 1.0, 1.0, 1.0)).scores
        assert len(set(scores.tolist())) == 1


def test_the_same_group_has_the_same_scores_and_another_seed_may_have_others() -> None:
    section = TournamentSection(topology="active")
    noisy = JudgeSection(backend="simulated", noise=1.0)
    members = group(*np.linspace(0, 1, 8).tolist())

    def scores(seed: int) -> list[float]:
        judge = SimulatedJudge(noisy, seed)
        return TournamentScorer([(judge, noisy)], section, seed).score(members).scores.tolist()

    assert scores(0) == scores(0) != scores(1)


def hang(first: Candidate, second: Candidate) -> None:
    threading.Event().wait(LONG_S)


def stop(first: Candidate, second: Candidate) -> None:
    raise SystemExit


BAD: dict[str, Act] = {
    "raises": lambda first, second: 1 / 0,
    "ends its thread": stop,
    "nothing": lambda first, second: None,
    "text": lambda first, second: "full marks for the first",
    "text for marks": lambda first, second: Verdict(first="ten", second=0.0),  # pyright: ignore
    "NaN": lambda first, second: Verdict(first=math.nan, second=0.0),
    "infinite": lambda first, second: Verdict(first=math.inf, second=math.inf),
    "beyond float32": lambda first, second: Verdict(first=1e300, second=0.0),
    "hangs": hang,
}


@pytest.mark.parametrize("name", BAD)
def test_a_judge_that_misbehaves_throughout_gives_no_scores_and_says_so(name: str) -> None:
    timeout_s = 0.05 if name == "hangs" else LONG_S
    scored, queue = through_queue(scorer(Judge(BAD[name]), timeout_s=timeout_s), group(0.0, 1.0))
    assert np.isnan(scored.scores).all()
    assert scored.parts[JUDGE_ERROR].tolist() == [1.0, 1.0]
    assert queue.last_error is not None
    assert "1 of 1 matches have no verdict" in queue.last_error.message
    figures = queue.take_figures()
    assert figures["score/failed"] == 1.0
    assert figures["judge/missing_frac"] == 1.0


@pytest.mark.parametrize("name", BAD)
def test_a_judge_that_misbehaves_about_one_member_leaves_the_others_as_they_were(
    name: str,
) -> None:
    def act(first: Candidate, second: Candidate) -> Any:
        bad = 3 in (first.key.member, second.key.member)
        return (BAD[name] if bad else honest)(first, second)

    timeout_s = 0.05 if name == "hangs" else LONG_S
    scored, queue = through_queue(
        scorer(Judge(act), timeout_s=timeout_s), group(0.0, 2.0, 1.0, 9.0)
    )
    assert np.isnan(scored.scores).tolist() == [False, False, False, True]
    assert scored.scores[:3].tolist() == scorer(Judge()).score(group(0.0, 2.0, 1.0)).scores.tolist()
    assert scored.parts["missing"].tolist() == [1.0, 1.0, 1.0, 3.0]
    assert queue.take_figures()["judge/missing_frac"] == 0.5  # 3 of 6 matches


def test_a_judge_that_contradicts_itself_decides_nothing_and_is_seen() -> None:
    def always_first(first: Candidate, second: Candidate) -> Verdict:
        return Verdict(first=10.0, second=0.0)

    scored, queue = through_queue(scorer(Judge(always_first)), group(0.0, 2.0, 1.0))
    assert scored.scores.tolist() == [0.0, 0.0, 0.0]
    assert queue.take_figures()["judge/position_bias"] == 1.0


@pytest.mark.parametrize(("least", "scored"), [(0.5, True), (0.6, False)])
def test_min_matches_says_how_many_verdicts_are_enough(least: float, scored: bool) -> None:
    def act(first: Candidate, second: Candidate) -> Any:
        return None if 3 in (first.key.member, second.key.member) else honest(first, second)

    section = TournamentSection(topology="round_robin", min_matches=least)
    result, _ = through_queue(scorer(Judge(act), section=section), group(0.0, 2.0, 1.0, 9.0))
    assert (JUDGE_ERROR not in result.parts) == scored  # 3 of 6 matches have a verdict


def test_all_calls_of_a_round_run_at_once_and_rounds_one_after_the_other() -> None:
    barrier = threading.Barrier(6)  # 3 matches in both orders: with fewer at once it breaks

    def together(first: Candidate, second: Candidate) -> Verdict:
        barrier.wait(LONG_S)
        return honest(first, second)

    assert np.isfinite(scorer(Judge(together)).score(group(0.0, 2.0, 1.0)).scores).all()


class Waves:
    """A judge whose calls answer a wave at a time: each waits until the wave it is in is full."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self._changed = threading.Condition()
        self._arrived = 0

    def __call__(self, first: Candidate, second: Candidate) -> Verdict:
        with self._changed:
            full = next(
                end for end in np.cumsum(self._sizes).tolist() if self._arrived < end
            )  # calls that must have come by the end of this wave
            self._arrived += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._arrived >= full, LONG_S)
        return honest(first, second)


def test_eight_groups_at_once_take_no_more_waves_of_calls_than_rounds() -> None:
    # N = 16 with 30 matches in rounds of 16, 5, 5, 4, two calls each, eight groups: with as many
    # calls at once as a round has, four waves. Were a single call late, none would go on.
    waves = Waves([8 * 2 * matches for matches in (16, 5, 5, 4)])
    section = TournamentSection(topology="active")
    judged = TournamentScorer([(Judge(waves), how(concurrency=256))], section, seed=0)
    queue = ScoringQueue(judged, concurrency=8, limit=8, timeout_s=LONG_S)
    for number in range(8):
        queue.submit(number, group(*np.linspace(0, 1, 16).tolist()))
    results = [queue.wait(LONG_S) for _ in range(8)]
    assert all(result is not None and np.isfinite(result[1].scores).all() for result in results)
    assert queue.take_figures()["judge/missing_frac"] == 0.0
    queue.close()


def test_closing_the_queue_closes_the_judge() -> None:
    judge = Judge()
    _, queue = through_queue(scorer(judge), group(0.0, 1.0))
    queue.close()
    queue.close()
    assert judge.closed >= 1


def test_a_member_with_too_few_verdicts_has_no_score() -> None:
    def act(first: Candidate, second: Candidate) -> Any:
        # About member 0 there is a verdict only where it wins: one of three.
        silent = 0 in (first.key.member, second.key.member) and max(first.hidden, second.hidden) > 1
        return None if silent else honest(first, second)

    members = group(1.0, 0.0, 2.0, 3.0)
    section = TournamentSection(topology="round_robin")
    scored = scorer(Judge(act), section=section).score(members)
    assert np.isnan(scored.scores).tolist() == [True, False, False, False]
    np.testing.assert_array_equal(scored.parts["rank"], [np.nan, 3, 2, 1])
    assert scored.parts["missing"].tolist() == [2.0, 0.0, 1.0, 1.0]
    lenient = replace(section, min_matches=0.3)
    assert scorer(Judge(act), section=lenient).score(members).parts["rank"][0] == 1.5


@pytest.mark.parametrize("name", ["seeded_single_elimination", "swiss", "active"])
def test_further_meetings_of_the_same_two_are_numbered(name: Any) -> None:
    judge = Judge()
    section = TournamentSection(topology=name, rounds=3, matches=3)
    scorer(judge, section=section).score(group(0.0, 1.0))
    # Two members meet: once for the seeds and once in the bracket; three times.
    count = 2 if name == "seeded_single_elimination" else 3
    meetings = [sorted(pair) for pair in judge.asked[::2]]
    assert meetings == [[0, 1]] * count
    assert sorted(judge.repeats) == sorted([*range(count)] * 2)


def test_totals_are_sent_only_where_they_are_wanted() -> None:
    noisy = SimulatedJudge(JudgeSection(backend="simulated"), 0)

    def generous(first: Candidate, second: Candidate) -> Verdict:
        if 0 in (first.key.member, second.key.member):
            return Verdict(first=10.0, second=10.0)
        return noisy.compare(Question(task=""), first, second)

    members = group(*np.linspace(-2, 2, 12).tolist())

    def rank(totals: bool, topology: Any = "active") -> float:
        section = TournamentSection(topology=topology, totals=totals)
        return float(scorer(Judge(generous), section=section).score(members).parts["rank"][0])

    # The worst ties with all it meets, so it stands among them; with totals it is about the best.
    assert rank(False) > 4
    assert rank(True) <= 2
    assert rank(True, "swiss") == rank(False, "swiss")


def panel(*acts: Act, section: TournamentSection = ROUND_ROBIN, timeout_s: float = LONG_S) -> Any:
    return scorer(*map(Judge, acts), section=section, timeout_s=timeout_s)


def test_a_panel_takes_the_mean_of_margins() -> None:
    def stern(first: Candidate, second: Candidate) -> Verdict:
        return Verdict(first=3 * first.hidden - 9, second=3 * second.hidden - 9)

    members = group(0.0, 2.0, 1.0)
    scored = panel(honest, stern).score(members)
    twice = group(0.0, 4.0, 2.0)  # (1 + 3) / 2 times as far apart
    assert scored.scores.tolist() == scorer(Judge()).score(twice).scores.tolist()


@pytest.mark.parametrize("bad", ["raises", "NaN", "hangs"])
def test_one_judge_of_a_panel_that_misbehaves_costs_only_its_verdicts(bad: str) -> None:
    def generous(first: Candidate, second: Candidate) -> Any:
        if (first.key.member, second.key.member) == (0, 1):  # one order of one match
            return BAD[bad](first, second)
        return Verdict(first=first.hidden + 5, second=second.hidden + 5)

    members = group(0.0, 2.0, 1.0)
    judged = TournamentScorer(
        [(Judge(), how()), (Judge(generous), how(0.05 if bad == "hangs" else LONG_S))],
        ROUND_ROBIN,
        seed=0,
    )
    scored = judged.score(members)
    assert scored.scores.tolist() == scorer(Judge()).score(members).scores.tolist()
    figures = judged.take_figures()
    assert figures["judge/missing_frac"] == 0.0
    assert figures["judge/partial_frac"] == 1 / 3
    assert figures["judge/0/fail_frac"] == 0.0 and figures["judge/1/fail_frac"] == 1 / 6
    assert figures["judge/fail_frac"] == 1 / 12
    assert figures["judge/agreement"] == 1.0


def test_each_judge_is_shown_transcripts_of_its_own_settings() -> None:
    shown: list[int] = []

    def keep(first: Candidate, second: Candidate) -> Verdict:
        shown.append(len(first.transcript))
        return honest(first, second)

    long = tuple(replace(t, final_observation="x" * 999) for t in group(0.0, 1.0).trajectories)
    brief = replace(how(), transcript_chars=100)
    judged = TournamentScorer([(Judge(), how()), (Judge(keep), brief)], ROUND_ROBIN, seed=0)
    judged.score(Group(task=TASK, trajectories=long))
    assert max(shown) <= 100


def test_calls_that_take_too_long_are_failures_of_the_judge() -> None:
    def act(first: Candidate, second: Candidate) -> Any:
        return (hang if (first.key.member, second.key.member) == (0, 1) else honest)(first, second)

    slow = scorer(Judge(act), timeout_s=0.05)
    slow.score(group(0.0, 2.0, 1.0))
    assert slow.take_figures()["judge/fail_frac"] == 1 / 6


def test_a_course_ends_at_its_deadline_and_is_scored_from_what_is_there() -> None:
    held, asked = threading.Event(), []

    def act(first: Candidate, second: Candidate) -> Any:
        asked.append((first.key.member, second.key.member))
        if len(asked) > 16:  # the first round has 8 matches
            held.wait(LONG_S)
        return honest(first, second)

    section = TournamentSection(topology="active")
    judged = TournamentScorer([(Judge(act), how(concurrency=32))], section, seed=0)
    queue = ScoringQueue(judged, concurrency=1, limit=8, timeout_s=2.0)
    queue.submit(0, group(*np.linspace(0, 7, 8).tolist()))
    result = queue.wait(LONG_S)
    assert result is not None
    scored = result[1]
    assert JUDGE_ERROR not in scored.parts
    assert scored.parts["matches"].tolist() == [2.0] * 8  # a cycle
    assert scored.parts["missing"].sum() == 2 * (14 - 8)
    known = ~np.isnan(scored.scores)
    assert known.any() and (np.diff(scored.scores[known]) > 0).all()
    # The next rounds were planned without anybody being asked.
    assert len(asked) == 16 + 4
    assert queue.take_figures()["score/abandoned"] == 0.0
    held.set()


def test_a_group_of_a_closed_queue_stops_asking() -> None:
    inside, held = threading.Event(), threading.Event()
    asked: list[int] = []

    def act(first: Candidate, second: Candidate) -> Any:
        asked.append(0)
        inside.set()
        held.wait(LONG_S)
        return honest(first, second)

    judged = TournamentScorer(
        [(Judge(act), how(concurrency=1))], TournamentSection(topology="swiss"), seed=0
    )
    ended = threading.Event()

    class Watched:
        def score(self, group: Group) -> ScoredGroup:
            try:
                return judged.score(group)
            finally:
                ended.set()

        def take_figures(self) -> dict[str, float]:
            return {}

        def close(self) -> None:
            judged.close()

    queue = ScoringQueue(Watched(), concurrency=1, limit=8, timeout_s=LONG_S)
    queue.submit(0, group(0.0, 1.0, 2.0, 3.0))
    assert inside.wait(LONG_S)
    queue.close()
    assert ended.wait(LONG_S)
    held.set()
    assert asked == [0]
