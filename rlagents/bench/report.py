"""What a benchmark reports: rows for a table, and figures with their spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number measured several times."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a benchmark returns: a table for people, JSON for machines."""

    bench: str
    machine: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """Rows of the table; the keys of the first are its columns."""
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def to_json(self) -> str:
        """{bench, machine, rows, figures: {key: {median, low, high}}}."""
        figures = {
            key: {"median": f.median, "low": f.low, "high": f.high}
            for key, f in self.figures.items()
        }
        content = {
            "bench": self.bench,
            "machine": dict(self.machine),
            "rows": [dict(row) for row in self.rows],
            "figures": figures,
        }
        return json.dumps(content, indent=2)

    def table(self) -> str:
        """Rows and figures as plain aligned text."""
        columns = list(self.rows[0]) if self.rows else []
        cells = [columns, *([_cell(row.get(c, "")) for c in columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        lines += [
            f"{key}: {f.median:.3g} ({f.low:.3g} to {f.high:.3g})"
            for key, f in self.figures.items()
        ]
        return "\n".join(lines)


def figure(values: Sequence[float]) -> Figure:
    """Median and range of repeats."""
    return Figure(median=statistics.median(values), low=min(values), high=max(values))


def machine(**extra: Any) -> dict[str, Any]:
    """What the measurement ran on; `extra` adds what only the benchmark knows."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **extra,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
