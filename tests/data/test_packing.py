from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.data.packing import (
    constant_weights,
    first_fit_decreasing,
    pack,
    prompt_mean_weights,
    segment_lengths,
    segment_mean_weights,
    segment_spans,
    sequence_mean_weights,
    sequence_sum_weights,
    split_rows,
    token_mean_weights,
)
from rlagents.types import EpisodeKey, Segment

many_lengths = st.lists(st.integers(1, 16), min_size=1, max_size=30)


def segment(length, label=0, trained=None, first_token=0):
    """Tokens count up from `first_token`; the last `trained` are trained (default: all but one)."""
    trained = length - 1 if trained is None else trained
    mask = np.arange(length) >= length - trained
    return Segment(
        token_ids=np.arange(first_token, first_token + length, dtype=np.int32),
        loss_mask=mask,
        behaviour_logprobs=-mask.astype(np.float32),
        advantages=mask * np.float32(label),
        temperatures=np.where(mask, 0.5, 1).astype(np.float32),
        turns=np.where(mask, 0, -1).astype(np.int32),
        label=label,
        source=(EpisodeKey(stream="train", iteration=0, group=0, member=label), 0),
    )


def test_weights_by_hand():
    # Label 0 has 1 + 3 trained tokens in two segments, label 1 has 2, label 2 has none.
    parts = [segment(2, 0, 1), segment(5, 0, 3), segment(3, 1, 2), segment(4, 2, 0)]
    token = token_mean_weights(parts)
    assert token[1] == pytest.approx([0, 0, 1 / 6, 1 / 6, 1 / 6])
    assert sum(w.sum() for w in token) == pytest.approx(1)
    sequence = sequence_mean_weights(parts)
    assert sequence[0] == pytest.approx([0, 1 / 8])
    assert sequence[2] == pytest.approx([0, 1 / 4, 1 / 4])
    assert not sequence[3].any()
    assert sum(w.sum() for w in sequence) == pytest.approx(1)


def two_tasks():
    """2 tasks of 3 members: trained tokens 1 + 3, 2, 0 and 4, 4, 4; the first in two segments."""
    counts = [(0, 1), (0, 3), (1, 2), (2, 0), (3, 4), (4, 4), (5, 4)]
    return [segment(n + 2, label, n) for label, n in counts]


OF_THREE = np.repeat(np.arange(4, dtype=np.int32), 3)
"""The task of each label, where tasks have 3 members."""


def prompt_mean_of_three(parts):
    return prompt_mean_weights(parts, OF_THREE)


@pytest.mark.parametrize(
    ("weights", "tokens"),
    [
        # 4 + 2 + 12 trained tokens.
        (token_mean_weights, [1 / 18] * 7),
        # 5 trajectories with trained tokens, of 4, 2, 4, 4 and 4.
        (sequence_mean_weights, [1 / 20, 1 / 20, 1 / 10, 0, 1 / 20, 1 / 20, 1 / 20]),
        # 6 segments with trained tokens.
        (segment_mean_weights, [1 / 6, 1 / 18, 1 / 12, 0, 1 / 24, 1 / 24, 1 / 24]),
        (sequence_sum_weights, [1 / 5] * 7),
        (lambda parts: constant_weights(parts, 8), [1 / 40] * 7),
        # 2 tasks, of 6 and 12 tokens.
        (prompt_mean_of_three, [1 / 12] * 4 + [1 / 24] * 3),
    ],
    ids=["token_mean", "sequence_mean", "segment_mean", "sequence_sum", "constant", "prompt_mean"],
)
def test_two_tasks_of_three_members_by_hand(weights, tokens):
    for part, found, token in zip(two_tasks(), weights(two_tasks()), tokens, strict=True):
        assert found.dtype == np.float32
        assert found == pytest.approx(np.where(part.loss_mask, token, 0))


def test_what_the_loss_of_each_is_by_hand():
    """Terms of 1, 2, 3, 4, 5 and 6 on every token of the six trajectories."""
    parts = two_tasks()

    def loss(weights):
        return sum((p.label + 1) * float(w.sum()) for p, w in zip(parts, weights, strict=True))

    # The means of the segments are 1, 1, 2, 4, 5, 6.
    assert loss(segment_mean_weights(parts)) == pytest.approx(19 / 6)
    # Sums 4, 4, -, 16, 20, 24 and means 1, 2, -, 4, 5, 6.
    assert loss(token_mean_weights(parts)) == pytest.approx(68 / 18)
    assert loss(sequence_mean_weights(parts)) == pytest.approx(18 / 5)
    assert loss(sequence_sum_weights(parts)) == pytest.approx(68 / 5)
    assert loss(constant_weights(parts, 8)) == pytest.approx(68 / 40)
    # (4 + 4) / 6 and (16 + 20 + 24) / 12.
    assert loss(prompt_mean_of_three(parts)) == pytest.approx((8 / 6 + 60 / 12) / 2)


def test_a_task_without_trained_tokens_does_not_count():
    parts = [segment(3, 0, 0), segment(3, 3, 2)]
    assert [w.sum() for w in prompt_mean_of_three(parts)] == [0, 1]


def test_weights_of_nothing_are_zero():
    every = [token_mean_weights, sequence_mean_weights, segment_mean_weights, sequence_sum_weights]
    for weights in (*every, prompt_mean_of_three, lambda parts: constant_weights(parts, 3)):
        assert [w.tolist() for w in weights([segment(3, 0, 0)])] == [[0, 0, 0]]
        assert weights([]) == []


