from __future__ import annotations

import resource

import numpy as np
import pytest

from rlagents.envs.arena.token_games.duel import Illegal, Proposal
from rlagents.envs.arena.token_games.game import DuelGame, TokenGames
from rlagents.envs.arena.token_games.programs import ProgramReferee, key_of, plain_value
from rlagents.envs.sandbox import choice
from rlagents.errors import ConfigError

_PROBLEM = choice.cached_problem(choice.chosen("auto"))
sandboxed = pytest.mark.skipif(_PROBLEM is not None, reason=f"no sandbox: {_PROBLEM}")
QUICK = {"cpu_s": 0.5, "wall_s": 3}


def program(body: str, head: str = "") -> str:
    return f"{head}\ndef mystery(x):\n    {body}".lstrip()


def proposal(source: str, witness: str = "1") -> Proposal:
    """Past `read`: what the sandbox must hold by itself."""
    return Proposal(statement=source, key=source, witness=witness)


HOSTILE = {
    "infinite loop": program("while True: pass"),
    "infinite loop when loaded": program("return True", head="while True: pass"),
    "a power without end": program("return 10**10**10 > 0"),
    "a power that the compiler folds": program("return True", head="y = 10**10**10"),
    "recursion": program("return mystery(x)"),
    "a huge list": program("return len([0] * 10**10) > 0"),
    "prints for ever": program("while True: print('x' * 1000)"),
    "exits": program("raise SystemExit"),
    "raises when compared": program("return T() == x", head="class T:\n  def __eq__(s, o): 1/0"),
    "equal to everything": program("return T()", head="class T:\n  def __eq__(s, o): return True"),
    "true when asked": program("return T()", head="class T:\n  def __bool__(s): return True"),
    "one is not True": program("return 1"),
    "a list that holds itself": program("y = []; y.append(y); return y"),
    "opens a file": program("return open('/etc/shadow').read() != ''"),
    "leaves a process": program("import os; return os.fork() == 0 and x == 2"),
    "ends its process": program("import os; os._exit(0)"),
    "kills its process": program("import os; os.kill(os.getpid(), 9)"),
    "breaks json": program("import json; json.dumps = None; return False"),
    "no function": "mystery = 3",
    "writes without end": program("open('f','w').write('x' * 10**10); return True"),
}


@sandboxed
@pytest.mark.parametrize("name", HOSTILE)
def test_the_sandbox_holds_whatever_a_program_does(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    referee = ProgramReferee(QUICK)
    assert not referee.holds(proposal(HOSTILE[name]))
    assert referee.holds(proposal(program("return x == 1")))
    # ru_maxrss counts KiB: 64 MiB of room for what tests load meanwhile.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (program("import os; return True"), "imports 'os'"),
        (program("from os import path; return True"), "imports 'os'"),
        (program("from . import os; return True"), "imports None"),
        (program("return ().__class__ != 1"), "uses '__class__'"),
        (program("return __import__('os') != 1"), "uses '__import__'"),
        (program("return open('f') != 1"), "uses 'open'"),
        (program("return eval('1') == 1"), "uses 'eval'"),
        ("def other(x): return True", "expected one function mystery"),
        ("def mystery(): return True", "expected one function mystery"),
        ("async def mystery(x): return True", "expected one function mystery"),
        (program("return True") + "\n" + program("return False"), "expected one function mystery"),
        ("def mystery(x) return", "no Python program"),
        ("(" * 1000, "no Python program"),
        ("-" * 1900 + "1", "expected one function mystery|no Python program"),
        ("x = " + "9" * 1900, "expected one function mystery"),
        ("\0", "characters that can't be seen"),
        (program("return '\u202e' == x"), "characters that can't be seen"),
        (program("return '```' == x"), "characters that can't be seen, or a fence"),
        ("#" * 2001, "more than 2,000 characters"),
    ],
)
def test_what_is_no_puzzle(source: str, said: str) -> None:
    with pytest.raises(Illegal, match=said):
        key_of(source)


