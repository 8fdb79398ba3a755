"""Whole runs against others: themselves, frozen versions, scripts, players that fail."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlagents.cli import main
from rlagents.journal import JournalReader
from rlagents.types import StopReason, Trajectory
from tests.integration import envs, small
from tests.integration.small import command, done, metrics, refused, summary

DUEL = "tests.integration.duel:test/Duel-v0"
ROOT = Path(__file__).resolve().parents[2]
LEAGUE: dict[str, Any] = {
    "opponents": ["self", "past", "scripted:random"],
    "snapshot_every": 2,
    "eval_opponents": ["scripted:random"],
    "rating_matches": 4,
}
STEPS = 4
"""Of a game: each of two players twice."""
BEFORE_RL = (4 + 4 + 32) * STEPS + 4 * STEPS
"""Evaluation, demonstrations, evaluation; rating of the first version."""
ITERATION = 8 * STEPS


def write(folder: Path, league: dict[str, Any] | None = None, **sections: Any) -> str:
    kwargs = {"trap": str(folder / "armed"), **sections.pop("kwargs", {})}
    settings = {"env": {"id": DUEL, "kwargs": kwargs}, "train": {"iterations": 4}, **sections}
    return small.write(folder, league=LEAGUE if league is None else league, **settings)


def trajectories(run: Path, stream: str) -> list[Trajectory]:
    reader = JournalReader(run / "journal")
    keys = sorted(key for key in reader.keys() if key.stream == stream)  # noqa: SIM118
    records = [reader.get(key) for key in keys]
    return [record.trajectory for record in records if record is not None]


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    envs.forget_calls()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stops."""
    folder = tmp_path_factory.mktemp("untouched")
    assert main(["train", write(folder, kwargs={"at": 1}), f"run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def test_every_seat_has_its_trajectory(untouched: Path) -> None:
    games = trajectories(untouched, "train")
    assert {t.task.seat for t in games} == {0, 1}
    assert not any(t.stop.failed for t in games)
    kinds = {t.task.opponents[0].partition(":")[0] for t in games}
    assert kinds == {"self", "past", "scripted"}
    for game in games:
        if game.task.opponents[0].startswith("scripted"):
            assert game.others == ()
            continue
        (other,) = game.others
        assert str(other.key) == str(game.key).replace("train/", f"train@{1 - game.task.seat}/")
        assert (other.task.seat, len(other.turns)) == (1 - game.task.seat, 2)
        assert other.episode_return == -game.episode_return
        for turn in other.turns:
            assert len(turn.action_ids) == len(turn.behaviour_logprobs) > 0


def test_opponents_have_the_weights_that_their_name_says(untouched: Path) -> None:
    for game in trajectories(untouched, "train"):
        for other in game.others:
            versions = {turn.weights_version for turn in other.turns}
            own = {turn.weights_version for turn in game.turns}
            assert versions == (own if game.task.opponents == ("self",) else {0})
    files = [untouched / "league" / str(n) / "model.safetensors" for n in (0, 2, 4)]
    assert len({file.read_bytes() for file in files}) == 3
    final = untouched / "policy" / "model.safetensors"
    assert files[-1].read_bytes() == final.read_bytes()


def test_ratings_and_win_rates_are_where_people_look(untouched: Path) -> None:
    lines = metrics(untouched)
    rated = [line for line in lines if "league/elo" in line]
    assert [line["league/versions"] for line in rated] == [1, 2, 3]
    for line in rated:
        assert line["league/elo_low"] <= line["league/elo"] <= line["league/elo_high"]
    assert {"league/elo_of/past_0", "league/elo_of/scripted_random"} <= set(rated[-1])
    assert any("league/win_rate/past" in line for line in lines)
    games = trajectories(untouched, "league")
    # Version 0 meets the script; 2 it and version 0; 4 it and both: 1 + 2 + 3 pairs of 4 games.
    assert len(games) == 24
    seen = {(t.key.iteration, *t.task.opponents) for t in games}
    assert seen == {
        (0, "scripted:random"),
        (2, "past:0"),
        (2, "scripted:random"),
        (4, "past:0"),
        (4, "past:2"),
        (4, "scripted:random"),
    }


def test_killed_and_resumed_it_ends_the_same(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, kwargs={"at": BEFORE_RL + 3 * ITERATION + ITERATION // 2})
    (tmp_path / "armed").touch()
    run = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-m", "rlagents", "train", config, f"run.dir={run}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=240,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    done(capsys, "train", "--resume", str(run))
    assert small.policy_hash(run) == small.policy_hash(untouched)
    assert small.journal_keys(run) == small.journal_keys(untouched)
    assert small.timeless(metrics(run)) == small.timeless(metrics(untouched))


def test_a_player_that_fails_is_nobodys_defeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(
        tmp_path,
        league={"opponents": ["scripted:broken", "scripted:random"]},
        train={"iterations": 1},
        warm_start=None,
        eval={"episodes": 0},
    )
    done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    games = trajectories(tmp_path / "run", "train")
    failed = [t for t in games if t.task.opponents == ("scripted:broken",)]
    assert failed
    for game in failed:
        assert game.stop is StopReason.ENVIRONMENT_ERROR
        assert game.error is not None
        assert "scripted:broken" in game.error.message
        assert "the cable is out" in game.error.message
    reasons = summary(tmp_path / "run")["ledger"]["failed"]["reasons"]
    assert reasons == {"environment_error": len(failed)}


@pytest.fixture
def _own_ray() -> Iterator[None]:
    """Ray is started by the run, and stopped for whoever comes next in this process."""
    import ray

    yield
    ray.shutdown()


@pytest.mark.usefixtures("_own_ray")
def test_ray_workers_read_frozen_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, warm_start=None, eval={"episodes": 0}, train={"iterations": 2})
    run = tmp_path / "run"
    ray = ("rollout.executor=ray", "rollout.workers=2", "league.snapshot_every=1")
    done(capsys, "train", config, f"run.dir={run}", *ray, "league.opponents=[past]")
    games = trajectories(run, "train")
    assert {t.task.opponents for t in games} == {("past:0",), ("past:1",)} or {
        t.task.opponents for t in games
    } == {("past:0",)}
    assert all(len(t.others) == 1 and not t.stop.failed for t in games)


@pytest.mark.parametrize(
    ("league", "message"),
    [
        ({"opponents": ["scripted:orcale"]}, "did you mean 'oracle'?"),
        ({"opponents": ["oracle"]}, "expected a player such as scripted:oracle"),
        ({"opponents": ["endpoint:big"]}, "league.opponents: expected the name of an entry"),
        ({"opponents": ["runs/nothing"]}, "which there is not"),
        ({"opponents": ["self"], "seats": 3}, "league.seats: expected 2, as"),
        ({"snapshot_every": 1, "rating_matches": 2, "seats": 3}, "league.seats: expected 2, as"),
    ],
)
def test_players_that_there_are_not(
    league: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, 2, "train", write(tmp_path, league=league))


def test_without_the_library_of_ratings_nothing_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "choix", None)
    line = refused(capsys, 2, "train", write(tmp_path), f"run.dir={tmp_path / 'run'}")
    assert line.startswith("league.rating_matches: ")
    assert line.endswith("pip install 'rlagents[arena]'")
    assert not (tmp_path / "run").exists()


def test_an_environment_of_one_seat_has_no_league(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(tmp_path, league={"opponents": ["self"]})
    assert "has one seat" in refused(capsys, 2, "train", config)


def test_versions_without_rating_games(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    league = {"opponents": ["self", "past"], "snapshot_every": 1}
    config = write(tmp_path, league, warm_start=None, eval={"episodes": 0}, train={"iterations": 2})
    done(capsys, "train", config, f"run.dir={run}")
    assert [v["number"] for v in summary(run)["league"]["versions"]] == [0, 1, 2]
    assert summary(run)["league"]["ratings"] == {}


def test_a_version_whose_rating_games_all_fail_has_no_rating(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    league = {"snapshot_every": 2, "rating_matches": 2, "eval_opponents": ["scripted:broken"]}
    config = write(tmp_path, league, warm_start=None, eval={"episodes": 0}, train={"iterations": 1})
    out = done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    assert "past:0: no rating, 2 games without a result" in out
    assert "past:1: Elo" in out


def test_many_versions_load_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """transformers' loading is not made for threads: with a lock no game fails."""
    run = tmp_path / "run"
    league = {"opponents": ["past"], "snapshot_every": 1, "engines": 8, "rating_matches": 2}
    config = write(tmp_path, league, warm_start=None, eval={"episodes": 0}, train={"iterations": 5})
    done(capsys, "train", config, f"run.dir={run}", "rollout.groups=6")
    assert summary(run)["ledger"]["failed"]["total"] == 0
    assert metrics(run)[-1]["league/failed_games"] == 0


def test_playing_shows_a_game_against_the_given_opponent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, league={"eval_opponents": ["scripted:oracle"]})
    code, out, _ = command(capsys, "play", config, "policy.from=oracle")
    assert code == 0
    assert "return 0" in out  # two who are always right


def test_an_opponent_behind_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    from tests.policy.loopback import Call, completion, serving

    def copies(call: Call) -> None:
        """Says the letter that it was shown last: always right."""
        call.json(completion(call.body["messages"][-1]["content"][:1] or "a"))

    run = tmp_path / "run"
    with serving(copies) as server:
        config = write(
            tmp_path,
            league={"opponents": ["endpoint:far"]},
            endpoints=[{"name": "far", "url": server.url, "model": "m"}],
            warm_start=None,
            eval={"episodes": 0},
            train={"iterations": 1},
        )
        done(capsys, "train", config, f"run.dir={run}")
        assert len(server.calls) > 16  # two turns of 8 games, and the question whether it is there
    for game in trajectories(run, "train"):
        (other,) = game.others
        assert [turn.action for turn in other.turns] == [t.observation[:1] for t in other.turns]
        assert game.metrics["env/margin"] <= 0


def test_a_server_that_goes_away_fails_games_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    from tests.policy.loopback import Call, completion, serving

    def soon_gone(call: Call) -> None:
        if call.number > 12:
            return call.reset()
        return call.json(completion("a"))

    run = tmp_path / "run"
    with serving(soon_gone) as server:
        endpoint = {"name": "far", "url": server.url, "model": "m", "retries": 0}
        config = write(
            tmp_path,
            league={"opponents": ["endpoint:far", "scripted:random"]},
            endpoints=[endpoint],
            warm_start=None,
            eval={"episodes": 0},
            train={"iterations": 3},
        )
        done(capsys, "train", config, f"run.dir={run}")
    failed = [t for t in trajectories(run, "train") if t.stop.failed]
    assert failed
    assert {t.task.opponents for t in failed} == {("endpoint:far",)}
    assert all(t.error is not None and "far" in t.error.message for t in failed)
    assert summary(run)["iterations"] == 3


def test_a_policy_behind_a_server_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    from tests.policy.loopback import Call, completion, serving

    def copies(call: Call) -> None:
        call.json(completion(call.body["messages"][-1]["content"][:1] or "a"))

    with serving(copies) as server:
        endpoint = {"name": "far", "url": server.url, "model": "m"}
        config = small.write(tmp_path, endpoints=[endpoint], eval={"episodes": 4})
        out = done(capsys, "eval", config, "policy.from=endpoint:far")
        assert small.shown_score(out) == "1.000"
        out = done(capsys, "eval", config, "policy.from=endpoint")
        assert small.shown_score(out) == "1.000"
    assert "did you mean 'far'" in refused(capsys, 2, "eval", config, "policy.from=endpoint:fra")
