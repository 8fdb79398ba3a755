from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rlagents.errors import ConfigError, JudgeError
from rlagents.policy.asking import Ask, Reply
from rlagents.scoring.cache import CachedBackend

ASK = Ask(messages=(("user", "who is better?"),), max_tokens=8, labels=("A", "B"))
ROOT = Path(__file__).resolve().parents[2]


class Counting:
    """Answers with a number that grows, and counts; `fail` makes it fail."""

    def __init__(self, identity: str = "m", *, text: str = "answer") -> None:
        self.identity = identity
        self.text = text
        self.fail = False
        self.closed = 0
        self.asked: list[Ask] = []
        self._lock = threading.Lock()

    def ask(self, ask: Ask) -> Reply:
        with self._lock:
            self.asked.append(ask)
            number = len(self.asked)
        if self.fail:
            raise JudgeError("no answer")
        return Reply(
            text=f"{self.text} {number}",
            label_logprobs={"A": -0.25, "B": -1.5},
            prompt_tokens=7,
            sampled_tokens=2,
            cost=0.5,
        )

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "answers.sqlite"


def test_the_same_question_is_asked_once(path: Path) -> None:
    backend = Counting()
    cached = CachedBackend(backend, path)
    first, second = cached.ask(ASK), cached.ask(ASK)
    assert (first.text, first.cost, first.cached) == ("answer 1", 0.5, False)
    assert second == replace(first, cost=0.0, cached=True)
    assert (len(backend.asked), cached.hits, cached.misses, cached.faults) == (1, 1, 1, 0)
    assert cached.identity == "m"
    cached.close()
    cached.close()
    assert backend.closed == 2
    again = Counting()
    assert CachedBackend(again, path).ask(ASK) == second  # after a restart
    assert again.asked == []


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, messages=(("user", "who is worse?"),)),
        replace(ASK, messages=(("system", "who is better?"),)),
        replace(ASK, messages=(("user", "who is"), ("user", "better?"))),
        replace(ASK, max_tokens=9),
        replace(ASK, temperature=0.5),
        replace(ASK, seed=1),
        replace(ASK, labels=("A", "B", "C")),
        replace(ASK, labels=("AB",)),
        replace(ASK, messages=(("user", "\ud800"),)),
    ],
)
def test_another_question_has_another_answer(path: Path, other: Ask) -> None:
    backend = Counting()
    cached = CachedBackend(backend, path)
    cached.ask(ASK)
    assert cached.ask(other).text == "answer 2"
    assert cached.ask(ASK).text == "answer 1"


def test_another_model_has_another_answer(path: Path) -> None:
    CachedBackend(Counting("one"), path).ask(ASK)
    other = Counting("two")
    assert not CachedBackend(other, path).ask(ASK).cached


def test_failures_are_not_kept(path: Path) -> None:
    backend = Counting()
    cached = CachedBackend(backend, path)
    backend.fail = True
    with pytest.raises(JudgeError):
        cached.ask(ASK)
    backend.fail = False
    assert cached.ask(ASK).text == "answer 2"


def test_an_answer_while_the_weights_changed_is_not_kept(path: Path) -> None:
    class Changing(Counting):
        def ask(self, ask: Ask) -> Reply:
            reply = super().ask(ask)
            self.identity = f"version {len(self.asked)}"
            return reply

    cached = CachedBackend(Changing("version 0"), path)
    assert cached.ask(ASK).text == "answer 1"
    assert not CachedBackend(Counting("version 0"), path).ask(ASK).cached
    assert not CachedBackend(Counting("version 1"), path).ask(ASK).cached


def test_many_threads(path: Path) -> None:
    backend = Counting()
    cached = CachedBackend(backend, path)
    asks = [replace(ASK, seed=i % 20) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(cached.ask, asks))
    assert cached.hits + cached.misses == 200 and cached.faults == 0
    assert len(backend.asked) == cached.misses
    texts = {ask.seed: cached.ask(ask).text for ask in asks}
    for ask, reply in zip(asks, replies, strict=True):
        assert reply.text == texts[ask.seed] or not reply.cached


