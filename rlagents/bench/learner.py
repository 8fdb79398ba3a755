"""What a trajectory's length costs the learner: memory and time of an optimizer step.

`peak8_over_1` is the peak bytes of live tensors of a step on a trajectory of eight windows over
those of one window, in rows of the same length; `seconds_per_window8_over_1` is the time a window.
"""

from __future__ import annotations

import time

from rlagents.bench.report import Result, figure, machine
from rlagents.config import LearnerSection, TinySection
from rlagents.learner.memory import measure_windows
from rlagents.policy.tiny import tiny_model

SIZES = TinySection(layers=4, width=128, heads=4, kv_heads=2, mlp=400)
COUNTS = (1, 2, 4, 8)


def run(*, window: int = 4096, repeats: int = 3) -> Result:
    """Measure both figures. Takes about a minute on one core with the defaults."""
    config = LearnerSection(micro_rows=1, device="cpu")
    rows = []
    memory, seconds = [], []
    for repeat in range(repeats):
        peaks, times = [], []
        for count in COUNTS:
            model = tiny_model(SIZES, seed=repeat, window=window)
            begun = time.perf_counter()
            peaks += measure_windows(model, config, window=window, counts=(count,))
            times.append((time.perf_counter() - begun) / count)
        rows += [
            {
                "repeat": repeat,
                "windows": count,
                "peak MB": round(peak / 1e6, 1),
                "s per window": round(spent, 3),
            }
            for count, peak, spent in zip(COUNTS, peaks, times, strict=True)
        ]
        memory.append(peaks[-1] / peaks[0])
        seconds.append(times[-1] / times[0])
    return Result(
        bench="learner",
        machine=machine(window=window),
        rows=rows,
        figures={"peak8_over_1": figure(memory), "seconds_per_window8_over_1": figure(seconds)},
    )
