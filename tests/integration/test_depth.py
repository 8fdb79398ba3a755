"""Depth of a whole run: scalars, figures, and none of them twice after a resume."""

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlagents.telemetry.metrics import BY_DEPTH
from tests.integration import small
from tests.integration.small import done

FIGURES = {"depth/survival", "depth/by_turn", "depth/contexts"}


def images(run: Path) -> dict[str, list[tuple[int, bytes]]]:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    return {
        tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)]
        for tag in events.Tags()["images"]
    }


def test_figures_and_scalars_by_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    config = small.write(
        tmp_path,
        env={"kwargs": {"turns": 8}},
        context={"window": 32},
        telemetry={"figures_every": 2},
        checkpoint={"keep": 9},
    )
    done(capsys, "train", config, f"run.dir={run}")
    drawn = images(run)
    assert drawn.keys() == FIGURES
    for pictures in drawn.values():
        assert [step for step, _ in pictures] == [2, 3]  # the second, and at the end
        for _, png in pictures:
            with Image.open(io.BytesIO(png)) as picture:
                assert (picture.format, picture.width) == ("PNG", 900)
    lines = small.metrics(run)[1:]
    for line in lines:
        assert line["context/segments_per_trajectory"] > 1 and line["context/dropped_tokens"] > 0
        names = {tag.partition("/")[0] for tag in line if tag.startswith("depth_")}
        # All episodes are of one length, so their score at other depths is not there.
        assert BY_DEPTH.keys() - {"depth_score"} <= names
        for tag in ("turn_0000", "turn_0001_0002", "turn_0003_0006", "turn_0007_0014"):
            assert line[f"depth_ratio_mean/{tag}"] == pytest.approx(1, abs=1e-4)  # on policy
        by_segment = [line[tag] for tag in line if tag.startswith("depth_entropy/segment_")]
        assert min(by_segment) <= line["policy/entropy"] <= max(by_segment)

    for last in (run / "checkpoints").glob("step-00000003*"):
        shutil.rmtree(last)
    assert "resuming after iteration 2" in done(capsys, "train", "--resume", str(run))
    assert images(run) == drawn
    assert small.timeless(small.metrics(run)[1:]) == small.timeless(lines)


def test_without_depth_nothing_is_measured_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = small.write(
        tmp_path,
        telemetry={"depth": False, "figures_every": 0},
        train={"iterations": 1},
    )
    done(capsys, "train", config, f"run.dir={run}")
    assert not [tag for line in small.metrics(run) for tag in line if tag.startswith("depth_")]
    assert images(run) == {}
