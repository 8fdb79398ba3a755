"""Which tokens are trained or penalised: by hand, by property, and against TRL's quantile."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.selection import clip_cov, covariances, kl_cov, top_entropy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_top_entropy_by_hand():
    # Five tokens, fraction 0.4: the 0.6 quantile is at rank 4 x 0.6 = 2.4, so 2 + 0.4 x (3.5 - 2)
    # = 2.6, and 3.5 and 4 are above it.
    entropies = torch.tensor([3.5, 0.0, 4.0, 1.0, 2.0])
    assert top_entropy(entropies, 0.4).tolist() == [True, False, True, False, False]
    assert top_entropy(entropies, 1e-6).tolist() == [False, False, True, False, False]
    assert top_entropy(entropies, 1.0).all()
    assert not top_entropy(entropies.requires_grad_(), 0.4).requires_grad


def test_top_entropy_of_ties_one_token_and_none():
    assert top_entropy(torch.full((4,), 0.7), 0.2).all()
    assert top_entropy(torch.tensor([1.0, 2.0, 2.0, 2.0]), 0.1).tolist() == [False] + [True] * 3
    assert top_entropy(torch.tensor([0.7]), 0.2).tolist() == [True]
    assert top_entropy(torch.zeros(0), 0.2).shape == (0,)


def test_top_entropy_of_more_tokens_than_torch_quantile_takes():
    # Rank 2**24 x 0.75 is whole: all but the 3 x 2**22 tokens below it.
    entropies = torch.arange(2**24 + 1, dtype=torch.float64)
    assert int(top_entropy(entropies, 0.25).sum()) == 2**24 + 1 - 3 * 2**22


class OneProcess:
    """As much of an accelerator as TRL's quantile asks for."""

    def pad_across_processes(self, values, dim, pad_index):
        return values

    def gather(self, values):
        return values


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_top_entropy_is_trls(fraction, rows):
    from trl import GRPOTrainer

    entropies = 3 * torch.rand(rows, 11, generator=generator(rows))
    entropies[:, ::3] = 0.5  # ties
    mask = (torch.rand(rows, 11, generator=generator(rows + 1)) < 0.7).float()
    theirs = GRPOTrainer.get_high_entropy_mask(
        SimpleNamespace(accelerator=OneProcess()), entropies, mask, 1 - fraction
    )
    trained = mask.bool()
    assert top_entropy(entropies[trained], fraction).tolist() == theirs[trained].tolist()
    assert theirs.any()


def test_covariances_by_hand():
    # Means: log pi -2, A 0.5. Deviations: (1, 0, -1) and (1.5, -0.5, -1).
    found = covariances(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([2.0, 0.0, -0.5]))
    assert found.tolist() == [1.5, 0.0, 1.0]


NUMBERS = st.lists(st.tuples(st.floats(-5, 0), st.floats(-2, 2)), min_size=1, max_size=20)


@given(NUMBERS)
def test_covariances_average_to_the_covariance_and_ignore_constants(rows):
    table = torch.tensor(rows, dtype=torch.float64)
    found = covariances(table[:, 0], table[:, 1])
    expected = torch.cov(table.T, correction=0)[0, 1]
    torch.testing.assert_close(found.mean(), expected)
    shifted = covariances(table[:, 0] - 7, table[:, 1] + 3)
    torch.testing.assert_close(shifted, found)


def test_covariances_carry_no_gradient_and_none_give_none():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    assert not covariances(logprobs, torch.tensor([1.0, 0.0])).requires_grad
    assert covariances(torch.zeros(0), torch.zeros(0)).shape == (0,)
    assert covariances(torch.tensor([-1.0, -2.0]), torch.ones(2)).tolist() == [0, 0]


# Between 1 and 5 lie the tokens 1, 2 and 4; the bounds themselves are outside.
COVARIANCES = torch.tensor([0.5, 2.0, 3.0, 6.0, 4.0, -2.0, 1.0, 5.0, -math.inf, 0.0])


def dropped(fraction, seed=0):
    keep = clip_cov(COVARIANCES, fraction=fraction, low=1.0, high=5.0, generator=generator(seed))
    return set((~keep).nonzero().flatten().tolist())


def test_clip_cov_drops_the_asked_number_of_the_tokens_between_the_bounds():
    # 0.29 x 10 is rounded down to 2; a fraction too small for one token still drops one.
    assert len(dropped(0.29)) == 2
    assert dropped(0.29) < {1, 2, 4}
    assert len(dropped(1e-6)) == 1
    assert dropped(0.3) == dropped(1.0) == {1, 2, 4}


def test_clip_cov_draws_from_the_generator_and_from_nothing_else():
    draws = [dropped(0.1, seed) for seed in range(20)]
    assert draws == [dropped(0.1, seed) for seed in range(20)]
    assert set().union(*draws) == {1, 2, 4}


def test_clip_cov_without_a_candidate_keeps_all():
    for values in (torch.zeros(4), torch.full((4,), math.nan), torch.zeros(0)):
        keep = clip_cov(values, fraction=0.5, low=1.0, high=5.0, generator=generator())
        assert keep.dtype == torch.bool
        assert keep.tolist() == [True] * len(values)


def test_kl_cov_takes_the_largest():
    assert kl_cov(COVARIANCES, fraction=0.29).nonzero().flatten().tolist() == [3, 7]
    assert kl_cov(COVARIANCES, fraction=1e-6).nonzero().flatten().tolist() == [3]
    assert kl_cov(COVARIANCES, fraction=1.0).all()
    assert int(kl_cov(torch.ones(10), fraction=0.2).sum()) == 2  # ties are cut
    assert kl_cov(torch.zeros(0), fraction=0.2).shape == (0,)


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_the_order_of_tokens_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    table = torch.tensor(values, dtype=torch.float64)
    for rule in (
        lambda x: top_entropy(x, 0.3),
        lambda x: kl_cov(x, fraction=0.3),
        lambda x: covariances(x, x.abs()),
        lambda x: clip_cov(x, fraction=1.0, low=1.5, high=9.5, generator=generator()),
    ):
        torch.testing.assert_close(rule(table[order]), rule(table)[order])


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan])
def test_wrong_fractions_are_named(fraction):
    values = torch.zeros(3)
    for rule in (
        lambda: top_entropy(values, fraction),
        lambda: kl_cov(values, fraction=fraction),
        lambda: clip_cov(values, fraction=fraction, low=1.0, high=5.0, generator=generator()),
    ):
        with pytest.raises(ValueError, match="fraction above 0, at most 1"):
            rule()


def test_covariances_of_different_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"\(2,\), \(1,\)"):
        covariances(torch.zeros(2), torch.zeros(1))
