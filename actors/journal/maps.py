"""Maps of a report: topograph with the points, measured, predicted, uncertain and true, all on the same axes.

Measured, predicted and true maps of a window share their colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from scipy.spatial import cKDTree

from actors.analysis.levelling import level
from actors.journal.figure_style import ACCENT, DPI, NM, styled, with_unit
from actors.journal.run_data import WindowData
from actors.journal.wording import scale_for
from protocols.messages.records import FrameTaken, WindowOpened

_IMAGE_PIXELS = 240
"""Side of the image of a map whose candidates form no raster."""


@dataclass(frozen=True)
class MapValues:
    """A map: candidate positions (sample coordinates, m), values, and their raster shape (or empty)."""

    x_m: npt.NDArray[np.float64]
    y_m: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    shape: tuple[int, ...] = ()


@styled
def topograph(window: WindowData) -> Figure:
    """The survey frame (plane taken out) with the points in order of measurement and the best one ringed."""
    figure, axes = _map_axes(window.opened, "Topograph")
    if window.survey is not None:
        _draw_topograph(figure, axes, window.survey)
    points = window.measurements
    x = [m.spectrum.sample_x_m * NM for m in points]
    y = [m.spectrum.sample_y_m * NM for m in points]
    size = 26 if len(points) <= 80 else 15
    dots = axes.scatter(
        x, y, c=range(1, len(points) + 1), s=size, cmap="plasma", edgecolors="white", linewidths=0.5, zorder=3
    )
    if points:
        bar = figure.colorbar(dots, cax=figure.add_axes((0.52, 0.945, 0.28, 0.022)), orientation="horizontal")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7.5, length=2, pad=1)
        bar.set_ticks([1, len(points)] if len(points) > 1 else [1])
        figure.text(0.505, 0.956, "order", fontsize=8, ha="right", va="center")
    _mark_best(axes, window)
    return figure


@styled
def measured_map(window: WindowData, name: str, unit: str, sign: int, limits: tuple[float, float]) -> Figure:
    """The measured scalar at each point that counts; crosses where the spectrum did not."""
    figure, axes = _map_axes(window.opened, "Measured")
    points, lost = window.points, [m for m in window.measurements if not m.counts]
    values = sign * np.array([m.spectrum.scalar for m in points])
    factor, shown = scale_for(limits, unit)
    dots = axes.scatter(
        [m.spectrum.sample_x_m * NM for m in points],
        [m.spectrum.sample_y_m * NM for m in points],
        c=values * factor,
        s=34 if len(points) <= 80 else 20,
        cmap="viridis",
        vmin=limits[0] * factor,
        vmax=limits[1] * factor,
        edgecolors="#5b6570",
        linewidths=0.3,
    )
    axes.scatter(
        [m.spectrum.sample_x_m * NM for m in lost],
        [m.spectrum.sample_y_m * NM for m in lost],
        marker="x",
        color="#8a94a0",
        s=18,
        linewidths=0.9,
    )
    _bar(figure, axes, dots, name, shown)
    _mark_best(axes, window)
    return figure


@styled
def value_map(
    window: WindowData,
    title: str,
    values: MapValues,
    name: str,
    unit: str,
    limits: tuple[float, float],
    colours: str = "viridis",
    points: bool = True,
) -> Figure:
    """A map over all candidates (predicted, uncertainty, truth), with the measured points as small dots."""
    figure, axes = _map_axes(window.opened, title)
    factor, shown = scale_for(limits, unit)
    style: dict[str, Any] = {"cmap": colours, "vmin": limits[0] * factor, "vmax": limits[1] * factor}
    x, y, z = values.x_m.ravel() * NM, values.y_m.ravel() * NM, values.values.ravel() * factor
    if len(values.shape) == 2 and np.prod(values.shape) == z.size and min(values.shape) > 1:
        drawn = axes.pcolormesh(
            *(a.reshape(values.shape) for a in (x, y, z)), shading="nearest", rasterized=True, **style
        )
    else:
        extent = (*axes.get_xlim(), *axes.get_ylim())
        image = _nearest(window.opened, extent, x, y, z)
        drawn = axes.imshow(image, origin="lower", extent=extent, aspect="auto", **style)
        axes.set_aspect("equal", anchor="N")
    if points:
        axes.scatter(
            [m.spectrum.sample_x_m * NM for m in window.points],
            [m.spectrum.sample_y_m * NM for m in window.points],
            s=5,
            color="white",
            edgecolors="black",
            linewidths=0.3,
        )
    _bar(figure, axes, drawn, name, shown)
    _mark_best(axes, window)
    return figure


def map_limits(window: WindowData, maps: Sequence[MapValues], sign: int) -> tuple[float, float]:
    """Common colour limits of measured, predicted and true maps."""
    everything = [
        sign * np.array([m.spectrum.scalar for m in window.points]),
        *(m.values.ravel() for m in maps),
    ]
    data = np.concatenate(everything)
    data = data[np.isfinite(data)]
    if not data.size:
        return 0.0, 1.0
    low, high = float(data.min()), float(data.max())
    return (low, high) if high > low else (low - 0.5 * abs(low) - 1e-30, high + 0.5 * abs(high) + 1e-30)


def _map_axes(window: WindowOpened, title: str) -> tuple[Figure, Any]:
    """A figure whose map lies at the same place for every map, under a band for the title."""
    figure = Figure(figsize=(4.3, 3.8), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.125, 0.956, title, fontsize=10.5, fontweight="bold", va="center")
    axes = figure.add_axes((0.125, 0.12, 0.685, 0.785))
    half = [window.width_m * NM / 2, window.height_m * NM / 2]
    c, s = abs(np.cos(window.angle_rad)), abs(np.sin(window.angle_rad))
    reach_x, reach_y = c * half[0] + s * half[1], s * half[0] + c * half[1]
    axes.set_xlim(window.centre_x_m * NM - reach_x, window.centre_x_m * NM + reach_x)
    axes.set_ylim(window.centre_y_m * NM - reach_y, window.centre_y_m * NM + reach_y)
    axes.set_aspect("equal", anchor="N")
    axes.set_xlabel("x (nm)")
    axes.set_ylabel("y (nm)", labelpad=1)
    axes.tick_params(length=3)
    return figure, axes


def _draw_topograph(figure: Figure, axes: Any, frame: FrameTaken) -> None:
    image = next((i for i in frame.images if i.channel == "z"), frame.images[0] if frame.images else None)
    if image is None or not np.isfinite(np.asarray(image.values[0], dtype=float)).any():
        return
    z = level(image.values[0], "plane")
    factor, unit = scale_for(np.percentile(z - z.min(), [99]), image.unit)
    z = (z - z.min()) * factor
    low, high = np.percentile(z, [0.5, 99.5])
    x, y = frame.centre_x_m * NM, frame.centre_y_m * NM
    w, h = frame.width_m * NM / 2, frame.height_m * NM / 2
    turned = Affine2D().rotate_around(x, y, frame.angle_rad) + axes.transData
    limits = axes.get_xlim(), axes.get_ylim()
    drawn = axes.imshow(
        z,
        origin="lower",
        extent=(x - w, x + w, y - h, y + h),
        cmap="gray",
        vmin=low,
        vmax=high,
        transform=turned,
    )
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    _bar(figure, axes, drawn, "height" if image.channel == "z" else image.channel, unit)


def _bar(figure: Figure, axes: Any, drawn: Any, name: str, unit: str) -> None:
    axes.apply_aspect()
    box = axes.get_position()
    bar = figure.colorbar(drawn, cax=figure.add_axes((box.x1 + 0.02, box.y0, 0.028, box.height)))
    bar.set_label(with_unit(name, unit), fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)


def _mark_best(axes: Any, window: WindowData) -> None:
    if (best := window.best) is not None:
        x, y = best.spectrum.sample_x_m * NM, best.spectrum.sample_y_m * NM
        axes.scatter([x], [y], s=150, facecolors="none", edgecolors="white", linewidths=3.0, zorder=4)
        axes.scatter([x], [y], s=150, facecolors="none", edgecolors=ACCENT, linewidths=1.6, zorder=5)


def _nearest(
    window: WindowOpened,
    extent: tuple[float, ...],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    z: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """An image over ``extent`` (nm): each pixel of the window has the value of the nearest candidate."""
    across, up = (
        a.ravel()
        for a in np.meshgrid(
            np.linspace(extent[0], extent[1], _IMAGE_PIXELS), np.linspace(extent[2], extent[3], _IMAGE_PIXELS)
        )
    )
    _, nearest = cKDTree(np.stack([x, y], axis=1)).query(np.stack([across, up], axis=1))
    image = z[nearest].astype(float)
    dx, dy = across - window.centre_x_m * NM, up - window.centre_y_m * NM
    c, s = np.cos(window.angle_rad), np.sin(window.angle_rad)
    outside = np.abs(c * dx + s * dy) > window.width_m * NM / 2
    outside |= np.abs(c * dy - s * dx) > window.height_m * NM / 2
    image[outside & ~np.isclose(window.angle_rad, 0)] = np.nan
    return image.reshape(_IMAGE_PIXELS, _IMAGE_PIXELS)
