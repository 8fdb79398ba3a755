"""An ablation as a picture and in TensorBoard: curves against sampled tokens, and HParams.

Works on plain numbers. `matplotlib` (in the `dev` extra) and `tensorboard` are imported on use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rlagents.errors import ConfigError, boundary
from rlagents.telemetry import canvas
from rlagents.telemetry.tb import TensorBoardSink

# Okabe and Ito's colours without the yellow, which white paper swallows. Dashes tell further arms
# apart, and those that a printer makes grey.
_COLOURS = (canvas.BLUE, canvas.ORANGE, canvas.GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)))
_GRID = 200
_LONGEST = 44
"""Characters of a name in the legend."""

Curve = Sequence[tuple[float, float]]
"""(tokens, score) with rising tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of one arm."""

    arm: str
    folder: str
    """Below the TensorBoard folder; its session."""
    settings: Mapping[str, Any]
    """What tells the arms apart; the same for all seeds of an arm."""
    figures: Mapping[str, float]
    curve: Curve


def plot(
    arms: Mapping[str, Sequence[Curve]],
    path: str | os.PathLike[str],
    *,
    score: str,
    threshold: float | None = None,
    budget: float | None = None,
) -> None:
    """Draw score against sampled tokens into a PNG.

    Of each arm the mean over its seeds, as far as all of them go, in a band from the lowest seed to
    the highest. The band is the range, which two seeds have too; intervals are in the table.

    Args:
        arms: name -> the curves of its seeds.
        score: what the scores are, for the axis.
        threshold: a line across; a score.
        budget: a line upwards; tokens.

    Raises:
        ConfigError: without matplotlib, or when the file can't be written.
    """
    target = Path(path)
    figure = canvas.blank(9, 4.8, dpi=120)
    axes: Any = figure.subplots()
    for index, (name, curves) in enumerate(arms.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        places, scores_SP = resampled(curves)
        if len(places):
            seeds = f" ({len(scores_SP)} seeds)" if len(scores_SP) > 1 else ""
            look = {"color": colour, "linestyle": dashes, "linewidth": 2.0}
            axes.plot(places, scores_SP.mean(0), label=f"{_words(name)}{seeds}", **look)
            band = {"color": colour, "alpha": 0.15, "linewidth": 0}
            axes.fill_between(places, scores_SP.min(0), scores_SP.max(0), **band)
    thin = {"color": canvas.GREY, "linewidth": 1.0, "linestyle": (0, (4, 3)), "zorder": 1}
    if threshold is not None:
        axes.axhline(threshold, label=f"threshold {threshold:.3g}", **thin)
    if budget is not None:
        axes.axvline(budget, label="equal tokens", **{**thin, "linestyle": (0, (1, 2))})
    _furnish(axes, score)
    # A long legend stands beside the curves, a short one among them.
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
    place = beside if len(arms) > 5 else {"loc": "best"}
    if axes.get_legend_handles_labels()[0]:
        title = {"title": "mean and range over seeds", "alignment": "left"}
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=9, **title, **place)
    figure.tight_layout()
    with boundary(ConfigError, f"can't write {target}"):
        figure.savefig(target)


def resampled(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Places [P] that all curves cover, and the scores [S, P] of the S curves there.

    Linear between points. Curves without points do not count.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return np.empty(0), np.empty((0, 0))
    low, high = max(c[0][0] for c in curves), min(c[-1][0] for c in curves)
    if low > high:
        return np.empty(0), np.empty((len(curves), 0))
    own = [tokens for curve in curves for tokens, _ in curve if low <= tokens <= high]
    places = np.union1d(np.linspace(low, high, _GRID), own)
    scores = [np.interp(places, [t for t, _ in c], [score for _, score in c]) for c in curves]
    return places, np.stack(scores)


def write_hparams(folder: str | os.PathLike[str], trials: Sequence[Trial]) -> None:
    """Write each run as a session of TensorBoard's HParams page, with its curve.

    A curve's step is a token. Seeds of an arm are sessions of one group. Earlier event files of the
    same runs are replaced.

    Raises:
        ConfigError: when the folder can't be written.
    """
    for trial in trials:
        path = Path(folder) / trial.folder
        with boundary(ConfigError, f"can't write the TensorBoard folder {path}"):
            for old in path.glob("events.out.tfevents.*"):
                old.unlink()
        sink = _TrialSink(path)
        try:
            sink.begin(trial.arm, trial.settings)
            for tokens, score in trial.curve:
                sink.log(round(tokens), {"score": score})
            sink.log(0, trial.figures)
            sink.end()
        finally:
            sink.close()


class _TrialSink(TensorBoardSink):
    """A sink whose folder is also a session of the HParams page."""

    def begin(self, group: str, settings: Mapping[str, Any]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        values = {
            # None and lists as text: the page knows flags, numbers and words.
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in settings.items()
        }
        self._add(0, summary=hparams_pb(values, trial_id=group))

    def end(self) -> None:
        """Say that the session is over, and how; `tensorboard` has this only for TensorFlow."""
        metadata = import_module("tensorboard.plugins.hparams.metadata")
        plugin = import_module("tensorboard.plugins.hparams.plugin_data_pb2")
        success = import_module("tensorboard.plugins.hparams.api_pb2").STATUS_SUCCESS
        over = plugin.HParamsPluginData(session_end_info=plugin.SessionEndInfo(status=success))
        value = self._proto["Summary"].Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(over),
            tensor=metadata.NULL_TENSOR,
        )
        self._add(0, summary=self._proto["Summary"](value=[value]))


def _furnish(axes: Any, score: str) -> None:
    from matplotlib.ticker import EngFormatter

    low, high = axes.get_ylim()
    if low >= -0.1 and high <= 1.1:  # scores between 0 and 1
        axes.set_ylim(-0.02 * high, min(high, 1.03))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("sampled tokens, those of discarded rollouts included")
    axes.set_ylabel(score)
    canvas.tidy(axes)


def _words(name: str) -> str:
    """A name that matplotlib takes literally: `$` begins mathematics, `_` hides from a legend."""
    half = _LONGEST // 2
    short = name if len(name) <= _LONGEST else f"{name[:half]}...{name[-half:]}"
    return short.replace("$", r"\$").lstrip("_")
