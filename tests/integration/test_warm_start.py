"""A warm start from files that others wrote, and what the run folder says of it."""

from __future__ import annotations

import json

import pytest

from tests.integration import small


def chat_line(turns: int) -> dict:
    messages = []
    for _ in range(turns):
        call = {"function": {"name": "copy", "arguments": '{"of": "x"}'}, "id": "1"}
        messages += [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "right"},
            {"role": "assistant", "content": "y"},
        ]
    return {"messages": messages, "tools": [{"type": "function", "function": {"name": "copy"}}]}


@pytest.fixture
def transcripts(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(chat_line(turns)) + "\n" for turns in (1, 6)))
    return str(path)


def test_chats_with_tool_calls_are_split_and_trained(tmp_path, capsys, transcripts):
    config = small.write(
        tmp_path,
        warm_start={"episodes": 0, "path": transcripts, "epochs": 2},
        context={"window": 256},
        policy={"max_tokens": 80},
        train={"iterations": 0},
        eval={"episodes": 0},
    )
    run = tmp_path / "run"
    out = small.done(capsys, "train", config, f"run.dir={run}")
    said = json.loads((run / "warm_start.json").read_text())
    split, training = said["demonstrations"], said["training"]
    # A call in plain words has 70 letters, `y` one, and each turn an end.
    call = len('<tool_call>\n{"name": "copy", "arguments": {"of": "x"}}\n</tool_call>')
    assert split["trained_tokens"] == 7 * (call + 1 + 2)
    assert (split["demonstrations"], split["turns"], split["split"]) == (2, 14, 1)
    assert split["contexts"] > 3 and split["dropped"] == {}
    assert training["trained_tokens"] == 2 * split["trained_tokens"]
    assert "demonstrations: 2 with 14 turns, 1 split, " in out
    assert not (run / "demonstrations.jsonl").exists()


def test_an_odd_line_is_named_or_counted(tmp_path, capsys, transcripts):
    with open(transcripts, "a") as file:
        file.write('{"messages": [{"role": "assistant", "content": "first"}]}\n')
    changes = {"episodes": 0, "path": transcripts, "epochs": 1}
    few = {
        "context": {"window": 256},
        "policy": {"max_tokens": 80},
        "train": {"iterations": 0},
        "eval": {"episodes": 0},
    }
    config = small.write(tmp_path, warm_start=changes, **few)
    message = small.refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'a'}")
    assert message.startswith(f"warm_start.path: {transcripts}, line 3: an assistant message must")
    config = small.write(tmp_path, warm_start={**changes, "misfits": "drop"}, **few)
    out = small.done(capsys, "train", config, f"run.dir={tmp_path / 'b'}")
    assert "dropped: 1 lines that are no demonstrations" in out
    said = json.loads((tmp_path / "b" / "warm_start.json").read_text())["demonstrations"]
    assert (said["demonstrations"], said["odd_lines"]) == (2, 1)


@pytest.mark.parametrize("setting", ["train_overlap=true", "long=keep_tail"])
def test_what_only_a_split_demonstration_can_have_is_refused_before_the_expert_plays(
    tmp_path, capsys, setting
):
    config = small.write(
        tmp_path,
        env={"id": "rlagents/KeyRooms-v0"},
        context={"window": 512, "strategy": "notes", "overlap": 16},
        warm_start={"expert": "scribe"},
    )
    run = tmp_path / "run"
    override = f"warm_start.{setting}"
    message = small.refused(capsys, 2, "train", config, override, f"run.dir={run}")
    assert message.startswith(f"{override.partition('=')[0]}: expected ")
    assert "the expert plays through the context window" in message
    assert not run.exists()


def test_a_turn_that_does_not_fit_is_named_or_dropped(tmp_path, capsys, transcripts):
    changes = {"episodes": 0, "path": transcripts, "epochs": 1, "batch_segments": 1}
    few = {"context": {"window": 256}, "train": {"iterations": 0}, "eval": {"episodes": 0}}
    config = small.write(tmp_path, warm_start=changes, **few)
    message = small.refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'a'}")
    assert message.startswith(f"warm_start.misfits: turn 0 of {transcripts}, line 1 can't be shown")
    changes["misfits"] = "drop"
    config = small.write(tmp_path, warm_start=changes, **few)
    message = small.refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'b'}")
    assert message == "warm_start.misfits: `drop` left nothing to train on"
