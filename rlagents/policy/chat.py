"""Text to ids and back, in fragments: the ids of a conversation are made once and only grow.

A chat template renders whole conversations. Here it is taken apart once, at birth, by rendering
dummy conversations, so that a context is

    head_ids + [observation_ids(o_0) + action_0 + close_ids(action_0)]
             + [observation_ids(o_1) + action_1 + close_ids(action_1)] + ...

where the actions are ids as they were sampled. Only the template's own parts may become special
tokens: text from outside that spells one is encoded as ordinary text. Torch-free.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rlagents.errors import ConfigError
from rlagents.types import IntArray

Message = tuple[str, str]
"""(role, text); the role is `system`, `user` or `assistant`."""

_USER = ("qzuserqz0qz", "qzuserqz1qz", "qzuserqz2qz")
_ACTION, _SECOND_ACTION = "qzactionqz0qz", "qzactionqz1qz"
_THOUGHT = "qzthoughtqz0qz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """A template as text: what stands around the contents of a conversation."""

    head: str
    """Before the first user message, the system message included."""
    user: str
    """Opens a user message."""
    assistant: str
    """From the end of a user message to where the assistant's content begins."""
    close: str
    """From the end of the assistant's content to the next message."""


class Chat:
    """A tokenizer's chat template as fragments of ids. Safe to call from many threads.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        system: the system message; empty for none.
        history: `keep` grows contexts by fragments; `template` renders with `render_ids`.

    Raises:
        ConfigError: when there is no template, or it can't be taken apart.
    """

    def __init__(
        self, tokenizer: Any, system: str = "", history: Literal["keep", "template"] = "keep"
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("policy.model: the tokenizer has no chat template")
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError("policy.model: the tokenizer has no fast (Rust) version")
        self.system = system
        self.history = history
        self._tokenizer = tokenizer
        # Own copies: a setting changed on a shared tokenizer while another thread encodes raises.
        self._trusted = copy.deepcopy(tokenizer.backend_tokenizer)
        self._plain = copy.deepcopy(tokenizer.backend_tokenizer)
        for backend, plain in ((self._trusted, False), (self._plain, True)):
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = plain
        # `all_special_tokens` leaves out those that have no role of their own, such as what opens a
        # message in most templates.
        added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        self._specials = tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added]))
        self.fragments = _fragments(self)
        self.end_id = self._find_end()
        self.head_ids: IntArray = self._template_ids(self.fragments.head)
        """Ids before the first observation; may be empty."""
        self._user: IntArray = self._template_ids(self.fragments.user)
        self._assistant: IntArray = self._template_ids(self.fragments.assistant)
        self._close: IntArray = self._template_ids(self.fragments.close)
        after = int(np.flatnonzero(self._close == self.end_id)[0]) + 1
        self._after_end: IntArray = self._close[after:]
        self.rewrites_history: bool = _rewrites(self)
        """The template changes earlier turns, for example strips earlier thinking."""

    def observation_ids(self, text: str) -> IntArray:
        """[O] a user message and the generation prompt that follows it."""
        return np.concatenate([self._user, self._text_ids(text), self._assistant])

    def close_ids(self, action_ids: Sequence[int] | IntArray) -> IntArray:
        """What the template puts after an action: less where it ends with the end-of-turn id."""
        ended = len(action_ids) > 0 and int(action_ids[-1]) == self.end_id
        return self._after_end if ended else self._close

    def encode_action(self, text: str) -> IntArray:
        """[A] an action as a demonstration: its text and the end-of-turn id."""
        return np.append(self._text_ids(text), np.int32(self.end_id))

    def decode(self, ids: Iterable[int]) -> str:
        """Ids as text, special tokens included."""
        return self._plain.decode([int(i) for i in ids], skip_special_tokens=False)

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as the template writes it, with this chat's system message.

        After a user message it ends with the generation prompt.

        Raises:
            ConfigError: when the template refuses it.
        """
        if self.system and not (messages and messages[0][0] == "system"):
            messages = [("system", self.system), *messages]
        return _apply(self._tokenizer, messages)

    def render_ids(self, messages: Sequence[Message]) -> IntArray:
        """`render` as ids; special tokens spelled in a message's text stay ordinary text."""
        contents = [text for _, text in messages] + [self.system]
        mark = _unused_letter(contents)
        marked = {s: s[0] + mark + s[1:] for s in self._specials}

        def neutral(text: str) -> str:
            for special, harmless in marked.items():
                text = text.replace(special, harmless)
            return text

        chat: list[Message] = [(role, neutral(text)) for role, text in messages]
        if self.system and not (chat and chat[0][0] == "system"):
            chat.insert(0, ("system", neutral(self.system)))
        rendered = _apply(self._tokenizer, chat)
        if mark not in rendered:
            return self._template_ids(rendered)
        parts: list[IntArray] = []
        for piece, plain in _pieces(rendered, {h: s for s, h in marked.items()}):
            parts.append(self._text_ids(piece) if plain else self._template_ids(piece))
        return np.concatenate(parts)

    def render_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Whole messages as the template writes them, without this chat's system message.

        Args:
            messages: with whatever keys the template knows, such as `tool_calls`.
            prompt: end with the generation prompt.
            tools: JSON schemas of tools.

        Raises:
            ConfigError: when the template refuses it.
        """
        return _applied(self._tokenizer, messages, prompt, tools)

    def _find_end(self) -> int:
        special = set(self._tokenizer.all_special_ids)
        special |= {i for i, t in self._tokenizer.added_tokens_decoder.items() if t.special}
        ids = self._template_ids(self.fragments.close)
        ends = [int(i) for i in ids if int(i) in special]
        if not ends:
            raise ConfigError(
                "policy.model: the chat template has no end-of-turn token after the assistant's "
                f"message (it has {self.fragments.close!r})"
            )
        return ends[0]

    def _template_ids(self, text: str) -> IntArray:
        return np.asarray(self._trusted.encode(text, add_special_tokens=False).ids, np.int32)

    def _text_ids(self, text: str) -> IntArray:
        return np.asarray(self._plain.encode(text, add_special_tokens=False).ids, np.int32)


def _fragments(chat: Chat) -> Fragments:
    """Take the template apart, and check that the parts give the whole again.

    Raises:
        ConfigError: where the parts depend on the turn.
    """
    first, second, third = _USER
    turn: list[Message] = [("user", first), ("assistant", _ACTION)]
    short = chat.render(turn[:1])
    closed = chat.render(turn)
    long = chat.render([*turn, ("user", second)])
    before, _, assistant = short.partition(first)
    between = long.partition(_ACTION)[2].partition(second)[0]
    close = _common_start(closed.partition(_ACTION)[2], between)
    user = between[len(close) :]
    if not before.endswith(user):
        # The last message of a conversation may be closed differently from an earlier one.
        # What only later user messages begin with then belongs to what closes a turn.
        user = _common_end(before, between)
        close = between[: len(between) - len(user)]
    parts = Fragments(
        head=before[: len(before) - len(user)], user=user, assistant=assistant, close=close
    )
    again = parts.head + user + first + assistant + _ACTION + close + user + second + assistant
    longer = chat.render([*turn, ("user", second), ("assistant", _SECOND_ACTION), ("user", third)])
    ordered = 0 <= long.find(first) < long.find(_ACTION) < long.find(second)
    same_later = longer.partition(_SECOND_ACTION)[2] == close + user + third + assistant
    if not (ordered and same_later and user + assistant and _same_but_thinking(again, long)):
        raise ConfigError(
            "policy.model: the chat template can't be taken apart into turns: what it writes "
            "around a message depends on the turn"
        )
    return parts


def _same_but_thinking(again: str, long: str) -> bool:
    """Equal, or different only between a user message and an earlier action.

    Templates of thinking models put an empty thought into the generation prompt and leave it out
    (or the reverse) before earlier actions: that counts as rewriting, not as impossible to split.
    """
    if again == long:
        return True
    ends = [(text.partition(_USER[0])[0], text.partition(_ACTION)[2]) for text in (again, long)]
    return ends[0] == ends[1]


def _rewrites(chat: Chat) -> bool:
    """Whether an earlier action reads differently in the template than as it was sampled."""
    first, second, _ = _USER
    parts = chat.fragments
    for opening in ("<think>\n", ""):
        action = f"{opening}{_THOUGHT}\n</think>\n\n{_ACTION}"
        kept = parts.head + parts.user + first + parts.assistant + action + parts.close
        kept += parts.user + second + parts.assistant
        if chat.render([("user", first), ("assistant", action), ("user", second)]) != kept:
            return True
    return False


def _apply(tokenizer: Any, messages: Sequence[Message]) -> str:
    prompt = bool(messages) and messages[-1][0] != "assistant"
    return _applied(tokenizer, [{"role": role, "content": text} for role, text in messages], prompt)


def _applied(
    tokenizer: Any,
    conversation: Sequence[Mapping[str, Any]],
    prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    import jinja2  # the template language itself; only where a template is rendered

    try:
        return tokenizer.apply_chat_template(
            list(conversation), tokenize=False, add_generation_prompt=prompt, tools=tools
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        roles = ", ".join(message["role"] for message in conversation)
        raise ConfigError(
            f"policy.model: the chat template refuses the conversation ({roles}): {error}"
        ) from error


def _common_start(a: str, b: str) -> str:
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:n]


def _common_end(a: str, b: str) -> str:
    return _common_start(a[::-1], b[::-1])[::-1]


def _unused_letter(texts: Iterable[str]) -> str:
    """A private-use letter that none of the texts has."""
    used = set().union(*map(set, texts))
    return next(chr(c) for c in range(0xE000, 0xF900) if chr(c) not in used)


def _pieces(text: str, marked: dict[str, str]) -> Iterable[tuple[str, bool]]:
    """Split at marked specials: (template text, False) and (the special's own text, True)."""
    start = 0
    while start < len(text):
        found = [(text.find(h, start), h) for h in marked]
        at, harmless = min(((i, h) for i, h in found if i >= 0), default=(len(text), ""))
        if at > start:
            yield text[start:at], False
        if harmless:
            yield marked[harmless], True
        start = at + len(harmless)
