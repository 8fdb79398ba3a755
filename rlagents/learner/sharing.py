"""How a batch is cut into forward passes, with what segments begin with computed once.

The members of a group begin with the same card, the segments of a trajectory with the same pinned
prefix. A causal model gives a token the same keys, values and log-probabilities in each of them, so
a pass holds the segments as a tree: shared runs of tokens are its inner nodes, and attention lets a
token see the nodes above its own (`rlagents.learner.attention`). Gradients of all segments meet in
the shared tokens. Nothing is approximated: a term depends on its own token's numbers only, and
weights are global, so any cut of the batch gives the same gradient.

Segments are put in the order of their token ids: those that begin alike are then neighbours, and
the tree follows from how much each shares with the one before it. A pass is bounded by its *unique*
tokens, so its memory is that of a pass without sharing, and it holds more segments.

With S segments of L tokens and a shared prefix of P, a pass computes P + S (L - P) tokens instead
of S L: for S = 16 and P = 0.7 L, 2.9 times fewer. The prefix is computed again in each pass that
its segments are spread over, so sharing wants passes of several segments: `learner.micro_rows`.

A tree costs masks, quadratic in the window, and attention that is a little slower. So a batch is
shared only where it pays (`pays`): SPARED of its tokens are computed no more, and the masks of a
pass have at most MASKED elements for each token that the pass computes. A 28-layer model of width
1024 keeps 28 times 1024 numbers a token in the least, under activation checkpointing: the masks add
a seventh to that at most. What is bounded so is linear in the tokens of a pass, as the rest is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from rlagents.data.packing import segment_spans, split_rows
from rlagents.learner.attention import Layout, layout_of, path_of
from rlagents.learner.model import FlatRow, flat_row, row_of
from rlagents.types import Batch

LEAST = 32
"""Tokens that are worth a node of their own: shorter runs are computed in each segment."""

COPIES = 8
"""Shared tokens whose copies of keys, one for each segment, weigh as much as a token."""

SPARED = 0.2
"""The least part of a batch's tokens that is worth sharing."""

MASKED = 4096
"""The most elements of masks for each token of a pass."""

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """The segments of one forward pass, as a tree of M nodes."""

    segments: Ints
    """[S, 3] row, start and stop in the batch of each segment."""
    leaves: Ints
    """[S] the node that holds the end of each."""
    nodes: Ints
    """[M, 4] segment that the node's tokens are read from, first and last place in it (the last
    excluded), and the parent, which comes before; -1 for a root."""

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return int((self.nodes[:, 2] - self.nodes[:, 1]).sum())

    @property
    def spared(self) -> int:
        """Tokens that would be computed more than once without sharing."""
        return int((self.segments[:, 2] - self.segments[:, 1]).sum()) - self.tokens

    def layout(self) -> Layout:
        """Where the nodes lie when they are laid end to end."""
        _, begins, ends, parents = self.nodes.T
        return layout_of((ends - begins).tolist(), parents.tolist())


def flat_rows(
    batch: Batch, *, rows: int, share: bool, device: torch.device | str = "cpu"
) -> Iterator[FlatRow]:
    """The forward passes of a batch, those where something is trained; `places` are the batch's.

    Args:
        batch: packed rows.
        rows: a pass computes no more tokens than the fullest `rows` rows hold.
        share: compute what several segments begin with once, where that pays.
        device: of the results.
    """
    parts = parts_of(batch, rows=rows) if share else []
    if pays(parts):
        for part in parts:
            yield _tree_row(batch, part, device)
        return
    for number, part in enumerate(split_rows(batch, rows)):
        row = flat_row(part, device)
        if len(row.wanted):
            yield replace(row, places=(row.places[0] + number * rows, row.places[1]))


def pays(parts: Sequence[Part]) -> bool:
    """Whether the passes of a batch spare enough tokens for the masks they need.

    Spared tokens are at least SPARED of all, and in each pass the elements of the masks at most
    MASKED times the tokens that are computed.
    """
    spared = sum(part.spared for part in parts)
    total = spared + sum(part.tokens for part in parts)
    return 0 < SPARED * total <= spared and all(
        part.layout().masked <= MASKED * part.tokens for part in parts
    )


