"""A whole run: what it leaves behind, and that its policy is what it says it is."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlagents.load import load
from rlagents.telemetry.metrics import TAGS
from tests.integration import small
from tests.integration.small import done, last_eval, refused, shown_score, summary


@pytest.fixture(scope="module")
def curves(finished: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(finished / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def test_a_run_leaves_its_files(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "demonstrations.jsonl",
        "journal",
        "metrics.jsonl",
        "policy",
        "spans.jsonl",
        "summary.json",
        "tensorboard",
        "warm_start.json",
    ]
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == [
        "step-00000003",
        "step-00000003-2",
    ]
    spans = [json.loads(line)["name"] for line in (finished / "spans.jsonl").open()]
    assert Counter(spans) >= Counter(rollout=3, score=3, learn=3, sync=3, warm_start=1)


def test_the_run_can_be_repeated_from_its_own_config(finished: Path) -> None:
    config = load(str(finished / "config.yaml"))
    assert config.run.dir == str(finished)
    assert config.rollout.group_size == 4 and config.eval.temperature == 0.8


def test_the_ledger_adds_up_and_agrees_with_the_journal(finished: Path) -> None:
    result = summary(finished)
    ledger = result["ledger"]
    settled = ledger["trained"] + ledger["filtered"]["total"] + ledger["failed"]["total"]
    assert ledger["started"] == settled and ledger["in_flight"] == 0
    assert ledger["failed"] == {"total": 0, "reasons": {}}
    assert ledger["filtered"]["total"] == sum(ledger["filtered"]["reasons"].values())
    assert ledger["trained"] >= 3 * 4
    keys = [key for key in small.journal_keys(finished) if key.startswith("train/")]
    assert len(keys) == ledger["started"]


def test_the_summary_tells_of_each_evaluation(finished: Path) -> None:
    result = summary(finished)
    assert [(e["stage"], e["step"], e["mode"]) for e in result["evals"]] == [
        ("initial", 0, "sampled"),
        *[
            (stage, step, mode)
            for stage, step in (("warm_start", 0), ("rl", 2), ("rl", 3))
            for mode in ("sampled", "greedy")
        ],
    ]
    for entry in result["evals"]:
        low, high = entry["score_ci95"]
        assert entry["episodes"] == 4 and low <= entry["score_mean"] <= high
    assert (result["iterations"], result["steps"], result["idle_iterations"]) == (3, 3, 0)
    assert result["wall_s"] > 0
    assert result["env_turns"] == 3 * result["ledger"]["started"]
    assert result["env_turns"] <= result["tokens_sampled"] <= 2 * result["env_turns"]
    assert 0 < result["tokens_trained"] <= result["tokens_sampled"]


def test_metrics_have_every_tag_once_a_step(finished: Path, curves: EventAccumulator) -> None:
    lines = small.metrics(finished)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    missing = {tag: set(TAGS) - set(line) - {"eval/score_mean"} for tag, line in enumerate(lines)}
    assert missing == {0: missing[0], 1: set(), 2: set(), 3: set()}
    assert [i for i, line in enumerate(lines) if "eval/score_mean" in line] == [0, 2, 3]
    assert {"eval/initial_score_mean", "eval/greedy_score_mean"} <= set(lines[0])
    assert all(math.isfinite(value) for line in lines for value in line.values())
    scalars = {
        tag: [(event.step, event.value) for event in curves.Scalars(tag)]
        for tag in curves.Tags()["scalars"]
    }
    assert set(scalars) == {tag for line in lines for tag in line} - {"step"}
    for tag, points in scalars.items():
        expected = [(line["step"], line[tag]) for line in lines if tag in line]
        assert points == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected], tag


def test_metrics_say_what_happened(finished: Path) -> None:
    first = small.metrics(finished)[1]
    assert first["rollout/turns_per_trajectory"] == 3
    assert first["context/segments_per_trajectory"] == 1
    assert first["rollout/failed_frac"] == first["rollout/truncated_frac"] == 0
    assert first["policy/ratio_mean"] == pytest.approx(1, abs=1e-5)  # on policy
    assert first["policy/kl_behaviour"] == pytest.approx(0, abs=1e-5)
    assert 0 < first["policy/entropy"] < math.log(300)
    assert first["train/score_mean"] == pytest.approx(first["train/return_mean"])
    assert first["train/score_mean"] == pytest.approx(first["env/right"] / 3)


def test_the_best_and_the_worst_are_there_to_read(curves: EventAccumulator) -> None:
    assert curves.Tags()["tensors"] == [
        "trajectories/best_0/text_summary",
        "trajectories/worst_0/text_summary",
    ]
    scores = {}
    for name in ("best", "worst"):
        events = curves.Tensors(f"trajectories/{name}_0/text_summary")
        assert [event.step for event in events] == [1, 2, 3]
        texts = [event.tensor_proto.string_val[0].decode() for event in events]
        assert all("-- turn 2" in text and "Copy-v0" in text for text in texts)
        scores[name] = [float(text.split("score ")[1].split()[0]) for text in texts]
    assert all(b > w for b, w in zip(scores["best"], scores["worst"], strict=True))


def test_the_policy_is_a_hugging_face_folder(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "exported"
    assert str(out) in done(capsys, "export", str(finished), str(out))
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(**ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert answer.shape[1] == ids["input_ids"].shape[1] + 1
    assert "score_mean" in (out / "README.md").read_text()

    config = small.write(tmp_path, eval={"greedy": True, "temperature": 0.8})
    for origin in (f"policy.from={finished}", f"policy.from={out}", f"policy.model={out}"):
        table = done(capsys, "eval", config, origin)
        for mode in ("sampled", "greedy"):
            assert shown_score(table, mode) == f"{last_eval(finished, mode)['score_mean']:.3f}"

    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "exists already" in refused(capsys, 2, "export", str(finished), str(out))
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_plain_output_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small.write(tmp_path, train={"iterations": 1}, eval={"episodes": 2})
    lines = done(capsys, "train", config, f"run.dir={tmp_path / 'run'}").splitlines()
    starts = (
        f"run folder: {tmp_path / 'run'}",
        "starting rollouts (local)",
        "evaluation before warm start: score ",
        "demonstrations: 32 with ",
        "warm start: ",
        "evaluation after warm start: score ",
        "iteration 1/1: score ",
        "evaluation after RL: score ",
        "score on held-out tasks",
    )
    for line, start in zip(lines, starts, strict=False):
        assert line.startswith(start)
    assert lines[-1] == f"curves:      tensorboard --logdir {tmp_path / 'run'}"
    assert len(lines) == 18


def test_an_iteration_without_a_signal_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(tmp_path, warm_start=None, train={"iterations": 2}, eval={"every": 1})
    out = done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    assert "iteration 1/2: score 0.000, NOTHING TRAINED, 6 dropped (6 zero_variance), " in out
    assert out.count("a group trains when its scores differ") == 1
    assert "│ before training │" in out
    result = summary(tmp_path / "run")
    assert result["ledger"]["filtered"]["reasons"] == {"zero_variance": 2 * 6 * 4}
    assert (result["steps"], result["idle_iterations"]) == (0, 2)
    # The weights never changed, so that the curve has one point and RL one evaluation.
    (line,) = small.metrics(tmp_path / "run")
    assert (line["step"], line["eval/score_mean"]) == (0, 0.0)
    assert all(name == "step" or name.startswith("eval/") for name in line)
    assert [entry["stage"] for entry in result["evals"]] == ["initial", "rl"]


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_run_folder_below_a_file_is_one_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    config = small.write(tmp_path)
    message = refused(capsys, 2, "train", config, f"run.dir={tmp_path / place}")
    assert message.startswith("run.dir: can't make the run folder")


def test_a_run_that_could_not_begin_leaves_its_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(tmp_path, train={"iterations": 0}, eval={"episodes": 1})
    run = f"run.dir={tmp_path / 'run'}"
    message = refused(capsys, 2, "train", config, run, f"policy.model={tmp_path / 'nowhere'}")
    assert message.startswith("policy.model: no folder at")
    assert not (tmp_path / "run").exists()
    done(capsys, "train", config, run)
    assert "holds a run already" in refused(capsys, 2, "train", config, run)


def test_what_gets_no_gradient_is_not_called_trained(tmp_path: Path, capsys: Any) -> None:
    """Every episode is cut after two of three turns, and cut ones are kept from the gradient."""
    path = small.write(
        tmp_path,
        rollout={"max_turns": 2},
        algo={"truncation": {"gradient": False}, "sampling": {"max_refills": 0}},
        train={"iterations": 2},
    )
    small.done(capsys, "train", path, f"run.dir={tmp_path / 'run'}")
    result = summary(tmp_path / "run")
    reasons = result["ledger"]["filtered"]["reasons"]
    assert result["ledger"]["trained"] == 0 and result["steps"] == 0
    assert reasons["no_gradient"] > 0 and reasons["no_gradient"] % 4 == 0
    assert sum(reasons.values()) == result["ledger"]["started"] == 2 * 2 * 4
