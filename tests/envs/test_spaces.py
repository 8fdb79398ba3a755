from __future__ import annotations

import json
import pickle

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.envs.spaces import UnicodeText


@given(st.text(max_size=50))
def test_any_text_is_inside_and_survives_json(text: str) -> None:
    space = UnicodeText(50)
    assert text in space
    told = json.loads(json.dumps(space.to_jsonable([text])))
    assert space.from_jsonable(told) == [text]


def test_what_is_outside() -> None:
    space = UnicodeText(3)
    assert "" in space and "abc" in space and "é\n🙂" in space
    for outside in ("abcd", "\ud800", 3, None, b"ab", ["a"]):
        assert outside not in space


def test_samples_are_inside_seeded_and_include_more_than_ascii() -> None:
    space = UnicodeText(20)
    space.seed(3)
    first = [space.sample() for _ in range(200)]
    space.seed(3)
    assert first == [space.sample() for _ in range(200)]
    assert all(text in space for text in first)
    assert "" in first and max(map(len, first)) == 20
    assert {" ", "\n", "é", "🙂"} <= set("".join(first))
    assert len(UnicodeText(10**9).sample()) <= 64
    assert UnicodeText(0).sample() == ""
    with pytest.raises(ValueError, match="no character set"):
        space.sample(mask=(3, None))


def test_equality_repr_pickle_and_bounds() -> None:
    space = UnicodeText(7)
    assert space == UnicodeText(7) != UnicodeText(8)
    assert space != gymnasium.spaces.Text(7) and space != "UnicodeText(7)"
    assert repr(space) == "UnicodeText(7)"
    assert pickle.loads(pickle.dumps(space)) == space
    assert not space.is_np_flattenable
    with pytest.raises(ValueError):
        UnicodeText(-1)


def test_works_in_a_vector_environment() -> None:
    """The first observations of a vector are those of the single environments."""
    make = [lambda: gymnasium.make("rlagents/Lock-v0") for _ in range(2)]
    envs = gymnasium.vector.SyncVectorEnv(make)
    observations, _ = envs.reset(seed=[4, 5])
    single = gymnasium.make("rlagents/Lock-v0")
    assert list(observations) == [single.reset(seed=s)[0] for s in (4, 5)]
    _, rewards, *_ = envs.step(("a", "b"))
    assert rewards.shape == (2,) and rewards.dtype == np.float64
    envs.close()
