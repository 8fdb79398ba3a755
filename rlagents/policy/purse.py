"""What questions to an endpoint may cost."""

from __future__ import annotations

import asyncio

from rlagents.errors import JudgeError


class Purse:
    """What may be spent, with room set aside for attempts that are under way.

    An attempt that does not fit waits while others are under way, which mostly cost less than was
    set aside for them; it fails where none is. Used from one event loop.
    """

    def __init__(self, cap: float, spent: float) -> None:
        """`cap` 0 is none."""
        self._cap = cap
        self._reserved = 0.0
        self._holders = 0
        self._changed = asyncio.Condition()
        self.spent = spent
        self.exhausted = False
        """The cap has refused an attempt."""

    async def reserve(self, estimate: float) -> None:
        """Set the estimate aside.

        Raises:
            JudgeError: when the cap has no room for it.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(estimate) or not self._holders)
            if not self._fits(estimate):
                self.exhausted = True
                raise JudgeError(
                    f"the cap max_cost {self._cap:g} is spent: {self.spent:.6g} so far, and this "
                    f"call may cost {estimate:.6g}"
                )
            self._reserved += estimate
            self._holders += 1

    async def settle(self, estimate: float, cost: float) -> None:
        """Give back what was set aside, and spend what it came to."""
        async with self._changed:
            self._holders -= 1
            self._reserved = self._reserved - estimate if self._holders else 0.0
            self.spent += cost
            self._changed.notify_all()

    def _fits(self, estimate: float) -> bool:
        return not self._cap or self.spent + self._reserved + estimate <= self._cap
