import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from rlagents.errors import ConfigError
from rlagents.telemetry.ablation import Trial, plot, resampled, write_hparams

RISING = ((0.0, 0.1), (100.0, 0.5), (400.0, 0.9))
LATER = ((0.0, 0.3), (200.0, 0.5), (300.0, 0.7))


def test_the_mean_goes_as_far_as_all_seeds() -> None:
    places, scores_SP = resampled([RISING, LATER])
    assert (places[0], places[-1], len(scores_SP)) == (0, 300, 2)
    # A seed's own points are among the places, so that no corner is cut.
    assert {0, 100, 200, 300} <= set(places.tolist())
    where = places.tolist().index(200)
    # 0.5 + 0.4 / 3 on the way from 0.5 to 0.9, and a point of the other's own.
    assert scores_SP[:, where] == pytest.approx([0.5 + 0.4 / 3, 0.5])
    assert np.all(np.diff(places) > 0)


def test_curves_without_points_or_without_a_common_place() -> None:
    assert resampled([])[0].size == 0
    assert resampled([(), ()])[0].size == 0
    assert resampled([(), RISING])[1].shape[0] == 1
    assert resampled([((0.0, 0.1),), ((5.0, 0.1),)])[0].size == 0
    places, scores_SP = resampled([((5.0, 0.25),)])
    assert (places.tolist(), scores_SP.tolist()) == ([5.0], [[0.25]])


def pixels(path: Path) -> set[tuple[int, ...]]:
    from matplotlib.image import imread

    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1080, 576)
    values = (imread(path)[..., :3] * 255).round().astype(int)
    return {tuple(pixel) for pixel in values.reshape(-1, 3).tolist()}


BLUE, VERMILION, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)


def test_each_arm_has_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    plot({"a": [RISING, LATER], "b": [LATER]}, path, score="s", threshold=0.6, budget=300)
    assert {BLUE, VERMILION} <= pixels(path) and GREEN not in pixels(path)
    plot({"a": [RISING], "b": [()], "c": [LATER]}, path, score="s")
    assert {BLUE, GREEN} <= pixels(path) and VERMILION not in pixels(path)


@pytest.mark.parametrize(
    "arms",
    [
        {},
        {"a": []},
        {"_hidden": [RISING], "$x^2$ & \\frac": [LATER], "a_b": [LATER]},
        {"deep": [((0.0, -40.0), (1e7, 900.0))]},
        {f"an arm with a rather long name, number {n}": [RISING] for n in range(16)},
    ],
)
def test_awkward_ablations_can_be_drawn(arms: Any, tmp_path: Path) -> None:
    plot(arms, tmp_path / "plot.png", score="mean score")
    assert len(pixels(tmp_path / "plot.png")) > 10


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="can't write .*plot.png"):
        plot({"a": [RISING]}, tmp_path / "no" / "plot.png", score="s")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="a picture needs matplotlib .*: install rlagents"):
        plot({"a": [RISING]}, tmp_path / "plot.png", score="s")


def trial(seed: int, final: float) -> Trial:
    settings = {"learner.lr": 0.5, "algo.name": "grpo", "stop": ["a"], "kl": True, "none": None}
    return Trial(
        arm="first",
        folder=f"first/seed-{seed}",
        settings=settings,
        figures={"final_score": final, "never": float("nan")},
        curve=RISING,
    )


def test_hparams_and_curves_come_back(tmp_path: Path) -> None:
    write_hparams(tmp_path, [trial(0, 0.25), trial(1, 0.5)])
    write_hparams(tmp_path, [trial(0, 0.75)])  # the table is made again
    for seed, final in ((0, 0.75), (1, 0.5)):
        folder = tmp_path / "first" / f"seed-{seed}"
        assert len(list(folder.iterdir())) == 1
        accumulator = EventAccumulator(str(folder))
        accumulator.Reload()
        assert sorted(accumulator.Tags()["scalars"]) == ["final_score", "score"]
        points = [(e.step, pytest.approx(e.value)) for e in accumulator.Scalars("score")]
        assert points == [(0, 0.1), (100, 0.5), (400, 0.9)]
        (point,) = accumulator.Scalars("final_score")
        assert (point.step, point.value) == (0, final)
        contents = accumulator.PluginTagToContent(metadata.PLUGIN_NAME)
        assert set(contents) == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
        data: Any = plugin_data_pb2.HParamsPluginData.FromString(
            contents[metadata.SESSION_START_INFO_TAG]
        )
        start = data.session_start_info
        assert start.group_name == "first"  # the seeds of an arm are one group
        assert start.hparams["learner.lr"].number_value == 0.5
        assert start.hparams["algo.name"].string_value == "grpo"
        assert start.hparams["kl"].bool_value is True
        assert start.hparams["stop"].string_value == "['a']"
        assert start.hparams["none"].string_value == "None"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    with pytest.raises(ConfigError, match="can't write the TensorBoard folder .*seed-0"):
        write_hparams(tmp_path, [trial(0, 0.5)])
