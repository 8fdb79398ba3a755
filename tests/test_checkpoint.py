"""Checkpoints: crash safety at each point, detection of any damage, exact resume."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlagents import checkpoint
from rlagents.errors import CheckpointError

KILLED_SAVES = """
import os, signal, sys, torch
from rlagents import checkpoint

torch.set_num_threads(1)

def run(root, victim, nth):
    seen = 0
    def hook(point):
        nonlocal seen
        seen += point == victim
        if point == victim and seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)
    for step in (1, 2, 3, 4):
        at = hook if step == 4 else lambda point: None
        weights = {"model": {"w": torch.full((3,), float(step))}}
        checkpoint.save(root, step, weights, {"step": step}, keep=2, hook=at)

for root, victim, nth in (case.split(",") for case in sys.argv[1:]):
    child = os.fork()
    if not child:
        run(root, victim, int(nth))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def weights(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((64,), value)}, "optimizer": {"0": torch.arange(9)}}


def test_a_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    odd = torch.tensor([0.1, float("nan"), -0.0], dtype=torch.bfloat16)
    tied = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "model": {"odd": odd, "a": tied, "b": tied, "t": tied.t(), "scalar": torch.tensor(7)},
        "empty": {},
    }
    state = {"lr": 0.1, "big": 2**200, "name": "déjà", "list": [1, None, True]}
    path = checkpoint.save(tmp_path, 12, tensors, state, config_hash="abc")
    assert path.name == "step-00000012"
    loaded = checkpoint.load(tmp_path, config_hash="abc")
    assert (loaded.step, loaded.state, loaded.config_hash) == (12, state, "abc")
    assert loaded.warnings == ()
    model = loaded.tensors["model"]
    assert torch.equal(model["odd"].view(torch.int16), odd.view(torch.int16))
    assert torch.equal(model["a"], model["b"]) and torch.equal(model["t"], tied.t())
    assert model["scalar"].shape == () and loaded.tensors["empty"] == {}


def test_the_last_k_stay_and_a_step_can_be_loaded_by_number(tmp_path: Path) -> None:
    for step in range(5):
        checkpoint.save(tmp_path, step, weights(step), {"step": step}, keep=3)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "step-00000002",
        "step-00000003",
        "step-00000004",
    ]
    assert checkpoint.load(tmp_path, 3).state == {"step": 3}
    with pytest.raises(CheckpointError, match="no checkpoint of step 1 "):
        checkpoint.load(tmp_path, 1)


def test_a_second_save_of_a_step_is_the_newer_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 7, weights(1.0), {"attempt": 1})
    checkpoint.save(tmp_path, 7, weights(2.0), {"attempt": 2})
    assert checkpoint.load(tmp_path).state == {"attempt": 2}
    shutil.rmtree(checkpoint.load(tmp_path).path)
    assert checkpoint.load(tmp_path).state == {"attempt": 1}


def test_after_a_resume_at_an_earlier_step_the_other_future_is_set_aside(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 10, weights(1.0), {"run": 1})
    checkpoint.save(tmp_path, 20, weights(1.0), {"run": 1})
    checkpoint.save(tmp_path, 11, weights(2.0), {"run": 2})
    assert checkpoint.load(tmp_path).step == 11
    assert (tmp_path / "superseded-step-00000020").is_dir()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    checkpoint.save(root, 1, weights(1.0), {"step": 1, "text": "good"})
    checkpoint.save(root, 2, weights(2.0), {"step": 2, "text": "good"})
    return root


