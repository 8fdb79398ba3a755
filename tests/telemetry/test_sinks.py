"""Sinks: what is in the files after runs, crashes and resumes."""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from rlagents.errors import ConfigError, RlagentsError
from rlagents.telemetry.sinks import JsonLines, JsonlSink, MultiSink, TensorBoardSink
from rlagents.telemetry.tb import MAX_TEXT, as_code


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_object_a_step(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "run" / "metrics.jsonl")
    sink.log(0, {"eval/score_mean": 0.5})
    sink.log(1, {"train/loss": 1.0})
    sink.log(2, {"train/loss": float("nan"), "x": float(np.float32(0.5))})
    sink.log(2, {"train/score_mean": 0.25})
    sink.text(2, "trajectories/best_0", "not here")
    sink.image(2, "depth/survival", PICTURE)
    sink.close()
    sink.close()
    assert lines_of(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 0, "eval/score_mean": 0.5},
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": None, "x": 0.5, "train/score_mean": 0.25},
    ]


def test_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonlSink(path)
    for step in range(6):
        first.log(step, {"x": 1.0})
    first.close()
    with path.open("a") as file:
        file.write('not json\n[1]\n{"step": 6, "x": 1.')  # as a crash leaves it
    second = JsonlSink(path, resume_step=4)
    second.log(3, {"eval": 2.0})  # the last step that was kept gets another figure
    second.log(4, {"x": 2.0})
    second.close()
    assert lines_of(path) == [
        *({"step": step, "x": 1.0} for step in range(3)),
        {"step": 3, "x": 1.0, "eval": 2.0},
        {"step": 4, "x": 2.0},
    ]


def test_a_torn_last_line_is_cut_off_without_a_resume_step(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    path.write_text('{"name": "a"}\n{"name": "b')
    lines = JsonLines(path)
    lines.write({"name": "c", "who": Path("x"), "sizes": (np.int64(1), float("inf"))})
    lines.close()
    assert lines_of(path) == [{"name": "a"}, {"name": "c", "who": "x", "sizes": [1, None]}]


def accumulate(folder: Path) -> EventAccumulator:
    sizes = {"scalars": 0, "tensors": 0, "images": 0}
    events = EventAccumulator(str(folder), size_guidance=sizes)
    return events.Reload()


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, format="png")
    return buffer.getvalue()


PICTURE = png(7, 5)


def texts(events: EventAccumulator, tag: str) -> list[tuple[int, bytes]]:
    found = events.Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0]) for event in found]


def test_points_and_texts_reach_tensorboard(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for step in range(3):
        sink.log(step, {"train/loss": step / 2, "eval/score_mean": 1.0})
    sink.text(2, "trajectories/best_0", "one\ntwo")
    sink.image(2, "depth/survival", PICTURE)
    events = accumulate(tmp_path)  # before closing: a killed run would leave the same
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 0), (1, 0.5), (2, 1)]
    assert texts(events, "trajectories/best_0") == [(2, b"    one\n    two")]
    (shown,) = events.Images("depth/survival")
    assert (shown.step, shown.width, shown.height) == (2, 7, 5)
    with Image.open(io.BytesIO(shown.encoded_image_string)) as picture:
        assert (picture.format, picture.size) == ("PNG", (7, 5))
    sink.close()
    sink.close()
    with pytest.raises(ValueError, match="is closed"):
        sink.log(3, {"train/loss": 1.0})


def test_a_resumed_run_repeats_no_step_in_tensorboard(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (3, 2.0), (5, 3.0)):
        sink = TensorBoardSink(tmp_path, resume_step=start or None)
        for step in range(start, start + 4):
            sink.log(step, {"x": value})
            sink.text(step, "t", str(value))
            sink.image(step, "i", png(int(value), 1))
        sink.close()
    values = [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]
    events = accumulate(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("x")] == [*enumerate(values)]
    assert texts(events, "t") == [(i, f"    {v}".encode()) for i, v in enumerate(values)]
    assert [(i.step, i.width) for i in events.Images("i")] == [*enumerate(map(int, values))]
    assert not list(tmp_path.glob("*.new"))


def test_damaged_event_files_do_not_stop_a_resume(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for step in range(6):
        sink.log(step, {"x": 1.0})
    sink.close()
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-5])
    sink = TensorBoardSink(tmp_path, resume_step=3)
    sink.log(3, {"x": 2.0})
    sink.close()
    points = [(e.step, e.value) for e in accumulate(tmp_path).Scalars("x")]
    assert points == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]


