from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlagents.config import LearnerSection
from rlagents.data.packing import pack
from rlagents.errors import ConfigError
from rlagents.learner.norms import (
    PATIENCE,
    WARM_UP,
    RunningNorm,
    label_batches,
    label_metrics,
)
from tests.learner.small import (
    LENGTHS,
    clipped,
    gradients_of,
    on_policy,
    segment,
    segments,
    small_learner,
)

NORMS = st.floats(1e-6, 1e6)


def after(*norms: float, clip: float = 0, skip: float = 0) -> RunningNorm:
    running = RunningNorm()
    for norm in norms:
        running, _ = running.judge(norm, clip=clip, skip=skip)
    return running


def test_the_running_norm_by_hand():
    """After 2: 0.2 / 0.1 = 2. After 2, 4: (0.9 x 0.2 + 0.1 x 4) / (1 - 0.81) = 0.58 / 0.19."""
    assert RunningNorm().value == 0
    assert after(2).value == pytest.approx(2)
    assert after(2, 4).value == pytest.approx(0.58 / 0.19)
    assert after(*[3.0] * 50).value == pytest.approx(3)


def test_the_limit_waits_for_the_warm_up():
    early, ready = after(*[0.1] * (WARM_UP - 1)), after(*[0.1] * WARM_UP)
    assert early.limit(1.0, 2.0) == 1.0
    assert ready.limit(1.0, 2.0) == pytest.approx(0.2)
    assert ready.limit(0.05, 2.0) == 0.05
    assert ready.limit(1.0, 0.0) == 1.0


def test_a_spike_raises_an_adaptive_limit_by_a_tenth_at_most():
    """Value 1 after 5; a norm of 1000 counts as 2: total 0.9 x 0.40951 + 0.2, over 0.468559."""
    spiked = after(*[1.0] * 5, 1000.0, clip=2.0)
    assert spiked.value == pytest.approx((0.9 * 0.40951 + 0.2) / 0.468559)
    assert spiked.value < 1.22
    assert after(*[1.0] * 5, 1000.0).value > 200


def test_a_lasting_rise_is_followed():
    assert after(*[1.0] * 20, *[50.0] * 80, clip=2.0).value == pytest.approx(50, rel=0.01)


def test_outliers_are_refused_only_so_often():
    running, fates = after(*[1.0] * 10), []
    for norm in [11.0, 12.0, 40.0, 30.0, 20.0, 15.0, 15.0]:
        running, accepted = running.judge(norm, clip=0, skip=10)
        fates.append(accepted)
    # Five in a row are refused. The sixth is accepted, and 11, the smallest of all, is the start
    # of a new running norm, which warms up again.
    assert fates == [False] * PATIENCE + [True, True]
    assert running.count == 2 and not running.ready
    assert running.value == pytest.approx((0.9 * 0.1 * 11 + 0.1 * 15) / 0.19)


def test_a_usual_norm_makes_outliers_start_anew():
    running = after(*[1.0] * 10)
    for _ in range(3):
        for _ in range(PATIENCE):
            running, accepted = running.judge(99.0, clip=0, skip=10)
            assert not accepted
        running, accepted = running.judge(1.0, clip=0, skip=10)
        assert accepted and running.refused == 0
    assert running.value == pytest.approx(1)


def test_nothing_is_an_outlier_in_the_warm_up_or_without_a_factor():
    assert after(1.0, 1e9, 1.0, 1e9, skip=2.0).count == 4
    assert after(*[1.0] * 10, 1e9).count == 11


@given(st.lists(NORMS, min_size=1, max_size=30))
def test_the_running_norm_lies_between_the_norms(norms):
    value = after(*norms).value
    assert min(norms) * (1 - 1e-9) <= value <= max(norms) * (1 + 1e-9)


@given(st.lists(NORMS, min_size=1, max_size=30), st.floats(1.1, 5), st.floats(1.1, 20))
def test_never_more_refusals_in_a_row_than_the_patience(norms, clip, skip):
    running, row = RunningNorm(), 0
    for norm in norms * 3:
        running, accepted = running.judge(norm, clip=clip, skip=skip)
        row = 0 if accepted else row + 1
        assert row <= PATIENCE and running.refused == row


@given(st.lists(NORMS, min_size=1, max_size=20), st.integers(-20, 20))
def test_scaling_all_norms_changes_no_decision(norms, power):
    first, second, scale = RunningNorm(), RunningNorm(), 2.0**power
    for norm in norms:
        first, one = first.judge(norm, clip=2, skip=5)
        second, two = second.judge(norm * scale, clip=2, skip=5)
        assert one == two and second.value == first.value * scale


def test_label_metrics_by_hand():
    """Squares 9, 16, 1, 0: the largest tenth of four is one, 16 of 26."""
    figures = label_metrics({5: 3.0, 7: 4.0, 8: 1.0, 9: 0.0})
    assert figures == {
        "policy/label_norm_max": 4,
        "policy/label_norm_median": 2,
        "policy/label_norm_top_share": pytest.approx(16 / 26),
    }
    alike = label_metrics(dict.fromkeys(range(20), 0.5))
    assert alike["policy/label_norm_top_share"] == pytest.approx(2 / 20)
    assert label_metrics({1: 0.0})["policy/label_norm_top_share"] == 0
    assert label_metrics({}) == {}
    assert np.isnan(label_metrics({1: float("inf"), 2: 1.0})["policy/label_norm_top_share"])


