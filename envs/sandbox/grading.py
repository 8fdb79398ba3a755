"""Run what an agent wrote on inputs, and bring its answers out to where they are compared.

Only inputs go in and only JSON comes out, in a fresh sandbox for each call. What is expected never
enters, so nothing inside can look it up; and what comes out are plain values of ours, so no object
of the agent takes part in a comparison. The answers come in a file, never on standard output.

Whatever the program does to the harness inside (its `json`, its clock, `os._exit`, the answers
file) only changes its own answers, which it could have chosen anyway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlagents.envs.sandbox import reading
from rlagents.envs.sandbox.box import Sandbox
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.files import UnsafeFile
from rlagents.envs.sandbox.result import Result, refused
from rlagents.visible import escape

ANSWERS = "answers.jsonl"
"""The file in the workspace that the harness writes, a line for each input."""
ANSWER_BYTES = 2**20
"""Of one answer, unless told otherwise."""

Outcome = Literal["answered", "raised", "not_json", "died", "limit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a function gave for one input. All of it is the agent's word, but for `run`."""

    outcome: Outcome
    """`answered`; `raised` an exception (also while its module was loaded, or when it has no such
    function); `not_json`: it gave something that JSON can't say, or what stands in the file can't
    be read safely; `died` before it answered, whatever its exit status; `limit`: a limit of the
    sandbox ended it before."""
    value: Any = None
    """Of plain types only: None, bool, int, finite float, str, list, dict with str keys. A tuple
    comes as a list, an array of numpy as lists."""
    problem: str = ""
    """Why there is no value, in one line; empty when there is one."""
    run: Result
    """The process that it ran in: figures measured from outside, and what it printed."""

    @property
    def answered(self) -> bool:
        """Whether there is a value (which may be None)."""
        return self.outcome == "answered"

    def equals(self, expected: Any, *, tolerance: float = 0.0) -> bool:
        """Whether it was answered with this value; see `same`."""
        return self.answered and same(self.value, expected, tolerance=tolerance)


def call_function(
    config: SandboxConfig | Mapping[str, Any] | None,
    source: bytes | str,
    function: str,
    inputs: Sequence[Sequence[Any]],
    *,
    files: Mapping[str, bytes] | None = None,
    each: bool = False,
    wall_s: float | None = None,
    answer_bytes: int = ANSWER_BYTES,
) -> list[Answer]:
    """Load a Python program and call one of its functions on each input, in fresh sandboxes.

    Example:
        answers = call_function({"wall_s": 5}, "def add(a, b): return a + b", "add", [(1, 2)])
        reward = float(answers[0].equals(3))

    Args:
        source: the program; it runs as a module, so that `__name__` is not `__main__`.
        function: name of the function in it.
        inputs: for each call its positional arguments, of JSON's types.
        files: of the agent, put into the workspace beforehand (path -> content). No module of them
            is found by an import unless the program itself asks for it.
        each: a sandbox for each input, so that no call knows of another. Otherwise all calls share
            a process: quick, but one that ends it leaves the rest without an answer, and a later
            call can remember earlier inputs.
        wall_s: seconds for all calls of one process, instead of the configured.
        answer_bytes: of an answer, at most.

    Returns:
        An answer for each input, in their order.

    Raises:
        ValueError: an input is not JSON, or `files` has the name of the answers.
        SandboxBroken: the sandbox failed; it says nothing about the program.
    """
    if ANSWERS in (files or {}):
        raise ValueError(f"files: {ANSWERS!r} is the name of the answers")
    config = SandboxConfig.of(config)
    text = source.decode(errors="replace") if isinstance(source, bytes) else source
    batches = [[args] for args in inputs] if each else [list(inputs)]
    answers: list[Answer] = []
    for batch in batches:
        if not batch:
            continue
        job = {"source": text, "function": function, "inputs": [list(args) for args in batch]}
        stdin = json.dumps(job, allow_nan=False).encode()
        with Sandbox(config) as box:
            try:
                for path, data in (files or {}).items():
                    box.write(path, data)
            except UnsafeFile as error:
                run = refused(str(error), box.tier)
                answers += [Answer(outcome="died", problem=str(error), run=run)] * len(batch)
                continue
            run = box.run(["python3", "-I", "-u", "-c", _HARNESS], stdin=stdin, wall_s=wall_s)
            answers += _collect(box, run, len(batch), answer_bytes)
    return answers


