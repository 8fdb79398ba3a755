"""Writing a journal: whole records, in order, by one writer."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rlagents.errors import JournalError, boundary
from rlagents.journal import codec, frames
from rlagents.journal.catalogue import store_index
from rlagents.journal.frames import Head
from rlagents.journal.reader import JournalReader
from rlagents.types import EpisodeKey, Trajectory

_log = logging.getLogger(__name__)


class Journal:
    """The writer of a journal: one at a time, safe to call from several threads.

    A record is handed to the operating system as a whole: it survives the death of this process,
    and after `flush` that of the machine. An unfinished record that an earlier crash left at the
    end is cut off; `messages` says so.

    Args:
        folder: made when it does not exist.
        max_file_bytes: a file that has grown this long is followed by a new one.
        level: of zstd.

    Raises:
        JournalError: when another writer is alive, or the folder can't be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_file_bytes: int = 64 * 2**20,
        level: int = 3,
    ) -> None:
        self.folder = Path(folder)
        self._max_file_bytes = max_file_bytes
        self._level = level
        self._mutex = threading.RLock()
        with contextlib.ExitStack() as undo:
            undo.enter_context(boundary(JournalError, f"can't write the journal {self.folder}"))
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = undo.enter_context(_take_lock(self.folder))
            # A writer checks every byte: a key that the index promised but a damaged file lost
            # must be recorded again.
            reader = JournalReader(self.folder, use_index=False)
            self.messages = reader.damage.messages
            """What was found damaged, and what was cut off, when the journal was opened."""
            self._catalogue = reader.catalogue
            self._file: IO[bytes] | None = undo.enter_context(self._open_last())
            if self._size == 0:
                self._link()
            undo.pop_all()
        for message in self.messages:
            _log.warning("journal %s: %s", self.folder, message)

    def keys(self) -> list[EpisodeKey]:
        """Keys of all records that count, in the order they were written."""
        with self._mutex:
            return list(self._catalogue.records)

    def __contains__(self, key: EpisodeKey) -> bool:
        return key in self._catalogue.records

    def __len__(self) -> int:
        return len(self._catalogue.records)

    def append(self, trajectory: Trajectory, notes: Mapping[str, Any] | None = None) -> bool:
        """Record a trajectory under its key, with first notes where given.

        Returns:
            False, and nothing is written, when the key already has a record.

        Raises:
            JournalError: when the disk refuses, or a field is not plain data.
        """
        key = trajectory.key
        with self._mutex, boundary(JournalError, f"can't record {key}"):
            if key in self:
                return False
            bodies = [(Head("trajectory", key), codec.encode_trajectory(trajectory))]
            if notes:
                bodies.append(_note(key, notes))
            self._write(bodies)
            return True

    def annotate(self, key: EpisodeKey, notes: Mapping[str, Any]) -> None:
        """Write what was decided about `key` later: score, parts, disposition, advantages.

        Raises:
            JournalError: when the disk refuses, or a value is not plain data.
        """
        with self._mutex, boundary(JournalError, f"can't annotate {key}"):
            self._write([_note(key, notes)])

    def rollback(self, keep: Callable[[EpisodeKey], bool]) -> int:
        """Withdraw every record and note whose key is not kept, so that it is recorded anew.

        The bytes stay; readers honour the withdrawal. A run that resumes before iteration `k`
        calls `rollback(lambda key: key.iteration < k)`.

        Returns:
            The number of records withdrawn.

        Raises:
            JournalError: when the disk refuses.
        """
        with self._mutex, boundary(JournalError, "can't roll the journal back"):
            dropped = [key for key in self._catalogue.known() if not keep(key)]
            count = sum(key in self for key in dropped)
            if dropped:
                self._write([(Head("drop"), codec.encode(codec.DropBody(dropped)))])
            return count

    def flush(self, sync: bool = True) -> None:
        """Wait until everything is on the disk; without `sync` nothing is left to do."""
        with self._mutex, boundary(JournalError, f"can't flush the journal {self.folder}"):
            if sync and self._file is not None:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync, write the index, let go of the lock. May be called twice."""
        with self._mutex:
            if self._file is None:
                return
            try:
                self.flush()
                store_index(self.folder, self._catalogue)
            except OSError as problem:  # the index only saves time
                _log.warning("journal %s: the index was not written: %s", self.folder, problem)
            finally:
                self._file.close()
                self._file = None
                self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_last(self) -> IO[bytes]:
        parts = frames.parts(self.folder)
        path = parts[-1] if parts else self.folder / frames.next_name(None)
        self._name = path.name
        self._previous = parts[-2].name if len(parts) > 1 else None
        self._size = self._catalogue.read_to.setdefault(self._name, 0)
        file = path.open("r+b" if parts else "xb", buffering=0)
        file.truncate(self._size)
        file.seek(self._size)
        _sync_folder(self.folder)
        return file

    def _rotate(self) -> None:
        assert self._file is not None
        path = self.folder / frames.next_name(self._name)
        file = path.open("xb", buffering=0)
        os.fsync(self._file.fileno())
        self._file.close()
        self._previous = self._name
        self._file, self._name, self._size = file, path.name, 0
        _sync_folder(self.folder)
        self._link()

    def _link(self) -> None:
        """Say which file this one continues, so that a shortened or deleted one is noticed."""
        size = self._catalogue.read_to.get(self._previous or "", 0)
        body = codec.PartBody(self._previous, size)
        self._write([(Head("part"), codec.encode(body))])

    def _write(self, bodies: list[tuple[Head, bytes]]) -> None:
        if self._file is None:
            raise JournalError(f"the journal {self.folder} is closed")
        if self._size >= self._max_file_bytes:
            self._rotate()
        mark = frames.marker(self._name)
        made = [frames.make(mark, head, codec.compress(b, self._level)) for head, b in bodies]
        data = memoryview(b"".join(made))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            # A full disk may have taken half a frame: the next record must not follow it.
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        for frame in made:
            parsed = frames.parse(frame, 0)
            assert parsed is not None
            self._catalogue.apply(self._name, self._size, parsed)
            self._size += len(frame)
        self._catalogue.read_to[self._name] = self._size


def _note(key: EpisodeKey, notes: Mapping[str, Any]) -> tuple[Head, bytes]:
    return Head("note", key), codec.encode(codec.NoteBody(codec.tag(notes)))


def _take_lock(folder: Path) -> IO[str]:
    """Open a file whose lock dies with this process."""
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read(20).strip() or "unknown"
        file.close()
        raise JournalError(
            f"process {owner} is writing the journal {folder}; wait for it, or end it"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
