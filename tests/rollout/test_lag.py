"""Weights that arrive late, on purpose."""

from rlagents.rollout.lag import WeightLag


class Learner:
    steps = 0

    def weights(self):
        return {"w": self.steps}


class Pool:
    def __init__(self):
        self.loaded = []

    def load(self, weights, version):
        assert weights == {"w": version}
        self.loaded.append(version)


def published(iterations: int) -> list[int]:
    learner, pool, lag = Learner(), Pool(), WeightLag(iterations)
    for step in range(5):
        learner.steps = 10 * step
        lag.publish(pool, learner)
    return pool.loaded


def test_samplers_get_what_was_new_some_iterations_ago():
    assert published(1) == [0, 0, 10, 20, 30]
    assert published(4) == [0, 0, 0, 0, 0]


def test_without_a_lag_nothing_is_loaded_here():
    assert published(0) == []
