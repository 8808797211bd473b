"""Is a frame fit to be planned on and registered?  Lines lost, streaks, crash-like steps, both directions.

A lasting offset between lines may be a terrace edge along the fast axis and is no fault; a line that leaves
both of its neighbours and comes back is.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.ndimage

from actors.analysis.registration import remove_plane
from protocols.messages.recipes import Frame
from protocols.messages.records import FrameImage

Verdict: TypeAlias = Literal["good", "bad"]


class FrameQualityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of the checks."""

    bad_lines_share: float = 0.1
    """Largest share of lines that may be missing, lost or streaked."""
    lost_share: float = 0.1
    """A pixel whose |current| is below this share of the setpoint has lost the surface..."""
    crash_factor: float = 10.0
    """...and one above so many setpoints touches it."""
    line_share: float = 0.25
    """A line is lost (or in contact) when this share of its pixels is."""
    streak_sigma: float = 8.0
    """A streak leaves both neighbours by so many robust deviations of lines."""
    crash_step_m: float = 2e-9
    """A lasting step of Z between two lines beyond this is a crash or a fall, not a terrace (m)."""
    minimum_correlation: float = 0.5
    """Least correlation of forward and backward, where there is more than noise to correlate."""
    flat_m: float = 5e-12
    """A frame with less scatter than this after plane removal is flat: its directions need not agree (m)."""


class FrameQuality(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict with its reason and figures; ``note`` also says what is odd about a good frame."""

    verdict: Verdict
    note: str
    figures: dict[str, float]


def check_frame(
    images: tuple[FrameImage, ...], recipe: Frame, options: FrameQualityOptions | None = None
) -> FrameQuality:
    """Judge a frame by its "z" and, where present, "current" image at the first bias.

    Images are (2, lines, pixels), NaN where a line is missing.
    """
    options = options if options is not None else FrameQualityOptions()
    by_name: dict[str, npt.NDArray[np.float64]] = {}
    for image in images:
        by_name.setdefault(image.channel, np.asarray(image.values, dtype=np.float64))
    if "z" not in by_name:
        return FrameQuality(verdict="bad", note="no z image", figures={})
    z = by_name["z"]
    figures: dict[str, float] = {}
    faults: list[str] = []
    missing = ~np.isfinite(z[0]).all(axis=1)
    lost, contact = _current_lines(by_name.get("current"), recipe, options)
    streaks, step = _line_faults(z[0], options)
    bad = missing | lost | contact | streaks
    for name, lines in (
        ("missing", missing),
        ("lost", lost),
        ("contact", contact),
        ("streaked", streaks),
        ("bad", bad),
    ):
        figures[f"{name} lines"] = float(np.mean(lines))
    if figures["bad lines"] > options.bad_lines_share:
        kinds = [
            f"{figures[f'{name} lines']:.0%} {said}"
            for name, said in (
                ("missing", "missing"),
                ("lost", "without current (surface lost)"),
                ("contact", "in contact"),
                ("streaked", "streaked"),
            )
            if figures[f"{name} lines"] > 0
        ]
        faults.append(f"bad lines: {', '.join(kinds)}")
    figures["largest step m"] = step
    if step > options.crash_step_m:
        faults.append(f"z steps by {step * 1e9:.2g} nm between lines, like a crash")
    correlation, scatter = _agreement(z)
    figures["scatter m"] = scatter
    if np.isfinite(correlation):
        figures["forward/backward correlation"] = correlation
        if correlation < options.minimum_correlation and scatter > options.flat_m:
            faults.append(f"forward and backward correlate by {correlation:.2f} only")
    odd = "flat: nothing to register" if scatter <= options.flat_m else ""
    return FrameQuality(
        verdict="bad" if faults else "good", note="; ".join(faults) if faults else odd, figures=figures
    )


def _current_lines(
    current: npt.NDArray[np.float64] | None, recipe: Frame, options: FrameQualityOptions
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Lines that lost the surface and lines in contact, by the forward current."""
    if current is None:
        none = np.zeros(recipe.lines, dtype=np.bool_)
        return none, none.copy()
    size = np.abs(current[0])
    lost = np.mean(size < options.lost_share * recipe.setpoint_a, axis=1) > options.line_share
    contact = np.mean(size > options.crash_factor * recipe.setpoint_a, axis=1) > options.line_share
    return lost, contact


def _line_faults(
    z: npt.NDArray[np.float64], options: FrameQualityOptions
) -> tuple[npt.NDArray[np.bool_], float]:
    """Streaked lines, and the largest lasting step of Z between neighbouring lines (m)."""
    level = np.full(z.shape[0], np.nan)
    there = np.isfinite(z).any(axis=1)
    level[there] = np.nanmedian(remove_plane(z)[there], axis=1)
    streaks = np.zeros(z.shape[0], dtype=np.bool_)
    present = np.flatnonzero(there)
    if present.size < 5:
        return streaks, 0.0
    known = level[present]
    difference = np.diff(known)
    scatter = 1.4826 * float(np.median(np.abs(difference - np.median(difference))))
    bar = options.streak_sigma * max(scatter, 1e-12)
    away, back = difference[:-1], difference[1:]
    spikes = (np.abs(away) > bar) & (np.abs(back) > bar) & (np.sign(away) != np.sign(back))
    streaks[present[1:-1][spikes]] = True
    # Lasting: the median of three lines before against three lines after.
    smooth = scipy.ndimage.median_filter(known, size=3, mode="nearest")
    steps = np.abs(np.diff(smooth))
    return streaks, float(steps.max())


def _agreement(z: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Correlation of forward and backward (NaN if one is missing) and the forward scatter (m)."""
    forward, backward = remove_plane(z[0]), remove_plane(z[1])
    finite = np.isfinite(forward)
    scatter = float(np.std(forward[finite])) if finite.any() else 0.0
    both = finite & np.isfinite(backward)
    if both.sum() < 9:
        return float("nan"), scatter
    # A delay of the feedback shifts both directions against each other by a pixel or two.
    best = -1.0
    for lag in range(-2, 3):
        shifted = np.roll(backward, lag, axis=1)
        here = both & np.isfinite(shifted)
        if here.sum() >= 9 and np.std(forward[here]) > 0 and np.std(shifted[here]) > 0:
            best = max(best, float(np.corrcoef(forward[here], shifted[here])[0, 1]))
    return best, scatter
