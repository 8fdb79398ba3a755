from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.data.packing import pack, segment_spans, split_rows
from rlagents.learner.memory import peak_live_bytes
from rlagents.learner.model import flat_row, policy_logprobs
from rlagents.learner.sharing import LEAST, MASKED, Part, flat_rows, parts_of, pays
from rlagents.learner.step import Learner
from rlagents.types import Batch, Segment
from tests.learner.small import (
    VOCABULARY,
    clipped,
    gradients_of,
    segment,
    segments,
    small_learner,
)


def ids(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, VOCABULARY, size).astype(np.int32)


def beginning_with(prefix: np.ndarray, rng: np.random.Generator, size: int, label: int) -> Segment:
    """A segment of `size` tokens of its own after a prefix; half of all its tokens are trained."""
    whole = np.concatenate([prefix, ids(rng, size)])
    return segment(rng, len(whole), label, token_ids=whole)


def test_a_tree_by_hand():
    """a: 40 shared by all, 50 by two of them, then 5 and 3; 6 for the third; one alone."""
    rng = np.random.default_rng(0)
    card, turn = ids(rng, 40), ids(rng, 50)
    card[0], turn[0] = 1, 1
    tails = [np.array([start, *[7] * size], np.int32) for start, size in ((1, 4), (2, 2), (3, 5))]
    whole = [
        np.concatenate([card, turn, tails[0]]),
        np.concatenate([card, turn, tails[1]]),
        np.concatenate([card, tails[2]]),
        np.array([2, 3, 4, 5], np.int32),
    ]
    parts = [
        segment(rng, len(x), i, token_ids=x, loss_mask=np.arange(len(x)) == len(x) - 1)
        for i, x in enumerate(whole)
    ]
    batch = pack(parts, row_tokens=400, pad_id=0)
    (part,) = parts_of(batch, rows=1)
    # Segments in the order of their ids; spans are those of the one row, longest first.
    assert part.segments.tolist() == [[0, 0, 95], [0, 95, 188], [0, 188, 234], [0, 234, 238]]
    assert part.nodes.tolist() == [
        [0, 0, 40, -1],
        [0, 40, 90, 0],
        [0, 90, 95, 1],
        [1, 90, 93, 1],
        [2, 40, 46, 0],
        [3, 0, 4, -1],
    ]
    assert part.leaves.tolist() == [2, 3, 4, 5]
    assert part.tokens == 40 + 50 + 5 + 3 + 6 + 4
    assert part.spared == 2 * 40 + 50

    (row,) = flat_rows(batch, rows=1, share=True)
    # Nodes begin at 0, 40, 90, 95, 98, 104; every last token is trained.
    assert row.wanted.tolist() == [94, 97, 103, 107]
    assert row.predictors.tolist() == [93, 96, 102, 106]
    assert row.positions[0, [0, 40, 90, 95, 98, 104]].tolist() == [0, 40, 90, 90, 40, 0]
    assert row.targets.tolist() == [x[-1] for x in whole]
    assert [index.tolist() for index in row.places] == [[0] * 4, [94, 187, 233, 237]]


def test_a_node_begins_after_the_last_token_of_its_parent():
    rng = np.random.default_rng(0)
    card = ids(rng, LEAST)
    tails = np.array([1, 2], np.int32)
    parts = [
        segment(
            rng,
            LEAST + 1,
            i,
            token_ids=np.append(card, tail),
            loss_mask=np.arange(LEAST + 1) == LEAST,
        )
        for i, tail in enumerate(tails)
    ]
    (row,) = flat_rows(pack(parts, row_tokens=99, pad_id=0), rows=1, share=True)
    # 32 tokens, then the two last ones; both are predicted from the card's last token.
    assert row.wanted.tolist() == [LEAST, LEAST + 1]
    assert row.predictors.tolist() == [LEAST - 1, LEAST - 1]


def test_what_is_not_trained_is_not_computed():
    rng = np.random.default_rng(0)
    card = ids(rng, 50)
    parts = []
    for label, last in enumerate((60, 70, None)):
        one = beginning_with(card, rng, 40, label)
        mask = np.zeros(90, bool)
        mask[55:last] = last is not None
        parts.append(dataclasses.replace(one, loss_mask=mask))
    (part,) = parts_of(pack(parts, row_tokens=90, pad_id=0), rows=3)
    assert part.tokens == 50 + 10 + 20


