"""Scoring, watching, previewing and showing policies; and the variants that training has."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from rlagents import checkpoint
from rlagents.envs.lab.lock import Lock
from tests.integration import small
from tests.integration.small import command, done, refused, shown_score, summary


def lock(folder: Path, **sections: Any) -> str:
    return small.write(
        folder,
        env={"id": "rlagents/Lock-v0", "kwargs": {"horizon": 2, "expert_error": 0.25}},
        eval={"episodes": 400},
        **sections,
    )


@pytest.mark.parametrize(
    ("name", "score"), [("oracle", 1.0), ("random", 0.25**2), ("expert", 0.75**2)]
)
def test_scripted_policies_have_their_known_scores(
    name: str, score: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(Lock.known_scores) == {"oracle", "random", "expert"}
    out = done(capsys, "eval", lock(tmp_path), f"policy.from={name}")
    deviation = math.sqrt(score * (1 - score) / 400)
    assert float(shown_score(out)) == pytest.approx(score, abs=3 * deviation + 0.0005)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("orcale", "(random, oracle, expert), got 'orcale'; did you mean 'oracle'?"),
        ("/nowhere/at/all", "policy.from: no run and no model at '/nowhere/at/all'"),
        ("", "policy.from: expected a run folder, a model, or a scripted policy, got nothing"),
        (
            "endpoint",
            "policy.from: expected the name of an entry of endpoints (none is configured)",
        ),
        (".", "policy.model: '.' holds no *.safetensors"),
    ],
)
def test_an_unknown_policy_is_one_line(
    origin: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lock(tmp_path)
    assert message in refused(capsys, 2, "eval", config, f"policy.from={origin}")
    assert message in refused(capsys, 2, "play", config, f"policy.from={origin}")


def test_a_run_without_a_policy_says_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lock(tmp_path)
    message = refused(capsys, 2, "eval", config, f"policy.from={tmp_path}")
    assert f"has no policy yet; go on with `rlagents train --resume {tmp_path}`" in message
    assert "has no policy yet" in refused(capsys, 2, "export", str(tmp_path), str(tmp_path / "x"))


def test_play_prints_the_episode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = done(capsys, "play", lock(tmp_path), "policy.from=oracle").splitlines()
    assert re.fullmatch(r"rlagents/Lock-v0, seed \d+", lines[0])
    letters = re.fullmatch(r"\[0\] A([abcd]) B([abcd])", lines[1])
    assert letters
    assert lines[2:] == [
        "A",
        f"    > {letters[1]}",
        "[1] B",
        f"    > {letters[2]}   (reward +1)",
        "open",
        "2 turns, return 1, stop: terminated",
    ]


def test_show_lists_and_shows(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = done(capsys, "show", str(finished)).splitlines()
    assert lines[0].split()[:3] == ["key", "score", "return"]
    assert sorted(line.split()[0] for line in lines[1:]) == small.journal_keys(finished)
    some = done(capsys, "show", str(finished), "train/1").splitlines()[1:]
    assert len(some) >= 8 and all(line.startswith("train/1/") for line in some)
    rl = done(capsys, "show", str(finished), "eval/rl").splitlines()[1:]
    assert len(rl) == 2 * 2 * 4 and all("eval/rl/" in line for line in rl)
    whole = done(capsys, "show", str(finished), "train/1/0/0")
    assert whole.startswith("== train/1/0/0  tests.integration.envs:test/Copy-v0  seed ")
    assert whole.count("-- turn ") == 3 and "disposition: " in whole
    message = refused(capsys, 2, "show", str(finished), "train/1/0/9")
    assert message.startswith("train/1/0/9: not in this journal; did you mean 'train/1/0/")
    assert "not a key" in refused(capsys, 2, "show", str(finished), "trai")


def test_preview_shows_what_would_be_trained_and_trains_nothing(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(small.ROOT)
    before = sorted(Path("runs").rglob("*")) if Path("runs").exists() else []
    # 9 turns of 4 tokens and a pinned first turn need more than one window of 24 tokens.
    config = small.write(
        tmp_path,
        env={"kwargs": {"turns": 9}},
        context={"window": 24},
        rollout={"max_turns": 9},
        policy={"model": str(finished / "policy")},
        warm_start=None,
        algo={"name": "grpo"},
    )
    out = done(capsys, "preview", config)
    assert done(capsys, "preview", config) == out
    assert done(capsys, "preview", config, "run.seed=1") != out
    assert (sorted(Path("runs").rglob("*")) if Path("runs").exists() else []) == before

    assert "2 groups sampled, 2 kept" in out
    assert re.search(r"\d+ segments, \d+ trained tokens, weights sum to 1.0000", out)
    heads = re.findall(
        r"(train/0/\d/\d)  score ([\d.]+)  advantage ([+-][\d.]+)  gets gradient  9 turns, "
        r"(\d) segments, stop: terminated  weight of a token ([\d.e-]+)",
        out,
    )
    (_, best, high, *_), (_, worst, low, *_) = heads[:2]
    assert [head[0][:9] for head in heads[:3]] == ["train/0/0", "train/0/0", "train/0/1"]
    assert float(best) > float(worst)
    assert float(high) > 0 > float(low)
    # `grpo` weighs the 8 trajectories alike, whatever their lengths.
    blocks = re.split(r"\ntrain/0", out)[1:]
    for head, block in zip(heads, blocks, strict=True):
        tokens = sum(map(int, re.findall(r"tokens, (\d+) trained", block)))
        assert float(head[4]) == pytest.approx(1 / (8 * tokens), rel=0.01)
    shown = 0
    for title, text in re.findall(r"(  segment \d+: .*trained)\n    (.*)", out):
        number, size, trained = map(int, re.findall(r"\d+", title))
        assert size <= 24
        actions = re.findall(r"\[\[(.*?)\]\]", text)
        assert len(actions) <= trained <= 2 * len(actions)
        pins = re.findall(r"\{\{(.*?)\}\}", text)
        assert len(pins) == (number > 0)
        if not number:
            first = text.split("]]")[0].replace("[[", "")
        else:
            assert pins[0] == first  # observation and action of turn 0
        shown += len(actions)
    assert shown >= 9


def test_preview_of_a_policy_without_a_signal_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = done(capsys, "preview", small.write(tmp_path, warm_start=None))
    assert "6 groups sampled, 0 kept, dropped: 6 zero_variance" in out
    assert "no group has a signal: nothing would be trained in this iteration" in out


def test_divergence_from_a_frozen_reference_survives_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections: dict[str, Any] = {
        "algo": {"name": "grpo", "kl": {"coef": 0.5}},
        "learner": {"lr": 0.01},
        "checkpoint": {"every": 1, "keep": 9},
    }
    config = small.write(tmp_path, **sections)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done(capsys, "train", config, f"run.dir={whole}")
    divergences = [line["policy/kl_reference"] for line in small.metrics(whole)[1:]]
    assert divergences[0] == pytest.approx(0, abs=1e-6)  # the first batch: still the reference
    assert min(divergences[1:]) > 1e-4
    saved = [checkpoint.load(whole / "checkpoints", step) for step in (0, 1, 3)]
    states = [checkpoint.unpack_state(s.tensors["learner"], s.state["learner"]) for s in saved]
    for state in states:
        for name, tensor in state["reference"].items():
            assert torch.equal(tensor, states[0]["model"][name])
    assert any(
        not torch.equal(tensor, states[0]["model"][name])
        for name, tensor in states[2]["model"].items()
    )

    done(capsys, "train", config, f"run.dir={parts}", "train.iterations=1")
    text = (parts / "config.yaml").read_text()
    (parts / "config.yaml").write_text(text.replace("iterations: 1", "iterations: 3"))
    done(capsys, "train", "--resume", str(parts))
    assert small.policy_hash(parts) == small.policy_hash(whole)
    assert [line["policy/kl_reference"] for line in small.metrics(parts)[1:]] == divergences


def test_a_reference_without_a_warm_start_is_the_first_policy(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(
        tmp_path,
        policy={"model": str(finished / "policy")},
        warm_start=None,
        algo={"kl": {"coef": 0.1}},
        train={"iterations": 1},
    )
    done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    assert small.metrics(tmp_path / "run")[1]["policy/kl_reference"] == pytest.approx(0, abs=1e-6)


def test_several_updates_leave_the_behaviour_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(
        tmp_path,
        algo={"name": "grpo", "updates": 2, "clip": {"low": 0.05, "high": 0.05}},
        learner={"lr": 0.004},
        rollout={"groups": 4},
    )
    run = tmp_path / "run"
    done(capsys, "train", config, f"run.dir={run}")
    lines = small.metrics(run)[1:]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    first, second = lines[::2], lines[1::2]
    assert all(line["policy/kl_behaviour"] == pytest.approx(0, abs=1e-5) for line in first)
    assert all(line["policy/kl_behaviour"] > 1e-4 for line in second)
    assert all(
        not line["policy/clip_frac_low"] and not line["policy/clip_frac_high"] for line in first
    )
    assert any(line["policy/clip_frac_low"] + line["policy/clip_frac_high"] > 0 for line in second)
    assert all("train/score_mean" in line for line in second)  # of the iteration: at its last step
    assert not any("train/score_mean" in line for line in first)


@pytest.mark.parametrize(
    "changes",
    [
        {"learner": {"dtype": "bfloat16"}},
        {"learner": {"activation_checkpointing": True}},
        {"learner": {"threads": 2, "row_tokens": 200, "micro_rows": 1, "logprob_chunk": 16}},
        {"policy": {"system": "Repeat the letter."}, "context": {"overlap": 8}},
        {"context": {"strategy": "full"}},
    ],
    ids=str,
)
def test_variants_train(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(tmp_path, **{"algo": {"name": "grpo"}, **changes})
    run = tmp_path / "run"
    done(capsys, "train", config, f"run.dir={run}", "train.iterations=2")
    assert torch.get_num_threads() == changes.get("learner", {}).get("threads", 1)
    torch.set_num_threads(1)
    assert summary(run)["steps"] == 2
    assert all(line["policy/skipped_steps"] == 0 for line in small.metrics(run)[1:])
    assert all(math.isfinite(line["train/loss"]) for line in small.metrics(run)[1:])
    # Whatever it computes in, the policy is kept in fp32.
    from safetensors.torch import load_file

    tensors = load_file(run / "policy" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_activation_checkpointing_changes_no_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(tmp_path, algo={"name": "grpo"}, train={"iterations": 2})
    for name, setting in (("with", "true"), ("without", "false")):
        out = f"run.dir={tmp_path / name}"
        done(capsys, "train", config, out, f"learner.activation_checkpointing={setting}")
    with_, without = (small.metrics(tmp_path / name) for name in ("with", "without"))
    for ours, theirs in zip(with_[1:], without[1:], strict=True):
        assert ours["policy/grad_norm"] == pytest.approx(theirs["policy/grad_norm"], rel=1e-4)


def test_a_users_model_whose_template_rewrites_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlagents.policy import models
    from tests.policy.toys import policy

    model, tokenizer = policy("bpe")
    folder = tmp_path / "model"
    models.save(model, tokenizer, folder)
    config = small.write(
        tmp_path,
        policy={"model": str(folder), "history": "template", "max_tokens": 8},
        context={"window": 128},
        algo={"name": "grpo"},
        warm_start={"episodes": 8, "epochs": 1},
        train={"iterations": 1},
    )
    run = tmp_path / "run"
    done(capsys, "train", config, f"run.dir={run}")
    assert summary(run)["steps"] == 1
    table = done(capsys, "eval", config, f"policy.from={run}")
    assert shown_score(table) == f"{small.last_eval(run)['score_mean']:.3f}"
    code, _, err = command(capsys, "eval", config, "policy.tiny.width=32")
    assert code == 2 and "policy.tiny.width" in err


def test_the_tiny_policy_grows_to_ten_million_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"layers": 5, "width": 384, "heads": 6, "kv_heads": 6, "mlp": 1200}
    config = small.write(
        tmp_path,
        policy={"tiny": tiny},
        rollout={"groups": 2, "group_size": 2, "max_turns": 2},
        eval={"episodes": 0},
        warm_start=None,
        algo={"name": "grpo"},
        train={"iterations": 1},
        checkpoint={"every": 0},
    )
    run = tmp_path / "run"
    done(capsys, "train", config, f"run.dir={run}")
    from safetensors.torch import load_file

    size = sum(
        tensor.numel() for tensor in load_file(run / "policy" / "model.safetensors").values()
    )
    assert 9e6 < size < 11e6
    assert summary(run)["steps"] == 1
