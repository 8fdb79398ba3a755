from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from rlagents.data.batches import credited_segments, make_batches
from rlagents.types import Batch, FloatArray, Group, ScoredGroup
from tests.fakes import TASK, trajectory


@dataclass(frozen=True)
class Credit:
    advantages: FloatArray
    gradient: bool = True


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
                np.full(len(t.turns), 10 * g + m + 1, np.float32), gradient=(g, m) not in without
            )
            for m, t in enumerate(scored.group.trajectories)
        ]
        for g, scored in enumerate(groups)
    ]


def batches(groups: list[ScoredGroup], *without: tuple[int, int], updates: int = 1, **changes: str):
    return make_batches(
        groups,
        credit(groups, *without),
        updates=updates,
        row_tokens=24,
        pad_id=0,
        **{"aggregation": "token_mean"} | changes,  # type: ignore[arg-type]
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


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
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
        credited_segments(groups, [[Credit(np.ones(1, np.float32))]])
    with pytest.raises(ValueError, match=r"\[N\]"):
        credited_segments(groups, [[Credit(np.ones(2, np.float32))] * 2])
