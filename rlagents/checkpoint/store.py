"""Checkpoints that survive a crash and notice a flipped bit.

    root/step-00000012/NAME.safetensors ...  state.json  manifest.json

Each is written into a new folder beside the old ones, synced, and renamed when it is whole. The
manifest holds a SHA-256 of every file and of itself: safetensors alone loads a flipped bit in
silence. Loading goes by the hashes only; a damaged checkpoint is set aside under the name
`damaged-...` and the one before it is used. Tensors are safetensors, everything else is JSON, and
nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rlagents.errors import CheckpointError, boundary

MANIFEST = "manifest.json"
STATE = "state.json"
SAVE_POINTS = (
    "start",
    "file_written",
    "file_synced",
    "manifest_written",
    "manifest_synced",
    "folder_synced",
    "renamed",
    "parent_synced",
    "set_aside",
    "pruned",
)
"""Names that `save` hands to its hook, in this order; those of files come once for each."""

_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TEMPORARY = ".unfinished-"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What was loaded."""

    step: int
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    """By the names they were saved under, on the CPU."""
    state: Mapping[str, Any]
    path: Path
    config_hash: str = ""
    warnings: tuple[str, ...] = field(default=())
    """Damaged checkpoints that were passed over, and what differs from the machine that saved:
    with other versions or another number of threads, a resumed run is not bit-identical."""


class _Damaged(Exception):
    """A checkpoint that is not what was saved."""


def save(
    root: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    config_hash: str = "",
    hook: Callable[[str], None] = lambda point: None,
) -> Path:
    """Write a checkpoint and prune older ones.

    At every instant the newest whole checkpoint under `root` can be loaded.

    Args:
        root: folder of the checkpoints; made when it does not exist.
        step: optimizer updates done.
        tensors: one safetensors file for each name; the inner names are free.
        state: JSON values, such as those of `pack_state`.
        keep: how many of the newest stay.
        config_hash: kept in the manifest.
        hook: called with each of `SAVE_POINTS`, for tests that kill the process there.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: when the disk refuses, or a value has no exact form on it. Earlier
            checkpoints are untouched.
    """
    root = Path(root)
    if keep < 1:
        raise ValueError(f"keep must be 1 or more, got {keep}")
    bad = [name for name in tensors if not _PLAIN.fullmatch(name)]
    if bad:
        raise ValueError(f"names of tensor files must be plain, got {bad}")
    with boundary(CheckpointError, f"can't save the checkpoint of step {step} in {root}"):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        path = _free_name(root, step)
        temporary = root / f"{_TEMPORARY}{path.name}"
        try:
            temporary.mkdir()
            hook("start")
            _write_all(temporary, step, tensors, state, config_hash, hook)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk should not stay full
            raise
        hook("renamed")
        _sync(root)
        hook("parent_synced")
        _prune(root, path, keep, hook)
    return path


def load(
    root: str | os.PathLike[str], step: int | None = None, *, config_hash: str = ""
) -> Checkpoint:
    """Load the newest checkpoint whose every hash is right, or that of one step.

    Damaged ones are renamed to `damaged-...`, said in `warnings`, and passed over.

    Raises:
        CheckpointError: when none is left, or `root` can't be read.
    """
    root = Path(root)
    passed: list[str] = []
    with boundary(CheckpointError, f"can't load a checkpoint from {root}"):
        for path in reversed(checkpoints(root)):
            if step is not None and _order(path)[0] != step:
                continue
            try:
                return _load_one(path, config_hash, passed)
            except _Damaged as damage:
                passed.append(_quarantine(path, str(damage)))
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise CheckpointError("; ".join([f"{which} in {root}", *passed]))


def checkpoints(root: str | os.PathLike[str]) -> list[Path]:
    """Folders of finished checkpoints, oldest first. Nothing is verified."""
    root = Path(root)
    if not root.exists():
        return []
    return sorted((p for p in root.iterdir() if _NAME.fullmatch(p.name)), key=_order)


# -- writing -------------------------------------------------------------------------------------


