import re
from pathlib import Path
from typing import Any

import pytest

from rlagents.ablate.plan import REQUEST, claim, plan, settings
from rlagents.errors import ConfigError
from tests.ablate.runs import CONFIG, entry, leave, planned, read_yaml


def test_every_arm_runs_with_every_seed_in_a_folder_of_its_own(tmp_path: Path) -> None:
    made = planned(tmp_path, overrides=["train.iterations=3"])
    assert [run.words for run in made.runs] == [
        "lr=0.001, seed 0",
        "lr=0.002, seed 0",
        "lr=0.001, seed 1",
        "lr=0.002, seed 1",
    ]
    last = made.runs[-1]
    assert last.folder.path == tmp_path / "out" / "lr=0.002" / "seed-1"
    assert last.log == tmp_path / "out" / "lr=0.002" / "seed-1.log"
    config = last.config
    assert (config.run.seed, config.learner.lr, config.train.iterations) == (1, 0.002, 3)
    assert made.keys == ("learner.lr",)
    assert [settings(made, arm) for arm in made.arms] == [
        {"learner.lr": 0.001},
        {"learner.lr": 0.002},
    ]
    assert not made.out.exists()


def test_a_setting_may_follow_the_seed(tmp_path: Path) -> None:
    """A policy for each seed, say: the reference is resolved with the run's own seed."""
    made = planned(tmp_path, overrides=["run.name=from-${run.seed}"], vary=())
    assert [run.config.run.name for run in made.runs] == ["from-0", "from-1"]


def test_the_default_folder_is_named_like_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(CONFIG)
    assert plan("x.yaml").runs[0].folder.path == Path("runs/ablate/x/base/seed-0")


