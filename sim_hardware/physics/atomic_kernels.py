"""Compiled sums over pairs of sample and tip atoms: the formula of ``physics.tunneling``, for every pixel.

Sample atoms lie sorted in square cells, cells in square tiles, so that a place finds its neighbours at once.
A pair is left out when its distance exceeds that straight down to the surface by more than ``CUT`` decay
lengths:
exp(-CUT) = 1e-9 of the foremost pair each, together below 1e-6 of the current (tests against ``currents``);
at
10 it is some 0.1 % and half the work.

Lengths in m; ``currents`` are in units of the prefactor (S) times the weights (V).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CUT = 21.0
"""Exponent 2 kappa (d - d_down) beyond which a pair is left out."""
_FAST = {"contract", "arcp", "nsz", "reassoc"}
"""Reordering of sums, but infinities and NaN as they are."""
_LEAST_GAP_M = 0.05e-9
"""The cut never counts from nearer than this."""
_MISS = 0.15
"""Newton's method ends when ln |I| is within this of what is wanted: exact there, 0.1 % at what is wanted."""
_C2, _C3, _C4, _C5, _C6, _C7 = (1.0 / math.factorial(n) for n in range(2, 8))
_ITERATIONS = 25
_LARGEST_STEP_M = 0.3e-9


class Scene(NamedTuple):
    """Sample atoms around some places.

    ``x``, ``y``, ``z`` (n,) m and ``kind`` (n,), sorted by tile and by cell in the tile; ``starts`` (tiles,
    cells^2 + 1) where the atoms of a cell begin; ``tiles`` (rows, columns) the number of a tile or -1;
    ``low_x``, ``low_y`` m: lower left corner of tile (0, 0); ``cell_m``; ``cells`` along a tile's edge.
    """

    x: Floats
    y: Floats
    z: Floats
    kind: Ints
    starts: Ints
    tiles: Ints
    low_x: float
    low_y: float
    cell_m: float
    cells: int


class TipAtoms(NamedTuple):
    """Tip atoms from the tip's origin: offsets (n,) m, kinds (n,)."""

    x: Floats
    y: Floats
    z: Floats
    kind: Ints


class Decay(NamedTuple):
    """exp(-twice_kappa (d - contact_m)); pairs beyond ``cut`` (``CUT``) are left out."""

    twice_kappa: float
    contact_m: float
    cut: float = CUT


def _compiled(function: Any) -> Any:
    """Compiled once and kept beside the module."""
    return numba.njit(cache=True, fastmath=_FAST, error_model="numpy")(function)


@_compiled
def _box(x, y, reach, scene):  # type: ignore[no-untyped-def]
    """Cells (first column, last, first row, last) within ``reach`` of a place."""
    left = math.floor((x - reach - scene.low_x) / scene.cell_m)
    right = math.floor((x + reach - scene.low_x) / scene.cell_m)
    low = math.floor((y - reach - scene.low_y) / scene.cell_m)
    high = math.floor((y + reach - scene.low_y) / scene.cell_m)
    return left, right, low, high


@_compiled
def _inside(column, row, scene):  # type: ignore[no-untyped-def]
    """Numbers of the atoms in a cell: the first, and one beyond the last."""
    tile_row, tile_column = row // scene.cells, column // scene.cells
    rows, columns = scene.tiles.shape
    if tile_row < 0 or tile_row >= rows or tile_column < 0 or tile_column >= columns:
        return 0, 0
    tile = scene.tiles[tile_row, tile_column]
    if tile < 0:
        return 0, 0
    cell = (row - tile_row * scene.cells) * scene.cells + column - tile_column * scene.cells
    return scene.starts[tile, cell], scene.starts[tile, cell + 1]


@_compiled
def _row_sum(x, y, z, weight, tx, ty, tz, rate, down, far2):  # type: ignore[no-untyped-def]
    """Sums over a few sample atoms of exp(64 rate (down - d)) w, and of that times z / d.

    Written for vector instructions: no branch, and exp(x) as the 64th power of a polynomial, good to 1e-9 of
    the foremost pair.
    """
    total, slope = 0.0, 0.0
    for i in range(x.size):
        dx, dy, dz = tx - x[i], ty - y[i], tz - z[i]
        square = dx * dx + dy * dy + dz * dz
        distance = math.sqrt(square)
        u = rate * (down - distance)
        power = 1.0 + u * (1.0 + u * (_C2 + u * (_C3 + u * (_C4 + u * (_C5 + u * (_C6 + u * _C7))))))
        power *= power
        power *= power
        power *= power
        power *= power
        power *= power
        power *= power
        share = power * weight[i] if square < far2 else 0.0
        total += share
        slope += share * dz / distance
    return total, slope


