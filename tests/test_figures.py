"""What an iteration amounts to, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from rlagents.algos.sampling import Plan, Slot
from rlagents.figures import best_and_worst, rollout_metrics, words
from rlagents.rollout.stream import Collected
from rlagents.types import EpisodeKey, Group, ScoredGroup, StopReason
from tests.fakes import TASK, trajectory, turn

NAN = float("nan")


def group(number, *scores, versions=None, tokens=1, old=0, stop=StopReason.TERMINATED):
    """Members of one turn of `tokens` tokens; the last `old` ones are of an earlier iteration."""
    versions = versions or [0] * len(scores)
    members = []
    for member, (score, version) in enumerate(zip(scores, versions, strict=True)):
        iteration = 3 if member >= len(scores) - old else 5
        members.append(
            replace(
                trajectory(stop=StopReason.SAMPLER_ERROR if np.isnan(score) else stop),
                key=EpisodeKey(stream="train", iteration=iteration, group=number, member=member),
                turns=(replace(turn(tokens=tokens, reward=score), weights_version=version),),
            )
        )
    return ScoredGroup(
        group=Group(task=TASK, trajectories=tuple(members)), scores=np.array(scores, np.float32)
    )


def collected(kept=(), dropped=(), **plan):
    groups = [*kept, *(g for g, _ in dropped)]
    slots = tuple(Slot(index=None, attempts=len(g.scores)) for g in groups)
    old = [t.key for g in groups for t in g.group.trajectories if t.key.iteration == 3]
    return Collected(
        plan=Plan(slots=slots, groups=len(kept), success=0.9, **plan),
        kept=tuple(kept),
        dropped=tuple(dropped),
        replayed=frozenset(old),
    )


def test_what_was_dropped_and_why():
    made = collected(
        kept=[group(0, 0, 1)],
        dropped=[
            (group(1, 1, 1), "zero_variance"),
            (group(2, 0.9, 0.9), "zero_variance"),
            (group(3, 0.5, 0.5), "zero_variance"),
            (group(4, 0.2, 0.1), "below_band"),
            (group(5, 0.8, 0.9), "above_band"),
            (group(6, 1, NAN), "too_few_scores"),
        ],
    )
    figures = rollout_metrics(made, 0)
    assert (figures["sampling/groups_kept"], figures["sampling/groups_dropped"]) == (1, 6)
    assert (figures["sampling/dropped_high"], figures["sampling/dropped_low"]) == (3, 2)
    assert figures["sampling/zero_variance_frac"] == pytest.approx(3 / 7)
    assert figures["rollout/failed_frac"] == pytest.approx(1 / 14)
    # 1 + 2 + 1.8 + 1 + 0.3 + 1.7 + 1 over 13 scores.
    assert figures["train/score_mean"] == pytest.approx(8.8 / 13)


def test_groups_without_variance_count_even_if_nothing_drops_them():
    made = collected(
        kept=[group(0, 1, 1), group(1, 0, 1), group(2, 0.5, 0.5, NAN), group(3, 1, NAN)]
    )
    figures = rollout_metrics(made, 0)
    assert figures["sampling/zero_variance_frac"] == 2 / 4
    assert (figures["sampling/dropped_high"], figures["sampling/dropped_low"]) == (0, 0)


def test_shaped_scores_may_be_equal_where_scores_are_not():
    made = collected(kept=[group(0, 0, 1)], dropped=[(group(1, 0.2, 0.1), "zero_variance")])
    assert rollout_metrics(made, 0)["sampling/zero_variance_frac"] == 0.5


def test_replayed_members_are_in_no_figure_but_their_own_and_the_staleness():
    topped = group(0, 0, 0, 1, versions=[7, 7, 4], tokens=2, old=1)
    own, other = group(0, 0, 0, versions=[7, 7], tokens=2), group(1, 0, 1, 1, 0, versions=[7] * 4)
    with_replay = rollout_metrics(collected(kept=[topped, other]), 7)
    plain = rollout_metrics(collected(kept=[own, other]), 7)
    assert with_replay["sampling/replayed"] == 1
    assert plain["sampling/replayed"] == 0
    differ = {name for name in plain if plain[name] != with_replay[name]}
    assert differ == {"sampling/replayed", "staleness/mean", "staleness/max"}
    assert plain["sampling/zero_variance_frac"] == 0.5
    assert plain["sampling/attempts_mean"] == 3
    assert plain["train/score_mean"] == pytest.approx(2 / 6)


def test_staleness_is_over_the_tokens_that_are_trained_on():
    made = collected(
        kept=[
            group(0, 0, 1, versions=[9, 8], tokens=3),
            group(1, 0, 1, versions=[9, 6], tokens=1),
        ],
        dropped=[(group(2, 0, 0, versions=[0, 0]), "zero_variance")],
    )
    figures = rollout_metrics(made, 9)
    # Ages 0 and 1 of 3 tokens each, 0 and 3 of one each: 6 over 8.
    assert figures["staleness/mean"] == pytest.approx(6 / 8)
    assert figures["staleness/max"] == 3
    nothing = rollout_metrics(collected(dropped=[(group(0, 0, 0), "zero_variance")]), 9)
    assert "staleness/mean" not in nothing


def test_every_sampled_trajectory_counts_whether_it_is_kept_or_not():
    made = collected(
        kept=[group(0, 0, 1, tokens=2)],
        dropped=[(group(1, 0, 0, tokens=4, stop=StopReason.TURN_LIMIT), "zero_variance")],
    )
    figures = rollout_metrics(made, 0)
    assert figures["rollout/tokens_per_trajectory"] == 3
    assert figures["rollout/truncated_frac"] == 0.5
    assert sum(t.sampled_tokens for t in made.trajectories) == 12


def test_what_the_plan_did():
    figures = rollout_metrics(collected(kept=[group(0, 0, 1)], skipped=3, retired=2), 0)
    assert (figures["sampling/skipped"], figures["sampling/retired"]) == (3, 2)


def test_one_line_of_words():
    made = collected(
        kept=[group(0, 0, 0, 1, old=1)],
        dropped=[(group(1, 1, 1), "zero_variance"), (group(2, 1, NAN), "too_few_scores")],
        retired=4,
        exhausted=True,
    )
    assert words(made, {"train/score_mean": 0.6, "policy/entropy": 1.25}) == (
        "score 0.600, 1 of 3 groups trained, 2 dropped (1 too_few_scores, 1 zero_variance), "
        "1 successes replayed, every task is retired: all are dealt again, 1 episodes failed, "
        "entropy 1.250"
    )
    nothing = collected(dropped=[(group(0, 0, 0), "zero_variance")])
    assert words(nothing, {}) == "no score, NOTHING TRAINED, 1 dropped (1 zero_variance)"


def test_the_best_and_the_worst():
    shown = list(best_and_worst([group(0, 0.5, NAN), group(1, 1, 0)], 1))
    assert [(tag, score, t.key.group) for tag, score, t in shown] == [
        ("trajectories/best_0", 1, 1),
        ("trajectories/worst_0", 0, 1),
    ]
