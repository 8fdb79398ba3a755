from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlagents.errors import ConfigError, SamplerError
from rlagents.policy.cache import SlotModel
from rlagents.policy.chat import Chat
from rlagents.policy.local import LocalEngine
from rlagents.policy.sampler import Finish, Sampled, SampleRequest, Sampling
from rlagents.policy.slots import Turn
from rlagents.types import IntArray
from tests.policy.contract import assert_samples_are_exact
from tests.policy.toys import full_logprobs, policy

WINDOW = 512


class Rig:
    """An engine, its model and its chat."""

    def __init__(self, kind: str = "bytes", system: str = "", **options: Any) -> None:
        self.model, tokenizer = policy(kind)
        self.chat = Chat(tokenizer, system=system)
        settings: dict[str, Any] = {
            "window": WINDOW,
            "cache_tokens": 8 * WINDOW,
            "max_batch": 8,
        } | options
        self.engine = LocalEngine(self.model, self.chat, **settings)

    def ask(
        self, conversation: str, prompt: IntArray, *, seed: int = 0, **sampling: Any
    ) -> Future[Sampled]:
        return self.engine.sample(
            SampleRequest(
                conversation=conversation,
                prompt_ids=prompt,
                sampling=Sampling(**{"max_tokens": 8, **sampling}),
                seed=seed,
            )
        )

    def exact(self, **options: Any) -> None:
        def logprobs(ids: IntArray, temperature: float) -> Any:
            return full_logprobs(self.model, ids, temperature)

        assert_samples_are_exact(self.engine, self.chat, logprobs, **options)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.engine.close()


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("seed", [0, 1])
def test_ragged_conversations_are_exact(kind: str, seed: int) -> None:
    rig = Rig(kind, system="be brief", prefill_chunk=16)
    rig.exact(seed=seed, conversations=7, turns=4, temperature=0.8 + 0.2 * seed)
    assert rig.engine.stats()["reused_prompt_tokens"] > 100
    rig.engine.close()


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_more_conversations_than_room_are_rebuilt_exactly(slots: int) -> None:
    rig = Rig("bpe", cache_tokens=slots * WINDOW + 3)
    rig.exact(seed=slots, conversations=7, turns=3)
    assert rig.engine.stats()["evictions"] >= 7 - slots
    rig.engine.close()


def test_one_row_at_a_time_is_exact_too() -> None:
    rig = Rig("bpe", deterministic=True, prefill_chunk=8)
    rig.exact(conversations=4, turns=3)
    rig.engine.close()


class Retokenising:
    """An engine that, wrongly, makes ids again from the text that it sampled."""

    def __init__(self, rig: Rig) -> None:
        self._engine = rig.engine
        self._chat = rig.chat
        self.release = rig.engine.release
        self.load = rig.engine.load
        self.close = rig.engine.close

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        answer = self._engine.sample(request).result()
        ids = self._chat.encode_action(answer.text)
        if answer.finish != Finish.END:
            ids = ids[:-1]
        size = min(len(ids), len(answer.ids))
        future: Future[Sampled] = Future()
        future.set_result(
            dataclasses.replace(answer, ids=ids[:size], logprobs=answer.logprobs[:size])
        )
        return future


def test_the_contract_catches_an_engine_that_tokenises_again() -> None:
    rig = Rig("bpe")
    with pytest.raises(AssertionError):
        assert_samples_are_exact(
            Retokenising(rig), rig.chat, lambda ids, t: full_logprobs(rig.model, ids, t)
        )
    rig.engine.close()


