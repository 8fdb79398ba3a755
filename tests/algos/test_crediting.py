"""From scored groups to the credit of each turn, by hand."""

import dataclasses

import numpy as np
import pytest

from rlagents.algos.configs import (
    AdvantageConfig,
    AlgoConfig,
    CosineConfig,
    CreditConfig,
    FormatConfig,
    OverlongConfig,
    RepetitionConfig,
    ShapingConfig,
    TruncationConfig,
)
from rlagents.algos.crediting import credits_of, differs_within, shaped_scores
from rlagents.algos.shaping import Moments
from rlagents.errors import ConfigError
from rlagents.types import Group, ScoredGroup, StopReason, TurnKind
from tests.fakes import TASK, scored_group, trajectory

PLAIN = AdvantageConfig(scale="none")


def config(**changes) -> AlgoConfig:
    return AlgoConfig(**{"advantage": PLAIN, **changes})


def credits(settings: AlgoConfig, *groups, moments=None):
    return credits_of(settings, groups, moments or Moments())


def first_values(members) -> list[float]:
    return [float(credit.advantages[0]) for credit in members]


def test_advantages_are_constant_over_turns_and_share_the_group_mean():
    (members,) = credits(config(), scored_group(scores=[0.0, 1.0], turns=[3, 2]))
    assert [c.advantages.tolist() for c in members] == [[-0.5] * 3, [0.5] * 2]
    assert all(c.gradient for c in members)


CUT = [StopReason.TERMINATED, StopReason.TERMINATED, StopReason.TURN_LIMIT]


@pytest.mark.parametrize(
    ("policy", "advantages", "gradient"),
    [
        (TruncationConfig(), [-1, 0, 1], [True, True, True]),
        # Out of the statistics: mean of (0, 1) is 0.5; the cut member keeps its value.
        (TruncationConfig(statistics=False), [-0.5, 0.5, 1.5], [True, True, True]),
        # Its reward does not count: scores (0, 1, 0), mean 1/3.
        (TruncationConfig(reward=False), [-1 / 3, 2 / 3, -1 / 3], [True, True, True]),
        (TruncationConfig(gradient=False), [-1, 0, 1], [True, True, False]),
        # The named behaviours are three such choices each.
        (TruncationConfig(behaviour="rllm"), [-1 / 3, 2 / 3, -1 / 3], [True, True, False]),
        (TruncationConfig(behaviour="rllm_drop"), [-0.5, 0.5, 1.5], [True, True, False]),
        (TruncationConfig(behaviour="skyrl"), [-1, 0, 1], [True, True, False]),
        # What is said apart wins over the behaviour.
        (TruncationConfig(behaviour="skyrl", gradient=True), [-1, 0, 1], [True, True, True]),
    ],
)
def test_truncation_is_three_separate_facts(policy, advantages, gradient):
    group = scored_group(scores=[0.0, 1.0, 2.0], stops=CUT)
    (members,) = credits(config(truncation=policy), group)
    np.testing.assert_allclose(first_values(members), advantages, atol=1e-6)
    assert [c.gradient for c in members] == gradient


def with_kinds(group: ScoredGroup, kinds: str) -> ScoredGroup:
    """The group with turns of other kinds: `a` action, `s` summary, `c` a sub-call, `m` memory."""
    names = {"a": "action", "s": "summary", "c": "call", "m": "memory"}
    members = tuple(
        dataclasses.replace(
            t,
            turns=tuple(
                dataclasses.replace(turn, kind=TurnKind(names[kind]))
                for turn, kind in zip(t.turns, kinds, strict=True)
            ),
        )
        for t in group.group.trajectories
    )
    return dataclasses.replace(group, group=dataclasses.replace(group.group, trajectories=members))


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, [True, True, True, False, True]),
        ({"summaries": False}, [True, False, True, False, True]),
        ({"sub_calls": True}, [True, True, True, True, True]),
    ],
)
def test_which_kinds_of_turns_get_gradient(changes, trained):
    group = with_kinds(scored_group(scores=[0.0, 1.0], turns=[5, 5]), "asmca")
    (members,) = credits(config(credit=CreditConfig(**changes)), group)
    assert [c.trained.tolist() for c in members] == [trained, trained]
    assert members[1].advantages.tolist() == [0.5] * 5


