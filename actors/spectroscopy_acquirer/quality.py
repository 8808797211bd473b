"""Is this spectrum a measurement?  Checks on one sweep, each with its figure, its threshold and its weight.

Every check has a name (the one that ``SpectrumTaken.quality`` carries) and a severity from the options:
"invalid" (the spectrum gives no data point), "warning" (it does, and the flag stays on it) or "ignore".  By
default a clipped lock-in only warns: its scalar may well lie outside the clipped part.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.ndimage

from protocols.messages.data import SweepData
from protocols.messages.recipes import SpectrumRecipe

FloatArray = npt.NDArray[np.float64]
Severity: TypeAlias = Literal["invalid", "warning", "ignore"]

SATURATED = "saturated"
LOCKIN_CLIPPED = "lock-in clipped"
HYSTERESIS = "hysteresis"
NOT_FINITE = "not finite"
TOO_FEW_POINTS = "too few points"
JUMP = "jump"
NO_CURRENT = "no current"
NO_SIGNAL = "no signal"
BIAS_AXIS = "bias axis"
CHANNELS = "channels"

DEFAULT_SEVERITIES: dict[str, Severity] = {
    SATURATED: "invalid",
    LOCKIN_CLIPPED: "warning",
    HYSTERESIS: "invalid",
    NOT_FINITE: "invalid",
    TOO_FEW_POINTS: "invalid",
    JUMP: "invalid",
    NO_CURRENT: "invalid",
    NO_SIGNAL: "invalid",
    BIAS_AXIS: "invalid",
    CHANNELS: "invalid",
}
NOISE_WINDOW = 21
"""Second differences from which the noise at a point is estimated."""
TYPICAL_DECAY_PER_M = 2.2e10
"""Twice the decay constant of a 4.5 eV barrier (1/m): one decade of current per 0.105 nm."""


class QualityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of the checks; what they mean stands beside each."""

    severities: dict[str, Severity] = {}
    """Overrides of DEFAULT_SEVERITIES by name of the check."""
    current_rail_a: float = 1e-8
    """The preamplifier's rail (A)."""
    lockin_rail: float = 10.0
    """The lock-in output's rail, in the unit of its channel (V for a Nanonis output)."""
    rail_share: float = 0.995
    """A sample beyond this share of a rail is at the rail."""
    rail_samples: int = 2
    """So many samples at a rail are saturation; one alone may be a spike."""
    hysteresis: float = 0.3
    """Largest forward/backward disagreement beyond noise, over the spectrum's standard deviation."""
    minimum_points: int = 8
    missing_share: float = 0.0
    """Largest share of samples that may be NaN or infinite."""
    jump_sigma: float = 12.0
    """A step between neighbours counts if it exceeds so many noise deviations..."""
    jump_share: float = 0.25
    """...and this share of the spectrum's range."""
    no_current_share: float = 0.01
    """Where the sweep passes near the stabilisation bias, the current must reach this share of what the
    setpoint and the Z offset make one expect there."""
    channels: tuple[str, ...] = ("current", "lockin_x")
    """Channels that the checks on shape (hysteresis, jump, no signal) look at, where present."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict on one sweep.  ``failed`` names every check that failed; ``invalid`` those that disqualify."""

    valid: bool
    failed: tuple[str, ...]
    invalid: tuple[str, ...]
    warnings: tuple[str, ...]
    figures: dict[str, float]
    """What was measured, by "check" or "check channel"."""
    note: str
    """One sentence for people; empty when nothing failed."""


def check_spectrum(data: SweepData, recipe: SpectrumRecipe, options: QualityOptions | None = None) -> Quality:
    """Apply every check to one sweep.  Arrays as in SweepData: (repeats, directions, points)."""
    options = options if options is not None else QualityOptions()
    found: dict[str, str] = {}
    figures: dict[str, float] = {}
    bias = np.asarray(data.bias_v, dtype=np.float64)
    _check_shape(data, bias, recipe, options, found)
    channels = {
        c.name: np.asarray(c.values, dtype=np.float64)
        for c in data.channels
        if np.ndim(c.values) == 3 and np.shape(c.values)[2] == bias.size
    }
    _check_rails(data, channels, options, found, figures)
    _check_finite(data, channels, options, found, figures)
    if bias.size >= options.minimum_points:
        for name in options.channels:
            if name in channels and SATURATED not in found:
                _check_form(name, channels[name], options, found, figures)
        if "current" in channels:
            _check_current(channels["current"], bias, recipe, options, found, figures)
    return _verdict(found, figures, options)