def _write_all(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    config_hash: str,
    hook: Callable[[str], None],
) -> None:
    for name, group in tensors.items():
        # Clones: safetensors refuses tied weights, which must come back as two equal tensors.
        save_file(
            {key: t.detach().cpu().contiguous().clone() for key, t in group.items()},
            folder / f"{name}.safetensors",
        )
        hook("file_written")
    (folder / STATE).write_bytes(_canonical(dict(state)))
    hook("file_written")
    files = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        hook("file_synced")
        files[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    manifest = {
        "format": 1,
        "step": step,
        "files": files,
        "config_hash": config_hash,
        "machine": _machine(),
    }
    manifest["sha256"] = hashlib.sha256(_canonical(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(_canonical(manifest))
    hook("manifest_written")
    _sync(folder / MANIFEST)
    hook("manifest_synced")
    _sync(folder)
    hook("folder_synced")


def _prune(root: Path, newest: Path, keep: int, hook: Callable[[str], None]) -> None:
    present = checkpoints(root)
    for path in present:
        if _order(path) > _order(newest):
            # Left from before a resume at an earlier step: it belongs to another history.
            path.rename(_unused(root / f"superseded-{path.name}"))
            hook("set_aside")
    for path in [p for p in present if _order(p) <= _order(newest)][:-keep]:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        doomed = root / f"{_TEMPORARY}{path.name}"
        path.rename(doomed)
        shutil.rmtree(doomed)
        hook("pruned")


def _sweep(root: Path) -> None:
    """Remove what crashes left."""
    for path in root.iterdir():
        if path.name.startswith(_TEMPORARY):
            shutil.rmtree(path)


def _free_name(root: Path, step: int) -> Path:
    taken = [_order(path)[1] for path in checkpoints(root) if _order(path)[0] == step]
    return root / (f"step-{step:08d}-{max(taken) + 1}" if taken else f"step-{step:08d}")


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}.{number}"), number + 1
    return candidate


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[1]), int(match[2] or 1)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _machine() -> dict[str, Any]:
    """What must be equal for a resumed run to be bit-identical."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "transformers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions | {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
    }


# -- reading -------------------------------------------------------------------------------------


def _load_one(path: Path, config_hash: str, passed: list[str]) -> Checkpoint:
    manifest = _read_manifest(path)
    for name, wanted in manifest["files"].items():
        try:
            found = _sha256(path / name)
        except (FileNotFoundError, IsADirectoryError):
            raise _Damaged(f"{name} is missing") from None
        if found != wanted["sha256"]:
            raise _Damaged(f"{name} is not what was saved")
    try:
        state = json.loads((path / STATE).read_bytes())
        tensors = {
            name.removesuffix(".safetensors"): load_file(path / name)
            for name in manifest["files"]
            if name.endswith(".safetensors")
        }
    except (ValueError, RecursionError, SafetensorError) as problem:
        raise _Damaged(f"it can't be read: {problem}") from problem
    warnings = [*passed, *_differences(manifest["machine"])]
    if config_hash and manifest["config_hash"] != config_hash:
        warnings.append(f"{path.name} was saved under another configuration")
    return Checkpoint(
        step=manifest["step"],
        tensors=tensors,
        state=state,
        path=path,
        config_hash=manifest["config_hash"],
        warnings=tuple(warnings),
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        stored = (path / MANIFEST).read_bytes()
        manifest = json.loads(stored)
        if stored != _canonical(manifest):
            raise _Damaged(f"{MANIFEST} is not what was saved")
        digest = manifest.pop("sha256", None)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _Damaged(f"{MANIFEST} is missing") from None
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise _Damaged(f"{MANIFEST} is not what was saved") from None
    if digest != hashlib.sha256(_canonical(manifest)).hexdigest():
        raise _Damaged(f"{MANIFEST} is not what was saved")
    if manifest["format"] != 1:
        raise CheckpointError(f"{path} has format {manifest['format']}; this version reads 1")
    if manifest["step"] != _order(path)[0]:
        raise _Damaged(f"it is that of step {manifest['step']}")
    return manifest


def _quarantine(path: Path, reason: str) -> str:
    aside = _unused(path.with_name(f"damaged-{path.name}"))
    try:
        path.rename(aside)
    except OSError:  # a read-only disk: pass it over where it is
        return f"{path.name} is damaged ({reason}) and was passed over"
    return f"{path.name} is damaged ({reason}) and was renamed to {aside.name}"


def _differences(saved: Mapping[str, Any]) -> list[str]:
    now = _machine()
    return [
        f"{name} is {now.get(name)!r} here and was {saved.get(name)!r} when the checkpoint was "
        "saved: the run will not repeat bit for bit"
        for name in sorted({*saved, *now})
        if saved.get(name) != now.get(name)
    ]
