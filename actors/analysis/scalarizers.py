"""From a spectrum to the one number that is sought: integral, ratio, bandgap, onset.

Always the number to *maximise*: the section's ``sign`` is applied here and nowhere else.  Sources:
Narasimha et al., "Multiscale structure-property discovery via active learning in STM" (integrals, eq. 2
for the ratio, Methods for the bandgap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from protocols.messages.campaign import ScalarSection
from protocols.messages.data import Channel, SweepData

_EDGE_FRACTION = 0.5
"""Rising threshold of a band edge as a share of the side's largest conductance, if the campaign names
none."""
_FOOT_FRACTION = 0.2
"""Where the rising side begins, as a share of the threshold."""
_MIN_FIT_POINTS = 3

STANDS_OUT = 5.0
"""A point is a find when its scalar exceeds the background by so many of the background's own spreads."""


@dataclass(frozen=True)
class Scalar:
    """The number of a spectrum.  ``value`` is sign * ``raw`` (the number to maximise), NaN if the spectrum
    gives none.

    ``unit`` is the unit of both.  ``reason`` says why there is no value, or what limits a finite one;
    else "".
    """

    value: float
    raw: float
    unit: str
    reason: str = ""


def scalar_of(data: SweepData, section: ScalarSection) -> Scalar:
    """The scalar of a finished spectrum: its channel is averaged over repeats and directions first."""
    channel = next((c for c in data.channels if c.name == section.channel), None)
    if channel is None:
        names = ", ".join(c.name for c in data.channels) or "none"
        return Scalar(
            math.nan, math.nan, "", f"the spectrum has no channel {section.channel!r} (it has: {names})"
        )
    return scalarize(data.bias_v, mean_curve(channel), section, channel.unit)


def mean_curve(channel: Channel) -> npt.NDArray[np.float64]:
    """Mean over repeats and directions, shape (points,).  A sample missing (NaN) in one of them is taken
    from the others."""
    values = np.asarray(channel.values, dtype=float)
    flat = values.reshape(-1, values.shape[-1])
    finite = np.isfinite(flat)
    count = finite.sum(axis=0)
    total = np.where(finite, flat, 0.0).sum(axis=0)
    result: npt.NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return result


def scalarize(bias_v: npt.ArrayLike, y: npt.ArrayLike, section: ScalarSection, unit: str = "") -> Scalar:
    """The scalar of one curve.

    Args:
        bias_v: shape (points,), V, in any order.
        y: shape (points,), the channel's values in ``unit``.
        section: what is sought.
        unit: SI unit of ``y``.
    """
    bias, values = _sorted(bias_v, y)
    match section.kind:
        case "integral":
            raw, reason = _integral(bias, values, section.window_v)
            of = f"{unit} V".strip()
        case "ratio":
            raw, reason = _ratio(bias, values, section)
            of = "1"
        case "bandgap":
            raw, reason = _bandgap(bias, values, section)
            of = "V"
        case "onset":
            raw, reason = _onset(bias, values, section)
            of = "V"
    return Scalar(section.sign * raw, raw, of, reason)


def integrate(bias_v: npt.ArrayLike, y: npt.ArrayLike, window_v: tuple[float, float]) -> float:
    """Integral of ``y`` over the bias window (trapezoid, values at the exact window ends interpolated).

    NaN where the window reaches beyond the swept range or holds a sample that is not finite.
    """
    bias, values = _sorted(bias_v, y)
    return _integral(bias, values, window_v)[0]


def _sorted(
    bias_v: npt.ArrayLike, y: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    bias = np.asarray(bias_v, dtype=float)
    values = np.asarray(y, dtype=float)
    order = np.argsort(bias, kind="stable")
    return bias[order], values[order]


def _integral(
    bias: npt.NDArray[np.float64], values: npt.NDArray[np.float64], window_v: tuple[float, float]
) -> tuple[float, str]:
    low, high = min(window_v), max(window_v)
    if bias.size < 2:
        return math.nan, "the spectrum has fewer than two points"
    slack = 1e-6 * float(bias[-1] - bias[0])  # a window end that equals a sweep end up to float32 rounding
    if low < bias[0] - slack or high > bias[-1] + slack:
        return math.nan, (
            f"the window {low:g} to {high:g} V reaches beyond the sweep ({bias[0]:g} to {bias[-1]:g} V)"
        )
    low, high = max(low, float(bias[0])), min(high, float(bias[-1]))
    inside = (bias > low) & (bias < high)
    grid = np.concatenate([[low], bias[inside], [high]])
    ends = np.interp([low, high], bias, values)
    heights = np.concatenate([[ends[0]], values[inside], [ends[1]]])
    if not np.isfinite(heights).all():
        return math.nan, f"the spectrum has samples without a value between {low:g} and {high:g} V"
    return float(np.trapezoid(heights, grid)), ""


def _ratio(
    bias: npt.NDArray[np.float64], values: npt.NDArray[np.float64], section: ScalarSection
) -> tuple[float, str]:
    """Equation 2 of Narasimha et al.: integral over the window / integral over the reference window."""
    part, reason = _integral(bias, values, section.window_v)
    if reason:
        return math.nan, reason
    whole, reason = _integral(bias, values, section.reference_v)
    if reason:
        return math.nan, reason
    span = abs(section.reference_v[1] - section.reference_v[0])
    if whole <= 1e-12 * span * float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0)):
        return math.nan, (
            f"the reference integral is {whole:.3g}, not positive: the ratio would mean nothing"
        )
    return part / whole, ""


