"""What pictures have in common. `matplotlib` (in the `dev` extra) is imported only to draw.

Figures are made without `pyplot`, which keeps global state: nothing opens a window, and any thread
may draw.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from rlagents.errors import ConfigError

# Okabe and Ito's colours.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY = "#555555"


def blank(width: float, height: float, dpi: int = 100) -> Any:
    """An empty figure of `width` x `height` inches.

    Raises:
        ConfigError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"a picture needs matplotlib ({error}): install rlagents[dev], or matplotlib itself"
        ) from None
    return Figure(figsize=(width, height), dpi=dpi)


def tidy(axes: Any) -> None:
    """Faint horizontal lines behind the data, and no box around it."""
    axes.grid(axis="y", color="#000000", alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(color=GREY)


def png(figure: Any) -> bytes:
    """The figure as a small PNG, of 256 colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    agg = FigureCanvasAgg(figure)
    agg.draw()
    picture = Image.fromarray(np.asarray(agg.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(256).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
