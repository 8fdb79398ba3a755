"""Loading: worked examples, one line for every mistake, and the way back to YAML."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents import yaml_text
from rlagents.config import RunConfig
from rlagents.errors import ConfigError
from rlagents.load import from_yaml_text, load, resolved_yaml
from rlagents.rules import check
from rlagents.schema import known_keys, nearest_key

GRPO = "algo.name=grpo"
POINTWISE, TOURNAMENT = "scoring.name=pointwise", "scoring.name=tournament"
SIMULATED = "scoring.judge.backend=simulated"
ENDPOINT = "endpoints=[{url: 'http://here/v1', model: some}]"
MEMORY = "context.strategy=reset_with_memory"
OVERLAP = "warm_start.train_overlap=true"
"""The preset that is what the dataclasses say."""


def load_text(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load(str(path), overrides)


def problem(*overrides: str, path: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_given_is_the_defaults() -> None:
    assert load(None, [GRPO]) == RunConfig()


def test_an_override_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    config = load_text(
        tmp_path, "rollout: {groups: 3, group_size: 5}\nrun: {seed: 7}", "rollout.groups=9"
    )
    assert (config.rollout.groups, config.rollout.group_size, config.run.seed) == (9, 5, 7)
    assert config.rollout.max_turns == RunConfig().rollout.max_turns


def test_of_two_overrides_the_last_wins_and_mappings_merge() -> None:
    config = load(None, ["run.seed=1", "env.kwargs={a: 1, b: 2}", "env.kwargs.b=3", "run.seed=2"])
    assert config.run.seed == 2
    assert config.env.kwargs == {"a": 1, "b": 3}


def test_an_override_may_choose_another_preset_and_the_file_keeps_its_word(tmp_path: Path) -> None:
    plain = load_text(tmp_path, "algo: {name: grpo_pp, clip: {low: 0.1}}", "algo.name=grpo").algo
    assert (plain.clip.low, plain.clip.high, plain.advantage.scale) == (0.1, 0.2, "group")


@pytest.mark.parametrize("empty", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, empty: str) -> None:
    assert load_text(tmp_path, empty, GRPO) == RunConfig()


@pytest.mark.parametrize("written", ["yes", "no", "012", "1e5", "1:30", "true", "7"])
def test_a_string_is_taken_as_it_is_spelled(written: str) -> None:
    assert load(None, [f"run.name={written}"]).run.name == written
    assert load(None, [f"run.name='{written}'"]).run.name == written


def test_free_values_follow_yaml_1_2() -> None:
    config = load(None, ["env.kwargs={a: yes, b: 012, c: 1e3, d: true, e: ~, f: [1, x], g: 1_000}"])
    expected = {"a": "yes", "b": "012", "c": 1000.0, "d": True, "e": None, "f": [1, "x"], "g": 1000}
    assert config.env.kwargs == expected


def test_tuples_stay_tuples() -> None:
    config = load(None, ["policy.stop=[a, b]", "learner.betas=[0.5, 0.6]"])
    assert config.policy.stop == ("a", "b")
    assert config.learner.betas == (0.5, 0.6)


def test_interpolation_follows_other_settings_and_a_backslash_stops_it() -> None:
    config = load(None, ["run.name=s${run.seed}", "run.seed=4", r"policy.system='say \${HOME}'"])
    assert config.run.name == "s4"
    assert config.policy.system == "say ${HOME}"


MISTAKES = [
    # unknown keys, at any depth, with the nearest valid full key
    (["rolout.groups=3"], "rolout.groups: unknown key, expected a section", "rollout.groups"),
    (["policy.tiny.layer=3"], "policy.tiny.layer: unknown key", "policy.tiny.layers"),
    (["policy.tinny.width=8"], "policy.tinny.width: unknown key", "policy.tiny.width"),
    (["group_size=4"], "group_size: unknown key", "rollout.group_size"),
    (["algo.clip.hihg=4"], "algo.clip.hihg: unknown key", "algo.clip.high"),
    (["algo.clip_low=0.1"], "algo.clip_low: unknown key", "algo.clip.low"),
    (["learner.learning_rate=1"], "learner.learning_rate: unknown key", "learner.lr"),
    (["run.name.x=1"], "run.name: expected a string, got {'x': 1}", None),
    # wrong types
    (["rollout.groups=many"], "rollout.groups: expected a whole number, got 'many'", None),
    (["rollout.groups=1.5"], "rollout.groups: expected a whole number, got 1.5", None),
    (["rollout.groups=true"], "rollout.groups: expected a whole number, got true", None),
    (["rollout.groups='3'"], "rollout.groups: expected a whole number, got '3'", None),
    (["rollout.groups=99999999999999999999"], "rollout.groups: expected a whole number", None),
    (["learner.lr=fast"], "learner.lr: expected a finite number, got 'fast'", None),
    (["learner.lr=.inf"], "learner.lr: expected a finite number, got .inf", None),
    (["learner.lr=.nan"], "learner.lr: expected a finite number, got .nan", None),
    (["learner.lr=" + "9" * 400], "learner.lr: expected a finite number", None),
    (["rollout.deterministic=5"], "rollout.deterministic: expected true or false, got 5", None),
    (["rollout.deterministic=yes"], "rollout.deterministic: expected true or false", None),
    (["policy.stop=x"], "policy.stop: expected a list such as [a, b], got 'x'", None),
    (["policy.stop=[a, null]"], "policy.stop[1]: expected a string, got null", None),
    (["learner.betas=[0.9]"], "learner.betas: expected 2 values, got [0.9]", None),
    (["env.kwargs=3"], "env.kwargs: expected a mapping, got 3", None),
    (["policy=3"], "policy: expected a section with keys such as 'policy.model', got 3", None),
    (["policy={tiny: [1]}"], "policy.tiny: expected a section", None),
    (["run.name=???"], "run.name: expected a value, got '???'", None),
    (["env.kwargs.a=['???']"], "env.kwargs.a[0]: expected a value, got '???'", None),
    # null where it is not allowed
    (["rollout.groups=null"], "rollout.groups: expected a whole number, got null", None),
    (["run.name="], "run.name: expected a string, got null", None),
    (["policy=null"], "policy: expected a section", None),
    (["env.kwargs=~"], "env.kwargs: expected a mapping, got null", None),
    # choices
    (["algo.name=grp"], "algo.name: expected a preset (cispo, dapo, ", "grpo"),
    (["algo.name=[grpo]"], "got \"['grpo']\"", "grpo"),
    (["algo.name=null"], "algo.name: expected a preset (cispo, dapo, ", None),
    (["algo.advantage.scale=grop"], "algo.advantage.scale: expected one of group, ba", "group"),
    (["learner.device=gpu"], "learner.device: expected one of auto, cpu, cuda, mps", "cpu"),
    # the form of an override
    (["rollout.groups"], "'rollout.groups': expected section.key=value", "rollout.groups"),
    (["=3"], "'=3': expected section.key=value", None),
    (["a..b=3"], "'a..b=3': expected section.key=value", None),
    (["run.seed=1", "run.seed.x=1"], "run.seed.x: an earlier override", None),
    (["policy.stop=[a"], "policy.stop:1: not YAML", None),
    (["run.name=a\x00b"], "run.name: not YAML", None),
    (["run.name=!!python/name:os.system x"], "run.name:1: expected no tags", None),
    (["run.name=" + "x" * 200_000], "run.name: expected at most 100,000 characters", None),
    (["policy.stop=" + "[" * 5_000], "policy.stop: expected at most 32 levels", None),
    (["env.kwargs.a=" + "[" * 50 + "]" * 50], "env.kwargs.a:1: expected at most 32 levels", None),
    (["run={seed: 1, seed: 2}"], "run:1: 'seed' stands there twice", None),
    (["run={[a]: 2}"], "run:1: expected keys that are words", None),
    # interpolations: no resolvers, no cycles, no bombs
    (["run.name=${oc.env:HOME}"], "run.name: expected ${section.key} (no resolvers", None),
    (["run.name=\\\\${oc.env:HOME}"], "run.name: expected ${section.key} (no resolvers", None),
    (["run.name=${oc.${run.dir}:HOME}"], "run.name: expected ${section.key} (no", None),
    (["env.kwargs.a=[{b: '${oc.env:HOME}'}]"], "env.kwargs.a[0].b: expected ${section.key}", None),
    (["run.name=${"], "run.name: expected ${section.key} (no resolvers", None),
    (["run.name=${run.name}"], "run.name: '${run.name}' must refer to a plain value", None),
    (["run.name=${run.dir}", "run.dir=${run.name}"], "must refer to a plain value", None),
    (["env.kwargs.a=${env.kwargs}"], "env.kwargs.a: '${env.kwargs}' must refer to a plain", None),
    (["run.name=${run.sed}"], "run.name: '${run.sed}' refers to an unknown key", "run.seed"),
    (["run.seed=${run.name}"], "run.seed: ", None),
    (["rollout.groups=${learner.lr}"], "rollout.groups: ", None),
    # values that a section refuses by itself
    (["rollout.groups=0"], "rollout.groups: expected 1 or more, got 0", None),
    (["policy.tiny.width=7"], "policy.tiny.heads: expected a number that divides", None),
    # contradictions between sections
    (["policy.top_p=0.5"], "policy.top_p: expected 1 for training", None),
    (["policy.max_tokens=512"], "policy.max_tokens: expected less than context.window", None),
    (["context.overlap=448"], "context.overlap: expected less than context.window - pol", None),
    (
        ["context.strategy=compact", "policy.history=template"],
        "policy.history: expected keep with context.strategy: compact, got 'template'",
        None,
    ),
    (
        ["context.strategy=compact", "context.compact.tokens=448"],
        "context.compact.tokens: expected less than context.window - policy.max_tokens (448)",
        None,
    ),
    (
        ["context.strategy=notes", "context.memory.tokens=448"],
        "context.memory.tokens: expected less than context.window - policy.max_tokens (448): the",
        None,
    ),
    (["learner.row_tokens=511"], "learner.row_tokens: expected 0, or context.window", None),
    (["rollout.cache_tokens=511"], "rollout.cache_tokens: expected 0, or context.window", None),
    (
        ["rollout.cache_tokens=32767", "rollout.deterministic=true"],
        "rollout.cache_tokens: expected 0, or rollout.concurrency x context.window (32768)",
        None,
    ),
    (
        [
            "rollout.cache_tokens=131071",
            "rollout.deterministic=true",
            "rollout.concurrency=64",
            "context.strategy=recursive",
            "context.recursive.depth=3",
        ],
        # 64 x 512 x (1 + 3)
        "x context.window x (1 + context.recursive.depth) (131072) or more",
        None,
    ),
    (["context.max_observation=448"], "context.max_observation: expected less than context", None),
    (["algo.updates=17"], "algo.updates: expected at most rollout.groups (16)", None),
    (["algo.shaping.overlong.limit=1000000"], "algo.shaping.overlong.limit: expected a ra", None),
    # settings that would be ignored
    (["policy.model=x", "policy.tiny.width=64"], "policy.tiny.width: got 64, which would", None),
    (["context.strategy=full", "context.overlap=3"], "context.overlap: got 3, which wou", None),
    (["context.strategy=full", "context.pinned_turns=1"], "context.pinned_turns: got 1", None),
    ([MEMORY, "context.pinned_turns=1"], "context.pinned_turns: got 1, which would be ign", None),
    ([MEMORY, "context.compact.label=x"], "context.compact.label: got 'x', which would be", None),
    (["context.truncation=progressive"], "context.truncation: got 'progressive', which wo", None),
    (["context.memory.edits=2"], "context.memory.edits: got 2, which would be ignored; it", None),
    (
        ["context.strategy=notes", "context.memory.sitting_turns=2"],
        "context.memory.sitting_turns: got 2, which would be ignored; it needs context.strategy",
        None,
    ),
    (["algo.credit.summaries=false"], "algo.credit.summaries: got False, which would be ig", None),
    ([MEMORY, "algo.credit.sub_calls=true"], "algo.credit.sub_calls: got True, which would", None),
    (["rollout.workers=2"], "rollout.workers: got 2, which would be ignored; it needs r", None),
    (["rollout.ray_address=auto"], "rollout.ray_address: got 'auto', which would be ign", None),
    (["rollout.gpus_per_worker=1"], "rollout.gpus_per_worker: got 1.0, which would be i", None),
    (["warm_start.lr=0.1"], "warm_start.lr: got 0.1, which would be ignored", None),
    (["warm_start.long=keep_head"], "warm_start.long: got 'keep_head', which would be ign", None),
    (["warm_start.misfits=drop"], "warm_start.misfits: got 'drop', which would be ignored", None),
    ([OVERLAP], "warm_start.train_overlap: got True, which would be ignored", None),
    *(
        (
            ["warm_start.path=x", OVERLAP, *settings],
            "warm_start.train_overlap: got True, which would be ignored; it needs context.overlap",
            None,
        )
        for settings in (
            [],
            ["context.overlap=8", "policy.history=template"],
            ["context.strategy=full"],
            [MEMORY],
        )
    ),
    (["warm_start.path=x", "warm_start.expert=oracle"], "warm_start.expert: got 'oracle'", None),
    (["warm_start.path=x", "warm_start.env_kwargs.a=1"], "warm_start.env_kwargs: got {'", None),
    (["warm_start.path=x", "warm_start.episodes=4"], "warm_start.path: expected either a", None),
    ([GRPO, "algo.sampling.max_refills=1"], "algo.sampling.max_refills: got 1, which", None),
    (["algo.shaping.overlong.factor=2"], "algo.shaping.overlong.factor: got 2.0, which", None),
    (["algo.objective=sapo", "algo.clip.high=2"], "algo.clip.high: got 2.0, which would", None),
    (["algo.objective=gspo", "algo.clip.dual=3"], "algo.clip.dual: got 3.0, which would", None),
    (["algo.sapo.positive=2"], "algo.sapo.positive: got 2.0, which would be ignored; it ", None),
    (["algo.correction.weight=mask"], "it needs algo.proximal: recomputed", None),
    (
        ["algo.proximal=recomputed", "algo.correction.high=3"],
        "algo.correction.high: got 3.0, which would be ignored; it needs algo.correction.weight",
        None,
    ),
    (["algo.sequence_unit=segment"], "it needs an objective or a correction of whole seq", None),
    (["algo.sampling.retire=0.9"], "it needs env.train_tasks above 0", None),
    (
        [GRPO, "algo.credit.discount=0.9"],
        "algo.credit.discount: got 0.9, which would be ignored",
        None,
    ),
    (
        [GRPO, "algo.shaping.potential=1"],
        "algo.shaping.potential: got 1.0, which would be ign",
        None,
    ),
    (["algo.kl.estimator=k1"], "algo.kl.estimator: got 'k1', which would be ignored; it", None),
    (["algo.kl.coef=1", "algo.kl.decay=0.5"], "algo.kl.decay: got 0.5, which would be ig", None),
    (["algo.length_constant=9"], "it needs algo.aggregation: constant", None),
    # values that the algorithm's sections refuse by themselves
    (["algo.clip.dual=0.5"], "algo.clip.dual: expected 0, or above 1, got 0.5", None),
    (["algo.clip.ceiling=1.1"], "algo.clip.ceiling: expected 0, or above 1 + algo.clip.high", None),
    (["algo.shaping.format.pattern='['"], "algo.shaping.format.pattern: expected a regular", None),
    (["algo.sampling.group_sizes=[1, 4]"], "algo.sampling.group_sizes: expected the fewest", None),
    (["algo.credit.turn=1", "algo.objective=gspo"], "algo.credit.turn: got 1.0, which would", None),
    (["algo.objective=luspo", "algo.aggregation=token_mean"], "algo.objective: expected ano", None),
    (
        ["env.train_tasks=4", "algo.sampling.replay=1", "algo.proximal=recomputed"],
        "algo.sampling.replay: got 1, which would be ignored; it needs algo.proximal: behaviour",
        None,
    ),
    (
        ["algo.advantage.rewards={score: 0}"],
        "algo.advantage.rewards.score: expected a finite",
        None,
    ),
    (
        [GRPO, "algo.credit.trajectory=0"],
        "algo.credit.turn: expected above 0 where algo.credit.t",
        None,
    ),
    # scoring
    (["scoring.judge.scale=2"], "scoring.judge.scale: got 2.0, which would be ignored; it", None),
    (["scoring.timeout_s=9"], "it needs scoring.name: function, pointwise or tournament", None),
    (["scoring.outage_iterations=2"], "it needs scoring.name: pointwise or tournament", None),
    ([POINTWISE, SIMULATED, "scoring.tournament.prior=2"], "it needs scoring.name: tour", None),
    ([POINTWISE, SIMULATED, "scoring.judge.position_bias=1"], "it needs scoring.name: tour", None),
    ([TOURNAMENT, SIMULATED, "scoring.judge.repeats=2"], "it needs scoring.name: pointw", None),
    ([TOURNAMENT, SIMULATED, "scoring.tournament.rounds=2"], "topology: swiss", None),
    (
        [TOURNAMENT, SIMULATED, "scoring.tournament={topology: anchor, matches: 2}"],
        "it needs scoring.tournament.topology: active",
        None,
    ),
    ([TOURNAMENT, SIMULATED, "scoring.judge.rubric=mine"], "backend: endpoint, model or po", None),
    ([TOURNAMENT, SIMULATED, "scoring.judge.model=mine"], "it needs scoring.judge.backend: ", None),
    ([TOURNAMENT, ENDPOINT, "scoring.judge.noise=2"], "scoring.judge.backend: simulated", None),
    (
        [TOURNAMENT, ENDPOINT, "scoring.judge={form: refeval, rubric: mine}"],
        "it needs scoring.judge.form: rubric",
        None,
    ),
    ([TOURNAMENT], "scoring.judge.endpoint: expected the name of an entry of endpoints", None),
    ([TOURNAMENT, "scoring.judge.backend=model"], "scoring.judge.model: expected a value w", None),
    (
        [TOURNAMENT, SIMULATED, "scoring.panel=[{backend: function}]"],
        "scoring.panel[0].function: expected a value with backend: function, got None",
        None,
    ),
    ([POINTWISE, ENDPOINT, "scoring.judge.form=refmatch"], "scoring.judge.form: expected ", None),
    ([TOURNAMENT, SIMULATED, "scoring.judge.window=9"], "judge.backend: model or policy", None),
    (
        [TOURNAMENT, "scoring.judge={backend: policy, cache: a.db}"],
        "scoring.judge.cache: got 'a.db', which would be ignored; it needs scoring.judge.backend: "
        "endpoint or model",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "scoring.tournament={topology: swiss, prior: 2}"],
        "scoring.tournament.prior: got 2.0, which would be ignored",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "scoring.tournament={topology: anchor, totals: true}"],
        "it needs scoring.tournament.topology: seeded_margins or active",
        None,
    ),
    (
        [POINTWISE, ENDPOINT, "scoring.judge.repeats=2"],
        "scoring.judge.repeats: expected 1, or scoring.judge.temperature above 0",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "scoring.timeout_s=60", "scoring.judge.call_timeout_s=130"],
        "scoring.judge.call_timeout_s: expected at most scoring.timeout_s (60)",
        None,
    ),
    # each judge of a panel, by itself
    (
        [TOURNAMENT, ENDPOINT, "scoring.panel=[{}, {noise: 2}]"],
        "scoring.panel[1].noise: got 2.0, which would be ignored; it needs "
        "scoring.panel[1].backend: simulated",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "scoring.panel=[{backend: simulated, rubric: mine}]"],
        "scoring.panel[0].rubric: got 'mine', which would be ignored",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "scoring.panel=[{backend: simulated, repeats: 2}]"],
        "scoring.panel[0].repeats: got 2, which would be ignored; it needs scoring.name: pointw",
        None,
    ),
    (
        [POINTWISE, ENDPOINT, "scoring.panel=[{repeats: 2}]"],
        "scoring.panel[0].repeats: expected 1, or scoring.panel[0].temperature above 0",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "scoring.panel=[{backend: simulated, call_timeout_s: 400}]"],
        "scoring.panel[0].call_timeout_s: expected at most scoring.timeout_s (300)",
        None,
    ),
    # endpoints
    (
        ["endpoints=[{url: 'http://a', model: m}, {url: 'http://b', model: m}]"],
        "endpoints[1].name: expected a name of its own, got 'default'",
        None,
    ),
    (
        [
            TOURNAMENT,
            "endpoints=[{url: 'http://a', model: m}, {name: b, url: 'http://b', model: m}]",
        ],
        "scoring.judge.endpoint: expected the name of an entry of endpoints (default, b), got none",
        None,
    ),
    (
        ["endpoints=[{url: 'http://a/v1?api-key=secret', model: m}]"],
        "endpoints[0].url: expected a base address, without a query",
        None,
    ),
    (
        [TOURNAMENT, SIMULATED, "algo.sampling.filter=band"],
        "algo.sampling.filter: expected its default with scoring.name: tournament",
        None,
    ),
    (["eval.episodes=0", "eval.greedy=true"], "eval.greedy: got True, which would be ig", None),
    (["telemetry.tensorboard=false", "telemetry.trajectories=1"], "telemetry.trajectories:", None),
]


@pytest.mark.parametrize("start", ["http://", "ftp://", ""])
def test_a_secret_in_an_address_is_refused_and_not_repeated(start: str) -> None:
    told = problem(f"endpoints=[{{url: '{start}me:secret@host/v1', model: m}}]")
    assert told == "endpoints[0].url: expected no user and secret in it: use key_env"


def test_an_override_that_switches_off_what_a_panel_reads(tmp_path: Path) -> None:
    text = (
        "scoring: {name: pointwise, judge: {backend: simulated}, "
        "panel: [{backend: simulated, repeats: 3}]}"
    )
    assert load_text(tmp_path, text).scoring.panel[0].repeats == 3
    assert load_text(tmp_path, text, TOURNAMENT).scoring.panel[0].repeats == 1
    assert load_text(tmp_path, text, "scoring.name=return").scoring.panel == ()


@pytest.mark.parametrize(("overrides", "message", "hint"), MISTAKES)
def test_a_mistake_is_one_line_with_key_value_and_nearest_key(
    overrides: list[str], message: str, hint: str | None
) -> None:
    told = problem(*overrides)
    assert message in told
    assert re.search(r"did you mean '(.*)'\?|$", told).group(1) == hint  # type: ignore[union-attr]


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    near = tmp_path / "quickstart.yaml"
    near.write_text("{}")
    assert "no such file; did you mean" in problem(path=str(tmp_path / "quikstart.yaml"))
    assert "expected a YAML file, got a folder" in problem(path=str(tmp_path))
    assert "can't be read: Not a directory" in problem(path=str(near / "x.yaml"))
    assert "not a path" in problem(path="a\x00b")
    for content, message in [
        (b"- a\n- b", "expected sections such as 'rollout:', got ['a', 'b']"),
        (b"42", "expected sections such as 'rollout:', got 42"),
        (b"\xff\xfe\x00binary", "expected YAML in UTF-8"),
        (b"run:\n  - a: [", "bad.yaml:2: not YAML"),
        (b"run: {seed: 1}\nrun: {seed: 2}", "bad.yaml:2: 'run' stands there twice"),
        (b"a: 1\n---\nb: 2", "not YAML"),
        (b"x: '" + b"a" * 10_000_000 + b"'", "expected a configuration, got 10,000,005 bytes"),
        (b"x: '" + b"a" * 200_000 + b"'", "expected at most 100,000 characters"),
        (b"a: &a [*a]", "expected at most 32 levels"),
        (b"a: *b", "not YAML: found undefined alias"),
    ]:
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        assert message in problem(path=str(path))


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    assert "expected at most 10,000 values, aliases included" in problem(path=str(path))


def test_aliases_work(tmp_path: Path) -> None:
    config = load_text(
        tmp_path, "env: {kwargs: &k {a: [1, 2]}}\nwarm_start: {episodes: 2, env_kwargs: *k}"
    )
    assert config.warm_start.env_kwargs == config.env.kwargs == {"a": [1, 2]}


def test_an_override_may_switch_off_what_the_file_sets_and_resets_it(tmp_path: Path) -> None:
    text = (
        "rollout: {executor: ray, workers: 2, ray_address: auto}\nwarm_start: {episodes: 3, lr: 1}"
    )
    config = load_text(tmp_path, text, "rollout.executor=local", "warm_start.episodes=0", GRPO)
    assert config == RunConfig()
    for both in ["rollout.workers=2", "warm_start.lr=1"]:
        with pytest.raises(ConfigError, match="would be ignored"):
            load_text(tmp_path, text, "rollout.executor=local", "warm_start.episodes=0", both)


@pytest.mark.parametrize(
    ("text", "override", "key", "default"),
    [
        # bounds that hold each other go back together
        (
            "{proximal: recomputed, "
            "correction: {reject: geometric, reject_low: .1, reject_high: .5}}",
            "algo.correction.reject=none",
            "correction.reject_high",
            1.001,
        ),
        (
            "{covariance: {method: clip, low: -5, high: .5}}",
            "algo.covariance.method=none",
            "covariance.high",
            5.0,
        ),
        (
            "{sequence_unit: segment, proximal: recomputed, "
            "correction: {weight: mask, level: sequence}}",
            "algo.proximal=behaviour",
            "sequence_unit",
            "trajectory",
        ),
        # another preset is another objective
        ("{name: grpo, clip: {high: 0.3}}", "algo.name=sapo", "clip.high", 0.2),
        ("{name: dapo}", "algo.shaping.overlong.limit=0", "shaping.overlong.cache", 0),
        ("{credit: {turn: 1, discount: .9}}", "algo.objective=gspo", "credit.discount", 1.0),
    ],
)
def test_an_override_that_switches_off_leaves_no_contradiction(
    tmp_path: Path, text: str, override: str, key: str, default: Any
) -> None:
    value: Any = load_text(tmp_path, f"algo: {text}", override).algo
    for part in key.split("."):
        value = getattr(value, part)
    assert value == default


def test_evaluation_may_cut_the_distribution_that_training_may_not() -> None:
    assert load(None, ["policy.top_p=0.9"], training=False).policy.top_p == 0.9
    assert load(None, ["policy.top_p=0.9", "train.iterations=0"]).policy.top_p == 0.9


def test_a_config_made_in_python_is_checked_by_what_differs_from_the_defaults() -> None:
    config = RunConfig()
    assert check(config) == config
    odd = dataclasses.replace(
        config, rollout=dataclasses.replace(config.rollout, ray_address="auto")
    )
    with pytest.raises(ConfigError, match=r"rollout\.ray_address: got 'auto', which would be"):
        check(odd)


def test_the_resolved_config_says_only_what_applies() -> None:
    text = resolved_yaml(load(None, ["policy.model=somewhere", "context.strategy=full"]))
    values = yaml_text.parse(text, "resolved")
    assert "tiny" not in values["policy"]
    assert set(values["context"]) == {"strategy", "window", "max_observation"}
    assert "ray_address" not in values["rollout"]
    assert values["rollout"]["max_turns"].value == 64


words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Zl", "Zp", "Co")),
    max_size=12,
)
awkward = st.sampled_from(
    ("yes", "null", "~", "1e5", "012", "1:30", "2024-01-01", ".inf", "0x1f", "${", "${a}", "\\${")
) | st.sampled_from(
    ("x\\\\${y}\\", "<<", "=", "a: b", "- a", " lead", "trail ", "#no", "'", '"', "\n", "\t")
)
strings = (words | awkward).filter(lambda s: s != "???")
numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
free = st.recursive(
    st.none() | st.booleans() | numbers | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)


@given(
    system=strings,
    stop=st.lists(strings.filter(bool), max_size=3),
    kwargs=st.dictionaries(strings, free, max_size=3),
    lr=st.floats(1e-12, 1e6),
)
def test_the_resolved_config_reads_back_as_the_same_config(
    system: str, stop: list[str], kwargs: dict[str, Any], lr: float
) -> None:
    base = RunConfig()
    config = dataclasses.replace(
        base,
        policy=dataclasses.replace(base.policy, system=system, stop=tuple(stop)),
        env=dataclasses.replace(base.env, kwargs=kwargs),
        learner=dataclasses.replace(base.learner, lr=lr),
    )
    again = from_yaml_text(resolved_yaml(config))
    assert again == config
    assert repr(again) == repr(config)  # 1 and 1.0 and True are equal, and not the same


@given(st.sampled_from(known_keys()), st.data())
def test_a_key_with_one_letter_wrong_is_recognised(key: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(key) - 1))
    hint = nearest_key(key[:at] + key[at + 1 :], known_keys())
    assert hint.removeprefix("; did you mean '").removesuffix("'?") in known_keys()


def test_nothing_near_gives_no_hint() -> None:
    assert nearest_key("zzzzqqqq", known_keys()) == ""
    assert nearest_key("x" * 1_000_000, known_keys()) == ""


def test_a_sequence_objective_leaves_alone_which_turns_get_gradient() -> None:
    overrides = ["algo.name=gspo", "context.strategy=compact", "algo.credit.summaries=false"]
    assert not load(None, overrides).algo.credit.summaries