def tree_segments(data: st.DataObject) -> list[Segment]:
    """Segments that walk down a random tree of runs, some of them too short to be shared."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    sizes = st.sampled_from([1, 5, LEAST - 1, LEAST, LEAST + 9, 60])
    runs: list[np.ndarray] = [ids(rng, 1)]
    for _ in range(data.draw(st.integers(0, 4))):
        above = data.draw(st.sampled_from(runs))
        runs.append(np.concatenate([above, ids(rng, data.draw(sizes))]))
    parts = []
    for label in range(data.draw(st.integers(1, 9))):
        above = data.draw(st.sampled_from(runs))
        own = data.draw(st.sampled_from([0, 1, 20, 45]))
        parts.append(beginning_with(above, rng, own, label))
    return parts


def packed(parts: list[Segment], row_tokens: int) -> Batch:
    """In rows of so many tokens, or of the longest segment's."""
    return pack(parts, row_tokens=max(row_tokens, *map(len, parts)), pad_id=0)


def outcome(one: Learner, batch: Batch) -> tuple[dict, dict, dict, Batch]:
    """Gradient, metrics and depth of a step before it is taken, and the columns."""
    filled = one.columns(
        batch,
        ["current_logprobs", "current_entropies"],
        lambda c, _: {"order": torch.arange(len(c["turns"])), "twice": c["current_logprobs"] * 2},
    )
    seen = gradients_of(one)
    stats = one.step(filled, clipped, entropy_gradient=True)
    metrics = {k: v for k, v in stats.metrics.items() if k != "learner/tokens_per_s"}
    return seen[0] if seen else {}, metrics, dict(stats.depth), filled


def assert_same(batch: Batch, **changes) -> None:
    """The outcome with sharing is that without."""
    ours, plain = (
        outcome(small_learner(share_prefixes=share, grad_clip=1e9, **changes), batch)
        for share in (True, False)
    )
    torch.testing.assert_close(ours[0], plain[0], atol=1e-5, rtol=1e-5)
    assert ours[1] == pytest.approx(plain[1], abs=1e-5, rel=1e-5)
    for axis, sums in plain[2].items():
        for name, values in sums.items():
            np.testing.assert_allclose(ours[2][axis][name], values, atol=1e-4)
    for name, values in plain[3].columns.items():
        np.testing.assert_allclose(ours[3].columns[name], values, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    micro_rows=st.sampled_from([1, 2, 8]),
    row_tokens=st.sampled_from([180, 400]),
    chunk=st.sampled_from([7, 1024]),
)
def test_sharing_changes_nothing(data, micro_rows, row_tokens, chunk):
    """Loss, gradient, statistics and columns, whatever is shared and trained in what is shared."""
    parts = tree_segments(data)
    # On-policy log-probabilities of random tokens are far below those of `segment`.
    parts = [
        dataclasses.replace(p, behaviour_logprobs=np.where(p.loss_mask, -5, 0).astype(np.float32))
        for p in parts
    ]
    assert_same(packed(parts, row_tokens), micro_rows=micro_rows, logprob_chunk=chunk)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), rows=st.sampled_from([1, 2, 8]), row_tokens=st.sampled_from([180, 400]))
def test_parts_hold_each_trained_token_once_and_no_more_than_the_rows(data, rows, row_tokens):
    batch = packed(tree_segments(data), row_tokens)
    filled = np.sort((batch.segment_ids >= 0).sum(axis=1))
    parts = parts_of(batch, rows=rows)
    assert all(part.tokens <= filled[-rows:].sum() for part in parts)
    spans = {tuple(s) for part in parts for s in part.segments[:, :2].tolist()}
    trained = batch.loss_weights != 0
    assert spans == {(b, i) for b, i, j in segment_spans(batch) if trained[b, i:j].any()}
    assert len(spans) == sum(len(part.segments) for part in parts)
    found = np.zeros(trained.shape, int)
    for row in flat_rows(batch, rows=rows, share=True):
        np.add.at(found, row.places, 1)
        assert row.targets.tolist() == batch.token_ids[row.places].tolist()
        own = row.positions[0]
        assert (own[row.wanted] > 0).all()
        if row.predictors is not None:
            assert (own[row.predictors] == own[row.wanted] - 1).all()
    np.testing.assert_array_equal(found, trained)


