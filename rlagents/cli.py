"""The command line. Reads arguments, calls one function, prints; what is heavy loads inside.

Exit codes: 0 done, 1 the run failed, 2 the user's input can't be run, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from rlagents import preset, runs
from rlagents.errors import ConfigError, RlagentsError, nearest
from rlagents.load import load, resolved_yaml

app = typer.Typer(
    name="rlagents",
    help="Train and study long-horizon language-model agents.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
envs = typer.Typer(help="The environments: list, check.")
app.add_typer(envs, name="envs")

BENCHES = {
    "bias": "rlagents.bench.bias",
    "horizon": "rlagents.bench.horizon",
    "learner": "rlagents.bench.learner",
    "partial": "rlagents.bench.partial",
    "prefix": "rlagents.bench.prefix",
    "rollout": "rlagents.bench.rollout",
    "sandbox": "rlagents.bench.sandbox",
    "sandbox-soak": "rlagents.bench.soak_sandbox",
    "tournaments": "rlagents.bench.tournaments",
}
"""Name of a benchmark -> module with `run() -> Result`."""

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings to change.")
]
RunDir = Annotated[str, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")]


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; none with --resume.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN_DIR", help="Continue an interrupted run.")
    ] = None,
) -> None:
    """Run the whole experiment: warm start if configured, RL, evaluations."""
    if resume is not None:
        if config is not None:
            raise ConfigError(
                f"train --resume: expected no CONFIG or overrides beside it, got {config!r}; "
                "a resumed run keeps its configuration"
            )
        folder = _run_dir(resume)
        from rlagents import launch

        launch.resume(folder)
    else:
        if config is None:
            raise ConfigError("train: expected CONFIG or --resume RUN_DIR")
        run = _load(config, overrides)
        # Before the seconds that torch takes: a folder that can't be made is known at once.
        made = runs.create(run.run, resolved_yaml(run))
        from rlagents import launch

        launch.start(run, made)


@app.command()
def ablate(
    config: Config,
    overrides: Overrides = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B", help="Values of a setting; several make the product."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: k=v k2=v2'", help="A named combination of settings."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Each arm runs with each.")] = "0,1,2",
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Default: runs/ablate/ and CONFIG's name.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Runs at once; default: one a core.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Default: 90% of the way to the best final score."),
    ] = None,
    report: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG,TAG", help="Metrics to compare, too: policy/entropy."),
    ] = None,
) -> None:
    """Train arms that differ in settings with several seeds, and compare them.

    Every run is a folder like that of `train`. The same command goes on where it stopped.
    """
    from rlagents.ablate.arms import tags_of
    from rlagents.ablate.plan import plan

    tags = tags_of(report or ())
    planned = plan(config, overrides or (), vary=vary or (), arms=arm or (), seeds=seeds, out=out)
    from rlagents.ablate import run  # Ray, after everything is checked

    run.ablate(planned, jobs=jobs, threshold=threshold, tags=tags)


@app.command("eval")
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Score a policy on held-out tasks: policy.from=RUN_DIR|MODEL|random|oracle|expert."""
    origin, rest = _policy_from(overrides or [])
    run = _load(config, rest, training=False)
    from rlagents import policies

    policies.score(run, origin)


@app.command()
def play(config: Config, overrides: Overrides = None) -> None:
    """Play one episode and print it as it happens (policy.from as for eval)."""
    origin, rest = _policy_from(overrides or [])
    run = _load(config, rest, training=False)
    from rlagents import policies

    policies.play(run, origin)


@app.command()
def tournament(
    config: Config,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="players=[A,B,...] [key=value ...]",
            help="Also games=32, topology=round_robin, out=DIR, and settings to change.",
        ),
    ] = None,
) -> None:
    """Rank players by games: self, scripted:NAME, endpoint:NAME, folders of runs and of models."""
    from rlagents.contest import Contest

    contest, rest = Contest.taken(overrides or [])
    run = _load(config, rest, training=False)
    contest.check(run)
    from rlagents import ranking  # torch, after everything else is checked

    ranking.rank(run, contest)