def test_a_turn_computes_its_new_tokens_and_a_rebuilt_context_keeps_its_prefix(rig: Rig) -> None:
    first = np.arange(40, dtype=np.int32)
    answer = rig.ask("a", first, max_tokens=5).result()
    assert answer.computed_tokens == 40
    new = np.array([7, 8, 9], np.int32)
    second = np.concatenate([first, answer.ids, new])
    # The last sampled token was never read: it and the 3 new ones are computed.
    assert rig.ask("a", second, max_tokens=1).result().computed_tokens == 4
    rebuilt = np.concatenate([first[:10], np.full(20, 99, np.int32)])
    assert rig.ask("a", rebuilt, max_tokens=1).result().computed_tokens == 20
    assert rig.ask("a", rebuilt, max_tokens=1).result().computed_tokens == 1
    rig.engine.release("a")
    assert rig.ask("a", rebuilt, max_tokens=1).result().computed_tokens == 30
    stats = rig.engine.stats()
    assert stats["computed_prompt_tokens"] == 40 + 4 + 20 + 1 + 30
    assert stats["reused_prompt_tokens"] == 44 + 10 + 29
    assert stats["sampled_tokens"] == len(answer.ids) + 4


def members(rig: Rig, count: int, card: IntArray, **options: Any) -> list[tuple[IntArray, Sampled]]:
    """Prompts that begin with a card, asked for at the same time, and their answers."""
    prompts = [np.append(card, np.arange(5, dtype=np.int32) + i) for i in range(count)]
    futures = [rig.ask(f"m{i}", p, seed=i, **options) for i, p in enumerate(prompts)]
    return [(p, f.result(60)) for p, f in zip(prompts, futures, strict=True)]


def test_members_of_a_group_compute_their_card_once(rig: Rig) -> None:
    card = np.random.default_rng(0).integers(0, 256, 100).astype(np.int32)
    answers = members(rig, 8, card)
    # The first member computes all of its 105 tokens, the other seven 5 each.
    assert sorted(answer.computed_tokens for _, answer in answers) == [5] * 7 + [105]
    stats = rig.engine.stats()
    assert stats["computed_prompt_tokens"] == 105 + 7 * 5
    assert stats["copied_prompt_tokens"] == 7 * 100
    assert stats["reused_prompt_tokens"] == 0
    for prompt, answer in answers:
        expected = full_logprobs(rig.model, np.concatenate([prompt, answer.ids]))[len(prompt) :]
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)
    alone = Rig(deterministic=True)
    for (_, ours), (_, theirs) in zip(answers, members(alone, 8, card), strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)
    assert alone.engine.stats()["copied_prompt_tokens"] == 0
    alone.engine.close()


def test_cards_in_pieces_and_of_two_groups_are_copied_exactly() -> None:
    rig = Rig(prefill_chunk=16, max_batch=3)
    draw = np.random.default_rng(0)
    cards = [draw.integers(0, 256, 70).astype(np.int32) for _ in range(2)]
    for card in cards:
        for prompt, answer in members(rig, 4, card):
            whole = np.concatenate([prompt, answer.ids])
            expected = full_logprobs(rig.model, whole)[len(prompt) :]
            np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)
    # The second card is that of conversations which have a slot already.
    assert rig.engine.stats()["copied_prompt_tokens"] == 2 * 3 * 70
    rig.engine.close()


def test_a_short_beginning_is_computed_and_new_weights_leave_nothing_to_copy(rig: Rig) -> None:
    members(rig, 3, np.full(31, 7, np.int32))
    assert rig.engine.stats()["copied_prompt_tokens"] == 0
    card = np.full(60, 9, np.int32)
    members(rig, 1, card)
    rig.engine.load(policy("bytes", seed=9)[0].state_dict(), 1)
    rig.ask("other", card, max_tokens=1).result()
    assert rig.engine.stats()["copied_prompt_tokens"] == 0
    rig.ask("third", card, max_tokens=1).result()
    # The last token of a prompt is always computed: it gives the first logits.
    assert rig.engine.stats()["copied_prompt_tokens"] == 59


def test_who_waits_for_a_card_goes_on_when_its_turn_is_released(rig: Rig) -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold(module: Any, args: Any) -> None:
        started.set()
        go_on.wait(10)

    hook = rig.model.model.layers[0].register_forward_pre_hook(hold)
    card = np.full(400, 5, np.int32)
    first = rig.ask("first", card)
    assert started.wait(10)
    second = rig.ask("second", card)
    rig.engine.release("first")
    hook.remove()
    go_on.set()
    with pytest.raises(SamplerError, match="released"):
        first.result(10)
    assert second.result(10).computed_tokens in (1, 400)


