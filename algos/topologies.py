"""The topologies by name, and what each costs. Pure."""

from __future__ import annotations

from functools import partial

from rlagents.algos.active import active, seeded_margins, usual_matches
from rlagents.algos.brackets import double_elimination, seeded_single_elimination
from rlagents.algos.swiss import swiss, swiss_rounds
from rlagents.algos.tournaments import Topology, anchor, check_size, round_robin


def topology(name: str, *, matches: int = 0, rounds: int = 0, prior: float = 1.0) -> Topology:
    """The topology of that name.

    Args:
        matches: of `active`; 0 is `usual_matches`.
        rounds: of `swiss`; 0 is `swiss_rounds`.
        prior: of the fits of `seeded_margins` and `active`, in matches against an average member.

    Raises:
        ValueError: for another name.
    """
    known: dict[str, Topology] = {
        "round_robin": round_robin,
        "anchor": anchor,
        "seeded_single_elimination": seeded_single_elimination,
        "double_elimination": double_elimination,
        "swiss": partial(swiss, rounds=rounds),
        "seeded_margins": partial(seeded_margins, prior=prior),
        "active": partial(active, matches=matches, prior=prior),
    }
    if name not in known:
        raise ValueError(f"topology: expected one of {', '.join(known)}, got {name!r}")
    return known[name]


def expected_comparisons(name: str, size: int, *, matches: int = 0, rounds: int = 0) -> int:
    """Matches that a topology asks for among `size` members, each of two calls of a judge.

    A group of one has none. Else round robin N(N-1)/2; anchor N-1; swiss floor(N/2) x rounds;
    the eliminations 2N-2; seeded margins min(2N-2, N(N-1)/2), and so has active, or as many as
    wanted.

    Raises:
        ValueError: for another name, or fewer than one member.
    """
    topology(name)
    check_size(size)
    if size == 1:
        return 0
    if name == "round_robin":
        return size * (size - 1) // 2
    if name == "anchor":
        return size - 1
    if name == "swiss":
        return size // 2 * swiss_rounds(size, rounds)
    if name in ("active", "seeded_margins"):
        return (matches if name == "active" else 0) or usual_matches(size)
    return 2 * (size - 1)
