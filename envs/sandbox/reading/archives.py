"""Archives of an agent, unpacked into memory: name -> content.

Only plain files with plain relative names come out. An archive with anything else in it (a link, a
device, `../x`, an absolute name, a name that comes twice) is refused as a whole.

Tar is read here and not by `tarfile`, which in the Pythons we support can be sent into an endless
loop or a recursion by a header (CVE-2025-8194, CVE-2024-6232).
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from rlagents.envs.sandbox.files import UnsafeFile

_MIB = 2**20
_RATIO_FROM = _MIB
"""Bytes from which on the ratio counts: small things may be as empty as they like."""
_BLOCK = 512
_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may hold."""

    members: int = 10_000
    """Files and folders."""
    total: int = 64 * _MIB
    """Bytes of all files, unpacked."""
    ratio: float = 200.0
    """Unpacked bytes for each packed one, once there is more than 1 MiB of them."""


_DEFAULT = Limits()


def unzip(data: bytes, limits: Limits = _DEFAULT) -> dict[str, bytes]:
    """The files of a zip archive (stored or deflated, not encrypted).

    Raises:
        UnsafeFile: it is not one, or holds what is not allowed.
    """
    # Each member takes an object with Python's reader: count before it does.
    if data.count(b"PK\1\2") > limits.members:
        raise UnsafeFile(f"an archive of more than {limits.members:,} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _zip_members(archive, len(data), limits)
    except UnsafeFile:
        raise
    except _BROKEN_ZIP as error:
        raise UnsafeFile(f"a broken zip archive: {error}") from None


_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,  # encrypted, or a method that this Python lacks
)


def _zip_members(archive: zipfile.ZipFile, packed: int, limits: Limits) -> dict[str, bytes]:
    members = archive.infolist()
    # Members that overlap would be unpacked again and again.
    if sum(m.compress_size for m in members) > packed:
        raise UnsafeFile("an archive whose members overlap")
    _require_total(sum(m.file_size for m in members), packed, limits)
    found = _Members(limits)
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeFile(f"{member.orig_filename!r}: a link or a device in an archive")
        if member.flag_bits & 1:
            raise UnsafeFile(f"{member.orig_filename!r}: encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsafeFile(f"{member.orig_filename!r}: neither stored nor deflated")
        name = found.claim(member.orig_filename)
        if member.orig_filename.endswith("/"):
            continue
        with archive.open(member) as file:
            content = file.read(member.file_size + 1)
        if len(content) != member.file_size:
            raise UnsafeFile(f"{member.orig_filename!r}: not as long as it says")
        found.files[name] = content
    return found.files


def untar(data: bytes, limits: Limits = _DEFAULT) -> dict[str, bytes]:
    """The files of a tar archive, plain or gzipped; ustar, GNU and pax names.

    Raises:
        UnsafeFile: it is not one, or holds what is not allowed.
    """
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data, limits)
    found, total = _Members(limits), 0
    for name, kind, start, size in _tar_members(data, limits):
        if kind not in b"05\0":
            raise UnsafeFile(f"{name!r}: a link, a device or a sparse file in an archive")
        plain = found.claim(name)
        if kind == b"5" or name.endswith("/"):
            continue
        total += size
        _require_total(total, len(data), limits)
        found.files[plain] = data[start : start + size]
    return found.files


def _gunzip(data: bytes, limits: Limits) -> bytes:
    # Headers and padding of each member come on top of what it holds.
    room = limits.total + (3 * limits.members + 20) * _BLOCK
    unpack = zlib.decompressobj(wbits=31)
    try:
        plain = unpack.decompress(data, room + 1)
    except zlib.error as error:
        raise UnsafeFile(f"a broken gzip file: {error}") from None
    if len(plain) > room:
        raise UnsafeFile(f"an archive of more than {room:,} bytes")
    if not unpack.eof or unpack.unused_data:
        raise UnsafeFile("a gzip file that is torn, or followed by something")
    if len(plain) > _RATIO_FROM and len(plain) > limits.ratio * len(data):
        raise UnsafeFile(f"{len(data):,} bytes packed, {len(plain):,} unpacked")
    return plain


