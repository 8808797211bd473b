"""Registration of two frames of the same window: how far have the features moved, and can one tell at all?

Convention: the shift is where a feature is now minus where it was in the reference, in metres along the
frame's own axes; arrays are [row, col] with row 0 at the lowest y and col 0 at the lowest x, so a feature
that went from column 10 to column 12 has ``shift_x_m = +2 * pixel``.

Method.  Both frames lose their least-squares plane and are lightly smoothed.  Their overlap-corrected
normalised cross-correlation r(s) (Padfield, doi:10.1109/TIP.2011.2181402; missing pixels are masked out) is
computed by FFT for every shift up to the largest one allowed.  The peak counts only if it is

* significant: r, after Fisher's transformation, in units of the scatter that two unrelated frames with
  these autocorrelations would show (Bartlett's formula), clears the bar for the number of shifts tried;
* distinct: no other local maximum comes close (a lattice repeats itself every unit cell);
* local: the residual and the gradients (a sandwich estimate) leave the position uncertain by little (a
  lone straight step slides along itself);
* inside: not at the edge of the range that was searched.

Where the whole frame fails these tests they are tried on its detail (high-pass filtered: steps and bowing
gone) and without its lattice (Bragg peaks clipped).  Finally the position is refined to a fraction of a
pixel with a correlation whose window (borders Hann-shaped) stays fixed on the reference, so no pixel is ever
interpolated: only the smooth correlation surface is.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage
from scipy.interpolate import RectBivariateSpline
from scipy.signal.windows import tukey
from scipy.special import log_ndtr

from protocols.errors import UsageError

FloatImage: TypeAlias = npt.NDArray[np.float64]
Verdict: TypeAlias = Literal["same place", "cannot tell"]

MINIMUM_PIXELS = 16
"""Frames with fewer rows or columns are refused."""
MINIMUM_OVERLAP = 0.25
"""The largest shift allowed must leave at least this share of the frame's area in common."""
SMOOTHING_PX = 1.5
"""Gaussian smoothing of both frames (pixels): below the resolution of any sensible frame."""
TAPER = 0.25
"""Share of the refinement's window that is its Hann-shaped border."""
LOG_FALSE_ALARM = math.log(1e-5)
"""Natural log of the chance at which unrelated frames may be taken for the same place."""
AMBIGUOUS_RATIO = 0.9
"""A second maximum as high as this share of the first makes the frame periodic."""
WINDOWED_SHARE = (9 / 64 / (35 / 128)) ** 2
"""Independent pixels left of a frame under a two-dimensional Hann window: (sum w^2)^2 / sum w^4 / n."""
AGREEMENT = 0.8
"""Share of its own best correlation that the whole frame must reach where its detail fits best."""
LATTICE_MINIMUM_R = 0.4
"""Least correlation at which a prior is trusted to name the right unit cell."""
LARGEST_SIGMA_SHARE = 0.03
"""Largest uncertainty of the shift, as a share of the frame's smaller side."""
SLOPE_SIGMA = 4.0
"""Agreement of the slopes of both frames, in units of chance, below which they fix no position."""
SLOPE_SHARE = 0.25
"""Correlation of the slopes that is enough by itself: few Bragg peaks agree by chance, but never so well."""
PRIOR_REACH = 3.0
"""Shifts further than so many sigma from the expected one are not considered."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of :func:`register`; ``confidence`` is below 0.5 exactly when the verdict is "cannot tell"."""

    shift_x_m: float
    """Best guess of the shift along the columns, now minus reference (m); 0 if there is none."""
    shift_y_m: float
    confidence: float
    peak_sigma: float
    """Height of the peak in units of the scatter between unrelated frames."""
    verdict: Verdict
    note: str
    correlation: float = 0.0
    """Normalised correlation at the peak, -1 to 1."""
    second_ratio: float = 0.0
    """Second highest local maximum over the highest."""
    uncertainty_m: float = math.inf
    """Standard deviation of the shift along its worse axis (m)."""
    periodic: bool = False
    """The frame repeats itself within the range of shifts searched."""
    view: str = "whole"
    """What decided: "whole", "detail" or "without lattice"."""