def alive() -> tuple[int, int]:
    """Bytes of tensors, and turns with their requests and answers, that anything still holds."""
    gc.collect()
    found = gc.get_objects()
    storages = [o.untyped_storage() for o in found if issubclass(type(o), torch.Tensor)]
    size = sum({s.data_ptr(): s.nbytes() for s in storages}.values())
    return size, sum(type(o) in (Turn, SampleRequest, Sampled) for o in found)


def test_an_episode_of_many_windows_leaves_nothing_behind() -> None:
    """What is held after eight windows is what is held after thirty."""
    rig = Rig(cache_tokens=WINDOW, max_batch=1)
    draw, held = np.random.default_rng(0), []
    context = draw.integers(0, 256, 100).astype(np.int32)
    for turn in range(120):
        context = np.append(context, draw.integers(0, 256, 120)).astype(np.int32)
        if len(context) > WINDOW - 8:
            context = np.append(context[:100], context[-150:])
        answer = rig.ask("a", context, seed=turn).result()
        context = np.append(context, answer.ids)
        if turn in (30, 119):
            del answer
            held.append(alive())
    assert held[0] == held[1]
    rig.engine.close()


def test_the_same_seed_gives_the_same_turn_whoever_runs_beside_it(rig: Rig) -> None:
    prompt = np.arange(30, dtype=np.int32)
    alone = rig.ask("a", prompt, seed=5, max_tokens=12).result()
    crowd = [rig.ask(f"c{i}", prompt[: 5 + i], seed=i, max_tokens=20) for i in range(6)]
    beside = rig.ask("b", prompt, seed=5, max_tokens=12).result()
    assert alone.ids.tolist() == beside.ids.tolist()
    other = rig.ask("d", prompt, seed=6, max_tokens=12).result()
    assert alone.ids.tolist() != other.ids.tolist()
    assert all(f.result().ids.size for f in crowd)


def test_deterministic_is_bit_for_bit_under_any_company() -> None:
    def play(crowd: int, slots: int) -> list[tuple[list[int], bytes]]:
        rig = Rig("bpe", deterministic=True, max_batch=slots, cache_tokens=slots * WINDOW)
        context, seen = rig.chat.head_ids, []
        for turn in range(4):
            others = [
                rig.ask(f"c{i}", np.arange(3 + 7 * i + turn, dtype=np.int32), seed=i)
                for i in range(crowd)
            ]
            context = np.concatenate([context, rig.chat.observation_ids("the red door " * turn)])
            answer = rig.ask("me", context, seed=turn).result()
            context = np.concatenate([context, answer.ids, rig.chat.close_ids(answer.ids)])
            seen.append((answer.ids.tolist(), answer.logprobs.tobytes()))
            for i, other in enumerate(others):
                other.result()
                rig.engine.release(f"c{i}")
        rig.engine.close()
        return seen

    assert play(0, 1) == play(5, 6) == play(11, 12)


def test_deterministic_needs_room_for_everyone() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.cache_tokens.*4096"):
        Rig(deterministic=True, cache_tokens=8 * WINDOW - 1)
    with pytest.raises(ConfigError, match=r"rollout\.cache_tokens.*512"):
        Rig(cache_tokens=WINDOW - 1)
    rig = Rig(deterministic=True, max_batch=1, cache_tokens=WINDOW)
    prompt = np.arange(4, dtype=np.int32)
    rig.ask("a", prompt).result()
    with pytest.raises(SamplerError, match="release"):
        rig.ask("b", prompt).result()
    rig.engine.release("a")
    assert rig.ask("b", prompt).result().ids.size
    rig.engine.close()


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_stop_strings_cut_the_text_and_keep_all_ids(kind: str) -> None:
    rig = Rig(kind)
    prompt = rig.chat.observation_ids("go")
    inside = 0
    for seed in range(6):
        free = rig.ask("a", prompt, seed=seed, max_tokens=24).result()
        middle = len(free.text) // 2
        stop = free.text[middle : middle + 2]
        at = free.text.find(stop)
        answer = rig.ask("b", prompt, seed=seed, max_tokens=24, stop=("never", stop)).result()
        size = len(answer.ids)
        assert answer.text == free.text[:at]
        assert answer.ids.tolist() == free.ids[:size].tolist()
        assert answer.finish == Finish.STOP
        assert stop in rig.chat.decode(answer.ids)
        assert stop not in rig.chat.decode(answer.ids[:-1])
        inside += not rig.chat.decode(answer.ids).endswith(stop)
    assert kind == "bytes" or inside > 0, "no stop string ended inside a token"
    rig.engine.close()


