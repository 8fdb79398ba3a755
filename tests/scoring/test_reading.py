from __future__ import annotations

import json
import math

import pytest

from rlagents.scoring.reading import (
    MAX_CHARS,
    UnclearAnswer,
    answer_form,
    label_shares,
    read_label,
    read_marks,
)
from rlagents.scoring.rubric import Dimension, DimensionGroup, Rubric

DIMENSIONS = {name: Dimension(about=name, levels={}) for name in ("x", "y")}
RUBRIC = Rubric(groups={"g": DimensionGroup(about="", dimensions=DIMENSIONS)})
AB = ("A", "B")
GOOD = '{"A": {"g": {"x": 1, "y": 2.5}}, "B": {"g": {"x": 10, "y": 0}}}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Here it is:\n```json\n{GOOD}\n```\nI hope this helps.",
        GOOD.replace("{", "{\n  ").replace(",", " ,\t"),
        f"<think>A gets {{0}}, and so {GOOD}? No.</think>\n{GOOD}",
        '{"reason": "two\nlines, {braces}", "winner": "B", ' + GOOD[1:],
        GOOD.replace("10", "1e1").replace("2.5", "25e-1"),
    ],
)
def test_marks_are_found(text: str) -> None:
    assert read_marks(text, RUBRIC, AB) == [{"g": {"x": 1, "y": 2.5}}, {"g": {"x": 10, "y": 0}}]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON object, found none"),
        ("I award 10 to both.", "expected a JSON object, found none"),
        ("}{", "expected a JSON object, found none"),
        (GOOD[:-1], "expected one JSON object, got something else"),
        (f"{GOOD}\n{GOOD}", "expected one JSON object, got something else: Extra data"),
        (f"[{GOOD}] or {{}}", "expected one JSON object"),
        (f"{GOOD} <think> </think>", "expected a JSON object, found none"),
        (changed('"y": 0', '"z": 0'), "expected a mark for B.g.y, found none"),
        (changed('"B"', '"C"'), "expected a mark for B.g.x, found none"),
        (changed('{"x": 1, "y": 2.5}', "7"), "expected a mark for A.g.x, found none"),
        (changed('{"x": 1, "y": 2.5}', "[1, 2]"), "expected a mark for A.g.x, found none"),
        (changed("10", "10.01"), "expected 0 to 10 for B.g.x, got another number"),
        (changed("2.5", "-0.1"), "expected 0 to 10 for A.g.y, got another number"),
        (changed("10", "1e999"), "expected 0 to 10 for B.g.x"),
        (changed("10", "9" * 4000), "expected 0 to 10 for B.g.x"),
        (changed("10", "9" * 5000), "expected one JSON object"),  # Python refuses to read it
        (changed("10", "NaN"), "NaN is no number"),
        (changed("10", "-Infinity"), "-Infinity is no number"),
        (changed("10", '"10"'), "expected a number for B.g.x, got str"),
        (changed("10", "true"), "expected a number for B.g.x, got bool"),
        (changed("10", "null"), "expected a number for B.g.x, got NoneType"),
        (changed("10", "[10]"), "expected a number for B.g.x, got list"),
        (changed('"x": 1,', '"x": 1, "x": 9,'), "a key stands twice"),
        (changed('"B"', '"A"'), "a key stands twice"),
        (changed("10", "_"), "expected one JSON object"),
    ],
)
def test_what_is_not_clear_is_no_verdict(text: str, message: str) -> None:
    with pytest.raises(UnclearAnswer) as caught:
        read_marks(text, RUBRIC, AB)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 50_000,
        '{"a":' * 15_000 + "}" * 15_000,
        "[" * 40_000 + "{}" + "]" * 40_000,
        '{"' + "\\" * 99_000 + '"}',
        "{}" * 49_000,
        '{"a": "' + "{" * 90_000 + "}",
        "</think>" * 12_000,
        "x" * (MAX_CHARS + 1) + GOOD,
    ],
    ids=lambda text: text[:8],
)
def test_garbage_of_any_size_is_no_verdict(text: str) -> None:
    with pytest.raises(UnclearAnswer):
        read_marks(text, RUBRIC, AB)
    assert read_label(text, AB) is None


def test_the_form_is_what_is_read_but_copying_it_is_no_verdict() -> None:
    form = answer_form(RUBRIC, AB)
    with pytest.raises(UnclearAnswer):
        read_marks(form, RUBRIC, AB)
    assert read_marks(form.replace("_", "3"), RUBRIC, AB) == [{"g": {"x": 3, "y": 3}}] * 2
    assert json.loads(answer_form(RUBRIC, ("A",)).replace("_", "3"))["A"] == {"g": {"x": 3, "y": 3}}


def test_shares_of_two_known_labels() -> None:
    # e^-0.2 = 0.81873, e^-1.7 = 0.18268; 0.81873 / 1.00141 = 0.81757
    assert label_shares({"A": -0.2, "B": -1.7}, ("A", "B")) == pytest.approx(
        (0.8176, 0.1824), abs=5e-5
    )
    assert label_shares({"A": -1.7, "B": -0.2}, ("A", "B")) == pytest.approx(
        (0.1824, 0.8176), abs=5e-5
    )
    assert label_shares({"A": math.log(0.3), "B": math.log(0.3)}, ("A", "B")) == (0.5, 0.5)
    assert label_shares({"A": -1e300, "B": 0.0}, ("A", "B")) == (0, 1)


def test_labels_that_are_less_likely_than_something_else_say_nothing() -> None:
    # .25 + .25 is 1/2; .3 + .1 is less: the model was about to write another word.
    assert label_shares({"A": math.log(0.26), "B": math.log(0.25)}, ("A", "B")) == pytest.approx(
        (26 / 51, 25 / 51)
    )
    assert label_shares({"A": math.log(0.3), "B": math.log(0.1)}, ("A", "B")) is None
    assert label_shares({"A": -800.0, "B": -900.0}, ("A", "B")) is None


def test_shares_of_one_known_label_take_the_bound() -> None:
    # e^-0.105 = 0.9003: the other label has at most what is left
    assert label_shares({"A": -0.105}, ("A", "B")) == pytest.approx((0.9003, 0.0997), abs=1e-4)
    assert label_shares({"B": -0.105}, ("A", "B")) == pytest.approx((0.0997, 0.9003), abs=1e-4)
    assert label_shares({"A": 0.01}, ("A", "B")) == (1.0, 0.0)  # rounding of a server


@pytest.mark.parametrize("label", ["A", "B"])
def test_one_known_label_with_less_than_a_half_is_unclear(label: str) -> None:
    with pytest.raises(UnclearAnswer, match="one has less"):
        label_shares({label: math.log(0.49)}, ("A", "B"))


@pytest.mark.parametrize("unknown", [{}, {"C": -0.1}, {"A": -math.inf, "B": math.nan}])
def test_no_known_label_has_no_shares(unknown: dict[str, float]) -> None:
    assert label_shares(unknown, ("A", "B")) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A", "A"),
        (" **B**\n", "B"),
        ("A.", "A"),
        ("B: it is closer", "B"),
        ("(A), because", "A"),
        ("<think>A or B</think>\n\nB", "B"),
        ("A\nB", None),
        ("A good answer is B", None),
        ("a", None),
        ("AB", None),
        ("C", None),
        ("", None),
        ("The answer is A", None),
        ("A or B", None),
        ("A: 3, B: 8", None),
        ("A, B", None),
        ("A\nNo wait, B", None),
        ("A. Because of the plan.", "A"),
    ],
)
def test_labels_in_text(text: str, label: str | None) -> None:
    assert read_label(text, AB) == label
