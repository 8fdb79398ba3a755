"""What an ablation leaves behind: tables, a picture, TensorBoard's pages."""

from __future__ import annotations

from collections.abc import Sequence

from rlagents.ablate import results, table
from rlagents.ablate.compare import Comparison
from rlagents.ablate.plan import Ablation, settings
from rlagents.ablate.results import Result
from rlagents.errors import ConfigError
from rlagents.telemetry.ablation import Trial, plot, write_hparams
from rlagents.telemetry.progress import Display


def write(
    ablation: Ablation,
    comparison: Comparison,
    finished: Sequence[Result],
    failures: Sequence[str],
    display: Display,
) -> None:
    """Print the tables, and write everything into the ablation's folder.

    Raises:
        ConfigError: when TensorBoard's folder can't be written.
    """
    out = ablation.out
    for shown in table.as_rich(comparison):
        display.print(shown)
    for note in table.notes(comparison):
        display.print(f"- {note}")
    (out / "table.md").write_text(table.as_markdown(comparison, failures), encoding="utf-8")
    (out / "table.json").write_text(table.as_json(comparison, finished), encoding="utf-8")
    write_hparams(out / "tensorboard", _trials(ablation, comparison, finished))
    display.print(f"tables:      {out / 'table.md'}, {out / 'table.json'}")
    try:
        _plot(ablation, comparison, finished)
        display.print(f"picture:     {out / 'plot.png'}")
    except ConfigError as error:
        display.print(f"no picture:  {error}")
    display.print(f"TensorBoard: tensorboard --logdir {out / 'tensorboard'}")


def _trials(ablation: Ablation, comparison: Comparison, finished: Sequence[Result]) -> list[Trial]:
    arms = {arm.name: arm for arm in ablation.arms}
    trials = []
    for result in finished:
        arm, curve = arms[result.arm], result.curve(comparison.source)
        figures = {"tokens_sampled": float(result.tokens), "steps": float(result.steps)}
        if result.final is not None:
            figures["final_score"] = result.final
        if curve and comparison.budget is not None:
            figures["score_at_equal_tokens"] = results.at(curve, comparison.budget)
        if comparison.threshold is not None:
            tokens = results.crossing(curve, comparison.threshold)
            figures |= {} if tokens is None else {"tokens_to_threshold": tokens}
        trials.append(
            Trial(
                arm=arm.name,
                folder=f"{arm.folder}/seed-{result.seed}",
                settings={"arm": arm.name, **settings(ablation, arm)},
                figures=figures,
                curve=curve,
            )
        )
    return trials


def _plot(ablation: Ablation, comparison: Comparison, finished: Sequence[Result]) -> None:
    words = {"held-out": "mean held-out score", "training": "mean score of training rollouts"}
    source = comparison.source
    plot(
        {
            arm.name: [r.curve(source) for r in finished if r.arm == arm.name]
            for arm in ablation.arms
        },
        ablation.out / "plot.png",
        score=words[source],
        threshold=comparison.threshold,
        budget=comparison.budget,
    )
