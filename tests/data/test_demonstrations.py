from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.data.demonstrations import Demonstration, read, write, writer
from rlagents.errors import ConfigError
from rlagents.policy.chat import Chat
from rlagents.types import Task
from tests.policy.test_tool_calls import CALLING
from tests.policy.toys import bpe_tokenizer

TASK = Task(env_id="rlagents/Lock-v0", seed=3, kwargs={"horizon": 8}, task_id="lock/3")
USER = {"role": "user", "content": "hi"}
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
        ({"messages": [USER, {"role": "assistant"}]}, "line 3: the action of turn 0 is empty"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            r"line 3: .*missing required field `function`.*\$\.messages\[1\]\.tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "line 3: a content part of type 'image_url': only text can be imitated",
        ),
        ({"messages": [USER], "tools": [{"function": {}}]}, "line 3: tools: expected a function"),
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


def test_odd_lines_are_passed_over_on_demand(tmp_path):
    path = lines(
        tmp_path,
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        LINE,
        {"messages": [{"role": "assistant", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        LINE,
    )
    odd = []
    assert [d.turns for d in read(path, odd=odd.append)] == [(("look", "north"),)] * 2
    assert [str(error).split(", ")[1].split(":")[0] for error in odd] == [
        "line 1",
        "line 3",
        "line 4",
    ]
    nothing = lines(tmp_path, {"messages": [USER]})
    with pytest.raises(ConfigError, match="holds no demonstrations: .*line 1: no turns"):
        list(read(nothing, odd=odd.append))


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


def call(number, name, arguments):
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


CALLS = {
    "tools": [{"type": "function", "function": {"name": "open", "parameters": {}}}],
    "messages": [
        {"role": "system", "content": "You are a thief."},
        {"role": "user", "content": "Two doors.", "name": "Ada"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Both.",
            "tool_calls": [call(1, "open", '{"door": 1}'), call(2, "look", "")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "locked"},
        {"role": "tool", "name": "eyes", "content": [{"type": "text", "text": "a key"}]},
        {"role": "assistant", "content": "So I need the key."},
        {"role": "assistant", "content": "", "function_call": {"name": "take", "arguments": {}}},
        {"role": "function", "name": "take", "content": "taken"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Good."},
        {"role": "user", "content": "Bye."},
    ],
}
OPEN = '<tool_call>\n{"name": "open", "arguments": {"door": 1}}\n</tool_call>'
LOOK = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
TAKE = '<tool_call>\n{"name": "take", "arguments": {}}\n</tool_call>'


def test_a_transcript_with_tools(tmp_path):
    """Nulls, results by id and by name, answers in a row, the older form of a call."""
    (demonstration,) = read(lines(tmp_path, CALLS))
    tools = 'Tools:\n{"name": "open", "parameters": {}}'
    assert demonstration.turns == (
        (
            f"You are a thief.\n\n{tools}\n\nAda: Two doors.",
            f"<think>\nBoth.\n</think>\n\n{OPEN}\n{LOOK}",
        ),
        ("[open] locked\n\n[eyes] a key", f"So I need the key.\n{TAKE}"),
        ("taken", "Done."),
    )
    assert demonstration.final_observation == "Good.\n\nBye."


def test_calls_in_the_words_of_the_policys_template(tmp_path):
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = CALLING
    first, *_ = next(read(lines(tmp_path, CALLS), Chat(tokenizer))).turns
    assert first == (
        "You are a thief.\n\n# Tools\n"
        '{"type": "function", "function": {"name": "open", "parameters": {}}}\n\n'
        "Ada: Two doors.",
        '[Both.]\n@open({"door": 1})\n@look({})',
    )


def test_arguments_that_can_not_be_read_stay_text(tmp_path):
    message = {"role": "assistant", "tool_calls": [call(1, "open", "{door")]}
    (demonstration,) = read(lines(tmp_path, {"messages": [USER, message]}))
    assert '"arguments": "{door"' in demonstration.turns[0][1]


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path):
    path = tmp_path / "demos.jsonl"
    with pytest.raises(RuntimeError), writer(str(path)) as record:
        record(Demonstration(task=TASK, turns=(("a", "b"),)))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_format_on_disk_is_as_documented(tmp_path):
    path = str(tmp_path / "demos.jsonl")
    write(path, [Demonstration(task=TASK, turns=(("a", "b"),), score=0.5)])
    with open(path) as file:
        record = json.loads(file.read())
    assert record["task"]["kwargs"] == {"horizon": 8}
    assert (record["turns"], record["score"]) == ([["a", "b"]], 0.5)