class _Peak(msgspec.Struct, frozen=True):
    """The best shift in one view of the frames."""

    view: str
    row: int
    col: int
    r: float
    sigma: float
    second: float
    periodic: bool
    confidence: float
    note: str


def remove_plane(image: npt.ArrayLike) -> FloatImage:
    """Least-squares plane of the finite pixels taken away; shape (rows, cols), NaN stays NaN."""
    z = np.asarray(image, dtype=np.float64)
    rows, cols = np.mgrid[-1.0 : 1.0 : z.shape[0] * 1j, -1.0 : 1.0 : z.shape[1] * 1j]
    finite = np.isfinite(z)
    if finite.sum() < 3:
        return np.array(z, copy=True)
    basis = np.stack([np.ones(int(finite.sum())), rows[finite], cols[finite]], axis=1)
    offset = float(np.mean(z[finite]))
    a, b, c = np.linalg.lstsq(basis, z[finite] - offset, rcond=None)[0]
    flat: FloatImage = z - (offset + a + b * rows + c * cols)
    return flat


def register(
    reference: npt.ArrayLike,
    image: npt.ArrayLike,
    pixel_size_m: float | tuple[float, float],
    max_shift_m: float,
    expected_shift_m: tuple[float, float] | None = None,
    expected_uncertainty_m: float | None = None,
) -> Registration:
    """Find the shift of ``image`` against ``reference``.

    Args:
        reference: Earlier frame, (rows, cols), any unit; NaN marks missing pixels.
        image: Later frame of the same shape.
        pixel_size_m: Size of a pixel (m), or (along y, along x).
        max_shift_m: Largest shift considered along either axis (m).
        expected_shift_m: Where the drift model expects the features, (x, y) in m.  With it, only shifts
            within three ``expected_uncertainty_m`` are considered, which may settle a lattice's ambiguity.
        expected_uncertainty_m: Standard deviation of ``expected_shift_m`` (m).

    Returns:
        The shift and whether it may be believed.  Frames in which nothing can be told (constant,
        unrelated, periodic) are an answer, not an error.

    Raises:
        UsageError: shapes differ or are too small, sizes are not positive, or ``max_shift_m`` leaves less
            than a quarter of the frame in common.
    """
    ref, img = np.asarray(reference, dtype=np.float64), np.asarray(image, dtype=np.float64)
    dy, dx = pixel_size_m if isinstance(pixel_size_m, tuple) else (pixel_size_m, pixel_size_m)
    limit = _check(ref, img, dy, dx, max_shift_m)
    if (expected_shift_m is None) != (expected_uncertainty_m is None):
        raise UsageError("an expected shift and its uncertainty are given together or not at all.")
    a, mask_a = _prepare(ref)
    b, mask_b = _prepare(img)
    for name, mask, z in (("reference", mask_a, a), ("image", mask_b, b)):
        if mask.mean() < 0.5:
            return _nothing(f"more than half of the {name} is missing")
        if not np.any(z):
            return _nothing(f"the {name} has no features: it is flat")
    allowed = _allowed(limit, dy, dx, expected_shift_m, expected_uncertainty_m)
    if not allowed.any():
        return _nothing("the expected shift lies outside the range searched")
    best = _best_view(a, b, mask_a, mask_b, limit, allowed, expected_shift_m is not None)
    row, col, r, cov = _refine(a, b, mask_a, mask_b, best.row, best.col)
    sigma_m = math.sqrt(max(float(np.linalg.eigvalsh(cov * np.outer((dy, dx), (dy, dx)))[-1]), 0.0))
    confidence, note = best.confidence, best.note
    tolerance = LARGEST_SIGMA_SHARE * min(ref.shape[0] * dy, ref.shape[1] * dx)
    if confidence >= 0.5 and not sigma_m < tolerance:
        confidence = 0.0
        note = f"the frame slides along itself: the shift is uncertain by {sigma_m * 1e9:.3g} nm"
    return Registration(
        shift_x_m=col * dx,
        shift_y_m=row * dy,
        confidence=confidence,
        peak_sigma=best.sigma,
        verdict="same place" if confidence >= 0.5 else "cannot tell",
        note=note,
        correlation=r,
        second_ratio=best.second,
        uncertainty_m=sigma_m,
        periodic=best.periodic,
        view=best.view,
    )


