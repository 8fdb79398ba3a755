from __future__ import annotations

from pathlib import Path

import pytest

from rlagents.errors import ConfigError
from rlagents.scoring.rubric import MAX_DIMENSIONS, Rubric, load_rubric, names

OWN = """
groups:
  work:
    about: how
    weight: 1
    dimensions:
      care: {about: "Is it careful?", weight: 3, levels: {10: very, 0: not at all}}
      speed: {about: "Is it quick?"}
  result:
    weight: 3
    dimensions:
      right:
        about: >
          Is it
          right?
"""


def rubric(tmp_path: Path, text: str) -> Rubric:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return load_rubric(str(path))


def test_those_that_come_with_rlagents() -> None:
    assert names() == ("deepresearch", "default", "travel")
    for name in names():
        for group in load_rubric(name).groups.values():
            assert all(d.levels.keys() == {0, 5, 10} for d in group.dimensions.values())


def test_arena_rl_weights() -> None:
    """Facts of the released code: 0.6 path + 0.4 answer, and half each."""
    weights = {n: [g.weight for g in load_rubric(n).groups.values()] for n in names()}
    assert weights == {"default": [0.4, 0.6], "deepresearch": [0.5, 0.5], "travel": [0.6, 0.4]}


def test_the_overall_mark_is_a_mean_of_means_and_not_rounded(tmp_path: Path) -> None:
    own = rubric(tmp_path, OWN)
    # work: (3 * 7 + 2) / 4 = 5.75; result: 4; (5.75 + 3 * 4) / 4 = 4.4375
    assert own.overall({"work": {"care": 7, "speed": 2}, "result": {"right": 4}}) == 4.4375
    assert own.overall({"work": {"care": 10, "speed": 10}, "result": {"right": 10}}) == 10
    with pytest.raises(KeyError):
        own.overall({"work": {"care": 7, "speed": 2}, "result": {}})


def test_small_leads_survive_which_rounding_would_make_ties() -> None:
    travel = load_rubric("travel")
    marks = {
        "process": {"breadth": 7, "relevance": 7, "detail": 7},
        "answer": {"relevance": 7, "feasibility": 7, "details": 7, "clarity": 7},
    }
    better = {**marks, "process": {"breadth": 7, "relevance": 7, "detail": 8}}
    # 0.6 * 1/3 = 0.2: the mean 7.33 would be rounded to 7
    assert travel.overall(better) - travel.overall(marks) == pytest.approx(0.2)


def test_as_a_judge_reads_it(tmp_path: Path) -> None:
    assert rubric(tmp_path, OWN).text().split("\n") == [
        "work - how",
        "  work.care: Is it careful?",
        "    0: not at all",
        "    10: very",
        "  work.speed: Is it quick?",
        "result",
        "  result.right: Is it right?",
    ]


def many(count: int) -> str:
    rows = "".join(f"      d{i}: {{about: x}}\n" for i in range(count))
    return f"groups:\n  a:\n    dimensions:\n{rows}"


def test_as_many_dimensions_as_allowed(tmp_path: Path) -> None:
    assert len(rubric(tmp_path, many(MAX_DIMENSIONS)).groups["a"].dimensions) == MAX_DIMENSIONS


ONE = "groups: {a: {dimensions: {b: {about: x, %s}}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.yaml: expected a section with groups, got null"),
        ("[1]", "own.yaml: expected a section with groups, got ["),
        ("group: {}", "own.yaml: expected nothing but groups, got 'group'; did you mean 'groups'?"),
        ("{}", "own.yaml: expected groups, got none"),
        ("groups: {}", "own.yaml: groups: expected one or more named sections, got {}"),
        ("groups: {a: 1}", "groups.a: expected a section with dimensions, about, weight, got 1"),
        ("groups: {a: {}}", "own.yaml: groups.a: expected dimensions, got none"),
        ("groups: {a: {dimensions: []}}", "groups.a.dimensions: expected one or more named sec"),
        ("groups: {A: {dimensions: {}}}", "groups: expected names of a-z, 0-9 and _, at most 32"),
        ("groups: {a: {dimensions: {'b\"': {}}}}", "groups.a.dimensions: expected names of a-z"),
        ("groups: {a: {dimensions: {b: {}}}}", "groups.a.dimensions.b: expected about, got none"),
        (ONE % "weight: 0", "groups.a.dimensions.b.weight: expected a number above 0, at most"),
        (ONE % "weight: -1", "b.weight: expected a number above 0, at most 1,000,000, got -1"),
        (ONE % "weight: .nan", "b.weight: expected a number above 0"),
        (ONE % "weight: .inf", "b.weight: expected a number above 0"),
        (ONE % "weight: true", "b.weight: expected a number above 0"),
        (ONE % "weight: much", "expected a number above 0, at most 1,000,000, got 'much'"),
        (ONE % "levels: 3", "b.levels: expected marks with a description each, got 3"),
        (ONE % "levels: {11: x}", "b.levels: expected whole marks from 0 to 10, got '11'"),
        (ONE % "levels: {-1: x}", "b.levels: expected whole marks from 0 to 10, got '-1'"),
        (ONE % "levels: {1.5: x}", "b.levels: expected whole marks from 0 to 10, got '1.5'"),
        (ONE % "levels: {1: [x]}", "b.levels.1: expected a text, got ['x']"),
        (ONE % "level: {}", "b: expected nothing but about, weight, levels, got 'level'; did you"),
        ("groups: {a: {about: 3, dimensions: {b: {about: x}}}}", "a.about: expected a text, got 3"),
        (ONE % f"levels: {{1: {'x' * 1001}}}", "b.levels.1: expected at most 1,000 characters, g"),
        (many(MAX_DIMENSIONS + 1), "groups: expected at most 32 dimensions in all, got 33"),
        ("groups: {a: 1, a: 2}", "own.yaml:1: 'a' stands there twice"),
        ("groups: !!python/object:os.system {}", "own.yaml:1: expected no tags"),
        ("groups: {", "own.yaml:1: not YAML"),
        ("x" * 200_000, "own.yaml: expected at most 100,000 characters"),
        ("[" * 5000, "own.yaml"),
    ],
)  # fmt: skip
def test_what_is_no_rubric_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rubric(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "own.yaml") in str(caught.value)


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.yaml").mkdir()
    for name, message in [
        (
            "deep-research",
            "scoring.judge.rubric: expected a YAML file or one of deepresearch, default, t",
        ),
        ("", "scoring.judge.rubric: expected a YAML file or one of"),
        ("no/such", "scoring.judge.rubric: can't read 'no/such': No such file"),
        ("such.yaml", "scoring.judge.rubric: can't read 'such.yaml': No such file"),
        (f"{tmp_path}/bytes.yaml", "bytes.yaml': not UTF-8"),
        (f"{tmp_path}/folder.yaml", "expected a YAML file, got "),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_rubric(name)
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'deepresearch'"):
        load_rubric("deep-research")
