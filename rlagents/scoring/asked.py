"""A judge that is a language model: it is asked with a prompt, and its answer is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError, boundary
from rlagents.policy.asking import Ask, Backend, Reply
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.scoring.prompts import LABELS, fenced, prompt
from rlagents.scoring.reading import (
    UnclearAnswer,
    answer_form,
    label_shares,
    read_label,
    read_marks,
)
from rlagents.scoring.rubric import BEST, load_rubric

ATTEMPTS = 2
"""Times that a question is put to a judge whose answers are not clear."""
LABEL_TOKENS = 8
"""Of an answer that is one letter."""

T = TypeVar("T")


class AskedJudge:
    """Compares and rates by asking a backend. Called from many threads at once.

    With `form: rubric` it asks for a mark of each dimension; the marks of a verdict are the
    rubric's overall ones, 0 to 10. With `refeval` and `refmatch` (arXiv 2602.16802) it asks which
    candidate is better, or nearer to the reference; the marks are the probabilities of the two
    labels as the first token of the answer, 0 to 1. Differences from that paper: the judge is shown
    what the agents did and not only the last answer; where neither label is likely, and the
    answer's text is none (`Neither`), there is no verdict instead of a tie.

    An answer that is not clear is asked for once more, with the next seed (which is also another
    entry of a cache); then the call has failed.
    """

    def __init__(self, backend: Backend, section: JudgeSection) -> None:
        """`close` closes the backend.

        Raises:
            ConfigError: for a rubric that can't be read.
        """
        self._backend = backend
        self._section = section
        self._rubric = load_rubric(section.rubric) if section.form == "rubric" else None
        self._lock = threading.Lock()
        self._spent_before = self._spent()
        self._reset()

    def _reset(self) -> None:
        self._calls = self._answers = self._unclear = self._cached = self._from_text = 0
        self._verdicts = self._failed = 0
        self._tokens, self._cost = 0, 0.0

    @property
    def greatest(self) -> float:
        """The greatest mark; judges of a panel have the same."""
        return 1.0 if self._rubric is None else float(BEST)

    def compare(
        self, question: Question, first: Candidate, second: Candidate, repeat: int = 0
    ) -> Verdict:
        """Marks of both, shown in this order; each `repeat` has seeds of its own.

        Raises:
            JudgeError: no answer, none that is clear, or no reference where one is needed.
        """
        rubric, form = self._rubric, self._section.form
        parts = {**_question_parts(question), "second": fenced(second.transcript, "candidate B")}
        parts["first"] = fenced(first.transcript, "candidate A")
        if rubric is None:
            if not question.reference:
                raise self._refused(f"form {form} needs a reference, and the environment gave none")
            shares = self._answered(prompt(form, **parts), repeat, self._read_shares)
            return Verdict(first=shares[0], second=shares[1])
        text = prompt("pairwise", rubric=rubric.text(), answer=answer_form(rubric, LABELS), **parts)
        marks = self._answered(text, repeat, lambda reply: read_marks(reply.text, rubric, LABELS))
        return Verdict(first=rubric.overall(marks[0]), second=rubric.overall(marks[1]))

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        """A mark by the rubric; each `repeat` has seeds of its own.

        Raises:
            JudgeError: as above; and with a form that only compares.
        """
        rubric, labels = self._rubric, LABELS[:1]
        if rubric is None:
            raise self._refused(f"form {self._section.form} compares pairs, it rates nobody")
        text = prompt(
            "pointwise",
            rubric=rubric.text(),
            answer=answer_form(rubric, labels),
            first=fenced(candidate.transcript, "candidate A"),
            **_question_parts(question),
        )
        marks = self._answered(text, repeat, lambda reply: read_marks(reply.text, rubric, labels))
        return rubric.overall(marks[0])

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call.

        `judge/calls`: questions put to the backend, second attempts included; of these
        `judge/cached_frac`, answered by a cache, and `judge/parse_fail_frac`, answered unclearly.
        `judge/fail_frac`: verdicts that were asked for and not given (a scorer counts itself, since
        it also knows of those that came too late). `judge/tokens` (prompts and answers, none for
        what a cache answered). `judge/cost`: what the backend has spent, where it counts that (an
        attempt without an answer may be billed, too), else that of the answers. With labels
        `judge/label_text_frac`: answers that were read from their text, for want of probabilities.
        """
        with self._lock:
            spent = self._spent()
            if spent is None or self._spent_before is None:
                cost = self._cost
            else:
                cost, self._spent_before = spent - self._spent_before, spent
            figures = {
                "judge/calls": float(self._calls),
                "judge/tokens": float(self._tokens),
                "judge/cost": cost,
            }
            if self._verdicts:
                figures["judge/fail_frac"] = self._failed / self._verdicts
            if self._calls:
                figures["judge/cached_frac"] = self._cached / self._calls
            if self._answers:
                figures["judge/parse_fail_frac"] = self._unclear / self._answers
            if self._answers and self._rubric is None:
                figures["judge/label_text_frac"] = self._from_text / self._answers
            self._reset()
            return figures

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _spent(self) -> float | None:
        """The backend's cost so far; None where it does not count it."""
        return getattr(self._backend, "spent", None)

    def _refused(self, problem: str) -> JudgeError:
        """The error of a call that can't be made; counted."""
        with self._lock:
            self._verdicts += 1
            self._failed += 1
        return JudgeError(f"scoring.judge: {problem}")

    def _answered(self, text: str, repeat: int, read: Callable[[Reply], T]) -> T:
        """What the backend's answer says; asked again where it is not clear."""
        with self._lock:
            self._verdicts += 1
        seed = repeat * ATTEMPTS
        try:
            while True:
                reply = self._ask(text, seed)
                try:
                    return read(reply)
                except UnclearAnswer:
                    with self._lock:
                        self._unclear += 1
                    seed += 1
                    if seed == (repeat + 1) * ATTEMPTS:
                        raise
        except JudgeError:
            with self._lock:
                self._failed += 1
            raise

    def _ask(self, text: str, seed: int) -> Reply:
        section, labelled = self._section, self._rubric is None
        ask = Ask(
            messages=(("system", prompt("system")), ("user", text)),
            max_tokens=min(LABEL_TOKENS, section.max_tokens) if labelled else section.max_tokens,
            temperature=section.temperature,
            seed=seed,
            labels=LABELS if labelled else (),
        )
        with self._lock:
            self._calls += 1
        with boundary(JudgeError, "judge"):
            reply = self._backend.ask(ask)
        with self._lock:
            self._answers += 1
            self._cached += reply.cached
            self._cost += reply.cost
            if not reply.cached:
                self._tokens += reply.prompt_tokens + reply.sampled_tokens
        return reply

    def _read_shares(self, reply: Reply) -> tuple[float, float]:
        """Probabilities of the labels; 1 and 0 where only the text says which."""
        shares = label_shares(reply.label_logprobs, LABELS)
        if shares is not None:
            return shares
        label = read_label(reply.text, LABELS)
        if label is None:
            raise UnclearAnswer(f"expected one of {', '.join(LABELS)}, got another answer")
        with self._lock:
            self._from_text += 1
        return (1.0, 0.0) if label == LABELS[0] else (0.0, 1.0)


def _question_parts(question: Question) -> dict[str, str]:
    """The parts of templates that a question fills."""
    reference = ""
    if question.reference:
        reference = "\nA reference, a good result for this task:\n"
        reference += fenced(question.reference, "reference") + "\n"
    return {"task": fenced(question.task, "task"), "reference": reference}
