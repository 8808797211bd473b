"""Candidate positions of a topograph and the square patches around them.

A candidate is a place where a spectrum may be taken.  Candidates lie on a raster of ``candidate_step``
pixels (step 1: every pixel, as for a recorded grid) and, unless every pixel is one already, exactly on the
structures that stand out of the topograph: a 1.5 nm defect in a 200 nm frame would be half missed by any
affordable raster.

Pixel (row, col) of a frame is the square whose centre lies at ((col + 1/2) / pixels - 1/2) * width along
the fast axis, the same along the slow one; the frame's axes are turned counter-clockwise by its angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from actors.analysis.levelling import Method, level, robust_scale
from protocols.errors import UsageError

RASTER, FEATURE, INHERITED = 0, 1, 2
"""Why a position is a candidate: on the raster, on a structure of the topograph, or handed down by the
parent window."""
ORIGIN_NAMES = ("raster", "structure", "handed down")

_SCALES_PX = (1.0, 1.6, 2.5, 4.0, 6.3)
"""Blob radii (standard deviations, px) that are looked for: 0.8 to 5 nm wide in a 200 nm, 512 pixel frame."""
_THRESHOLD_SIGMA = 5.0
_SINGLE_SIGMA = 2.0
_EDGE_RATIO = 6.0
"""Largest ratio of the two principal curvatures: above it the structure is an edge (a terrace step), not
a blob."""


@dataclass(frozen=True)
class FrameGeometry:
    """Where a frame lies, in sample coordinates (m, rad counter-clockwise)."""

    centre_x_m: float
    centre_y_m: float
    width_m: float
    height_m: float
    angle_rad: float = 0.0

    def to_sample(
        self, row: npt.ArrayLike, col: npt.ArrayLike, shape: tuple[int, int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Sample coordinates (m) of (fractional) pixel positions; integers are pixel centres."""
        u = ((np.asarray(col, dtype=float) + 0.5) / shape[1] - 0.5) * self.width_m
        v = ((np.asarray(row, dtype=float) + 0.5) / shape[0] - 0.5) * self.height_m
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return self.centre_x_m + c * u - s * v, self.centre_y_m + s * u + c * v

    def to_pixels(
        self, x_m: npt.ArrayLike, y_m: npt.ArrayLike, shape: tuple[int, int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(row, col), fractional, of sample coordinates (m): the inverse of :meth:`to_sample`."""
        u, v = self.to_frame(x_m, y_m)
        return (v / self.height_m + 0.5) * shape[0] - 0.5, (u / self.width_m + 0.5) * shape[1] - 0.5

    def to_frame(
        self, x_m: npt.ArrayLike, y_m: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Coordinates (m) along the frame's own axes, from its centre."""
        dx = np.asarray(x_m, dtype=float) - self.centre_x_m
        dy = np.asarray(y_m, dtype=float) - self.centre_y_m
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return c * dx + s * dy, c * dy - s * dx

    def contains(self, x_m: npt.ArrayLike, y_m: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether points lie within the frame (its edge included)."""
        u, v = self.to_frame(x_m, y_m)
        slack = 1.0 + 1e-9
        inside: npt.NDArray[np.bool_] = (np.abs(u) <= slack * self.width_m / 2) & (
            np.abs(v) <= slack * self.height_m / 2
        )
        return inside


@dataclass(frozen=True)
class Candidates:
    """Places where a spectrum may be taken.

    ``x_m``, ``y_m``: shape (n,), sample coordinates.  ``patches``: shape (n, p * p), dimensionless
    (heights over the topograph's robust scale).  ``shape``: raster shape if the candidates are exactly
    one raster, row by row, else None. ``origin``: shape (n,), RASTER, FEATURE or INHERITED.
    ``strength``: shape (n,), how far a feature stands out of the noise (standard deviations; 0 on the
    raster).
    """

    x_m: npt.NDArray[np.float64]
    y_m: npt.NDArray[np.float64]
    patches: npt.NDArray[np.float64]
    geometry: FrameGeometry
    shape: tuple[int, int] | None = None
    origin: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    strength: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        n = self.x_m.shape[0]
        if self.origin.shape[0] != n:
            object.__setattr__(self, "origin", np.zeros(n, dtype=np.int8))
        if self.strength.shape[0] != n:
            object.__setattr__(self, "strength", np.zeros(n))
        if self.y_m.shape != (n,) or self.patches.ndim != 2 or self.patches.shape[0] != n:
            raise UsageError(
                f"candidates do not fit together: x {self.x_m.shape}, y {self.y_m.shape}, "
                f"patches {self.patches.shape}"
            )

    def __len__(self) -> int:
        return int(self.x_m.shape[0])


@dataclass(frozen=True)
class Features:
    """Structures that stand out of a topograph: fractional (row, col), strength (noise standard
    deviations, with the sign of the structure: positive sticks out) and radius (px).  Strongest first."""

    row: npt.NDArray[np.float64]
    col: npt.NDArray[np.float64]
    strength: npt.NDArray[np.float64]
    radius_px: npt.NDArray[np.float64]


def mean_of_directions(z_m: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A topograph (lines, pixels) from forward and backward (directions, lines, pixels): their mean,
    NaN-tolerant."""
    z = np.asarray(z_m, dtype=float)
    if z.ndim == 2:
        return z
    if z.ndim != 3:
        raise UsageError(f"a topograph is (lines, pixels) or (directions, lines, pixels), not {z.shape}")
    finite = np.isfinite(z)
    count = finite.sum(axis=0)
    total = np.where(finite, z, 0.0).sum(axis=0)
    mean: npt.NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def candidates_from_topograph(
    z_m: npt.ArrayLike,
    geometry: FrameGeometry,
    *,
    patch_pixels: int,
    step: int,
    inherited: Sequence[tuple[float, float]] = (),
    features: bool = True,
    max_features: int = 400,
    levelling: Method = "lines",
    remove_patch_mean: bool = True,
) -> Candidates:
    """Candidates of one frame.

    Args:
        z_m: heights (m), shape (lines, pixels) or (2, lines, pixels) forward and backward. geometry: where
        the frame lies. patch_pixels: side of a patch (px). step: distance (px) between raster candidates;
        1: every pixel, and nothing besides. inherited: sample positions (m) which must be candidates (best
        points of the parent window); those outside the
            frame are left out.
        features: also put candidates exactly on the structures that stand out. max_features: at most so
        many of them, strongest first. levelling: how the topograph is levelled before patches are cut.
        remove_patch_mean: subtract each patch's mean, so that a terrace's height does not count, only its
        structure.

    Raises:
        UsageError: the step or patch size is not positive.
    """
    if step < 1 or patch_pixels < 1:
        raise UsageError(f"candidate_step ({step}) and patch_pixels ({patch_pixels}) must be at least 1")
    raw = np.asarray(z_m, dtype=float)
    image = level(mean_of_directions(raw), levelling)
    lines, pixels = int(image.shape[0]), int(image.shape[1])
    rows, cols = _raster(lines, step), _raster(pixels, step)
    row, col = (a.ravel() for a in np.meshgrid(rows, cols, indexing="ij"))
    origin = np.full(row.size, RASTER, dtype=np.int8)
    strength = np.zeros(row.size)
    shape: tuple[int, int] | None = (rows.size, cols.size)
    if step > 1:
        extra_row, extra_col, extra_origin, extra_strength = [], [], [], []
        for place in inherited:
            if geometry.contains(*place).all():
                r, c = geometry.to_pixels(*place, image.shape)
                extra_row.append(np.atleast_1d(r))
                extra_col.append(np.atleast_1d(c))
                extra_origin.append(np.array([INHERITED], dtype=np.int8))
                extra_strength.append(np.zeros(1))
        if features:
            found = find_features(raw if raw.ndim == 3 else image, max_features, levelled=raw.ndim == 2)
            extra_row.append(found.row)
            extra_col.append(found.col)
            extra_origin.append(np.full(found.row.size, FEATURE, dtype=np.int8))
            extra_strength.append(np.abs(found.strength))
        if sum(a.size for a in extra_row):
            row, col = np.concatenate([row, *extra_row]), np.concatenate([col, *extra_col])
            origin = np.concatenate([origin, *extra_origin])
            strength = np.concatenate([strength, *extra_strength])
            shape = None
    x, y = geometry.to_sample(row, col, image.shape)
    patches = cut_patches(image, row, col, patch_pixels, remove_mean=remove_patch_mean)
    return Candidates(x, y, patches, geometry, shape, origin, strength)


def _raster(count: int, step: int) -> npt.NDArray[np.float64]:
    """Pixel indices ``step`` apart, centred in the frame."""
    number = max(1, count // step)
    offsets = np.arange(number, dtype=np.float64) - (number - 1) / 2
    positions: npt.NDArray[np.float64] = (count - 1) / 2 + offsets * step
    return positions


def cut_patches(
    image: npt.NDArray[np.float64],
    row: npt.NDArray[np.float64],
    col: npt.NDArray[np.float64],
    patch_pixels: int,
    *,
    remove_mean: bool = True,
) -> npt.NDArray[np.float64]:
    """Square patches centred on (fractional) pixel positions, shape (n, p * p), row by row.

    Pixels beyond the frame are its mirror image; fractional positions are interpolated linearly.  Values
    are divided by the image's robust scale, the same for all patches, so that amplitudes can be
    compared.
    """
    scaled = (image - np.median(image)) / robust_scale(image)
    offsets = np.arange(patch_pixels) - (patch_pixels - 1) / 2
    r = row[:, None, None] + offsets[None, :, None]
    c = col[:, None, None] + offsets[None, None, :]
    r, c = np.broadcast_arrays(r, c)
    patches = ndimage.map_coordinates(scaled, [r.ravel(), c.ravel()], order=1, mode="reflect")
    flat: npt.NDArray[np.float64] = patches.reshape(row.size, patch_pixels * patch_pixels)
    if remove_mean and patch_pixels > 1:
        flat = flat - flat.mean(axis=1, keepdims=True)
    return flat


def find_features(
    z_m: npt.ArrayLike,
    max_features: int = 400,
    *,
    levelled: bool = False,
    threshold: float = _THRESHOLD_SIGMA,
) -> Features:
    """Blobs, protrusions and depressions alike: extrema of the scale-normalised Laplacian of Gaussian over
    position and scale (Lindeberg, doi:10.1023/A:1008045108935), above the noise at that scale, in both scan
    directions, and no edges.

    Args:
        z_m: heights (m), shape (lines, pixels), or (2, lines, pixels): then a structure must show in
        both directions. max_features: at most so many, strongest first. levelled: the image is levelled
        already. threshold: smallest strength in noise standard deviations.
    """
    z = np.asarray(z_m, dtype=float)
    images = [z] if z.ndim == 2 else list(z)
    if not levelled:
        images = [level(i) for i in images if np.isfinite(i).any()]
    mean = np.mean(images, axis=0)
    scales = [s for s in _SCALES_PX if 6 * s < min(mean.shape)]
    if not scales:
        empty = np.zeros(0)
        return Features(empty, empty, empty, empty)
    response = np.stack([_normalised_response(mean, s) for s in scales])
    singles = (
        [np.stack([_normalised_response(i, s) for s in scales]) for i in images] if len(images) > 1 else []
    )
    size = np.abs(response)
    peak = (size == ndimage.maximum_filter(size, size=(3, 3, 3), mode="nearest")) & (size >= threshold)
    for single in singles:
        peak &= single * np.sign(response) >= _SINGLE_SIGMA
    scale_index, row, col = np.nonzero(peak)
    keep = [
        i
        for i, (k, r, c) in enumerate(zip(scale_index, row, col, strict=True))
        if _is_blob(mean, scales[k], int(r), int(c))
    ]
    scale_index, row, col = scale_index[keep], row[keep], col[keep]
    order = np.lexsort((col, row, -size[scale_index, row, col]))
    chosen = _without_neighbours(order, row, col, np.asarray(scales)[scale_index], max_features)
    position = [_subpixel(size[scale_index[i]], row[i], col[i]) for i in chosen]
    return Features(
        np.array([p[0] for p in position], dtype=float),
        np.array([p[1] for p in position], dtype=float),
        response[scale_index[chosen], row[chosen], col[chosen]],
        np.asarray(scales)[scale_index[chosen]] * math.sqrt(2.0),
    )


def _normalised_response(image: npt.NDArray[np.float64], sigma: float) -> npt.NDArray[np.float64]:
    """Minus the Laplacian of Gaussian over its own robust noise: positive where something sticks out."""
    response = -ndimage.gaussian_laplace(image, sigma, mode="reflect")
    result: npt.NDArray[np.float64] = response / robust_scale(response)
    return result


def _is_blob(image: npt.NDArray[np.float64], sigma: float, row: int, col: int) -> bool:
    """Whether both principal curvatures at the pixel (at scale ``sigma``) have one sign and similar size."""
    reach = math.ceil(4 * sigma) + 1
    r0, r1 = max(0, row - reach), min(image.shape[0], row + reach + 1)
    c0, c1 = max(0, col - reach), min(image.shape[1], col + reach + 1)
    cut, at = image[r0:r1, c0:c1], (row - r0, col - c0)
    yy = ndimage.gaussian_filter(cut, sigma, order=(2, 0), mode="reflect")[at]
    xx = ndimage.gaussian_filter(cut, sigma, order=(0, 2), mode="reflect")[at]
    xy = ndimage.gaussian_filter(cut, sigma, order=(1, 1), mode="reflect")[at]
    determinant = xx * yy - xy * xy
    return bool(determinant > 0 and (xx + yy) ** 2 * _EDGE_RATIO < (_EDGE_RATIO + 1) ** 2 * determinant)


def _without_neighbours(
    order: npt.NDArray[np.intp],
    row: npt.NDArray[np.intp],
    col: npt.NDArray[np.intp],
    sigma: npt.NDArray[np.float64],
    limit: int,
) -> list[int]:
    """Strongest first, leaving out what lies within the radius of a stronger one (the same structure at
    another scale)."""
    chosen: list[int] = []
    for i in order:
        if len(chosen) >= limit:
            break
        if chosen:
            others = np.asarray(chosen)
            distance = np.hypot(row[others] - row[i], col[others] - col[i])
            if (distance < 1.5 * np.maximum(sigma[others], 1.0)).any():
                continue
        chosen.append(int(i))
    return chosen


def _subpixel(size: npt.NDArray[np.float64], row: int, col: int) -> tuple[float, float]:
    """Vertex of the parabolas through the extremum and its neighbours, at most half a pixel away."""
    shifts = []
    for before, here, after in (
        (size[max(row - 1, 0), col], size[row, col], size[min(row + 1, size.shape[0] - 1), col]),
        (size[row, max(col - 1, 0)], size[row, col], size[row, min(col + 1, size.shape[1] - 1)]),
    ):
        curvature = 2 * here - before - after
        shift = 0.5 * (after - before) / curvature if curvature > 0 else 0.0
        shifts.append(float(np.clip(shift, -0.5, 0.5)))
    return row + shifts[0], col + shifts[1]
