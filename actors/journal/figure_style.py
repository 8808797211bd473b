"""How the pictures of a report look, and how they become PNG bytes: the same data give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

P = ParamSpec("P")

NM = 1e9
INK = "#1d2733"
QUIET = "#6c7681"
BLUE = "#2f6db5"
ORANGE = "#d98324"
ACCENT = "#d1344b"
"""The best point, everywhere."""
DPI = 130
STYLE = {
    "font.size": 9.0,
    "axes.edgecolor": "#8a94a0",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "font.family": "DejaVu Sans",
}

_RC: Any = {**mpl.rcParamsDefault, **STYLE, "backend": "agg"}
"""The whole style, so that the user's matplotlibrc changes nothing."""


def styled(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Draw in our style, whatever the user's matplotlibrc says, and give the picture as PNG bytes."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> bytes:
        with mpl.rc_context(_RC):
            buffer = io.BytesIO()
            draw(*arguments, **options).savefig(buffer, format="png", metadata={"Software": None})
            return buffer.getvalue()

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that arranges its axes by itself."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def with_unit(name: str, unit: str) -> str:
    """A label such as "height (pm)"."""
    return f"{name} ({unit})" if unit else name


def tidy(axes: Any) -> None:
    """Axes without a frame on top and right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3)


def colours(name: str, count: int) -> list[Any]:
    """So many distinct colours of a colour map, dark first."""
    return [mpl.colormaps[name](v) for v in np.linspace(0.05, 0.8, count)]
