"""Levelling of topographs: what tilt, creep and line-to-line jumps add is taken out before anything is
learnt.

Arrays are [row, col] with row 0 at the lowest y; heights in m in, heights in m out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError

Method = Literal["none", "plane", "lines"]
"""How a topograph is levelled."""

_CLIP_SIGMA = 2.5
_PLANE_ROUNDS = 4


def robust_scale(values: npt.ArrayLike) -> float:
    """Standard deviation of the bulk of ``values``: 1.4826 times the median absolute deviation.

    Falls back to the plain standard deviation where more than half of the values are equal, and to 1
    where all are (so that a division by it is always allowed).  Non-finite values do not count.
    """
    data = np.asarray(values, dtype=float).ravel()
    data = data[np.isfinite(data)]
    if data.size == 0:
        return 1.0
    scale = 1.4826 * float(np.median(np.abs(data - np.median(data))))
    if scale <= 0.0:
        scale = float(np.std(data))
    return scale if scale > 0.0 else 1.0


def fill_missing(image: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A copy in which non-finite pixels hold the median of their row (of the whole image if the row has
    none).

    Raises:
        UsageError: no pixel at all is finite, or the image is not two-dimensional.
    """
    out = np.array(image, dtype=float)
    if out.ndim != 2:
        raise UsageError(f"a topograph has two axes [row, col], this array has shape {out.shape}")
    bad = ~np.isfinite(out)
    if not bad.any():
        return out
    if bad.all():
        raise UsageError("the topograph has no finite pixel", "Take the frame again.")
    overall = float(np.median(out[~bad]))
    for row in np.flatnonzero(bad.any(axis=1)):
        good = ~bad[row]
        out[row, ~good] = float(np.median(out[row, good])) if good.any() else overall
    return out


def fit_plane(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The plane through ``image`` by least squares, refitted without the pixels that stick out (defects,
    steps)."""
    rows, cols = image.shape
    y, x = np.mgrid[0:rows, 0:cols]
    design = np.stack([np.ones(image.size), x.ravel() - (cols - 1) / 2, y.ravel() - (rows - 1) / 2], axis=1)
    heights = image.ravel()
    used = np.ones(heights.size, dtype=bool)
    plane = np.zeros_like(heights)
    for _ in range(_PLANE_ROUNDS):
        coefficients, *_ = np.linalg.lstsq(design[used], heights[used], rcond=None)
        plane = design @ coefficients
        residual = heights - plane
        centre = float(np.median(residual))
        keep = np.abs(residual - centre) <= _CLIP_SIGMA * robust_scale(residual)
        if keep.sum() < max(8, heights.size // 4) or bool((keep == used).all()):
            break
        used = keep
    return plane.reshape(image.shape)


def align_lines(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Take out jumps between lines: each line is shifted by the median difference to the line before.

    The median of differences (not the difference of medians) is blind to the few pixels where a defect
    or a step edge is crossed, so terraces keep their heights.  The slow trend that this leaves along y
    is a plane's business.
    """
    steps = np.median(np.diff(image, axis=0), axis=1)
    aligned: npt.NDArray[np.float64] = image - np.concatenate([[0.0], np.cumsum(steps)])[:, None]
    return aligned


def level(image: npt.ArrayLike, method: Method = "lines") -> npt.NDArray[np.float64]:
    """Level a topograph.

    Args:
        image: heights (m), shape (lines, pixels); non-finite pixels are filled first. method: "none",
        "plane" (robust plane), or "lines" (plane, then median line alignment, then plane again).

    Returns:
        levelled heights (m), same shape, median zero.
    """
    out = fill_missing(image)
    if method != "none":
        out = out - fit_plane(out)
    if method == "lines" and out.shape[0] > 1:
        out = align_lines(out)
        out = out - fit_plane(out)
    result: npt.NDArray[np.float64] = out - np.median(out)
    return result
