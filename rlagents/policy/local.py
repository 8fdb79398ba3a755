"""The in-process engine: many conversations at once, each keeping its cache between its turns.

One thread owns the model. Callers put requests into an inbox and get futures.

    sample() -> inbox -> waiting -> a slot: prefill of what is new -> decode -> future

A conversation keeps its slot after a turn, so that the next turn costs its new tokens. A request
carries the whole context: the engine keeps the longest prefix that it has cached and computes the
rest. A conversation of which nothing is cached takes the keys of what its prompt begins with from
another that begins alike, once they are computed there: the members of a group share their card.
When all slots are taken, the least recently used idle conversation is dropped; its next
turn computes its context again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rlagents.errors import ConfigError, SamplerError, boundary
from rlagents.policy.cache import SlotModel
from rlagents.policy.draw import draw, perturbed
from rlagents.policy.models import copy_weights
from rlagents.policy.sampler import Finish, Sampled, SampleRequest
from rlagents.policy.slots import Slot, SlotTable, Turn

PREFILL_TOKENS = 4096
"""Tokens of one prefill pass over several conversations; bounds its memory."""


LEAST_COPIED = 32
"""Prompt tokens that are worth copying from another slot, and waiting for."""


class Codec(Protocol):
    """What the engine needs of a chat: where a turn ends, and its text."""

    end_id: int

    def decode(self, ids: Any) -> str:
        """Ids as text, special tokens included."""
        ...


@dataclass(slots=True, eq=False)
class _Load:
    weights: Mapping[str, Any]
    version: int
    future: Future[None]


_Waiting = tuple[SampleRequest, Future[Sampled]]


class LocalEngine:
    """A `Sampler` over a transformers model in this process. See the module's text.

    Args:
        model: a causal LM in eval mode; the engine owns it, and `load` copies into it.
        codec: the policy's `Chat`.
        window: most tokens a context may have, sampled ones included.
        cache_tokens: tokens kept cached; room for cache_tokens // window conversations.
        max_batch: most conversations sampled at once.
        deterministic: a turn depends on its own conversation alone, bit for bit, whatever runs
            beside it: every pass then has one row, and nothing is ever dropped or copied.
        prefill_chunk: most tokens of one conversation in a prefill pass.

    Raises:
        ConfigError: for a cache without room, or a model whose cache can't be kept.
    """

    def __init__(
        self,
        model: Any,
        codec: Codec,
        *,
        window: int,
        cache_tokens: int,
        max_batch: int,
        deterministic: bool = False,
        prefill_chunk: int = 256,
        version: int = 0,
    ) -> None:
        need = window * (max_batch if deterministic else 1)
        if cache_tokens < need:
            raise ConfigError(
                f"rollout.cache_tokens: expected at least {need} ({max_batch} x window {window}; "
                f"rollout.deterministic drops no cache), got {cache_tokens}"
                if deterministic
                else f"rollout.cache_tokens: expected at least the window {window}, "
                f"got {cache_tokens}"
            )
        self._codec = codec
        self._window = window
        limit = cache_tokens // window
        self._max_batch = min(max_batch, limit)
        self._deterministic = deterministic
        self._chunk = prefill_chunk
        self._version = version
        self._model = SlotModel(model, window=window, slots=min(limit, 8))
        self._table = SlotTable(
            limit=limit,
            capacity=self._model.capacity,
            first=self._model.slots,
            keep=deterministic,
        )
        self._active: list[Turn] = []
        self._waiting: deque[_Waiting | _Load] = deque()
        self._sampled = self._computed = self._reused = self._copied = 0
        self._busy = 0.0
        self._wake = threading.Condition()
        self._inbox: list[_Waiting | _Load | str] = []
        self._closing = False
        self._failure: SamplerError | None = None
        self._thread = threading.Thread(target=self._run, name="local-engine", daemon=True)
        self._thread.start()

    # Called from any thread.

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        """Queue a turn. The future fails with `SamplerError`; this never raises."""
        future: Future[Sampled] = Future()
        size, extra = len(request.prompt_ids), request.sampling.max_tokens
        if not 1 <= size <= self._window - extra or extra < 1:
            future.set_exception(
                SamplerError(
                    f"{request.conversation}: {size} prompt tokens and {extra} to sample do not "
                    f"fit into the window of {self._window}"
                )
            )
        else:
            self._send((request, future), future)
        return future

    def release(self, conversation: str) -> None:
        """Free the conversation's cache; a turn of it that is still sampled fails."""
        with self._wake:
            self._inbox.append(conversation)
            self._wake.notify()

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Copy new weights in, after the turns asked for before; blocks until done.

        Raises:
            SamplerError: when names or shapes do not match, or the engine has stopped.
        """
        future: Future[None] = Future()
        self._send(_Load(weights, version, future), future)
        future.result()

    def close(self) -> None:
        """Stop; pending turns fail. May be called twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def stats(self) -> dict[str, float]:
        """Totals since the start.

        Tokens sampled; prompt tokens computed, reused from the conversation's own cache, and copied
        from another's; conversations dropped to make room (`evictions`); seconds with work to do
        (`busy_s`).
        """
        return {
            "sampled_tokens": self._sampled,
            "computed_prompt_tokens": self._computed,
            "reused_prompt_tokens": self._reused,
            "copied_prompt_tokens": self._copied,
            "evictions": self._table.evictions,
            "busy_s": self._busy,
        }

    def _send(self, item: _Waiting | _Load, future: Future[Any]) -> None:
        with self._wake:
            if self._failure is None and not self._closing:
                self._inbox.append(item)
                self._wake.notify()
                return
            reason = self._failure or SamplerError("the engine is closed")
        future.set_exception(reason)

    # Called from the engine's thread only.

    def _run(self) -> None:
        """The engine's loop.

        Consumes: the inbox. Produces: results of futures. Waits for: the inbox, while there is
        nothing to do. Stops: when closed, or when a pass fails; then every future fails.
        """
        reason = SamplerError("the engine is closed")
        try:
            with boundary(SamplerError, "the engine failed"), torch.inference_mode():
                while self._receive():
                    started = time.perf_counter()
                    self._admit()
                    self._step()
                    self._busy += time.perf_counter() - started
        except SamplerError as error:
            reason = error
        finally:
            self._fail_all(reason)

    def _receive(self) -> bool:
        """Take the inbox; wait for it when idle. False when closing."""
        with self._wake:
            while not (self._inbox or self._active or self._waiting or self._closing):
                self._wake.wait()
            inbox, self._inbox = self._inbox, []
            if self._closing:
                self._inbox = inbox
                return False
        for item in inbox:
            if isinstance(item, str):
                self._release(item)
            else:
                self._waiting.append(item)
        return True

    def _fail_all(self, reason: SamplerError) -> None:
        with self._wake:
            self._failure = reason
            inbox, self._inbox = self._inbox, []
        for item in [*self._active, *self._waiting, *(i for i in inbox if not isinstance(i, str))]:
            future = item[1] if isinstance(item, tuple) else item.future
            if not future.done():
                future.set_exception(reason)
        self._active.clear()
        self._waiting.clear()

    def _release(self, conversation: str) -> None:
        gone = SamplerError(f"{conversation}: released while a turn was sampled")
        turn = self._table.release(conversation)
        if turn is not None:
            self._active.remove(turn)
            turn.future.set_exception(gone)
        for item in [w for w in self._waiting if isinstance(w, tuple)]:
            if item[0].conversation == conversation:
                self._waiting.remove(item)
                if item[1].set_running_or_notify_cancel():
                    item[1].set_exception(gone)

    def _admit(self) -> None:
        """Give slots to waiting turns, in order; a load waits for all turns before it."""
        skipped: list[_Waiting | _Load] = []
        while self._waiting and len(self._active) < self._max_batch:
            item = self._waiting.popleft()
            if isinstance(item, _Load):
                if self._active or skipped:
                    self._waiting.appendleft(item)
                    break
                self._apply(item)
                continue
            request, future = item
            try:
                slot = self._table.claim(request.conversation)
            except SamplerError as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                continue
            if slot is None:
                skipped.append(item)
            elif future.set_running_or_notify_cancel():
                self._start(slot, request, future)
        self._waiting.extendleft(reversed(skipped))

    def _start(self, slot: Slot, request: SampleRequest, future: Future[Sampled]) -> None:
        if len(self._table.slots) > self._model.slots:
            self._model.grow(len(self._table.slots))
        turn = self._table.begin(slot, request, future)
        self._active.append(turn)
        self._computed += turn.todo
        self._reused += turn.reused

    def _step(self) -> None:
        """One prefill pass for each size of what is new, then one token for everyone ready."""
        fresh = [t for t in self._active if t.todo and not self._waits(t)]
        for group, size in self._groups(fresh):
            self._pass(group, size)
        ready = [t for t in self._active if t.ids]
        for group in [[t] for t in ready] if self._deterministic else [ready] if ready else []:
            self._pass(group, 1)

    def _waits(self, turn: Turn) -> bool:
        """Take keys from a slot that begins alike; True while another turn still computes them.

        The other turn began earlier, so that the first of all never waits.
        """
        start = turn.slot.length
        if self._deterministic or start >= LEAST_COPIED or turn.todo <= LEAST_COPIED:
            return False
        lender = self._table.lender(turn)
        if lender is None or lender.common - start < LEAST_COPIED:
            return False
        common = lender.common
        if lender.slot.length < common:
            return True
        self._model.copy(lender.slot.index, turn.slot.index, start, common)
        turn.slot.length = common
        turn.reused += common - start
        self._computed -= common - start
        self._copied += common - start
        return False

    def _groups(self, turns: list[Turn]) -> list[tuple[list[Turn], int]]:
        """Turns that prefill together, and how many tokens of each at most."""
        if self._deterministic:
            return [([t], self._chunk) for t in turns]
        sizes: dict[int, list[Turn]] = {}
        for turn in turns:
            size = min(self._chunk, 1 << max(turn.todo - 1, 15).bit_length())
            sizes.setdefault(size, []).append(turn)
        groups = []
        for size, members in sizes.items():
            rows = max(PREFILL_TOKENS // size, 1)
            groups += [(members[i : i + rows], size) for i in range(0, len(members), rows)]
        return groups

    def _pass(self, turns: list[Turn], size: int) -> None:
        """Compute up to `size` tokens of each turn; sample where the prompt is complete."""
        turns = sorted(turns, key=lambda t: t.slot.index)
        slots = self._rows([t.slot.index for t in turns])
        row_of = {slot: row for row, slot in enumerate(slots)}
        rows = [row_of[t.slot.index] for t in turns]
        counts = [min(t.todo, size) or 1 for t in turns]
        starts = [t.slot.length for t in turns]
        width = max(counts)
        ids_BN = np.zeros((len(slots), width), np.int64)
        positions_BN = np.full((len(slots), width), -1, np.int64)
        if width == 1:
            ids_BN[rows, 0] = [int(t.slot.ids[n]) for t, n in zip(turns, starts, strict=True)]
            positions_BN[rows, 0] = starts
        else:
            for row, turn, start, count in zip(rows, turns, starts, counts, strict=True):
                ids_BN[row, width - count :] = turn.slot.ids[start : start + count]
                positions_BN[row, width - count :] = np.arange(start, start + count)
        for turn, start, count in zip(turns, starts, counts, strict=True):
            turn.slot.length = start + count
        logits_BV = self._model.logits(
            torch.from_numpy(ids_BN), torch.from_numpy(positions_BN), slots
        )
        done = [(r, t) for r, t in zip(rows, turns, strict=True) if not t.todo]
        if done:
            kept = logits_BV if len(done) == len(slots) else logits_BV[[r for r, _ in done]]
            self._sample([t for _, t in done], kept)

    def _rows(self, slots: list[int]) -> list[int]:
        """Slots of a pass: with idle ones between, where that spares copying the cache."""
        span = slots[-1] - slots[0] + 1
        return list(range(slots[0], slots[-1] + 1)) if span <= 2 * len(slots) else slots

    def _sample(self, turns: Sequence[Turn], logits_BV: torch.Tensor) -> None:
        settings = [t.request.sampling for t in turns]
        if any(s.noise for s in settings):
            seeds = [(t.request.seed, len(t.ids)) for t in turns]
            logits_BV = perturbed(logits_BV, [s.noise for s in settings], seeds)
        ids, logprobs = draw(
            logits_BV,
            torch.tensor([s.temperature for s in settings], dtype=torch.float64),
            torch.tensor([s.top_p for s in settings], dtype=torch.float64),
            torch.tensor([t.uniforms[len(t.ids)] for t in turns], dtype=torch.float64),
        )
        for turn, token, logprob in zip(turns, ids.tolist(), logprobs.tolist(), strict=True):
            turn.slot.ids[turn.slot.length] = token
            turn.ids.append(token)
            turn.logprobs.append(logprob)
            self._finish(turn)
        self._sampled += len(turns)

    def _finish(self, turn: Turn) -> None:
        """Resolve the turn's future if its last token ended it."""
        sampling = turn.request.sampling
        if turn.logprobs[-1] != turn.logprobs[-1]:
            self._leave(turn)
            turn.slot.length = 0
            turn.future.set_exception(SamplerError("the model's logits are not finite"))
            return
        ended = turn.ids[-1] == self._codec.end_id
        text: str | None = None
        cut = -1
        if sampling.stop:
            text = self._codec.decode(turn.ids[:-1] if ended else turn.ids)
            cut = min((i for i in map(text.find, sampling.stop) if i >= 0), default=-1)
        if ended:
            finish = Finish.END
        elif cut >= 0:
            finish = Finish.STOP
        elif len(turn.ids) >= sampling.max_tokens:
            finish = Finish.LENGTH
        else:
            return
        if text is None:
            text = self._codec.decode(turn.ids[:-1] if ended else turn.ids)
        self._leave(turn)
        turn.future.set_result(
            Sampled(
                ids=np.asarray(turn.ids, np.int32),
                logprobs=np.asarray(turn.logprobs, np.float32),
                text=text[:cut] if cut >= 0 else text,
                finish=finish,
                weights_version=self._version,
                computed_tokens=len(turn.request.prompt_ids) - turn.reused,
            )
        )

    def _leave(self, turn: Turn) -> None:
        self._active.remove(turn)
        turn.slot.turn = None

    def _apply(self, load: _Load) -> None:
        """Copy weights in place, and drop everything computed with the old ones."""
        try:
            with boundary(SamplerError, f"weights version {load.version}"):
                copy_weights(self._model.model, load.weights)
        except SamplerError as error:
            load.future.set_exception(error)
            return
        self._model.clear()
        self._table.forget()
        self._version = load.version
        load.future.set_result(None)
