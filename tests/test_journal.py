"""The journal: exact round trips, any damage, crashes, one writer, withdrawals."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rlagents.errors import JournalError
from rlagents.journal import Journal, JournalReader, codec, frames, read
from rlagents.types import EpisodeKey, ErrorRecord, StopReason, Task, Trajectory, Turn


def key(member: int, iteration: int = 0, stream: str = "train") -> EpisodeKey:
    return EpisodeKey(stream=stream, iteration=iteration, group=0, member=member)


def turn(observation: str = "a door", action: str = "open", **fields: Any) -> Turn:
    defaults: dict[str, Any] = {
        "observation_ids": np.arange(5, dtype=np.int32),
        "action_ids": np.array([7, 2**31 - 1], np.int32),
        "behaviour_logprobs": np.array([-0.1, -np.inf], np.float32),
    }
    return Turn(observation=observation, action=action, **{**defaults, **fields})


def trajectory(name: EpisodeKey, *turns: Turn, **fields: Any) -> Trajectory:
    defaults: dict[str, Any] = {
        "task": Task(env_id="rlagents/Lock-v0", seed=3),
        "final_observation": "the end",
        "stop": StopReason.TERMINATED,
    }
    return Trajectory(key=name, turns=turns or (turn(),), **{**defaults, **fields})


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def assert_same(a: Any, b: Any) -> None:
    """Equal in every field, with types; NaN equals NaN; arrays bit for bit."""
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif dataclasses.is_dataclass(a):
        assert type(a) is type(b)
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert type(b) is dict and list(a) == list(b)
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert type(a) is type(b) and repr(a) == repr(b)


FULL = trajectory(
    EpisodeKey(stream="eval/rl", iteration=40, group=5, member=7),
    turn("", "", reward=-0.1, context=1, temperature=0.7, weights_version=9, sampled_s=1.5),
    turn("kö \x00\x1b[31m\ud800", "\udcff", observation_ids=np.zeros(0, np.int32)),
    task=Task(
        env_id="module:Id-v0",
        seed=2**62,
        kwargs={"sizes": (1, (2, [3.5])), "huge": -(2**90), "odd": "\udc80", "raw": b"\xff"},
        options={"array": np.arange(3.0), "none": None, "yes": True},
        task_id="t",
        human_minutes=0.5,
        family="f",
    ),
    stop=StopReason.WORKER_LOST,
    error=ErrorRecord(boundary="worker", kind="WorkerLost", message="gone \ud900"),
    metrics={"env/score": float("nan"), "seconds": 1e300},
    final_observation="line\u2028end",
)


def test_every_field_comes_back_exactly(tmp_path: Path) -> None:
    notes = {"score": 0.25, "parts": {"a": 1.0}, "shape": (2, 3), "disposition": "trained"}
    with Journal(tmp_path) as journal:
        assert journal.append(FULL, notes)
        assert journal.append(trajectory(key(1)))
    first, second = read(tmp_path)
    assert first.key == FULL.key
    assert_same(FULL, first.trajectory)
    assert_same(notes, first.notes)
    assert_same(trajectory(key(1)), second.trajectory)
    assert second.notes == {}


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]))
    | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
texts = st.text(st.characters(exclude_categories=[]))


@given(texts, texts, st.dictionaries(st.text(), plain), st.floats(), st.lists(st.floats(width=32)))
def test_any_text_and_plain_data_come_back_exactly(
    observation: str, action: str, kwargs: dict[str, Any], reward: float, logprobs: list[float]
) -> None:
    before = trajectory(
        key(0),
        turn(
            observation,
            action,
            reward=reward,
            action_ids=np.arange(len(logprobs), dtype=np.int32),
            behaviour_logprobs=np.array(logprobs, np.float32),
        ),
        task=Task(env_id="x", seed=0, kwargs=kwargs),
        final_observation=action,
    )
    assert_same(before, codec.decode_trajectory(codec.encode_trajectory(before)))


def test_a_second_record_under_a_key_is_dropped(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.append(trajectory(key(0), final_observation="first"))
        size = parts_of(tmp_path)[0].stat().st_size
        assert not journal.append(trajectory(key(0), final_observation="second"))
        assert parts_of(tmp_path)[0].stat().st_size == size
    with Journal(tmp_path) as journal:
        assert key(0) in journal and len(journal) == 1
        assert not journal.append(trajectory(key(0), final_observation="third"))
    assert [r.trajectory.final_observation for r in read(tmp_path)] == ["first"]


def test_notes_add_up_and_later_ones_win(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(trajectory(key(0)), {"score": 1.0})
        journal.annotate(key(0), {"disposition": "trained", "score": 2.0})
        journal.annotate(key(1), {"disposition": "failed"})  # of no record: kept, shown nowhere
    reader = JournalReader(tmp_path)
    assert reader.notes(key(0)) == {"score": 2.0, "disposition": "trained"}
    assert [dict(record.notes) for record in reader] == [{"score": 2.0, "disposition": "trained"}]
    assert reader.notes(key(1)) == {"disposition": "failed"} and reader.notes(key(2)) == {}


def test_files_rotate_and_the_order_stays(tmp_path: Path) -> None:
    with Journal(tmp_path, max_file_bytes=2000) as journal:
        for member in range(30):
            journal.append(trajectory(key(member)))
    assert len(parts_of(tmp_path)) > 2
    assert max(p.stat().st_size for p in parts_of(tmp_path)) < 3000
    with Journal(tmp_path, max_file_bytes=2000) as journal:
        journal.append(trajectory(key(99)))
    assert [record.key.member for record in read(tmp_path)] == [*range(30), 99]


def test_a_rolled_back_iteration_is_recorded_anew(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for iteration in range(4):
            for member in range(2):
                journal.append(trajectory(key(member, iteration), final_observation="old"))
        journal.annotate(key(0, 3), {"score": 9.0})
        journal.append(trajectory(key(0, 9, "eval/rl")))
    # The run resumes from the checkpoint before iteration 2.
    with Journal(tmp_path) as journal:
        assert journal.rollback(lambda k: k.stream != "train" or k.iteration < 2) == 4
        assert journal.rollback(lambda k: True) == 0
        for member in range(2):
            assert not journal.append(trajectory(key(member, 1), final_observation="new"))
            assert journal.append(trajectory(key(member, 2), final_observation="new"))
    for reader in (JournalReader(tmp_path), JournalReader(tmp_path, use_index=False)):
        found = [(r.key.iteration, r.trajectory.final_observation) for r in reader]
        old, new = [(0, "old")] * 2 + [(1, "old")] * 2, [(2, "new")] * 2
        assert found == [*old, (9, "the end"), *new]
        assert reader.notes(key(0, 3)) == {} and key(0, 3) not in reader


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of 10 and more records, with notes, closed properly."""
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder, max_file_bytes=6000) as journal:
        for member in range(20):
            journal.append(trajectory(key(member), final_observation=f"end {member}"))
    assert len(parts_of(folder)) == 2
    return folder


