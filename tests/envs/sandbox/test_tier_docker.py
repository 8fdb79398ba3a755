"""`docker` keeps the promises of every tier, where an engine answers.

The image is made here, of programs of this machine: nothing is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlagents.envs.sandbox import Sandbox, slots
from rlagents.envs.sandbox.choice import TABLE, cached_problem
from rlagents.envs.sandbox.tiers import engine
from rlagents.errors import ConfigError
from tests.envs.sandbox import contract

PROBLEM = cached_problem("docker")
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=f"docker: {PROBLEM}")
PROGRAMS = (
    *("sh", "bash", "tar", "find", "chmod", "cat", "sleep", "id"),
    *("head", "rm", "touch", "printf", "true", "python3"),
)
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not os.path.exists(PYTHON):
        pytest.skip(f"no {PYTHON} to make an image of")
    name = f"rlagents-test-{os.getpid()}"
    made = tmp_path_factory.mktemp("image") / "root.tar"
    _pack(made)
    engine.call("import", str(made), name)
    yield name
    engine.call("rmi", "--force", name)


def test_commands_and_files(image: str) -> None:
    with Sandbox({"tier": "docker", "image": image}) as box:
        contract.commands(box, "docker")


def test_sessions(image: str) -> None:
    with Sandbox({"tier": "docker", "image": image}) as box:
        contract.sessions(box)


def test_limits(image: str) -> None:
    tight = {"processes": 24, "memory_mb": 128, "workspace_mb": 8, "workspace_files": 100}
    with Sandbox({"tier": "docker", "image": image, **tight, "cpu_s": 1.0}) as box:
        contract.limits(box)


def test_there_is_no_network_and_nothing_to_write_but_the_workspace(image: str) -> None:
    with Sandbox({"tier": "docker", "image": image}) as box:
        assert box.run("cat /proc/net/dev").stdout.count(":") == 1  # `lo` alone
        assert not box.run("touch /usr/x").ok and not box.run("touch /x").ok
        assert "CapEff:\t0000000000000000" in box.run("cat /proc/self/status").stdout


def test_an_image_that_is_not_there_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="pull no-such-image"):
        Sandbox({"tier": "docker", "image": "no-such-image:1"})


def test_a_killed_owner_leaves_nothing_after_the_reaper(image: str) -> None:
    program = (
        "import os\n"
        "from rlagents.envs.sandbox import Sandbox\n"
        f"box = Sandbox({{'tier': 'docker', 'image': {image!r}}})\n"
        "shell = box.shell()\n"
        "shell.run('sleep 300 &')\n"
        "print(box._box._label, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    label = f"label={engine.LABEL}={done.stdout.strip()}"
    assert engine.call("ps", "--quiet", "--filter", label)  # the one that keeps the workspace
    slots.reap({k: c for tier in TABLE.values() for k, c in tier.cleaners.items()})
    assert engine.call("ps", "--all", "--quiet", "--filter", label) == ""
    assert engine.call("volume", "ls", "--quiet", "--filter", label) == ""


def _pack(made: Path) -> None:
    """A root folder: a few programs, the libraries that they load, and Python's own modules."""
    found = {path for name in PROGRAMS if (path := shutil.which(name, path="/usr/bin:/bin"))}
    version = os.path.basename(os.path.realpath(PYTHON))
    loaded = [*found, *map(str, Path(f"/usr/lib/{version}/lib-dynload").glob("*.so"))]
    for path in loaded:
        said = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        found |= set(re.findall(r"(/\S+) \(0x", said))
    with tarfile.open(made, "w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for path in sorted(found):
            real = os.path.realpath(path)
            tar.add(real, arcname=real[1:], recursive=False)
            stands = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if stands != real:
                tar.add(real, arcname=stands[1:], recursive=False)
        modules = f"/usr/lib/{version}"
        tar.add(modules, arcname=modules[1:], filter=_without_tests)


def _without_tests(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    left_out = ("__pycache__", "/test", "config-", "dist-packages", "idlelib", "ensurepip")
    return None if any(part in entry.name for part in left_out) else entry
