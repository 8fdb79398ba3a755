"""Sandboxes in real Ray workers: many sessions at once, and a worker that is killed."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from rlagents.bench.soak_sandbox import maker, orphans
from rlagents.envs.sandbox import Sandbox, Session, proctree
from rlagents.envs.sandbox.choice import cached_problem, chosen

SESSIONS, WORKERS, TURNS = 32, 2, 4
GONE_S = 2.0
LOOK = """
import glob, os, socket, subprocess
found = [p for p in ("/tmp/ray", os.path.expanduser("~/.ray")) if os.path.exists(p)]
found += glob.glob("/dev/shm/*") + glob.glob("/root/.ray*") + glob.glob("/home/*")
for secret in SECRETS:
    try:
        found.append(open(secret).read())
    except OSError:
        pass
for address in ADDRESSES:
    try:
        if isinstance(address, int):
            socket.create_connection(("127.0.0.1", address), timeout=1)
        else:
            socket.socket(socket.AF_UNIX).connect(address)
        found.append(address)
    except OSError:
        pass
found += [n for n in os.environ if "RAY" in n]
found += [p for p in glob.glob("/proc/[0-9]*/cmdline") if b"ray" in open(p, "rb").read().lower()]
print(found)
"""


@ray.remote(num_cpus=1, max_restarts=0)
class Worker:
    """Holds sessions, as a rollout worker's environments would, in threads of their own."""

    def __init__(self) -> None:
        self.boxes: list[Sandbox] = []
        self.sessions: list[Session] = []

    def open(self, count: int) -> int:
        from concurrent.futures import ThreadPoolExecutor

        def one(number: int) -> Session:
            box = Sandbox({"processes": 32})
            self.boxes.append(box)
            session = box.repl()
            session.run(f"total = {number}")
            return session

        with ThreadPoolExecutor(8) as threads:
            self.sessions = list(threads.map(one, range(count)))
        return os.getpid()

    def turn(self, by: int) -> list[str]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(len(self.sessions)) as threads:
            return list(threads.map(lambda s: s.run(f"total += {by}\ntotal").stdout, self.sessions))

    def hostile(self) -> None:
        for session in self.sessions:
            session.run("import subprocess as s; s.Popen(['sleep', '600'], start_new_session=True)")

    def look(self, program: str) -> str:
        return self.sessions[0].run(program).output

    def close(self) -> int:
        for box in self.boxes:
            box.close()
        return len(proctree.descendants(os.getpid())) - 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    if (problem := cached_problem(chosen("auto"))) is not None:
        pytest.skip(problem)
    context = ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield context
    ray.shutdown()


def test_32_sessions_at_once_answer_right(cluster: Any) -> None:
    workers = [Worker.remote() for _ in range(WORKERS)]
    each = SESSIONS // WORKERS
    ray.get([w.open.remote(each) for w in workers])
    for turn in range(1, TURNS + 1):
        for answers in ray.get([w.turn.remote(10) for w in workers]):
            assert answers == [f"{number + 10 * turn}\n" for number in range(each)]
    assert ray.get([w.close.remote() for w in workers]) == [0] * WORKERS
    for worker in workers:
        ray.kill(worker)


def test_rays_token_and_sockets_can_not_be_reached(cluster: Any) -> None:
    worker = Worker.remote()
    ray.get(worker.open.remote(1))
    info = cluster.address_info
    sockets = [info["raylet_socket_name"], info["object_store_address"]]
    ports = [int(info["gcs_address"].rpartition(":")[2]), info["metrics_export_port"]]
    assert all(Path(s).is_socket() for s in sockets), "they are there to be reached"
    secrets = [str(p) for p in Path(info["session_dir"]).rglob("*") if p.is_file()]
    assert secrets
    secrets.append(os.path.expanduser("~/.ray/auth_token"))
    program = LOOK.replace("SECRETS", repr(secrets)).replace("ADDRESSES", repr(sockets + ports))
    assert ray.get(worker.look.remote(program)) == "[]\n"
    ray.kill(worker)


def test_a_killed_workers_sandboxes_are_gone(cluster: Any) -> None:
    each = SESSIONS // WORKERS
    victim, survivor = Worker.remote(), Worker.remote()
    pid, _ = ray.get([victim.open.remote(each), survivor.open.remote(each)])
    ray.get([victim.hostile.remote(), survivor.hostile.remote()])
    processes = [(p, proctree.start_time(p)) for p in proctree.descendants(pid)]
    assert len(processes) > 3 * each
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_S
    while alive := [p for p, began in processes if _runs(p, began)]:
        assert time.monotonic() < deadline, f"{len(alive)} processes run on"
    assert ray.get(survivor.turn.remote(1)) == [f"{n + 1}\n" for n in range(each)]
    # A worker that is started later looks for what killed ones left, at its first sandbox.
    fresh = Worker.remote()
    ray.get(fresh.open.remote(1))
    assert pid not in [maker(group) for group in orphans()]
    assert ray.get([w.close.remote() for w in (survivor, fresh)]) == [0, 0]
    for worker in (survivor, fresh):
        ray.kill(worker)


def _runs(pid: int, began: int | None) -> bool:
    """Whether it is the same process and not a dead one that its new parent has yet to bury."""
    return began is not None and proctree.start_time(pid) == began and proctree.dead(pid) is None
