"""Calls and descriptions of tools in the words of the template, or in plain ones."""

from __future__ import annotations

from typing import Any

import pytest

from rlagents.policy.chat import Chat
from rlagents.policy.tiny import byte_tokenizer
from rlagents.policy.tool_calls import ToolCall, action_text, tools_text
from tests.policy.toys import bpe_tokenizer

CALLING = (
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.reasoning_content -%}{{- '[' + m.reasoning_content + ']' -}}{%- endif -%}"
    "{{- m.content -}}"
    "{%- if tools and m.role == 'system' -%}"
    "{{- '\n\n# Tools' -}}{%- for t in tools -%}{{- '\n' + (t | tojson) -}}{%- endfor -%}"
    "{%- endif -%}"
    "{%- for c in m.tool_calls or [] -%}"
    "{{- '\n@' + c.function.name + '(' + (c.function.arguments | tojson) + ')' -}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""ChatML that knows calls, thoughts and tools, in words of its own."""

REFUSING = CALLING.replace(
    "{{- m.content -}}",
    "{%- if m.tool_calls or tools -%}{{- raise_exception('no tools') -}}{%- endif -%}"
    "{{- m.content -}}",
)
NAMES_ONLY = CALLING.replace(" + (c.function.arguments | tojson)", "")
CALL = ToolCall("search", {"query": "red key", "limit": 3})
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
PLAIN = (
    '<tool_call>\n{"name": "search", "arguments": {"query": "red key", "limit": 3}}\n</tool_call>'
)


def chat(template: str | None) -> Chat:
    tokenizer = bpe_tokenizer() if template else byte_tokenizer()
    if template:
        tokenizer.chat_template = template
    return Chat(tokenizer)


def test_a_call_is_what_the_template_writes_in_the_assistants_turn() -> None:
    said = action_text(chat(CALLING), "Let me see.", [CALL, ToolCall("look", {})], "Hm.")
    arguments = '{"query": "red key", "limit": 3}'
    assert said == f"[Hm.]Let me see.\n@search({arguments})\n@look({{}})"


@pytest.mark.parametrize("template", [None, REFUSING, NAMES_ONLY])
def test_where_the_template_has_no_words_a_call_is_json(template: str | None) -> None:
    """The tiny model's template leaves calls out; others raise, or drop the arguments."""
    assert action_text(chat(template), "", [CALL]) == PLAIN
    assert action_text(chat(template), "Look.", [CALL, CALL]) == f"Look.\n{PLAIN}\n{PLAIN}"


def test_without_a_chat_all_of_it_is_plain() -> None:
    said = action_text(None, "Go.", [ToolCall("walk", {"to": "Öst"})], "Where?")
    call = '<tool_call>\n{"name": "walk", "arguments": {"to": "Öst"}}\n</tool_call>'
    assert said == f"<think>\nWhere?\n</think>\n\nGo.\n{call}"
    assert action_text(None, "Go.") == "Go."


def test_content_alone_is_never_rendered() -> None:
    """Templates trim and rewrite; what was said stays."""
    assert action_text(chat(CALLING), " <|im_end|> two \n") == " <|im_end|> two \n"


def test_a_call_that_spells_the_end_of_a_turn_stays_whole() -> None:
    said = action_text(chat(CALLING), "", [ToolCall("say", {"text": "<|im_end|>"})])
    assert said == '\n@say({"text": "<|im_end|>"})'
    codec = chat(CALLING)
    ids = codec.encode_action(said)
    assert codec.decode(ids[:-1]) == said and codec.end_id not in ids[:-1]


@pytest.mark.parametrize("arguments", ["{not json", 5, None, ["a"]])
def test_arguments_that_are_no_object(arguments: Any) -> None:
    for template in (None, CALLING):
        assert "search" in action_text(chat(template), "", [ToolCall("search", arguments)])


def test_tools_are_described_in_the_templates_words() -> None:
    told = tools_text(chat(CALLING), [TOOL])
    assert told.startswith('# Tools\n{"type": "function", "function": {"name": "search"')


@pytest.mark.parametrize("template", [None, REFUSING])
def test_tools_in_plain_words(template: str | None) -> None:
    flat = {"name": "look", "description": "where you are"}
    assert tools_text(chat(template), [TOOL, flat]) == (
        'Tools:\n{"name": "search", "parameters": {"type": "object"}}\n'
        '{"name": "look", "description": "where you are"}'
    )


def test_a_message_of_its_own_for_the_tools_is_no_text_for_an_observation() -> None:
    """It would spell the end of a turn inside of one."""
    own = "{%- if tools -%}{{- '<|im_start|>tools\n' + (tools | tojson) -}}{{- '<|im_end|>\n' -}}"
    template = own + "{%- endif -%}" + CALLING.replace("if tools and", "if false and")
    assert tools_text(chat(template), [TOOL]) == tools_text(None, [TOOL])


@pytest.mark.parametrize("tool", [{}, {"function": {}}, {"function": "search"}, {"name": 3}])
def test_a_tool_needs_a_name(tool: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a function with a name"):
        tools_text(None, [tool])
