"""A model behind an OpenAI-compatible server, as a `Backend`.

    ask() -> the endpoint's thread: a slot -> money -> attempt -> pause -> attempt ... -> answer

One thread runs an event loop, so that an attempt can be ended at its deadline wherever it hangs,
its connection closed with it; a thread that reads from a socket can't be ended. The `openai`
library makes the requests (`rlagents.policy.completions`); when, how often and for how much is
decided here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from rlagents.config import EndpointSection
from rlagents.errors import ConfigError, JudgeError, boundary
from rlagents.policy.asking import Ask, Reply
from rlagents.policy.purse import Purse

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
BYTES_PER_TOKEN = 4
"""By which tokens are estimated, before an answer and where a server does not count them."""
MILLION = 1_000_000


class CallFailed(JudgeError):
    """A call, or an attempt at it, without an answer."""

    status: int | None = None
    """HTTP status, where the server sent one that says no."""
    may_pass: bool = False
    """Another attempt may go better."""
    wait_s: float = 0.0
    """How long the server asks to wait before it."""
    billed: bool = True
    """It may have cost what an answer costs: nothing says that the server did no work."""


@dataclass(slots=True, eq=False)
class User:
    """Who uses an endpoint: what it may do, and what it has cost."""

    slots: asyncio.Semaphore
    deadline_s: float
    spent: float = 0.0


class Endpoint:
    """Asks a server: retries what may pass, bounded in time, in calls at once and in cost.

    A status of 408, 409, 425, 429, 500 and above, a time-out and a broken connection are tried
    again, after the pause that the server asks for (`Retry-After`) or one that doubles; anything
    else fails at once. `max_cost` holds for what this object spends: answers by their token counts,
    and attempts that were sent and never answered by their estimate, since they may be billed.
    The cap can be passed by what estimates are short of the truth for the attempts under way.
    Several users share one object, and its cap, through `rlagents.policy.endpoints`.

    Args:
        section: where, who, how often, for how much.
        concurrency: requests at once; further ones wait. Of calls without a `User` of their own.
        deadline_s: most seconds of a call with all of its attempts and pauses, the wait for others
            not counted; by default as long as all attempts may take. Likewise.
        spent: by an earlier part of the same run.

    Raises:
        ConfigError: when the key's variable is not set, or the library is not installed.
    """

    def __init__(
        self,
        section: EndpointSection,
        *,
        concurrency: int,
        deadline_s: float | None = None,
        spent: float = 0.0,
    ) -> None:
        try:
            from rlagents.policy.completions import Completions
        except ImportError as error:
            raise ConfigError(
                f"endpoints: {error.name or 'openai'} is not installed; "
                "pip install 'rlagents[endpoint]'"
            ) from error
        key = _key(section)
        self._section = section
        self._hide: Callable[[str], str] = lambda text: text.replace(key, "***") if key else text
        self._completions = Completions(section, key, self._hide)
        self._purse = Purse(section.max_cost, spent)
        self._user = self.user(concurrency, deadline_s)
        self.calls = 0
        """Asked so far."""
        self.failures = 0
        """Of them without an answer."""
        self.retried = 0
        """Attempts after the first."""
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"endpoint-{section.name}", daemon=True
        )
        self._thread.start()

    @property
    def identity(self) -> str:
        """The server's address and the model's name: what is behind them is not known here."""
        return f"{self._section.url} {self._section.model}"

    @property
    def spent(self) -> float:
        """Cost so far."""
        return self._purse.spent

    @property
    def exhausted(self) -> bool:
        """Whether `max_cost` has refused a call."""
        return self._purse.exhausted

    def user(self, concurrency: int, deadline_s: float | None) -> User:
        """One more, with so many calls at once, each so long, as `__init__` says."""
        section = self._section
        deadline_s = deadline_s or section.timeout_s * (section.retries + 1)
        return User(asyncio.Semaphore(concurrency), deadline_s)

    def ask(self, ask: Ask, user: User | None = None) -> Reply:
        """The answer; called from any thread.

        Raises:
            JudgeError: when there is none, after all retries.
        """
        with self._lock:
            if self._closed:
                raise JudgeError(f"endpoint {self._section.name!r} is closed")
            future = asyncio.run_coroutine_threadsafe(
                self._outcome(ask, user or self._user), self._loop
            )
        try:
            outcome = future.result()
        except concurrent.futures.CancelledError:
            raise JudgeError(f"endpoint {self._section.name!r} was closed") from None
        finally:
            future.cancel()  # where this thread is interrupted
        if isinstance(outcome, JudgeError):
            raise outcome
        return outcome

    def check(self) -> None:
        """Ask the server for one token, to know before a run that it can be used.

        Raises:
            ConfigError: when it says no (wrong address, model or key), or is not there.
            JudgeError: when it fails otherwise.
        """
        try:
            self.ask(Ask(messages=(("user", "Hello"),), max_tokens=1))
        except CallFailed as error:
            status = error.status
            if status == 429 or (status or 0) >= 500:
                raise
            blamed = {401: "key_env", 403: "key_env", None: "url"}.get(status, "model or url")
            raise ConfigError(f"endpoints.{blamed}: {error}") from None

    def close(self) -> None:
        """End what is under way. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __reduce__(self) -> NoReturn:
        """Raises: TypeError: a copy would carry the key, and share neither cap nor connections."""
        raise TypeError("an Endpoint can't be pickled: make one in each process")

    # On the endpoint's thread only.

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._completions.close()

    async def _outcome(self, ask: Ask, user: User) -> Reply | JudgeError:
        """The reply, or why there is none.

        As a value: a raised error would carry the library's objects along, which know the key.
        """
        try:
            with boundary(JudgeError, "asking"):
                return await self._attempts(ask, user)
        except JudgeError as error:
            self.failures += 1
            name = self._section.name
            failed = type(error)(self._hide(f"endpoint {name!r}: {error}"))
            failed.__dict__.update(error.__dict__)
            return failed
        finally:
            self.calls += 1

    async def _attempts(self, ask: Ask, user: User) -> Reply:
        """Try until there is an answer, no attempt is left, or the deadline is there."""
        end = self._loop.time() + user.deadline_s
        last = ""
        try:
            # The wait for a slot counts: whoever asked is gone at the deadline.
            async with asyncio.timeout_at(end), user.slots:
                for number in itertools.count():
                    try:
                        return await self._paid(ask, user)
                    except CallFailed as error:
                        pause = error.wait_s or _pause_s(ask.seed, number)
                        late = self._loop.time() + pause >= end
                        if not error.may_pass or late or number == self._section.retries:
                            raise
                        last = f"; the last attempt: {error}"
                    self.retried += 1
                    await asyncio.sleep(pause)
        except TimeoutError:
            failed = CallFailed(f"no answer within {user.deadline_s:g} s{last}")
            failed.may_pass = True
            raise failed from None
        raise AssertionError  # the loop does not end by itself

    async def _paid(self, ask: Ask, user: User) -> Reply:
        """One attempt, with money set aside for it."""
        prompt = sum(_tokens(text) for _, text in ask.messages)
        estimate = self._price(prompt, ask.max_tokens)
        await self._purse.reserve(estimate)
        cost = estimate  # of an attempt that is ended from outside, too
        try:
            async with asyncio.timeout(self._section.timeout_s):
                answer = await self._completions.complete(ask)
            prompt = prompt if answer.prompt_tokens is None else answer.prompt_tokens
            sampled = answer.sampled_tokens
            sampled = _tokens(answer.text) if sampled is None else sampled
            cost = self._price(prompt, sampled)
        except TimeoutError:
            failed = CallFailed(f"no answer within {self._section.timeout_s:g} s")
            failed.may_pass = True
            raise failed from None
        except CallFailed as error:
            cost = estimate if error.billed else 0.0
            raise
        finally:
            user.spent += cost
            await self._purse.settle(estimate, cost)
        return Reply(
            text=answer.text,
            label_logprobs=answer.label_logprobs,
            prompt_tokens=prompt,
            sampled_tokens=sampled,
            cost=cost,
        )

    def _price(self, prompt: int, sampled: int) -> float:
        section = self._section
        return (prompt * section.price_in + sampled * section.price_out) / MILLION


def _tokens(text: str) -> int:
    """An estimate."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def _pause_s(seed: int, number: int) -> float:
    """Seconds after attempt `number` (from 0): 0.5, 1, 2, ... 8, times a factor from 0.5 to 1.

    The factor keeps calls that failed together from coming back together.
    """
    longest = min(FIRST_PAUSE_S * 2.0**number, LONGEST_PAUSE_S)
    return longest * np.random.default_rng((seed % 2**63, number)).uniform(0.5, 1.0)


def _key(section: EndpointSection) -> str:
    """The key from its variable; empty where the server wants none."""
    if not section.key_env:
        return ""
    key = os.environ.get(section.key_env, "").strip()
    where = f"endpoints.key_env: the variable {section.key_env!r} of endpoint {section.name!r}"
    if not key:
        raise ConfigError(f"{where} is not set: put the server's key into it")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{where} holds characters that no key has")
    return key
