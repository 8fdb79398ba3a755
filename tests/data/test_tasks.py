from __future__ import annotations

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlagents.envs  # noqa: F401  (registers KeyRooms)
from rlagents.config import EnvSection
from rlagents.data.tasks import TaskSource

SEEDS = st.integers(0, 2**31 - 1)
PLACES = st.tuples(st.integers(0, 10_000), st.integers(0, 10_000))
INDICES = st.none() | st.integers(0, 19)


def source(seed: int = 0, **section: object) -> TaskSource:
    return TaskSource(EnvSection(**{"id": "toy", **section}), seed)  # type: ignore[arg-type]


@given(SEEDS, PLACES, st.integers(0, 10_000), INDICES)
def test_training_seeds_are_even_and_held_out_ones_odd(
    seed: int, place: tuple[int, int], index: int, dealt: int | None
) -> None:
    tasks = source(seed, train_tasks=0 if dealt is None else 20)
    trained = (tasks.train(*place, dealt).seed, tasks.demonstration(index, {}).seed)
    assert all(s % 2 == 0 for s in trained)
    assert tasks.held_out(index).seed % 2 == 1
    assert all(0 <= s < 2**31 for s in (*trained, tasks.held_out(index).seed))


@given(SEEDS, PLACES)
def test_a_task_is_a_function_of_the_seed_and_its_place(seed: int, place: tuple[int, int]) -> None:
    first, second = source(seed), source(seed)
    assert first.train(*place) == second.train(*place)
    assert first.held_out(place[0]) == second.held_out(place[0])
    assert first.demonstration(place[1], {}) == second.demonstration(place[1], {})


def test_seeds_differ_from_place_to_place_and_from_run_to_run() -> None:
    seeds = [source(run).train(i, g).seed for run in range(3) for i in range(20) for g in range(20)]
    assert len(set(seeds)) == len(seeds) == 1200
    held_out = {source(run).held_out(i).seed for run in range(3) for i in range(400)}
    assert len(held_out) == 1200


def test_a_task_that_comes_back_is_the_same_wherever_it_is_dealt() -> None:
    tasks = source(train_tasks=5)
    seeds = [
        {tasks.train(i, g, index).seed for i in range(6) for g in range(6)} for index in range(5)
    ]
    assert [len(s) for s in seeds] == [1] * 5
    assert len(set.union(*seeds)) == 5
    # More tasks leave the first ones as they are; another run has others.
    assert {source(train_tasks=9).train(0, 0, 3).seed} == seeds[3]
    other = source(seed=1, train_tasks=5)
    assert {other.train(0, 0, index).seed for index in range(5)}.isdisjoint(set.union(*seeds))


@pytest.mark.parametrize(
    ("train_tasks", "index", "expected"),
    [
        (0, 0, "train_tasks = 0: expected None, got 0"),
        (5, None, "train_tasks = 5: expected a number below 5, got None"),
        (5, 5, "train_tasks = 5: expected a number below 5, got 5"),
        (5, -1, "train_tasks = 5: expected a number below 5, got -1"),
    ],
)
def test_an_index_must_be_one_of_the_tasks(
    train_tasks: int, index: int | None, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        source(train_tasks=train_tasks).train(0, 0, index)


def test_kwargs_options_and_names() -> None:
    tasks = source(kwargs={"horizon": 8}, options={"level": 2})
    for task in (tasks.train(0, 0), tasks.held_out(0), tasks.demonstration(0, {})):
        assert (task.env_id, task.kwargs, task.options) == ("toy", {"horizon": 8}, {"level": 2})
        assert task.task_id == f"toy:{task.seed}"
    changed = tasks.demonstration(0, {"horizon": 4, "waste": 0.5})
    assert changed.kwargs == {"horizon": 4, "waste": 0.5}
    assert changed.seed == tasks.demonstration(0, {}).seed
    assert tasks.train(0, 0).kwargs == {"horizon": 8}


def test_a_stage_changes_arguments_of_training_tasks_and_not_their_seeds() -> None:
    tasks = source(kwargs={"horizon": 8, "hint": "each"}, train_tasks=3)
    own, short = tasks.train(0, 0, 1), tasks.train(5, 2, 1, {"horizon": 4})
    assert short.kwargs == {"horizon": 4, "hint": "each"}
    assert short.seed == own.seed
    assert tasks.train(0, 0, 1) == own  # the next stage does not see the changes of the last one
    assert tasks.held_out(0).kwargs == {"horizon": 8, "hint": "each"}
    fresh = source(kwargs={"horizon": 8})
    assert fresh.train(3, 1, None, {"horizon": 4}).seed == fresh.train(3, 1).seed


def test_a_task_has_another_id_where_its_arguments_differ_from_the_run_s() -> None:
    tasks = source(kwargs={"horizon": 8})
    own = tasks.train(0, 0)
    assert own.task_id == f"toy:{own.seed}"
    assert tasks.train(0, 0, None, {"horizon": 8}).task_id == own.task_id
    changed = tasks.train(0, 0, None, {"turns": 9, "horizon": 4, "hint": "each"})
    assert changed.task_id == f'toy:{own.seed}:hint="each":horizon=4:turns=9'


@pytest.mark.parametrize("run_seed", [0, 1, 2])
def test_no_held_out_card_of_keyrooms_is_a_training_card(run_seed: int) -> None:
    tasks = source(run_seed, id="rlagents/KeyRooms-v0")
    env = gymnasium.make("rlagents/KeyRooms-v0", disable_env_checker=True).unwrapped

    def card(seed: int) -> str:
        return env.reset(seed=seed)[0]

    trained = {card(tasks.train(i, g).seed) for i in range(50) for g in range(40)}
    trained |= {card(tasks.demonstration(i, {}).seed) for i in range(500)}
    held_out = {card(tasks.held_out(i).seed) for i in range(2000)}
    assert (len(trained), len(held_out)) == (2500, 2000)
    assert trained.isdisjoint(held_out)
