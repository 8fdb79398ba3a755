"""The program of Python sessions by itself: which turn an interrupt counts for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rlagents.envs.sandbox import drivers


class Driven:
    """The driver without a sandbox."""

    def __init__(self) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self.popen = subprocess.Popen(
            [sys.executable, "-I", "-u", "-c", drivers.REPL, str(requests), str(replies)],
            pass_fds=(requests, replies),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(requests)
        os.close(replies)
        assert self.turn("1") == 0  # its handlers are in place

    def send(self, data: bytes) -> None:
        os.write(self._requests, data)

    def status(self) -> int:
        return int(os.read(self._replies, 99))

    def turn(self, code: str, left_s: float = 0.0) -> int:
        self.send(framed(code, left_s))
        return self.status()

    def interrupt(self) -> None:
        self.popen.send_signal(signal.SIGINT)

    def close(self) -> str:
        """End it; all that it printed."""
        os.close(self._requests)
        printed, _ = self.popen.communicate(timeout=60)
        os.close(self._replies)
        return printed


def framed(code: str, left_s: float = 0.0) -> bytes:
    return len(code).to_bytes(4, "big") + int(left_s * 1e6).to_bytes(8, "big") + code.encode()


@pytest.fixture
def driver() -> Iterator[Driven]:
    made = Driven()
    yield made
    if made.popen.poll() is None:
        made.close()


def test_an_interrupt_before_a_turn_has_begun_counts_for_it(driver: Driven) -> None:
    driver.interrupt()
    assert driver.turn("x = 1") == 1
    assert driver.turn("x = 2 if 'x' in globals() else 3") == 0
    assert driver.turn("assert x == 3") == 0
    assert driver.close() == "1\nKeyboardInterrupt\n"


@pytest.mark.parametrize("sent", [1, 4, 9, 12, 14])
def test_an_interrupt_while_a_request_is_read_tears_nothing_apart(
    driver: Driven, sent: int
) -> None:
    request = framed("x = 1")
    driver.send(request[:sent])
    driver.interrupt()
    driver.send(request[sent:])
    assert driver.status() == 1
    assert driver.turn("assert 'x' not in globals()") == 0


def test_an_interrupt_that_came_too_late_is_gone_when_it_has_settled(driver: Driven) -> None:
    driver.interrupt()
    driver.send(drivers.SETTLE)
    assert driver.status() == 0
    assert driver.turn("1") == 0


def test_time_that_is_up_is_noticed_without_an_interrupt(driver: Driven) -> None:
    for _ in range(3):
        assert driver.turn("def f():\n    while True: pass\nf()", left_s=0.02) == 1
        assert driver.turn("1") == 0
    assert (
        driver.turn("import time\nt = time.monotonic() + 0.1\nwhile time.monotonic() < t: 1") == 0
    )
    printed = driver.close()
    assert printed.count("KeyboardInterrupt") == 3 and "expire" not in printed


def test_time_of_processors_that_is_up_before_that_of_the_clock_is_no_reason(
    driver: Driven,
) -> None:
    """With threads it passes faster: the timer's signal comes early."""
    code = "import signal\nfor _ in range(99): signal.raise_signal(signal.SIGPROF)"
    assert driver.turn(code, left_s=600.0) == 0


def test_code_keeps_its_own_handler_from_turn_to_turn(driver: Driven) -> None:
    code = "import signal\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert driver.turn(code) == 0
    assert driver.turn("signal.signal(signal.SIGINT, lambda *_: print('mine'))") == 0
    assert driver.turn("signal.raise_signal(signal.SIGINT)") == 0
    assert driver.close().endswith("mine\n")
