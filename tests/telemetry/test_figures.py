"""Pictures are readable, small, and of what they are given."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rlagents.depth import BUCKETS, label
from rlagents.errors import ConfigError
from rlagents.telemetry.depth import survival
from rlagents.telemetry.figures import (
    MOST_COLUMNS,
    by_turn,
    contexts_figure,
    survival_figure,
    table_of,
    turns_figure,
)

MOST_BYTES = 40_000


def read(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_survival_is_drawn_for_each_unit():
    some = survival([1, 2, 2, 4], [True, True, False, True], [False, True, False, True])
    cut = survival([8], [False], [False])
    both = survival_figure({"turns": some, "sampled tokens": cut}, "4 episodes")
    assert read(both).shape == (380, 900, 3) and len(both) < MOST_BYTES
    assert survival_figure({"turns": some, "sampled tokens": some}, "4 episodes") != both
    nothing = survival([0], [True], [False])
    assert len(read(survival_figure({"turns": nothing, "sampled tokens": nothing}, "")))


def test_what_a_run_says_of_its_turns():
    lines = [
        {"step": 0, "eval/score_mean": 0.5},
        {"step": 4, "depth_entropy/turn_0000": 1.0, "depth_entropy/turn_2047_on": 2.0},
        {"step": 8, "depth_entropy/turn_0000": None, "depth_entropy/segment_0000": 3.0},
        {"step": 12, "depth_entropy/turn_0000": 4.0, "depth_reward/turn_0001_0002": 5.0},
    ]
    assert by_turn(lines) == {
        "entropy": {"0000": [(4, 1.0), (12, 4.0)], "2047_on": [(4, 2.0)]},
        "reward": {"0001_0002": [(12, 5.0)]},
    }


def test_figures_of_a_long_and_deep_run_are_small():
    rng = np.random.default_rng(0)
    names = ("entropy", "kl_behaviour", "ratio_mean", "reward")
    tags = [f"depth_{name}/turn_{label(k)}" for name in names for k in range(BUCKETS)]
    lines = [{"step": s, **dict(zip(tags, rng.random(len(tags)), strict=True))} for s in range(300)]
    few, many = turns_figure(lines[:1]), turns_figure(lines)
    assert few is not None and many is not None
    assert read(few).shape == read(many).shape
    assert len(many) < MOST_BYTES
    contexts = contexts_figure(
        rng.integers(1, 200, 500).tolist(), {c: [c, 2 * c] for c in range(1, 199)}
    )
    assert len(contexts) < MOST_BYTES and len(read(contexts))


def test_without_figures_by_turn_there_is_no_picture():
    assert turns_figure([]) is None
    assert turns_figure([{"step": 1, "depth_entropy/segment_0000": 1.0, "x": 2.0}]) is None


def test_columns_are_steps_with_holes_where_nothing_was():
    edges, table = table_of([[(4, 1.0), (8, 2.0), (12, 3.0)], [(8, 5.0)]])
    # Four steps an iteration: step 4 stands for 1 to 4.
    assert edges.tolist() == [0, 4, 8, 12]
    np.testing.assert_array_equal(table, [[1, 2, 3], [np.nan, 5, np.nan]])
    edges, table = table_of([[(1, 7.0)]])
    assert (edges.tolist(), table.tolist()) == ([0, 1], [[7]])


def test_a_long_run_is_averaged_neighbour_with_neighbour():
    edges, table = table_of([[(s, float(s % 2)) for s in range(1, 2 * MOST_COLUMNS + 1)], [(2, 8)]])
    assert edges.tolist() == [2 * i for i in range(MOST_COLUMNS + 1)]
    assert table[0].tolist() == [0.5] * MOST_COLUMNS  # pairs of 1 and 0
    assert table[1, 0] == 8 and np.isnan(table[1, 1:]).all()


def test_each_number_has_its_colour():
    """Three steps, two buckets, one hole: yellow is the highest value, purple the lowest."""
    lines = [
        {"step": 1, "depth_entropy/turn_0000": 0.0, "depth_entropy/turn_0001_0002": 1.0},
        {"step": 2, "depth_entropy/turn_0000": 0.0},
    ]
    png = turns_figure(lines)
    assert png is not None
    picture = read(png).astype(int)
    lowest, highest, hole = (68, 1, 84), (253, 231, 36), (232, 232, 232)
    areas = [(np.abs(picture - colour).max(-1) < 3).sum() for colour in (lowest, highest, hole)]
    # Half of the panel, a quarter and a quarter.
    assert areas[0] > 1.7 * areas[1] and areas[1] == pytest.approx(areas[2], rel=0.1)


def test_contexts_without_anything_left_out():
    full, none = contexts_figure([1, 2, 3], {1: [5, 6], 2: [9]}), contexts_figure([1, 2, 3], {})
    orange = (213, 94, 0)
    assert [(read(png) == orange).all(-1).any() for png in (full, none)] == [True, False]


def test_without_matplotlib_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="a picture needs matplotlib .*install rlagents"):
        contexts_figure([2], {})


def test_matplotlib_is_loaded_to_draw_only():
    code = (
        "import sys, rlagents.telemetry.figures, rlagents.telemetry.curves\n"
        "print('matplotlib' in sys.modules, 'torch' in sys.modules)\n"
        "rlagents.telemetry.figures.contexts_figure([2], {})\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False", "False"], done.stderr
