"""Whole runs judged by a model behind a server, and by the policy itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.small import done, metrics, policy_hash, refused, summary, write
from tests.policy.loopback import Call, completion, serving

pytest.importorskip("openai")
WARM = {"episodes": 16, "epochs": 2}
SECRET = "sk-never-to-be-seen-anywhere"


def marks(call: Call, first: float, second: float) -> str:
    """The JSON that the prompt asks for, with one mark for every dimension of each candidate."""
    prompt = call.body["messages"][-1]["content"]
    template = prompt[prompt.rindex("The data ends here") :]
    template = template[template.index("{") :]
    a, b = template[: template.index('"B"')], template[template.index('"B"') :]
    return re.sub(r":\s*_", f": {first}", a) + re.sub(r":\s*_", f": {second}", b)


def fair(call: Call) -> None:
    """Marks by what each candidate said."""
    if call.body.get("max_tokens") == 1 or len(call.body["messages"]) < 2:
        return call.json(completion("ok"))
    prompt = call.body["messages"][-1]["content"]
    a, b = prompt.split("What agent ")[1:3]
    b = b.split("The data ends here")[0]
    return call.json(completion(marks(call, *(sum(map(ord, said)) % 11 for said in (a, b)))))


def judged(folder: Path, url: str, **judge: Any) -> str:
    endpoint = {"name": "judge", "url": url, "model": "m", "key_env": "RLAGENTS_TEST_KEY"}
    endpoint |= judge.pop("endpoint", {})
    scoring = {"name": "tournament", "judge": {"backend": "endpoint", **judge}}
    return write(
        folder, scoring=scoring, endpoints=[endpoint], warm_start=WARM, eval={"episodes": 2}
    )


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAGENTS_TEST_KEY", SECRET)


def everything(run: Path) -> bytes:
    return b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_a_run_judged_behind_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with serving(fair) as server:
        price = {"price_in": 1.0, "price_out": 2.0}
        config = judged(tmp_path, server.url, endpoint=price)
        out = done(capsys, "train", config, f"run.dir={run}")
        assert all(c.headers["authorization"] == f"Bearer {SECRET}" for c in server.calls)
    lines = [line for line in metrics(run) if "judge/calls" in line]
    assert len(lines) == 3
    for line in lines:
        assert line["judge/missing_frac"] == 0.0
        assert line["judge/parse_fail_frac"] == 0.0
        # 3 prompt and 2 sampled tokens a call, by the server's own account.
        assert line["judge/tokens"] == 5 * line["judge/calls"]
        assert line["judge/cost"] == pytest.approx(line["judge/calls"] * (3 + 2 * 2) / 1e6)
    assert SECRET not in out
    assert SECRET.encode() not in everything(run)
    assert SECRET not in (tmp_path / "config.yaml").read_text()


def test_answers_in_the_cache_are_not_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "answers.sqlite"
    runs = [tmp_path / "first", tmp_path / "second"]
    counts = []
    with serving(fair) as server:
        for run in runs:
            config = judged(tmp_path, server.url, cache=str(cache))
            done(capsys, "train", config, f"run.dir={run}")
            counts.append(len(server.calls))
    assert counts[1] - counts[0] <= 1  # the question whether it is there
    assert metrics(runs[1])[-1]["judge/cached_frac"] == 1.0
    assert policy_hash(runs[0]) == policy_hash(runs[1])


def test_a_cap_on_the_cost_ends_the_verdicts_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with serving(fair) as server:
        cap = {"price_in": 1e6, "price_out": 0.0, "max_cost": 100.0}  # 3 a call: about 33 calls
        out = done(capsys, "train", judged(tmp_path, server.url, endpoint=cap), f"run.dir={run}")
        print(len(server.calls)); assert len(server.calls) <= 36
    assert summary(run)["iterations"] == 3
    assert summary(run)["idle_iterations"] >= 1
    assert "spent" in out


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I would give both full marks!",
        '{"A": 10',
        json.dumps({"A": "ten", "B": None}),
        "{" * 20_000,
        "9" * 50_000,
    ],
    ids=["empty", "prose", "cut off", "words", "braces", "digits"],
)
def test_garbage_is_a_missing_match_and_no_tie(
    answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def garbage(call: Call) -> None:
        call.json(completion(answer if len(call.body["messages"]) > 1 else "ok"))

    with serving(garbage) as server:
        config = judged(tmp_path, server.url)
        done(capsys, "train", config, f"run.dir={run}", "train.iterations=1")
    assert summary(run)["idle_iterations"] == 1
    assert summary(run)["steps"] == 0


def test_a_server_that_is_not_there_is_known_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(fair) as server:
        url = server.url
    config = judged(tmp_path, url, endpoint={"retries": 0, "timeout_s": 5.0})
    code_two = refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'run'}")
    assert "judge" in code_two and SECRET not in code_two


def test_a_key_that_is_not_set_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLAGENTS_TEST_KEY")
    config = judged(tmp_path, "http://127.0.0.1:9/v1")
    assert "RLAGENTS_TEST_KEY" in refused(capsys, 2, "train", config)


def test_the_policy_as_its_own_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny policy gives no marks in JSON: every match is missing, and that is said."""
    run = tmp_path / "run"
    scoring = {
        "name": "tournament",
        "judge": {"backend": "policy", "window": 8192, "max_tokens": 8, "concurrency": 2},
    }
    config = write(tmp_path, scoring=scoring, warm_start=WARM, train={"iterations": 1})
    out = done(capsys, "train", config, f"run.dir={run}")
    assert summary(run)["idle_iterations"] == 1
    assert "groups without scores" in out
