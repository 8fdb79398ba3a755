from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.data.packing import pack, segment_spans
from rlagents.data.segments import segments_of
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory, Turn

KEY = EpisodeKey(stream="train", iteration=0, group=2, member=1)


def turn(observation, action, context=0, **changes):
    values = {
        "observation": "",
        "action": "",
        "observation_ids": np.array(observation, np.int32),
        "action_ids": np.array(action, np.int32),
        "behaviour_logprobs": -np.array(action, np.float32) / 100,
        "context": context,
    }
    return Turn(**(values | changes))


def trajectory(*turns):
    return Trajectory(
        key=KEY,
        task=Task(env_id="X-v0", seed=0),
        turns=turns,
        final_observation="",
        stop=StopReason.TERMINATED,
    )


def test_interleaved_contexts_by_hand():
    example = trajectory(
        turn([1, 2], [3], 0),
        turn([7], [8, 9], 4, temperature=0.5),
        turn([4], [5, 6], 0),
        turn([10, 11], [12], 4, temperature=0),
    )
    first, second = segments_of(example, np.array([1, 2, -1, 3], np.float32), label=5)
    assert first.source == (KEY, 0) and second.source == (KEY, 4)
    assert first.label == second.label == 5
    assert first.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert first.loss_mask.tolist() == [False, False, True, False, True, True]
    assert first.advantages.tolist() == [0, 0, 1, 0, -1, -1]
    np.testing.assert_allclose(first.behaviour_logprobs, [0, 0, -0.03, 0, -0.05, -0.06])
    assert second.token_ids.tolist() == [7, 8, 9, 10, 11, 12]
    assert second.advantages.tolist() == [0, 2, 2, 0, 0, 3]
    # A greedy turn records log-probabilities under temperature 1.
    assert second.temperatures.tolist() == [1, 0.5, 0.5, 1, 1, 1]


def test_without_gradient_only_the_mask_changes():
    example = trajectory(turn([1, 2], [3]), turn([4], [5, 6]))
    ones = np.ones(2, np.float32)
    (kept,) = segments_of(example, ones, label=0)
    (masked,) = segments_of(example, ones, label=0, gradient=False)
    assert kept.loss_mask.sum() == 3 and not masked.loss_mask.any()
    for name in ("token_ids", "behaviour_logprobs", "advantages", "temperatures"):
        assert getattr(kept, name).tolist() == getattr(masked, name).tolist()


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"\[N\] = \(1,\), got \(2,\)"):
        segments_of(trajectory(turn([1], [2])), np.zeros(2, np.float32), label=0)
    with pytest.raises(ValueError, match="no context"):
        segments_of(trajectory(turn([], [2])), np.zeros(1, np.float32), label=0)


def test_a_trajectory_without_turns_has_no_segments():
    assert segments_of(trajectory(), np.zeros(0, np.float32), label=0) == ()


@st.composite
def episodes(draw):
    """Random turns in random contexts, with the whole context each action was sampled under.

    Action tokens are unique numbers from 1000 up, so each can be found again.
    """
    turns, sampled_under, held = [], {}, {}
    for number in range(draw(st.integers(1, 12))):
        context = draw(st.integers(0, 3))
        observed = draw(st.lists(st.integers(0, 99), min_size=context not in held, max_size=5))
        action = [1000 + 10 * number + i for i in range(draw(st.integers(1, 4)))]
        held[context] = held.get(context, []) + observed
        for token in action:
            sampled_under[token] = tuple(held[context])
            held[context] = [*held[context], token]
        turns.append(turn(observed, action, context))
    return turns, sampled_under


@given(episodes(), st.booleans())
def test_every_action_once_under_the_context_it_was_sampled_under(episode, packed):
    turns, sampled_under = episode
    advantages = np.arange(len(turns), dtype=np.float32)
    parts = segments_of(trajectory(*turns), advantages, label=0)
    sequences = [(p.token_ids, p.loss_mask, p.behaviour_logprobs, p.advantages) for p in parts]
    if packed:
        batch = pack(parts, row_tokens=sum(map(len, parts)), pad_id=0)
        fields = ("token_ids", "loss_weights", "behaviour_logprobs", "advantages")
        sequences = [
            tuple(getattr(batch, name)[row, start:stop] for name in fields)
            for row, start, stop in segment_spans(batch)
        ]
    seen = []
    for ids, mask, logprobs, credit in sequences:
        for t in np.flatnonzero(mask):
            token = int(ids[t])
            seen.append(token)
            assert tuple(ids[:t].tolist()) == sampled_under[token]
            assert logprobs[t] == np.float32(-token / 100)
            assert credit[t] == (token - 1000) // 10
    assert sorted(seen) == sorted(sampled_under)
