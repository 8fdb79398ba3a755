"""What an ablation runs: arms x seeds, each a whole configuration, checked before any starts.

Torch-free, so that a mistake is known at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlagents import yaml_text
from rlagents.ablate.arms import Arm, arms_of, seeds_of
from rlagents.config import RunConfig
from rlagents.errors import ConfigError, RlagentsError, boundary
from rlagents.load import from_yaml_text, load
from rlagents.preflight import check_env
from rlagents.runs import RunFolder

REQUEST = "ablation.yaml"
"""In the folder of an ablation: what was asked for."""

_OURS = {
    "run.seed": "--seeds gives it",
    "run.dir": "--out gives it",
    "run": "give run.name alone; --seeds and --out give the rest",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> RunFolder:
        assert self.config.run.dir is not None
        return RunFolder(Path(self.config.run.dir))

    @property
    def log(self) -> Path:
        """What the run would have printed."""
        return self.folder.path.with_name(self.folder.path.name + ".log")

    @property
    def words(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def state(self) -> Literal["new", "stopped", "finished"]:
        """How far it is, by what lies in its folder."""
        if not self.folder.config.is_file():
            return "new"
        summary = read_summary(self.folder)
        with boundary(ConfigError, f"{self.folder.summary}: expected the summary of a run"):
            return "finished" if _finished(self.config, summary) else "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Everything that was asked for, checked."""

    config: str
    overrides: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    out: Path
    runs: tuple[Run, ...]
    """Seed by seed, so that every arm has its first seed soon."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Settings in which the arms were asked to differ."""
        keys = (text.partition("=")[0] for arm in self.arms for text in arm.overrides)
        return tuple(dict.fromkeys(keys))


def plan(
    config: str,
    overrides: Sequence[str] = (),
    *,
    vary: Sequence[str] = (),
    arms: Sequence[str] = (),
    seeds: str = "0,1,2",
    out: str | None = None,
) -> Ablation:
    """Arms x seeds as whole configurations.

    The executor is `local` unless an override says otherwise: it is the runs that share the
    machine, a process each.

    Args:
        config: path of the YAML that the arms start from.
        overrides: `key=value` for all of them.
        vary: `key=a,b` each; several make the product. Values are YAML.
        arms: `NAME: key=value key2=value2` each; without any there is one, `base`.
        seeds: `0,1,2`.
        out: the folder; by default `runs/ablate/` and the name of the file.

    Raises:
        ConfigError: for the first thing that can't be run. What is wrong with an arm names it.
        EnvironmentFailure: an arm's environment can't be made.
    """
    made = arms_of(arms, vary)
    numbers = seeds_of(seeds)
    folder = Path(out) if out is not None else Path("runs") / "ablate" / Path(config).stem
    for text in (*overrides, *(text for arm in made for text in arm.overrides)):
        key = text.partition("=")[0]
        if key in _OURS:
            raise ConfigError(f"{key}: not a setting of an ablation's arms; {_OURS[key]}")
    shared = ("rollout.executor=local", *overrides)
    # A run each, because a setting may refer to `${run.seed}`.
    runs = tuple(
        Run(
            arm=arm.name,
            seed=seed,
            config=_placed(
                _config_of(config, (*shared, f"run.seed={seed}"), arm), folder / arm.folder
            ),
        )
        for seed in numbers
        for arm in made
    )
    firsts = {run.arm: dataclasses.replace(run.config.run, dir=None) for run in runs[: len(made)]}
    configs = {r.arm: dataclasses.replace(r.config, run=firsts[r.arm]) for r in runs[: len(made)]}
    for one, other in itertools.combinations(made, 2):
        if configs[one.name] == configs[other.name]:
            raise ConfigError(f"arms {one.name!r} and {other.name!r} are the same configuration")
    return Ablation(
        config=config, overrides=tuple(overrides), arms=made, seeds=numbers, out=folder, runs=runs
    )


def settings(ablation: Ablation, arm: Arm) -> dict[str, Any]:
    """What an arm's configuration holds at the keys that arms differ in."""
    config = next(run.config for run in ablation.runs if run.arm == arm.name)
    return {key: _get(dataclasses.asdict(config), key) for key in ablation.keys}


