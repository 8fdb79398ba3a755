"""Reading a journal: untrusting, tolerant of damage, also while a writer appends."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlagents.errors import JournalError, boundary
from rlagents.journal import codec, frames
from rlagents.journal.catalogue import Catalogue, load_index
from rlagents.types import EpisodeKey, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A trajectory, and what was decided about it later."""

    key: EpisodeKey
    trajectory: Trajectory
    notes: Mapping[str, Any]
    """What `Journal.annotate` wrote: `score`, `disposition`, ...; a later value replaces an
    earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What a reader could not use."""

    records: int
    """Damaged stretches, at least one record each."""
    bytes: int
    torn_bytes: int
    """Bytes of an unfinished record at the very end: a writer is busy, or died."""
    messages: tuple[str, ...]


class JournalReader:
    """The records of a journal that count: neither withdrawn nor a second one under their key.

    Args:
        folder: the journal's folder; it need not exist yet.
        use_index: false reads and checks every byte.

    Raises:
        JournalError: when the folder can't be read at all.
    """

    def __init__(self, folder: str | os.PathLike[str], *, use_index: bool = True) -> None:
        self.folder = Path(folder)
        self.torn: dict[str, tuple[int, int]] = {}
        """Offset and bytes of an unfinished record at the end of the last file."""
        self.catalogue = load_index(self.folder) if use_index else Catalogue()
        self.refresh()

    @property
    def damage(self) -> Damage:
        """What could not be used so far."""
        unfinished = [
            f"{name}: {size} bytes of an unfinished record at {at}"
            for name, (at, size) in self.torn.items()
        ]
        return Damage(
            records=self.catalogue.damaged_records,
            bytes=self.catalogue.damaged_bytes,
            torn_bytes=sum(size for _, size in self.torn.values()),
            messages=(*self.catalogue.messages, *unfinished),
        )

    def keys(self) -> list[EpisodeKey]:
        """Keys of the records, in the order they were written."""
        return list(self.catalogue.records)

    def __len__(self) -> int:
        return len(self.catalogue.records)

    def __contains__(self, key: EpisodeKey) -> bool:
        return key in self.catalogue.records

    def __iter__(self) -> Iterator[Record]:
        for key in self.keys():
            record = self.get(key)
            if record is not None:
                yield record

    def notes(self, key: EpisodeKey) -> Mapping[str, Any]:
        """What was decided about `key`; empty when nothing was."""
        return dict(self.catalogue.notes.get(key, {}))

    def get(self, key: EpisodeKey) -> Record | None:
        """The record of `key`, or None when there is none that can be read."""
        frame = self._load(key)
        if frame is None and key in self:
            # The catalogue promised what the file no longer holds: read everything again.
            self.catalogue, self.torn = Catalogue(), {}
            self.refresh()
            frame = self._load(key)
        if frame is None:
            return None
        try:
            trajectory = codec.decode_trajectory(codec.decompress(frame.body))
            if trajectory.key != key:
                raise ValueError(f"it holds {trajectory.key}")
        except codec.BAD_BYTES as problem:
            self.catalogue.say(f"the record of {key} is of no known form: {problem}", 1)
            del self.catalogue.records[key]
            return None
        return Record(key=key, trajectory=trajectory, notes=self.notes(key))

    def refresh(self) -> None:
        """Read what was appended since.

        Raises:
            JournalError: when the folder can't be read at all.
        """
        with boundary(JournalError, f"can't read the journal {self.folder}"):
            parts = frames.parts(self.folder)
            for part in parts:
                self._read_part(part, last=part == parts[-1])

    def _load(self, key: EpisodeKey) -> frames.Frame | None:
        place = self.catalogue.records.get(key)
        if place is None:
            return None
        name, at = place
        try:
            frame = frames.load(self.folder / name, at)
        except (OSError, ValueError):
            return None
        return frame if frame is not None and frame.head.key == key else None

    def _read_part(self, part: Path, *, last: bool) -> None:
        name = part.name
        base = self.catalogue.read_to.get(name, 0)
        with part.open("rb") as file:
            file.seek(base)
            data = file.read()
        done = 0
        for frame in frames.find_all(data, frames.marker(name)):
            if frame.start > done:
                self.catalogue.skip(name, base + done, frame.start - done)
            done = frame.end
            self.catalogue.apply(name, base + frame.start, frame)
        self.torn.pop(name, None)
        if done < len(data) and last:
            self.torn[name] = (base + done, len(data) - done)
        elif done < len(data):
            self.catalogue.skip(name, base + done, len(data) - done)
            done = len(data)
        self.catalogue.read_to[name] = base + done


def read(folder: str | os.PathLike[str]) -> Iterator[Record]:
    """All records that count, in the order they were written, every byte checked.

    Raises:
        JournalError: when the folder can't be read at all.
    """
    yield from JournalReader(folder, use_index=False)
