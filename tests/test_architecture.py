"""The layer table and the effects table, checked on the imports and calls of every module."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlagents"

LAYERS = (
    {"types", "errors", "visible", "depth", "__init__"},
    {
        "algos",
        "envs",
        "config",
        "yaml_text",
        "schema",
        "rules",
        "moot",
        "load",
        "stages",
        "preset",
        "runs",
        "interrupt",
        "journal",
        "telemetry",
    },
    {"policy", "data", "scoring", "weights"},
    {"rollout", "learner", "checkpoint"},
    {
        "train",
        "parts",
        "league",
        "learning",
        "matches",
        "reporting",
        "evaluate",
        "figures",
        "versions",
        "warm_start",
    },
    {
        "preflight",
        "doctor",
        "preview",
        "build",
        "judges",
        "players",
        "launch",
        "policies",
        "contest",
        "scoreboard",
        "meetings",
        "ranking",
        "trl_bridge",
        "ablate",
        "bench",
        "cli",
        "__main__",
    },
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

SIDEWAYS = {"config", "yaml_text", "schema", "rules", "moot", "load", "stages", "preset", "runs"}
"""The modules of the configuration may import each other inside layer 1, and of `algos`"""
SETTINGS = ("configs", "chunking", "schedules")
"""what settings are made of."""

EVERYWHERE_BENCH = "bench/"
MAY_IMPORT = {
    "torch": (
        "algos/corrections.py",
        "algos/divergences.py",
        "algos/grpo.py",
        "algos/objectives.py",
        "algos/selection.py",
        "algos/terms.py",
        "algos/units.py",
        "learner/",
        "policy/local.py",
        "policy/cache.py",
        "policy/draw.py",
        "policy/models.py",
        "policy/tiny.py",
        "policy/answering.py",
        "checkpoint/",
        "weights.py",
        "build.py",
        "launch.py",
        "doctor.py",
    ),
    "ray": (
        "rollout/worker.py",
        "rollout/pool.py",
        "rollout/ray_pool.py",
        "learner/rank.py",
        "learner/group.py",
        "weights.py",
        "build.py",
        "launch.py",
        "ablate/run.py",
    ),
    "transformers": ("learner/", "policy/", "checkpoint/", "build.py", "launch.py"),
    "trl": ("learner/sft.py", "trl_bridge.py"),
    "tensorboard": ("telemetry/",),
    "matplotlib": (
        "telemetry/ablation.py",
        "telemetry/bracket.py",
        "telemetry/canvas.py",
        "telemetry/curves.py",
        "telemetry/figures.py",
    ),
    "subprocess": ("envs/sandbox/",),
    "multiprocessing": ("envs/sandbox/",),
    "socket": (
        "policy/endpoint.py",
        "policy/vllm.py",
        "envs/tools/",
        "envs/sandbox/probe.py",  # canaries on loopback, to see them out of reach
        "envs/sandbox/attack/",
    ),
    "requests": ("policy/endpoint.py", "policy/vllm.py", "envs/tools/"),
    "urllib": ("policy/endpoint.py", "policy/vllm.py", "envs/tools/"),
    "http": ("policy/endpoint.py", "policy/vllm.py", "envs/tools/"),
    "httpx": ("policy/endpoint.py", "policy/vllm.py", "envs/tools/"),
    "openai": ("policy/completions.py",),
    "httpx2": ("policy/completions.py",),
    "pickle": (),
    "random": ("learner/sft.py", "checkpoint/pack.py"),  # only to put its state back
}
MAY_WRITE = (
    "checkpoint/",
    "journal/",
    "telemetry/ablation.py",
    "telemetry/curves.py",
    "telemetry/sinks.py",
    "telemetry/spans.py",
    "telemetry/tb.py",
    "data/demonstrations.py",
    "runs.py",
    "envs/sandbox/",
    "policy/models.py",
    "scoring/cache.py",
    "ablate/",
    "ranking.py",
    "cli.py",
)
WRITES = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "replace", "rmdir", "touch"}
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))
# rglob does not follow links in every Python version: the linked folders are added by name.
MODULES += sorted(
    PACKAGE / name / p.relative_to(ROOT / name)
    for name in ("algos", "envs")
    for p in (ROOT / name).rglob("*.py")
)
MODULES = sorted(set(MODULES))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(name: str) -> str:
    """`rollout/pool.py` -> `rollout`, `train.py` -> `train`."""
    return name.partition("/")[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Absolute dotted names of everything imported, anywhere in a file, `TYPE_CHECKING` included.

    `from a.b import c` gives `a.b.c`: `c` may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(name: str, source: str) -> list[str]:
    """The imports of a module of ours that the layer table forbids."""
    here = room(name)
    found = []
    for target in imports(ast.parse(source)):
        top, *rest = target.split(".")
        if top in ("envs", "algos"):
            found.append(f"{name} imports {target}: say rlagents.{target}")
        if top != "rlagents" or not rest or rest[0] not in LEVEL:
            continue
        there = rest[0]
        if there == here or here in ("bench", "cli", "build", "launch", "__main__", "__init__"):
            continue
        sideways = {here, there} <= SIDEWAYS or (
            here in SIDEWAYS and rest[0] == "algos" and rest[1] in SETTINGS
        )
        if LEVEL[there] > LEVEL[here] or (
            LEVEL[there] == LEVEL[here] and not allowed(here, there, sideways)
        ):
            found.append(f"{name} imports {target}")
    return found


def allowed(here: str, there: str, sideways: bool) -> bool:
    """Inside a layer: the configuration in layer 1, anything but the pair of rooms in layer 3."""
    level = LEVEL[here]
    if level == 1:
        return sideways
    return {here, there} != {"rollout", "learner"}


def effects(name: str, source: str) -> list[str]:
    """Imports and calls that belong to other modules, by the effects table."""
    if name.startswith(EVERYWHERE_BENCH):
        return []
    tree = ast.parse(source)
    found = []
    for target in imports(tree):
        top = target.split(".")[0]
        if top in MAY_IMPORT and not name.startswith(MAY_IMPORT[top]):
            found.append(f"{name} imports {target}")
    if not name.startswith(MAY_WRITE):
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found += [f"{name}:{call.lineno} writes" for call in calls if is_write(call)]
    return found


def is_write(node: ast.Call) -> bool:
    """`open(..., "w")` in any spelling, and the writing methods of a path."""
    function = node.func
    called = getattr(function, "attr", getattr(function, "id", ""))
    if called == "open":
        first = 1 if isinstance(function, ast.Name) else 0  # `open(path, mode)`, `path.open(mode)`
        values = node.args[first : first + 1]
        values += [k.value for k in node.keywords if k.arg == "mode"]
        modes = [
            v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
        ]
        return any(set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes)
    if called == "replace":  # of strings and of dataclasses: only `os.replace` touches the disk
        return isinstance(function, ast.Attribute) and ast.unparse(function.value) == "os"
    return called in WRITES and isinstance(function, ast.Attribute)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    name = relative(path)
    assert room(name) in LEVEL, f"{name}: add its room to the layer table"
    assert upward(name, path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_effects_have_an_address(path: Path) -> None:
    assert effects(relative(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("policy/x.py", "from rlagents.rollout import episode"),
        ("policy/x.py", "def f():\n    import rlagents.learner.step"),
        ("types.py", "import rlagents.config"),
        ("envs/x.py", "from rlagents.journal import Journal"),
        ("config.py", "from rlagents.algos import objectives"),
        ("rollout/x.py", "from rlagents.learner.model import Model"),
        ("learner/x.py", "from rlagents import rollout"),
        ("train.py", "from rlagents.build import make_pool"),
        ("data/x.py", "from algos import chunking"),
    ],
)
def test_the_layer_check_sees_forbidden_imports(name: str, source: str) -> None:
    assert len(upward(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rollout/x.py", "from rlagents.policy.sampler import Sampler"),
        ("config.py", "from rlagents.algos.configs import require"),
        ("build.py", "from rlagents.rollout.pool import Pool"),
        ("rollout/x.py", "from rlagents.rollout.pool import Pool"),
        ("checkpoint/x.py", "import torch"),
    ],
)
def test_the_checks_let_allowed_imports_pass(name: str, source: str) -> None:
    assert upward(name, source) == []
    assert effects(name, source) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/x.py", "import torch"),
        ("train.py", "from ray import get"),
        ("scoring/x.py", "import subprocess"),
        ("policy/local.py", "import socket"),
        ("data/x.py", "open('a', 'wb')"),
        ("data/x.py", "path.open(mode='a')"),
        ("data/x.py", "path.write_text('a')"),
        ("data/x.py", "os.replace(a, b)"),
        ("envs/x.py", "import random"),
    ],
)
def test_the_effects_check_sees_effects(name: str, source: str) -> None:
    assert len(effects(name, source)) == 1


def test_reading_and_string_methods_are_no_writes() -> None:
    source = "open('a')\nopen('a', 'rb')\nopen('wax')\nx.open('rb')\n'a'.replace('a', 'b')"
    assert effects("data/x.py", source) == []


@pytest.mark.parametrize(
    "module",
    [
        "rlagents.types",
        "rlagents.load",
        "rlagents.envs",
        "rlagents.envs.sandbox",
        "rlagents.scoring",
        "rlagents.scoring.cache",
        "rlagents.policy.endpoint",
        "rlagents.cli",
        "rlagents.ablate.plan",
    ],
)
def test_light_modules_load_neither_torch_nor_ray(module: str) -> None:
    heavy = "{'torch', 'ray', 'transformers', 'trl', 'openai'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
