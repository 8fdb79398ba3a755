from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest

from rlagents.algos.configs import Aggregation
from rlagents.data.batches import WEIGHTS, credited_segments, make_batches
from rlagents.data.packing import pack
from rlagents.data.segments import segments_of
from rlagents.types import Batch, BoolArray, FloatArray, Group, ScoredGroup
from tests.fakes import TASK, trajectory


@dataclass(frozen=True)
class Credit:
    advantages: FloatArray
    trained: BoolArray


def group(index: int, turns: tuple[int, ...]) -> ScoredGroup:
    members = [trajectory(turns=n, member=m, group=index) for m, n in enumerate(turns)]
    members = tuple(
        t if n else dataclasses.replace(t, turns=()) for t, n in zip(members, turns, strict=True)
    )
    return ScoredGroup(
        group=Group(task=TASK, trajectories=tuple(members)),
        scores=np.zeros(len(turns), np.float32),
    )


def credit(groups: list[ScoredGroup], *without: tuple[int, int]) -> list[list[Credit]]:
    """Advantage 10 * group + member + 1 on each turn; no gradient for the places in `without`."""
    return [
        [
            Credit(
                np.full(len(t.turns), 10 * g + m + 1, np.float32),
                np.full(len(t.turns), (g, m) not in without),
            )
            for m, t in enumerate(scored.group.trajectories)
        ]
        for g, scored in enumerate(groups)
    ]


def batches(groups: list[ScoredGroup], *without: tuple[int, int], updates: int = 1, **changes: Any):
    return make_batches(
        groups,
        credit(groups, *without),
        updates=updates,
        row_tokens=24,
        pad_id=0,
        **({"aggregation": "token_mean"} | changes),  # type: ignore[arg-type]
    )


def weight_of(batch: Batch) -> dict[float, float]:
    """Loss weight by advantage, which names the trajectory."""
    trained = batch.loss_weights != 0
    found = {}
    for value in np.unique(batch.advantages[trained]):
        chosen = batch.loss_weights[trained & (batch.advantages == value)]
        found[float(value)] = float(chosen.sum())
    return found


def test_token_mean_by_hand() -> None:
    """A turn has one sampled token: 1 + 3 + 2 tokens, each 1/6."""
    (batch,) = batches([group(0, (1, 3)), group(1, (2,))])
    assert weight_of(batch) == pytest.approx({1: 1 / 6, 2: 3 / 6, 11: 2 / 6})
    assert batch.trained_tokens == 6


def test_sequence_mean_by_hand() -> None:
    (batch,) = batches([group(0, (1, 3)), group(1, (2,))], aggregation="sequence_mean")
    assert weight_of(batch) == pytest.approx({1: 1 / 3, 2: 1 / 3, 11: 1 / 3})
    longest = batch.loss_weights[batch.advantages == 2]
    assert longest.tolist() == pytest.approx([1 / 9] * 3)


def test_sequence_sum_and_constant_by_hand() -> None:
    """3 trajectories of 1, 3 and 2 tokens; a token is 1/3, or 1/3 of 1/8."""
    groups = [group(0, (1, 3)), group(1, (2,))]
    (batch,) = batches(groups, aggregation="sequence_sum")
    assert weight_of(batch) == pytest.approx({1: 1 / 3, 2: 3 / 3, 11: 2 / 3})
    (batch,) = batches(groups, aggregation="constant", length_constant=8)
    assert weight_of(batch) == pytest.approx({1: 1 / 24, 2: 3 / 24, 11: 2 / 24})


def test_the_constant_is_needed_where_it_is_read_and_ignored_elsewhere() -> None:
    groups = [group(0, (1, 3))]
    with pytest.raises(ValueError, match="length constant of 1 or more, got 0"):
        batches(groups, aggregation="constant")
    (with_one,) = batches(groups, aggregation="sequence_sum", length_constant=5)
    (without,) = batches(groups, aggregation="sequence_sum")
    assert with_one.loss_weights.tolist() == without.loss_weights.tolist()


def test_prompt_mean_by_hand() -> None:
    """2 tasks; 1 + 3 tokens in one and 2 in the other. A member without gradient has no part."""
    groups = [group(0, (1, 3)), group(1, (2,))]
    (batch,) = batches(groups, aggregation="prompt_mean")
    assert weight_of(batch) == pytest.approx({1: 1 / 8, 2: 3 / 8, 11: 1 / 2})
    (batch,) = batches(groups, (0, 1), aggregation="prompt_mean")
    assert weight_of(batch) == pytest.approx({1: 1 / 2, 11: 1 / 2})
    (batch,) = batches(groups, (1, 0), aggregation="prompt_mean")
    assert weight_of(batch) == pytest.approx({1: 1 / 4, 2: 3 / 4})


def test_a_replayed_member_belongs_to_the_task_that_it_was_added_to() -> None:
    """Its key is that of the iteration that sampled it: 1 + 3 replayed tokens, and 2."""
    first, second = group(0, (1, 3)), group(1, (2,))
    own, other = first.group.trajectories
    old = dataclasses.replace(other, key=dataclasses.replace(other.key, iteration=-5, group=7))
    first = dataclasses.replace(first, group=Group(task=TASK, trajectories=(own, old)))
    (batch,) = batches([first, second], aggregation="prompt_mean")
    assert weight_of(batch) == pytest.approx({1: 1 / 8, 2: 3 / 8, 11: 1 / 2})