def same(got: Any, expected: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two values of JSON's types are equal; True is not 1, but 1 is 1.0.

    Args:
        got: parsed by `reading`, so that it is no deeper than that allows.
        expected: may hold tuples for lists.
        tolerance: between numbers, as in `math.isclose`: relative, and absolute near zero.
    """
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(same(g, e, tolerance=tolerance) for g, e in zip(got, expected, strict=True))
        )
    if isinstance(expected, Mapping):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(same(got[k], expected[k], tolerance=tolerance) for k in got)
        )
    if isinstance(expected, (bool, str)) or expected is None:
        return type(got) is type(expected) and got == expected
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        return False
    if got == expected or tolerance <= 0:
        return got == expected
    try:
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an int that no float can hold
        return False


def _collect(box: Sandbox, run: Result, count: int, each: int) -> list[Answer]:
    """An answer for each of `count` inputs, as the file has them, of at most `each` bytes."""
    try:
        lines = box.read(ANSWERS, limit=each * count).split(b"\n", count)[:-1]
    except UnsafeFile as error:
        return [Answer(outcome="not_json", problem=str(error), run=run)] * count
    except OSError:
        lines = []
    answers = [_parse(line, run, each) for line in lines[:count]]
    ended = f"{run.describe()} without an answer"
    rest = Answer(outcome="limit" if run.limit else "died", problem=ended, run=run)
    return answers + [rest] * (count - len(answers))


def _parse(line: bytes, run: Result, limit: int) -> Answer:
    try:
        said = reading.json_value(line, limit=limit)
    except UnsafeFile as error:
        return Answer(outcome="not_json", problem=str(error), run=run)
    match said:
        case {"value": value, **rest} if not rest:
            return Answer(outcome="answered", value=value, run=run)
        case {"raised": str(what), **rest} if not rest:
            return Answer(outcome="raised", problem=_line(what), run=run)
        case {"not_json": str(what), **rest} if not rest:
            return Answer(outcome="not_json", problem=_line(what), run=run)
    return Answer(outcome="not_json", problem="not a line of the harness", run=run)


def _line(text: str) -> str:
    return " ".join(escape(text).split())[:500]


_HARNESS = f"""
import json, os, sys, traceback, types

def words(error):
    try:
        text = str(error)
    except BaseException:
        text = "an error that can't be shown"
    return f"{{type(error).__name__}}: {{text}}"[:2000]

def serve(job):
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    answers = os.open({ANSWERS!r}, flags, 0o644)

    def answer(**line):
        data = json.dumps(line, allow_nan=False, default=lambda v: v.tolist()).encode() + b"\\n"
        while data:
            data = data[os.write(answers, data):]

    module = types.ModuleType("submission")
    sys.modules["submission"] = module
    failure = function = None
    try:
        exec(compile(job["source"], "<submission>", "exec"), module.__dict__)
        function = getattr(module, job["function"])
    except BaseException as error:
        traceback.print_exc()
        failure = words(error)
    for arguments in job["inputs"]:
        if failure is not None:
            answer(raised=failure)
            continue
        try:
            value = function(*arguments)
        except BaseException as error:
            traceback.print_exc()
            answer(raised=words(error))
            continue
        try:
            answer(value=value)
        except BaseException as error:
            answer(not_json=words(error))
    os._exit(0)

serve(json.loads(sys.stdin.buffer.read()))
"""
"""It takes its program and inputs on standard input, before any code of the agent runs."""
