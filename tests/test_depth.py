"""Buckets of depth, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.depth import BUCKETS, STARTS, buckets, label


def test_the_bounds_of_buckets():
    indices = [0, 1, 2, 3, 6, 7, 14, 15, 1022, 1023, 2046, 2047, 4095, 10**9]
    assert buckets(indices).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 9, 10, 10, 11, 11, 11]
    assert int(buckets(62)) == 5  # 31 to 62
    assert buckets([]).tolist() == []


def test_tokens_count_by_the_unit():
    # Of 64: 0-63 | 64-191 | 192-447.
    assert buckets([0, 63, 64, 191, 192, 447, 448], 64).tolist() == [0, 0, 1, 1, 2, 2, 3]


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_a_bucket_is_the_logarithm(index: int, unit: int):
    expected = min(math.floor(math.log2(index // unit + 1)), BUCKETS - 1)
    assert int(buckets(index, unit)) == expected
    assert STARTS[expected] * unit <= index


def test_labels_sort_by_depth_and_say_the_bounds():
    labels = [label(k) for k in range(BUCKETS)]
    assert labels[:4] == ["0000", "0001_0002", "0003_0006", "0007_0014"]
    assert labels[-2:] == ["1023_2046", "2047_on"]
    assert labels == sorted(labels)
    tokens = [label(k, 64) for k in range(BUCKETS)]
    assert tokens[:2] == ["000000_000063", "000064_000191"]
    assert tokens[-1] == "131008_on"
    assert tokens == sorted(tokens)


def test_an_index_below_zero_is_an_error():
    with pytest.raises(ValueError, match="expected indices of 0 or more, got -1"):
        buckets(np.array([3, -1]))