def test_a_token_that_two_members_sampled_gets_the_credit_of_both():
    """Opposite advantages on the same tokens after the same prefix cancel; equal ones add up."""
    rng = np.random.default_rng(0)
    whole = ids(rng, LEAST + 8)
    mask = np.arange(len(whole)) >= 20
    ones = segment(
        rng,
        len(whole),
        0,
        token_ids=whole,
        loss_mask=mask,
        advantages=mask.astype(np.float32),
        temperatures=np.ones(len(whole), np.float32),
    )
    other = dataclasses.replace(ones, label=1, advantages=-ones.advantages)

    def step(*parts: Segment) -> tuple[list, float]:
        one = small_learner(grad_clip=1e9)
        seen = gradients_of(one)
        batch = pack(parts, row_tokens=2 * len(whole), pad_id=0)
        assert sum(p.tokens for p in parts_of(batch, rows=1)) == len(whole)
        stats = one.step(batch, lambda lp, _, c: (-lp * c["advantages"], {}))
        return seen, stats.metrics["policy/grad_norm"]

    (alone,), norm = step(ones)
    _, nothing = step(ones, other)
    (both,), _ = step(ones, dataclasses.replace(ones, label=1))
    assert nothing < 1e-5 * norm
    torch.testing.assert_close(both, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_nothing_to_share_is_cut_into_rows_bit_for_bit(share):
    batch = pack(segments(0, [30, 20, 17, 40, 5, 12]), row_tokens=48, pad_id=0)
    ours = list(flat_rows(batch, rows=2, share=share))
    plain = [flat_row(part) for part in split_rows(batch, 2)]
    assert len(ours) == len(plain) == 2
    for one, other in zip(ours, plain, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.wanted.tolist() == other.wanted.tolist()
    places = np.concatenate([np.stack(row.places) for row in ours], axis=1)
    assert places.tolist() == np.stack(np.nonzero(batch.loss_weights)).tolist()


def group(members: int, *, prefix: int, own: int, row_tokens: int) -> Batch:
    rng = np.random.default_rng(0)
    card = ids(rng, prefix)
    parts = [beginning_with(card, rng, own, label) for label in range(members)]
    return pack(parts, row_tokens=row_tokens, pad_id=0)


def computed(batch: Batch, *, rows: int) -> int:
    return sum(row.token_ids.shape[1] for row in flat_rows(batch, rows=rows, share=True))


def pair(shared: int) -> Batch:
    """Two segments of 100 tokens that begin alike, trained to their ends."""
    rng = np.random.default_rng(0)
    card = ids(rng, shared)
    parts = [
        dataclasses.replace(
            beginning_with(np.append(card, label).astype(np.int32), rng, 99 - shared, label),
            loss_mask=np.arange(100) > 50,
        )
        for label in range(2)
    ]
    return pack(parts, row_tokens=100, pad_id=0)


def test_a_batch_that_spares_little_is_cut_into_rows():
    """39 of 200 tokens could be spared, below a fifth; then 40."""
    assert computed(pair(39), rows=2) == 200
    assert computed(pair(40), rows=2) == 160


def test_masks_that_weigh_more_than_the_pass_are_not_made():
    """The lengths of a pass where 4096 elements a token are reached: 2 segments of L = A + L / 2.

    One mask of L / 2 x L for 1.5 L tokens: L / 3 a token, so that 12,288 tokens are the longest.
    """

    def part(length: int) -> Part:
        half = length // 2
        return Part(
            segments=np.array([[0, 0, length], [1, 0, length]]),
            leaves=np.array([1, 2]),
            nodes=np.array([[0, 0, half, -1], [0, half, length, 0], [1, half, length, 0]]),
        )

    assert part(12_288).layout().masked == 6144 * 12_288 == MASKED * part(12_288).tokens
    assert pays([part(12_288), part(64)])
    assert not pays([part(64), part(12_290)])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_of_a_tree_under_activation_checkpointing(checkpointing):
    batch = group(5, prefix=50, own=20, row_tokens=200)
    assert_same(batch, activation_checkpointing=checkpointing)


def test_the_gradient_norm_of_each_label_is_that_without_sharing():
    batch = group(4, prefix=50, own=20, row_tokens=80)
    ours, plain = (
        small_learner(share_prefixes=share, norm_report=1).step(batch, clipped).label_norms
        for share in (True, False)
    )
    assert ours == pytest.approx(plain, rel=1e-4) and len(ours) == 4


def test_bfloat16_runs_over_a_tree():
    batch = group(4, prefix=50, own=20, row_tokens=160)
    ours, plain = (
        small_learner(share_prefixes=share, dtype="bfloat16").columns(batch, ["current_logprobs"])
        for share in (True, False)
    )
    np.testing.assert_allclose(
        ours.columns["current_logprobs"], plain.columns["current_logprobs"], atol=0.3
    )


@pytest.mark.parametrize("micro_rows", [2, 8])
def test_sharing_needs_no_more_memory(micro_rows):
    batch = group(16, prefix=180, own=76, row_tokens=256)
    peaks = {}
    for share in (False, True):
        one = small_learner(share_prefixes=share, micro_rows=micro_rows)
        one.step(batch, clipped)
        with peak_live_bytes() as live:
            one.step(batch, clipped)
        peaks[share] = live.peak
    assert peaks[True] <= peaks[False]


def test_a_whole_batch_at_once_stays_the_reference():
    """`policy_logprobs` never shares: it is what the columns are compared with."""
    batch = group(3, prefix=40, own=9, row_tokens=147)
    one = small_learner()
    logprobs, _ = policy_logprobs(one.model, batch, chunk=512)
    ours = one.columns(batch, ["current_logprobs"]).columns["current_logprobs"]
    np.testing.assert_allclose(ours, logprobs.detach().numpy(), atol=1e-5)
