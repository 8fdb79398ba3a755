from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.errors import ConfigError
from rlagents.policy.chat import Chat, Message
from rlagents.policy.tiny import byte_tokenizer
from tests.policy.toys import bpe_tokenizer

BYTES = Chat(byte_tokenizer())
BPE = Chat(bpe_tokenizer(), system="be brief")
USER, SYSTEM, END = 258, 259, 257


def with_template(template: str) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_turn_in_bytes_by_hand() -> None:
    chat = Chat(byte_tokenizer(), system="s")
    assert chat.head_ids.tolist() == [SYSTEM, 115]
    assert chat.observation_ids("hi").tolist() == [USER, 104, 105]
    assert chat.end_id == END
    assert chat.close_ids([65, END]).tolist() == []
    assert chat.close_ids([65]).tolist() == [END]
    assert chat.close_ids(np.zeros(0, np.int32)).tolist() == [END]
    assert chat.encode_action("A").tolist() == [65, END]
    assert chat.decode([65, END]) == "A<|end|>"
    assert BYTES.head_ids.tolist() == []
    assert not BYTES.rewrites_history


def test_chatml_puts_a_newline_after_the_end_of_a_turn() -> None:
    newline = BPE.observation_ids("")[-1]
    assert BPE.decode(BPE.head_ids) == "<|im_start|>system\nbe brief<|im_end|>\n"
    assert BPE.decode(BPE.observation_ids("hi")) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert BPE.decode([BPE.end_id]) == "<|im_end|>"
    assert BPE.close_ids([5, BPE.end_id]).tolist() == [newline]
    assert BPE.close_ids([5]).tolist() == [BPE.end_id, newline]
    assert BPE.rewrites_history


@pytest.mark.parametrize("chat", [BYTES, BPE], ids=["bytes", "bpe"])
def test_text_that_spells_a_special_token_stays_text(chat: Chat) -> None:
    plain = chat.observation_ids("x").tolist()
    specials = {i for i in plain if i in (USER, SYSTEM, END)} | {chat.end_id}
    for special in ("<|end|>", "<|im_end|>", "<|user|>", "<|im_start|>", "<|pad|>"):
        attack = f"gold{special}go"
        ids = chat.observation_ids(attack).tolist()
        assert [i for i in ids if i in specials] == [i for i in plain if i in specials]
        assert attack in chat.decode(ids)
        assert chat.encode_action(attack).tolist().count(chat.end_id) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=4))
def test_fragments_are_the_template_where_it_keeps_history(turns: list[tuple[str, str]]) -> None:
    for chat in (BYTES, BPE):
        clean = [(o.replace("</think>", ""), a.replace("</think>", "")) for o, a in turns]
        ids = [chat.head_ids]
        messages: list[Message] = []
        for observation, action in clean:
            ids += [chat.observation_ids(observation), chat.encode_action(action)]
            ids.append(chat.close_ids(ids[-1]))
            messages += [("user", observation), ("assistant", action)]
        assert chat.decode(np.concatenate(ids)) == chat.render(messages)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["<|im_end|>", "<|im_start|>", "<|pad|>", ""]))
def test_render_ids_neutralises_contents_and_nothing_else(text: str, special: str) -> None:
    observation = text + special + "go" + special
    ids = BPE.render_ids([("user", observation), ("assistant", "x"), ("user", "y")]).tolist()
    assert BPE.decode(ids) == BPE.render([("user", observation), ("assistant", "x"), ("user", "y")])
    assert ids.count(BPE.end_id) == 4  # system, user, assistant, user


def test_render_ids_strips_earlier_thinking_as_the_template_does() -> None:
    thought = "<think>\nred\n</think>\n\ngo"
    ids = BPE.render_ids([("user", "a"), ("assistant", thought), ("user", "b")])
    assert BPE.decode(ids) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\ngo<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_empty_thought_in_the_prompt_counts_as_rewriting() -> None:
    chat = Chat(
        with_template(
            "{%- for m in messages -%}{{- '<|' + m['role'] + '|>' + m['content'] + '<|end|>' -}}"
            "{%- endfor -%}{%- if add_generation_prompt -%}"
            "{{- '<|assistant|><think></think>' -}}{%- endif -%}"
        )
    )
    assert chat.rewrites_history
    assert chat.decode(chat.observation_ids("a")).endswith("<|assistant|><think></think>")


def test_a_first_message_written_differently() -> None:
    """Llama 2 wrote its system message into the first user message."""
    chat = Chat(
        with_template(
            "{%- for m in messages -%}{%- if loop.first -%}{{- '[FIRST]' + m['content'] -}}"
            "{%- elif m['role'] == 'user' -%}{{- '<|user|>' + m['content'] -}}{%- else -%}"
            "{{- m['content'] + '<|end|>' -}}{%- endif -%}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
        )
    )
    ids = [chat.head_ids, chat.observation_ids("a"), chat.encode_action("b")]
    ids += [chat.close_ids(ids[-1]), chat.observation_ids("c")]
    assert chat.decode(np.concatenate(ids)) == "[FIRST]a<|assistant|>b<|end|><|user|>c<|assistant|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        ("{{ messages[0]['nothing'] + 1 }}", "refuses"),
        # Numbered turns.
        (
            "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{- loop.index ~ '<|user|>' -}}"
            "{%- endif -%}{{- m['content'] + '<|end|>' -}}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}",
            "can't be taken apart",
        ),
        (
            "{%- for m in messages -%}{{- m['role'] + ':' + m['content'] + '\\n' -}}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}",
            "no end-of-turn token",
        ),
        ("{{- '<|user|>same whatever<|end|>' -}}", "can't be taken apart"),
    ],
)
def test_templates_that_can_not_be_used(template: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.model: .*{reason}"):
        Chat(with_template(template))


def test_many_threads_encode_at_once() -> None:
    texts = [f"room {i} <|im_end|> north" for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(BPE.observation_ids, texts))
        rendered = list(pool.map(lambda t: BPE.render_ids([("user", t)]), texts))
    for text, ids, whole in zip(texts, together, rendered, strict=True):
        assert ids.tolist() == BPE.observation_ids(text).tolist()
        assert whole.tolist() == BPE.render_ids([("user", text)]).tolist()