@_compiled
def _pair_sum(px, py, pz, down, scene, tip, decay, weights):  # type: ignore[no-untyped-def]
    """Sum over pairs of exp(...) w and its derivative by height, for the tip's origin at (px, py, pz).

    ``down``: height of the tip's origin above the uppermost atoms (m); ``weights`` (tip kinds, atoms).
    """
    total, slope = 0.0, 0.0
    far = down + decay.cut / decay.twice_kappa
    rate = decay.twice_kappa / 64.0
    rows, columns = scene.tiles.shape
    for j in range(tip.x.size):
        tx, ty, tz = px + tip.x[j], py + tip.y[j], pz + tip.z[j]
        weight = weights[tip.kind[j]]
        reach2 = far * far - (down + tip.z[j]) ** 2
        if reach2 <= 0.0:
            continue
        reach = math.sqrt(reach2)
        low = math.floor((ty - reach - scene.low_y) / scene.cell_m)
        high = math.floor((ty + reach - scene.low_y) / scene.cell_m)
        for row in range(low, high + 1):
            tile_row = row // scene.cells
            if tile_row < 0 or tile_row >= rows:
                continue
            edge = scene.low_y + row * scene.cell_m
            aside = max(edge - ty, ty - edge - scene.cell_m, 0.0)
            wide = math.sqrt(max(reach2 - aside * aside, 0.0))
            left = max(math.floor((tx - wide - scene.low_x) / scene.cell_m), 0)
            right = min(math.floor((tx + wide - scene.low_x) / scene.cell_m), columns * scene.cells - 1)
            line = (row - tile_row * scene.cells) * scene.cells
            while left <= right:
                column = left // scene.cells
                last = min(right, (column + 1) * scene.cells - 1)
                tile = scene.tiles[tile_row, column]
                if tile >= 0:
                    cell = line + left - column * scene.cells
                    first, stop = scene.starts[tile, cell], scene.starts[tile, cell + last - left + 1]
                    near = scene.x[first:stop], scene.y[first:stop], scene.z[first:stop]
                    more, fall = _row_sum(*near, weight[first:stop], tx, ty, tz, rate, down, far * far)
                    total += more
                    slope -= fall
                left = last + 1
    front = math.exp(decay.twice_kappa * (decay.contact_m - down))
    return total * front, decay.twice_kappa * slope * front


@_compiled
def _line(  # type: ignore[no-untyped-def]
    x, y, surface, start, goal, low_m, high_m, scene, tip, decay, weights, height, log, falls
):
    """Where |sum| is exp(goal), place after place, each from where the last one ended."""
    z = start
    for n in range(x.size):
        value, fall = -np.inf, decay.twice_kappa
        z = min(max(z, surface[n] + low_m), surface[n] + high_m)
        for _ in range(_ITERATIONS):
            down = max(z - surface[n], _LEAST_GAP_M)
            total, slope = _pair_sum(x[n], y[n], z, down, scene, tip, decay, weights)
            total = abs(total)
            if total <= 0.0:
                break
            value, fall = math.log(total), abs(slope) / total
            miss = value - goal
            step = min(max(miss / fall, -_LARGEST_STEP_M), _LARGEST_STEP_M)
            wanted = min(max(z + step, surface[n] + low_m), surface[n] + high_m)
            if abs(miss) < _MISS or wanted == z:
                break
            z = wanted
        height[n], log[n], falls[n] = z, value, fall
        if value > -np.inf:
            z += min(max((value - goal) / fall, -_LARGEST_STEP_M), _LARGEST_STEP_M)


@_compiled
def _kinds(x, y, z, surface, scene, tip, decay, shares, slopes):  # type: ignore[no-untyped-def]
    """Sums of exp(...) by kinds of the pair, and their derivatives, at heights ``z`` above one place."""
    for n in range(z.size):
        down = max(z[n] - surface, _LEAST_GAP_M)
        far = down + decay.cut / decay.twice_kappa
        for j in range(tip.x.size):
            tx, ty, tz = x + tip.x[j], y + tip.y[j], z[n] + tip.z[j]
            kind = tip.kind[j]
            reach2 = far * far - (down + tip.z[j]) ** 2
            if reach2 <= 0.0:
                continue
            left, right, low, high = _box(tx, ty, math.sqrt(reach2), scene)
            for row in range(low, high + 1):
                for column in range(left, right + 1):
                    first, last = _inside(column, row, scene)
                    for i in range(first, last):
                        dx, dy, dz = tx - scene.x[i], ty - scene.y[i], tz - scene.z[i]
                        distance = math.sqrt(dx * dx + dy * dy + dz * dz)
                        if distance < far:
                            share = math.exp(decay.twice_kappa * (decay.contact_m - distance))
                            shares[n, scene.kind[i], kind] += share
                            slopes[n, scene.kind[i], kind] -= decay.twice_kappa * share * dz / distance