def _onset(
    bias: npt.NDArray[np.float64], values: npt.NDArray[np.float64], section: ScalarSection
) -> tuple[float, str]:
    """Bias at which |channel| first exceeds the threshold on the way from window_v[0] to window_v[1]."""
    start, end = section.window_v
    low, high = min(start, end), max(start, end)
    inside = (bias >= low) & (bias <= high)
    v, g = bias[inside], np.abs(values[inside])
    if end < start:
        v, g = v[::-1], g[::-1]
    if v.size < 2:
        return math.nan, f"fewer than two samples between {low:g} and {high:g} V"
    above = np.flatnonzero(np.where(np.isfinite(g), g, -np.inf) > section.threshold)
    if above.size == 0:
        return math.nan, f"|{section.channel}| never exceeds {section.threshold:g}"
    first = int(above[0])
    if not np.isfinite(g[: first + 1]).all():
        return math.nan, "samples without a value before the onset"
    if first == 0:
        return float(v[0]), "already above the threshold where the window begins: the onset is at most this"
    fraction = (section.threshold - g[first - 1]) / (g[first] - g[first - 1])
    return float(v[first - 1] + fraction * (v[first] - v[first - 1])), ""


def _bandgap(
    bias: npt.NDArray[np.float64], values: npt.NDArray[np.float64], section: ScalarSection
) -> tuple[float, str]:
    """Methods of Narasimha et al.: a line is fitted to the rising side of dI/dV on either side of zero
    bias up to a threshold; its x-intercepts are the band edges, and their distance is the gap."""
    edges = []
    for name, side in (("conduction", 1.0), ("valence", -1.0)):
        part = side * bias > 0.0
        v, g = side * bias[part], values[part]
        order = np.argsort(v)
        edge, reason = _band_edge(v[order], g[order], section.threshold)
        if reason:
            return math.nan, f"no {name} band edge: {reason}"
        edges.append(edge)
    return edges[0] + edges[1], ""


def _band_edge(v: npt.NDArray[np.float64], g: npt.NDArray[np.float64], threshold: float) -> tuple[float, str]:
    """x-intercept (V, from 0 outward) of the line through the rising side of ``g``; 0 where the states
    begin at 0."""
    finite = np.isfinite(g)
    if finite.sum() < 2 * _MIN_FIT_POINTS:
        return math.nan, "too few samples"
    v, g = v[finite], g[finite]
    smooth = np.convolve(np.pad(g, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    top = threshold if threshold > 0.0 else _EDGE_FRACTION * float(smooth.max())
    above = np.flatnonzero(smooth >= top)
    if top <= 0.0 or above.size == 0:
        return math.nan, f"the conductance never rises to {top:.3g}"
    last = int(above[0])
    below = np.flatnonzero(smooth[: last + 1] < _FOOT_FRACTION * top)
    first = int(below[-1]) if below.size else 0
    first = max(0, min(first, last - _MIN_FIT_POINTS + 1))
    last = min(max(last, first + _MIN_FIT_POINTS - 1), v.size - 1)
    slope, intercept = np.polyfit(v[first : last + 1], g[first : last + 1], 1)
    if not slope > 0.0:
        return math.nan, "the conductance does not rise there"
    return float(min(max(-intercept / slope, 0.0), v[last])), ""


@dataclass(frozen=True)
class Background:
    """Level and spread (robust standard deviation) of the scalar where nothing special is."""

    level: float
    spread: float

    def significance(self, value: float) -> float:
        """By how many spreads a value exceeds the level."""
        return (value - self.level) / self.spread


def background_of(values: Sequence[float]) -> Background:
    """Median, and the spread of the lower half about it: finds above do not widen it.

    Raises:
        UsageError: there is no finite value.
    """
    data = np.asarray(values, dtype=float)
    data = data[np.isfinite(data)]
    if data.size == 0:
        raise UsageError("no spectrum has a scalar: there is no background to compare with")
    level = float(np.median(data))
    below = level - data[data <= level]
    spread = 1.4826 * float(np.median(below))
    floor = max(1e-3 * abs(level), 1e-12 * float(np.ptp(data)), 1e-300)
    return Background(level, max(spread, floor))
