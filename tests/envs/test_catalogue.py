from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any, cast

import gymnasium
import pytest

from rlagents.envs import ENTRY_POINTS, catalogue, find_spec, unknown_kwargs
from rlagents.errors import ConfigError


def test_catalogue_lists_every_id_with_summary_arguments_and_policies() -> None:
    entries = {entry.id: entry for entry in catalogue()}
    assert list(entries) == sorted(ENTRY_POINTS)
    for entry in entries.values():
        assert entry.summary.endswith(".") and "\n" not in entry.summary
        assert "random" in entry.scripted
        assert entry.known_scores.keys() <= set(entry.scripted)
        assert inspect.Parameter.empty not in entry.kwargs.values()
        if ".arena." not in ENTRY_POINTS[entry.id]:  # a game's players have names of their own
            assert {"oracle", "expert"} <= set(entry.scripted)
            assert entry.known_scores.keys() == set(entry.scripted)
        gymnasium.make(entry.id, **entry.kwargs).close()
    assert entries["rlagents/KeyRooms-v0"].kwargs["facts"] == "card"


def test_unknown_kwargs_come_with_the_known_names() -> None:
    known = ("horizon", "methods", "noise", "cost", "note_limit", "expert_haste")
    found = unknown_kwargs("rlagents/MethodSearch-v0", {"methods": 3, "nois": 1, "x": 2})
    assert found == [("nois", known), ("x", known)]
    assert unknown_kwargs("rlagents/MethodSearch-v0", {"max_episode_steps": 3}) == []


def test_unknown_kwargs_of_a_function_a_free_one_and_a_lazy_one() -> None:
    def sized(size: int = 3, *, depth: int = 1) -> gymnasium.Env:
        raise AssertionError("must not be called")

    def free(**kwargs: object) -> gymnasium.Env:
        raise AssertionError("must not be called")

    gymnasium.register(id="tests/Make-v0", entry_point=cast(Any, sized))
    gymnasium.register(id="tests/Free-v0", entry_point=free)
    gymnasium.register(id="tests/Lost-v0", entry_point="rlagents.envs.lab.lost:Lost")
    try:
        wrong = [("wide", ("size", "depth"))]
        assert unknown_kwargs("tests/Make-v0", {"depth": 1, "wide": 2}) == wrong
        assert unknown_kwargs("tests/Free-v0", {"anything": 1}) == []
        with pytest.raises(ConfigError, match=r"tests/Lost-v0.*No module named"):
            unknown_kwargs("tests/Lost-v0", {})
    finally:
        for name in ("Make", "Free", "Lost"):
            del gymnasium.registry[f"tests/{name}-v0"]


def test_find_spec_names_the_nearest_id() -> None:
    assert find_spec("rlagents/Lock-v0").id == "rlagents/Lock-v0"
    assert find_spec("rlagents.envs:rlagents/Lock-v0").id == "rlagents/Lock-v0"
    for wrong, hint in {
        "rlagents/Lok-v0": "did you mean 'rlagents/Lock-v0'",
        "rlagents/Lock": "did you mean 'rlagents/Lock-v0'",
        "": "rlagents envs list",
        "json:rlagents/Lok-v0": "after importing 'json'",
        "no_such_module:A-v0": "importing 'no_such_module': ModuleNotFoundError",
        "..:A-v0": "importing '..'",
    }.items():
        with pytest.raises(ConfigError) as caught:
            find_spec(wrong)
        assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_import_registers_without_loading_environments_torch_or_ray() -> None:
    code = (
        "import sys, gymnasium, rlagents.envs\n"
        "assert 'rlagents/KeyRooms-v0' in gymnasium.registry\n"
        "heavy = {'torch', 'ray', 'rlagents.envs.lab', 'rlagents.envs.conformance'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
