"""Files made to lead astray, stop or fill up whoever reads them on the host."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlagents.envs.sandbox import reading
from rlagents.envs.sandbox.attack import payload_programs as programs
from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.box import Sandbox
from rlagents.envs.sandbox.files import UnsafeFile
from rlagents.visible import escape

_PROMPT_S = 5.0
"""Reading or refusing a file takes milliseconds: one that takes this long has been held up."""


def _links(host: Host) -> Verdict:
    """Links of both kinds to files of the host, under the names that a grader asks for."""
    targets = [
        host.secret_path,
        host.private_path,
        str(Path(host.secret_path).parent),
        "/etc/shadow",
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/self/root" + host.secret_path,
    ]
    box = host.open()
    _make(box, programs.OUTWARDS, targets)
    got: list[str] = []
    for name in [*(e.path for e in box.files()), f"2/{Path(host.secret_path).name}"]:
        with contextlib.suppress(UnsafeFile, OSError):
            got.append(f"read {name}: {box.read(name)[:40]!r}")
    with contextlib.suppress(UnsafeFile, OSError):
        got.append(f"copied {sorted(box.copy_out(['*']))}")
    return _verdict(got, f"all of {len(targets)} targets refused, by symbolic and hard links")


def _writes(host: Host) -> Verdict:
    """Links where the host is about to write its grader."""
    box = host.open()
    before = Path(host.writable_path).read_bytes()
    _make(box, programs.OUTWARDS, [host.writable_path, str(Path(host.writable_path).parent)])
    grader, wrong = b"print('the grader')", []
    inside = f"1/{Path(host.writable_path).name}"
    for name in ("0", "hard0", inside, "up/" + host.writable_path.lstrip("/")):
        with contextlib.suppress(UnsafeFile, OSError):
            box.write(name, grader)
            if box.read(name) != grader:
                wrong.append(f"{name} is not what was written")
    if Path(host.writable_path).read_bytes() != before:
        wrong.append("a file of the host was written through a link")
    return _verdict(wrong, "the links were replaced or refused; the host's file is as it was")


def _race(host: Host) -> Verdict:
    """A folder that is swapped for a link while the host reads and writes in it."""
    box = host.open()
    path, name = Path(host.writable_path), Path(host.secret_path).name
    before, seen = path.read_bytes(), {"own": 0, "refused": 0}
    targets = [str(Path(host.secret_path).parent), str(path.parent)]
    _make(box, "import os\nos.mkdir('own'); open(f'own/{args[0]}', 'w').write('mine')", name)
    with box.repl() as python:
        python.run(f"targets, name = {targets!r}, {name!r}\n{programs.SWAPPER}")
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            with _counting(seen):
                if host.secret.encode() in box.read(f"here/{name}", limit=4096):
                    return Verdict(False, "the secret was read through a folder swapped for a link")
            with _counting(seen):
                box.write(f"here/{path.name}", b"written by the host")
    if path.read_bytes() != before:
        return Verdict(False, "a file of the host was written through a folder swapped for a link")
    return Verdict(True, f"{seen['own']} reads and writes inside, {seen['refused']} refused")


def _special(host: Host) -> Verdict:
    """What blocks, never ends or is no file, under the name of a submission."""
    box = host.open()
    made = _make(box, programs.SPECIAL)
    got, began = [], time.monotonic()
    for entry in box.files():
        with contextlib.suppress(UnsafeFile, FileNotFoundError):
            if data := box.read(entry.path, limit=2**20):
                got.append(f"{entry.path}: {len(data)} bytes")
    box.snapshot()
    if (took := time.monotonic() - began) > _PROMPT_S:
        got.append(f"reading took {took:.1f} s")
    return _verdict(got, f"{made.strip()}: all refused")


def _growing(host: Host) -> Verdict:
    """A file that grows as fast as it is read."""
    box, longest = host.open(), 0
    with box.repl() as python:
        python.run(programs.GROWER)
        for _ in range(200):
            with contextlib.suppress(UnsafeFile, FileNotFoundError):
                longest = max(longest, len(box.read("log", limit=2**20)))
    return Verdict(longest <= 2**20, f"{longest:,} bytes read, of 1,048,576 allowed")


def _deep(host: Host) -> Verdict:
    """Folders in folders, deeper than a recursion goes and than a path is long."""
    box, wrong = host.open(), []
    empty = box.snapshot()
    made = _make(box, programs.DEEP).strip()
    for look in (lambda: list(box.files()), box.snapshot, lambda: box.copy_out(["*"])):
        with contextlib.suppress(UnsafeFile):
            look()
            wrong.append("it was listed, packed or copied")
    if box.run("echo fine").stdout != "fine\n":
        wrong.append("nothing can be run there any more")
    box.restore(empty)
    if list(box.files()):
        wrong.append("it is still there after restoring a snapshot")
    _make(box, programs.DEEP)
    began = time.monotonic()
    box.close()
    if (took := time.monotonic() - began) > 2.0:
        wrong.append("closing took long")
    return _verdict(wrong, f"depth {made}: listing and snapshot refused; removed in {took:.2f} s")


def _many(host: Host) -> Verdict:
    """More names than anybody can look at."""
    box = host.open(workspace_files=40_000)
    made = _make(box, programs.MANY).strip()
    try:
        count = sum(1 for _ in box.files())
    except UnsafeFile:
        return Verdict(True, f"{made} names made, listing refused")
    return Verdict(count <= 10_000, f"{made} names made, {count} listed")


def _names(host: Host) -> Verdict:
    """Names with newlines, terminal commands, broken UTF-8, and those that look like options."""
    box = host.open()
    raw = _make(box, programs.NAMES)
    listed = {e.path for e in box.files()}
    wanted = {bytes.fromhex(n).decode(errors="surrogateescape") for n in raw.split()}
    wrong = [f"{n!r} is not listed" for n in wanted - listed]
    wrong += [f"{n!r} was never made" for n in listed - wanted]
    wrong += [f"{n!r} reads as something else" for n in listed & wanted if box.read(n) != b"x"]
    box.restore(box.snapshot())
    if {e.path for e in box.files()} != listed:
        wrong.append("a snapshot brings back other names")
    shown = "".join(escape(n) for n in listed)
    if any(ord(c) < 32 and c not in "\n\t" for c in shown):
        wrong.append("a control character is shown raw")
    return _verdict(wrong, f"{len(listed)} names listed, read, and brought back by a snapshot")


def _forbidden(host: Host) -> Verdict:
    """Files and folders that their owner locked up."""
    box, wrong = host.open(), []
    _make(box, programs.FORBIDDEN)
    for name in ("file", "folder/file", "dark/file"):
        with contextlib.suppress(UnsafeFile, FileNotFoundError):
            if box.read(name) != b"x":
                wrong.append(f"{name} reads as something else")
    list(box.files())
    kept = box.snapshot()
    _make(box, "open('new', 'w')")
    box.restore(kept)
    if any(e.path == "new" for e in box.files()):
        wrong.append("a file made after the snapshot is still there")
    began = time.monotonic()
    box.close()
    if time.monotonic() - began > 2.0:
        wrong.append(f"closing took {time.monotonic() - began:.1f} s")
    return _verdict(wrong, "read or refused; snapshot, restore and removal work")


def _documents(host: Host) -> Verdict:
    """JSON that is too deep, not finite, says two things, or is endless digits."""
    box = host.open()
    _make(box, programs.DOCUMENTS)
    return _refused(box, lambda data: reading.json_value(data))


def _archives(host: Host) -> Verdict:
    """Archives that unpack to too much, to somewhere else, to links, or twice."""
    box = host.open()
    _make(box, programs.ARCHIVES, [host.writable_path])
    return _refused(box, lambda data: (reading.untar if data[:2] != b"PK" else reading.unzip)(data))


def _pickles(host: Host) -> Verdict:
    """Code in a pickle, in an array of objects, in what `torch.save` writes, and in headers."""
    box, path = host.open(), Path(host.writable_path)
    before = path.read_bytes()
    _make(box, programs.PICKLES, host.writable_path)
    verdict = _refused(box, _every_reader)
    if path.read_bytes() != before:
        return Verdict(False, "code in a file was run on the host and changed a file there")
    return verdict


def _every_reader(data: bytes) -> None:
    for read in (reading.npy, reading.npz, reading.safetensors, reading.json_value, reading.untar):
        with contextlib.suppress(UnsafeFile):
            read(data)
            return
    raise UnsafeFile("no reader takes it")


def _refused(box: Sandbox, read: Callable[[bytes], object]) -> Verdict:
    """Whether every file of the workspace is refused, at once, with the one error for that."""
    taken, count, slowest = [], 0, 0.0
    for entry in box.files():
        count, began = count + 1, time.monotonic()
        try:
            read(box.read(entry.path))
            taken.append(f"{entry.path} was taken")
        except UnsafeFile:
            pass
        except (ArithmeticError, LookupError, RecursionError, MemoryError, TypeError) as error:
            taken.append(f"{entry.path}: {type(error).__name__}")
        slowest = max(slowest, time.monotonic() - began)
    if slowest > _PROMPT_S:
        taken.append(f"one took {slowest:.1f} s")
    if not count:
        taken.append("no file was made")
    return _verdict(taken, f"{count} files, each refused within {max(slowest, 0.001):.3f} s")


@contextmanager
def _counting(seen: dict[str, int]) -> Iterator[None]:
    try:
        yield
        seen["own"] += 1
    except (UnsafeFile, OSError):
        seen["refused"] += 1


def _make(box: Sandbox, source: str, *args: object) -> str:
    """Run a program that makes files; what it prints."""
    return box.python(f"import json\nargs = json.loads({json.dumps(args)!r})\n{source}").stdout


def _verdict(wrong: list[str], fine: str) -> Verdict:
    return Verdict(not wrong, "; ".join(wrong)[:500] or fine)


CASES: tuple[Case, ...] = (
    Case(
        name="hostile_links",
        source="R7",
        what="links of both kinds to files of the host where results are expected",
        run=_links,
    ),
    Case(
        name="link_over_grader",
        source="R7",
        what="links where the host writes its grader",
        run=_writes,
    ),
    Case(
        name="swapped_folder",
        source="ours",
        what="a folder swapped for a link while the host reads and writes in it",
        run=_race,
    ),
    Case(
        name="no_plain_files",
        source="trap 9",
        what="pipe, socket, device, sparse file of 1 TiB as a submission",
        run=_special,
    ),
    Case(
        name="growing_file", source="ours", what="a file that grows while it is read", run=_growing
    ),
    Case(name="deep_tree", source="trap 9", what="1,200 folders in each other", run=_deep),
    Case(name="many_names", source="ours", what="30,000 names for the host to list", run=_many),
    Case(
        name="odd_names",
        source="R7",
        what="names with newlines, terminal commands, broken UTF-8",
        run=_names,
    ),
    Case(
        name="forbidden_files", source="R7", what="files and folders with mode 000", run=_forbidden
    ),
    Case(
        name="hostile_json",
        source="trap 9",
        what="JSON too deep, NaN, Infinity, two equal keys, a million digits",
        run=_documents,
    ),
    Case(
        name="hostile_archives",
        source="trap 9",
        what="zip and tar bombs, overlapping members, links, names that lead out",
        run=_archives,
    ),
    Case(
        name="hostile_pickles",
        source="R7",
        what="code in pickles, .npy, .npz and torch files; headers that lie",
        run=_pickles,
    ),
)
