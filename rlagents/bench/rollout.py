"""Multi-turn sampling: the engine against a loop around `generate()` that re-reads the history.

Two figures. `vs_generate` is the engine's sampled tokens per second over those of
`model.generate()` called each turn on all conversations at once with their whole histories (the
stronger form of the loop: one conversation at a time is slower still). `turn256_over_turn32` is
the time of a turn late in a long episode over that of a turn when the window first is full, each
averaged over a whole window cycle, from one rebuilding of the context to the next.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
import transformers

from rlagents.bench.report import Result, figure, machine
from rlagents.config import TinySection
from rlagents.policy.local import LocalEngine
from rlagents.policy.sampler import SampleRequest, Sampling
from rlagents.policy.tiny import tiny_model
from rlagents.types import IntArray

OBSERVED, SAMPLED = 24, 16
TURN = OBSERVED + SAMPLED
SIZES = TinySection(layers=4, width=128, heads=4, kv_heads=2, mlp=400)
"""0.85M parameters."""


class _Endless:
    """No end-of-turn token, so that every turn samples exactly its 16 tokens."""

    end_id = -1

    def decode(self, ids: Any) -> str:
        return ""


def run(
    *,
    seed: int = 0,
    repeats: int = 3,
    conversations: int = 32,
    turns: int = 64,
    generate_turns: int = 3,
    long_conversations: int = 2,
    full_turn: int = 32,
    late_turn: int = 256,
    threads: int = 1,
) -> Result:
    """Measure both figures. Takes about 2 to 3 minutes on one core with the defaults.

    Args:
        seed: of the model, the observations and the sampling.
        repeats: how often each side runs; figures are medians.
        conversations: sampled together in the comparison with `generate()`.
        turns: length of an episode in that comparison.
        generate_turns: the loop's turns that are timed: the middles of as many equal parts of the
            episode, each standing for its part. Its cost is convex in the turn, so that this
            favours the loop. `turns` times every one.
        long_conversations: sampled together in the long episodes.
        full_turn: turn of a long episode at which its window is full for the first time.
        late_turn: turn of a long episode that is compared with it.
        threads: torch threads, for both sides.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = tiny_model(SIZES, seed=seed, window=turns * TURN)
        compared = [
            _against_generate(model, conversations, turns, generate_turns, seed + r)
            for r in range(repeats)
        ]
        long = [
            _long_episode(model, long_conversations, full_turn, late_turn, seed + r)
            for r in range(repeats)
        ]
    finally:
        torch.set_num_threads(before)
    parameters = sum(p.numel() for p in model.parameters())
    rows: list[dict[str, Any]] = []
    for engine, loop in compared:
        rows.append({"measured": "engine, tokens/s", "value": engine})
        rows.append({"measured": "generate() each turn, tokens/s", "value": loop})
    for early, late in long:
        rows.append({"measured": f"seconds a turn, from turn {full_turn}", "value": early})
        rows.append({"measured": f"seconds a turn, from turn {late_turn}", "value": late})
    return Result(
        bench="rollout",
        machine=machine(
            torch=torch.__version__,
            transformers=transformers.__version__,
            threads=threads,
            parameters=parameters,
        ),
        rows=rows,
        figures={
            "vs_generate": figure([engine / loop for engine, loop in compared]),
            "turn256_over_turn32": figure([late / early for early, late in long]),
        },
    )


def _against_generate(
    model: Any, conversations: int, turns: int, timed: int, seed: int
) -> tuple[float, float]:
    """Sampled tokens per second of the engine and of the loop, on the same episodes."""
    with contextlib.closing(_episodes(model, conversations, turns * TURN, seed)) as episodes:
        played = list(itertools.islice(episodes, turns))
    seconds = sum(took for _, took in played)
    histories = played[-1][0]
    whole = torch.from_numpy(np.stack(histories)).long()  # the last turn's prompts hold all others
    middles = [int((part + 0.5) * turns / timed) for part in range(timed)]
    plain = tiny_model(SIZES, seed=0, window=turns * TURN)  # as generate() finds it, untouched
    loop = sum(_generate_seconds(plain, whole[:, : t * TURN + OBSERVED]) for t in middles)
    sampled = conversations * SAMPLED
    return turns * sampled / seconds, timed * sampled / loop


def _generate_seconds(model: Any, prompts: torch.Tensor) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=SAMPLED,
            min_new_tokens=SAMPLED,
            do_sample=True,
            top_k=0,
        )
    assert output.shape[1] == prompts.shape[1] + SAMPLED
    return time.perf_counter() - started


def _long_episode(
    model: Any, conversations: int, full_turn: int, late_turn: int, seed: int
) -> tuple[float, float]:
    """Mean seconds a turn over the window cycles that start at `full_turn` and `late_turn`.

    Two sets of episodes: when the old one has come to the late turn and the young one to the
    full turn, their turns alternate: a machine that slows down or speeds up favours neither.
    """
    window = full_turn * TURN
    overlap = window // 4
    cycle = (window - TURN - overlap) // TURN

    def cut(context: IntArray) -> IntArray:
        """A pinned first turn, then the latest turns: what a context window does when full."""
        if len(context) + SAMPLED <= window:
            return context
        return np.concatenate([context[:TURN], context[-(overlap + OBSERVED) :]])

    episodes = [_episodes(model, conversations, window, seed + k, cut) for k in (0, 1)]
    young, old = episodes
    try:
        for _ in range(late_turn):
            next(old)
        for _ in range(full_turn):
            next(young)
        took = [(next(young)[1], next(old)[1]) for _ in range(cycle)]
    finally:
        for episode in episodes:
            episode.close()
    early, late = np.mean(took, axis=0)
    return float(early), float(late)


def _episodes(
    model: Any,
    conversations: int,
    window: int,
    seed: int,
    cut: Callable[[IntArray], IntArray] = lambda context: context,
) -> Generator[tuple[list[IntArray], float]]:
    """Play all conversations turn by turn; yields each turn's prompts and its seconds."""
    rng = np.random.default_rng(seed)
    contexts = [np.zeros(0, np.int32) for _ in range(conversations)]
    sampling = Sampling(max_tokens=SAMPLED)
    engine = LocalEngine(
        model,
        _Endless(),
        window=window,
        cache_tokens=window * conversations,
        max_batch=conversations,
    )
    try:
        for turn in itertools.count():
            seen = rng.integers(0, 256, (conversations, OBSERVED)).astype(np.int32)
            prompts = [cut(np.concatenate(pair)) for pair in zip(contexts, seen, strict=True)]
            started = time.perf_counter()
            futures = [
                engine.sample(
                    SampleRequest(
                        conversation=str(i),
                        prompt_ids=prompt,
                        sampling=sampling,
                        seed=(seed * conversations + i) * 1000 + turn,
                    )
                )
                for i, prompt in enumerate(prompts)
            ]
            answers = [future.result() for future in futures]
            took = time.perf_counter() - started
            contexts = [np.concatenate([p, a.ids]) for p, a in zip(prompts, answers, strict=True)]
            yield prompts, took
    finally:
        engine.close()
