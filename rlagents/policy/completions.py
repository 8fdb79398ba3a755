"""One attempt at an OpenAI-compatible server: what is sent, what may come back, what went wrong.

Servers differ in what they accept; what is refused is found out once and left out from then on.
Loads the `openai` library: only `rlagents.policy.endpoint` imports this, when an endpoint is used.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any

import httpx2
import msgspec
import openai

from rlagents.config import EndpointSection
from rlagents.policy.asking import Ask
from rlagents.policy.endpoint import CallFailed

Hide = Callable[[str], str]

LARGEST_ANSWER = 8 * 2**20
"""Bytes of an answer that are read, at most."""
TOP_LOGPROBS = (20, 5, 0)
"""Alternatives that a server is asked for with a question that has labels; the largest number it
does not refuse."""
MAY_PASS = frozenset({408, 409, 425, 429})
"""Statuses worth another attempt, beside 500 and above."""
ARGUMENT_REFUSED = frozenset({400, 403, 422, 501})
"""Statuses of servers that do not know an argument, or do not allow it."""
OPTIONAL = ("seed", "temperature")
"""Arguments that an answer can do without: left out where a server refuses them by name."""
NO_KEY = "none"
"""What is sent where the server wants no key: the library insists on one."""


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Position(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Position] | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said."""

    text: str
    label_logprobs: Mapping[str, float]
    prompt_tokens: int | None
    """None where the server does not count."""
    sampled_tokens: int | None


class Completions:
    """The chat completions of one server. Used from one event loop.

    `hide` takes the key out of a text. It sees whole texts, before they are shortened.
    """

    def __init__(self, section: EndpointSection, key: str, hide: Hide) -> None:
        # Everything is said outright: what is None the library takes from OPENAI_* variables,
        # which are meant for another server.
        hidden: dict[str, Any] = {
            "OpenAI-Organization": openai.Omit(),
            "OpenAI-Project": openai.Omit(),
            "Accept-Encoding": "identity",
        }
        self._model = section.model
        self._hide = hide
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=section.url,
            timeout=section.timeout_s,
            max_retries=0,
            default_headers=hidden,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_bound]}),
        )
        self._limit = "max_tokens"
        self._top = TOP_LOGPROBS[0]
        self._left_out: frozenset[str] = frozenset()

    async def complete(self, ask: Ask) -> Answer:
        """The server's answer.

        What it refuses to be told is left out, and remembered where that helped.

        Raises:
            CallFailed: when there is none, or it makes no sense.
        """
        top = self._top if ask.labels else 0
        left_out, limit = self._left_out, self._limit  # of this attempt: others run beside it
        while True:
            try:
                raw = await self._client.chat.completions.with_raw_response.create(
                    **self._arguments(ask, limit, top, left_out)
                )
                break
            except (openai.OpenAIError, httpx2.HTTPError) as error:
                failure = _failure(error, self._hide)
            refused = failure.status in ARGUMENT_REFUSED
            if refused and limit == "max_tokens" and "max_completion_tokens" in str(failure):
                limit = "max_completion_tokens"
            elif refused and (named := _named(failure) - left_out):
                left_out |= named
            elif refused and top:
                top = TOP_LOGPROBS[TOP_LOGPROBS.index(top) + 1]
            else:
                raise failure
        if ask.labels:
            self._top = min(self._top, top)
        self._left_out |= left_out
        self._limit = limit
        return _read(raw.http_response.content, ask.labels, self._hide)

    def _arguments(
        self, ask: Ask, limit: str, top: int, left_out: frozenset[str]
    ) -> dict[str, Any]:
        alternatives = {"logprobs": True, "top_logprobs": top} if top else {}
        optional = {"temperature": ask.temperature, "seed": ask.seed % 2**31}
        return {
            "model": self._model,
            "messages": [{"role": role, "content": text} for role, text in ask.messages],
            limit: ask.max_tokens,
            **{name: value for name, value in optional.items() if name not in left_out},
            **alternatives,
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class _Bounded(httpx2.AsyncByteStream):
    """A body that fails where it grows too large."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._body:
            size += len(chunk)
            if size > LARGEST_ANSWER:
                raise httpx2.DecodingError(f"an answer of more than {LARGEST_ANSWER:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: Any) -> None:
    """Bound a response before anything of its body is read, that of an error included."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # a few kilobytes may unpack to gigabytes
        raise httpx2.DecodingError(f"an answer packed with {encoding[:20]!r}, unasked")
    response.stream = _Bounded(response.stream)


def _failure(error: Exception, hide: Hide) -> CallFailed:
    """What went wrong, in one line and without the library's objects, which hold the key."""
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        failed = CallFailed(f"HTTP {status}: {_line(hide(error.response.text))}")
        failed.status = status
        failed.may_pass = status in MAY_PASS or status >= 500
        failed.wait_s = _wait_s(error.response.headers.get("retry-after"))
        failed.billed = False
    elif isinstance(error, openai.APITimeoutError):
        failed = CallFailed("no answer in time")
        failed.may_pass = True
    else:
        cause = error.__cause__ or error
        failed = CallFailed(f"{type(cause).__name__}: {_line(hide(str(cause) or str(error)))}")
        failed.may_pass = isinstance(cause, httpx2.TransportError)
        failed.billed = not isinstance(cause, httpx2.ConnectError)
    return failed


def _named(failure: CallFailed) -> frozenset[str]:
    """Optional arguments that a refusal names."""
    said = str(failure)
    return frozenset(name for name in OPTIONAL if re.search(rf"\b{name}\b", said))


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _wait_s(header: str | None) -> float:
    """Seconds that a `Retry-After` asks for, as a number or as a date; 0 for anything else."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _read(body: bytes, labels: Sequence[str], hide: Hide) -> Answer:
    """A completion, checked: what a server sends is untrusted.

    Raises:
        CallFailed: for anything that is not one, or has no text.
    """
    try:
        parsed = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        start = _line(hide(body[:10_000].decode(errors="replace")))[:60]
        raise CallFailed(f"not a completion ({_line(str(error))}): {start!r}") from None
    if not parsed.choices:
        raise CallFailed("an answer without choices")
    choice = parsed.choices[0]
    if choice.message.content is None:
        raise CallFailed(f"an answer without text (finish_reason {choice.finish_reason!r})")
    usage = parsed.usage or _Usage()
    return Answer(
        text=choice.message.content,
        label_logprobs=_label_logprobs(choice.logprobs, labels),
        prompt_tokens=usage.prompt_tokens,
        sampled_tokens=usage.completion_tokens,
    )


def _label_logprobs(logprobs: _Logprobs | None, labels: Sequence[str]) -> dict[str, float]:
    """Log-probability of each label as the first token; " A" and "A" both say A."""
    if logprobs is None or not logprobs.content:
        return {}
    first = logprobs.content[0]
    tokens = {first.token: first.logprob}
    tokens |= {other.token: other.logprob for other in first.top_logprobs or ()}
    found: dict[str, float] = {}
    for label in labels:
        same = [math.exp(min(v, 0.0)) for t, v in tokens.items() if t.strip() == label]
        if total := math.fsum(same):
            found[label] = min(math.log(total), 0.0)
    return found