@app.command()
def preview(config: Config, overrides: Overrides = None) -> None:
    """Print one real batch as it would be trained: text, masks, segments, advantages, weights."""
    run = _load(config, overrides)
    from rlagents import policies

    policies.preview(run)


@app.command()
def show(
    run_dir: RunDir,
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help="train/12/0/3, or how keys begin: eval/rl, train/12"),
    ] = None,
) -> None:
    """Read the journal of a run: a table of its trajectories, or the one under KEY in full.

    What was recorded of trajectories while they were paused is listed under the KEY `paused` only.
    """
    folder = _run_dir(run_dir)
    from rich.console import Console

    from rlagents.journal import JournalReader
    from rlagents.rollout.recorded import is_part
    from rlagents.telemetry.show import in_stream, listing, parse_key, trajectory_view

    reader, console = JournalReader(Path(folder) / "journal"), Console()
    if not console.is_terminal:
        console.width = 200  # whole keys for the next program in the pipe
    keys = [k for k in reader.keys() if key is not None or not is_part(k)]  # noqa: SIM118
    chosen = sorted(k for k in keys if in_stream(k, key))
    if chosen or key is None:
        console.print(listing(record for k in chosen if (record := reader.get(k)) is not None))
    else:
        record = reader.get(parse_key(key))
        if record is None:
            raise ConfigError(f"{key}: not in this journal{nearest(key, map(str, reader.keys()))}")
        console.print(trajectory_view(record))
    if reader.damage.records:
        for message in reader.damage.messages:
            typer.echo(f"note: {message}", err=True)


@app.command("config")
def print_config(config: Config, overrides: Overrides = None) -> None:
    """Print every setting that has an effect, and what the preset changed and why."""
    run = _load(config, overrides)
    typer.echo(preset.annotated(resolved_yaml(run), preset.read(run.algo.name)), nl=False)


@app.command()
def export(
    run_dir: RunDir, out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder.")]
) -> None:
    """Write the final policy of a run as a Hugging Face folder."""
    folder = _run_dir(run_dir)
    from rlagents import policies

    policies.export(folder, out)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=", ".join(BENCHES))],
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Also write JSON.")] = None,
) -> None:
    """Run a side-by-side measurement and print its table."""
    if name not in BENCHES:
        known = ", ".join(BENCHES)
        raise ConfigError(f"bench: expected one of {known}, got {name!r}{nearest(name, BENCHES)}")
    if out is not None and not (Path(out).parent.is_dir() and not Path(out).is_dir()):
        raise ConfigError(f"bench --out: expected a file in a folder that exists, got {out!r}")
    import importlib

    result = importlib.import_module(BENCHES[name]).run()
    typer.echo(result.table())
    if out is not None:
        Path(out).write_text(result.to_json() + "\n", encoding="utf-8")


@app.command()
def doctor(
    attack: Annotated[
        bool, typer.Option(help="Attack the sandbox with the hostile battery and report.")
    ] = False,
    tier: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --attack: the tier; default auto.")
    ] = None,
) -> None:
    """What this machine can run, and how to fix what it can't."""
    if tier is not None and not attack:
        raise ConfigError("doctor --tier: it says what --attack attacks; give both")
    from rlagents import doctor as checks

    raise typer.Exit(checks.attack(tier or "auto") if attack else checks.report())


@envs.command("list")
def list_envs() -> None:
    """List our environments with their arguments and scripted policies."""
    from rlagents.envs import catalogue

    for entry in catalogue():
        arguments = ", ".join(f"{name}={value!r}" for name, value in entry.kwargs.items())
        typer.echo(f"{entry.id}: {entry.summary}")
        typer.echo(f"    kwargs: {arguments or 'none'}")
        typer.echo(f"    scripted policies: {', '.join(entry.scripted) or 'none'}")