def _verdict(found: dict[str, str], figures: dict[str, float], options: QualityOptions) -> Quality:
    severity = {**DEFAULT_SEVERITIES, **options.severities}
    failed = tuple(name for name in found if severity[name] != "ignore")
    invalid = tuple(name for name in failed if severity[name] == "invalid")
    return Quality(
        valid=not invalid,
        failed=failed,
        invalid=invalid,
        warnings=tuple(name for name in failed if severity[name] == "warning"),
        figures=figures,
        note="; ".join(f"{name}: {found[name]}" for name in failed),
    )


def _check_shape(
    data: SweepData, bias: FloatArray, recipe: SpectrumRecipe, options: QualityOptions, found: dict[str, str]
) -> None:
    """Number of points, the bias axis, and the shape of every channel."""
    if bias.size < options.minimum_points:
        found[TOO_FEW_POINTS] = f"{bias.size}, at least {options.minimum_points} needed"
    asked = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
    if bias.ndim != 1 or bias.size != asked.size:
        found[BIAS_AXIS] = f"{bias.size} points, {asked.size} asked for"
    elif bias.size > 1:
        step = abs(asked[1] - asked[0])
        worst = float(np.max(np.abs(bias - asked))) if np.isfinite(bias).all() else math.inf
        if not worst <= step / 2:
            found[BIAS_AXIS] = f"off by up to {worst:.3g} V, more than half a step"
    directions = 2 if recipe.backward else 1
    expected = (recipe.repeats, directions, bias.size)
    wrong = [f"{c.name} {np.shape(c.values)}" for c in data.channels if np.shape(c.values) != expected]
    if wrong or not data.channels:
        found[CHANNELS] = f"{', '.join(wrong) or 'none'}; expected shape {expected}"


def _check_rails(
    data: SweepData,
    channels: dict[str, FloatArray],
    options: QualityOptions,
    found: dict[str, str],
    figures: dict[str, float],
) -> None:
    """Preamplifier and lock-in at their rails."""
    if "current" in channels:
        count = _at_rail(channels["current"], options.current_rail_a * options.rail_share)
        figures["saturated samples"] = float(count)
        if count >= options.rail_samples:
            found[SATURATED] = f"{count} samples at the preamplifier's rail"
    if data.saturated:
        found[SATURATED] = "the preamplifier was at its rail and the sweep was ended"
    clipped = {
        name: _at_rail(values, options.lockin_rail * options.rail_share)
        for name, values in channels.items()
        if name.startswith("lockin")
    }
    if clipped:
        figures["clipped samples"] = float(max(clipped.values()))
    bad = [f"{n} samples of {name}" for name, n in clipped.items() if n >= options.rail_samples]
    if bad:
        found[LOCKIN_CLIPPED] = ", ".join(bad)


def _at_rail(values: FloatArray, rail: float) -> int:
    return int(np.count_nonzero(np.abs(values) >= rail))  # NaN compares as false


def _check_finite(
    data: SweepData,
    channels: dict[str, FloatArray],
    options: QualityOptions,
    found: dict[str, str],
    figures: dict[str, float],
) -> None:
    for name, values in channels.items():
        share = float(np.mean(~np.isfinite(values))) if values.size else 1.0
        figures[f"missing {name}"] = share
        if share > options.missing_share and not (data.saturated and share < 1.0):
            found[NOT_FINITE] = f"{share:.1%} of {name}"


def _check_form(
    name: str, values: FloatArray, options: QualityOptions, found: dict[str, str], figures: dict[str, float]
) -> None:
    """Signal at all, forward against backward, and steps within a sweep."""
    if not np.isfinite(values).all():
        return
    mean = values.mean(axis=0)
    spread = float(np.std(mean))
    if not spread > 1e-9 * float(np.max(np.abs(mean), initial=0.0)):
        found[NO_SIGNAL] = f"{name} is constant"
        return
    if values.shape[1] == 2:
        figure = _hysteresis(mean[0], mean[1])
        figures[f"hysteresis {name}"] = figure
        if figure > options.hysteresis:
            found[HYSTERESIS] = f"forward and backward {name} differ by {figure:.0%}"
    worst, at = max(
        (_jump(sweep, options.jump_sigma) for repeat in values for sweep in repeat),
        key=lambda found_jump: found_jump[0],
    )
    figures[f"jump {name}"] = worst
    if worst > options.jump_share:
        found[JUMP] = f"{name} steps by {worst:.0%} of its range at point {at}"