def test_only_pictures_are_pictures(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for wrong in (b"", b"<svg onload=alert(1)>", PICTURE[:20]):
        with pytest.raises(ValueError, match="expected a PNG, got bytes that begin with"):
            sink.image(1, "i", wrong)
    sink.close()
    assert accumulate(tmp_path).Tags()["images"] == []


def test_several_sinks_show_a_picture(tmp_path: Path) -> None:
    with MultiSink([TensorBoardSink(tmp_path / "a"), TensorBoardSink(tmp_path / "b")]) as sink:
        sink.image(1, "i", PICTURE)
    assert [len(accumulate(tmp_path / name).Images("i")) for name in "ab"] == [1, 1]


def test_points_that_are_not_finite_are_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = TensorBoardSink(tmp_path)
    with caplog.at_level(logging.WARNING):
        sink.log(0, {"a": float("nan"), "b": 1.0})
        sink.log(1, {"a": float("inf"), "b": float("-inf")})
    sink.close()
    assert sink.skipped == 3
    assert [r.getMessage() for r in caplog.records] == [
        "a is nan at step 0; such points are left out"
    ]
    assert accumulate(tmp_path).Tags()["scalars"] == ["b"]


HOSTILE = """# heading
<script>alert(1)</script> <img src=x onerror=alert(1)>
![pixel](http://evil.example/p.png) [link](javascript:alert(1)) <http://evil.example>
```
</code></pre><b>out</b>
```

~~~
| a | b |\r\n|---|---|\r<i>x</i>\x0b<u>y</u>\u2028<s>z</s>
\x1b]52;c;ZXZpbA==\x07\x02wzxhzdk:0\x03
- item

no longer indented? &lt;b&gt; [x]: http://evil.example
"""


def test_text_of_an_agent_stays_text_in_tensorboards_own_renderer() -> None:
    for hostile in (HOSTILE, "\t" + HOSTILE, "\n\n" + HOSTILE, HOSTILE.replace("\n", "\n\n\n")):
        html = markdown_to_safe_html(as_code(hostile))
        inside = html.strip().removeprefix("<pre><code>").removesuffix("</code></pre>")
        assert len(inside) == len(html.strip()) - len("<pre><code></code></pre>")
        assert "<" not in inside and "\x1b" not in inside
        assert "&lt;script&gt;" in inside and "\\x1b]52" in inside


def test_an_endless_text_is_shortened_in_the_middle() -> None:
    text = as_code("a" * MAX_TEXT + "b" * 500)
    assert len(text) < MAX_TEXT + 100
    assert "[... 500 characters ...]" in text and text.endswith("b" * 500)


def test_several_sinks_get_everything(tmp_path: Path) -> None:
    with MultiSink([JsonlSink(tmp_path / "a.jsonl"), JsonlSink(tmp_path / "b.jsonl")]) as sink:
        sink.log(1, {"x": 1.0})
        sink.text(1, "t", "text")
        sink.image(1, "i", PICTURE)
    assert lines_of(tmp_path / "a.jsonl") == lines_of(tmp_path / "b.jsonl") != []


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"can't write .*file/metrics.jsonl: "):
        JsonlSink(tmp_path / "file" / "metrics.jsonl")
    with pytest.raises(ConfigError, match=r"can't write the TensorBoard folder .*file/tb: "):
        TensorBoardSink(tmp_path / "file" / "tb")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(1, {"x": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, limits[1]))
    try:
        with pytest.raises(RlagentsError, match=r"can't write .*metrics.jsonl: OSError"):
            sink.log(2, {"x": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sink.log(3, {"x": 1.0})
    sink.close()
    assert [line["step"] for line in lines_of(path)] == [1, 3]


def test_neither_torch_nor_ray_is_loaded(tmp_path: Path) -> None:
    code = """
import sys
import rlagents.journal, rlagents.telemetry.progress, rlagents.telemetry.show
from rlagents.telemetry.sinks import TensorBoardSink
assert "tensorboard" not in sys.modules
sink = TensorBoardSink(sys.argv[1], resume_step=0)
sink.log(1, {"x": 1.0})
sink.close()
print(sorted({"torch", "ray", "tensorflow"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "[]", done.stderr
