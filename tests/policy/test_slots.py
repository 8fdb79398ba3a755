"""Places in the cache, by conversation."""

from __future__ import annotations

import pytest

from rlagents.errors import SamplerError
from rlagents.policy.slots import SlotTable


def test_after_new_weights_nobody_keeps_a_place() -> None:
    table = SlotTable(limit=2, capacity=4, first=2, keep=True)
    for name in ("a", "b"):
        assert table.claim(name) is not None
    with pytest.raises(SamplerError, match="2 conversations are open"):
        table.claim("c")
    table.forget()
    # Paused conversations lost their cache with the old weights; others may have their places.
    assert {slot.index for name in ("c", "d") if (slot := table.claim(name))} == {0, 1}
    assert table.release("a") is None
    with pytest.raises(SamplerError):
        table.claim("a")
    table.release("c")
    assert table.claim("a") is not None
