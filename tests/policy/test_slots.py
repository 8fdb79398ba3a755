"""Places in the cache, by conversation."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from rlagents.errors import SamplerError
from rlagents.policy.sampler import SampleRequest, Sampling
from rlagents.policy.slots import SlotTable, Turn


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


def begun(table: SlotTable, name: str, prompt: np.ndarray) -> Turn:
    slot = table.claim(name)
    assert slot is not None
    request = SampleRequest(
        conversation=name, prompt_ids=prompt, sampling=Sampling(max_tokens=1), seed=0
    )
    return table.begin(slot, request, Future())


def test_who_waits_compares_once() -> None:
    """Four turns of one prompt: 0 + 1 + 2 + 3 comparisons, however often they ask."""
    table = SlotTable(limit=4, capacity=40, first=4, keep=True)
    first, *others = (begun(table, name, np.arange(40, dtype=np.int32)) for name in "abcd")
    assert table.lender(first) is None
    for computed in range(0, 39, 3):
        first.slot.length = computed
        for turn in others:
            found = table.lender(turn)
            assert found is not None and (found.slot, found.common) == (first.slot, 39)
    assert table.comparisons == 1 + 2 + 3


@pytest.mark.parametrize("how", ["released", "ended", "again"])
def test_who_waits_looks_again_when_the_lenders_turn_is_over(how: str) -> None:
    table = SlotTable(limit=3, capacity=40, first=3, keep=True)
    prompt = np.arange(40, dtype=np.int32)
    first, second, third = (begun(table, name, prompt) for name in "abc")
    found = table.lender(third)
    assert found is not None and found.slot is first.slot
    if how == "released":
        table.release("a")
    else:
        # It failed, so that nothing is cached.
        first.slot.turn, first.slot.length = None, 0
    if how == "again":
        begun(table, "a", prompt[::-1])
    found = table.lender(third)
    assert found is not None and (found.slot, found.common) == (second.slot, 39)
