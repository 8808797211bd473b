"""Windows, what was found in them, and how the next one is chosen.

Three ways (``ZoomSection.selection``): "sum", as Narasimha et al.: the place of the smaller window with
the largest sum of predicted scalars; "peak": about the best supported measured point; "random": the
control.  A window never leaves its parent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.analysis.scalarizers import STANDS_OUT, Background, background_of
from protocols.errors import UsageError
from protocols.messages.campaign import ZoomSection

Floats = npt.NDArray[np.float64]

_ALTERNATIVES = 6
_SLIDES = 41
"""Positions of the sliding window along either axis."""
_NEIGHBOUR_SHARE = 0.012
"""Points closer than this share of the window's width should agree: they see the same structure."""
_CONTRADICTED = 0.35
"""What is left of a point's score when a neighbour that close lies at the background."""
_HANDED_DOWN = 3


@dataclass(frozen=True)
class Window:
    """A square part of the surface, in sample coordinates (m, rad).  ``level`` indexes the campaign's
    widths."""

    index: int
    level: int
    centre_x_m: float
    centre_y_m: float
    width_m: float
    angle_rad: float = 0.0
    parent: int = -1

    def to_frame(self, x_m: npt.ArrayLike, y_m: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Coordinates (m) along the window's own axes, from its centre."""
        dx = np.asarray(x_m, dtype=float) - self.centre_x_m
        dy = np.asarray(y_m, dtype=float) - self.centre_y_m
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return c * dx + s * dy, c * dy - s * dx

    def to_sample(self, u_m: float, v_m: float) -> tuple[float, float]:
        """Sample coordinates (m) of a place given along the window's own axes."""
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return self.centre_x_m + c * u_m - s * v_m, self.centre_y_m + s * u_m + c * v_m

    def contains(self, x_m: npt.ArrayLike, y_m: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether places lie within the window."""
        u, v = self.to_frame(x_m, y_m)
        half = 0.5 * self.width_m * (1.0 + 1e-9)
        inside: npt.NDArray[np.bool_] = (np.abs(u) <= half) & (np.abs(v) <= half)
        return inside

    def place_inside(self, x_m: float, y_m: float, width_m: float) -> tuple[float, float]:
        """Centre of a window of ``width_m`` about a place, moved just so far that it stays within this
        one."""
        room = 0.5 * max(0.0, self.width_m - width_m)
        u, v = self.to_frame(x_m, y_m)
        return self.to_sample(float(np.clip(u, -room, room)), float(np.clip(v, -room, room)))


@dataclass(frozen=True)
class MeasuredPoint:
    """A valid spectrum: where (sample coordinates, m), its scalar, its measurement's id, what the
    classifier said."""

    x_m: float
    y_m: float
    value: float
    job_id: str
    label: str = ""


@dataclass(frozen=True)
class WindowResult:
    """What a window has shown: its measured points, and the prediction at its candidates (arrays of one
    length).

    ``on_raster``: which candidates are evenly spread (sums count these alone); None: all.
    """

    points: tuple[MeasuredPoint, ...]
    x_m: Floats
    y_m: Floats
    mean: Floats
    std: Floats
    on_raster: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class WindowChoice:
    """The next window's centre, how it scored, why, and the next best (x, y, score).

    ``handed_down``: places in it which should be measured first; ``expected``: the scalar found there,
    NaN if none.
    """

    centre_x_m: float
    centre_y_m: float
    score: float
    reason: str
    alternatives: tuple[tuple[float, float, float], ...] = ()
    handed_down: tuple[tuple[float, float], ...] = ()
    expected: float = math.nan


def choose_window(
    result: WindowResult, current: Window, width_m: float, section: ZoomSection, seed: int
) -> WindowChoice:
    """Where the next, smaller window goes.

    Args:
        result: what the current window has shown.
        current: the current window.
        width_m: width of the next one.
        section: how to choose.
        seed: of the random choice.

    Raises:
        UsageError: the next window is wider than the current one.
    """
    if width_m > current.width_m * (1.0 + 1e-9):
        raise UsageError(f"a window of {width_m:g} m does not fit into one of {current.width_m:g} m")
    if section.selection == "random":
        return _random(current, width_m, seed)
    if section.selection == "peak" and any(math.isfinite(p.value) for p in result.points):
        return _peak(result, current, width_m)
    return _largest_sum(result, current, width_m)


def _random(current: Window, width_m: float, seed: int) -> WindowChoice:
    rng = np.random.default_rng((seed, 3, current.index))
    u, v = rng.uniform(-0.5, 0.5, size=2) * (current.width_m - width_m)
    x, y = current.to_sample(float(u), float(v))
    return WindowChoice(x, y, 0.0, "drawn at random (control)")


def support(points: Sequence[MeasuredPoint], background: Background, near_m: float) -> Floats:
    """How much each point is a find, shape (n,): its height above the background in spreads, weighed by
    what its neighbours within ``near_m`` say.

    Neighbours that are high as well raise it (by up to a quarter); neighbours at the background, closer
    than that, lower it: one noisy spectrum must not choose the window.
    """
    z = np.array([background.significance(p.value) for p in points])
    x, y = np.array([p.x_m for p in points]), np.array([p.y_m for p in points])
    out = z.copy()
    for i in range(len(points)):
        if z[i] <= STANDS_OUT:
            continue
        near = (np.hypot(x - x[i], y - y[i]) <= near_m) & (np.arange(len(points)) != i)
        if not near.any():
            continue
        agreement = float(np.clip(z[near].max() / z[i], 0.0, 1.0))
        out[i] = z[i] * (1.25 if agreement > 0.5 else _CONTRADICTED + (1.0 - _CONTRADICTED) * 2.0 * agreement)
    return out


def best_supported(result: WindowResult) -> MeasuredPoint | None:
    """The measured point that is highest by its own value and by the prediction at its place, whichever
    is less: a single wild spectrum is not believed by a model that knows its neighbours.  None without a
    finite value."""
    finite = [p for p in result.points if math.isfinite(p.value)]
    if not finite:
        return None
    if len(result.x_m) == 0 or not np.isfinite(result.mean).all():
        return max(finite, key=lambda p: (p.value, p.job_id))

    def believed(p: MeasuredPoint) -> float:
        nearest = int(np.argmin((result.x_m - p.x_m) ** 2 + (result.y_m - p.y_m) ** 2))
        return min(p.value, float(result.mean[nearest]))

    return max(finite, key=lambda p: (believed(p), p.value, p.job_id))


def _peak(result: WindowResult, current: Window, width_m: float) -> WindowChoice:
    points = [p for p in result.points if math.isfinite(p.value)]
    background = background_of([p.value for p in points])
    score = support(points, background, _NEIGHBOUR_SHARE * current.width_m)
    order = sorted(range(len(points)), key=lambda i: (-score[i], points[i].job_id))
    best = points[order[0]]
    if score[order[0]] < STANDS_OUT:
        summed = _largest_sum(result, current, width_m)
        return WindowChoice(
            summed.centre_x_m,
            summed.centre_y_m,
            summed.score,
            f"no measured point stands out of the background (best {score[order[0]]:.1f} spreads above it); "
            f"{summed.reason}",
            summed.alternatives,
            ((best.x_m, best.y_m),) if _within(best, summed, current, width_m) else (),
        )
    centre = current.place_inside(best.x_m, best.y_m, width_m)
    chosen = [(best.x_m, best.y_m)]
    alternatives: list[tuple[float, float, float]] = []
    handed = [(best.x_m, best.y_m)]
    for i in order[1:]:
        p = points[i]
        apart = min(math.hypot(p.x_m - x, p.y_m - y) for x, y in chosen)
        inside = _square(current, centre, width_m).contains(p.x_m, p.y_m).all()
        if inside and score[i] >= STANDS_OUT and len(handed) < _HANDED_DOWN:
            handed.append((p.x_m, p.y_m))
        if apart > 0.02 * current.width_m and len(alternatives) < _ALTERNATIVES:
            chosen.append((p.x_m, p.y_m))
            alternatives.append((p.x_m, p.y_m, float(score[i])))
    label = f", labelled {best.label!r}" if best.label else ""
    reason = (
        f"about the best supported point ({best.job_id}{label}): scalar {best.value:.3g}, background "
        f"{background.level:.3g} +- {background.spread:.2g}"
    )
    return WindowChoice(
        *centre, float(score[order[0]]), reason, tuple(alternatives), tuple(handed), best.value
    )


def _square(current: Window, centre: tuple[float, float], width_m: float) -> Window:
    return Window(-1, current.level + 1, *centre, width_m, current.angle_rad)


def _within(point: MeasuredPoint, choice: WindowChoice, current: Window, width_m: float) -> bool:
    square = _square(current, (choice.centre_x_m, choice.centre_y_m), width_m)
    return bool(square.contains(point.x_m, point.y_m).all())


def _largest_sum(result: WindowResult, current: Window, width_m: float) -> WindowChoice:
    """The sliding window with the largest sum of predicted scalars over raster candidates."""
    use = np.ones(len(result.x_m), dtype=bool) if result.on_raster is None else result.on_raster
    if not use.any():
        use = np.ones(len(result.x_m), dtype=bool)
    u, v = current.to_frame(result.x_m[use], result.y_m[use])
    mean = result.mean[use]
    room = 0.5 * max(0.0, current.width_m - width_m)
    slides = np.linspace(-room, room, _SLIDES if room > 0 else 1)
    half = 0.5 * width_m * (1.0 + 1e-9)
    in_u = np.abs(u[None, :] - slides[:, None]) <= half
    in_v = np.abs(v[None, :] - slides[:, None]) <= half
    sums = (in_u * mean) @ in_v.T.astype(float)  # [centre along u, centre along v]
    count = in_u.astype(float) @ in_v.T.astype(float)
    # Windows hold slightly different numbers of raster points; the mean times the usual number is the sum.
    sums = sums / np.maximum(count, 1.0) * float(np.median(count))
    order = np.argsort(-sums, axis=None, kind="stable")
    places: list[tuple[float, float, float]] = []
    for flat in order:
        i, j = np.unravel_index(flat, sums.shape)
        a, b = float(slides[i]), float(slides[j])
        if any(max(abs(a - pa), abs(b - pb)) < 0.5 * width_m for pa, pb, _ in places):
            continue
        places.append((a, b, float(sums[i, j])))
        if len(places) > _ALTERNATIVES:
            break
    named = [(*current.to_sample(a, b), s) for a, b, s in places]
    x, y, score = named[0]
    reason = f"the largest sum of predicted scalars ({score:.4g}) of all windows {width_m * 1e9:g} nm wide"
    return WindowChoice(x, y, score, reason, tuple(named[1:]))
