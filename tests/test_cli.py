"""The command line: exit codes, one line for every mistake, and a fuzz of configurations."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlagents.cli import main, one_line
from rlagents.load import from_yaml_text, load
from rlagents.schema import known_keys

ROOT = Path(__file__).resolve().parent.parent
KEYS = known_keys()
SECTIONS = tuple(k for k in KEYS if any(other.startswith(k + ".") for other in KEYS))
NUMBERS = tuple(
    k
    for k in KEYS
    if k.partition(".")[0] in ("rollout", "train", "checkpoint")
    and k not in ("rollout", "train", "checkpoint")
    and k not in ("rollout.executor", "rollout.deterministic", "rollout.ray_address")
)
CHOICES = {
    "algo.advantage.scale": "group",
    "algo.aggregation": "token_mean",
    "algo.name": "grpo_pp",
    "learner.dtype": "bfloat16",
    "learner.device": "cuda",
    "context.strategy": "pinned_window",
    "rollout.executor": "local",
    "policy.history": "template",
}
CONTRADICTIONS = (
    ("policy.top_p", "policy.top_p=0.{n}"),
    ("rollout.workers", "rollout.workers={n}"),
    ("context.overlap", "context.strategy=full context.overlap={n}"),
    ("policy.tiny.width", "policy.model=folder policy.tiny.width={n}"),
    ("policy.max_tokens", "policy.max_tokens=6{n}0"),
    ("rollout.cache_tokens", "rollout.cache_tokens={n}"),
    ("warm_start.lr", "warm_start.lr=0.{n}"),
    ("algo.sampling.max_refills", "algo.name=grpo algo.sampling.max_refills={n}"),
    ("env.id", "env.id=rlagents/KeyRoom{n}-v0"),
    ("env.id", "env.id=no_such_module_{n}:Thing-v0"),
    ("env.kwargs.horizn", "env.kwargs.horizn={n}"),
    ("env.kwargs", "env.kwargs.horizon=-{n}"),
    ("warm_start.expert", "warm_start.episodes={n} warm_start.expert=exprt"),
)


@dataclass(frozen=True)
class Case:
    """Arguments that can't be run, and what the one line must say."""

    args: list[str]
    key: str
    hint: bool
    """Whether the line must name a valid key or value."""


def typo(rng: random.Random, word: str) -> str:
    """The word with one letter dropped, doubled, or swapped with its neighbour."""
    at = rng.choice([i for i in range(len(word)) if word[i].isalpha()])
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] * 2 + word[at + 1 :]
    return word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


def wrong_key(rng: random.Random, file: Path) -> Case:
    key = rng.choice([k for k in KEYS if k not in SECTIONS])
    wrong = typo(rng, key)
    while wrong in KEYS or not re.fullmatch(r"[a-z_]\w*(\.\w+)*", wrong):
        wrong = typo(rng, key)
    if re.match(r"(env\.(kwargs|options)|warm_start\.env_kwargs)\.", wrong):
        return wrong_key(rng, file)
    if rng.random() < 0.5:
        return Case([str(file), f"{wrong}=1"], wrong, True)
    *sections, name = wrong.split(".")
    lines = ["  " * i + f"{part}:\n" for i, part in enumerate(sections)]
    file.write_text("".join(lines) + "  " * len(sections) + f"{name}: 1\n")
    return Case([str(file)], wrong, True)


def wrong_number(rng: random.Random, file: Path) -> Case:
    key = rng.choice(NUMBERS)
    value = rng.choice(["many", "[1]", "{a: 1}", "null", "true", "'3'", "-1e400", "0x10", "-9", ""])
    if rng.random() < 0.5:
        return Case([str(file), f"{key}={value}"], key, False)
    section, name = key.split(".")
    file.write_text(f"{section}:\n  {name}: {value}\n")
    return Case([str(file)], key, False)


def wrong_choice(rng: random.Random, file: Path) -> Case:
    key = rng.choice(list(CHOICES))
    value = typo(rng, CHOICES[key])
    while value == CHOICES[key]:
        value = typo(rng, CHOICES[key])
    return Case([str(file), f"{key}={value}"], key, True)


def wrong_section(rng: random.Random, file: Path) -> Case:
    key = rng.choice(SECTIONS)
    return Case([str(file), f"{key}={rng.choice(['3', 'null', '[a]', 'x', 'true'])}"], key, False)


def contradiction(rng: random.Random, file: Path) -> Case:
    key, template = rng.choice(CONTRADICTIONS)
    return Case([str(file), *template.format(n=rng.randint(2, 9)).split()], key, False)


