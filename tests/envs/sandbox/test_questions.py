"""Sessions whose code may ask the host: what it can't break, hold up or forge."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlagents.envs.sandbox import Question, Result, Sandbox, Session
from rlagents.envs.sandbox.replies import QUESTION_LIMIT
from tests.envs.sandbox.conftest import Open

LIBRARY = """
def before(space):
    space["ask"] = ask
def after(space):
    if space.get("told"):
        ask("after")
"""
START_S = 30.0
"""Of the first turn: a busy machine may need a while to start a Python."""


@pytest.fixture
def session(box: Sandbox) -> Session:
    asking = box.repl(LIBRARY)
    assert asking.run("1", wall_s=START_S).stdout == "1\n"
    return asking


def play(
    session: Session, code: str, answer: Callable[[str], str] = str.upper, wall_s: float = 10.0
) -> tuple[Result, list[str]]:
    """Run a turn to its end; its result and all that it asked."""
    asked: list[str] = []
    said = session.begin(code, wall_s=wall_s)
    while isinstance(said, Question):
        asked.append(said.text)
        said = session.answer(answer(said.text))
    return said, asked


def works(session: Session) -> bool:
    return play(session, "ask('fine')")[0].stdout == "'FINE'\n"


def test_code_asks_and_waits_for_the_answer(session: Session) -> None:
    result, asked = play(session, "x = [ask('a'), ask('é\\n鍵')]\nx")
    assert (result.stdout, asked) == ("['A', 'É\\n鍵']\n", ["a", "é\n鍵"])
    assert session.run("x, ask('nobody')").stdout == "(['A', 'É\\n鍵'], '')\n"
    assert play(session, "told = 1")[1] == ["after"]


def test_a_session_without_a_library_has_nobody_to_ask(box: Sandbox) -> None:
    with box.repl() as session:
        assert "NameError" in session.run("ask('a')", wall_s=START_S).stderr


def test_large_questions_and_answers(session: Session) -> None:
    result, asked = play(session, "y = ask('x' * 10**6)\nlen(y)", lambda text: 3 * text)
    assert (result.stdout, len(asked[0])) == ("3000000\n", 10**6)


def test_the_time_of_an_answer_is_not_that_of_the_code(box: Sandbox, session: Session) -> None:
    def slow(text: str) -> str:
        return box.run("sleep 0.7; echo slow").stdout

    result, _ = play(session, "ask('a')", slow, wall_s=0.6)
    assert (result.stdout, result.limit) == ("'slow\\n'\n", None)


def test_what_no_text_is_gets_replaced(session: Session) -> None:
    result, asked = play(session, "ask('a\\udcff')", lambda text: "b\udcff")
    assert (result.stdout, asked) == ("'b?'\n", ["a?"])
    assert "AttributeError" in play(session, "ask(5)")[0].stderr
    assert works(session)


def test_asking_for_ever_ends_at_the_limit_and_the_state_stays(session: Session) -> None:
    for _ in range(3):
        result, asked = play(session, "n = 0\nwhile True: ask('a'); n += 1", wall_s=0.3)
        assert (result.limit, result.ended) == ("wall_s", False)
        # The last one may have been asked when time was up.
        assert abs(int(session.run("n").stdout) - len(asked)) <= 1
    assert works(session)


def test_threads_get_their_own_answers(session: Session) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    got = list(pool.map(ask, map(str, range(40))))
got == [f"<{n}>" for n in range(40)]
"""
    result, asked = play(session, code, lambda text: f"<{text}>")
    assert result.stdout == "True\n" and sorted(asked, key=int) == [str(n) for n in range(40)]


def test_a_copy_by_fork_neither_asks_nor_takes_turns(session: Session) -> None:
    code = """
import os
child = os.fork()
if child == 0:
    try: ask('copy')
    except RuntimeError: pass
else:
    os.waitpid(child, 0)
"""
    result, asked = play(session, code)
    assert (result.exit_status, asked) == (0, [])
    assert works(session) and works(session)


def test_a_thread_that_outlives_its_turn_is_not_heard(session: Session) -> None:
    code = """
import threading
go, heard = threading.Event(), []
def late():
    go.wait()
    try: ask('late')
    except RuntimeError: heard.append('nobody')
thread = threading.Thread(target=late)
thread.start()
del_after = 1
"""
    play(session, code)
    assert play(session, "go.set(); thread.join(); heard", str.upper)[1] in ([], ["late"])
    assert works(session)


@pytest.mark.parametrize(
    "lie",
    [
        "b'?99999999\\n'",  # more than may be asked
        "b'?-1\\nx'",
        "b'?x\\n'",
        "b'?\\n'",
        "b'nonsense\\n'",
        "b'9' * 99",
        "b'\\xff\\xfe\\n'",
    ],
)
def test_nonsense_ends_the_session_and_no_more(box: Sandbox, session: Session, lie: str) -> None:
    result, asked = play(session, f"import os, sys; os.write(int(sys.argv[2]), {lie}); ask('a')")
    assert result.ended and asked == [] and not session.alive
    assert box.repl(LIBRARY).run("1", wall_s=START_S).stdout == "1\n"


def test_a_question_without_an_end_waits_no_longer_than_the_turn(session: Session) -> None:
    code = "import os, sys\nos.write(int(sys.argv[2]), b'?100\\nabc')\nwhile True: pass"
    result, _ = play(session, code, wall_s=0.3)
    assert (result.limit, result.ended) == ("wall_s", True)


def test_a_flood_of_questions_between_turns_is_no_answer(session: Session) -> None:
    code = """
import os, sys, threading
def flood():
    while True: os.write(int(sys.argv[2]), b'?5\\nflood' * 1000)
threading.Thread(target=flood, daemon=True).start()
"""
    play(session, code)
    if session.alive:
        result, _ = play(session, "1", wall_s=1.0)
        assert result.wall_s < 10


def test_too_large_a_question_ends_the_session(session: Session) -> None:
    result, asked = play(session, f"ask('x' * {QUESTION_LIMIT + 1})")
    assert result.ended and asked == []


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        ("ask('a')\nheld = b'x' * 2**28", "memory_mb"),
        ("ask('a')\nwhile True: print('x' * 1000)", "output_max_mb"),
        ("ask('a')\nwhile True: pass", "cpu_s"),
    ],
)
def test_other_limits_hold_after_a_question(opened: Open, code: str, limit: str) -> None:
    session = opened(memory_mb=64, output_max_mb=1, cpu_s=0.5).repl(LIBRARY)
    session.run("1", wall_s=START_S)
    result, asked = play(session, code, wall_s=30)
    assert (result.limit, result.ended, asked) == (limit, True, ["a"])


def test_turns_and_answers_must_alternate(session: Session) -> None:
    with pytest.raises(ValueError, match="no question waits"):
        session.answer("a")
    assert isinstance(session.begin("ask('a')"), Question)
    with pytest.raises(ValueError, match="its question waits"):
        session.begin("1")
    session.close()
    session.close()
    with pytest.raises(ValueError, match="has ended"):
        session.answer("a")


def test_a_sandbox_can_be_closed_while_a_question_waits(opened: Open) -> None:
    box = opened()
    session = box.repl(LIBRARY)
    assert isinstance(session.begin("ask('a')", wall_s=START_S), Question)
    box.close()
    assert not session.alive


def test_sets_are_printed_in_the_same_order_every_time(box: Sandbox) -> None:
    shown = set()
    for _ in range(3):
        with box.repl(LIBRARY) as session:
            shown.add(session.run("set('abcdefghijklmnop')", wall_s=START_S).stdout)
    assert len(shown) == 1
