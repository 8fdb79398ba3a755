"""What an iteration amounts to, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from rlagents.algos.sampling import Plan, Slot
from rlagents.figures import (
    best_and_worst,
    depth_of_rollouts,
    dropped_by_context,
    rollout_metrics,
    survivals,
    words,
)
from rlagents.rollout.collected import Collected
from rlagents.types import EpisodeKey, Group, ScoredGroup, StopReason, Trajectory, Turn, TurnKind
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


def played(*turns: Turn, stop: StopReason = StopReason.TERMINATED) -> Trajectory:
    return replace(trajectory(stop=stop), turns=turns)


def scored(*pairs: tuple[Trajectory, float]) -> Collected:
    members = tuple(
        replace(t, key=EpisodeKey(stream="train", iteration=5, group=0, member=i))
        for i, (t, _) in enumerate(pairs)
    )
    scores = np.array([score for _, score in pairs], np.float32)
    return collected(
        kept=[ScoredGroup(group=Group(task=TASK, trajectories=members), scores=scores)]
    )


def kind(of: TurnKind, tokens: int = 1) -> Turn:
    return replace(turn(tokens=tokens), kind=of)


def test_turns_are_those_with_the_environment():
    one = played(turn(tokens=2), kind(TurnKind.SUMMARY, 5), turn(tokens=1))
    other = played(turn(tokens=2), kind(TurnKind.CODE, 3), kind(TurnKind.CODE, 3), turn(tokens=4))
    figures = rollout_metrics(scored((one, 0), (other, 1)), 0)
    assert figures["rollout/turns_per_trajectory"] == 2
    assert figures["rollout/summaries_per_trajectory"] == 1 / 2
    assert figures["rollout/code_blocks_per_trajectory"] == 2 / 2
    # Of 8 and 12 tokens: 3 and 6 of actions, 5 of a summary, 6 of code.
    assert figures["rollout/tokens_action_frac"] == 9 / 20
    assert figures["rollout/tokens_summary_frac"] == 5 / 20
    assert figures["rollout/tokens_code_frac"] == 6 / 20
    assert "rollout/calls_per_trajectory" not in figures
    plain = rollout_metrics(scored((played(turn()), 0)), 0)
    assert not [name for name in plain if "frac" in name and "tokens_" in name]


def test_what_contexts_leave_out():
    """Nine of ten trajectories have one context, the last has three, two of which drop tokens."""
    deep = played(
        turn(0),
        replace(turn(1, context=1), dropped_tokens=6),
        replace(turn(2, context=2), dropped_tokens=10),
    )
    made = scored(*[(played(turn()), 0)] * 9, (deep, 0))
    figures = rollout_metrics(made, 0)
    assert figures["context/segments_per_trajectory"] == pytest.approx(12 / 10)
    assert (figures["context/segments_p50"], figures["context/segments_max"]) == (1, 3)
    assert figures["context/segments_p90"] == pytest.approx(1.2)  # a tenth of the way from 1 to 3
    assert figures["context/cuts_per_trajectory"] == 2 / 10
    assert figures["context/dropped_tokens"] == 8
    assert figures["context/dropped_frac"] == 16 / (16 + 4)  # each shows two tokens
    assert dropped_by_context(made.trajectories) == {1: [6], 2: [10]}
    assert "context/dropped_frac" not in rollout_metrics(scored((played(turn()), 0)), 0)


def test_rewards_and_scores_by_depth():
    """Turns 0, 1-2 and 3; a summary is turn 1 of the second."""
    one = played(*(turn(i, reward=r) for i, r in enumerate((1, 2, 3, 4))))
    other = played(turn(0, reward=3), kind(TurnKind.SUMMARY), turn(2, reward=1, context=1))
    broken = played(*(turn(i, reward=9) for i in range(9)), stop=StopReason.SAMPLER_ERROR)
    figures = depth_of_rollouts(scored((one, 0.5), (other, 1), (broken, NAN)))
    picked = {name: v for name, v in figures.items() if name.startswith(("depth_re", "depth_sc"))}
    assert picked == {
        "depth_reward/turn_0000": (1 + 3) / 2,
        "depth_reward/turn_0001_0002": (2 + 3 + 1) / 3,
        "depth_reward/turn_0003_0006": 4,
        "depth_score/turn_0001_0002": 1,
        "depth_score/turn_0003_0006": 0.5,
        "depth_score/segment_0000": 0.5,
        "depth_score/segment_0001_0002": 1,
    }


def test_success_against_turns_and_tokens():
    """A success that was cut has ended; of others that were cut, or broke, no end is known."""
    solved = played(*[turn(tokens=50)] * 2, stop=StopReason.TURN_LIMIT)
    lost = played(*[turn(tokens=10)] * 3)
    cut = played(*[turn(tokens=100)] * 3, stop=StopReason.TURN_LIMIT)
    broken = played(turn(tokens=10), stop=StopReason.SAMPLER_ERROR)
    made = scored((solved, 0.9), (lost, 0.5), (cut, 0.5), (broken, NAN))
    by_turn, by_token = survivals(made)
    # The broken one leaves after turn 1; of three one succeeds at turn 2; of two one is lost at 3.
    assert by_turn.lengths.tolist() == [1, 2, 3]
    assert by_turn.running == pytest.approx([1, 2 / 3, 1 / 3])
    assert by_turn.succeeded == pytest.approx([0, 1 / 3, 1 / 3])
    assert by_turn.cuts.tolist() == [1, 0, 1]
    assert by_token.lengths.tolist() == [10, 30, 100, 300]
    figures = depth_of_rollouts(made)
    assert figures["depth_running/turn_0001_0002"] == 1
    assert figures["depth_succeeded/turn_0001_0002"] == pytest.approx(1 / 3)
    assert figures["depth_running/token_000064_000191"] == pytest.approx(2 / 3)


def test_nothing_of_depth_without_turns():
    assert depth_of_rollouts(scored((played(), 0), (played(), 1))) == {}


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