def broken_override(rng: random.Random, file: Path) -> Case:
    key = rng.choice(KEYS)
    text = rng.choice([f"{key}", f"{key}:3", f".{key}=1", f"{key}.=1", f"{key}=[a", f"{key}=!x y"])
    return Case([str(file), text], key, False)


def broken_file(rng: random.Random, file: Path) -> Case:
    kind = rng.randrange(6)
    if kind == 0:
        file.write_bytes(bytes([255, 254]) + rng.randbytes(50))
    elif kind == 1:
        file.write_text(f"run:\n\tseed: {rng.randrange(9)}\n")
    elif kind == 2:
        file.write_text("- " * rng.randint(1, 30) + "x")
    elif kind == 3:
        file.write_text(f"run: {{seed: {rng.randrange(9)}")
    elif kind == 4:
        return Case([str(file.with_name(f"missing{rng.randrange(9)}.yaml"))], "missing", False)
    else:
        return Case([str(file.parent)], file.parent.name, False)
    return Case([str(file)], file.name, False)


def broken_interpolation(rng: random.Random, file: Path) -> Case:
    key = rng.choice(["run.name", "run.dir", "policy.system", "policy.model", "rollout.groups"])
    value = rng.choice(
        ["${oc.env:HOME}", "${", "${a", f"${{{key}}}", "${rolout.groups}", "${run}", "${.seed}"]
    )
    return Case([str(file), f"{key}={value}"], key, False)


KINDS: tuple[Callable[[random.Random, Path], Case], ...] = (
    wrong_key,
    wrong_key,
    wrong_number,
    wrong_choice,
    wrong_section,
    contradiction,
    broken_override,
    broken_file,
    broken_interpolation,
)


def cases(seed: int, count: int, file: Path) -> Iterator[Case]:
    """Each case may rewrite `file`, so run it before the next is drawn."""
    rng = random.Random(seed)
    for number in range(count):
        file.write_text("run:\n  seed: 3\n")
        yield KINDS[number % len(KINDS)](rng, file)


def assert_one_clear_line(case: Case, code: int, out: str, err: str) -> None:
    told = f"{case}: exit {code}\n{err}"
    assert code == 2, told
    assert out == "", told
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), told
    assert case.key in err, told
    assert not case.hint or "; did you mean '" in err, told


def test_a_thousand_mistakes_end_with_one_clear_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = ("config", "train", "preview")
    for number, case in enumerate(cases(0, 1000, tmp_path / "x.yaml")):
        code = main([commands[number % 3], *case.args])
        out, err = capsys.readouterr()
        assert_one_clear_line(case, code, out, err)


def test_thirty_mistakes_through_the_shell(tmp_path: Path) -> None:
    for case in cases(1, 30, tmp_path / "x.yaml"):
        done = shell("config", *case.args)
        assert_one_clear_line(case, done.returncode, done.stdout, done.stderr)


def shell(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlagents", *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian", "x.yaml"], "rlagents: unknown command 'trian'; did you mean 'train'?"),
        (["envs", "chek", "x"], "rlagents envs: unknown command 'chek'; did you mean 'check'?"),
        (["envs"], "rlagents envs: Missing command."),
        (["train"], "train: expected CONFIG or --resume RUN_DIR"),
        (["train", "run.seed=1"], "expected CONFIG, a YAML file, before overrides, got 'run.see"),
        (["train", "--resum", "x"], "rlagents train: No such option: --resum"),
        (["train", "--resume"], "Option '--resume' requires an argument."),
        (["train", "x.yaml", "--resume", "runs"], "train --resume: expected no CONFIG or overr"),
        (["train", "--resume", "."], ".: expected the folder of a run"),
        (["config"], "rlagents config: Missing argument 'CONFIG'."),
        (["config", "x.yaml", "-q"], "rlagents config: No such option: -q"),
        (["show", "nowhere"], "nowhere: expected the folder of a run"),
        (["export", "nowhere", "out"], "nowhere: expected the folder of a run"),
        (
            ["bench", "rolout"],
            "bench: expected one of bias, horizon, learner, partial, prefix, rollout, sandbox, "
            "sandbox-soak, tournaments, got 'rolout'",
        ),
        (["bench", "rollout", "--out", "no/where.json"], "bench --out: expected a file in a fold"),
        (["doctor", "--tier", "user"], "doctor --tier: it says what --attack attacks; give both"),
        (["doctor", "--attack", "--tier", "stric"], "sandbox.tier: expected one of auto, strict"),
        (["doctor", "now"], "rlagents doctor: Got unexpected extra argument(s) (now)"),
        (["envs", "check", "rlagents/Lok-v0"], "env.id: no environment 'rlagents/Lok-v0' is reg"),
        (["train", "x.yaml", "policy.from=a"], "policy.from: only eval and play take it"),
        (["--verbose"], "rlagents: No such option: --verbose"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chdir(tmp_path)
    code = main(args)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


@pytest.fixture(autouse=True)
def _same_folder_afterwards() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)


