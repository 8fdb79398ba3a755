from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlagents.scoring.scorer import ReturnScorer
from rlagents.types import Group, StopReason
from tests.fakes import TASK, trajectory


def test_a_return_is_the_sum_of_the_rewards() -> None:
    members = (
        trajectory(turns=3, score=2.5),
        trajectory(member=1, score=-1.0, stop=StopReason.TURN_LIMIT),
        dataclasses.replace(trajectory(member=2, score=9.0), turns=()),
    )
    scored = ReturnScorer().score(Group(task=TASK, trajectories=members))
    assert scored.scores.dtype == np.float32
    assert scored.scores.tolist() == [2.5, -1.0, 0.0]


@pytest.mark.parametrize("stop", [s for s in StopReason if s.failed])
def test_a_failed_member_has_no_score_but_its_return_is_kept(stop: StopReason) -> None:
    members = (trajectory(score=1.0), trajectory(member=1, score=3.0, stop=stop))
    scored = ReturnScorer().score(Group(task=TASK, trajectories=members))
    assert scored.scores[0] == 1.0 and np.isnan(scored.scores[1])
    assert scored.parts["return"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize("stop", [s for s in StopReason if not s.failed])
def test_who_was_only_cut_keeps_its_score(stop: StopReason) -> None:
    group = Group(task=TASK, trajectories=(trajectory(score=0.25, stop=stop),))
    assert ReturnScorer().score(group).scores.tolist() == [0.25]