def test_the_end_token_ends_a_turn_and_is_kept(rig: Rig) -> None:
    with torch.no_grad():  # make the end token likely everywhere
        rig.model.model.embed_tokens.weight[rig.chat.end_id] *= 30
    lengths = set()
    for seed in range(20):
        answer = rig.ask("a", np.arange(9, dtype=np.int32) + seed, seed=seed).result()
        if answer.finish == Finish.END:
            assert answer.ids[-1] == rig.chat.end_id
            assert answer.text == rig.chat.decode(answer.ids[:-1])
            lengths.add(len(answer.ids))
        else:
            assert len(answer.ids) == 8
    assert lengths


def test_greedy_takes_the_most_probable_tokens(rig: Rig) -> None:
    prompt = np.arange(20, dtype=np.int32)
    answer = rig.ask("a", prompt, temperature=0.0, max_tokens=6).result()
    whole = np.concatenate([prompt, answer.ids])
    with torch.no_grad():
        logits = rig.model(torch.from_numpy(whole.astype(np.int64))[None]).logits[0]
    assert logits[19:-1].argmax(-1).tolist() == answer.ids.tolist()
    expected = full_logprobs(rig.model, whole)[20:]
    np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)


def test_new_weights_come_between_turns_and_are_recorded(rig: Rig) -> None:
    prompt = np.arange(30, dtype=np.int32)
    new, _ = policy("bytes", seed=9)
    before = [rig.ask(f"c{i}", prompt + i, max_tokens=30) for i in range(12)]
    rig.engine.load(new.state_dict(), 3)
    after = [rig.ask(f"c{i}", prompt + i, max_tokens=3, seed=i) for i in range(12)]
    assert {f.result().weights_version for f in before} == {0}
    for i, answer in enumerate(f.result() for f in after):
        assert answer.weights_version == 3
        assert answer.computed_tokens == 30
        expected = full_logprobs(new, np.concatenate([prompt + i, answer.ids]))[30:]
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: {**w, "extra": w["lm_head.weight"]}, "extra"),
        (lambda w: {k: v for k, v in w.items() if "norm" not in k}, "missing"),
        (lambda w: {**w, "model.norm.weight": torch.zeros(3)}, "expected"),
    ],
)
def test_weights_of_another_model_change_nothing(rig: Rig, change: Any, reason: str) -> None:
    prompt = np.arange(30, dtype=np.int32)
    first = rig.ask("a", prompt).result()
    weights: Mapping[str, torch.Tensor] = policy("bytes", seed=9)[0].state_dict()
    with pytest.raises(SamplerError, match=reason):
        rig.engine.load(change(weights), 1)
    again = rig.ask("b", prompt).result()
    assert again.weights_version == 0
    assert again.ids.tolist() == first.ids.tolist()


def test_tied_weights_may_come_under_one_name_and_as_arrays(rig: Rig) -> None:
    weights = {k: v.numpy() for k, v in policy("bytes", seed=9)[0].state_dict().items()}
    del weights["lm_head.weight"]
    rig.engine.load(weights, 1)
    assert rig.ask("a", np.arange(3, dtype=np.int32)).result().weights_version == 1


def test_what_does_not_fit_fails_at_once(rig: Rig) -> None:
    for prompt, extra in ((WINDOW, 1), (0, 1), (5, 0), (WINDOW - 7, 8)):
        with pytest.raises(SamplerError, match="window"):
            rig.ask("a", np.zeros(prompt, np.int32), max_tokens=extra).result(1)
    full = rig.ask("a", np.zeros(WINDOW - 8, np.int32), max_tokens=8).result()
    assert 1 <= len(full.ids) <= 8


