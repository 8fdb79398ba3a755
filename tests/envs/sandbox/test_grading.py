"""Inputs go in, JSON comes out, and the comparison happens outside."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.envs.sandbox.grading import ANSWERS, Answer, call_function, same


@pytest.fixture
def config(tier: str) -> dict[str, Any]:
    return {"tier": tier, "wall_s": 20.0}


def _values(answers: list[Answer]) -> list[Any]:
    return [(a.outcome, a.value) for a in answers]


def test_a_function_is_called_on_each_input_in_order(config: dict[str, Any]) -> None:
    source = "import math\ndef f(a, b=1): return {'sum': a + b, 'root': math.sqrt(a)}"
    answers = call_function(config, source, "f", [[4, 2], (9,), [16, 10**40]])
    assert [a.value["sum"] for a in answers] == [6, 10, 16 + 10**40]
    assert [a.value["root"] for a in answers] == [2.0, 3.0, 4.0]
    assert all(a.answered and a.problem == "" and a.run.ok for a in answers)
    assert call_function(config, source, "f", []) == []


def test_the_ways_to_give_no_answer(config: dict[str, Any]) -> None:
    source = (
        "import os\n"
        "def f(what):\n"
        "    print('hello', what)\n"
        "    if what == 'raise': raise ValueError('a\\x1b[2J\\nb')\n"
        "    if what == 'set': return {1}\n"
        "    if what == 'nan': return float('nan')\n"
        "    if what == 'deep':\n"
        "        x = []\n"
        "        for _ in range(200): x = [x]\n"
        "        return x\n"
        "    if what == 'exit': os._exit(0)\n"
        "    return what\n"
    )
    inputs = ["fine", "raise", "set", "nan", "deep", "fine", "exit", "fine"]
    answers = call_function(config, source, "f", [[i] for i in inputs])
    assert [a.outcome for a in answers] == [
        "answered",
        "raised",
        "not_json",
        "not_json",
        "not_json",
        "answered",
        "died",
        "died",
    ]
    assert answers[1].problem == "ValueError: a\\x1b[2J b"
    assert answers[6].problem == "exit status 0 without an answer"
    assert "hello raise" in answers[0].run.stdout and "ValueError" in answers[0].run.stderr
    assert answers[0].run.exit_status == 0


@pytest.mark.parametrize(
    "source, problem",
    [
        ("def f(x) return x", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def g(x): pass", "no attribute 'f'"),
        ("f = 3", "not callable"),
        ("import sys; sys.exit(0)", "SystemExit"),
        (b"\xff\xfe", "SyntaxError"),
        ("import numpy", "No module named 'numpy'"),
    ],
)
def test_a_program_that_has_no_such_function(source: str | bytes, problem: str) -> None:
    for answer in call_function({"wall_s": 20}, source, "f", [[1], [2]]):
        assert answer.outcome == "raised" and problem in answer.problem


def test_a_limit_ends_it_and_keeps_what_was_answered(config: dict[str, Any]) -> None:
    source = "def f(x):\n while x: pass\n return 'done'"
    answers = call_function(config, source, "f", [[0], [1], [0]], wall_s=0.5)
    assert _values(answers) == [("answered", "done"), ("limit", None), ("limit", None)]
    assert answers[1].problem == "ended by the limit wall_s without an answer"


def test_each_call_may_have_a_sandbox_of_its_own(config: dict[str, Any]) -> None:
    source = (
        "import os\nseen = []\n"
        "def f(x):\n"
        "    seen.append(x)\n"
        "    open(f'file{x}', 'w')\n"
        "    if x == 1: os._exit(0)\n"
        "    return [seen, sum(n.startswith('file') for n in os.listdir())]\n"
    )
    together = call_function(config, source, "f", [[0], [2]])
    assert _values(together) == [("answered", [[0], 1]), ("answered", [[0, 2], 2])]
    alone = call_function(config, source, "f", [[0], [1], [2]], each=True)
    assert _values(alone) == [("answered", [[0], 1]), ("died", None), ("answered", [[2], 1])]


def test_copied_artifacts_lie_beside_the_program(config: dict[str, Any]) -> None:
    source = "def f(): return open('data/x.txt').read()"
    [answer] = call_function(config, source, "f", [[]], files={"data/x.txt": b"hello"})
    assert answer.equals("hello")
    with pytest.raises(ValueError, match="name of the answers"):
        call_function(config, source, "f", [[]], files={ANSWERS: b""})


def test_answers_are_bounded_together(config: dict[str, Any]) -> None:
    source = "def f(n): return 'x' * n"
    answers = call_function(config, source, "f", [[10], [5000]], answer_bytes=1000)
    assert [a.outcome for a in answers] == ["not_json", "not_json"]
    assert "more than 2,000" in answers[0].problem


@pytest.mark.parametrize(
    "line",
    [
        b'{"value": 42, "score": 1}',
        b'{"score": 1}',
        b'{"raised": 3}',
        b"[42]",
        b"42",
        b'{"value": 1, "value": 42}',
        b'{"value": NaN}',
        b"",
        b"\xff",
    ],
)
def test_lines_that_the_harness_would_not_write(line: bytes) -> None:
    source = (
        "import os\ndef f(line):\n"
        f"    open({ANSWERS!r}, 'wb').write(line.encode('latin-1') + b'\\n')\n    os._exit(0)\n"
    )
    [answer] = call_function({"wall_s": 20}, source, "f", [[line.decode("latin-1")]])
    assert answer.outcome == "not_json" and answer.value is None


def test_inputs_are_json() -> None:
    for wrong in (math.nan, {1}, object()):
        with pytest.raises((ValueError, TypeError)):
            call_function(None, "def f(x): pass", "f", [[wrong]])


def test_numpy_values_come_as_lists() -> None:
    source = "import numpy as np\ndef f(n): return {'a': np.arange(n), 'b': np.int64(n)}"
    [answer] = call_function({"packages": ["numpy"], "wall_s": 60}, source, "f", [[3]])
    assert answer.value == {"a": [0, 1, 2], "b": 3}


@pytest.mark.parametrize(
    "got, expected",
    [
        (1, True),
        (True, 1),
        (0, False),
        (None, False),
        ("1", 1),
        ([1], {"0": 1}),
        ([1, 2], [1]),
        ([1], [1, 2]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        (1.1, 1.0),
        ([[True]], [[1]]),
        ([], None),
        ("", None),
        (10**400, 1.0),
    ],
)
def test_values_that_are_not_the_same(got: Any, expected: Any) -> None:
    assert not same(got, expected)
    assert not same(got, expected, tolerance=1e-6)


def test_values_that_are_the_same() -> None:
    assert same({"a": [1, 2.0, None, "x", True]}, {"a": (1.0, 2, None, "x", True)})
    assert same(0.1 + 0.2, 0.3, tolerance=1e-9) and not same(0.1 + 0.2, 0.3)
    assert same([1e-12], [0], tolerance=1e-9)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=2), below),
    max_leaves=8,
)


@given(_JSON, _JSON)
def test_same_is_json_equality(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)
