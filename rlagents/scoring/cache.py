"""Answers that were paid for, kept in a file by their content, so that none is asked for twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sqlite3
import threading
from pathlib import Path

import msgspec

from rlagents.errors import ConfigError
from rlagents.policy.asking import Ask, Backend, Reply

APPLICATION = 0x726C6A31
"""Marks a SQLite file as such a cache (`PRAGMA application_id`): "rlj1"."""
PATIENCE_S = 1.0
"""How long another process's write is waited for."""


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    """A reply as the file holds it: untrusted, since anybody may have written the file."""

    text: str
    label_logprobs: dict[str, float]
    prompt_tokens: int
    sampled_tokens: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value <= 0 for value in self.label_logprobs.values()):
            raise ValueError("expected log-probabilities of 0 or less")
        if min(self.prompt_tokens, self.sampled_tokens) < 0:
            raise ValueError("expected numbers of tokens of 0 or more")


class CachedBackend:
    """A backend in front of which a file answers what was asked before.

    The key is a hash of the backend's identity and the whole question, seed and temperature
    included. Only answers are kept, never failures. Threads and processes may share a file. Where
    it can't be read or written (locked, disk full, damaged meanwhile) the backend is asked, and
    `faults` counts it. An answer given while the identity changed (new weights) is not kept.

    Args:
        backend: closed with this.
        path: a file, made with its folder where there is none.
        patience_s: how long another process's write is waited for.

    Raises:
        ConfigError: when the file is no such cache, is damaged, or can't be made.
    """

    def __init__(self, backend: Backend, path: str | Path, patience_s: float = PATIENCE_S) -> None:
        self._backend = backend
        self._path = Path(path).expanduser()
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0
        self.faults = 0
        """Times that the file could not be read or written, or held nonsense."""
        try:
            self._file = _opened(self._path, patience_s)
        except (OSError, sqlite3.Error, ValueError) as error:
            raise ConfigError(
                f"scoring.judge.cache: can't use {str(self._path)!r}: {error}"
            ) from error

    @property
    def identity(self) -> str:
        """The backend's."""
        return self._backend.identity

    @property
    def spent(self) -> float | None:
        """The backend's cost so far; None where it does not count it."""
        return getattr(self._backend, "spent", None)

    def ask(self, ask: Ask) -> Reply:
        """The answer from the file (its cost is 0), or the backend's.

        Raises:
            JudgeError: as the backend does.
        """
        identity = self._backend.identity
        key = _key(identity, ask)
        known = self._find(key)
        if known is not None:
            return known
        reply = self._backend.ask(ask)
        if self._backend.identity == identity:
            self._keep(key, reply)
        return reply

    def close(self) -> None:
        """Close the file and the backend. May be called twice."""
        with self._lock:
            self._file.close()
        self._backend.close()

    def _find(self, key: bytes) -> Reply | None:
        query = "SELECT reply FROM replies WHERE key = ?"
        with self._lock:
            try:
                row = self._file.execute(query, (key,)).fetchone()
                stored = msgspec.json.decode(row[0], type=_Stored) if row else None
            except (sqlite3.Error, msgspec.MsgspecError, TypeError, UnicodeError):
                self.faults += 1
                stored = None
            self.hits += stored is not None
            self.misses += stored is None
        if stored is None:
            return None
        return Reply(**msgspec.structs.asdict(stored), cached=True)

    def _keep(self, key: bytes, reply: Reply) -> None:
        known = {name: getattr(reply, name) for name in _Stored.__struct_fields__}
        with self._lock:
            try:
                value = msgspec.json.encode(msgspec.convert(known, _Stored))
                self._file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, value))
            except (sqlite3.Error, msgspec.MsgspecError, UnicodeError):
                self.faults += 1


def _key(identity: str, ask: Ask) -> bytes:
    content = json.dumps([identity, dataclasses.asdict(ask)], sort_keys=True)
    return hashlib.sha256(content.encode()).digest()


def _opened(path: Path, patience_s: float) -> sqlite3.Connection:
    """A file that holds the table and is whole.

    Raises:
        ValueError: for a database of something else, or a damaged one.
        OSError, sqlite3.Error: for a file that is no database, or can't be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("BEGIN IMMEDIATE")  # two processes may make it at once
        (owner,) = file.execute("PRAGMA application_id").fetchone()
        (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if owner == 0 and tables == 0:
            file.execute("CREATE TABLE replies (key BLOB PRIMARY KEY, reply BLOB) WITHOUT ROWID")
            file.execute(f"PRAGMA application_id = {APPLICATION}")
        elif owner != APPLICATION:
            raise ValueError("it is a database of something else")
        file.execute("COMMIT")
        (state,) = file.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise ValueError(f"it is damaged: {state}")
    except BaseException:
        file.close()
        raise
    return file
