"""What an agent or an environment wrote reaches no terminal as a command, whoever prints it."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pytest

from rlagents.telemetry.progress import Display
from rlagents.visible import escape
from tests.integration import small
from tests.telemetry.hostile import HOSTILE

ENV = "tests.telemetry.hostile:test/Hostile-v0"


def _harmless(text: str) -> bool:
    wrong = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return all(c in "\n\t" or unicodedata.category(c) not in wrong for c in text)


def _config(folder: Path, fails: float = 0.0) -> str:
    env = {"id": ENV, "kwargs": {"fails": fails}}
    return small.write(
        folder, env=env, context={"window": 2048}, eval={"episodes": 8}, warm_start=None
    )


def test_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small.done(capsys, "play", _config(tmp_path), "policy.from=oracle")
    assert _harmless(out) and out.count(escape(HOSTILE)) == 5


def test_an_error_that_quotes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("play", "eval"):
        message = small.refused(capsys, 1, name, _config(tmp_path, 1.0), "policy.from=oracle")
        assert _harmless(message) and "\\x1b]52;c;" in message and "second line" in message


def test_a_warning_that_quotes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small.done(capsys, "eval", _config(tmp_path, 0.5), "policy.from=oracle")
    assert _harmless(out) and "episodes failed" in out and "\\x1b]52;c;" in out


def test_arguments_that_are_quoted_back(capsys: pytest.CaptureFixture[str]) -> None:
    message = small.refused(capsys, 2, "config", f"{HOSTILE}.yaml")
    assert _harmless(message)


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path)
    run = str(tmp_path / "run")
    assert _harmless(small.done(capsys, "train", config, "train.iterations=1", f"run.dir={run}"))
    assert _harmless(small.done(capsys, "show", run))
    whole = small.done(capsys, "show", run, "train/0/0/0")
    assert _harmless(whole) and whole.count("\\x1b]52;c;") >= 3


def test_live_bars_show_names_and_figures_as_text() -> None:
    out = io.StringIO()
    with Display(out, live=True) as display, display.phase(HOSTILE, 2) as phase:
        phase.advance(last=HOSTILE)
        display.print(escape(HOSTILE))
    shown = out.getvalue()
    assert "\x1b]" not in shown and "\x9b" not in shown and "\x07" not in shown
