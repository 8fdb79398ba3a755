"""A trajectory as a judge sees it: what the agent saw and did, turn by turn, within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlagents.config import JudgeSection
from rlagents.scoring.judge import Candidate, Question
from rlagents.scoring.prompts import shown
from rlagents.types import Group, Trajectory, Turn, TurnKind

TASK_CHARS = 16_000
"""Of the task, and of the reference, that a judge is shown at most."""
OPENING_CHARS = 500
"""Of the first observation: it is the task, which the judge is shown by itself."""
LEAST_CHARS = 80
"""A part that would have less room than this is left out with its turn, when it is in the middle
of the episode."""
MARK_CHARS = 50
"""What the mark of a cut takes at most, with a little of the text."""
WEIGHT = 4
"""First and last turn get so many times the room of another one."""

_DID = {
    TurnKind.ACTION: "did",
    TurnKind.SUMMARY: "wrote a summary for itself",
    TurnKind.MEMORY: "used its notes",
    TurnKind.CODE: "ran code",
    TurnKind.CALL: "answered a call of its own",
}
_INDENT = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A heading and what stands under it, indented: no line of it begins as a heading does."""

    heading: str
    body: str
    weight: int = 1

    @property
    def overhead(self) -> int:
        """Characters beside the body: the heading, and two ends of lines."""
        return len(self.heading) + 2

    def text(self, room: int) -> str:
        body = cut(self.body, room)
        return f"{self.heading}\n{body}\n" if body else f"{self.heading}\n"


def transcript_of(trajectory: Trajectory, *, chars: int, results: bool) -> str:
    """All turns in at most `chars` characters.

        == turn 1 of 12: saw
          what the environment answered, each line indented
        == turn 1 of 12: did
          the action
        == turns 5 to 7: left out, 8,123 characters
        ...
        == end: terminated

    Long parts are shortened in their middle, the longest first, until all fit (each gets its
    length or an equal share, first and last turn a greater one). Where the shares would be too
    small for a use, turns in the middle are left out. Each cut says how much it took. Lines that
    begin with `==` are ours: an agent can't write an observation of its own.

    Args:
        chars: room for all of it, in characters of the result.
        results: whether observations are shown, beside what the agent wrote.
    """
    turns = [
        _turn_parts(turn, i, len(trajectory.turns), results)
        for i, turn in enumerate(trajectory.turns)
    ]
    end = shown(trajectory.final_observation) if results else ""
    ending = _Part(heading=f"== end: {trajectory.stop}", body=_indented(end), weight=WEIGHT)
    return cut(_fitted(turns, ending, chars).rstrip("\n"), chars)


def candidate_of(trajectory: Trajectory, section: JudgeSection) -> Candidate:
    """A member for a judge. `answer` is the last action as it was written, of any length."""
    actions = [t.action for t in trajectory.turns if t.kind is TurnKind.ACTION]
    return Candidate(
        key=trajectory.key,
        transcript=transcript_of(
            trajectory, chars=section.transcript_chars, results=section.tool_results
        ),
        answer=actions[-1] if actions else "",
        hidden=trajectory.episode_return,
    )


def question_of(group: Group) -> Question:
    """The first observation and the reference, each of the first member that has one.

    In a game other players may have moved before it: then the task holds what they wrote. It is
    fenced as data, like all the rest.
    """
    observations = (t.turns[0].observation for t in group.trajectories if t.turns)
    references = (t.reference for t in group.trajectories)
    return Question(
        task=cut(_first(observations), TASK_CHARS),
        reference=cut(_first(references), TASK_CHARS),
        task_id=group.task.task_id,
    )


def cut(text: str, limit: int) -> str:
    """At most `limit` characters: the head, a mark that says how many are left out, the tail.

    Where not even the mark has room, the beginning of the mark.
    """
    if len(text) <= limit:
        return text
    room = limit - len(_gap(len(text)))
    if room <= 0:
        return _gap(len(text))[: max(0, limit)]
    tail = room // 2
    head = room - tail
    return text[:head] + _gap(len(text) - room) + text[len(text) - tail :]


def _gap(count: int) -> str:
    return f"[... {count:,} characters left out ...]"


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _indented(text: str) -> str:
    return _INDENT + text.replace("\n", "\n" + _INDENT) if text else ""


def _turn_parts(turn: Turn, index: int, count: int, results: bool) -> list[_Part]:
    name = f"== turn {index + 1} of {count}"
    weight = WEIGHT if index in (0, count - 1) else 1
    parts = []
    if results:
        saw = _indented(shown(turn.observation))
        saw = saw if index else cut(saw, OPENING_CHARS)
        parts.append(_Part(heading=f"{name}: saw", body=saw, weight=weight if index else 1))
    did = _indented(shown(turn.action))
    return [*parts, _Part(heading=f"{name}: {_DID[turn.kind]}", body=did, weight=weight)]


def _fitted(turns: Sequence[Sequence[_Part]], ending: _Part, chars: int) -> str:
    """All parts with the same share for each; fewer turns, where the share is too small."""
    parts = [*(part for turn in turns for part in turn), ending]
    share = _share(parts, chars)
    if share >= LEAST_CHARS or len(turns) <= 2:
        return _joined(parts, share)
    widest = max(part.overhead for part in parts) + LEAST_CHARS
    # The weights of both ends, the ending and the gap come off first.
    room = chars - (4 * WEIGHT + 2) * widest
    kept = min(len(turns) - 1, max(2, room // (widest * len(turns[0]))))
    head = max(1, kept // 3)
    tail = len(turns) - (kept - head)
    left_out = sum(len(part.body) for turn in turns[head:tail] for part in turn)
    gap = _Part(
        heading=f"== turns {head + 1} to {tail}: left out, {left_out:,} characters", body=""
    )
    parts = [part for turn in turns[:head] for part in turn]
    parts += [gap, *(part for turn in turns[tail:] for part in turn), ending]
    return _joined(parts, _share(parts, chars))


def _joined(parts: Sequence[_Part], share: int) -> str:
    """All parts, shortened; whole where a mark has no room in a share, to be cut as one text."""
    if share < MARK_CHARS:
        return "".join(part.text(len(part.body)) for part in parts)
    return "".join(part.text(part.weight * share) for part in parts)


def _share(parts: Sequence[_Part], chars: int) -> int:
    """The greatest share with which all fits: sum of min(length, weight * share) <= the room.

    A negative one where the headings alone are too long.
    """
    room = chars - sum(part.overhead for part in parts)
    low, high = -1, max(LEAST_CHARS, *(len(part.body) for part in parts))
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(len(part.body), part.weight * middle) for part in parts) <= room:
            low = middle
        else:
            high = middle - 1
    return low
