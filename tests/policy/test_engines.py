"""A few engines at once, made when asked for."""

from __future__ import annotations

import threading

import pytest

from rlagents.policy.engines import Engines


class Engine:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Maker:
    def __init__(self) -> None:
        self.made: list[Engine] = []

    def __call__(self, name: str) -> Engine:
        if name == "broken":
            raise OSError("no such weights")
        self.made.append(Engine(name))
        return self.made[-1]


def test_an_engine_is_made_once_and_kept() -> None:
    make = Maker()
    engines = Engines(make, 2)
    assert engines.take("a") is engines.take("a")
    assert [e.name for e in make.made] == ["a"]


def test_beyond_the_limit_the_one_used_longest_ago_goes() -> None:
    make = Maker()
    engines = Engines(make, 2)
    for name in ("a", "b", "a"):
        engines.take(name)
        engines.give_back(name)
    engines.take("c")
    a, b, c = make.made
    assert (a.closed, b.closed, c.closed) == (0, 1, 0)


def test_one_in_use_is_never_closed_and_room_is_made_later() -> None:
    make = Maker()
    engines = Engines(make, 1)
    first = engines.take("a")
    second = engines.take("b")
    assert (first.closed, second.closed) == (0, 0)
    engines.give_back("a")
    assert (first.closed, second.closed) == (1, 0)


def test_a_failure_reaches_all_who_wait_and_is_tried_again() -> None:
    engines = Engines(Maker(), 1)
    for _ in range(2):
        with pytest.raises(OSError, match="no such weights"):
            engines.take("broken")
    assert engines.take("a").name == "a"


def test_many_threads_share_one() -> None:
    make = Maker()
    engines = Engines(make, 1)
    start, found = threading.Barrier(8), []

    def use() -> None:
        start.wait()
        found.append(engines.take("a"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(make.made) == 1
    assert set(found) == {make.made[0]}


def test_closing_closes_all_and_ends_it() -> None:
    make = Maker()
    engines = Engines(make, 2)
    engines.take("a")
    engines.close()
    engines.close()
    assert make.made[0].closed == 1
    with pytest.raises(RuntimeError, match="closed"):
        engines.take("a")


def test_what_is_made_while_all_are_closed_is_closed_too() -> None:
    made: list[Engine] = []

    def make(name: str) -> Engine:
        engines.close()
        made.append(Engine(name))
        return made[-1]

    engines = Engines(make, 1)
    with pytest.raises(RuntimeError, match="closed"):
        engines.take("a")
    assert made[0].closed == 1