def _noise_variance(sweep: FloatArray) -> FloatArray:
    """Variance of white noise at every point of a smooth curve: from second differences, robust.

    It is local, because a lock-in's noise grows with the current: at a few hundred pA it may be a hundred
    times that about 0 V.
    """
    squares = np.diff(sweep, 2) ** 2
    width = min(NOISE_WINDOW, squares.size)
    # The median of squared normal deviates is 0.455 of their variance; a second difference has 6 of them.
    local = scipy.ndimage.median_filter(squares, size=width, mode="nearest") / (0.455 * 6.0)
    variance: FloatArray = np.pad(local, 1, mode="edge")
    return variance


def _hysteresis(forward: FloatArray, backward: FloatArray) -> float:
    """Root mean square of forward minus backward beyond noise, over the mean curve's deviation."""
    variance = _noise_variance(forward) + _noise_variance(backward)
    noise = float(np.mean(variance))
    # Where a few points carry most of the noise, its mean square scatters as much as so few points let it.
    points = float(np.sum(variance)) ** 2 / max(float(np.sum(variance**2)), 1e-300)
    chance = 3.0 * math.sqrt(2.0 / max(points, 1.0))
    excess = max(float(np.mean((forward - backward) ** 2)) - noise * (1.0 + chance), 0.0)
    spread = float(np.std((forward + backward) / 2))
    return math.sqrt(excess) / max(spread, 3 * math.sqrt(noise), 1e-300)


def _jump(sweep: FloatArray, sigma: float) -> tuple[float, int]:
    """Largest lasting step between neighbours that slopes around it do not explain: (share of range, where).

    The level is compared over three points on each side, extrapolated along each side's own slope, so that
    neither a spike nor a steep onset counts.
    """
    n = 4
    if sweep.size < 4 * n:
        return 0.0, 0
    noise = np.sqrt(_noise_variance(sweep))
    around = scipy.ndimage.maximum_filter1d(noise, 2 * n + 1)[n - 1 : n - 1 + sweep.size - 2 * n + 1]
    spread = float(np.ptp(sweep))
    # Straight line through n points, read half a step beyond its end: weights by least squares.
    k = np.arange(n, dtype=np.float64)
    design = np.stack([np.ones(n), k], axis=1)
    ahead = np.array([1.0, n - 0.5]) @ np.linalg.pinv(design)
    left = np.convolve(sweep, ahead[::-1], mode="valid")[:-n]
    right = np.convolve(sweep, ahead, mode="valid")[n:]
    step = np.abs(right - left)
    bend = np.maximum(_line_misfit(sweep, n)[:-n], _line_misfit(sweep, n)[n:])
    sharp = np.abs(np.diff(sweep))[n - 1 : n - 1 + step.size]
    real = (step > sigma * around) & (step > 6 * bend) & (sharp > 0.6 * step)
    if not real.any() or spread == 0.0:
        return 0.0, 0
    at = int(np.argmax(np.where(real, step, 0.0)))
    return float(step[at]) / spread, at + n


def _line_misfit(sweep: FloatArray, n: int) -> FloatArray:
    """Root mean square deviation of every n neighbours from a straight line; length size - n + 1."""
    k = np.arange(n, dtype=np.float64)
    design = np.stack([np.ones(n), k], axis=1)
    away = np.eye(n) - design @ np.linalg.pinv(design)
    windows = np.lib.stride_tricks.sliding_window_view(sweep, n)
    misfit: FloatArray = np.sqrt(np.mean((windows @ away.T) ** 2, axis=1))
    return misfit


def _check_current(
    values: FloatArray,
    bias: FloatArray,
    recipe: SpectrumRecipe,
    options: QualityOptions,
    found: dict[str, str],
    figures: dict[str, float],
) -> None:
    """Whether the tip tunnels: the current near the stabilisation bias is about the setpoint."""
    near = (bias * np.sign(recipe.stabilise_bias_v) >= 0.8 * abs(recipe.stabilise_bias_v)) & np.isfinite(bias)
    if not near.any():
        return
    seen = np.abs(values[..., near])
    seen = seen[np.isfinite(seen)]
    if not seen.size:
        return
    # A median over three neighbours so that a single spike is no current.
    largest = float(np.max(scipy.ndimage.median_filter(seen, size=3, mode="nearest")))
    expected = recipe.stabilise_current_a * math.exp(-TYPICAL_DECAY_PER_M * recipe.z_offset_m)
    expected = min(expected, options.current_rail_a)
    share = largest / expected if expected > 0 else math.inf
    figures["current share"] = share
    if share < options.no_current_share:
        found[NO_CURRENT] = f"{largest:.2g} A near the stabilisation bias, about {expected:.2g} A expected"
