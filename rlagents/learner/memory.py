"""How many bytes of tensors are alive at once: the measure behind the memory contract.

Counts storages as operators make them, forward and backward, whatever the device. Scratch space
inside a kernel and the allocator's own rounding are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from rlagents.config import LearnerSection
from rlagents.data.packing import pack
from rlagents.learner.step import Learner
from rlagents.types import Batch, EpisodeKey, Segment


class peak_live_bytes(TorchDispatchMode):
    """Context manager: peak bytes of live tensors made inside it.

    Tensors that were alive before (the idle level) are not counted, even when seen again.

    Examples:
        >>> with peak_live_bytes() as live:
        ...     x = torch.ones(1000) + 1
        >>> live.peak
        8000
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        """Bytes alive now."""
        self.peak = 0
        """Most bytes alive at once so far."""
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, then count the storages it made."""
        for tensor in tree_leaves((args, kwargs)):
            self._see(tensor, made=False)
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            self._see(tensor, made=True)
        return results

    def _see(self, tensor: Any, *, made: bool) -> None:
        """Count a storage the first time it comes out of an operator."""
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0

        def forget(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


def measure_windows(
    model: PreTrainedModel,
    config: LearnerSection,
    *,
    window: int,
    counts: Sequence[int],
    pinned: int = 0,
) -> list[int]:
    """Peak live bytes of an optimizer step on one trajectory of so many full windows.

    The contract of long horizons: a trajectory of 8 windows, or of 100, takes hardly more than one
    of a single window in rows of the same length. A first step, uncounted, makes the optimizer's
    moments.

    Args:
        model: a causal language model.
        config: with `micro_rows: 1`, or a longer trajectory fills a forward pass better.
        window: tokens of a segment, and of a row.
        counts: windows of each measured trajectory.
        pinned: tokens that all windows of a trajectory begin with, below `window`.
    """
    learner = Learner(model, config)
    vocabulary = learner.model.get_output_embeddings().weight.shape[0]
    learner.step(_trajectory(1, 8, 0, vocabulary), _objective)
    peaks = []
    for count in counts:
        batch = _trajectory(count, window, pinned, vocabulary)
        with peak_live_bytes() as live:
            learner.step(batch, _objective)
        peaks.append(live.peak)
    return peaks


def _trajectory(windows: int, window: int, pinned: int, vocabulary: int) -> Batch:
    """Full windows of random tokens of one trajectory; every second new one is trained."""
    draw = np.random.default_rng(0)
    prefix = draw.integers(0, vocabulary, pinned)
    segments = []
    for context in range(windows):
        new = draw.integers(0, vocabulary, window - pinned)
        mask = (np.arange(window) % 2 == 1) & (np.arange(window) >= pinned)
        segments.append(
            Segment(
                token_ids=np.concatenate([prefix, new]).astype(np.int32),
                loss_mask=mask,
                behaviour_logprobs=np.where(mask, -1, 0).astype(np.float32),
                advantages=mask.astype(np.float32),
                temperatures=np.ones(window, np.float32),
                turns=np.where(mask, np.arange(window) // 2, -1).astype(np.int32),
                label=0,
                source=(EpisodeKey(stream="bench", iteration=0, group=0, member=0), context),
            )
        )
    return pack(segments, row_tokens=window, pad_id=0)


def _objective(
    logprobs: Tensor, entropies: Tensor, columns: Mapping[str, Tensor]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    return -logprobs * columns["advantages"], {}