PROCESS = """
import sys
from dataclasses import replace
from rlagents.scoring.cache import CachedBackend
from tests.scoring.test_cache import ASK, Counting
cached = CachedBackend(Counting(text=sys.argv[2]), sys.argv[1], patience_s=60)
for i in range(40):
    cached.ask(replace(ASK, seed=i))
print(cached.hits + cached.misses, cached.faults)
"""


def test_several_processes_make_and_fill_one_file(path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    assert [process.communicate(timeout=60)[0] for process in started] == ["40 0\n"] * 3
    after = CachedBackend(Counting(), path)
    assert all(after.ask(replace(ASK, seed=i)).cached for i in range(40))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to look like something" * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as file:
        file.execute("CREATE TABLE replies (key BLOB, reply BLOB)")
    file.close()
    for path in (text, foreign, tmp_path, text / "inside"):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(ConfigError, match=rf"scoring\.judge\.cache: can't use '{path}'"):
            CachedBackend(Counting(), path)
        assert not path.is_file() or path.read_bytes() == before


def test_a_damaged_file_is_refused(path: Path) -> None:
    cached = CachedBackend(Counting(text="x" * 3000), path)
    for i in range(20):
        cached.ask(replace(ASK, seed=i))
    cached.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"scoring\.judge\.cache"):
        CachedBackend(Counting(), path)
    path.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    with pytest.raises(ConfigError, match=r"scoring\.judge\.cache"):
        CachedBackend(Counting(), path)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"not JSON",
        b"[]",
        b'{"text": 5, "label_logprobs": {}, "prompt_tokens": 1, "sampled_tokens": 1}',
        b'{"text": "a", "label_logprobs": {"A": 2.0}, "prompt_tokens": 1, "sampled_tokens": 1}',
        b'{"text": "a", "label_logprobs": {}, "prompt_tokens": -1, "sampled_tokens": 1}',
        b'{"text": "a", "label_logprobs": {}, "prompt_tokens": 1, "sampled_tokens": 1, "x": 1}',
        b'{"text": "a"}',
        b"\xff\xfe",
        7,
        None,
    ],
)
def test_nonsense_in_the_file_is_asked_again_and_replaced(path: Path, value: object) -> None:
    CachedBackend(Counting(), path).ask(ASK)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE replies SET reply = ?", (value,))
    file.close()
    cached = CachedBackend(Counting(text="new"), path)
    assert cached.ask(ASK).text == "new 1"
    assert cached.ask(ASK) == replace(cached.ask(ASK), text="new 1", cached=True)
    assert (cached.faults, cached.hits) == (1, 2)


def test_a_locked_file_costs_an_answer_nothing(path: Path) -> None:
    backend = Counting()
    cached = CachedBackend(backend, path, patience_s=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert [cached.ask(ASK).text, cached.ask(ASK).text] == ["answer 1", "answer 2"]
    assert cached.faults == 4  # two that were not found, two that were not kept
    other.execute("ROLLBACK")
    other.close()
    assert cached.ask(ASK).text == "answer 3"
    assert cached.ask(ASK).cached


FULL = """
import resource, sys
from dataclasses import replace
from rlagents.scoring.cache import CachedBackend
from tests.scoring.test_cache import ASK, Counting
cached = CachedBackend(Counting(text="x" * 5000), sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for i in range(30):
    assert cached.ask(replace(ASK, seed=i)).text.startswith("xxx")
print(cached.faults > 5, cached.misses, cached.ask(ASK).cached)
"""


def test_a_full_disk_costs_an_answer_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("True 30 True\n", "")
    assert CachedBackend(Counting(), path).ask(ASK).cached  # what was kept is whole


def test_what_the_backend_has_spent_is_told_where_it_counts(path: Path) -> None:
    backend = Counting()
    cached = CachedBackend(backend, path)
    assert cached.spent is None
    backend.spent = 1.5  # type: ignore[attr-defined]
    assert cached.spent == 1.5
