"""Signals that a library takes are taken back."""

import os
import signal

import pytest

from rlagents.interrupt import Interrupt, Interrupted


def test_a_handler_that_somebody_else_put_is_replaced_and_ours_goes_at_the_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # as Ray does when it starts
        interrupt.arm()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            interrupt.check()
    assert signal.getsignal(signal.SIGTERM) is before
