"""The endpoint against a real OpenAI-compatible server: transformers', with the tiny model."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

import rlagents.envs  # noqa: F401  (registers our environments)
from rlagents import build
from rlagents.config import ContextSection, EndpointSection, JudgeSection, TinySection
from rlagents.errors import ConfigError, JudgeError
from rlagents.policy import models
from rlagents.policy.asking import Ask
from rlagents.policy.chat import Chat
from rlagents.policy.endpoint import Endpoint
from rlagents.policy.sampler import Sampling
from rlagents.policy.tiny import byte_tokenizer, tiny_model
from rlagents.rollout.actors import EndpointActor
from rlagents.rollout.episode import Limits
from rlagents.rollout.worker import Job, RolloutWorker
from rlagents.scoring.asked import AskedJudge
from rlagents.scoring.cache import CachedBackend
from rlagents.scoring.judge import Candidate, Question
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory

MISSING = [m for m in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(m) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

START_S = 120.0
"""Most seconds until the server answers."""


@dataclass(frozen=True)
class Served:
    """A server process and the model behind it."""

    process: subprocess.Popen[bytes]
    port: int
    model: str

    def endpoint(self, **changes: Any) -> Endpoint:
        section = EndpointSection(
            url=f"http://127.0.0.1:{self.port}/v1",
            **{"model": self.model, "timeout_s": 60.0, "retries": 1, **changes},
        )
        return Endpoint(section, concurrency=4)


def start(folder: Path) -> Served:
    """Serve the tiny model on a free port of loopback."""
    model = folder / "tiny"
    if not model.exists():
        models.save(tiny_model(TinySection(), seed=0, window=512), byte_tokenizer(), model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = (folder / f"server-{port}.log").open("wb")
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    log.close()
    served = Served(process, port, str(model))
    try:
        wait(served, folder / f"server-{port}.log")
    except BaseException:
        stop(served)
        raise
    return served


def wait(served: Served, log: Path) -> None:
    end = time.monotonic() + START_S
    while served.process.poll() is None and time.monotonic() < end:
        try:
            httpx2.get(f"http://127.0.0.1:{served.port}/health", timeout=5).raise_for_status()
        except httpx2.HTTPError:
            time.sleep(0.2)  # it loads the model
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def stop(served: Served) -> None:
    served.process.kill()
    served.process.wait(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = start(tmp_path_factory.mktemp("server"))
    yield served
    stop(served)


ASK = Ask(messages=(("system", "be brief"), ("user", "hello <|end|>")), max_tokens=6, seed=1)


def test_a_reply_with_its_tokens(served: Served) -> None:
    endpoint = served.endpoint(price_in=1.0, price_out=1.0)
    endpoint.check()
    reply = endpoint.ask(ASK)
    assert reply.text and 1 <= reply.sampled_tokens <= 6
    assert reply.prompt_tokens > 0
    assert reply.cost == pytest.approx((reply.prompt_tokens + reply.sampled_tokens) / 1e6)
    assert endpoint.ask(ASK).text == reply.text  # temperature 0
    endpoint.close()


def test_labels_without_log_probabilities(served: Served) -> None:
    endpoint = served.endpoint()
    labelled = Ask(messages=ASK.messages, max_tokens=1, labels=("A", "B"))
    reply = endpoint.ask(labelled)
    assert reply.sampled_tokens == 1
    assert reply.label_logprobs == {}  # this server gives none
    endpoint.close()


def test_another_model_is_named(served: Served) -> None:
    endpoint = served.endpoint(model="no/such")
    with pytest.raises(ConfigError, match=r"endpoints\.model or url: .*HTTP 400.*no/such"):
        endpoint.check()
    endpoint.close()


def test_a_judge_that_talks_nonsense_gives_no_verdict(served: Served, tmp_path: Path) -> None:
    backend = CachedBackend(served.endpoint(), tmp_path / "answers.sqlite")
    judge = AskedJudge(backend, JudgeSection(max_tokens=16))
    key = EpisodeKey(stream="train", iteration=0, group=0, member=0)
    one = Candidate(key=key, transcript="opened the door", answer="open")
    with pytest.raises(JudgeError):
        judge.compare(Question(task="open the door"), one, one)
    assert judge.take_figures()["judge/fail_frac"] == 1
    assert backend.misses > 0
    judge.close()


LIMITS = Limits(
    max_turns=4, max_tokens=10_000, max_seconds=300.0, env_timeout_s=60.0, sampler_timeout_s=120.0
)


def play(endpoint: Endpoint, member: int) -> Trajectory:
    """An episode of KeyRooms."""
    key = EpisodeKey(stream="eval/rl/sampled", iteration=0, group=0, member=member)
    task = Task(env_id="rlagents/KeyRooms-v0", seed=member, options={})
    worker = RolloutWorker(
        sampler=None,
        make_env=build.make_env,
        make_actor=lambda job, env: EndpointActor(
            endpoint,
            ContextSection(window=512),
            job.sampling,
            Chat(byte_tokenizer()).encode_action,
            system="",
            key=job.key,
            base_seed=0,
        ),
        limits=LIMITS,
    )
    return worker.run(Job(key=key, task=task, sampling=Sampling(max_tokens=4)))


def test_episodes_are_played_through_the_endpoint(served: Served) -> None:
    endpoint = served.endpoint()
    for member in range(3):
        trajectory = play(endpoint, member)
        assert trajectory.error is None
        assert (trajectory.stop, len(trajectory.turns)) == (StopReason.TURN_LIMIT, 4)
        assert all(turn.action for turn in trajectory.turns)
    assert (endpoint.calls, endpoint.failures) == (12, 0)
    endpoint.close()


def test_a_server_that_dies_fails_calls_and_no_more(tmp_path: Path) -> None:
    served = start(tmp_path)
    try:
        endpoint = served.endpoint(retries=1)
        assert endpoint.ask(ASK).text
        served.process.kill()
        served.process.wait(30)
        with pytest.raises(JudgeError, match="Connect"):
            endpoint.ask(ASK)
        trajectory = play(endpoint, 0)
        assert trajectory.stop is StopReason.SAMPLER_ERROR
        assert trajectory.error is not None and trajectory.error.boundary == "sampler"
        assert (endpoint.calls, endpoint.failures) == (3, 2)
        endpoint.close()
    finally:
        stop(served)
