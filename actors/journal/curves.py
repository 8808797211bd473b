"""Curves of a report: spectra of the best points, progress of a window, decision times, drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from actors.journal.figure_style import (
    ACCENT,
    BLUE,
    NM,
    ORANGE,
    QUIET,
    colours,
    new_figure,
    styled,
    tidy,
    with_unit,
)
from actors.journal.run_data import WindowData, curve
from actors.journal.wording import scale_for
from protocols.messages.campaign import ScalarSection
from protocols.messages.records import DriftMeasured


@styled
def best_spectra(window: WindowData, section: ScalarSection, count: int = 5) -> Figure:
    """Spectra of the best points over the spread of all (5th to 95th percentile); scalar window shaded."""
    ranked = window.ranked(count)
    names = [section.channel]
    if section.channel != "current" and curve(ranked[0].spectrum.data, "current") is not None:
        names.append("current")
    figure = new_figure(4.6 * len(names), 3.5)
    for column, channel in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), column)
        _draw_spectra(axes, window, ranked, channel, section)
        if column == 1:
            axes.legend(loc="best", handlelength=1.4)
    return figure


@styled
def progress(window: WindowData, name: str, unit: str, sign: int) -> Figure:
    """Left: measured scalars and the best so far.  Right: what the model expected against what came out."""
    figure = new_figure(9.2, 3.1)
    _draw_progress(figure.add_subplot(1, 2, 1), window, name, unit, sign)
    _draw_expectation(figure.add_subplot(1, 2, 2), window, name, unit, sign)
    return figure


@styled
def decision_times(windows: Sequence[WindowData]) -> Figure:
    """Wall seconds of each decision over its index."""
    figure = new_figure(9.2, 2.5)
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
    tidy(axes)
    return figure


@styled
def drift(measured: Sequence[tuple[float, DriftMeasured]]) -> Figure:
    """Offset in force after each registration over instrument time; open circles were not believed."""
    figure = new_figure(9.2, 2.5)
    axes = figure.add_subplot()
    minutes = [t / 60 for t, _ in measured]
    for letter, colour in (("x", BLUE), ("y", ORANGE)):
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
    tidy(axes)
    return figure


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
        axes.plot(bias, middle, color=QUIET, linewidth=1.0, linestyle="--", label="median of all")
    shades = colours("plasma", len(ranked))
    for rank, (m, colour) in reversed(list(enumerate(zip(ranked, shades, strict=True), 1))):
        values = curve(m.spectrum.data, channel)
        if values is not None:
            own = np.asarray(m.spectrum.data.bias_v) * 1e3
            axes.plot(
                own, values * factor, color=colour, linewidth=1.6 if rank == 1 else 1.0, label=f"no. {rank}"
            )
    axes.set_xlabel("sample bias (mV)")
    names = {"lockin_x": "lock-in X, dI/dV", "lockin_y": "lock-in Y", "current": "current"}
    axes.set_ylabel(with_unit(names.get(channel, channel), shown))
    axes.margins(x=0.01)
    tidy(axes)


def _draw_progress(axes: Any, window: WindowData, name: str, unit: str, sign: int) -> None:
    order = {m.spectrum.job_id: k for k, m in enumerate(window.measurements, 1)}
    index = [order[m.spectrum.job_id] for m in window.points]
    signed = np.array([m.spectrum.scalar for m in window.points])
    factor, shown = scale_for(signed, unit)
    axes.plot(index, sign * signed * factor, ".", color=QUIET, markersize=5, label="measured")
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
    axes.set_ylabel(with_unit(name, shown))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)
    tidy(axes)


def _draw_expectation(axes: Any, window: WindowData, name: str, unit: str, sign: int) -> None:
    decisions = {
        d.decision: d for d in window.decisions if d.kind != "seed" and np.isfinite([d.mean, d.std]).all()
    }
    pairs = [(decisions[m.spectrum.decision], m) for m in window.points if m.spectrum.decision in decisions]
    axes.set_xlabel("expected before measuring")
    axes.set_ylabel(with_unit("measured", scale_for([1.0], unit)[1] if not pairs else ""))
    if pairs:
        expected = sign * np.array([d.mean for d, _ in pairs])
        measured = sign * np.array([m.spectrum.scalar for _, m in pairs])
        factor, shown = scale_for(measured, unit)
        axes.errorbar(
            expected * factor,
            measured * factor,
            xerr=np.array([d.std for d, _ in pairs]) * factor,
            fmt=".",
            color=BLUE,
            ecolor="#b7cbe3",
            elinewidth=0.9,
            markersize=5,
        )
        ends = np.array([measured.min(), measured.max()]) * factor
        axes.plot(ends, ends, color=QUIET, linewidth=0.9, linestyle="--", zorder=0)
        axes.set_xlabel(with_unit("expected before measuring", shown))
        axes.set_ylabel(with_unit("measured", shown))
    tidy(axes)