def damaged_copy(pair: Path, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(pair, root)
    return root / "step-00000002"


def assert_falls_back(root: Path, named: str = "") -> None:
    loaded = checkpoint.load(root)
    assert loaded.step == 1
    assert "step-00000002 is damaged" in loaded.warnings[0] and named in loaded.warnings[0]
    assert (root / "damaged-step-00000002").is_dir()
    assert not (root / "step-00000002").exists()


def test_every_one_of_200_flipped_bits_is_noticed(pair: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    files = sorted(path.name for path in (pair / "step-00000002").iterdir())
    assert files == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    for trial in range(200):
        folder = damaged_copy(pair, tmp_path / "copy")
        victim = folder / files[trial % len(files)]
        data = bytearray(victim.read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(data)
        assert_falls_back(tmp_path / "copy", victim.name)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["empty", "last byte", "one more", "deleted", "a folder"])
def test_truncated_longer_and_missing_files_are_noticed(
    pair: Path, tmp_path: Path, name: str, how: str
) -> None:
    victim = damaged_copy(pair, tmp_path / "copy") / name
    data = victim.read_bytes()
    victim.unlink()
    match how:
        case "empty":
            victim.write_bytes(b"")
        case "last byte":
            victim.write_bytes(data[:-1])
        case "one more":
            victim.write_bytes(data + b" ")
        case "a folder":
            victim.mkdir()
    assert_falls_back(tmp_path / "copy")


def test_swapped_files_are_noticed(pair: Path, tmp_path: Path) -> None:
    folder = damaged_copy(pair, tmp_path / "within")
    model, optimizer = folder / "model.safetensors", folder / "optimizer.safetensors"
    model.rename(folder / "x")
    optimizer.rename(model)
    (folder / "x").rename(optimizer)
    assert_falls_back(tmp_path / "within")

    folder = damaged_copy(pair, tmp_path / "across")  # a good file, but of another step
    shutil.copy(tmp_path / "across/step-00000001/model.safetensors", folder)
    assert_falls_back(tmp_path / "across")

    folder = damaged_copy(pair, tmp_path / "renamed")  # a good checkpoint under another's name
    folder.rename(folder.with_name("step-00000009"))
    loaded = checkpoint.load(tmp_path / "renamed")
    assert loaded.step == 1 and "it is that of step 2" in loaded.warnings[0]


def test_when_all_are_damaged_the_error_names_them(pair: Path, tmp_path: Path) -> None:
    damaged_copy(pair, tmp_path / "copy")
    for path in checkpoint.checkpoints(tmp_path / "copy"):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002 is damaged.*step-00000001 is dam"):
        checkpoint.load(tmp_path / "copy")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.load(tmp_path / "copy")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.load(tmp_path / "never made")


def test_every_point_of_the_save_path_is_named(tmp_path: Path) -> None:
    points: list[str] = []
    for step in (2, 9, 3, 4):
        checkpoint.save(tmp_path, step, weights(1.0), {}, keep=1, hook=points.append)
    assert set(points) == set(checkpoint.SAVE_POINTS)


def test_a_kill_at_any_point_leaves_the_latest_whole_checkpoint(tmp_path: Path) -> None:
    points = [(point, 1) for point in checkpoint.SAVE_POINTS if point != "set_aside"]
    cases = {tmp_path / f"{p}_{n}": (p, n) for p, n in [*points, ("file_synced", 2)]}
    arguments = [f"{root},{point},{nth}" for root, (point, nth) in cases.items()]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SAVES, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(cases), done.stderr
    for root, (point, _) in cases.items():
        durable = point in ("renamed", "parent_synced", "pruned")
        loaded = checkpoint.load(root)
        assert loaded.step == (4 if durable else 3), point
        assert loaded.tensors["model"]["w"].tolist() == [loaded.step] * 3
        assert not any("damaged" in warning for warning in loaded.warnings), point
        checkpoint.save(root, 5, {}, {}, keep=2)  # and what the crash left is swept away
        assert len(list(root.iterdir())) == 2, point


def test_other_versions_or_threads_are_warned_of(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        checkpoint.save(tmp_path, 1, {}, {}, config_hash="a")
    finally:
        torch.set_num_threads(threads)
    first, second = checkpoint.load(tmp_path, config_hash="b").warnings
    assert first.startswith(f"threads is {threads} here and was {threads + 1} when")
    assert second == "step-00000001 was saved under another configuration"


def test_a_disk_that_refuses_is_named_and_harms_nothing(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "good", 1, weights(1.0), {})
    with pytest.raises(CheckpointError, match=r"can't save the checkpoint of step 2.*ValueError"):
        checkpoint.save(tmp_path / "good", 2, weights(2.0), {"lr": float("nan")})
    assert checkpoint.load(tmp_path / "good").step == 1
    assert len(list((tmp_path / "good").iterdir())) == 1
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"can't save the checkpoint of step 2 in .*file"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 2, weights(2.0), {})
    with pytest.raises(CheckpointError, match=r"can't load a checkpoint from .*file"):
        checkpoint.load(tmp_path / "file")


class Noisy(nn.Module):
    """A small model that draws random numbers when it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.noise = np.random.default_rng(3)

    def train_steps(self, count: int) -> None:
        for _ in range(count):
            x = torch.randn(8, 4) * random.random() + float(self.noise.normal())
            loss = self.layers(x).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()


def seeded() -> Noisy:
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    return Noisy()


def test_ten_steps_saved_and_ten_more_are_twenty_steps(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = seeded()
    whole.train_steps(20)

    first = seeded()
    first.train_steps(10)
    tensors, packed = checkpoint.pack_state(
        {
            "optimizer": first.optimizer.state_dict(),
            "schedule": first.schedule.state_dict(),
            "noise": first.noise.bit_generator.state,
            "random": checkpoint.random_states(),
        }
    )
    checkpoint.save(tmp_path, 10, {"m": first.state_dict(), "rest": tensors}, {"rest": packed})

    torch.manual_seed(99)
    random.seed(99)
    second = Noisy()
    loaded = checkpoint.load(tmp_path)
    second.load_state_dict(dict(loaded.tensors["m"]))
    rest = checkpoint.unpack_state(loaded.tensors["rest"], loaded.state["rest"])
    second.optimizer.load_state_dict(rest["optimizer"])
    second.schedule.load_state_dict(rest["schedule"])
    second.noise.bit_generator.state = rest["noise"]
    checkpoint.restore_random_states(rest["random"])
    second.train_steps(10)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(whole.layers[0].weight, first.layers[0].weight)  # type: ignore[arg-type]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**200, 2**201),
    st.floats(allow_nan=False),
    st.text(),
    st.text(st.characters(categories=["Cs"])),
    st.binary(),
)
keys = st.one_of(st.integers(), st.text(), st.booleans(), st.tuples(st.integers(), st.text()))
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner)
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equality that sees types, and the order of a dict."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


@given(states)
@settings(max_examples=40, deadline=None)
def test_any_plain_state_survives_the_disk_with_its_types(
    tmp_path_factory: pytest.TempPathFactory, state: object
) -> None:
    root = tmp_path_factory.mktemp("plain")
    tensors, packed = checkpoint.pack_state(state)
    checkpoint.save(root, 1, {"t": tensors}, {"packed": packed})
    loaded = checkpoint.load(root)
    assert same(checkpoint.unpack_state(loaded.tensors["t"], loaded.state["packed"]), state)


def test_arrays_and_special_floats_are_packed_exactly() -> None:
    state = {
        "pair": (float("inf"), float("nan")),
        "words": np.array([[1, 2**32 - 1]], np.uint32),
        "none": np.zeros((0, 3), np.float64),
        "one": np.float32(0.1),
        "t": torch.tensor(2, dtype=torch.uint8),
        "$odd": 1,
    }
    back = checkpoint.unpack_state(*checkpoint.pack_state(state))
    assert list(back) == list(state)
    assert back["pair"][0] == float("inf") and back["pair"][1] != back["pair"][1]
    assert back["words"].dtype == np.uint32 and back["words"].tolist() == [[1, 2**32 - 1]]
    assert back["none"].shape == (0, 3)
    assert type(back["one"]) is np.float32 and back["one"] == np.float32(0.1)
    assert back["t"].dtype == torch.uint8 and back["$odd"] == 1


def test_what_has_no_exact_form_is_refused_with_its_place() -> None:
    with pytest.raises(CheckpointError, match=r"state\['b'\]\[1\] is a set"):
        checkpoint.pack_state({"b": [1, {2}], "a": 0})
    with pytest.raises(CheckpointError, match="a packed state can't be read"):
        checkpoint.unpack_state({}, {"$tensor": "0"})
