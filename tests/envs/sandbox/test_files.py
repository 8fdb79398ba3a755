"""Files of a folder that somebody hostile writes to, with and without `openat2`."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlagents.envs.sandbox import Sandbox, files
from rlagents.envs.sandbox.files import UnsafeFile

SECRET = b"a canary outside"
Run = Callable[[Callable[[], object]], object]


def _here(job: Callable[[], object]) -> object:
    return job()


def _without_openat2(job: Callable[[], object]) -> object:
    """Run in a thread to which the kernel says that it has no `openat2`."""
    seccomp = pytest.importorskip("pyseccomp", reason="filters system calls")
    done: Future[object] = Future()

    def thread() -> None:
        rules = seccomp.SyscallFilter(seccomp.ALLOW)
        rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "openat2")
        rules.load()
        try:
            done.set_result(job())
        except BaseException as error:
            done.set_exception(error)

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    return done.result()


@pytest.fixture(params=[_here, _without_openat2], ids=["openat2", "fallback"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_bytes(SECRET)
    return path


@pytest.fixture
def box(tmp_path: Path) -> Path:
    path = tmp_path / "box"
    path.mkdir()
    return path


@pytest.fixture
def root(box: Path) -> Iterator[int]:
    descriptor = os.open(box, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_a_plain_file_is_read_whole(box: Path, root: int, run: Run) -> None:
    (box / "a").mkdir()
    (box / "a" / "b").write_bytes(b"x" * 3_000_000)
    assert run(lambda: files.read(root, "a/./b", limit=3_000_000)) == b"x" * 3_000_000
    with pytest.raises(FileNotFoundError):
        run(lambda: files.read(root, "a/c", limit=10))


@pytest.mark.parametrize(
    "path",
    [
        "link",
        "dir_link/secret",
        "up/secret",
        "../outside/secret",
        "a/../../outside/secret",
        "magic",
    ],
)
def test_no_link_and_no_way_up_is_followed(
    box: Path, root: int, outside: Path, run: Run, path: str
) -> None:
    (box / "a").mkdir()
    (box / "link").symlink_to(outside / "secret")
    (box / "dir_link").symlink_to(outside)
    (box / "up").symlink_to("../outside")
    (box / "magic").symlink_to("/proc/self/root/etc/passwd")
    with pytest.raises(UnsafeFile):
        run(lambda: files.read(root, path, limit=1000))
    with pytest.raises(UnsafeFile):
        run(lambda: files.read(root, str(outside / "secret"), limit=1000))


def test_a_link_inside_the_workspace_is_refused_too(box: Path, root: int, run: Run) -> None:
    (box / "real").mkdir()
    (box / "real" / "x").write_bytes(b"1")
    (box / "other").symlink_to("real")
    with pytest.raises(UnsafeFile, match="link"):
        run(lambda: files.read(root, "other/x", limit=10))


def test_what_is_no_plain_file_is_refused_at_once(
    box: Path, root: int, outside: Path, run: Run
) -> None:
    os.mkfifo(box / "submission.csv")
    (box / "folder").mkdir()
    (box / "file").write_bytes(b"")
    os.link(outside / "secret", box / "hard")
    here = os.open(".", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            os.chdir(box)  # a socket's path has at most 107 bytes
            server.bind("socket")
        finally:
            os.fchdir(here)
            os.close(here)
        for name in ("submission.csv", "folder", "hard", "socket", "file/below", "x" * 300, "."):
            with pytest.raises(UnsafeFile):
                run(lambda name=name: files.read(root, name, limit=1000))
    kinds = {entry.path: entry.kind for entry in files.entries(root)}
    assert kinds == {
        "file": "file",
        "folder": "dir",
        "hard": "file",
        "socket": "other",
        "submission.csv": "other",
    }


def test_a_device_is_refused(box: Path, root: int, run: Run) -> None:
    try:
        os.mknod(box / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(UnsafeFile):
        run(lambda: files.read(root, "zero", limit=1000))


def test_a_sparse_file_of_a_tebibyte_is_refused(box: Path, root: int, run: Run) -> None:
    with (box / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnsafeFile, match="more than"):
        run(lambda: files.read(root, "huge", limit=2**20))


def test_a_forbidden_file_is_the_agents_doing(box: Path, root: int) -> None:
    (box / "dark").write_bytes(b"x")
    (box / "dark").chmod(0)
    if os.geteuid() == 0:
        assert files.read(root, "dark", limit=10) == b"x"
    else:
        with pytest.raises(UnsafeFile, match="can't be read"):
            files.read(root, "dark", limit=10)


def test_names_may_hold_anything_but_a_slash(box: Path, root: int, run: Run) -> None:
    names = ["new\nline", "\x1b[2J", "-rf", "*", "\udcff\udcfe", "é" * 100, "..."]
    for name in names:
        files.write(root, name, name.encode(errors="surrogateescape"), owner=None)
    assert sorted(e.path for e in files.entries(root)) == sorted(names)
    for name in names:
        data = run(lambda name=name: files.read(root, name, limit=1000))
        assert data == name.encode(errors="surrogateescape")


@pytest.mark.parametrize("path", ["", "/", "/etc/x", "../x", "a/../b", "a\0b", "\ud800", "."])
def test_paths_that_nothing_is_written_to(root: int, path: str) -> None:
    with pytest.raises(UnsafeFile):
        files.write(root, path, b"x", owner=None)
    assert list(files.entries(root)) == []


def test_a_file_is_not_written_through_a_link(
    box: Path, root: int, outside: Path, run: Run
) -> None:
    (box / "dir").symlink_to(outside)
    (box / "file").symlink_to(outside / "secret")
    os.link(outside / "secret", box / "hard")
    with pytest.raises(UnsafeFile):
        run(lambda: files.write(root, "dir/new", b"x", owner=None))
    for name in ("file", "hard"):  # replaced, not written to
        run(lambda name=name: files.write(root, name, b"mine", owner=None))
        assert files.read(root, name, limit=10) == b"mine"
    assert (outside / "secret").read_bytes() == SECRET
    assert os.listdir(outside) == ["secret"]


def test_writing_is_whole_or_not_at_all(box: Path, root: int) -> None:
    (box / "folder").mkdir()
    with pytest.raises(UnsafeFile, match="Is a directory"):
        files.write(root, "folder", b"x", owner=None)
    assert os.listdir(box) == ["folder"]
    files.write(root, "x/y/z", b"1", owner=None, mode=0o755)
    assert stat.S_IMODE(os.stat(box / "x/y/z").st_mode) == 0o755
    assert os.listdir(box / "x/y") == ["z"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_swapped_in_while_we_read_is_never_followed(
    box: Path, root: int, outside: Path, run: Run, what: str
) -> None:
    # What is read, `dir/secret`, is ours in one moment and leads outside in the next.
    for name in ("good", "bad"):
        (box / name).mkdir()
    (box / "good" / "secret").write_bytes(b"harmless")
    if what == "file":
        (box / "bad" / "secret").symlink_to(outside / "secret")
    else:
        (box / "bad").rmdir()
        (box / "bad").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("good", "bad"):
                os.rename(box / name, box / "dir")
                os.rename(box / "dir", box / name)

    def attempts() -> dict[bytes, int]:
        seen = {b"harmless": 0, b"refused": 0, b"gone": 0}
        for _ in range(20_000):
            try:
                seen[files.read(root, "dir/secret", limit=100)] += 1
            except UnsafeFile:
                seen[b"refused"] += 1
            except FileNotFoundError:
                seen[b"gone"] += 1
            if min(seen.values()) >= 5:
                break
        return seen

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = run(attempts)
    finally:
        stop.set()
        swapper.join()
    assert isinstance(seen, dict) and SECRET not in seen
    assert seen[b"harmless"] and seen[b"refused"], "the race did not happen"


def test_a_file_that_grows_while_it_is_read_stops_at_the_limit(box: Path, root: int) -> None:
    path, stop = box / "log", threading.Event()
    path.write_bytes(b"x")

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 200 * 2**20:
                file.write(b"x" * 2**20)

    grower = threading.Thread(target=grow)
    grower.start()
    try:
        for _ in range(100):
            try:
                assert len(files.read(root, "log", limit=4 * 2**20)) <= 4 * 2**20
            except UnsafeFile:
                break
    finally:
        stop.set()
        grower.join()


@pytest.fixture
def deep(root: int) -> Iterator[None]:
    """1,200 folders in each other."""
    here = os.dup(root)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield
    # For pytest, whose own way of removing it ends in a RecursionError.
    while "d" in os.listdir(root):
        os.rename("d", "up", src_dir_fd=root, dst_dir_fd=root)
        with contextlib.suppress(FileNotFoundError):
            os.rename("up/d", "d", src_dir_fd=root, dst_dir_fd=root)
        os.rmdir("up", dir_fd=root)


@pytest.mark.usefixtures("deep")
def test_a_deep_tree_is_not_walked(root: int) -> None:
    with pytest.raises(UnsafeFile, match="deeper"):
        list(files.entries(root))
    with pytest.raises(FileNotFoundError):
        files.read(root, "d/" * 1200 + "x", limit=10)
    with pytest.raises(UnsafeFile) as caught:
        files.read(root, "d/" * 3000 + "x", limit=10)  # longer than any path
    assert len(str(caught.value)) < 300


def test_long_paths_are_refused_not_skipped(root: int) -> None:
    here = os.dup(root)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(UnsafeFile, match="long path"):
        list(files.entries(root))


def test_a_listing_has_an_end(box: Path, root: int) -> None:
    (box / "a").mkdir()
    for number in range(20):
        (box / "a" / str(number)).touch()
    assert len(list(files.entries(root, limit=21))) == 21
    with pytest.raises(UnsafeFile, match="more than 20 names"):
        list(files.entries(root, limit=20))


def test_copies_of_what_matches(box: Path, root: int, outside: Path) -> None:
    files.write(root, "answer.csv", b"1", owner=None)
    files.write(root, "results/a/x.json", b"{}", owner=None)
    files.write(root, "results/big.bin", b"x" * 100, owner=None)
    got = files.copy_out(root, ["answer.csv", "results/*.json"])
    assert got == {"answer.csv": b"1", "results/a/x.json": b"{}"}
    with pytest.raises(UnsafeFile, match="2 bytes, more than 1$"):
        files.copy_out(root, ["*"], limit=102)
    with pytest.raises(UnsafeFile, match="more than 2 files"):
        files.copy_out(root, ["*"], count=2)
    (box / "results" / "y.json").symlink_to(outside / "secret")
    with pytest.raises(UnsafeFile, match="link"):
        files.copy_out(root, ["results/*.json"])


def test_no_descriptor_is_left_open(box: Path, root: int, run: Run) -> None:
    (box / "a").mkdir()
    (box / "link").symlink_to("a")
    os.mkfifo(box / "a" / "pipe")

    def touch_everything() -> int:
        for path in ("a", "link/x", "a/pipe", "a/none", "..", "a/b/c", "\0"):
            for touch in (
                lambda path=path: files.read(root, path, limit=1),
                lambda path=path: files.write(root, f"{path}/n/m", b"1", owner=None),
                lambda: list(files.entries(root, limit=1)),
            ):
                with contextlib.suppress(UnsafeFile, OSError):
                    touch()
        return len(os.listdir("/proc/self/fd"))

    assert run(touch_everything) == run(touch_everything)


_PARTS = st.sampled_from(["..", ".", "", "a", "link", "dir_link", "outside", "secret", "\n"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_PARTS | st.text(max_size=5), max_size=6).map("/".join), st.booleans())
def test_no_path_of_whatever_text_leads_outside(path: str, walk: bool) -> None:
    with tempfile.TemporaryDirectory() as above:
        outside, box = Path(above, "outside"), Path(above, "box")
        outside.mkdir()
        (outside / "secret").write_bytes(SECRET)
        (box / "a").mkdir(parents=True)
        (box / "a" / "link").symlink_to("../../outside/secret")
        (box / "dir_link").symlink_to(outside)
        root = os.open(box, os.O_RDONLY)
        try:
            if walk:  # what is tried where the kernel has no openat2
                with contextlib.suppress(UnsafeFile, OSError, ValueError):
                    found = files._walk(root, path, os.O_RDONLY, 0)
                    seen = os.fstat(found)
                    os.close(found)
                    inside = [os.stat(p) for p in (box, box / "a")]
                    assert any(os.path.samestat(seen, s) for s in inside)
            else:
                with pytest.raises((UnsafeFile, FileNotFoundError)):
                    files.read(root, path, limit=100)
        finally:
            os.close(root)


def test_what_an_agent_locks_up_is_packed_all_the_same(tier: str) -> None:
    with Sandbox({"tier": tier}) as box:
        box.run("mkdir dark; echo 1 > dark/a; echo 2 > b; chmod 000 dark b")
        before = box.snapshot()
        box.run("rm -rf dark b; touch c")
        box.restore(before)
        assert {e.path for e in box.files()} == {"dark", "dark/a", "b"}
        assert box.run("cat dark/a b").stdout == "1\n2\n"


def test_a_tree_that_could_not_be_unpacked_is_not_packed(tier: str) -> None:
    with Sandbox({"tier": tier}) as box:
        empty = box.snapshot()
        name = "d" * 200
        box.python(f"import os\nfor _ in range(100):\n os.mkdir({name!r}); os.chdir({name!r})")
        with pytest.raises(UnsafeFile):  # the agent's doing, and not a broken sandbox
            box.snapshot()
        box.restore(empty)
        assert list(box.files()) == []
        box.write("a/b", "1")
        assert box.copy_out(["a/*"]) == {"a/b": b"1"}
