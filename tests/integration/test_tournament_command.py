"""`rlagents tournament` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlagents.journal import JournalReader
from tests.integration import envs
from tests.integration.small import command, done, refused
from tests.telemetry.test_league import size_of

STRENGTHS = ["random", "slip25", "slip50", "slip75", "oracle"]
CUP = "tests.integration.cup:test/Cup-v0"


def write(folder: Path, env: str, kwargs: dict[str, Any] | None = None, **sections: Any) -> str:
    config = {
        "env": {"id": env, "kwargs": kwargs or {}},
        "context": {"window": 256},
        "rollout": {"concurrency": 8, "max_turns": 64},
        **sections,
    }
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def players(*names: str) -> str:
    return "players=[" + ",".join(f"'scripted:{name}'" for name in names) + "]"


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tournament.json").read_text())


def ranking(folder: Path) -> list[str]:
    return [row["name"].removeprefix("scripted:") for row in report(folder)["players"]]


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    envs.forget_calls()


def test_players_of_known_strength_are_ranked_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(tmp_path, "rlagents/Nim-v0"), tmp_path / "out"
    names = [STRENGTHS[i] for i in (2, 0, 4, 1, 3)]
    text = done(capsys, "tournament", config, players(*names), "games=64", f"out={out}")
    assert ranking(out) == STRENGTHS[::-1]
    found = report(out)
    assert [row["rank"] for row in found["players"]] == [1, 2, 3, 4, 5]
    assert all(row["games"] == 4 * 64 for row in found["players"])
    assert sum(row["wins"] for row in found["players"]) == 10 * 64
    assert sum(p["wins"] + p["draws"] + p["losses"] for p in found["pairings"]) == 10 * 64
    assert (found["failed"], found["missing"], len(found["matches"])) == (0, 0, 10)
    for row in found["players"]:
        assert row["rating"]["low"] < row["rating"]["elo"] < row["rating"]["high"]
    # Text, pictures, journal: all of them say who is who.
    lines = [line.split() for line in text.splitlines()]
    shown = [line[1] for line in lines if len(line) == 10 and line[0].isdigit()]
    assert shown == [f"scripted:{name}" for name in STRENGTHS[::-1]]
    for name in ("elo.png", "wins.png"):
        size_of((out / name).read_bytes())
    assert not (out / "bracket.png").exists()
    assert len(JournalReader(out / "journal")) == 10 * 64
    listing = done(capsys, "show", str(out), "tournament/0").splitlines()
    assert len(listing) == 1 + 10 * 64
    # Each deal from both seats, the same deals for all pairs.
    reader = JournalReader(out / "journal")
    records = [reader.get(key) for key in reader.keys()]  # noqa: SIM118
    deals: dict[int, int] = {}
    for record in records:
        assert record is not None
        deals[record.trajectory.task.seed] = deals.get(record.trajectory.task.seed, 0) + 1
    assert len(deals) == 32 and set(deals.values()) == {20}


@pytest.mark.parametrize("topology", ["double_elimination", "swiss"])
def test_other_topologies(
    topology: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(tmp_path, "rlagents/Nim-v0"), tmp_path / "out"
    args = (config, players(*STRENGTHS[::2]), "games=24", f"topology={topology}")
    text = done(capsys, "tournament", *args, f"out={out}")
    assert ranking(out) == ["oracle", "slip50", "random"]
    elimination = topology == "double_elimination"
    assert (out / "bracket.png").exists() == elimination
    assert ("final: " in text) == elimination
    found = report(out)
    assert sum(row["games"] for row in found["players"]) == 2 * 24 * len(found["matches"])
    again = done(capsys, "tournament", *args, f"out={tmp_path / 'again'}")
    assert report(tmp_path / "again") == found
    assert again.replace("/again", "/out") == text


def test_players_who_play_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"horizon": 8}
    config, out = write(tmp_path, "rlagents/KeyRooms-v0", kwargs), tmp_path / "out"
    names = players("random", "oracle", "expert")
    text = done(capsys, "tournament", config, names, "games=5", f"out={out}")
    assert ranking(out) == ["oracle", "expert", "random"]
    assert "5 tasks each" in text
    reader = JournalReader(out / "journal")
    assert len(reader) == 3 * 5  # every task once by each
    assert len({r.trajectory.task.task_id for k in reader.keys() if (r := reader.get(k))}) == 5  # noqa: SIM118
    args = (config, names, "games=5", "topology=seeded_single_elimination")
    done(capsys, "tournament", *args, f"out={tmp_path / 'cup'}")
    assert ranking(tmp_path / "cup")[0] == "oracle"
    assert len(JournalReader(tmp_path / "cup" / "journal")) == 3 * 5


def test_the_policy_and_a_model_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rlagents.load import load
    from rlagents.policy import models

    config, out = write(tmp_path, CUP, policy={"max_tokens": 2}), tmp_path / "out"
    policy = load(config).policy
    network, tokenizer = models.load(policy, seed=5, window=256, device="cpu", dtype="float32")
    models.save(network, tokenizer, tmp_path / "model")
    names = f"players=[self,{tmp_path / 'model'},scripted:oracle]"
    done(capsys, "tournament", config, names, "games=2", f"out={out}")
    found = report(out)
    assert found["players"][0]["name"] == "scripted:oracle"
    assert found["failed"] == 0 and sum(row["games"] for row in found["players"]) == 3 * 2 * 2


def test_failed_games_are_nobodys_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(tmp_path, CUP), tmp_path / "out"
    names = players("hostile", "random", "oracle", "\\x1b[2J[bold]$x_").replace("'", '"')
    text = done(capsys, "tournament", config, names, "games=4", f"out={out}")
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "12 games failed; the first with: environment:" in text
    last = report(out)["players"][-1]
    assert (last["name"], last["rank"], last["failed"]) == ("scripted:hostile", None, 12)
    assert [row["failed"] for row in report(out)["players"]] == [4, 4, 4, 12]
    assert "[bold]$x_" in text  # no markup

    message = refused(
        capsys,
        1,
        "tournament",
        config,
        players("hostile", "broken"),
        "games=2",
        f"out={tmp_path / 'b'}",
    )
    assert message.startswith("every game failed; the first with: environment:")
    assert report(tmp_path / "b")["failed"] == 2


def test_ctrl_c_keeps_what_was_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 3 matches of 20 games: in the middle of them.
    config, out = write(tmp_path, CUP, {"stop": 30}, rollout={"concurrency": 2}), tmp_path / "out"
    names = players("random", "oracle", "expert")
    code, text, err = command(capsys, "tournament", config, names, "games=20", f"out={out}")
    assert code == 130 and err.endswith("interrupted\n")
    found, journal = report(out), JournalReader(out / "journal")
    played = len(journal)
    assert 0 < played < 60
    assert found["missing"] == 60 - played
    assert f"interrupted: {60 - played} of 60 games are missing" in text
    assert sum(row["games"] for row in found["players"]) == 2 * played
    assert found["matches"] == []
    assert "tournament/0/0/0" in done(capsys, "show", str(out))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "players: expected two or more"),
        (["playrs=[a,b]"], "playrs: unknown key; did you mean 'players'?"),
        (["players=[self,scripted:oracel]"], "got 'oracel'; did you mean 'oracle'?"),
        (["players=[self,oracle]"], "expected a player such as scripted:oracle, got 'oracle'"),
        (["players=[self,runs/nothing]"], "got 'runs/nothing', which there is not"),
        (["players=[self,endpoint:x]"], "players: expected the name of an entry of endpoints"),
        (["players=[self,past:3]"], "the folder of a frozen version, RUN_DIR/league/NUMBER"),
        (["players=[self,scripted:random]", "games=3"], "games: expected a multiple of 2"),
        (["players=[self,scripted:random]", "run.seeed=3"], "did you mean 'run.seed'?"),
        (["players=[self,{here}]"], "{here}': the run has no policy yet"),
        (["players=[self,scripted:random]", "out={here}"], "out: '{here}' holds a run or"),
        (["players=[self,scripted:random]", "out={file}/x"], "out: can't make the run folder"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, "rlagents/Nim-v0")
    here = tmp_path / "run"
    here.mkdir()
    (here / "config.yaml").touch()
    places = {"here": here, "file": config}
    filled = [arg.format(**places) for arg in args]
    assert message.format(**places) in refused(capsys, 2, "tournament", config, *filled)


def test_without_a_name_the_folder_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, CUP, run={"name": "mine"})
    monkeypatch.chdir(tmp_path)
    done(capsys, "tournament", config, players("random", "oracle"), "games=2")
    (folder,) = (tmp_path / "runs" / "tournaments" / "mine").iterdir()
    assert report(folder)["topology"] == "round_robin"
