"""Stages of a schedule: from YAML, checked, and resolved to what holds while one lasts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.schedules import ScheduleState
from rlagents.config import RunConfig, ScheduleSection, StageSection
from rlagents.errors import ConfigError
from rlagents.load import from_yaml_text, load, resolved_yaml
from rlagents.rules import check
from rlagents.stages import Stage, advanced, stage_of, words

THREE = (
    "schedule.stages=[{iterations: 20, env_kwargs: {horizon: 4}}, "
    "{iterations: 5, max_turns: 9, max_seconds: 1.5, window: 200, overlap: 40}, {}]"
)


def problem(stages: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, [f"schedule.stages={stages}", *overrides])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_stages_come_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    expected = (
        StageSection(iterations=20, env_kwargs={"horizon": 4}),
        StageSection(iterations=5, max_turns=9, max_seconds=1.5, window=200, overlap=40),
        StageSection(),
    )
    assert load(None, [THREE]).schedule.stages == expected
    path = tmp_path / "x.yaml"
    path.write_text(
        "schedule:\n  stages:\n    - {iterations: 20, env_kwargs: {horizon: 4}}\n"
        "    - iterations: 5\n      max_turns: 9\n      max_seconds: 1.5\n"
        "      window: 200\n      overlap: 40\n    - {}\n"
    )
    assert load(str(path)).schedule.stages == expected
    # A list is given whole: an override does not merge into the file's.
    short = load(str(path), ["schedule.stages=[{max_turns: 3}]"]).schedule.stages
    assert short == (StageSection(max_turns=3),)
    assert load(str(path), ["schedule.stages=[]"]).schedule == ScheduleSection()


def test_the_file_may_say_how_and_an_override_switch_the_stages_off(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("schedule: {stages: [{}, {}], advance: plateau, min_score: 0.5}")
    assert load(str(path)).schedule.min_score == 0.5
    assert load(str(path), ["schedule.stages=[{}]"]).schedule.advance == "iterations"
    assert load(str(path), ["schedule.stages=[]"]).schedule == ScheduleSection()


def test_interpolation_reaches_into_a_stage() -> None:
    stages = "[{iterations: 2, max_turns: '${train.iterations}', env_kwargs: {a: ['${run.seed}']}}]"
    config = load(None, [f"schedule.stages={stages}", "run.seed=7", "train.iterations=5"])
    (stage,) = config.schedule.stages
    assert stage == StageSection(iterations=2, max_turns=5, env_kwargs={"a": [7]})


MISTAKES = [
    # the form of the list and of a stage
    (
        "{iterations: 3}",
        "schedule.stages: expected a list of sections such as [{iterations: ",
        None,
    ),
    ("null", "schedule.stages: expected a list of sections", None),
    (
        "[3]",
        "schedule.stages[0]: expected a section with keys such as 'schedule.stages[0].it",
        None,
    ),
    ("[{}, [1]]", "schedule.stages[1]: expected a section", None),
    # keys, with the nearest one of the same stage
    ("[{}, {max_turn: 3}]", "schedule.stages[1].max_turn: unknown key", "max_turns"),
    ("[{iteration: 3}]", "schedule.stages[0].iteration: unknown key", "iterations"),
    ("[{env_kwarg: {}}]", "schedule.stages[0].env_kwarg: unknown key", "env_kwargs"),
    # types
    ("[{max_turns: many}]", "schedule.stages[0].max_turns: expected a whole number, got 'm", None),
    ("[{max_seconds: .inf}]", "schedule.stages[0].max_seconds: expected a finite number", None),
    ("[{env_kwargs: 3}]", "schedule.stages[0].env_kwargs: expected a mapping, got 3", None),
    ("[{env_kwargs: {a: '???'}}]", "schedule.stages[0].env_kwargs.a: expected a value", None),
    # interpolations: checked again when they are followed
    ("[{max_turns: '${run.name}'}]", "schedule.stages[0].max_turns: expected a whole numb", None),
    (
        "[{max_turns: '${run.seed}'}]",
        "schedule.stages[0].max_turns: expected 1 or more, got 0",
        None,
    ),
    ("[{max_turns: '${oc.env:HOME}'}]", "schedule.stages[0].max_turns: expected ${section", None),
    ("[{window: '${context.windov}'}]", "schedule.stages[0].window: '${context.windov}' ref", "="),
    # values that a stage refuses by itself
    ("[{}, {max_turns: 0}]", "schedule.stages[1].max_turns: expected 1 or more, got 0", None),
    ("[{max_seconds: 0}]", "schedule.stages[0].max_seconds: expected above 0, got 0.0", None),
    ("[{iterations: -1}, {}]", "schedule.stages[0].iterations: expected 0 or more, got -1", None),
    # ... and beside the run's own
    (
        "[{}, {}]",
        "schedule.stages[0].iterations: expected 1 or more for every stage but the la",
        None,
    ),
    (
        "[{window: 513}]",
        "schedule.stages[0].window: expected between 17 and context.window (512)",
        None,
    ),
    ("[{window: 16}]", "schedule.stages[0].window: expected between 17 and context.window", None),
    (
        "[{overlap: 496}]",
        "schedule.stages[0].overlap: expected less than the stage's window -",
        None,
    ),
    (
        "[{window: 99}]",
        "schedule.stages[0].window: expected more than context.overlap + poli",
        None,
    ),
]
SETTINGS = ["policy.max_tokens=16", "context.overlap=83"]


@pytest.mark.parametrize(("stages", "message", "hint"), MISTAKES)
def test_a_mistake_names_the_stage_and_the_key(stages: str, message: str, hint: str | None) -> None:
    told = problem(stages, *SETTINGS)
    assert message in told
    found = re.search(r"did you mean '(.*)'\?", told)
    if hint is None:
        assert found is None
    elif hint == "=":  # of the interpolation: a key of the run
        assert found is not None and found[1] == "context.window"
    else:
        stage = told.partition("]")[0] + "]"
        assert found is not None and found[1] == f"{stage}.{hint}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule.advance=plateau"], "schedule.advance: got 'plateau', which would be ignored"),
        (["schedule.patience=3"], "schedule.patience: got 3, which would be ignored; it needs"),
        (
            ["schedule.stages=[{iterations: 1}, {}]", "schedule.min_gain=3"],
            "schedule.min_gain: got 3.0, which would be ignored; it needs schedule.advance: plat",
        ),
        (
            ["schedule.stages=[{iterations: 1}, {}]", "schedule.advance=plateau"],
            "schedule.stages[0].iterations: expected none with schedule.advance: plateau",
        ),
        (
            ["schedule.stages=[{overlap: 1}]", "context.strategy=full"],
            "schedule.stages[0].overlap: got 1, which would be ignored, as context.overlap would",
        ),
        (
            [
                "schedule.stages=[{window: 79}]",
                "context.strategy=notes",
                "context.memory.tokens=64",
                "policy.max_tokens=16",
            ],
            "schedule.stages[0].window: expected between 81 and context.window (512), got 79",
        ),
        (
            # 32 shown and two answers of 16: 64 are too few
            [
                "schedule.stages=[{window: 64}]",
                "context.strategy=recursive",
                "context.max_observation=32",
                "policy.max_tokens=16",
            ],
            "schedule.stages[0].window: expected more than what is shown of an observation (32",
        ),
        (
            ["schedule.stages=[{window: 63}]", "context.max_observation=48"],
            "schedule.stages[0].window: expected between 113 and context.window (512), got 63",
        ),
        (["schedule.stagse=[]"], "did you mean 'schedule.stages'?"),
    ],
)
def test_what_would_be_ignored_is_an_error(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides)
    assert message in str(caught.value)


changes = st.fixed_dictionaries(
    {},
    optional={
        "iterations": st.integers(1, 99),
        "env_kwargs": st.dictionaries(
            st.text("ab${\\}", max_size=5), st.integers() | st.booleans()
        ),
        "max_turns": st.none() | st.integers(1, 99),
        "max_tokens": st.none() | st.integers(1, 99),
        "max_seconds": st.none() | st.floats(1e-3, 1e6),
        "window": st.none() | st.integers(100, 512),
        "overlap": st.none() | st.integers(0, 30),
    },
)


@given(st.lists(changes, max_size=4))
def test_the_resolved_config_reads_back_with_its_stages(stages: list[dict[str, Any]]) -> None:
    sections = tuple(StageSection(**{"iterations": 1, **stage}) for stage in stages)
    config = dataclasses.replace(RunConfig(), schedule=ScheduleSection(stages=sections))
    again = from_yaml_text(resolved_yaml(config))
    assert again == check(config) == config
    assert repr(again) == repr(config)


def test_a_stage_is_the_run_with_its_changes() -> None:
    config = load(None, [THREE, "context.pinned_turns=2", "rollout.max_tokens=99"])
    rollout = config.rollout
    first, second, third = (stage_of(config, number) for number in range(3))
    assert first == Stage(
        number=0,
        env_kwargs={"horizon": 4},
        max_turns=rollout.max_turns,
        max_tokens=99,
        max_seconds=rollout.max_seconds,
        context=config.context,
    )
    assert (second.max_turns, second.max_tokens, second.max_seconds) == (9, 99, 1.5)
    assert second.context == dataclasses.replace(config.context, window=200, overlap=40)
    assert third == dataclasses.replace(first, number=2, env_kwargs={})


def test_a_run_without_stages_has_one_that_changes_nothing() -> None:
    config = load(None, [])
    own = stage_of(config, 0)
    assert (own.env_kwargs, own.context) == ({}, config.context)
    assert advanced(config, ScheduleState(), 0.5).stage == 0
    with pytest.raises(ValueError, match="stage: expected one of 1, got number 1"):
        stage_of(config, 1)


def test_the_state_advances_as_the_configuration_says() -> None:
    by_length = load(None, ["schedule.stages=[{iterations: 2}, {}]"])
    once = advanced(by_length, ScheduleState(), None)
    assert [once.stage, advanced(by_length, once, None).stage] == [0, 1]
    measured = load(
        None,
        [
            "schedule={stages: [{}, {}], advance: plateau, patience: 1, min_gain: 0.5, "
            "min_score: 0.6}"
        ],
    )
    low = advanced(measured, advanced(measured, ScheduleState(), 0.5), 0.55)
    assert low == ScheduleState(iterations=2, best=0.5, stale=1)  # a plateau, but below 0.6
    high = advanced(measured, advanced(measured, ScheduleState(), 0.6), 0.9)
    assert high == ScheduleState(stage=1)


def test_a_plateau_below_zero_ends_a_stage_unless_a_bound_is_given() -> None:
    stages = "schedule={stages: [{}, {}], advance: plateau, patience: 1"
    for bound, reached in (("}", 1), (", min_score: -1}", 0)):
        config = load(None, [stages + bound])
        once = advanced(config, ScheduleState(), -2.0)
        assert advanced(config, once, -2.0).stage == reached


def test_a_stage_in_words() -> None:
    config = load(None, [THREE])
    assert [words(stage_of(config, n), config) for n in range(3)] == [
        "stage 1 of 3: horizon 4",
        "stage 2 of 3: max_turns 9, max_seconds 1.5, window 200, overlap 40",
        "stage 3 of 3: the run's settings",
    ]


def test_one_stage_can_not_be_overridden_alone() -> None:
    with pytest.raises(ConfigError, match=r"^schedule.stages\[0\].max_turns: give the whole list"):
        load(None, ["schedule.stages[0].max_turns=3"])
