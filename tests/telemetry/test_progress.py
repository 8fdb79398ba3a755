"""Progress: bars where the terminal can redraw, plain lines elsewhere, and the final table."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from rlagents.telemetry.progress import ConsoleSink, Display, interval, results_table


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    yield


def test_a_file_gets_a_line_now_and_then(plain_terminal: None) -> None:
    clock, out = Clock(), io.StringIO()
    with Display(out, clock=clock, every_s=5.0) as display:
        assert not display.live
        with display.phase("rollouts", 10) as phase:
            for _ in range(10):
                clock.now += 1
                phase.advance(tokens_per_s=1234.5678, last="[b]x\x1b[1m")
        with display.phase("too short for a line", 3) as phase:
            phase.advance(3)
        display.print("[not] markup")
    assert out.getvalue().splitlines() == [
        "rollouts 5/10  5 s  tokens_per_s 1235  last [b]x\\x1b[1m",
        "rollouts 10/10  10 s  tokens_per_s 1235  last [b]x\\x1b[1m",
        "[not] markup",
    ]


def test_work_of_unknown_length_and_work_that_fails(plain_terminal: None) -> None:
    clock, out = Clock(), io.StringIO()
    display = Display(out, clock=clock)
    with pytest.raises(KeyError), display.phase("learn") as phase:
        phase.advance(2, loss=0.5)
        clock.now = 7.0
        raise KeyError
    assert out.getvalue() == "learn 2  7 s  loss 0.5\n"


def test_a_terminal_gets_bars_and_a_dumb_one_lines(
    plain_terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Terminal()
    with Display(out) as display:
        assert display.live
        with display.phase("iteration", 2) as outer:
            with display.phase("[red]rollouts", 8) as inner:
                inner.advance(8, score=0.25)
                ConsoleSink(display).log(3, {"train/score_mean": 0.5, "other": 1.0})
            outer.advance()
    text = out.getvalue()
    assert "\x1b[" in text and "iteration" in text and "[red]rollouts" in text
    assert "step    3  score 0.5" in text and "other" not in text
    assert text.endswith("\x1b[?25h\r")  # the cursor is back, the bars are gone

    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    with Display(dumb) as display, display.phase("rollouts", 2) as phase:
        assert not display.live
        phase.advance()
    assert "\x1b" not in dumb.getvalue()


def test_the_bars_of_a_failing_phase_are_taken_away(plain_terminal: None) -> None:
    out = Terminal()
    display = Display(out)
    with pytest.raises(KeyError), display.phase("rollouts"):
        raise KeyError
    assert out.getvalue().endswith("\x1b[?25h\r")
    display.close()
    display.close()


def test_the_final_table(plain_terminal: None) -> None:
    def entry(stage: str, mean: float, step: int, **more: object) -> dict[str, object]:
        ci = (mean - 0.0625, mean + 0.0625)
        base = {"stage": stage, "score_mean": mean, "score_ci95": ci, "step": step}
        return base | {"episodes": 256} | more

    out = io.StringIO()
    Display(out).print(
        results_table(
            [
                entry("rl", 0.25, 5),
                entry("warm_start", 0.5, 0, mode="sampled"),
                entry("rl", 0.875, 9, mode="greedy"),
                entry("initial", 0.0625, 0, mode="sampled"),
                entry("rl", 0.75, 9, mode="sampled"),
            ]
        )
    )
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.getvalue().splitlines()
        if "│" in line
    ]
    assert rows == [
        ["before warm start", "0.062", "0.000 to 0.125", "256", "0"],
        ["after warm start", "0.500", "0.438 to 0.562", "256", "0"],
        ["after RL", "0.750", "0.688 to 0.812", "256", "9"],
        ["after RL, greedy", "0.875", "0.812 to 0.938", "256", "9"],
    ]


def test_an_interval_is_both_ends_or_half_its_width() -> None:
    assert interval(0.5, 0.25) == (0.25, 0.75)
    assert interval(0.5, [0.125, 0.75]) == (0.125, 0.75)