@envs.command("check")
def check_env_contract(
    env_id: Annotated[str, typer.Argument(metavar="ID", help="Id-v0 or module:Id-v0")],
) -> None:
    """Run the conformance suite on an environment; exit code 1 where it breaks the contract."""
    from rlagents.envs import find_spec
    from rlagents.envs.conformance import check

    find_spec(env_id)
    report = check(env_id)
    typer.echo(str(report))
    raise typer.Exit(0 if report.ok else 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; user errors are one line on stderr.

    Args:
        argv: the arguments after the program's name; the process's own by default.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # so that `module:Id-v0` finds a file in the working folder
    try:
        with _BugNote():
            _check_command(args)
            command = _command()
            # Not `command.main`, which turns Ctrl-C into another exception.
            with command.make_context("rlagents", args or ["--help"]) as context:
                command.invoke(context)
            sys.stdout.flush()
            return 0
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except ConfigError as error:
        return _fail(str(error), 2)
    except typer.TyperException as error:
        return _fail(_usage_problem(error), 2)
    except RlagentsError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # `rlagents config x.yaml | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def one_line(text: str, limit: int = 800) -> str:
    """The text on one line, its middle left out where it is longer than `limit` characters."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    half = limit // 2
    return f"{line[:half]} ... {line[-half:]}"


@cache
def _command() -> Any:
    return typer.main.get_command(app)


class _BugNote:
    """Adds a note to an exception that no boundary named: its traceback is for us."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        expected = (RlagentsError, typer.Exit, typer.TyperException, BrokenPipeError)
        if isinstance(error, Exception) and not isinstance(error, expected):
            error.add_note("This is a bug in rlagents, or in code that it was given: please report")


def _check_command(args: list[str]) -> None:
    """Name the nearest command for an unknown one: `rlagents trian x.yaml`."""
    group: Any = _command()
    spoken = "rlagents"
    for arg in args:
        commands = getattr(group, "commands", None)
        if commands is None or arg.startswith("-"):
            return
        if arg not in commands:
            raise ConfigError(f"{spoken}: unknown command {arg[:60]!r}{nearest(arg, commands)}")
        group, spoken = commands[arg], f"{spoken} {arg}"


def _load(config: str, overrides: list[str] | None, *, training: bool = True) -> Any:
    if "=" in config and not Path(config).exists():
        raise ConfigError(f"expected CONFIG, a YAML file, before overrides, got {config!r}")
    if training and _policy_from(overrides or [])[0] is not None:
        raise ConfigError(
            "policy.from: only eval and play take it; training starts from policy.model"
        )
    run = load(config, overrides or [], training=training)
    from rlagents.preflight import check_env

    check_env(run)
    return run


def _policy_from(overrides: list[str]) -> tuple[str | None, list[str]]:
    """Take `policy.from=X` out of the overrides: it says what to play, not how to train."""
    origin, rest = None, []
    for text in overrides:
        if text.startswith("policy.from="):
            origin = text.partition("=")[2]
            if not origin:
                raise ConfigError(
                    "policy.from: expected a run folder, a model, or a scripted policy, got nothing"
                )
        else:
            rest.append(text)
    return origin, rest


def _run_dir(path: str) -> str:
    if not (Path(path) / "config.yaml").is_file():
        raise ConfigError(f"{path}: expected the folder of a run (with config.yaml in it)")
    return path


def _usage_problem(error: Any) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    return f"{context.command_path}: {message}" if context is not None else message


def _fail(message: str, code: int) -> int:
    from rlagents.visible import escape  # a message may quote what an agent wrote

    print(f"error: {escape(one_line(message))}", file=sys.stderr)
    return code


def _interrupted(stop: BaseException) -> int:
    """`launch` sets `run_dir` on the exception where there is a run to resume."""
    run_dir = getattr(stop, "run_dir", None)
    hint = f"; resume with: rlagents train --resume {run_dir}" if run_dir else ""
    print(f"interrupted{hint}", file=sys.stderr)
    return 130