def _check(ref: FloatImage, img: FloatImage, dy: float, dx: float, max_shift_m: float) -> tuple[int, int]:
    """Refuse what makes no sense; the search limit in (rows, cols)."""
    if ref.ndim != 2 or ref.shape != img.shape:
        raise UsageError(f"frames must be two-dimensional and alike, got {ref.shape} and {img.shape}.")
    if min(ref.shape) < MINIMUM_PIXELS:
        raise UsageError(f"frames of {ref.shape} are too small; at least {MINIMUM_PIXELS} pixels a side.")
    if not (dy > 0 and dx > 0 and max_shift_m > 0 and math.isfinite(max_shift_m)):
        raise UsageError(f"pixel size and largest shift must be positive, got {dy}, {dx}, {max_shift_m} m.")
    limit = (max(1, math.floor(max_shift_m / dy)), max(1, math.floor(max_shift_m / dx)))
    overlap = math.prod(max(0.0, 1 - n / size) for n, size in zip(limit, ref.shape, strict=True))
    if overlap < MINIMUM_OVERLAP - 1e-9:
        raise UsageError(
            f"a shift of {max_shift_m:.3g} m leaves {overlap:.0%} of the frame in common.",
            f"Allow at most a shift that leaves {MINIMUM_OVERLAP:.0%}, or take larger frames.",
        )
    return limit


def _nothing(note: str) -> Registration:
    return Registration(
        shift_x_m=0.0, shift_y_m=0.0, confidence=0.0, peak_sigma=0.0, verdict="cannot tell", note=note
    )