def test_runs_share_the_machine_themselves_unless_an_override_says_otherwise(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ray.yaml"
    path.write_text("rollout: {executor: ray, workers: 2}")
    (run,) = plan(str(path), seeds="0").runs
    assert (run.config.rollout.executor, run.config.rollout.workers) == ("local", 1)
    (run,) = plan(str(path), ["rollout.executor=ray"], seeds="0").runs
    assert (run.config.rollout.executor, run.config.rollout.workers) == ("ray", 2)


def test_arms_may_choose_presets(tmp_path: Path) -> None:
    made = planned(tmp_path, vary=(), arms=["plain: algo.name=grpo", "tuned: algo.updates=2"])
    plain, tuned = (run.config.algo for run in made.runs[:2])
    assert (plain.name, plain.updates) == ("grpo", 1)
    assert (tuned.name, tuned.updates) == ("grpo_pp", 2)
    assert [settings(made, arm) for arm in made.arms] == [
        {"algo.name": "grpo", "algo.updates": 1},
        {"algo.name": "grpo_pp", "algo.updates": 2},
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"vary": ["learner.lrr=1"]}, "arm 'lrr=1': learner.lrr: unknown key"),
        ({"vary": ["learner.lr=1,fast"]}, "arm 'lr=fast': learner.lr: expected a finite number"),
        ({"vary": ["learner.lr=1,-1"]}, "arm 'lr=-1': learner.lr: expected above 0, got -1"),
        ({"arms": ["a: nonsense"]}, "arm 'a lr=0.001': 'nonsense': expected section.key=value"),
        ({"arms": ["a: algo.name=grop"]}, "arm 'a lr=0.001': algo.name: expected a preset"),
        ({"vary": ["env.kwargs.lenght=3"]}, "arm 'lenght=3': env.kwargs.lenght: expected an arg"),
        ({"vary": ["env.id=rlagents/Lok-v0"]}, "arm 'id=rlagents/Lok-v0': env.id: no environment"),
        ({"vary": ["rollout.workers=2"]}, "arm 'workers=2': rollout.workers: got 2, which would"),
        ({"overrides": ["learner.lrr=1"]}, "learner.lrr: unknown key"),  # of no arm in particular
        ({"vary": ["learner.lr=1e-3,0.001"]}, "arms 'lr=1e-3' and 'lr=0.001' are the same config"),
        ({"vary": ["run.seed=1,2"]}, "run.seed: not a setting of an ablation's arms; --seeds"),
        ({"overrides": ["run.dir=x"]}, "run.dir: not a setting of an ablation's arms; --out"),
        ({"arms": ["a: run={seed: 1}"]}, "run: not a setting of an ablation's arms; give run.name"),
    ],
)
def test_a_mistake_is_known_before_anything_is_made(
    asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        planned(tmp_path, **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_a_missing_file_is_no_arms_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^nowhere.yaml: no such file"):
        plan("nowhere.yaml", vary=["learner.lr=1,2"])


def test_what_was_asked_for_is_written_down(tmp_path: Path) -> None:
    made = planned(tmp_path, overrides=["train.iterations=3"])
    claim(made)
    written = read_yaml(made.out / REQUEST)
    assert written["config"] == str(tmp_path / "x.yaml")
    assert written["overrides"] == ["train.iterations=3"]
    assert written["arms"] == {
        "lr=0.001": ["learner.lr=0.001"],
        "lr=0.002": ["learner.lr=0.002"],
    }
    assert [seed.value for seed in written["seeds"]] == [0, 1]


def test_the_same_command_more_seeds_and_other_arms_may_go_on(tmp_path: Path) -> None:
    claim(planned(tmp_path))
    leave(planned(tmp_path).runs[0])
    claim(planned(tmp_path))
    claim(planned(tmp_path, seeds="0,1,2,3"))
    claim(planned(tmp_path, vary=["learner.lr=0.001,0.5"]))


def test_an_ablation_may_be_moved(tmp_path: Path) -> None:
    made = planned(tmp_path)
    claim(made)
    leave(made.runs[0])
    made.out.rename(tmp_path / "moved")
    moved = planned(tmp_path, out=str(tmp_path / "moved"))
    claim(moved)
    assert moved.runs[0].state == "finished"


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    made = planned(tmp_path)
    claim(made)
    leave(made.runs[1])

    def refusal(**asked: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            claim(planned(tmp_path, **asked))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    out = f"--out: {str(made.out)!r} holds another ablation: "
    advice = "; choose another folder"
    assert refusal(overrides=["train.iterations=3"]) == (
        f"{out}its overrides is [], this one's is ['train.iterations=3']{advice}"
    )
    arms = ["lr=0.002: learner.lr=0.003"]
    assert refusal(vary=(), arms=arms) == f"{out}learner.lr differs in lr=0.002, seed 0{advice}"
    made.runs[1].folder.config.write_text("train: {iterations: 5")
    assert "config.yaml" in refusal()
    (made.out / REQUEST).write_text("[]")
    assert refusal().startswith(f"{out}its config is None")
    (made.out / REQUEST).unlink()
    assert "holds something else than an ablation" in refusal()
    (tmp_path / "file").touch()
    assert "holds something else than an ablation" in refusal(out=str(tmp_path / "file"))
    assert "can't use the folder" in refusal(out=str(tmp_path / "file" / "out"))
    (tmp_path / "empty").mkdir()
    claim(planned(tmp_path, out=str(tmp_path / "empty")))


def test_how_far_a_run_is(tmp_path: Path) -> None:
    run = planned(tmp_path).runs[0]
    assert run.state == "new"
    leave(run)
    assert run.state == "finished"
    leave(run, iterations=1)
    assert run.state == "stopped"
    leave(run, evals=[entry(0, 0.0, 0, "initial")])  # stopped in the last evaluation
    assert run.state == "stopped"
    leave(run, evals=[entry(50, 0.0, 1)])  # that of earlier weights
    assert run.state == "stopped"
    run.folder.summary.write_text('{"iter')
    assert run.state == "stopped"
    run.folder.summary.unlink()
    assert run.state == "stopped"
    run.folder.summary.write_text("{}")
    assert run.state == "stopped"
    run.folder.summary.write_text('{"iterations": 2}')
    with pytest.raises(ConfigError, match=r"summary.json: expected the summary of a run: KeyErr"):
        _ = run.state


def test_a_run_that_has_spent_its_tokens_is_finished(tmp_path: Path) -> None:
    run = planned(tmp_path, overrides=["train.max_tokens=100"]).runs[0]
    leave(run, iterations=1, tokens_sampled=99)
    assert run.state == "stopped"
    leave(run, iterations=1, tokens_sampled=100)
    assert run.state == "finished"


def test_without_evaluations_or_iterations_there_is_none_to_wait_for(tmp_path: Path) -> None:
    run = planned(tmp_path, overrides=["eval.episodes=0"]).runs[0]
    leave(run, evals=[])
    assert run.state == "finished"
    short = ["train.iterations=0", "warm_start.episodes=4", "warm_start.expert=oracle"]
    run = planned(tmp_path, overrides=short).runs[0]
    first = entry(0, 0.0, 0, "initial")
    leave(run, evals=[first], iterations=0, steps=0, tokens_sampled=0)
    assert run.state == "stopped"
    warm = entry(0, 0.5, 0, "warm_start")
    leave(run, evals=[first, warm], iterations=0, steps=0, tokens_sampled=0)
    assert run.state == "finished"
