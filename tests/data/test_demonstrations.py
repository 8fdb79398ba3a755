from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.data.demonstrations import Demonstration, read, write
from rlagents.errors import ConfigError
from rlagents.types import Task

TASK = Task(env_id="rlagents/Lock-v0", seed=3, kwargs={"horizon": 8}, task_id="lock/3")
LINE = {"task": {"env_id": "X-v0", "seed": 1}, "turns": [["look", "north"]]}

texts = st.text()
demonstrations = st.builds(
    Demonstration,
    task=st.builds(
        Task,
        env_id=texts,
        seed=st.integers(0, 2**63 - 1),
        kwargs=st.dictionaries(texts, st.integers(0, 9) | texts | st.lists(st.booleans())),
        human_minutes=st.none() | st.floats(0, 1e6),
    ),
    turns=st.lists(st.tuples(texts, st.text(min_size=1)), min_size=1).map(tuple),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    final_observation=texts,
)


@settings(max_examples=40, deadline=None)
@given(many=st.lists(demonstrations, min_size=1, max_size=4))
def test_what_is_written_is_read(many, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("demos") / "new" / "demos.jsonl")
    assert write(path, many) == len(many)
    assert list(read(path)) == many


def lines(tmp_path, *values):
    path = tmp_path / "demos.jsonl"
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return str(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{nonsense", "line 3: .*malformed"),
        ("[1]", "line 3: Expected `object`"),
        ({**LINE, "reward": 1}, "line 3: .*unknown field `reward`"),
        ({**LINE, "turns": [["look"]]}, r"line 3: .*\$\.turns\[0\]"),
        ({**LINE, "turns": [["look", 5]]}, r"line 3: Expected `str`, got `int` .*\$\.turns"),
        ({"turns": LINE["turns"]}, "line 3: .*missing required field `task`"),
        ({**LINE, "turns": []}, "line 3: no turns"),
        ({**LINE, "turns": [["a", "b"], ["c", ""]]}, "line 3: the action of turn 1 is empty"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "line 3: an assistant message"),
        ({"messages": [{"role": "judge", "content": "hi"}]}, "line 3: unknown role 'judge'"),
        ({"messages": [{"role": "user", "content": 3}]}, r"line 3: Expected .*\$\.messages"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "line 3: no turns"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, message):
    path = lines(tmp_path, LINE, "", bad)
    reader = read(path)
    # Streaming: the good line arrives before the bad one is looked at.
    assert next(reader).turns == (("look", "north"),)
    with pytest.raises(ConfigError, match=message) as caught:
        list(reader)
    assert path in str(caught.value)


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "demos.jsonl"
    path.write_bytes(b'{"messages": [{"role": "user", "content": "\xff"}]}\n')
    with pytest.raises(ConfigError, match="line 1: "):
        list(read(str(path)))


def test_a_missing_file_and_an_empty_one(tmp_path):
    with pytest.raises(ConfigError, match=r"warm_start\.path: .*absent.jsonl: no such file"):
        list(read(str(tmp_path / "absent.jsonl")))
    with pytest.raises(ConfigError, match="is a directory"):
        list(read(str(tmp_path)))
    with pytest.raises(ConfigError, match="holds no demonstrations"):
        list(read(lines(tmp_path, "")))


def test_a_file_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't write demonstrations"):
        write(str(tmp_path / "file" / "demos.jsonl"), [])


def test_chat_transcripts(tmp_path):
    messages = [
        {"role": "system", "content": "You are a thief."},
        {"role": "user", "content": "A door."},
        {"role": "assistant", "content": "pick the lock"},
        {"role": "tool", "content": [{"type": "text", "text": "click"}], "tool_call_id": "1"},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "enter"},
        {"role": "user", "content": "Alarm."},
    ]
    path = lines(tmp_path, {"messages": messages, "id": 7})
    (demonstration,) = read(path)
    assert demonstration.turns == (
        ("You are a thief.\n\nA door.", "pick the lock"),
        ("click\n\nAnd now?", "enter"),
    )
    assert demonstration.final_observation == "Alarm."
    assert demonstration.task.task_id == f"{path}, line 1"


def test_the_format_on_disk_is_as_documented(tmp_path):
    path = str(tmp_path / "demos.jsonl")
    write(path, [Demonstration(task=TASK, turns=(("a", "b"),), score=0.5)])
    with open(path) as file:
        record = json.loads(file.read())
    assert record["task"]["kwargs"] == {"horizon": 8}
    assert (record["turns"], record["score"]) == ([["a", "b"]], 0.5)
