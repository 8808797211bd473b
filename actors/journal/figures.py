"""The pictures of a report, as PNG bytes: maps in nm with colour bars, spectra in mV.

All maps of a window share their axes; measured, predicted and true maps share their colours.  The same data
give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from scipy.spatial import cKDTree

from actors.analysis.levelling import level
from actors.journal.run_data import WindowData, curve
from actors.journal.wording import scale_for
from protocols.messages.campaign import ScalarSection
from protocols.messages.records import DriftMeasured, FrameTaken, WindowOpened

P = ParamSpec("P")

NM = 1e9
DPI = 130
_IMAGE_PIXELS = 240
"""Side of the image of a map whose candidates form no raster."""
INK = "#1d2733"
ACCENT = "#d1344b"
"""The best point, everywhere."""
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


@dataclass(frozen=True)
class MapValues:
    """A map: candidate positions (sample coordinates, m), values, and their raster shape (or empty)."""

    x_m: npt.NDArray[np.float64]
    y_m: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    shape: tuple[int, ...] = ()


def _styled(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Draw in our style, whatever the user's matplotlibrc says, and give the picture as PNG bytes."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> bytes:
        with mpl.rc_context(_RC):
            buffer = io.BytesIO()
            draw(*arguments, **options).savefig(buffer, format="png", metadata={"Software": None})
            return buffer.getvalue()

    return drawn


@_styled
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


@_styled
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


@_styled
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


@_styled
def best_spectra(window: WindowData, section: ScalarSection, count: int = 5) -> Figure:
    """Spectra of the best points over the spread of all (5th to 95th percentile); scalar window shaded."""
    ranked = window.ranked(count)
    names = [section.channel]
    if section.channel != "current" and curve(ranked[0].spectrum.data, "current") is not None:
        names.append("current")
    figure = _figure(4.6 * len(names), 3.5)
    for column, channel in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), column)
        _draw_spectra(axes, window, ranked, channel, section)
        if column == 1:
            axes.legend(loc="best", handlelength=1.4)
    return figure


@_styled
def progress(window: WindowData, name: str, unit: str, sign: int) -> Figure:
    """Left: measured scalars and the best so far.  Right: what the model expected against what came out."""
    figure = _figure(9.2, 3.1)
    _draw_progress(figure.add_subplot(1, 2, 1), window, name, unit, sign)
    _draw_expectation(figure.add_subplot(1, 2, 2), window, name, unit, sign)
    return figure


@_styled
def decision_times(windows: Sequence[WindowData]) -> Figure:
    """Wall seconds of each decision over its index."""
    figure = _figure(9.2, 2.5)
    axes = figure.add_subplot()
    for window in windows:
        axes.plot(
            [d.index + 1 for d in window.decisions],
            [d.seconds for d in window.decisions],
            marker=".",
            markersize=4,
            linewidth=0.9,
            label=f"window {window.opened.index + 1}",
        )
    axes.set_xlabel("decision in its window")
    axes.set_ylabel("time to decide (s)")
    axes.set_ylim(bottom=0)
    if len(windows) > 1:
        axes.legend()
    _tidy(axes)
    return figure


@_styled
def drift(measured: Sequence[tuple[float, DriftMeasured]]) -> Figure:
    """Offset in force after each registration over instrument time; open circles were not believed."""
    figure = _figure(9.2, 2.5)
    axes = figure.add_subplot()
    minutes = [t / 60 for t, _ in measured]
    for letter, colour in (("x", "#2f6db5"), ("y", "#d98324")):
        offset = [getattr(d.transform, f"offset_{letter}_m") * NM for _, d in measured]
        axes.plot(minutes, offset, color=colour, linewidth=1.0, marker="o", markersize=4, label=letter)
    refused = [(t / 60, d.transform.offset_x_m * NM) for t, d in measured if not d.accepted]
    if refused:
        x, y = [t for t, _ in refused], [offset for _, offset in refused]
        axes.scatter(x, y, s=60, facecolors="none", edgecolors=ACCENT, label="not believed")
    axes.axhline(0, color="#c4cad1", linewidth=0.8, zorder=0)
    axes.set_xlabel("instrument time (min)")
    axes.set_ylabel("offset of the sample (nm)")
    axes.legend()
    _tidy(axes)
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


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


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


def _draw_spectra(
    axes: Any, window: WindowData, ranked: Sequence[Any], channel: str, section: ScalarSection
) -> None:
    every = [c for m in window.points if (c := curve(m.spectrum.data, channel)) is not None]
    bias = np.asarray(ranked[0].spectrum.data.bias_v) * 1e3
    same = [c for c in every if c.shape == bias.shape]
    unit = next((c.unit for c in ranked[0].spectrum.data.channels if c.name == channel), "")
    factor, shown = scale_for(np.concatenate(every), unit)
    if channel == section.channel and section.kind != "bandgap":
        axes.axvspan(*(v * 1e3 for v in section.window_v), color="#e8edf2", zorder=0)
    if len(same) > 2:
        low, middle, high = np.nanpercentile(np.stack(same), [5, 50, 95], axis=0) * factor
        axes.fill_between(bias, low, high, color="#b9c2cc", alpha=0.5, linewidth=0, label="5 to 95 % of all")
        axes.plot(bias, middle, color="#6c7681", linewidth=1.0, linestyle="--", label="median of all")
    colours = _colours("plasma", len(ranked))
    for rank, (m, colour) in reversed(list(enumerate(zip(ranked, colours, strict=True), 1))):
        values = curve(m.spectrum.data, channel)
        if values is not None:
            own = np.asarray(m.spectrum.data.bias_v) * 1e3
            axes.plot(
                own, values * factor, color=colour, linewidth=1.6 if rank == 1 else 1.0, label=f"no. {rank}"
            )
    axes.set_xlabel("sample bias (mV)")
    names = {"lockin_x": "lock-in X, dI/dV", "lockin_y": "lock-in Y", "current": "current"}
    axes.set_ylabel(_with_unit(names.get(channel, channel), shown))
    axes.margins(x=0.01)
    _tidy(axes)


def _draw_progress(axes: Any, window: WindowData, name: str, unit: str, sign: int) -> None:
    order = {m.spectrum.job_id: k for k, m in enumerate(window.measurements, 1)}
    index = [order[m.spectrum.job_id] for m in window.points]
    signed = np.array([m.spectrum.scalar for m in window.points])
    factor, shown = scale_for(signed, unit)
    axes.plot(index, sign * signed * factor, ".", color="#6c7681", markersize=5, label="measured")
    axes.step(
        index,
        sign * np.maximum.accumulate(signed) * factor,
        color=ACCENT,
        where="post",
        linewidth=1.3,
        label="best so far",
    )
    seeds = sum(d.kind == "seed" for d in window.decisions)
    if 0 < seeds < len(window.decisions):
        axes.axvspan(0.5, seeds + 0.5, color="#eef1f4", zorder=0, label="space-filling start")
    axes.set_xlabel("spectrum")
    axes.set_ylabel(_with_unit(name, shown))
    axes.legend(loc="best")
    _tidy(axes)


def _draw_expectation(axes: Any, window: WindowData, name: str, unit: str, sign: int) -> None:
    decisions = {
        d.decision: d for d in window.decisions if d.kind != "seed" and np.isfinite([d.mean, d.std]).all()
    }
    pairs = [(decisions[m.spectrum.decision], m) for m in window.points if m.spectrum.decision in decisions]
    axes.set_xlabel("expected before measuring")
    axes.set_ylabel(_with_unit("measured", scale_for([1.0], unit)[1] if not pairs else ""))
    if pairs:
        expected = sign * np.array([d.mean for d, _ in pairs])
        measured = sign * np.array([m.spectrum.scalar for _, m in pairs])
        factor, shown = scale_for(measured, unit)
        axes.errorbar(
            expected * factor,
            measured * factor,
            xerr=np.array([d.std for d, _ in pairs]) * factor,
            fmt=".",
            color="#2f6db5",
            ecolor="#b7cbe3",
            elinewidth=0.9,
            markersize=5,
        )
        ends = np.array([measured.min(), measured.max()]) * factor
        axes.plot(ends, ends, color="#6c7681", linewidth=0.9, linestyle="--", zorder=0)
        axes.set_xlabel(_with_unit("expected before measuring", shown))
        axes.set_ylabel(_with_unit("measured", shown))
    _tidy(axes)


def _bar(figure: Figure, axes: Any, drawn: Any, name: str, unit: str) -> None:
    axes.apply_aspect()
    box = axes.get_position()
    bar = figure.colorbar(drawn, cax=figure.add_axes((box.x1 + 0.02, box.y0, 0.028, box.height)))
    bar.set_label(_with_unit(name, unit), fontsize=8)
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


def _colours(name: str, count: int) -> list[Any]:
    return [mpl.colormaps[name](v) for v in np.linspace(0.05, 0.8, count)]


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _tidy(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3)