def test_label_batches_hold_each_trained_segment_once():
    rng = np.random.default_rng(0)
    parts = [segment(rng, n, label) for n, label in ((9, 3), (30, 0), (12, 3), (7, 0), (20, 5))]
    parts.append(segment(rng, 8, 9, loss_mask=np.zeros(8, bool)))
    batch = pack(parts, row_tokens=32, pad_id=0)
    extra = rng.random(batch.token_ids.shape).astype(np.float32)
    batch = dataclasses.replace(batch, columns={"extra": extra})
    found = dict(label_batches(batch))
    assert list(found) == [0, 3, 5]
    assert [one.token_ids.shape for one in found.values()] == [(2, 30), (2, 12), (1, 20)]
    for label, one in found.items():
        own = batch.sequence_labels == label
        assert one.tokens == own.sum()
        assert one.loss_weights.sum() == pytest.approx(batch.loss_weights[own].sum(), rel=1e-6)
        trained = one.loss_weights != 0
        both = own & (batch.loss_weights != 0)
        assert sorted(one.columns["extra"][trained]) == sorted(extra[both])


def test_the_report_is_each_labels_own_gradient_and_changes_no_step():
    rng = np.random.default_rng(1)
    parts = [segment(rng, n, label) for n, label in ((30, 0), (20, 1), (17, 0), (40, 2), (5, 1))]
    one, other = small_learner(norm_report=2, grad_clip=1e9), small_learner(grad_clip=1e9)
    batch = on_policy(one, parts)
    a, b = one.step(batch, clipped), other.step(batch, clipped)
    assert a.metrics["policy/grad_norm"] == b.metrics["policy/grad_norm"]
    expected, total = {}, {}
    for label in (0, 1, 2):
        alone = small_learner(grad_clip=1e9)
        seen = gradients_of(alone)
        mine = np.where(batch.sequence_labels == label, batch.loss_weights, 0).astype(np.float32)
        stats = alone.step(dataclasses.replace(batch, loss_weights=mine), clipped)
        expected[label] = pytest.approx(stats.metrics["policy/grad_norm"], rel=1e-4)
        for name, gradient in seen[0].items():
            total[name] = total.get(name, 0) + gradient
    assert a.label_norms == expected
    assert a.metrics["policy/label_norm_max"] == max(a.label_norms.values())
    squared = sum(float(gradient.square().sum()) for gradient in total.values())
    assert squared**0.5 == pytest.approx(a.metrics["policy/grad_norm"], rel=1e-4)
    # Steps 0, 2, 4 report; weights are those of a learner that never does, bit for bit.
    for step in range(1, 5):
        a, b = one.step(batch, clipped), other.step(batch, clipped)
        assert bool(a.label_norms) == (step % 2 == 0) and not b.label_norms
        assert ("policy/label_norm_max" in a.metrics) == (step % 2 == 0)
    for name, value in other.weights().items():
        assert one.weights()[name].equal(value)


def test_an_outlier_is_skipped_and_counted_apart_and_training_goes_on():
    one = small_learner(skip_outliers=3.0, lr=1e-5)
    batch = on_policy(one, segments(0, LENGTHS))
    for _ in range(WARM_UP):
        assert not one.step(batch, clipped).skipped

    def exploding(logprobs, entropies, columns):
        terms, stats = clipped(logprobs, entropies, columns)
        return terms * 100, stats

    before = one.state()
    fates = [one.step(batch, exploding) for _ in range(PATIENCE)]
    assert all(stats.skipped for stats in fates)
    assert fates[-1].metrics["policy/skipped_outliers"] == PATIENCE
    assert fates[-1].metrics["policy/skipped_steps"] == PATIENCE
    assert fates[-1].metrics["policy/skipped_not_finite"] == 0
    state = one.state()
    for part in ("model", "optimizer"):
        torch.testing.assert_close(state[part], before[part], atol=0, rtol=0)
    assert not one.step(batch, exploding).skipped
    assert not one.step(batch, exploding).skipped
    assert not one.step(batch, clipped).skipped


def test_the_adaptive_limit_holds_a_spike_down():
    one = small_learner(clip_adaptive=2.0, lr=1e-6, grad_clip=1e9)
    seen = gradients_of(one)
    batch = on_policy(one, segments(0, LENGTHS))
    usual = [one.step(batch, clipped).metrics["policy/grad_norm"] for _ in range(WARM_UP)]
    spike = one.step(batch, lambda lp, _, c: (-lp * c["advantages"] * 50, {}))
    assert spike.metrics["policy/grad_norm"] > 40 * usual[0]
    limit = spike.metrics["policy/grad_limit"]
    assert limit == pytest.approx(2 * usual[0], rel=1e-2)
    squared = sum(float(gradient.square().sum()) for gradient in seen[-1].values())
    assert squared**0.5 == pytest.approx(limit, rel=1e-4)
    assert one.step(batch, clipped).metrics["policy/grad_limit"] < 1.25 * limit


def test_factors_that_would_refuse_everything_are_refused():
    for key in ("clip_adaptive", "skip_outliers"):
        with pytest.raises(ConfigError, match=rf"learner\.{key}: expected 0, or above 1, got 1"):
            LearnerSection(**{key: 1.0})
    with pytest.raises(ConfigError, match=r"learner\.norm_report"):
        LearnerSection(norm_report=-1)
