"""Sums and means over units, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.units import unit_lengths, unit_means, unit_sums

# Two units whose tokens are interleaved: label 7 has 1, 2, 6; label -3 has 10, 20, 30.
VALUES = torch.tensor([[1.0, 10.0, 2.0], [20.0, 6.0, 30.0]])
UNITS = torch.tensor([[7, -3, 7], [-3, 7, -3]])


def test_sums_means_and_lengths_by_hand():
    # 1 + 2 + 6 = 9, mean 3; 10 + 20 + 30 = 60, mean 20.
    assert unit_sums(VALUES, UNITS).tolist() == [[9, 60, 9], [60, 9, 60]]
    assert unit_means(VALUES, UNITS).tolist() == [[3, 20, 3], [20, 3, 20]]
    assert unit_lengths(UNITS).tolist() == [[3, 3, 3], [3, 3, 3]]


def test_a_unit_of_one_token_is_itself_and_no_tokens_are_no_units():
    values, units = torch.tensor([5.0, 1.0, 3.0]), torch.tensor([2, 9, 9])
    assert unit_sums(values, units).tolist() == [5, 4, 4]
    assert unit_means(values, units).tolist() == [5, 2, 2]
    assert unit_lengths(units).tolist() == [1, 2, 2]
    empty = torch.zeros(0)
    for result in (unit_sums(empty, empty.long()), unit_means(empty, empty.long())):
        assert result.shape == (0,)
    assert unit_lengths(empty.long()).shape == (0,)


def test_the_type_of_the_values_is_kept():
    assert unit_sums(VALUES.double(), UNITS).dtype == torch.float64
    assert unit_means(VALUES.double(), UNITS).dtype == torch.float64
    assert unit_lengths(UNITS).dtype == torch.float32


def test_gradient_of_a_mean_is_spread_over_the_unit():
    # Only the mean of label 7 (read at one of its three tokens) is used: 1/3 to each of them.
    values = VALUES.clone().requires_grad_()
    unit_means(values, UNITS)[0, 0].backward()
    third = 1 / 3
    assert values.grad is not None
    torch.testing.assert_close(
        values.grad, torch.tensor([[third, 0, third], [0, third, 0]], dtype=torch.float32)
    )


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"equal shapes, got \(3,\), \(2,\)"):
        unit_sums(torch.zeros(3), torch.zeros(2, dtype=torch.int64))


@given(
    st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_order_and_labels_do_not_matter(tokens, random):
    def means(rows):
        values, units = zip(*rows, strict=True)
        return unit_means(torch.tensor(values, dtype=torch.float64), torch.tensor(units)).tolist()

    expected = means(tokens)
    order = random.sample(range(len(tokens)), len(tokens))
    # Other labels (1000 - 7 u) and another order: the same mean at the same token.
    renamed = means([(tokens[i][0], 1000 - 7 * tokens[i][1]) for i in order])
    assert renamed == [expected[i] for i in order]