def _prepare(image: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Plane removed, scaled to unit scatter, smoothed over the finite pixels; (values, mask of 0/1)."""
    flat = remove_plane(image)
    mask = np.isfinite(flat).astype(np.float64)
    scale = float(np.std(flat[mask > 0])) if mask.any() else 0.0
    span = float(np.max(np.abs(image[mask > 0]))) if mask.any() else 0.0
    if not scale > 1e-12 * span:
        return np.zeros_like(flat), mask
    values = np.where(mask > 0, flat / scale, 0.0)
    return _smooth(values, mask, SMOOTHING_PX), mask


def _smooth(values: FloatImage, mask: FloatImage, sigma_px: float) -> FloatImage:
    """Gaussian average over the finite pixels; masked pixels are 0."""
    total = scipy.ndimage.gaussian_filter(values * mask, sigma_px, mode="nearest", truncate=3.0)
    if mask.all():
        return np.asarray(total, dtype=np.float64)
    weight = scipy.ndimage.gaussian_filter(mask, sigma_px, mode="nearest", truncate=3.0)
    smoothed: FloatImage = np.where(mask > 0, total / np.maximum(weight, 1e-6), 0.0)
    return smoothed


def _allowed(
    limit: tuple[int, int],
    dy: float,
    dx: float,
    expected: tuple[float, float] | None,
    uncertainty: float | None,
) -> npt.NDArray[np.bool_]:
    """Which integer shifts may be chosen: (2 * limit + 1) along each axis."""
    rows, cols = np.mgrid[-limit[0] : limit[0] + 1, -limit[1] : limit[1] + 1]
    everything = np.ones(rows.shape, dtype=np.bool_)
    if expected is None or uncertainty is None:
        return everything
    reach_y = max(PRIOR_REACH * uncertainty, 1.5 * dy)
    reach_x = max(PRIOR_REACH * uncertainty, 1.5 * dx)
    far = np.hypot((rows * dy - expected[1]) / reach_y, (cols * dx - expected[0]) / reach_x)
    return np.asarray(far <= 1.0)


def _best_view(
    a: FloatImage,
    b: FloatImage,
    mask_a: FloatImage,
    mask_b: FloatImage,
    limit: tuple[int, int],
    allowed: npt.NDArray[np.bool_],
    prior: bool,
) -> _Peak:
    """The most convincing peak of the views, tried in turn until one convinces."""
    best: _Peak | None = None
    whole: FloatImage | None = None
    for view in ("whole", "detail", "without lattice"):
        va, vb = _view(a, mask_a, view), _view(b, mask_b, view)
        surface = _correlation(va, vb, mask_a, mask_b, limit)
        peak = _find_peak(view, surface, limit, allowed, prior)
        if whole is None:
            whole = np.where(allowed, surface[0], -np.inf)
        elif peak.confidence >= 0.5 and not _agrees(whole, peak, limit):
            note = "detail and whole frame disagree about the shift"
            peak = msgspec.structs.replace(peak, confidence=0.0, note=note)
        if best is None or peak.confidence > best.confidence:
            best = peak
        if best.confidence > 0.9:
            break
    assert best is not None  # the loop ran
    return best


def _view(values: FloatImage, mask: FloatImage, view: str) -> FloatImage:
    """The frame itself, without what is broader than a tenth of it, or also without its Bragg peaks."""
    if view == "whole":
        return values
    detail = (values - _smooth(values, mask, min(values.shape) / 10)) * mask
    if view == "detail":
        return detail
    window = np.outer(np.hanning(values.shape[0] + 2)[1:-1], np.hanning(values.shape[1] + 2)[1:-1])
    spectrum = scipy.fft.rfft2(detail * window)
    size = np.abs(spectrum)
    # Bragg peaks rise above their surroundings in reciprocal space; clip them to the local median.
    floor = scipy.ndimage.median_filter(size, size=9, mode="wrap")
    clipped = np.where(size > 4 * floor, spectrum * (floor / np.maximum(size, 1e-300)), spectrum)
    cleaned: FloatImage = scipy.fft.irfft2(clipped, s=values.shape) * mask
    return cleaned


def _agrees(whole: FloatImage, peak: _Peak, limit: tuple[int, int]) -> bool:
    """Whether the whole frames, too, fit nearly at their best within two pixels of the peak."""
    i, j = peak.row + limit[0], peak.col + limit[1]
    near = whole[max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
    return bool(near.max() >= AGREEMENT * whole.max())


def _find_peak(
    view: str,
    surface: tuple[FloatImage, FloatImage, float],
    limit: tuple[int, int],
    allowed: npt.NDArray[np.bool_],
    prior: bool,
) -> _Peak:
    """Best shift of one view, from its :func:`_correlation`, with its significance and distinctness."""
    r, overlap, cell = surface
    candidates = np.where(allowed, r, -np.inf)
    i, j = np.unravel_index(int(np.argmax(candidates)), r.shape)
    top = float(r[i, j])
    row, col = int(i) - limit[0], int(j) - limit[1]
    # Independent patches in common; large shifts, which are many and rest on few patches, count for less.
    cells = (
        overlap[i, j]
        / cell
        * (overlap[i, j] / overlap.max())
        * (WINDOWED_SHARE if view == "without lattice" else 1.0)
    )
    bar = _bar(max(allowed.sum() / cell, 1.0))
    sigma = float(np.arctanh(min(top, 0.999999)) * math.sqrt(max(cells - 3.0, 0.0)))
    second = _second_maximum(r, allowed, int(i), int(j))
    ratio = max(second, 0.0) / top if top > 0 else 1.0
    anywhere = _second_maximum(r, np.ones_like(allowed), int(i), int(j))
    repeats = top > LATTICE_MINIMUM_R and anywhere > AMBIGUOUS_RATIO * top
    distinct = float(np.arctanh(min(top, 0.999999)) - np.arctanh(min(max(second, 0.0), 0.999999)))
    distinct *= math.sqrt(max(cells - 3.0, 0.0))
    significant = _logistic(sigma - bar)
    inside = r[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max() <= top
    edge = not inside or i in (0, r.shape[0] - 1) or j in (0, r.shape[1] - 1)
    separate = min(_logistic(distinct - 2.5), _logistic(40 * (AMBIGUOUS_RATIO - ratio)))
    if prior and repeats:
        # A lattice says nothing of the place; the expected shift does.  Left to ask: is there exactly one
        # unit cell within its reach, and is the lattice there at all?
        separate = _logistic(40 * (AMBIGUOUS_RATIO - ratio))
        confidence = min(_logistic(20 * (top - LATTICE_MINIMUM_R)), separate)
        note = "a lattice: the expected shift names the unit cell"
    else:
        confidence = min(significant, separate)
        note = f"peak of {sigma:.1f} sigma, correlation {top:.2f}"
    if confidence < 0.5:
        if separate < significant or (prior and repeats):
            kind = "the frame repeats itself (lattice)" if repeats else "another shift fits nearly as well"
            note = f"{kind}: second peak at {ratio:.0%} of the first"
        else:
            note = f"the frames are not alike: peak of {sigma:.1f} sigma, {bar:.1f} needed"
    elif edge:
        confidence, note = 0.0, "the best match is at the edge of the range searched"
    return _Peak(view, row, col, top, sigma, ratio, bool(repeats), confidence, note)


def _bar(trials: float) -> float:
    """Sigma that the best of so many trials exceeds by chance with the allowed false-alarm rate."""
    low, high = 0.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        if log_ndtr(-middle) + math.log(trials) > LOG_FALSE_ALARM:
            low = middle
        else:
            high = middle
    return high


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(x, -60.0), 60.0)))


def _correlation(
    a: FloatImage, b: FloatImage, mask_a: FloatImage, mask_b: FloatImage, limit: tuple[int, int]
) -> tuple[FloatImage, FloatImage, float]:
    """Overlap-corrected normalised correlation for all shifts up to the limit.

    Returns r and the number of common pixels, both (2 * limit + 1) along each axis with shift 0 in the
    middle, and the area (pixels) of one independent patch: Bartlett's sum of the product of the two
    autocorrelations, from the power spectra.
    """
    shape = [scipy.fft.next_fast_len(n + m, real=True) for n, m in zip(a.shape, limit, strict=True)]
    spectra = [scipy.fft.rfft2(x, s=shape) for x in (a, a * a, mask_a, b, b * b, mask_b)]
    fa, fa2, fma, fb, fb2, fmb = spectra
    rows, cols = np.arange(-limit[0], limit[0] + 1), np.arange(-limit[1], limit[1] + 1)

    def cross(x: npt.NDArray[np.complex128], y: npt.NDArray[np.complex128]) -> FloatImage:
        full = scipy.fft.irfft2(np.conj(x) * y, s=shape)
        part: FloatImage = full[np.ix_(rows % shape[0], cols % shape[1])]
        return part

    n = np.maximum(cross(fma, fmb), 1.0)
    sum_a, sum_b = cross(fa, fmb), cross(fma, fb)
    var_a = cross(fa2, fmb) - sum_a**2 / n
    var_b = cross(fma, fb2) - sum_b**2 / n
    covariance = cross(fa, fb) - sum_a * sum_b / n
    floor = 1e-9 * a.size
    r = covariance / np.sqrt(np.maximum(var_a, floor) * np.maximum(var_b, floor))
    window = np.outer(np.hanning(a.shape[0] + 2)[1:-1], np.hanning(a.shape[1] + 2)[1:-1])
    power_a, power_b = (np.abs(scipy.fft.fft2(x * window)) ** 2 for x in (a, b))
    power_a[0, 0] = power_b[0, 0] = 0.0
    total = float(power_a.sum() * power_b.sum())
    cell = a.size * float((power_a * power_b).sum()) / total if total > 0 else float(a.size)
    return np.clip(r, -1.0, 1.0), n, max(cell, 1.0)


def _second_maximum(r: FloatImage, allowed: npt.NDArray[np.bool_], i: int, j: int) -> float:
    """Highest local maximum of r among the allowed shifts that lies outside the main peak's own hill."""
    masked = np.where(allowed, r, -np.inf)
    local = (scipy.ndimage.maximum_filter(masked, size=3, mode="nearest") == masked) & allowed
    # The hill: connected to the peak and above half of it; ripples within three pixels belong to it too.
    labels, _ = scipy.ndimage.label(masked > 0.97 * r[i, j])
    hill = (labels == labels[i, j]) & (labels > 0)
    local &= ~hill
    near_i, near_j = np.ogrid[: r.shape[0], : r.shape[1]]
    local &= np.hypot(near_i - i, near_j - j) > 3
    # A maximum at the border of the allowed region is only the flank of the main hill.
    inner = scipy.ndimage.binary_erosion(allowed, structure=np.ones((3, 3), dtype=np.bool_), border_value=0)
    local &= inner
    return float(np.max(r[local])) if local.any() else -1.0


def _refine(
    a: FloatImage, b: FloatImage, mask_a: FloatImage, mask_b: FloatImage, row: int, col: int
) -> tuple[float, float, float, npt.NDArray[np.float64]]:
    """Position of the peak to a fraction of a pixel.

    Returns (row shift, col shift, correlation, 2 x 2 covariance in pixels^2 ordered row, col).
    """
    reach = 3
    for _ in range(4):
        surface, weights, pieces = _window_correlation(a, b, mask_a, mask_b, row, col, reach)
        peak = np.unravel_index(int(np.argmax(surface)), surface.shape)
        step = (int(peak[0]) - reach, int(peak[1]) - reach)
        if max(abs(step[0]), abs(step[1])) < reach:
            break
        row, col = row + step[0], col + step[1]
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    spline = RectBivariateSpline(offsets, offsets, surface, kx=5, ky=5, s=0)

    def at(row_offset: float, col_offset: float, dy: int, dx: int) -> float:
        return float(spline(np.array([row_offset]), np.array([col_offset]), dx=dy, dy=dx)[0, 0])

    y, x = float(step[0]), float(step[1])
    for _ in range(20):  # Newton's steps on a smooth hill, held within one pixel of the best sample
        g = np.array([at(y, x, 1, 0), at(y, x, 0, 1)])
        h = np.array([[at(y, x, 2, 0), at(y, x, 1, 1)], [at(y, x, 1, 1), at(y, x, 0, 2)]])
        if np.linalg.eigvalsh(h)[-1] >= 0:
            break
        move = np.linalg.solve(h, -g)
        y = float(np.clip(y + move[0], step[0] - 1, step[0] + 1))
        x = float(np.clip(x + move[1], step[1] - 1, step[1] + 1))
        if float(np.max(np.abs(move))) < 1e-6:
            break
    return row + y, col + x, at(y, x, 0, 0), _covariance(*pieces, weights)


def _window_correlation(
    a: FloatImage, b: FloatImage, mask_a: FloatImage, mask_b: FloatImage, row: int, col: int, reach: int
) -> tuple[FloatImage, FloatImage, tuple[FloatImage, FloatImage]]:
    """Weighted correlation for shifts within ``reach`` of (row, col), the window fixed on the reference.

    Returns the (2 * reach + 1)^2 surface, the weights, and the two pieces that lie on each other at
    (row, col).
    """
    rows, cols = a.shape
    top, bottom = max(0, -row + reach), min(rows, rows - row - reach)
    left, right = max(0, -col + reach), min(cols, cols - col - reach)
    piece = a[top:bottom, left:right]
    w = np.outer(tukey(piece.shape[0], TAPER), tukey(piece.shape[1], TAPER)) * mask_a[top:bottom, left:right]
    size = 2 * reach + 1
    surface = np.zeros((size, size))
    middle = b[top + row : bottom + row, left + col : right + col]
    free, whole = _planes(w), bool(mask_b.all())
    for i in range(size):
        for j in range(size):
            at = np.s_[
                top + row + i - reach : bottom + row + i - reach,
                left + col + j - reach : right + col + j - reach,
            ]
            ww = w if whole else w * mask_b[at]
            basis = free if whole else _planes(ww)
            wa, wb = ww * piece, ww * b[at]
            # What a plane explains in either piece is no likeness.
            pa, pb = basis @ wa.ravel(), basis @ wb.ravel()
            var_a = float(np.vdot(wa, piece) - pa @ pa)
            var_b = float(np.vdot(wb, b[at]) - pb @ pb)
            floor = 1e-12 * max(float(ww.sum()), 1.0)
            covariance = float(np.vdot(wa, b[at]) - pa @ pb)
            surface[i, j] = covariance / math.sqrt(max(var_a, floor) * max(var_b, floor))
    both = w * mask_b[top + row : bottom + row, left + col : right + col]
    return surface, both, (piece, middle)


def _planes(w: FloatImage) -> FloatImage:
    """1, row and column made orthonormal under the weights ``w``: (3, pixels)."""
    rows, cols = np.mgrid[-1.0 : 1.0 : w.shape[0] * 1j, -1.0 : 1.0 : w.shape[1] * 1j]
    root = np.sqrt(w.ravel())
    q, _ = np.linalg.qr(np.stack([root, root * rows.ravel(), root * cols.ravel()], axis=1))
    basis: FloatImage = q.T / np.maximum(root, 1e-9)
    return basis


def _covariance(piece: FloatImage, other: FloatImage, w: FloatImage) -> npt.NDArray[np.float64]:
    """Covariance (pixels^2; row, col) of the least-squares shift, for residuals of any colour.

    With gradients g, h of the two frames and residual e, cov = J^-1 (sum_k C_ee(k) C_gg(k)) J^-1 and
    J = sum w g h^T.
    """
    total = max(float(w.sum()), 1e-12)
    pa, pb = piece - float((w * piece).sum()) / total, other - float((w * other).sum()) / total
    gain = float((w * pa * pb).sum()) / max(float((w * pb * pb).sum()), 1e-12)
    # A slope or a contrast of the whole frame is no feature: plane and gain were free, so project them out.
    rows, cols = np.mgrid[-1.0 : 1.0 : pa.shape[0] * 1j, -1.0 : 1.0 : pa.shape[1] * 1j]
    free = np.stack([np.ones(pa.size), rows.ravel(), cols.ravel(), pb.ravel()])
    normal = (free * w.ravel()) @ free.T + 1e-9 * total * np.eye(4)

    def without_free(z: npt.NDArray[Any]) -> FloatImage:
        part: FloatImage = z - (np.linalg.solve(normal, free @ (w * z).ravel()) @ free).reshape(z.shape)
        return part

    gy, gx = (without_free(np.asarray(g)) for g in np.gradient(pa))
    # What a small remaining shift explains is no noise.
    design = np.stack([np.ravel(gy), np.ravel(gx)], axis=1)
    root = np.sqrt(np.ravel(w))
    residual = np.ravel(pa - gain * pb)
    fit = np.linalg.lstsq(design * root[:, None], residual * root, rcond=None)[0]
    e = (residual - design @ fit).reshape(pa.shape) * np.sqrt(w)
    fe = np.abs(scipy.fft.rfft2(e)) ** 2
    fy, fx = scipy.fft.rfft2(gy * np.sqrt(w)), scipy.fft.rfft2(gx * np.sqrt(w))
    twice = np.full(fe.shape, 2.0)  # the half spectrum that rfft2 leaves out
    twice[:, 0] = 1.0
    if pa.shape[1] % 2 == 0:
        twice[:, -1] = 1.0

    def overlap(p: npt.NDArray[np.complex128], q: npt.NDArray[np.complex128]) -> float:
        return float((twice * fe * (np.conj(p) * q).real).sum()) / pa.size**2

    meat = np.array([[overlap(fy, fy), overlap(fy, fx)], [overlap(fy, fx), overlap(fx, fx)]])
    # Only slopes that both frames show count: noise has slopes too, but not the same ones.
    hy, hx = np.gradient(gain * pb)
    mixed = float((w * (gy * hx + gx * hy)).sum()) / 2
    jacobian = np.array([[float((w * gy * hy).sum()), mixed], [mixed, float((w * gx * hx).sum())]])
    size, axes = np.linalg.eigh(jacobian)
    # Slopes of unrelated noise agree by chance, too (Bartlett): along an axis on which they agree by little
    # more than that, nothing fixes the position.
    fg = scipy.fft.rfft2((axes[0, 0] * gy + axes[1, 0] * gx) * np.sqrt(w))
    fh = scipy.fft.rfft2((axes[0, 0] * hy + axes[1, 0] * hx) * np.sqrt(w))
    pg, ph = np.abs(fg) ** 2, np.abs(fh) ** 2
    chance = math.sqrt(float((twice * pg * ph).sum()) / pa.size)
    alike = math.sqrt(float((twice * pg).sum()) * float((twice * ph).sum())) / pa.size
    if size[0] < SLOPE_SIGMA * chance and size[0] < SLOPE_SHARE * alike:
        return np.outer(axes[:, 0], axes[:, 0]) * float(max(pa.shape)) ** 2
    bread = (axes / np.maximum(size, 1e-9 * float(total))) @ axes.T
    covariance: npt.NDArray[np.float64] = bread @ meat @ bread
    return covariance
