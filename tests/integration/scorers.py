"""Scorers for whole runs, for `scoring.function`: `tests.integration.scorers:contrary`."""

from rlagents.types import Group


def returned(group: Group) -> list[float]:
    """What the environment says."""
    return [t.episode_return for t in group.trajectories]


def contrary(group: Group) -> list[float]:
    """The opposite of what the environment says, whose returns are between 0 and 1."""
    return [1 - t.episode_return for t in group.trajectories]


def fickle(group: Group) -> list[float]:
    """No scores for the second group of each iteration, and none for every second evaluation."""
    key = group.trajectories[0].key
    if key.group % 2:
        raise KeyError(f"no judge for {key}")
    return returned(group)


def broken(group: Group) -> list[str]:
    """Never an answer that makes sense."""
    return ["good"] * len(group.trajectories)