def copy(sound: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(sound, folder)


def assert_sound_records_only(reader: JournalReader) -> None:
    """Whatever is read is what was written, and nothing is read twice."""
    members = [record.key.member for record in reader]
    assert len(members) == len(set(members))
    for record in reader:
        assert record.trajectory.final_observation == f"end {record.key.member}"


def test_every_one_of_200_flipped_bits_is_noticed(sound: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for trial in range(200):
        folder = copy(sound, tmp_path / "copy")
        victims = [*parts_of(folder), folder / "index"]
        victim = victims[trial % 3]
        data = bytearray(victim.read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(data)

        by_index = JournalReader(folder)
        assert_sound_records_only(by_index)
        if victim.name == "index":
            assert len(by_index) == 20 and "index is not used" in by_index.damage.messages[0]
            continue
        reader = JournalReader(folder, use_index=False)
        assert_sound_records_only(reader)
        assert len(reader) >= 19
        damage = reader.damage
        assert damage.records + (damage.torn_bytes > 0) == 1
        assert victim.name in damage.messages[0]


def test_a_damaged_record_costs_only_itself_and_can_be_recorded_again(
    sound: Path, tmp_path: Path
) -> None:
    folder = copy(sound, tmp_path / "copy")
    name, at = JournalReader(folder).catalogue.records[key(4)]
    data = bytearray((folder / name).read_bytes())
    data[at + 20 : at + 60] = bytes(40)
    (folder / name).write_bytes(data)

    reader = JournalReader(folder)
    assert key(4) in reader  # as the index says
    assert reader.get(key(4)) is None  # and the file doesn't
    assert key(4) not in reader and len(list(reader)) == 19
    assert reader.damage.records == 1 and f"damaged bytes at {at}" in reader.damage.messages[0]

    with Journal(folder) as journal:
        assert journal.messages == reader.damage.messages
        assert journal.append(trajectory(key(4), final_observation="end 4"))
    assert len(list(read(folder))) == 20


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_torn_tail_is_cut_off_and_writing_goes_on(sound: Path, tmp_path: Path, left: int) -> None:
    folder = copy(sound, tmp_path / "copy")
    (folder / "index").unlink()  # as after a crash
    last = parts_of(folder)[-1]
    _, at = JournalReader(folder).catalogue.records[key(19)]
    last.write_bytes(last.read_bytes()[: at + left])

    reader = JournalReader(folder)
    assert len(reader) == 19
    assert (reader.damage.records, reader.damage.torn_bytes) == (0, left)
    with Journal(folder) as journal:
        assert last.stat().st_size == at
        assert [f"{left} bytes of an unfinished record" in m for m in journal.messages] == (
            [True] if left else []
        )
        assert journal.append(trajectory(key(19), final_observation="end 19"))
    reader.refresh()
    assert len(list(reader)) == 20 and reader.damage.messages == ()


def test_shortened_deleted_and_swapped_files_are_noticed(sound: Path, tmp_path: Path) -> None:
    folder = copy(sound, tmp_path / "shortened")
    first, second = parts_of(folder)
    _, at = JournalReader(folder).catalogue.records[key(5)]
    first.write_bytes(first.read_bytes()[:at])  # whole records are gone: no torn one tells
    for reader in (JournalReader(folder), JournalReader(folder, use_index=False)):
        assert key(4) in reader and key(5) not in reader and key(19) in reader
        assert any(f"{first.name} lost" in message for message in reader.damage.messages)

    for lost in (0, 1):
        folder = copy(sound, tmp_path / "deleted")
        gone = parts_of(folder)[lost]
        gone.unlink()
        reader = JournalReader(folder)
        assert 0 < len(list(reader)) < 20 and reader.damage.records >= 1
        assert any(f"{gone.name} is missing" in message for message in reader.damage.messages)

    folder = copy(sound, tmp_path / "swapped")
    first, second = parts_of(folder)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    reader = JournalReader(folder, use_index=False)
    assert len(reader) == 0 and reader.damage.messages
    assert list(JournalReader(folder)) == []


@pytest.mark.parametrize("knows_the_nonce", [False, True])
def test_text_of_an_agent_cannot_pose_as_a_record(tmp_path: Path, knows_the_nonce: bool) -> None:
    """A forged frame inside a broken record would be found, but for the nonce of the file."""
    with Journal(tmp_path) as journal:
        part = parts_of(tmp_path)[0]
        name = part.name if knows_the_nonce else "part-00000001-00112233445566aa.rlj"
        forged = codec.encode_trajectory(trajectory(key(66)))
        head = frames.Head("trajectory", key(66))
        fake = frames.make(frames.marker(name), head, codec.compress(forged))
        raw = random.Random(0).randbytes(50_000) + fake  # what zstd can't shrink, it stores as is
        journal.append(trajectory(key(0), task=Task(env_id="x", seed=0, kwargs={"raw": raw})))
        journal.append(trajectory(key(1)))
    _, at = JournalReader(tmp_path).catalogue.records[key(0)]
    data = bytearray(part.read_bytes())
    assert fake in data
    data[at + 12] ^= 1
    part.write_bytes(data)
    found = [record.key.member for record in read(tmp_path)]
    assert found == ([66, 1] if knows_the_nonce else [1])


def test_strange_but_well_framed_bytes_are_damage_not_a_crash(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(trajectory(key(0)))
    part = parts_of(tmp_path)[0]
    mark = frames.marker(part.name)
    bomb = zstandard.ZstdCompressor().compressobj()  # says no size
    bodies = [
        b"not zstd",
        bomb.compress(bytes(2**22)) + bomb.flush(),
        b"\x28\xb5\x2f\xfd\xe0" + (2**50).to_bytes(8, "little") + bytes(20),  # says a huge one
        codec.compress(b"\xc1"),
        codec.compress(b"\x91" * 100_000),
        codec.compress(msgspec.msgpack.encode({"trajectory": {"key": 1}})),
        codec.compress(codec.encode_trajectory(trajectory(key(77)))),
    ]
    with part.open("ab") as file:
        for number, body in enumerate(bodies, 1):
            file.write(frames.make(mark, frames.Head("trajectory", key(number)), body))
            file.write(frames.make(mark, frames.Head("note", key(number)), body))
            file.write(frames.make(mark, frames.Head("drop"), body))
    reader = JournalReader(tmp_path)
    assert [record.key.member for record in reader] == [0]
    # Each body is bad three times; as the note of a known form it would have been a mapping.
    assert reader.damage.records == 3 * len(bodies)


def test_a_record_of_another_type_is_refused_when_it_is_written(tmp_path: Path) -> None:
    bad = [
        trajectory(key(0), task=Task(env_id="x", seed=0, kwargs={"f": object()})),
        trajectory(key(0), turn(reward="1")),
        trajectory(key(0), turn(action_ids=np.zeros(2, np.float32))),
        trajectory(key(0), turn(observation_ids=np.array(["a"]))),
    ]
    with Journal(tmp_path) as journal:
        for one in bad:
            with pytest.raises(JournalError, match="can't record train/0/0/0: "):
                journal.append(one)
        with pytest.raises(JournalError, match=r"can't annotate .* object is not plain data"):
            journal.annotate(key(0), {"x": object()})
        assert journal.append(trajectory(key(0)))
    assert len(list(read(tmp_path))) == 1 and JournalReader(tmp_path).damage.messages == ()


# -- writers and readers at once, crashes, disks --------------------------------------------------


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "not yet")
    assert reader.keys() == [] and list(read(tmp_path / "not yet")) == []
    with Journal(tmp_path / "not yet", max_file_bytes=1500) as journal:
        for member in range(12):
            journal.append(trajectory(key(member)))
            reader.refresh()
            assert [k.member for k in reader.keys()] == [*range(member + 1)]  # noqa: SIM118
            record = reader.get(key(member))
            assert record is not None and record.key.member == member
        part = parts_of(tmp_path / "not yet")[-1]
        whole = part.read_bytes()
        mark = frames.marker(part.name)
        frame = frames.make(
            mark,
            frames.Head("trajectory", key(50)),
            codec.compress(codec.encode_trajectory(trajectory(key(50)))),
        )
        for cut in (1, 20, len(frame) - 1):  # half-written: neither a record nor damage
            part.write_bytes(whole + frame[:cut])
            reader.refresh()
            assert len(reader) == 12
            assert (reader.damage.records, reader.damage.torn_bytes) == (0, cut)
        part.write_bytes(whole + frame)
        reader.refresh()
        assert key(50) in reader and reader.damage.torn_bytes == 0


def test_an_index_that_lags_behind_is_completed(sound: Path, tmp_path: Path) -> None:
    folder = copy(sound, tmp_path / "copy")
    index = (folder / "index").read_bytes()
    with Journal(folder) as journal:
        journal.append(trajectory(key(20), final_observation="end 20"))
        journal.rollback(lambda k: k.member != 3)
    (folder / "index").write_bytes(index)
    reader = JournalReader(folder)
    assert [k.member for k in reader.keys()] == [0, 1, 2, *range(4, 21)]  # noqa: SIM118
    assert_sound_records_only(reader)


def test_a_second_live_writer_is_refused(tmp_path: Path) -> None:
    owner = f"process {os.getpid()} is writing the journal"
    with Journal(tmp_path), pytest.raises(JournalError, match=owner):
        Journal(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append(trajectory(key(0)))
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.append(trajectory(key(1)))


WRITER = """
import sys, numpy as np
from rlagents.journal import Journal
from rlagents.types import *
turn = Turn(observation="o" * 300, action="a", observation_ids=np.zeros(4000, np.int32),
            action_ids=np.zeros(1, np.int32), behaviour_logprobs=np.zeros(1, np.float32))
journal = Journal(sys.argv[1], max_file_bytes=20_000)
member = len(journal)
print("open", flush=True)
while True:
    key = EpisodeKey(stream="train", iteration=0, group=0, member=member)
    journal.append(Trajectory(key=key, task=Task(env_id="x", seed=member), turns=(turn,) * 3,
                              final_observation="", stop=StopReason.TERMINATED))
    member += 1
    print(member, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_reported(tmp_path: Path) -> None:
    rng = random.Random(1)
    reported = 0
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        for _ in range(rng.randrange(20, 60)):
            reported = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split("\n")
        reported = max([reported, *(int(line) for line in rest[:-1])])
        members = [record.trajectory.task.seed for record in read(tmp_path)]
        assert members == [*range(len(members))] and len(members) >= reported > 0


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**31, 50_000, dtype=np.int32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path) as journal:
        journal.append(trajectory(key(0)))
        size = parts_of(tmp_path)[0].stat().st_size
        # A limit on file sizes fails like a full disk: after a part of the write.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, limits[1]))
        try:
            with pytest.raises(JournalError, match="can't record train/0/0/1: OSError"):
                journal.append(trajectory(key(1), turn(observation_ids=noise)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert parts_of(tmp_path)[0].stat().st_size == size
        assert key(1) not in journal and journal.append(trajectory(key(1)))
        journal.flush()
    assert [record.key.member for record in read(tmp_path)] == [0, 1]
    assert JournalReader(tmp_path, use_index=False).damage.messages == ()


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "journal"):
        with pytest.raises(JournalError, match=f"can't write the journal {folder}: "):
            Journal(folder)
    with pytest.raises(JournalError, match=r"can't read the journal .*file: NotADirectoryError"):
        JournalReader(tmp_path / "file")
