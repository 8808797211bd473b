"""Which part of a survey frame makes the best reference patch for drift.

A patch is worth as much as its features fix it along both axes: the smaller eigenvalue of the structure
tensor (Shi and Tomasi, doi:10.1109/CVPR.1994.323794), of slopes that the forward and the backward image
share so that noise does not count.  The best few are then registered, forward against backward: a patch that
repeats itself (a lattice) or that cannot be found again loses.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.ndimage

from actors.analysis.registration import MINIMUM_PIXELS, Registration, register, remove_plane
from protocols.errors import UsageError
from protocols.messages.records import FrameTaken

FloatImage = npt.NDArray[np.float64]
REPEATING = 0.9
"""A patch whose second correlation peak is as high as this share of the first is worth nothing."""
CANDIDATES = 6
"""So many patches that do not overlap by more than half are registered."""


class ReferencePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A reference patch in sample coordinates (m); ``confidence`` is that of finding it again now."""

    centre_x_m: float
    centre_y_m: float
    width_m: float
    angle_rad: float
    pixels: int
    confidence: float
    note: str


def plan_reference(frame: FrameTaken, width_m: float, pixels: int, channel: str = "z") -> ReferencePlan:
    """The most telling square patch of ``width_m`` inside a survey frame.

    Args:
        frame: A survey frame with a ``channel`` image of shape (2, lines, pixels).
        width_m: Side of the patch (m); 0 or less: a quarter of the frame's width.
        pixels: Pixels and lines the patch will be taken with.

    Raises:
        UsageError: the frame has no such channel, or the patch is larger than the frame.
    """
    found = next((image for image in frame.images if image.channel == channel), None)
    if found is None:
        names = ", ".join(sorted({image.channel for image in frame.images})) or "none"
        raise UsageError(f"frame {frame.job_id} has no channel {channel!r} (it has: {names}).")
    side = width_m if width_m > 0 else frame.width_m / 4
    if side > min(frame.width_m, frame.height_m):
        raise UsageError(
            f"a reference patch of {side:.3g} m does not fit a frame of {frame.width_m:.3g} m.",
            "Set imaging.reference_width smaller than the smallest window.",
        )
    values = np.asarray(found.values, dtype=np.float64)
    lines, columns = values.shape[1:]
    rows, cols = max(3, round(side / frame.height_m * lines)), max(3, round(side / frame.width_m * columns))
    pixel = (frame.height_m / lines, frame.width_m / columns)
    top, left, registration = best_patch(values[0], values[-1], (rows, cols), pixel)
    # From the patch's place in the array to the sample: the frame's own axes, turned about its centre.
    u = ((left + cols / 2) / columns - 0.5) * frame.width_m
    v = ((top + rows / 2) / lines - 0.5) * frame.height_m
    c, s = math.cos(frame.angle_rad), math.sin(frame.angle_rad)
    return ReferencePlan(
        centre_x_m=frame.centre_x_m + c * u - s * v,
        centre_y_m=frame.centre_y_m + s * u + c * v,
        width_m=side,
        angle_rad=frame.angle_rad,
        pixels=pixels,
        confidence=registration.confidence,
        note=registration.note,
    )


def best_patch(
    forward: npt.ArrayLike, backward: npt.ArrayLike, shape: tuple[int, int], pixel_size_m: tuple[float, float]
) -> tuple[int, int, Registration]:
    """First row and column of the best patch of ``shape``, and its registration forward on backward.

    Args:
        forward: (lines, pixels), NaN where a line is missing.
        backward: The same surface once more; pass ``forward`` again if there is no second image.
        shape: Rows and columns of the patch.
        pixel_size_m: Size of a pixel along y and x (m).
    """
    a, b = remove_plane(forward), remove_plane(backward)
    worth = _worth(a, b, shape)
    best: tuple[float, int, int, Registration] | None = None
    for top, left in _candidates(worth, shape):
        part = np.s_[top : top + shape[0], left : left + shape[1]]
        registration = _find_again(a[part], b[part], pixel_size_m)
        share = float(worth[top, left] / worth.max()) if worth.max() > 0 else 0.0
        alone = min(max((REPEATING - registration.second_ratio) / 0.3, 0.0), 1.0)
        score = math.sqrt(share) * (registration.confidence * alone + 1e-3)
        if best is None or score > best[0]:
            best = score, top, left, registration
    assert best is not None  # there is always a first candidate
    return best[1], best[2], best[3]


def _worth(a: FloatImage, b: FloatImage, shape: tuple[int, int]) -> FloatImage:
    """Smaller eigenvalue of the shared structure tensor for every place of the patch's first pixel."""
    finite = np.isfinite(a) & np.isfinite(b)
    slopes = []
    for z in (a, b):
        smooth = scipy.ndimage.gaussian_filter(np.where(finite, z, 0.0), 1.0, mode="nearest")
        slopes.append(np.gradient(smooth))
    (ay, ax), (by, bx) = slopes
    yy, xx, xy = (_window_sum(p, shape) for p in (ay * by, ax * bx, (ay * bx + ax * by) / 2))
    smaller = (yy + xx) / 2 - np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    missing = scipy.ndimage.uniform_filter((~finite).astype(np.float64), shape, mode="constant")
    whole = _inside(missing, shape) < 0.5 / (shape[0] * shape[1])
    # Where no place is whole, the one with most pixels and slopes has to do.
    worth: FloatImage = np.maximum(smaller, 0.0) * (whole if whole.any() else 1.0)
    return worth


def _window_sum(z: FloatImage, shape: tuple[int, int]) -> FloatImage:
    """Sum over every patch under a Hann window (features at its border may drift out), by first pixel."""
    for axis, n in enumerate(shape):
        z = scipy.ndimage.correlate1d(z, np.hanning(n + 2)[1:-1], axis=axis, mode="constant")
    return _inside(z, shape)


def _inside(z: FloatImage, shape: tuple[int, int]) -> FloatImage:
    """Values of a centred filter at patches that lie inside the frame, indexed by their first pixel."""
    top, left = shape[0] // 2, shape[1] // 2
    return z[top : top + z.shape[0] - shape[0] + 1, left : left + z.shape[1] - shape[1] + 1]


def _candidates(worth: FloatImage, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Best places first, each at least half a patch from the others."""
    left_over = worth.copy()
    places: list[tuple[int, int]] = []
    for _ in range(CANDIDATES):
        top, left = (int(n) for n in np.unravel_index(int(np.argmax(left_over)), worth.shape))
        if places and not left_over[top, left] > 0:
            break
        places.append((top, left))
        h, w = shape[0] // 2 + 1, shape[1] // 2 + 1
        left_over[max(0, top - h) : top + h, max(0, left - w) : left + w] = -1.0
    return places


def _find_again(a: FloatImage, b: FloatImage, pixel_size_m: tuple[float, float]) -> Registration:
    """Registration of a patch on itself as seen backward; too few pixels cannot be judged."""
    if min(a.shape) < MINIMUM_PIXELS:
        return Registration(
            shift_x_m=0.0,
            shift_y_m=0.0,
            confidence=0.0,
            peak_sigma=0.0,
            verdict="cannot tell",
            note=f"{a.shape} pixels of the survey are too few to judge the patch by",
        )
    reach = 0.4 * min(a.shape[0] * pixel_size_m[0], a.shape[1] * pixel_size_m[1])
    return register(a, b, pixel_size_m, reach)