def test_config_prints_what_load_resolves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("rollout: {groups: 3}")
    assert main(["config", str(path), "run.seed=5"]) == 0
    out, err = capsys.readouterr()
    assert from_yaml_text(out) == load(str(path), ["run.seed=5"])
    assert err == ""
    assert "groups: 3" in out


def test_no_arguments_and_help_print_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    for name in ("train", "eval", "play", "preview", "show", "config", "export", "bench", "envs"):
        assert re.search(rf"^  {name} ", bare, re.M)


def test_envs_list_names_ours_and_check_passes_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "list"]) == 0
    assert "rlagents/KeyRooms-v0: " in capsys.readouterr().out
    assert main(["envs", "check", "rlagents/Lock-v0"]) == 0
    assert "rlagents/Lock-v0: conforms" in capsys.readouterr().out


BROKEN_ENV = """
import gymnasium


class Mine(gymnasium.Env):
    def __init__(self, length: int = 3):
        if length < 1:
            raise ValueError("length must be 1 or more")
        if length > 9:
            raise RuntimeError("no licence")

    def reset(self, *, seed=None, options=None):
        return 7, {}

    def step(self, action):
        return "", 0.0, True, False, {}


gymnasium.register("test/Mine-v0", Mine)
"""


def test_an_environment_in_the_working_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_env_of_test_cli.py").write_text(BROKEN_ENV)
    (tmp_path / "x.yaml").write_text("env: {id: 'own_env_of_test_cli:test/Mine-v0'}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert main(["config", "x.yaml"]) == 0
    capsys.readouterr()
    assert main(["envs", "check", "own_env_of_test_cli:test/Mine-v0"]) == 1  # reset gives no text
    capsys.readouterr()
    for override, code, message in [
        ("env.kwargs.lenght=3", 2, "env.kwargs.lenght: expected an argument of"),
        ("env.kwargs.length=0", 2, "refuses its arguments: length must be 1 or more"),
        ("env.kwargs.length=10", 1, "RuntimeError: no licence"),
    ]:
        assert main(["config", "x.yaml", override]) == code
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_an_environment_that_speaks_no_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text("env: {id: CartPole-v1}")
    assert main(["config", str(tmp_path / "x.yaml")]) == 2
    assert "expected an environment of text, got 'CartPole-v1'" in capsys.readouterr().err


def test_config_answers_without_torch_or_ray(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("run: {seed: 3}")
    code = (
        "import sys, json; from rlagents.cli import main; "
        f"code = main(['config', {str(path)!r}]); "
        "heavy = {'torch', 'ray', 'transformers', 'trl', 'tensorboard'} & set(sys.modules); "
        "print(json.dumps([code, sorted(heavy)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert json.loads(done.stderr) == [0, []]


def test_a_bug_keeps_its_traceback_and_says_so(tmp_path: Path) -> None:
    code = (
        "from rlagents import cli\n"
        "def broken(): raise ZeroDivisionError('oops')\n"
        "cli.app.command('broken')(broken)\n"
        "cli.main(['broken'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError: oops" in done.stderr
    assert "This is a bug in rlagents" in done.stderr


def test_an_interrupted_run_says_how_to_resume(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from rlagents import cli\n"
        "from rlagents.interrupt import Interrupted\n"
        "def stopped():\n"
        "    stop = Interrupted('interrupted')\n"
        "    stop.run_dir = 'runs/a'\n"
        "    raise stop\n"
        "cli.app.command('stopped')(stopped)\n"
        "sys.exit(cli.main(['stopped']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; resume with: rlagents train --resume runs/a\n"


def test_one_line_keeps_both_ends() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    long = one_line("x" * 5000 + "; did you mean 'y'?", limit=100)
    assert long.startswith("xxx") and long.endswith("; did you mean 'y'?")
    assert len(long) == 100 + len(" ... ")


def test_doctor_prints_a_finding_for_everything_a_run_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for what in ("python", "torch", "device", "ray", "trl", "tensorboard", "memory", "disk"):
        assert re.search(rf"^{what} ", out, re.M)
