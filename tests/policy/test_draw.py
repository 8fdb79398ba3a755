from __future__ import annotations

import numpy as np
import torch

from rlagents.policy.draw import draw, perturbed

PROBABILITIES = torch.tensor([0.1, 0.4, 0.0, 0.5])


def drawn(temperature: float, top_p: float, uniforms: list[float]) -> tuple[list[int], list[float]]:
    rows = len(uniforms)
    ids, logprobs = draw(
        PROBABILITIES.log().expand(rows, 4),
        torch.full((rows,), temperature, dtype=torch.float64),
        torch.full((rows,), top_p, dtype=torch.float64),
        torch.tensor(uniforms, dtype=torch.float64),
    )
    return ids.tolist(), logprobs.exp().tolist()


def test_the_inverse_of_the_cumulative_distribution() -> None:
    # Cumulative: 0.1, 0.5, 0.5, 1.0; the token of probability 0 is never met.
    ids, probabilities = drawn(1.0, 1.0, [0.0, 0.09, 0.11, 0.49, 0.51, 1.0])
    assert ids == [0, 0, 1, 1, 3, 3]
    np.testing.assert_allclose(probabilities, [0.1, 0.1, 0.4, 0.4, 0.5, 0.5], rtol=1e-6)


def test_temperature_divides_the_logits() -> None:
    # At 0.5 probabilities are squared: 0.01, 0.16, 0, 0.25, of 0.42 in all.
    ids, probabilities = drawn(0.5, 1.0, [0.02, 0.1, 0.9])
    assert ids == [0, 1, 3]
    np.testing.assert_allclose(probabilities, [0.01 / 0.42, 0.16 / 0.42, 0.25 / 0.42], rtol=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_it_and_renormalises() -> None:
    # 0.5 < 0.6 <= 0.5 + 0.4: tokens 3 and 1 stay, with 5/9 and 4/9.
    ids, probabilities = drawn(1.0, 0.6, [0.0, 0.43, 0.45, 1.0])
    assert ids == [1, 1, 3, 3]
    np.testing.assert_allclose(probabilities, [4 / 9, 4 / 9, 5 / 9, 5 / 9], rtol=1e-6)
    assert drawn(1.0, 0.01, [0.0, 0.99]) == ([3, 3], [1.0, 1.0])


def test_temperature_zero_takes_the_most_probable_with_its_probability_at_one() -> None:
    ids, probabilities = drawn(0.0, 0.3, [0.0, 0.99])
    assert ids == [3, 3]
    np.testing.assert_allclose(probabilities, [0.5, 0.5], rtol=1e-6)


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(40, 50)).astype(np.float32))
    temperatures = torch.from_numpy(rng.choice([0.0, 0.7, 1.0, 2.0], 40))
    top_ps = torch.from_numpy(rng.choice([0.5, 0.9, 1.0], 40))
    uniforms = torch.from_numpy(rng.random(40))
    ids, logprobs = draw(logits, temperatures, top_ps, uniforms)
    for i in range(40):
        row = slice(i, i + 1)
        alone = draw(logits[row], temperatures[row], top_ps[row], uniforms[row])
        assert ids[i] == alone[0][0] and torch.isclose(logprobs[i], alone[1][0])


def test_frequencies_follow_the_distribution() -> None:
    uniforms = np.random.Generator(np.random.Philox(1)).random(20_000)
    ids, _ = drawn(1.0, 1.0, uniforms.tolist())
    counts = np.bincount(ids, minlength=4) / len(ids)
    # Four standard errors of a share of 20,000 are at most 0.0142.
    np.testing.assert_allclose(counts, PROBABILITIES.numpy(), atol=0.0142)


def test_noise_is_a_function_of_its_seed_and_only_where_asked_for():
    logits = torch.zeros(3, 2000)
    noisy = perturbed(logits, [0.0, 0.5, 0.5], [(1, 0), (1, 0), (1, 1)])
    assert not logits.any() and not noisy[0].any()
    for row in noisy[1:]:  # 2,000 values: the deviation is within 6 standard errors
        assert abs(float(row.std()) - 0.5) < 6 * 0.5 / 2000**0.5 / 2**0.5
    assert not torch.equal(noisy[1], noisy[2])
    alone = perturbed(logits[:1], [0.5], [(1, 0)])
    assert torch.equal(alone[0], noisy[1])