def _tar_members(data: bytes, limits: Limits) -> Iterator[tuple[str, bytes, int, int]]:
    """(name, type, where its content begins, its size) of each member."""
    place, long_name, headers = 0, "", 0
    while True:
        header = data[place : place + _BLOCK]
        if not header.strip(b"\0"):  # the end is two empty blocks, or just the end
            return
        headers += 1
        if headers > 3 * limits.members:
            raise UnsafeFile(f"an archive of more than {limits.members:,} members")
        size, kind = _tar_header(header), header[156:157]
        start = place + _BLOCK
        if start + size > len(data):
            raise UnsafeFile("a torn tar archive")
        place = start + -(-size // _BLOCK) * _BLOCK
        if kind in b"Lx":
            if size > 16 * _NAME_BYTES:
                raise UnsafeFile("a tar archive with a name that is too long")
            content = data[start : start + size]
            name = _pax_path(content) if kind == b"x" else _decoded(content.rstrip(b"\0"))
            long_name = name or long_name
        elif kind != b"g":  # of the whole archive: git writes a comment
            yield long_name or _tar_name(header), kind, start, size
            long_name = ""


def _tar_header(header: bytes) -> int:
    """The size of its content, once the header is found whole."""
    if len(header) < _BLOCK:
        raise UnsafeFile("a torn tar archive")
    blank = header[:148] + b" " * 8 + header[156:]
    if _octal(header[148:156]) != sum(blank):
        raise UnsafeFile("not a tar archive, or a broken one")
    return _octal(header[124:136])


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if len(digits) > 11 or not all(c in b"01234567" for c in digits):
        raise UnsafeFile("a tar archive with a number that is not octal")
    return int(digits or b"0", 8)


def _tar_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _decoded(prefix + b"/" + name if prefix else name)


def _pax_path(content: bytes) -> str:
    """The name that an extended header gives, or an empty one; records are `LENGTH KEY=VALUE`."""
    path = ""
    while content:
        digits, space, _ = content[:21].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[len(digits) + 1 : length]
        if not space or not record.endswith(b"\n") or length > len(content):
            raise UnsafeFile("a tar archive with a broken extended header")
        key, _, value = record[:-1].partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise UnsafeFile("a tar archive with a sparse file, or one with two sizes")
        if key == b"path":
            path = _decoded(value)
        content = content[length:]
    return path


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


class _Members:
    """Names that were seen, and the files."""

    def __init__(self, limits: Limits) -> None:
        self.files: dict[str, bytes] = {}
        self._limits = limits
        self._names: set[str] = set()

    def claim(self, name: str) -> str:
        """The name without what does not count in it."""
        parts = [p for p in name.split("/") if p not in ("", ".")]
        plain = "/".join(parts)
        if name.startswith("/") or ".." in parts or "\0" in name or len(name) > _NAME_BYTES:
            raise UnsafeFile(f"{name[:200]!r}: a name that leaves the archive's folder")
        if not plain and not name.endswith(("/", ".")):
            raise UnsafeFile("an archive with a file without a name")
        if plain in self._names:
            raise UnsafeFile(f"{name[:200]!r}: twice in an archive")
        self._names.add(plain)
        if len(self._names) > self._limits.members:
            raise UnsafeFile(f"an archive of more than {self._limits.members:,} members")
        return plain


def _require_total(total: int, packed: int, limits: Limits) -> None:
    if total > limits.total:
        raise UnsafeFile(f"an archive of more than {limits.total:,} bytes")
    if total > _RATIO_FROM and total > limits.ratio * packed:
        raise UnsafeFile(f"an archive of {packed:,} bytes that unpack to {total:,}")