def parts_of(batch: Batch, *, rows: int) -> list[Part]:
    """Every segment with a trained token once, up to its last one, in passes that share prefixes.

    Time is that of sorting the segments.

    Args:
        batch: packed rows.
        rows: as in `flat_rows`.
    """
    segments = _ordered(batch)
    lengths = segments[:, 2] - segments[:, 1]
    shared = _shared(batch, segments)
    budget = int(np.sort((batch.segment_ids >= 0).sum(axis=1))[-rows:].sum())
    parts, first, used = [], 0, 0
    for index, (length, common) in enumerate(zip(lengths.tolist(), shared.tolist(), strict=True)):
        # Where the tree branches, fewer than LEAST of the common tokens are not shared after all.
        cost = length - common + max(LEAST, common // COPIES) if common else length
        if index > first and used + cost > budget:
            parts.append(_part(segments[first:index], shared[first:index]))
            first, used, cost = index, 0, length
        used += cost
    if len(segments):
        parts.append(_part(segments[first:], shared[first:]))
    return parts


def _ordered(batch: Batch) -> Ints:
    """[S, 3] row, start and stop of the segments that are trained, in the order of their ids."""
    found = []
    for b, start, stop in segment_spans(batch):
        trained = _trained(batch, b, start, stop)
        if len(trained):
            stop = start + int(trained[-1]) + 1
            # As bytes, the highest first, ids compare as they do as numbers.
            found.append((batch.token_ids[b, start:stop].astype(">u4").tobytes(), b, start, stop))
    return np.array([place for _, *place in sorted(found)], np.intp).reshape(-1, 3)


def _trained(batch: Batch, b: int, start: int, stop: int) -> Ints:
    """[n] the places inside a segment that are trained; the first token never is."""
    return 1 + np.flatnonzero(batch.loss_weights[b, start + 1 : stop])


def _shared(batch: Batch, segments: Ints) -> Ints:
    """[S] tokens that each begins with as the one before it does; 0 for fewer than LEAST."""
    shared = np.zeros(len(segments), np.intp)
    for index, (one, two) in enumerate(pairwise(segments), 1):
        ids = [batch.token_ids[b, start:stop] for b, start, stop in (one, two)]
        size = min(map(len, ids))
        differ = np.flatnonzero(ids[0][:size] != ids[1][:size])
        common = int(differ[0]) if len(differ) else size
        shared[index] = common if common >= LEAST else 0
    return shared


def _part(segments: Ints, shared: Ints) -> Part:
    """The tree of neighbouring segments; what the first shares with others is not looked at."""
    lengths = segments[:, 2] - segments[:, 1]
    nodes: list[tuple[int, int, int, int]] = []
    leaves = np.empty(len(segments), np.intp)
    # Segments that share their tokens before `begin`, all of which lie in `parent` and above it.
    todo = [(0, len(segments), 0, -1)]
    while todo:
        first, last, begin, parent = todo.pop()
        apart = first + 1 + np.flatnonzero(shared[first + 1 : last] < begin + LEAST)
        if len(apart):
            bounds = [first, *apart.tolist(), last]
            todo += [(*run, begin, parent) for run in reversed(list(pairwise(bounds)))]
            continue
        end = int(lengths[first] if last == first + 1 else shared[first + 1 : last].min())
        if end > begin:
            nodes.append((first, begin, end, parent))
            parent = len(nodes) - 1
        if last == first + 1:
            leaves[first] = parent
        else:
            todo.append((first, last, end, parent))
    return Part(segments=segments, leaves=leaves, nodes=np.array(nodes, np.intp))


def _tree_row(batch: Batch, part: Part, device: torch.device | str) -> FlatRow:
    """The tokens of the nodes laid end to end, and the trained ones of every segment."""
    segments, begins, ends, parents = part.nodes.T
    sizes = ends - begins
    starts = np.cumsum(sizes) - sizes
    inside = np.arange(part.tokens) - np.repeat(starts - begins, sizes)
    rows, firsts, _ = np.repeat(part.segments[segments], sizes, axis=0).T
    wanted, predictors, places = [], [], []
    for (b, start, stop), leaf in zip(part.segments, part.leaves, strict=True):
        path = path_of(int(leaf), parents, sizes)
        trained = _trained(batch, b, start, stop)
        wanted.append(path[trained])
        predictors.append(path[trained - 1])
        places.append(np.stack([np.full(len(trained), b), start + trained]))
    where = np.concatenate(places, axis=1)
    return row_of(
        batch,
        device,
        tokens=(rows, firsts + inside),
        layout=part.layout(),
        wanted=np.concatenate(wanted),
        predictors=np.concatenate(predictors),
        places=(where[0], where[1]),
    )
