"""What a judge's answer says: marks in a JSON object, or a label. Anything else is no verdict.

An answer may be hostile, as what the judge has read may: every function here takes time linear in
it, and what is not clear is an error instead of a guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rlagents.errors import JudgeError
from rlagents.scoring.rubric import BEST, WORST, Marks, Rubric

MAX_CHARS = 100_000
"""Of an answer; a verdict has some hundreds."""
CLEAR = 0.5
"""Probability that labels must have in all: with less, another token was likelier."""
_THOUGHT = "</think>"
_LABEL_AROUND = " \t\r\n\"'`*_([{:.,;!)]}"


class UnclearAnswer(JudgeError):
    """The judge answered, but not what it was asked for."""


def read_marks(text: str, rubric: Rubric, labels: Sequence[str]) -> list[Marks]:
    """The marks of each candidate, in the order of `labels`.

    The answer holds one JSON object, label -> group -> dimension -> number from 0 to 10, with any
    words or code fence around it; a thought that ends in `</think>` does not count. Further keys
    are ignored.

    Raises:
        UnclearAnswer: for an answer with no such object or with two, a mark that is missing, not a
            number or out of range, and a key that stands twice.
    """
    answer = _read_object(text)
    return [
        {
            group: {d: _mark(answer, (label, group, d)) for d in g.dimensions}
            for group, g in rubric.groups.items()
        }
        for label in labels
    ]


def answer_form(rubric: Rubric, labels: Sequence[str]) -> str:
    """What `read_marks` wants, with `_` for marks: an answer that only copies it is not clear."""
    groups = ", ".join(
        f'"{group}": {{' + ", ".join(f'"{d}": _' for d in g.dimensions) + "}"
        for group, g in rubric.groups.items()
    )
    marks = ", ".join(f'"{label}": {{{groups}}}' for label in labels)
    return f'{{"reason": "...", {marks}}}'


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that is the whole answer, but for quotes, markdown and ends of sentences.

    None where there is none: `A good answer ...` names no label, and `A: 3, B: 8` two.
    """
    word = text[:MAX_CHARS].rpartition(_THOUGHT)[2].strip(_LABEL_AROUND)
    first, *rest = re.split(r"[\n.,:;]", word, maxsplit=1)
    first = first.strip(_LABEL_AROUND)
    others = "|".join(re.escape(label) for label in labels if label != first)
    if first not in labels or (rest and others and re.search(rf"\b(?:{others})\b", rest[0])):
        return None
    return first


def label_shares(
    logprobs: Mapping[str, float], labels: tuple[str, str]
) -> tuple[float, float] | None:
    """Probabilities of both labels, from their log-probabilities as the first token.

        s_a = e^{l_a} / (e^{l_a} + e^{l_b}),   s_b = 1 - s_a

    (RefEval and RefMatch, arXiv 2602.16802.) Servers tell only the likeliest tokens. A label that
    is not among them has at most what the other one leaves, so we take this bound: s_a = e^{l_a},
    the most careful verdict that agrees with what is known.

    None where they say nothing: neither is known, or both together have less than 1/2, since then
    the model was about to write something else. What the text says counts then. (The paper divides
    by whatever both have, and so makes a verdict of a judge that was about to say `Neither`.)

    Args:
        logprobs: natural; NaN and minus infinity count as not known.
        labels: a and b.

    Raises:
        UnclearAnswer: where one is known, with less than 1/2: nothing says what the other one has.
    """
    a, b = (_probability(logprobs.get(label, math.nan)) for label in labels)
    if a is None and b is None:
        return None
    if a is not None and b is not None:
        return (a / (a + b), b / (a + b)) if a + b >= CLEAR else None
    known = a if a is not None else b
    if known is None or known < CLEAR:
        raise UnclearAnswer("expected labels with a probability of 1/2 in all, one has less")
    return (known, 1 - known) if b is None else (1 - known, known)


def _probability(logprob: float) -> float | None:
    """None where it is not known."""
    return math.exp(min(logprob, 0.0)) if logprob > -math.inf else None


def _read_object(text: str) -> dict[str, Any]:
    """The one JSON object in a text: from the first opening brace to the last closing one."""
    if len(text) > MAX_CHARS:
        raise UnclearAnswer(f"expected an answer of at most {MAX_CHARS:,} characters")
    text = text.rpartition(_THOUGHT)[2]
    begin, end = text.find("{"), text.rfind("}")
    if not 0 <= begin < end:
        raise UnclearAnswer("expected a JSON object, found none")
    try:
        value = json.loads(
            text[begin : end + 1],
            strict=False,  # a line end in a reason harms nobody
            parse_constant=_refuse,
            object_pairs_hook=_once,
        )
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise UnclearAnswer(f"expected one JSON object, got something else: {reason}") from None
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice")
    return values


def _mark(answer: dict[str, Any], path: tuple[str, ...]) -> float:
    value: Any = answer
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise UnclearAnswer(f"expected a mark for {'.'.join(path)}, found none")
        value = value[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__name__
        raise UnclearAnswer(f"expected a number for {'.'.join(path)}, got {kind}")
    if not WORST <= value <= BEST:
        raise UnclearAnswer(f"expected {WORST} to {BEST} for {'.'.join(path)}, got another number")
    return float(value)
