"""How images and curves are drawn: colours, scale bars, colour bars with units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

HEIGHTS, CONDUCTANCES = "afmhot", "magma"
CLIPPED = (0.3, 98.8)
"""Per cent of the pixels below the ends of the colours: what stands out may be white."""
BLOCKS = 10
CURVES = ("#222222", "#c1272d", "#0b6fb8", "#2c8a3d", "#b8720b")
_STEPS = np.array([1.0, 2.0, 5.0])
_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))


def quantity(value: float, unit: str) -> str:
    """A number with its unit: "150 pA"."""
    if value == 0.0:
        return f"0 {unit}"
    scale, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= 0.9995 * s), _PREFIXES[-1])
    return f"{value / scale:.3g} {prefix}{unit}".replace("-", "\N{MINUS SIGN}")


def bias(value: float) -> str:
    """A bias with its sign: "+1.2 V"."""
    return ("+" if value > 0.0 else "") + quantity(value, "V")


def plane_subtracted(z_m: Floats) -> Floats:
    """Less a plane with the slopes of the terraces: the medians between means of blocks, which see no atoms
    and few steps; (rows, columns)."""
    rows, columns = (n // BLOCKS * BLOCKS for n in z_m.shape)
    blocks = z_m[:rows, :columns].reshape(BLOCKS, rows // BLOCKS, BLOCKS, columns // BLOCKS).mean(axis=(1, 3))
    along = np.median(np.diff(blocks, axis=0)) * BLOCKS / rows
    across = np.median(np.diff(blocks, axis=1)) * BLOCKS / columns
    flat = z_m - along * np.arange(z_m.shape[0])[:, None] - across * np.arange(z_m.shape[1])
    return np.asarray(flat - np.median(flat))


def limits(values: Floats) -> tuple[float, float]:
    """Ends of the colours for some values."""
    low, high = np.percentile(values, CLIPPED)
    return float(low), float(high)


def image(
    axes: Axes,
    values: Floats,
    width_m: float,
    unit: str,
    colours: str,
    title: str,
    ends: tuple[float, float] | None = None,
    lit: bool = False,
) -> None:
    """An image (rows, columns), row 0 below, in ``unit`` ("m" or "S"), with scale bar and colour bar.

    ``ends`` of the colours; by default those of the values.  ``lit``: brightened where it slopes to the upper
    left, darkened where it slopes away.
    """
    import matplotlib.pyplot as plt

    low, high = limits(values) if ends is None else ends
    scale, prefix = _prefix(float(max(abs(low), abs(high), high - low)))
    shown = axes.imshow(
        values / scale,
        origin="lower",
        cmap=colours,
        vmin=low / scale,
        vmax=high / scale,
        extent=(0.0, width_m, 0.0, width_m),
        interpolation="nearest",
    )
    if lit:
        shade = np.clip(_slope(values), -1.0, 1.0)
        veil = np.zeros((*values.shape, 4))
        veil[..., :3] = (shade > 0.0)[..., None]
        veil[..., 3] = 0.55 * np.abs(shade)
        axes.imshow(veil, origin="lower", extent=(0.0, width_m, 0.0, width_m), interpolation="nearest")
    axes.set_xlim(0.0, width_m)
    axes.set_ylim(0.0, width_m)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9, loc="left", pad=4)
    scale_bar(axes, width_m)
    colour_bar = plt.colorbar(shown, ax=axes, fraction=0.046, pad=0.03)
    colour_bar.ax.tick_params(labelsize=7)
    colour_bar.set_label(f"{prefix}{unit}", fontsize=8)


def _slope(values: Floats) -> Floats:
    """Slope toward the upper left, in units of what only one pixel in fifty exceeds."""
    rise = np.gradient(values, axis=1) - np.gradient(values, axis=0)
    return np.asarray(rise / max(float(np.percentile(np.abs(rise), 98.0)), 1e-30))


def _prefix(largest: float) -> tuple[float, str]:
    return next(((s, p) for s, p in _PREFIXES if largest >= s), _PREFIXES[-1])


def scale_bar(axes: Axes, width_m: float) -> None:
    """A bar of a round length, a fifth to a third of the frame."""
    from matplotlib import patheffects

    power = 10.0 ** np.floor(np.log10(width_m / 3.0))
    length = float(power * _STEPS[_STEPS * power <= width_m / 3.0].max())
    outline = [patheffects.withStroke(linewidth=3.0, foreground="black")]
    left, low = 0.06 * width_m, 0.06 * width_m
    style: dict[str, Any] = {"color": "white", "linewidth": 3.0, "solid_capstyle": "butt"}
    edge = [patheffects.withStroke(linewidth=4.6, foreground="black")]
    axes.plot([left, left + length], [low, low], path_effects=edge, **style)
    axes.text(
        left + 0.5 * length,
        low + 0.025 * width_m,
        quantity(length, "m"),
        color="white",
        fontsize=8,
        ha="center",
        va="bottom",
        path_effects=outline,
    )


def marks(axes: Axes, places: list[tuple[float, float]]) -> None:
    """Places of spectra (m from the frame's lower left corner), in the curves' colours."""
    for n, (x, y) in enumerate(places):
        axes.plot(x, y, "o", markersize=6, color=CURVES[n], markeredgecolor="white", markeredgewidth=1.0)


def square(axes: Axes, left_m: float, low_m: float, edge_m: float) -> None:
    """Where another frame lies in this one."""
    x = [left_m, left_m + edge_m, left_m + edge_m, left_m, left_m]
    y = [low_m, low_m, low_m + edge_m, low_m + edge_m, low_m]
    axes.plot(x, y, "-", color="#37d0ff", linewidth=1.3)


def curves(axes: Axes, biases_v: Floats, rows: list[Floats], labels: list[str], apart: float) -> None:
    """dI/dV curves (S), each lifted by ``apart`` of the largest; their zero lines are dotted."""
    largest = max(float(np.percentile(r, 99.5)) for r in rows)
    scale, prefix = _prefix(largest)
    volts, unit = (1e-3, "mV") if float(np.abs(biases_v).max()) < 0.2 else (1.0, "V")
    for n, row in enumerate(rows):
        lift = n * apart * largest / scale
        axes.axhline(lift, color=CURVES[n], linewidth=0.5, linestyle=":")
        axes.plot(biases_v / volts, row / scale + lift, color=CURVES[n], linewidth=1.1, label=labels[n])
    axes.set_xlabel(f"bias ({unit})", fontsize=9)
    axes.set_ylabel(f"dI/dV ({prefix}S)" + (", shifted" if apart and len(rows) > 1 else ""), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_xlim(biases_v.min() / volts, biases_v.max() / volts)
    low, high = axes.get_ylim()
    # Room for the names above the curves.
    axes.set_ylim(low, high + (0.045 * len(rows) + 0.02) * (high - low))
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