def test_turn_credit_of_a_summary_is_that_of_the_action_after_it():
    """Rewards come with actions, and only actions are discounted: by hand, discount 1/2.

    The rewards of the three actions of the two members are 0, 0, 0 and 0, 0, 8: returns 2, 4, 8 of
    the second, advantages of half of that and its negative. Nothing follows the last turn.
    """
    settings = config(credit=CreditConfig(trajectory=0, turn=1, discount=0.5))
    plain = scored_group(scores=[0.0, 8.0], turns=[6, 6], paid=True)
    members = tuple(
        dataclasses.replace(
            t, turns=(*t.turns[:4], dataclasses.replace(t.turns[4], reward=r), t.turns[0])
        )
        for t, r in zip(plain.group.trajectories, (0.0, 8.0), strict=True)
    )
    group = dataclasses.replace(plain, group=dataclasses.replace(plain.group, trajectories=members))
    (found,) = credits(settings, with_kinds(group, "asamam"))
    assert found[1].advantages.tolist() == [1.0, 2.0, 2.0, 4.0, 4.0, 0.0]
    assert found[0].advantages.tolist() == [-1.0, -2.0, -2.0, -4.0, -4.0, 0.0]


def test_failed_member_has_no_part_in_anything():
    group = scored_group(
        scores=[0.0, 2.0, float("nan")],
        stops=[StopReason.TERMINATED] * 2 + [StopReason.ENVIRONMENT_ERROR],
    )
    (members,) = credits(config(), group)
    assert first_values(members) == [-1, 1, 0]
    assert [c.gradient for c in members] == [True, True, False]


def test_shaping_adds_up_and_is_bounded_last():
    # Three turns of one token each and one: limit 3, cache 2 takes 1 off at 3 tokens. The action of
    # the first turn is `a0`, of the second `a1`, ...: two of three are not of the wanted form.
    # 1 - 1 - 2 x 0.25 = -0.5, and the bound lifts it to -0.25; 1 - 0 = 1 stays.
    shaping = ShapingConfig(
        overlong=OverlongConfig(limit=3, cache=2),
        format=FormatConfig(pattern="a0", penalty=0.25),
        clip=(-0.25, 2.0),
    )
    group = scored_group(scores=[1.0, 1.0], turns=[3, 1])
    assert shaped_scores(config(shaping=shaping), group).tolist() == [-0.25, 1.0]
    unbounded = ShapingConfig(overlong=shaping.overlong, format=shaping.format)
    assert shaped_scores(config(shaping=unbounded), group).tolist() == [-0.5, 1.0]


def test_cosine_replaces_scores_and_repetition_looks_at_sampled_tokens():
    # Correct at length 2 of 4: half-way between 2 and 1; wrong at 4: 0; nothing repeats.
    shaping = ShapingConfig(
        cosine=CosineConfig(limit=4), repetition=RepetitionConfig(penalty=1.0, ngram=1)
    )
    group = scored_group(scores=[1.0, 0.0], turns=[2, 4])
    np.testing.assert_allclose(shaped_scores(config(shaping=shaping), group), [1.5, 0.0], atol=1e-6)


def test_running_scale_divides_what_was_not_divided():
    moments = Moments().add(np.array([0.0, 4.0], np.float32))  # deviation 2
    settings = config(shaping=ShapingConfig(running=True))
    (members,) = credits(settings, scored_group(scores=[0.0, 4.0]), moments=moments)
    np.testing.assert_allclose(first_values(members), [-1, 1])


def test_several_rewards_are_found_by_name():
    # The part `return` is against the score: with equal weights nothing is left.
    group = scored_group(scores=[0.0, 1.0])
    part = dataclasses.replace(group, parts={"return": np.array([1.0, 0.0], np.float32)})
    for weights, expected in (({"score": 1.0}, 1), ({"score": 1.0, "return": 1.0}, 0)):
        (members,) = credits(config(advantage=AdvantageConfig(rewards=weights)), part)
        low, high = first_values(members)
        assert low == pytest.approx(-high) and np.sign(round(high, 6)) == expected