def test_equal_programs_have_equal_keys() -> None:
    one = "import math\ndef mystery(x):\n    'Doc.'\n    y = x * 2  # twice\n    return y == 4"
    other = "import math\ndef mystery(value: int) -> bool:\n  z = (value*2)\n  return z==4"
    assert key_of(one) == key_of(other)
    assert key_of(one) != key_of(one.replace("4", "6"))
    assert key_of(one) != key_of(one.replace("math", "re"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("37", "37"),
        (' "a b" ', '"a b"'),
        ("'it''s'", '"its"'),
        ("(1, 2.5)", "[1, 2.5]"),
        ("True", "true"),
        ("null", "null"),
        ("```json\n[1]\n```", "[1]"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert plain_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "1+2",
            "{1, 2}",
            "b'a'",
            "1j",
            "NaN",
            "1e999",
            "9" * 1001,
            "[" * 900,
            "[lambda: 0]",
        ),
        *("-" * 900 + "1", "__import__('os')", "9**9**9", "\ud800", "'\\ud800'", "\0"),
    ],
)
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(Illegal):
        plain_value(text)


@sandboxed
def test_outcomes_of_answers() -> None:
    referee = ProgramReferee(QUICK)
    read = referee.read("```python\ndef mystery(x):\n    return x * x == 1369\n```\nwitness: 37")
    assert read.statement == "def mystery(x):\n    return x * x == 1369"
    assert referee.holds(read)
    said = {"37": "solved", "-37": "solved", "36": "unsolved", "'a'": "unsolved", "?": "unsolved"}
    assert {answer: referee.judge(read, answer) for answer in said} == said


@sandboxed
def test_a_puzzle_that_changes_its_mind_is_the_proposers_penalty() -> None:
    referee = ProgramReferee(QUICK)
    # Its witness held once, and no longer when the solver failed.
    assert referee.judge(proposal(program("return False")), "2") == "penalty"
    # Strings have another hash in each process: 1 in 4 passes both checks, all 8 in 65,536 tries.
    unsteady = [proposal(program(f"return hash('{i}') % 2 == 0")) for i in range(8)]
    assert not all(referee.holds(one) for one in unsteady)


@sandboxed
def test_an_episode_goes_on_after_every_hostile_proposal() -> None:
    names = ["infinite loop", "a power without end", "recursion", "exits", "opens a file"]
    texts = [f"{HOSTILE[name]}\nwitness: 1" for name in names]
    texts += [program("import os; return True") + "\nwitness: 1", "witness: 1", "", "x" * 10_000]
    env = TokenGames(
        mode="python", rounds=2 * len(texts) + 2, opponent="random", sandbox=QUICK, history=2
    )
    observation, _ = env.reset(seed=0)
    solve = env.scripted["oracle"](env, np.random.default_rng(0))
    left, over = iter([*texts, f"{program('return x == 4')}\nwitness: 4"]), False
    while not over:
        assert observation in env.observation_space
        action = next(left) if observation.endswith("propose") else solve(observation)
        observation, _, over, _, _ = env.step(action)
    game = env.game
    assert isinstance(game, DuelGame)
    own = [r.outcome for r in game.duel.records if r.proposer == 0]
    assert own == ["penalty"] * 4 + ["invalid"] * 5 + ["unsolved"]
    env.close()


@sandboxed
def test_scripted_players_in_python() -> None:
    env = TokenGames(mode="python", rounds=4, rules=True, opponent="solver4", seat=0)
    observation, _ = env.reset(seed=1)
    assert "def mystery" in observation
    act, total, over = env.scripted["solver64"](env, np.random.default_rng(0)), 0.0, False
    while not over:
        observation, reward, over, _, _ = env.step(act(observation))
        total += reward
    assert total == pytest.approx(0.5)


def test_a_wrong_setting_of_the_sandbox_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.wall_m"):
        TokenGames(mode="python", sandbox={"wall_m": 1})