def claim(ablation: Ablation) -> None:
    """Make the folder, or see that it holds this ablation, and write down what was asked.

    More seeds or other arms of the same configuration may join what is there.

    Raises:
        ConfigError: when the folder holds something else, or can't be made.
    """
    out = ablation.out
    with boundary(ConfigError, f"--out: can't use the folder {str(out)!r}"):
        different = _difference(ablation)
        if different:
            raise ConfigError(f"--out: {str(out)!r} holds {different}; choose another folder")
        request = {
            "config": ablation.config,
            "overrides": list(ablation.overrides),
            "arms": {arm.name: list(arm.overrides) for arm in ablation.arms},
            "seeds": list(ablation.seeds),
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / REQUEST).write_text(yaml_text.dump(request), encoding="utf-8")


def read_summary(folder: RunFolder) -> Mapping[str, Any]:
    """`summary.json`, or nothing where there is none yet."""
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _config_of(path: str, shared: Sequence[str], arm: Arm) -> RunConfig:
    try:
        return _load(path, (*shared, *arm.overrides))
    except RlagentsError as error:
        if str(error) == _problem(path, shared):
            raise  # of the file or of what all arms share
        raise type(error)(f"arm {arm.name!r}: {error}") from error


def _problem(path: str, overrides: Sequence[str]) -> str:
    try:
        _load(path, overrides)
    except RlagentsError as error:
        return str(error)
    return ""


def _load(path: str, overrides: Sequence[str]) -> RunConfig:
    config = load(path, overrides)
    check_env(config)
    return config


def _finished(config: RunConfig, summary: Mapping[str, Any]) -> bool:
    """Whether a run has all its iterations, tokens or turns, and the score of its last weights."""
    if not summary:
        return False
    done, limits = summary["iterations"], config.train
    spent = 0 < limits.max_tokens <= summary["tokens_sampled"]
    spent |= 0 < limits.max_turns <= summary["env_turns"]
    if done < limits.iterations and not spent:
        return False
    evaluated = {(e["stage"], e["step"]) for e in summary["evals"]}
    before = "warm_start" if config.warm_start.enabled else "initial"
    last = ("rl", summary["steps"]) if done else (before, 0)
    return not config.eval.episodes or last in evaluated


def _placed(config: RunConfig, folder: Path) -> RunConfig:
    run = dataclasses.replace(config.run, dir=str(folder / f"seed-{config.run.seed}"))
    return dataclasses.replace(config, run=run)


def _difference(ablation: Ablation) -> str:
    """What lies in the folder that can't belong to this ablation; empty where nothing does."""
    out, request = ablation.out, ablation.out / REQUEST
    if not request.is_file():
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
        return "something else than an ablation" if taken else ""
    there: Any = yaml_text.parse(request.read_text(encoding="utf-8"), str(request))
    for name, ours in (("config", ablation.config), ("overrides", list(ablation.overrides))):
        theirs = there.get(name) if isinstance(there, dict) else None
        if theirs != ours:
            return f"another ablation: its {name} is {theirs!r}, this one's is {ours!r}"
    for run in ablation.runs:
        if run.folder.config.is_file():
            text = run.folder.config.read_text(encoding="utf-8")
            key = _first_difference(text, run)
            if key:
                return f"another ablation: {key} differs in {run.words}"
    return ""


def _first_difference(text: str, run: Run) -> str:
    """The first key in which a run's `config.yaml` is not what is planned; its place may differ."""
    theirs = from_yaml_text(text, str(run.folder.config))
    theirs = dataclasses.replace(
        theirs, run=dataclasses.replace(theirs.run, dir=run.config.run.dir)
    )
    return next(_differing(dataclasses.asdict(theirs), dataclasses.asdict(run.config), ""), "")


def _differing(one: Any, other: Any, key: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _differing(one.get(name), other.get(name), f"{key}.{name}" if key else name)
    elif one != other:
        yield key


def _get(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