@_compiled
def _touch(x, y, radius, scene, tip, height):  # type: ignore[no-untyped-def]
    """Height of the tip's origin at which the first pair comes as near as ``radius``."""
    top = scene.z.max() if scene.z.size else 0.0
    for n in range(x.size):
        highest = -np.inf
        for j in range(tip.x.size):
            if top + radius - tip.z[j] <= highest:
                continue
            tx, ty = x[n] + tip.x[j], y[n] + tip.y[j]
            left, right, low, high = _box(tx, ty, radius, scene)
            for row in range(low, high + 1):
                for column in range(left, right + 1):
                    first, last = _inside(column, row, scene)
                    for i in range(first, last):
                        dx, dy = tx - scene.x[i], ty - scene.y[i]
                        left2 = radius * radius - dx * dx - dy * dy
                        if left2 > 0.0:
                            highest = max(highest, scene.z[i] + math.sqrt(left2) - tip.z[j])
        height[n] = highest


def pair_sums(
    x_m: Floats,
    y_m: Floats,
    z_m: Floats,
    surface_m: Floats,
    scene: Scene,
    tip: TipAtoms,
    decay: Decay,
    weights: Floats,
) -> tuple[Floats, Floats]:
    """Sum over pairs (V, without the prefactor) and its derivative by height at places (n,): (n,) each.

    ``weights`` (sample kinds, tip kinds) in V.
    """
    found = np.empty((2, x_m.size))
    weights = np.ascontiguousarray(weights.T[:, scene.kind])
    for n in range(x_m.size):
        down = max(float(z_m[n] - surface_m[n]), _LEAST_GAP_M)
        found[:, n] = _pair_sum(x_m[n], y_m[n], z_m[n], down, scene, tip, decay, weights)
    return found[0], found[1]


def linearised(
    x_m: Floats,
    y_m: Floats,
    surface_m: Floats,
    log_goal: float,
    between_m: tuple[float, float],
    scene: Scene,
    tip: TipAtoms,
    decay: Decay,
    weights: Floats,
) -> tuple[Floats, Floats, Floats]:
    """Heights (n,) at which ln |sum| is ``log_goal`` within 0.15, the logarithm there, and its fall (1/m).

    Only heights ``between_m`` (low, high) above the uppermost atoms (``surface_m``, (n,)) are tried; at the
    ends the logarithm may be another.  Where nothing conducts the logarithm is minus infinity.
    """
    found = np.empty((3, x_m.size))
    largest = float(np.abs(weights).max())
    of_atoms = np.ascontiguousarray(weights.T[:, scene.kind])
    start = float(surface_m[0]) + decay.contact_m
    if largest > 0.0:
        start += max(0.0, math.log(3.0 * largest) - log_goal) / decay.twice_kappa
    _line(x_m, y_m, surface_m, start, log_goal, *between_m, scene, tip, decay, of_atoms, *found)
    return found[0], found[1], found[2]


def kind_sums(
    x_m: float,
    y_m: float,
    z_m: Floats,
    surface_m: float,
    scene: Scene,
    tip: TipAtoms,
    decay: Decay,
    kinds: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Sums of exp(...) by kinds of sample and tip atom at heights (m,) above one place, and their derivatives
    by height (1/m): (m, sample kinds, tip kinds) each."""
    shares, slopes = np.zeros((2, z_m.size, *kinds))
    _kinds(x_m, y_m, z_m, surface_m, scene, tip, decay, shares, slopes)
    return shares, slopes


def touching(x_m: Floats, y_m: Floats, radius_m: float, scene: Scene, tip: TipAtoms) -> Floats:
    """Heights (n,) of the tip's origin at which its first atom is ``radius_m`` from a sample atom; minus
    infinity where no atom is below."""
    height = np.empty(x_m.size)
    _touch(x_m, y_m, radius_m, scene, tip, height)
    return height
