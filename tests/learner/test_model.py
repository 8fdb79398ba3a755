from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from rlagents.data.packing import pack, segment_spans
from rlagents.errors import ConfigError
from rlagents.learner.model import flat_row, policy_logprobs, prepare, row_logprobs
from tests.learner.small import VOCABULARY, segment, segments, small_model

LENGTHS = [30, 20, 17, 40, 5, 2, 1, 29]


def prepared(**changes):
    model = small_model(**changes)
    prepare(model)
    return model


def alone(plain, one) -> torch.Tensor:
    """[T - 1] of the segment's own log-probabilities: the plain model, nothing packed."""
    ids = torch.from_numpy(one.token_ids.astype(np.int64))
    logits = plain(input_ids=ids[None], use_cache=False).logits[0, :-1]
    tempered = logits / torch.from_numpy(one.temperatures[1:].copy())[:, None]
    return tempered.log_softmax(-1).gather(-1, ids[1:, None])[:, 0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_unpacked_with_gradients(checkpointing):
    plain = small_model()
    model = copy.deepcopy(plain)
    prepare(model, activation_checkpointing=checkpointing)
    parts = segments(0, LENGTHS)
    batch = pack(parts, row_tokens=64, pad_id=0)
    # Chunks of 7 make many checkpoints of the head.
    packed, _ = policy_logprobs(model, batch, chunk=7)

    expected = torch.zeros(batch.token_ids.shape)
    by_label = {part.label: part for part in parts}
    for row, start, stop in segment_spans(batch):
        one = by_label[int(batch.sequence_labels[row, start])]
        trained = torch.from_numpy(one.loss_mask[1:].copy())
        if stop - start > 1:
            expected[row, start + 1 : stop] = alone(plain, one) * trained
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)

    weights = torch.from_numpy(batch.loss_weights.copy())
    (packed * weights).sum().backward()
    (expected * weights).sum().backward()
    reference = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, atol=1e-5, rtol=1e-4)


def test_segments_do_not_leak():
    model = prepared()
    rng = np.random.default_rng(0)
    first, second = segment(rng, 25, 0), segment(rng, 25, 1)
    other = segment(rng, 25, 0, loss_mask=first.loss_mask.copy(), temperatures=first.temperatures)
    everything = np.ones((1, 50), bool)

    def logprobs(*parts):
        batch = pack(parts, row_tokens=50, pad_id=0)
        return policy_logprobs(model, batch, chunk=64, wanted=everything)[0][0].detach()

    before, after = logprobs(first, second), logprobs(other, second)
    assert (before[1:25] - after[1:25]).abs().max() > 0.1
    torch.testing.assert_close(before[25:], after[25:], atol=1e-6, rtol=0)


def test_first_tokens_and_padding_are_zero():
    model = prepared()
    batch = pack(segments(1, [4, 3, 6]), row_tokens=7, pad_id=0)
    everything = np.ones(batch.token_ids.shape, bool)
    logprobs, entropy = policy_logprobs(model, batch, chunk=64, wanted=everything)
    conditioned = torch.from_numpy((batch.positions > 0) & (batch.segment_ids >= 0))
    assert conditioned.sum() == 3 + 2 + 5
    assert ((logprobs < 0) == conditioned).all() and ((entropy > 0) == conditioned).all()


def test_the_chunk_size_does_not_matter():
    model = prepared()
    batch = pack(segments(2, LENGTHS), row_tokens=80, pad_id=0)
    whole, spread = policy_logprobs(model, batch, chunk=10_000)
    for chunk in (1, 13):
        part, part_spread = policy_logprobs(model, batch, chunk=chunk)
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(part_spread, spread, atol=1e-5, rtol=0)


