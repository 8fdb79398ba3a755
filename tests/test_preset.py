"""The presets: what they say is what is applied, each with its reason."""

import dataclasses

import pytest
import yaml

from rlagents import preset
from rlagents.algos.configs import AlgoConfig
from rlagents.cli import main
from rlagents.errors import ConfigError
from rlagents.load import load, resolved_yaml
from rlagents.rules import differing

EXPECTED = {
    "grpo": {},
    "dr_grpo": {"aggregation": "constant", "advantage.scale": "none"},
    "dapo": {
        "clip.high": 0.28,
        "aggregation": "token_mean",
        "sampling.filter": "zero_variance",
        "sampling.max_refills": 9,
        "shaping.overlong.limit": 20480,
        "shaping.overlong.cache": 4096,
    },
    "gspo": {"objective": "gspo", "clip.low": 3e-4, "clip.high": 4e-4, "updates": 4},
    "gmpo": {"objective": "gmpo", "clip.low": 0.4, "clip.high": 0.4},
    "cispo": {
        "objective": "cispo",
        "clip.low": 1.0,
        "clip.high": 4.0,
        "aggregation": "token_mean",
    },
    "sapo": {"objective": "sapo"},
    "rloo": {
        "advantage.baseline": "leave_one_out",
        "advantage.scale": "none",
        "aggregation": "sequence_sum",
    },
    "reinforce_pp": {
        "advantage.scale": "whiten",
        "aggregation": "token_mean",
        "kl.coef": 0.001,
        "kl.estimator": "k2",
    },
    "gigpo": {"credit.turn": 1.0, "credit.grouping": "anchor", "credit.discount": 0.95},
    "deepswe": {
        "clip.high": 0.28,
        "advantage.baseline": "leave_one_out",
        "advantage.scale": "none",
        "aggregation": "constant",
        "truncation.behaviour": "rllm",
    },
    "scale_rl": {
        "objective": "cispo",
        "clip.low": 1.0,
        "clip.high": 4.0,
        "advantage.scale": "batch",
        "aggregation": "prompt_mean",
        "sampling.filter": "zero_variance",
        "sampling.max_refills": 0,
        "sampling.retire": 0.9,
    },
}
"""Differences from plain GRPO, where tasks come back."""


def changes(config) -> dict:
    keys = [key for key in differing(config) if key.startswith("algo.") and key != "algo.name"]
    found = {}
    for key in keys:
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        found[key.removeprefix("algo.")] = value
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_is_these_differences_from_grpo(name):
    assert changes(load(None, [f"algo.name={name}", "env.train_tasks=4"])) == EXPECTED[name]


def test_every_preset_is_known_here_but_ours_which_measurements_move():
    assert set(preset.names()) == {*EXPECTED, "grpo_pp"}


def test_ours_is_the_default():
    assert load(None).algo == load(None, ["algo.name=grpo_pp"]).algo != AlgoConfig()


@pytest.mark.parametrize("name", preset.names())
def test_a_preset_says_where_it_is_from_and_why(name):
    recipe = preset.read(name)
    source = ("arXiv", "experiments/results", "script")
    assert any(word in recipe.summary for word in source)
    assert set(recipe.values) == {"algo"}
    assert recipe.reasons


@pytest.mark.parametrize("name", preset.names())
def test_the_resolved_configuration_does_not_depend_on_the_preset_any_more(name, tmp_path):
    config = load(None, [f"algo.name={name}"])
    path = tmp_path / "config.yaml"
    path.write_text(preset.annotated(resolved_yaml(config), preset.read(name)))
    assert load(str(path)) == config


def test_the_users_file_wins_over_the_preset(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("algo: {name: dapo, clip: {high: 0.5}}")
    config = load(str(path)).algo
    assert (config.clip.high, config.clip.low, config.aggregation) == (0.5, 0.2, "token_mean")


def test_what_a_preset_sets_may_be_switched_off_around_it():
    """DAPO's refills are moot without its filter: no error, since nobody wrote them."""
    config = load(None, ["algo.name=dapo", "algo.sampling.filter=none"])
    assert config.algo.sampling.max_refills == AlgoConfig().sampling.max_refills


def test_config_shows_what_changed_and_why(capsys, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("algo: {name: dapo, clip: {low: 0.1}}")
    assert main(["config", str(path)]) == 0
    shown = capsys.readouterr().out
    section = shown[shown.index("\nalgo:") : shown.index("\nfaults:")].splitlines()
    lines = {line.split(":")[0].strip(): line for line in reversed(section)}
    assert lines["name"] == "  name: dapo  # DAPO, arXiv 2503.14476"
    assert "# clip-higher" in lines["high"]
    assert lines["low"] == "    low: 0.1"
    clip = yaml.safe_load(shown)["algo"]["clip"]
    assert (clip["low"], clip["high"]) == (0.1, 0.28)


def test_a_value_that_the_user_changed_again_has_no_reason(capsys, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("algo: {name: dapo, clip: {high: 0.5}}")
    main(["config", str(path)])
    assert "clip-higher" not in capsys.readouterr().out


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"algo\.name: expected a preset .*did you mean 'dapo'"):
        load(None, ["algo.name=dap"])


def test_plain_grpo_is_what_the_dataclasses_say():
    assert load(None, ["algo.name=grpo"]).algo == dataclasses.replace(AlgoConfig(), name="grpo")
