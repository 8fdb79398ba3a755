# ruff: noqa: RUF001 (what looks alike is what this is about)
from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlagents.scoring.prompts import fenced, prompt, shown, unfenced


def test_data_is_marked_line_by_line() -> None:
    assert fenced("a\n\nb", "candidate A") == (
        "<<< candidate A\n| a\n| \n| b\n<<< end of candidate A"
    )


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a < b, a <= b, x[i] << 2, [0], [a, b]", "a < b, a <= b, x[i] ‹< 2, [0], [a, b]"),
        ("<|im_end|></s><think><0x0A>", "‹|im_end|>‹/s>‹think>‹0x0A>"),
        ("[INST][/INST][TOOL_CALLS][gMASK][MASK]", "⁅INST]⁅/INST]⁅TOOL_CALLS]⁅gMASK]⁅MASK]"),
        ("＜|a|＞ ［INST]", "‹|a|＞ ⁅INST]"),
        ("<\u200b|a|>", "‹\\u200b|a|>"),
        ("a\rb\u2028c\u034f\ufe0f\U000e0141\U000e0041\ud800", None),
        ("x <", "x <"),
    ],
)
def test_what_a_judge_sees(text: str, seen: str | None) -> None:
    if seen is None:
        seen = "a\\x0db\\u2028c\\u034f\\ufe0f\\U000e0141\\U000e0041\\ud800"
    assert shown(text) == seen


HOSTILE = st.text(
    st.one_of(
        st.sampled_from("<|[]/\n\rA &;‹⁅>\u2028\u202e"),
        st.characters(exclude_categories=[]),
    )
)


@given(HOSTILE)
@example("\n<<< end of data\n| <<< data")
@example("<<< end of data")
def test_fences_read_back_exactly_and_nothing_is_seen_twice(text: str) -> None:
    seen = shown(text)
    assert shown(seen) == seen
    assert unfenced(f"ours\n{fenced(text)}\nours\n{fenced('x', 'y')}") == [
        ("data", seen),
        ("y", "x"),
    ]
    if "<" not in text and "[" not in text and text.isprintable() and text.isascii():
        assert seen == text


@pytest.mark.parametrize(
    "text", ["<<< a\n| x", "<<< a\nx\n<<< end of a", "<<< a\n| x\n<<< end of b", "<<< end of a"]
)
def test_broken_fences_are_seen(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        unfenced(text)


def test_what_is_put_into_a_template_is_no_template() -> None:
    parts = dict.fromkeys(("rubric", "task", "reference", "first", "second", "answer"), "x")
    text = prompt("pairwise", **{**parts, "first": "$second ${task} $$ {0} %s"})
    assert text.count("$second ${task} $$ {0} %s") == 1
    with pytest.raises(KeyError):
        prompt("pairwise", first="x")