def test_a_constant_below_one_is_refused():
    with pytest.raises(ValueError, match="length constant of 1 or more, got 0"):
        constant_weights([segment(3)], 0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 6)), min_size=1),
    st.randoms(use_true_random=False),
)
def test_sums_of_weights_and_the_order_of_segments(counts, rng):
    """Means add up to 1, sums to tokens a trajectory; how segments are listed changes nothing."""
    parts = [
        segment(n + 1, 3 * group + member, n, first_token=100 * i)
        for i, (group, member, n) in enumerate(counts)
    ]
    tokens = sum(n for *_, n in counts)
    trajectories = len({(group, member) for group, member, n in counts if n})
    shuffled = rng.sample(range(len(parts)), len(parts))
    for weights, total in (
        (token_mean_weights, 1),
        (sequence_mean_weights, 1),
        (segment_mean_weights, 1),
        (prompt_mean_of_three, 1),
        (sequence_sum_weights, tokens / max(trajectories, 1)),
        (lambda some: constant_weights(some, 7), tokens / max(trajectories, 1) / 7),
    ):
        found = weights(parts)
        assert sum(w.sum() for w in found) == pytest.approx(total if tokens else 0, rel=1e-5)
        again = weights([parts[i] for i in shuffled])
        for place, i in enumerate(shuffled):
            assert again[place].tolist() == found[i].tolist()


def test_first_fit_decreasing_by_hand():
    # 6 | 5 4 | 3 3 2: the first 3 no longer fits next to 6 or 5 + 4.
    assert first_fit_decreasing([3, 5, 2, 6, 4, 3], 9) == [[3, 0], [1, 4], [5, 2]]


def test_rows_by_hand():
    batch = pack(
        [segment(2, 7, first_token=1), segment(3, 8, first_token=5)], row_tokens=6, pad_id=9
    )
    assert batch.token_ids.tolist() == [[5, 6, 7, 1, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.segment_ids.tolist() == [[0, 0, 0, 1, 1]]
    assert batch.sequence_labels.tolist() == [[8, 8, 8, 7, 7]]
    assert batch.advantages.tolist() == [[0, 8, 8, 0, 7]]
    assert batch.temperatures.tolist() == [[1, 0.5, 0.5, 1, 0.5]]
    assert batch.loss_weights[0] == pytest.approx([0, 1 / 3, 1 / 3, 0, 1 / 3])
    two = pack([segment(2, 7), segment(3, 8)], row_tokens=3, pad_id=9)
    assert two.token_ids.tolist() == [[0, 1, 2], [0, 1, 9]]
    assert two.segment_ids.tolist() == [[0, 0, 0], [0, 0, -1]]
    assert two.sequence_labels[1].tolist() == [7, 7, -1]
    assert (two.tokens, two.trained_tokens) == (5, 3)


def test_what_is_refused():
    with pytest.raises(ValueError, match="segment of 4 tokens doesn't fit into rows of 3"):
        pack([segment(4)], row_tokens=3, pad_id=0)
    with pytest.raises(ValueError, match="no segments"):
        pack([], row_tokens=3, pad_id=0)
    with pytest.raises(ValueError, match="zero on masked tokens"):
        pack([segment(3)], row_tokens=3, pad_id=0, weights=[np.ones(3, np.float32)])
    with pytest.raises(ValueError, match="shorter"):
        pack([segment(3), segment(3)], row_tokens=3, pad_id=0, weights=[np.zeros(3, np.float32)])


@given(many_lengths)
def test_every_segment_is_in_the_rows_once_and_whole(lengths):
    parts = [segment(n, label, first_token=100 * label) for label, n in enumerate(lengths)]
    batch = pack(parts, row_tokens=16, pad_id=-7)
    found = {}
    for row, start, stop in segment_spans(batch):
        label = int(batch.sequence_labels[row, start])
        assert label not in found
        found[label] = batch.token_ids[row, start:stop].tolist()
        assert batch.positions[row, start:stop].tolist() == list(range(stop - start))
    assert found == {p.label: p.token_ids.tolist() for p in parts}
    assert batch.tokens == sum(lengths) == segment_lengths(batch).sum()
    assert (batch.token_ids[batch.segment_ids < 0] == -7).all()
    assert batch.loss_weights.sum() == pytest.approx(1 if max(lengths) > 1 else 0)


@given(many_lengths)
def test_rows_are_sorted_and_no_two_of_them_would_fit_into_one(lengths):
    batch = pack([segment(n) for n in lengths], row_tokens=16, pad_id=0)
    filled = (batch.segment_ids >= 0).sum(1)
    assert (np.diff(filled) <= 0).all() and batch.token_ids.shape[1] == filled[0] <= 16
    assert len(filled) == 1 or filled[-1] + filled[-2] > 16


@given(many_lengths, st.integers(1, 5))
def test_slices_hold_everything_once(lengths, rows):
    parts = [segment(n, label) for label, n in enumerate(lengths)]
    batch = pack(parts, row_tokens=16, pad_id=0)
    slices = split_rows(batch, rows)
    assert all(len(s.token_ids) <= rows for s in slices)
    assert sum(s.tokens for s in slices) == batch.tokens
    assert sum(s.loss_weights.sum() for s in slices) == pytest.approx(batch.loss_weights.sum())
    found = np.concatenate([segment_lengths(s) for s in slices])
    assert found.tolist() == segment_lengths(batch).tolist()
    # No slice has a column of nothing but padding.
    assert all((s.segment_ids[:, -1] >= 0).any() for s in slices)


def test_slices_carry_columns():
    batch = pack([segment(3), segment(2)], row_tokens=3, pad_id=0)
    batch = dataclasses.replace(batch, columns={"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    assert [s.columns["x"].tolist() for s in split_rows(batch, 1)] == [[[0, 1, 2]], [[3, 4]]]
