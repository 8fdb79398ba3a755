"""What the frames read so far add up to, and the sidecar file that remembers it.

The index is never the truth: a reader takes it only when its checksum and the files' sizes fit,
and checks each record again when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlagents.journal import codec, frames
from rlagents.types import EpisodeKey

INDEX = "index"


@dataclass(slots=True, kw_only=True)
class Catalogue:
    """Where each record lies, what was noted about it, how far each file was read."""

    records: dict[EpisodeKey, tuple[str, int]] = field(default_factory=dict)
    """File and offset of each record that counts, in the order they were written."""
    notes: dict[EpisodeKey, dict[str, Any]] = field(default_factory=dict)
    read_to: dict[str, int] = field(default_factory=dict)
    """Bytes of each file that were read."""
    messages: list[str] = field(default_factory=list)
    damaged_records: int = 0
    damaged_bytes: int = 0

    def apply(self, name: str, at: int, frame: frames.Frame) -> None:
        """Take in the frame at offset `at` of file `name`; frames must come in order."""
        key = frame.head.key
        try:
            match frame.head.kind:
                case "trajectory" if key is not None:
                    self.records.setdefault(key, (name, at))
                case "note" if key is not None:
                    note = codec.decode(codec.NoteBody, codec.decompress(frame.body))
                    self.notes.setdefault(key, {}).update(note.notes)
                case "drop":
                    drop = codec.decode(codec.DropBody, codec.decompress(frame.body))
                    for dropped in drop.keys:
                        self.records.pop(dropped, None)
                        self.notes.pop(dropped, None)
                case "part":
                    part = codec.decode(codec.PartBody, codec.decompress(frame.body))
                    self._check_previous(part)
        except codec.BAD_BYTES as problem:
            self.say(f"{name}: record at {at} is of no known form: {problem}", 1, len(frame.body))

    def skip(self, name: str, at: int, size: int) -> None:
        """Count a damaged stretch."""
        self.say(f"{name}: {size} damaged bytes at {at} skipped", 1, size)

    def say(self, message: str, records: int = 0, size: int = 0) -> None:
        """Keep a message, and count what was lost."""
        self.messages.append(message)
        self.damaged_records += records
        self.damaged_bytes += size

    def known(self) -> list[EpisodeKey]:
        """Every key that has a record or a note."""
        return list(dict.fromkeys([*self.records, *self.notes]))

    def _check_previous(self, part: codec.PartBody) -> None:
        if part.previous is None:
            return
        read = self.read_to.get(part.previous)
        if read is None:
            self.say(f"{part.previous} is missing", 1, part.size)
        elif read < part.size:
            self.say(f"{part.previous} lost {part.size - read} bytes", 1, part.size - read)


def load_index(folder: Path) -> Catalogue:
    """The catalogue that the index remembers; an empty one, with a message, when it doesn't fit."""
    path = folder / INDEX
    try:
        stored = path.read_bytes()
    except OSError:
        return Catalogue()  # never written, or the folder is unreadable: reading it will tell
    try:
        if hashlib.sha256(stored[32:]).digest() != stored[:32]:
            raise ValueError("its checksum is wrong")
        index = codec.decode(codec.IndexBody, codec.decompress(stored[32:]))
        sizes: Mapping[str, int] = {part.name: part.stat().st_size for part in frames.parts(folder)}
        for name, size in index.parts.items():
            if sizes.get(name, -1) < size:
                raise ValueError(f"{name} is {'shorter' if name in sizes else 'missing'}")
    except codec.BAD_BYTES as problem:
        catalogue = Catalogue()
        catalogue.say(f"the index is not used: {problem}", int("missing" in str(problem)))
        return catalogue
    return Catalogue(
        records={key: (name, at) for key, name, at in index.records},
        notes=dict(index.notes),
        read_to=dict(index.parts),
        messages=list(index.messages),
        damaged_records=index.damaged_records,
        damaged_bytes=index.damaged_bytes,
    )


def store_index(folder: Path, catalogue: Catalogue) -> None:
    """Write the index in one step.

    Raises:
        OSError: when the disk refuses.
    """
    body = codec.IndexBody(
        parts=catalogue.read_to,
        records=[(key, *place) for key, place in catalogue.records.items()],
        notes=[(key, codec.tag(notes)) for key, notes in catalogue.notes.items()],
        messages=catalogue.messages,
        damaged_records=catalogue.damaged_records,
        damaged_bytes=catalogue.damaged_bytes,
    )
    data = codec.compress(codec.encode(body))
    temporary = folder / f"{INDEX}.new"
    temporary.write_bytes(hashlib.sha256(data).digest() + data)
    temporary.replace(folder / INDEX)
