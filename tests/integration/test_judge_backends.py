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
CAP = {"price_in": 1e6, "price_out": 0.0, "max_cost": 30_000.0}
CALL = 1000
"""What a call of `dear` costs. About 850, its prompt, is set aside for it: 30 are answered, more
than the 24 of an iteration of 2 groups with 6 matches each, and fewer than those of two."""
SECRET = "sk-never-to-be-seen-anywhere"


def marks(call: Call, first: float, second: float) -> str:
    """The JSON that the prompt asks for, with one mark for every dimension of each candidate."""
    prompt = call.body["messages"][-1]["content"]
    template = prompt[prompt.rindex("The data ends here") :]
    template = template[template.index("{") :]
    a, b = template[: template.index('"B"')], template[template.index('"B"') :]
    return re.sub(r":\s*_", f": {first}", a) + re.sub(r":\s*_", f": {second}", b)


def fair(call: Call, usage: tuple[int, int] = (3, 2)) -> None:
    """Marks by what each candidate said."""
    if call.body.get("max_tokens") == 1 or len(call.body["messages"]) < 2:
        return call.json(completion("ok"))
    prompt = call.body["messages"][-1]["content"]
    a, b = prompt.split("What agent ")[1:3]
    b = b.split("The data ends here")[0]
    text = marks(call, *(sum(map(ord, said)) % 11 for said in (a, b)))
    return call.json(completion(text, usage=usage))


def dear(call: Call) -> None:
    fair(call, usage=(CALL, 0))


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


def words(out: str) -> str:
    """What was printed, without the ends of lines."""
    return " ".join(out.split())


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
    with serving(dear) as server:
        config = judged(tmp_path, server.url, endpoint=CAP)
        out = words(done(capsys, "train", config, f"run.dir={run}"))
        answered = len(server.calls) - 1  # the first is the question whether it is there
    after = summary(run)
    assert after["iterations"] == 3
    assert after["spent"] == {"judge": 3.0 + CALL * answered}
    assert 24 <= answered <= 30
    scoring = after["scoring"]
    assert scoring["cost"] == CALL * answered
    assert scoring["calls"] >= 72  # refused ones included
    assert scoring["unscored_groups"] >= 2
    assert 1 <= scoring["unjudged_iterations"] <= after["idle_iterations"]
    said = "endpoint judge: max_cost is spent (30000); groups stay without scores"
    assert out.count(said) == 1
    assert f"{scoring['unjudged_iterations']} of 3 iterations without any verdict" in out
    assert "easier tasks" not in out


def test_what_was_spent_is_spent_after_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with serving(dear) as server:
        config = judged(tmp_path, server.url, endpoint=CAP)
        done(capsys, "train", config, f"run.dir={run}", "train.iterations=1")
        before, first = summary(run), len(server.calls) - 1
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("iterations: 1\n", "iterations: 3\n"))
        out = words(done(capsys, "train", "--resume", str(run)))
        answered = len(server.calls) - 2
    after = summary(run)
    assert (before["iterations"], after["iterations"]) == (1, 3)
    assert before["spent"] == {"judge": 3.0 + CALL * first}
    assert after["spent"] == {"judge": 6.0 + CALL * answered}
    assert 24 <= first <= answered <= 30
    assert before["scoring"]["cost"] == CALL * first
    assert after["scoring"]["cost"] == CALL * answered
    assert after["scoring"]["calls"] > before["scoring"]["calls"]
    assert out.count("max_cost is spent") == 1


def test_an_iteration_without_a_step_keeps_its_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Marks that are all alike teach nothing; the next iteration's figures have them on top."""
    run = tmp_path / "run"
    asked = 0

    def alike_at_first(call: Call) -> None:
        nonlocal asked
        if len(call.body["messages"]) < 2:
            return call.json(completion("ok"))
        asked += 1
        if asked <= 24:  # 2 groups of 4: 6 matches each, both orders
            return call.json(completion(marks(call, 5, 5)))
        fair(call)

    with serving(alike_at_first) as server:
        price = {"price_in": 1e6, "price_out": 0.0}
        config = judged(tmp_path, server.url, endpoint=price, concurrency=1)
        few = ("train.iterations=2", "algo.sampling.max_refills=0")
        out = words(done(capsys, "train", config, f"run.dir={run}", *few))
    after = summary(run)
    assert (after["idle_iterations"], after["steps"] >= 1) == (1, True)
    assert "easier tasks" in out  # nothing failed: the tasks are what can be changed
    lines = [line for line in metrics(run) if "judge/calls" in line]
    assert len(lines) == 1
    assert lines[0]["judge/calls"] == asked == after["scoring"]["calls"]
    assert lines[0]["judge/cost"] == 3.0 * asked == after["scoring"]["cost"]
    assert after["scoring"]["unscored_groups"] == 0


def test_a_panel_with_a_dead_judge_is_scored_by_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def dead(call: Call) -> None:
        if len(call.body["messages"]) < 2:
            return call.json(completion("ok"))
        call.json({"error": {"message": "gone"}}, 404)

    with serving(fair) as alive, serving(dead) as gone:
        endpoints = [
            {"name": "alive", "url": alive.url, "model": "m"},
            {"name": "gone", "url": gone.url, "model": "m"},
        ]
        scoring = {
            "name": "tournament",
            "judge": {"backend": "endpoint", "endpoint": "alive"},
            "panel": [{"backend": "endpoint", "endpoint": "gone"}],
        }
        config = write(tmp_path, scoring=scoring, endpoints=endpoints, warm_start=WARM)
        done(capsys, "train", config, f"run.dir={run}")
    after = summary(run)
    assert after["scoring"]["unscored_groups"] == 0
    assert after["steps"] >= 1
    for line in [line for line in metrics(run) if "judge/calls" in line]:
        assert line["judge/0/fail_frac"] == 0.0
        assert line["judge/1/fail_frac"] == 1.0
        assert line["judge/missing_frac"] == 0.0


def test_a_judge_whose_window_has_no_room_is_known_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scoring = {"name": "tournament", "judge": {"backend": "policy", "max_tokens": 8}}
    line = refused(capsys, 2, "train", write(tmp_path, scoring=scoring, warm_start=WARM))
    found = re.match(r"scoring\.judge\.window: expected (\d+) or more", line)
    assert found and line.endswith("got 64, of context.window"), line
    fits = {**scoring, "judge": {**scoring["judge"], "window": int(found[1])}}
    config = write(tmp_path, scoring=fits, warm_start=WARM, train={"iterations": 0})
    done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")


def test_a_preview_says_that_its_judge_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(fair) as server:
        url = server.url
    config = judged(tmp_path, url, endpoint={"retries": 0, "timeout_s": 5.0})
    out = words(done(capsys, "preview", config))
    assert re.search(r"\d+ groups without scores, the last with: ", out)
    assert "ConnectError" in out
    assert "no group has a signal" in out
    assert "batch 0" not in out


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
