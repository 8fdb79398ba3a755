"""A run is a folder. This module makes it, finds it, and writes its small files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlagents.config import RunSection
from rlagents.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def league(self) -> Path:
        """Frozen versions of the policy, a folder each."""
        return self.path / "league"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def demonstrations(self) -> Path:
        return self.path / "demonstrations.jsonl"

    @property
    def warm_start(self) -> Path:
        return self.path / "warm_start.json"

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace `summary.json` in one move, so that a reader never sees half of it."""
        _write(self.summary, summary)

    def write_warm_start(self, report: Mapping[str, Any]) -> None:
        """What became of the demonstrations: `warm_start.json`."""
        _write(self.warm_start, report)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


def create(
    section: RunSection, resolved: str, *, parent: str = "runs", key: str = "run.dir"
) -> RunFolder:
    """Make the folder of a new run and write its resolved config.

    Args:
        section: names the folder.
        resolved: the configuration.
        parent: where folders without a name of their own are made.
        key: the setting that named the folder.

    Raises:
        ConfigError: naming `key`, when it can't be made or holds a run already.
    """
    path = Path(section.dir) if section.dir else _new_folder(Path(parent) / section.name)
    folder = RunFolder(path)
    if folder.config.exists():
        raise ConfigError(
            f"run.dir: {str(path)!r} holds a run already; continue it with "
            f"`rlagents train --resume {path}` or choose another folder"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder.config.write_text(resolved, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{key}: can't make the run folder {str(path)!r}: {error.strerror or error}"
        ) from error
    return folder


def discard(folder: RunFolder) -> None:
    """Take back the folder of a run that could not begin, so that its name is free again."""
    if [p.name for p in folder.path.iterdir()] == [folder.config.name]:
        folder.config.unlink()
        with contextlib.suppress(OSError):
            folder.path.rmdir()


def find(path: str | Path) -> RunFolder:
    """The folder of an existing run.

    Raises:
        ConfigError: when there is none.
    """
    folder = RunFolder(Path(path))
    if not folder.config.is_file():
        raise ConfigError(f"{str(path)!r} is not a run folder: it has no config.yaml")
    return folder


def export(folder: RunFolder, out: str) -> Path:
    """Copy the policy of a run, with a card, to a new folder or an empty one.

    Raises:
        ConfigError: when the run has no policy, or `out` holds something or can't be made.
    """
    if not folder.policy.is_dir():
        raise ConfigError(f"{str(folder.path)!r} has no policy yet: it has not come that far")
    target = Path(out)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"export: {out!r} exists already")
        shutil.copytree(folder.policy, target, dirs_exist_ok=True)
        (target / "README.md").write_text(_card(folder), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"export: can't write {out!r}: {error.strerror or error}") from error
    return target


def _card(folder: RunFolder) -> str:
    """A short model card: where the weights come from and how they scored."""
    summary = folder.summary.read_text(encoding="utf-8") if folder.summary.exists() else "{}"
    config = folder.config.read_text(encoding="utf-8")
    return (
        "# A policy trained with rlagents\n\n## Configuration\n\n```yaml\n"
        f"{config}```\n\n## Summary\n\n```json\n{summary}```\n"
    )


def _new_folder(parent: Path) -> Path:
    """`parent/DATE-TIME`, with a number where two runs begin in the same second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, number = parent / stamp, 1
    while path.exists():
        number += 1
        path = parent / f"{stamp}-{number}"
    return path
