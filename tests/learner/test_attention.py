from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.errors import LearnerError
from rlagents.learner.attention import layout_of, packed_attention, path_of
from rlagents.learner.memory import peak_live_bytes
from rlagents.learner.model import prepare
from tests.learner.small import small_model


def test_layout_by_hand():
    # Longest first: the 4 tokens at 3..6 and, at least 3/4 as long, the 3 tokens at 0..2.
    layout = layout_of([3, 4, 1])
    assert [bucket.tolist() for bucket in layout.buckets] == [
        [[3, 4, 5, 6], [0, 1, 2, 2]],
        [[7]],
    ]
    # Token 0 is the fifth of the concatenation, token 3 the first, token 7 the ninth.
    assert layout.inverse.tolist() == [4, 5, 6, 0, 1, 2, 3, 8]


def test_layout_of_a_tree_by_hand():
    # Node 0 at 0..2 with children 1 at 3..6 and 2 at 7..9; node 3 at 10 and 11 continues node 2.
    layout = layout_of([3, 4, 3, 2, 1], [-1, 0, 0, 2, -1])
    assert [bucket.tolist() for bucket in layout.buckets] == [
        [[0, 1, 2]],
        [[12]],
        [[3, 4, 5, 6], [7, 8, 9, 9]],
        [[10, 11]],
    ]
    above = [0, 1, 2]
    assert [path.tolist() for path in layout.paths] == [[], [], above, [*above, 7, 8, 9]]
    masks = [layout.mask(bucket, torch.float32) for bucket in range(4)]
    assert masks[:2] == [None, None]
    hidden = -torch.inf
    assert masks[2] is not None and masks[3] is not None
    assert masks[3].tolist() == [[0] * 7 + [hidden], [0] * 8]
    assert masks[2][1].tolist() == [0, 0, 0, 0, 0, hidden, hidden]
    # Four tokens under three, and two under six.
    assert layout.masked == 4 * 7 + 2 * 8
    # Buckets begin at 0, 3, 4 and 12.
    assert layout.inverse.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 3]
    assert layout.longest == 8


def plain_attention(query, key, value, lengths):
    """Segment by segment, with a written-out softmax."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    outputs, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        scores = query[0, :, part] @ key[0, :, part].transpose(1, 2) * 0.3
        mask = torch.ones(length, length).tril() == 0
        weights = scores.masked_fill(mask, float("-inf")).softmax(-1)
        outputs.append((weights @ value[0, :, part]).transpose(0, 1))
        start += length
    return torch.cat(outputs)[None]


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    kv_heads=st.sampled_from([1, 2, 4]),
)
def test_equals_attention_segment_by_segment_with_gradients(lengths, kv_heads):
    torch.manual_seed(len(lengths))
    size = sum(lengths)
    heads = [
        torch.randn(1, count, size, 8, requires_grad=True) for count in (4, kv_heads, kv_heads)
    ]
    ours, _ = packed_attention(
        torch.nn.Identity(), *heads, None, scaling=0.3, layout=layout_of(lengths)
    )
    plain = plain_attention(*heads, lengths)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(plain)
    got = torch.autograd.grad((ours * direction).sum(), heads)
    expected = torch.autograd.grad((plain * direction).sum(), heads)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), kv_heads=st.sampled_from([1, 2, 4]))
def test_a_tree_equals_its_segments_written_out_with_gradients(data, kv_heads):
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    parents = [data.draw(st.integers(-1, i - 1)) for i in range(len(lengths))]
    torch.manual_seed(len(lengths))
    sizes, size = np.array(lengths), sum(lengths)
    paths = [torch.from_numpy(path_of(i, np.array(parents), sizes)) for i in range(len(lengths))]
    heads = [
        torch.randn(1, count, size, 8, requires_grad=True) for count in (4, kv_heads, kv_heads)
    ]
    ours, _ = packed_attention(
        torch.nn.Identity(), *heads, None, scaling=0.3, layout=layout_of(lengths, parents)
    )
    # Each node at the end of its ancestors, as a segment; only its own tokens are kept.
    written = [x[:, :, torch.cat(paths)] for x in heads]
    out = plain_attention(*written, [len(path) for path in paths])
    ends = np.cumsum([len(path) for path in paths])
    own = np.concatenate([np.arange(e - n, e) for e, n in zip(ends, lengths, strict=True)])
    plain = out[:, torch.from_numpy(own)]
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(plain)
    got = torch.autograd.grad((ours * direction).sum(), heads)
    expected = torch.autograd.grad((plain * direction).sum(), heads)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_layers_of_a_pass_share_its_masks(dtype):
    """A layer keeps 1500 + 2 x 500 tokens of keys and values, of 16 bytes; no 500 x 2000 mask."""
    layout = layout_of([1500, 500, 500], [-1, 0, 0])
    x = torch.randn(1, 1, 2500, 4, dtype=dtype, requires_grad=True)

    def layer() -> torch.Tensor:
        return packed_attention(torch.nn.Identity(), x, x, x, None, layout=layout)[0]

    first = layer()
    with peak_live_bytes() as live:
        further = [layer() for _ in range(3)]
    assert live.peak < 500 * 2000 * dtype.itemsize
    assert len({out.sum().item() for out in [first, *further]}) == 1
    assert layout.mask(1, dtype) is layout.mask(1, dtype)


def test_layouts_of_a_tree_move_with_their_masks():
    layout = layout_of([3, 2, 2], [-1, 0, 0])
    mask = layout.mask(1, torch.bfloat16)
    moved = layout.to("meta")
    assert moved.inverse.is_meta and layout.to("cpu").mask(1, torch.bfloat16) is mask
    elsewhere = moved.mask(1, torch.bfloat16)
    assert elsewhere is not None and elsewhere.is_meta and elsewhere.shape == (2, 5)


def test_bf16_values_with_fp32_queries():
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    value = torch.randn(1, 2, 6, 8, dtype=torch.bfloat16)
    ours, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, layout=layout_of([4, 2])
    )
    assert ours.dtype == torch.bfloat16
    plain = plain_attention(query, key, value.float(), [4, 2])
    torch.testing.assert_close(ours.float(), plain, atol=0.05, rtol=0.05)


def test_what_is_not_computed_is_an_error():
    x = torch.randn(1, 2, 5, 8)
    module, layout = torch.nn.Identity(), layout_of([5])
    with pytest.raises(LearnerError, match="layout"):
        packed_attention(module, x, x, x, None)
    with pytest.raises(LearnerError, match="no attention mask"):
        packed_attention(module, x, x, x, torch.ones(1, 1, 5, 5), layout=layout)
    with pytest.raises(LearnerError, match="sliding window of 4 .* segment of 5"):
        packed_attention(module, x, x, x, None, layout=layout, sliding_window=4)
    # A path of 3 + 2 tokens, though no node has more than 3.
    with pytest.raises(LearnerError, match="sliding window of 4 .* segment of 5"):
        packed_attention(module, x, x, x, None, layout=layout_of([3, 2], [-1, 0]), sliding_window=4)
    with pytest.raises(LearnerError, match="soft cap"):
        packed_attention(module, x, x, x, None, layout=layout, softcap=30.0)


def test_a_prepared_model_can_not_be_called_with_packed_positions_alone():
    model = small_model()
    prepare(model)
    with pytest.raises(LearnerError, match="layout"):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False)