def test_a_failing_pass_fails_everyone_by_name_and_later_calls_at_once(rig: Rig) -> None:
    started, broken = threading.Event(), threading.Event()

    def explode(module: Any, args: Any) -> None:
        started.set()
        broken.wait(10)
        raise ZeroDivisionError("a bad kernel")

    rig.model.model.layers[0].register_forward_pre_hook(explode)
    futures = [rig.ask(f"c{i}", np.arange(9, dtype=np.int32)) for i in range(20)]
    assert started.wait(10)
    broken.set()
    for future in futures:
        with pytest.raises(SamplerError, match=r"ZeroDivisionError: a bad kernel"):
            future.result(10)
    with pytest.raises(SamplerError, match="a bad kernel"):
        rig.ask("later", np.arange(9, dtype=np.int32)).result(1)
    with pytest.raises(SamplerError, match="a bad kernel"):
        rig.engine.load(rig.model.state_dict(), 1)


def test_closing_fails_what_is_pending_and_may_be_repeated(rig: Rig) -> None:
    futures = [rig.ask(f"c{i}", np.arange(9, dtype=np.int32), max_tokens=200) for i in range(20)]
    rig.engine.close()
    rig.engine.close()
    for future in [*futures, rig.ask("later", np.arange(9, dtype=np.int32))]:
        with pytest.raises(SamplerError, match="closed"):
            future.result(1)
    with pytest.raises(SamplerError, match="closed"):
        rig.engine.load(rig.model.state_dict(), 1)
    rig.engine.release("c0")


def test_releasing_a_conversation_ends_its_turn(rig: Rig) -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold(module: Any, args: Any) -> None:
        started.set()
        go_on.wait(10)

    hook = rig.model.model.layers[0].register_forward_pre_hook(hold)
    running = rig.ask("a", np.arange(9, dtype=np.int32), max_tokens=200)
    queued = rig.ask("a", np.arange(9, dtype=np.int32), max_tokens=200)
    assert started.wait(10)
    rig.engine.release("a")
    hook.remove()
    go_on.set()
    for future in (running, queued):
        with pytest.raises(SamplerError, match="released"):
            future.result(10)
    assert rig.ask("a", np.arange(9, dtype=np.int32)).result(10).computed_tokens == 9


def test_weights_that_are_not_finite_fail_the_turn_and_not_the_engine(rig: Rig) -> None:
    good = {k: v.clone() for k, v in rig.model.state_dict().items()}
    rig.engine.load({k: v * float("nan") for k, v in good.items()}, 1)
    with pytest.raises(SamplerError, match="not finite"):
        rig.ask("a", np.arange(9, dtype=np.int32)).result()
    rig.engine.load(good, 2)
    assert rig.ask("a", np.arange(9, dtype=np.int32)).result().weights_version == 2
    rig.exact(conversations=2, turns=2)


def test_models_whose_cache_can_not_be_kept_are_refused() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_window_layers": 0,
    }
    torch.manual_seed(0)
    sliding = Qwen2ForCausalLM(Qwen2Config(**sizes, use_sliding_window=True, sliding_window=4))
    with pytest.raises(ConfigError, match=r"policy\.model: .*sliding"):
        SlotModel(sliding.eval(), window=64, slots=1)
    plain = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
    assert SlotModel(plain, window=64, slots=1).capacity == 80

    def forget(module: Any, args: Any, options: dict[str, Any]) -> Any:
        """A model that ignores the positions it is given once it has a cache."""
        return args, {**options, "position_ids": torch.zeros_like(options["position_ids"])}

    plain.model.register_forward_pre_hook(
        lambda m, a, k: forget(m, a, k) if k.get("past_key_values") is not None else (a, k),
        with_kwargs=True,
    )
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(20)
    with pytest.raises(ConfigError, match=r"policy\.model: .*cache"):
        SlotModel(plain, window=64, slots=1)