def test_entropy_of_a_uniform_head_is_the_logarithm_of_the_vocabulary():
    model = prepared(tie_word_embeddings=False)
    torch.nn.init.zeros_(model.lm_head.weight)
    batch = pack(segments(3, [9]), row_tokens=9, pad_id=0)
    logprobs, entropy = policy_logprobs(model, batch, chunk=4)
    trained = torch.from_numpy(batch.loss_weights != 0)
    torch.testing.assert_close(logprobs[trained], torch.full((int(trained.sum()),), -np.log(50.0)))
    torch.testing.assert_close(entropy[trained], torch.full((int(trained.sum()),), np.log(50.0)))


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_the_gradient_of_entropies_is_that_of_the_plain_model(chunk):
    """-sum p log p of the tempered softmax, by autograd through dense logits."""
    plain = small_model()
    model = copy.deepcopy(plain)
    prepare(model)
    parts = segments(0, [30, 17, 5])
    batch = pack(parts, row_tokens=64, pad_id=0)
    row = flat_row(batch)
    logprobs, entropies = row_logprobs(model, row, chunk=chunk, entropy="gradient")
    same, values = row_logprobs(model, row, chunk=chunk)
    torch.testing.assert_close(logprobs, same, atol=0, rtol=0)
    torch.testing.assert_close(entropies, values, atol=0, rtol=0)
    assert entropies.requires_grad and not values.requires_grad
    weights = torch.linspace(-1, 2, len(entropies))
    ((entropies + 0.5 * logprobs) * weights).sum().backward()

    total, at = 0, 0
    for part in parts:
        ids = torch.from_numpy(part.token_ids.astype(np.int64))
        logits = plain(input_ids=ids[None], use_cache=False).logits[0, :-1]
        tempered = (logits / torch.from_numpy(part.temperatures[1:].copy())[:, None]).log_softmax(
            -1
        )
        spread = -(tempered.exp() * tempered).sum(-1)
        chosen = tempered.gather(-1, ids[1:, None])[:, 0]
        own = torch.from_numpy(part.loss_mask[1:].copy())
        size = int(own.sum())
        total = total + ((spread + 0.5 * chosen)[own] * weights[at : at + size]).sum()
        at += size
    total.backward()
    reference = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, atol=2e-5, rtol=1e-4)


def test_entropies_are_left_out_where_nobody_wants_them():
    model = prepared()
    row = flat_row(pack(segments(2, [9]), row_tokens=9, pad_id=0))
    _, entropies = row_logprobs(model, row, chunk=4, entropy="none")
    assert entropies.shape == row.wanted.shape and not entropies.any()


def test_on_policy_the_ratio_is_one_at_any_temperature():
    """Sample token by token with the plain model, record, and compare."""
    plain = small_model()
    model = copy.deepcopy(plain)
    prepare(model)
    rng = np.random.default_rng(0)
    parts = []
    for label, temperature in enumerate((0.5, 1.0, 1.7)):
        ids, recorded = [3, 1, 4], [0.0, 0.0, 0.0]
        for _ in range(12):
            with torch.no_grad():
                logits = plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            logprobs = (logits / temperature).log_softmax(-1).numpy().astype(np.float64)
            token = int(rng.choice(VOCABULARY, p=np.exp(logprobs) / np.exp(logprobs).sum()))
            ids, recorded = [*ids, token], [*recorded, logprobs[token]]
        mask = np.arange(15) >= 3
        parts.append(
            segment(
                rng,
                15,
                label,
                token_ids=np.array(ids, np.int32),
                loss_mask=mask,
                behaviour_logprobs=np.array(recorded, np.float32),
                temperatures=np.where(mask, temperature, 1).astype(np.float32),
            )
        )
    batch = pack(parts, row_tokens=30, pad_id=0)
    logprobs, _ = policy_logprobs(model, batch, chunk=64)
    ratio = (logprobs - torch.from_numpy(batch.behaviour_logprobs.copy())).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


def test_a_model_that_scales_its_logits_is_refused():
    """Its own forward does something after the head that ours would leave out."""
    model = small_model()
    head = model.forward

    def scaled(**arguments):
        output = head(**arguments)
        output.logits = output.logits * 0.5
        return output

    model.forward = scaled
    with pytest.raises(ConfigError, match=r"policy\.model: Qwen3ForCausalLM .* packed rows"):
        prepare(model)


def test_another_architecture_works_and_dropout_is_off():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY}
    config = MistralConfig(**sizes, **heads, sliding_window=None, attention_dropout=0.5)
    model = MistralForCausalLM(config)
    prepare(model, activation_checkpointing=True)
    batch = pack(segments(4, [20, 9]), row_tokens=32, pad_id=0)
    first, second = (policy_logprobs(model, batch, chunk=64)[0] for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
