"""Tool calls and tool descriptions of foreign transcripts as text, in the policy's own dialect.

Our policies speak text: a call is what they write. How a chat model writes one, and how it was
told of its tools, its chat template says; where the template has no words for it, plain JSON does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlagents.errors import ConfigError
from rlagents.policy.chat import Chat

_USER, _SYSTEM = "qzuserqz3qz", "qzsystemqz0qz"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call in an assistant's message."""

    name: str
    arguments: Any
    """An object; text where it was none that could be read."""


def action_text(
    chat: Chat | None, content: str, calls: Sequence[ToolCall] = (), reasoning: str = ""
) -> str:
    r"""What a policy would have to say, from its generation prompt to its end of turn.

    That is what the template puts between the two. Without a chat, or where the template has no
    words for calls or thoughts (it raises, or leaves out a name, an argument or the reasoning),
    the parts follow each other as

        <think>\nREASONING\n</think>\n\n
        CONTENT\n
        <tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>

    A special token of the template's in it is ordinary text to `Chat.encode_action`.
    """
    if not calls and not reasoning:
        return content
    needed = [reasoning.strip(), content.strip(), *(call.name for call in calls)]
    for call in calls:
        needed += call.arguments if isinstance(call.arguments, Mapping) else ()
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call{number:05d}",  # nine letters or digits, which some templates insist on
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(calls)
        ]
    said = "" if chat is None else _said(chat, message)
    return said if said and all(n in said for n in needed) else _plain(content, calls, reasoning)


def tools_text(chat: Chat | None, tools: Sequence[Mapping[str, Any]]) -> str:
    """What a policy is told of its tools: the template's words, else a line of JSON for each.

    A context's head is the same in all episodes, so that this belongs to the first observation.

    Raises:
        ValueError: for a tool without a name.
    """
    full = [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]
    names = [_name(tool) for tool in full]
    told = "" if chat is None else _told(chat, full)
    if told and all(name in told for name in names):
        return told
    return "\n".join(["Tools:", *(json.dumps(t["function"], ensure_ascii=False) for t in full)])


def _said(chat: Chat, message: Mapping[str, Any]) -> str:
    """A message as the template writes it after its generation prompt; empty where it can't."""
    user = {"role": "user", "content": _USER}
    try:
        opening = chat.render_messages([user], prompt=True)
        whole = chat.render_messages([user, message])
    except ConfigError:
        return ""
    if not whole.startswith(opening):
        return ""
    return whole[len(opening) :].rpartition(chat.decode([chat.end_id]))[0]


def _plain(content: str, calls: Sequence[ToolCall], reasoning: str) -> str:
    parts = [f"<think>\n{reasoning}\n</think>\n"] if reasoning else []
    parts += [content] if content else []
    for call in calls:
        record = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
        parts.append(f"<tool_call>\n{record}\n</tool_call>")
    return "\n".join(parts)


def _told(chat: Chat, tools: Sequence[Mapping[str, Any]]) -> str:
    """What the template adds to a conversation for the tools; empty where it can't be cut out."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    try:
        without = chat.render_messages(messages, prompt=True)
        whole = chat.render_messages(messages, prompt=True, tools=tools)
    except ConfigError:
        return ""
    added = len(whole) - len(without)
    start = next((i for i, (a, b) in enumerate(zip(whole, without, strict=False)) if a != b), 0)
    told = whole[start : start + added]
    if added <= 0 or whole[:start] + whole[start + added :] != without:
        return ""
    # More than one place, or a message of its own: no text that an observation could hold.
    markers = (_USER, _SYSTEM, chat.decode([chat.end_id]))
    return "" if any(marker in told for marker in markers) else told.strip()


def _name(tool: Mapping[str, Any]) -> str:
    function = tool["function"]
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"tools: expected a function with a name, got {str(tool)[:200]}")
    return name