def test_a_reward_that_nothing_is_called_is_an_error():
    rewards = AdvantageConfig(rewards={"score": 1.0, "env/lokos": -1.0})
    with pytest.raises(
        ConfigError, match=r"algo\.advantage\.rewards\.env/lokos: expected the score"
    ):
        credits(config(advantage=rewards), scored_group(scores=[0.0, 1.0]))


def test_equal_scores_may_hide_a_signal_of_turns():
    # Returns to go (1, 0) and (1, 1): the second turns differ, the scores do not.
    early, late = trajectory(turns=2, member=0), trajectory(turns=2, member=1, score=1.0)
    first = dataclasses.replace(early.turns[0], reward=1.0)
    early = dataclasses.replace(early, turns=(first, early.turns[1]))
    group = ScoredGroup(
        group=Group(task=TASK, trajectories=(early, late)), scores=np.ones(2, np.float32)
    )
    assert not differs_within(config(), group)
    assert differs_within(config(credit=CreditConfig(trajectory=0.0, turn=1.0)), group)
    assert not differs_within(config(credit=CreditConfig(turn=1.0)), scored_group(scores=[1.0] * 2))


def test_turn_credit_is_added_to_that_of_the_trajectory():
    # Rewards (0, 1) and (0, 0): returns to go are (1, 1) and (0, 0); turns of the same number are
    # compared: +-0.5 each, beside +-0.5 for the trajectory.
    group = scored_group(scores=[1.0, 0.0], turns=[2, 2], paid=True)
    settings = config(credit=CreditConfig(trajectory=1.0, turn=2.0))
    (members,) = credits(settings, group)
    assert [c.advantages.tolist() for c in members] == [[1.5, 1.5], [-1.5, -1.5]]


def test_a_score_that_no_reward_explains_comes_with_the_last_turn():
    """A judge's score: no reward on the way; without a discount every turn answers for it."""
    group = scored_group(scores=[1.0, 0.0], turns=[2, 2])
    for discount, first in ((1.0, 0.5), (0.5, 0.25)):
        credit = CreditConfig(trajectory=0.0, turn=1.0, discount=discount)
        (members,) = credits(config(credit=credit), group)
        assert [c.advantages.tolist() for c in members] == [[first, 0.5], [-first, -0.5]]


def test_potentials_move_credit_between_turns_and_not_the_return():
    group = scored_group(scores=[1.0, 0.0], turns=[2, 2], paid=True, potentials=[0.0, 1.0])
    plain = config(credit=CreditConfig(trajectory=0.0, turn=1.0))
    shaped = config(credit=plain.credit, shaping=ShapingConfig(potential=1.0))
    (before,), (after,) = credits(plain, group), credits(shaped, group)
    # Both members have the same potentials, so that comparing them takes the shaping out again.
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one.advantages, other.advantages, atol=1e-6)


def test_a_member_without_turns_has_no_credit_to_give():
    (members,) = credits(config(), scored_group(scores=[0.0, 1.0], turns=[1, 0]))
    assert members[1].advantages.shape == (0,)


def test_a_scale_that_needs_scores_of_zero_or_more_says_so():
    group = scored_group(scores=[-0.5, 1.0])
    with pytest.raises(ConfigError, match=r"algo\.advantage\.scale: .* below 0, as -0\.5 is"):
        credits(config(advantage=AdvantageConfig(scale="mean")), group)


def test_a_cut_trajectory_whose_reward_does_not_count_has_no_turn_rewards_either():
    group = scored_group(scores=[1.0, 1.0], turns=[2, 2], stops=CUT[1:], paid=True)
    settings = config(
        truncation=TruncationConfig(reward=False), credit=CreditConfig(trajectory=0.0, turn=1.0)
    )
    (members,) = credits(settings, group)
    assert [c.advantages.tolist() for c in members] == [[0.5, 0.5], [-0.5, -0.5]]