def test_prompt_mean_follows_the_dealing_of_groups() -> None:
    """Groups 0 and 2, then 1 and 3, whose members are numbered anew in each batch."""
    groups = [group(0, (1, 3)), group(1, (2,)), group(2, (4,)), group(3, (1, 1))]
    first, second = batches(groups, aggregation="prompt_mean", updates=2)
    assert weight_of(first) == pytest.approx({1: 1 / 8, 2: 3 / 8, 21: 1 / 2})
    assert weight_of(second) == pytest.approx({11: 1 / 2, 31: 1 / 4, 32: 1 / 4})


def test_every_aggregation_has_weights() -> None:
    assert set(WEIGHTS) == set(get_args(Aggregation))


@pytest.mark.parametrize(
    "aggregation", ["token_mean", "sequence_mean", "segment_mean", "prompt_mean"]
)
def test_weights_add_up_to_one_in_every_batch(aggregation: str) -> None:
    groups = [group(i, (1 + i % 3, 4, 2)) for i in range(5)]
    for updates in (1, 2, 3):
        made = batches(groups, (0, 1), updates=updates, aggregation=aggregation)
        assert len(made) == updates
        for batch in made:
            assert batch.loss_weights.sum() == pytest.approx(1)


def test_two_updates_deal_whole_groups_in_turn() -> None:
    groups = [group(i, (1, 2)) for i in range(5)]
    first, second = batches(groups, updates=2)
    assert sorted(weight_of(first)) == [1, 2, 21, 22, 41, 42]
    assert sorted(weight_of(second)) == [11, 12, 31, 32]
    # Each token of the iteration is trained in exactly one update.
    assert first.trained_tokens + second.trained_tokens == 5 * 3


def test_without_gradient_nothing_is_trained_and_nothing_else_changes() -> None:
    (batch,) = batches([group(0, (1, 3)), group(1, (2,))], (0, 1))
    assert weight_of(batch) == pytest.approx({1: 1 / 3, 11: 2 / 3})


def test_turns_without_gradient_are_context_for_the_others() -> None:
    groups = [group(0, (3,))]
    some = Credit(np.ones(3, np.float32), np.array([True, False, True]))
    (segment,) = credited_segments(groups, [[some]])
    # Three turns of two observed tokens and a sampled one.
    assert np.flatnonzero(segment.loss_mask).tolist() == [2, 8]
    assert segment.turns.tolist() == [-1, -1, 0, -1, -1, 1, -1, -1, 2]


def three_contexts(scored: ScoredGroup) -> ScoredGroup:
    """The first member's three turns each under a context of its own."""
    own, *others = scored.group.trajectories
    turns = tuple(dataclasses.replace(t, context=n) for n, t in enumerate(own.turns))
    own = dataclasses.replace(own, turns=turns)
    return dataclasses.replace(scored, group=Group(task=TASK, trajectories=(own, *others)))


def test_a_context_without_gradient_is_not_computed() -> None:
    groups = [three_contexts(group(0, (3, 2)))]
    some = Credit(np.ones(3, np.float32), np.array([True, False, True]))
    (credits,) = credit(groups)
    segments = credited_segments(groups, [[some, credits[1]]])
    assert [s.source[1] for s in segments] == [0, 2, 0]
    assert [s.label for s in segments] == [0, 0, 1]


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_a_context_without_gradient_has_no_part_in_any_weight(aggregation: str) -> None:
    """One context of three has no gradient; two groups, so that tasks and labels differ."""
    groups = [three_contexts(group(0, (3, 2))), group(1, (0, 2))]
    credits = credit(groups)
    credits[0][0] = Credit(np.ones(3, np.float32), np.array([True, False, True]))
    made = {"updates": 1, "row_tokens": 24, "pad_id": 0, "length_constant": 8}
    (ours,) = make_batches(groups, credits, aggregation=aggregation, **made)  # type: ignore[arg-type]
    all_segments = [
        segment
        for label, (t, c) in enumerate(
            (t, c)
            for scored, members in zip(groups, credits, strict=True)
            for t, c in zip(scored.group.trajectories, members, strict=True)
        )
        for segment in segments_of(t, c.advantages, label=label, gradient=c.trained)
    ]
    further = {"constant": {"constant": 8}, "prompt_mean": {"tasks": np.array([0, 0, 1, 1])}}
    weights = WEIGHTS[aggregation](all_segments, **further.get(aggregation, {}))  # type: ignore[index]
    plain = pack(all_segments, row_tokens=24, pad_id=0, weights=weights)
    assert ours.tokens < plain.tokens
    assert weight_of(ours) == pytest.approx(weight_of(plain))


def test_a_batch_without_gradient_is_left_out() -> None:
    groups = [group(0, (1,)), group(1, (2,))]
    (only,) = batches(groups, (0, 0), updates=2)
    assert sorted(weight_of(only)) == [11]
    assert batches(groups, (0, 0), (1, 0), updates=2) == []
    assert batches([], updates=2) == []
    assert len(batches(groups, updates=5)) == 2


def test_labels_number_the_trajectories_of_a_batch() -> None:
    groups = [group(0, (1, 0, 2)), group(1, (3,))]
    segments = credited_segments(groups, credit(groups))
    assert [s.label for s in segments] == [0, 2, 3]
    assert [s.source[0].member for s in segments] == [0, 2, 0]


def test_credits_must_match_their_trajectories() -> None:
    groups = [group(0, (1, 2))]
    with pytest.raises(ValueError, match="zip"):
        credited_segments(groups, [[Credit(np.ones(1, np.float32), np.ones(1, np.bool_))]])
    with pytest.raises(ValueError, match=r"\[N\]"):
        credited_segments(groups, [[Credit(np.ones(2, np.float32), np.ones(2, np.bool_))] * 2])
