"""Which conversation has which place in the cache, and the turns being sampled there."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from rlagents.errors import SamplerError
from rlagents.policy.sampler import Sampled, SampleRequest
from rlagents.types import IntArray


@dataclass(slots=True, eq=False, kw_only=True)
class Slot:
    """A place in the cache for one conversation."""

    index: int
    ids: IntArray
    """[capacity] the tokens whose keys are cached, up to `length`."""
    length: int = 0
    conversation: str | None = None
    used: int = 0
    """When it was last given a turn, as a count of turns."""
    turn: Turn | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Turn:
    """A request while it is sampled."""

    request: SampleRequest
    future: Future[Sampled]
    slot: Slot
    uniforms: list[float]
    """One number in [0, 1) for each token that may be sampled."""
    reused: int
    """Prompt tokens whose keys were cached, here or in the slot they were copied from."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    lender: Lender | None = None
    """The last answer of `SlotTable.lender`."""

    @property
    def todo(self) -> int:
        """Prompt tokens still to compute; 0 once sampling has begun."""
        return 0 if self.ids else len(self.request.prompt_ids) - self.slot.length


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lender:
    """A slot that begins as a turn's prompt does."""

    slot: Slot
    common: int
    """Tokens that are the same."""
    used: int
    """The slot's own turn at that time (`Slot.used`): while it lasts, so do these tokens."""


class SlotTable:
    """Slots by conversation; the least recently used idle one is given away when all are taken.

    Args:
        limit: most slots there may ever be.
        capacity: tokens a slot holds.
        first: slots at the start; their number doubles up to the limit when needed.
        keep: never give a conversation's slot to another.
    """

    def __init__(self, *, limit: int, capacity: int, first: int, keep: bool) -> None:
        self._limit = limit
        self._capacity = capacity
        self._keep = keep
        self._by_name: dict[str, Slot] = {}
        self._clock = 0
        self.evictions = 0
        """Conversations dropped to make room."""
        self.comparisons = 0
        """Prompts compared with a slot, to find lenders."""
        self.slots: list[Slot] = []
        self._add(min(first, limit))

    def claim(self, conversation: str) -> Slot | None:
        """The conversation's slot, or a free one, or that of an idle conversation.

        None while the conversation has a turn, or every slot has one.

        Raises:
            SamplerError: when there is no free slot and `keep` is set.
        """
        slot = self._by_name.get(conversation)
        if slot is not None:
            return None if slot.turn is not None else slot
        slot = next((s for s in self.slots if s.conversation is None), None)
        if slot is None and len(self.slots) < self._limit:
            slot = self._add(min(len(self.slots), self._limit - len(self.slots)))
        if slot is None:
            if self._keep:
                raise SamplerError(
                    f"{len(self.slots)} conversations are open, and rollout.deterministic drops "
                    "none: release those that ended or raise rollout.cache_tokens"
                )
            idle = [s for s in self.slots if s.turn is None]
            if not idle:
                return None
            slot = min(idle, key=lambda s: s.used)
            del self._by_name[str(slot.conversation)]
            self.evictions += 1
        slot.conversation, slot.length = conversation, 0
        self._by_name[conversation] = slot
        return slot

    def begin(self, slot: Slot, request: SampleRequest, future: Future[Sampled]) -> Turn:
        """Start a turn in the conversation's slot, keeping the longest prefix that is cached."""
        prompt = np.asarray(request.prompt_ids, np.int32)
        known = min(slot.length, len(prompt) - 1)  # one token at least must give the first logits
        differ = np.flatnonzero(slot.ids[:known] != prompt[:known])
        slot.length = int(differ[0]) if len(differ) else known
        slot.ids[slot.length : len(prompt)] = prompt[slot.length :]
        rng = np.random.Generator(np.random.Philox(request.seed))
        turn = Turn(
            request=request,
            future=future,
            slot=slot,
            uniforms=rng.random(request.sampling.max_tokens).tolist(),
            reused=slot.length,
        )
        self._clock += 1
        slot.turn, slot.used = turn, self._clock
        return turn

    def lender(self, turn: Turn) -> Lender | None:
        """The other slot that begins most like the turn's prompt, and how many tokens of it.

        A slot whose turn began earlier counts with its whole prompt: what is not computed of that
        yet (see `Slot.length`) will be. None where nothing is alike.

        Asked again, the answer is the same while that slot's turn lasts: who waits for a prompt of
        many passes compares tokens once.
        """
        known = turn.lender
        if known is None or known.slot.turn is None or known.slot.used != known.used:
            turn.lender = self._most_alike(turn)
        return turn.lender

    def _most_alike(self, turn: Turn) -> Lender | None:
        prompt = np.asarray(turn.request.prompt_ids, np.int32)[:-1]
        best = None
        for slot in self.slots:
            known = slot.length
            if slot.turn is not None and slot.used < turn.slot.used:
                known = max(known, len(slot.turn.request.prompt_ids))
            size = min(known, len(prompt))
            if slot is turn.slot or not size or slot.ids[0] != prompt[0]:
                continue
            self.comparisons += 1
            differ = np.flatnonzero(slot.ids[:size] != prompt[:size])
            common = int(differ[0]) if len(differ) else size
            if best is None or (common, slot.length) > (best.common, best.slot.length):
                best = Lender(slot=slot, common=common, used=slot.used)
        return best

    def release(self, conversation: str) -> Turn | None:
        """Free the conversation's slot; returns the turn that was sampled there."""
        slot = self._by_name.pop(conversation, None)
        if slot is None:
            return None
        turn, slot.turn = slot.turn, None
        slot.conversation, slot.length = None, 0
        return turn

    def forget(self) -> None:
        """Nothing is cached any more, so no conversation needs its slot: none may have a turn."""
        self._by_name.clear()
        for slot in self.slots:
            slot.conversation, slot.length = None, 0

    def _add(self, count: int) -> Slot:
        start = len(self.slots)
        self.slots += [
            Slot(index=i, ids=np.zeros(self._capacity, np.int32))
            for i in range(start, start + count)
        ]
        return self.slots[start]
