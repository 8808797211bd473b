"""The current over a frame as a map: where |I| is the setpoint, and how it falls from there.

At the nodes of a square grid the double sum over sample and tip atoms (``physics.tunneling``) is done with
its first three derivatives by height, which cost nothing more than one exponential per pair::

    ln |I(z)| = ln setpoint - s y + c y^2 / 2 + k y^3 / 6,      y = z - z0

between the nodes z0, s, c and k are interpolated bicubically.  For the sum all pairs of a sample and a tip
atom near a block of nodes become one list of virtual atoms P = r_i - t_j with weights W_ij, since the
distance of a pair depends on the tip's place r through |r - P| alone.  Pairs below ``CUT`` of the largest
are left out.  Tests compare with the direct sum: within 1 % at heights up to 0.1 nm from the setpoint's.

Kernels count in nm, single precision, along the frame's own axes (u fast, v slow, origin in the frame's
centre).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from sim_hardware.dataset.fast_math import FAST, F, exp32

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

SPACING_NM = 0.045
"""Of the nodes."""
CUT = 11.0
"""Exponent below the foremost pair's at which pairs are left out."""
BLOCK = 8
"""Nodes along an edge of a block that shares a list of pairs."""
_TRUST_NM = 0.03
"""The expansion is made anew where it would be used farther than this from its place."""
_ITERATIONS = 12
_MARGIN_NM = 0.06
"""So much lower than where a block is entered the tip may go within it before the cut is felt."""
_LARGEST_STEP_NM = 0.2
LOWEST_NM = 0.03
"""Sums are never taken nearer to the uppermost atom than this; below, the expansion goes on."""


@dataclass(frozen=True)
class PairTable:
    """Sample and tip atoms for one bias, nm and units of the setpoint.

    ``atoms`` (3, n) and ``tip`` (3, m): coordinates along the frame's axes; ``weights`` (n, m): G0 |W_ij|
    over the setpoint, times exp(2 kappa contact); ``decay``: 2 kappa (1/nm).
    """

    atoms: Singles
    tip: Singles
    weights: Singles
    decay: float


@dataclass(frozen=True)
class CurrentMap:
    """Nodes at (``u0`` + column ``step``, ``v0`` + row ``step``) nm; ``coefficients`` (rows, columns, 4): z0
    (nm), s (1/nm), c (1/nm^2), k (1/nm^3)."""

    u0: float
    v0: float
    step: float
    coefficients: Singles

    def at(self, u_nm: Floats, v_nm: Floats) -> Singles:
        """z0, s, c and k at places (n,) within the nodes: (n, 4)."""
        out = np.empty((u_nm.size, 4), dtype=np.float32)
        columns = (np.asarray(u_nm) - self.u0) / self.step
        rows = (np.asarray(v_nm) - self.v0) / self.step
        interpolated(columns, rows, self.coefficients, out)
        return out


@dataclass(frozen=True)
class Grid:
    """Nodes that cover a rectangle with one and a half steps to spare."""

    u0: float
    v0: float
    step: float
    columns: int
    rows: int

    @classmethod
    def over(cls, u_nm: Floats, v_nm: Floats, step: float = SPACING_NM) -> Grid:
        """Around places of any shape."""
        u0, v0 = float(u_nm.min()) - 1.5 * step, float(v_nm.min()) - 1.5 * step
        columns = math.ceil((float(u_nm.max()) - u0) / step) + 3
        rows = math.ceil((float(v_nm.max()) - v0) / step) + 3
        return cls(u0, v0, step, columns, rows)

    def places(self) -> tuple[Floats, Floats]:
        """u and v of all nodes: (rows, columns) each."""
        u = self.u0 + self.step * np.arange(self.columns)
        v = self.v0 + self.step * np.arange(self.rows)
        return np.broadcast_to(u, (self.rows, self.columns)), np.broadcast_to(
            v[:, None], (self.rows, self.columns)
        )


def map_of_pairs(pairs: PairTable, grid: Grid) -> CurrentMap:
    """The compiled sum at all nodes."""
    out = np.empty((grid.rows, grid.columns, 4), dtype=np.float32)
    order = np.argsort(pairs.atoms[1], kind="stable")
    atoms = np.ascontiguousarray(pairs.atoms[:, order])
    weights = np.ascontiguousarray(pairs.weights[order].T)
    _fill(grid.u0, grid.v0, grid.step, atoms, pairs.tip, weights, pairs.decay, out)
    return CurrentMap(grid.u0, grid.v0, grid.step, out)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _sums(u, v, z, pu, pv, pz, weight, decay, reference):  # type: ignore[no-untyped-def]
    """Sum of w exp(decay (reference - d)) and its first three derivatives by z, each over -decay."""
    total, first, second, third = F(0.0), F(0.0), F(0.0), F(0.0)
    for i in range(pu.size):
        du, dv, dz = u - pu[i], v - pv[i], z - pz[i]
        distance = math.sqrt(du * du + dv * dv + dz * dz)
        inverse = F(1.0) / distance
        share = weight[i] * exp32(decay * (reference - distance))
        fall = dz * inverse
        total += share
        first += share * fall
        bent = (F(1.0) - fall * fall) * inverse
        second += share * (bent - decay * fall * fall)
        third += share * fall * (decay * decay * fall * fall - F(3.0) * bent * (decay + inverse))
    return total, first, second, third


@njit(cache=True, nogil=True)
def _gather(low_u, high_u, low_v, high_v, lowest, top, atoms, tip, weights, decay, pairs):  # type: ignore[no-untyped-def]
    """Fill ``pairs`` (4, room) with the virtual atoms that count in a block; their number.

    ``lowest``: the lowest height that the tip's origin may have there, ``top`` that of the uppermost atom.
    """
    found = 0
    far = lowest - top + CUT / decay
    room = pairs.shape[1]
    for j in range(tip.shape[1]):
        lift = lowest - top + tip[2, j]
        square = far * far - lift * lift
        if square <= 0.0:
            continue
        reach = math.sqrt(square)
        left, right = low_u + tip[0, j] - reach, high_u + tip[0, j] + reach
        near, beyond = low_v + tip[1, j] - reach, high_v + tip[1, j] + reach
        first = np.searchsorted(atoms[1], near)
        for i in range(first, atoms.shape[1]):
            if atoms[1, i] > beyond:
                break
            if atoms[0, i] < left or atoms[0, i] > right:
                continue
            u, v, z = atoms[0, i] - tip[0, j], atoms[1, i] - tip[1, j], atoms[2, i] - tip[2, j]
            du = max(low_u - u, 0.0, u - high_u)
            dv = max(low_v - v, 0.0, v - high_v)
            depth = lowest - z
            if du * du + dv * dv + depth * depth < far * far and found < room:
                pairs[0, found], pairs[1, found], pairs[2, found] = u, v, z
                pairs[3, found] = weights[j, i]
                found += 1
    return found


@njit(cache=True, nogil=True)
def _settle(u, v, z, floor, pairs, found, decay, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (4,) for a node by Newton's method from height ``z``; returns the height of the last
    sum."""
    slope, bend, twist, miss = decay, F(0.0), F(0.0), F(0.0)
    level = F(0.0)
    pu, pv, pz, weight = pairs[0, :found], pairs[1, :found], pairs[2, :found], pairs[3, :found]
    for _ in range(_ITERATIONS):
        total, first, second, third = _sums(u, v, z, pu, pv, pz, weight, decay, z)
        if total <= 0.0:
            break
        # The sum is in units of exp(-decay z).
        level = math.log(total) - decay * z
        slope = decay * first / total
        second, third = -decay * second / total, -decay * third / total
        bend = second - slope * slope
        twist = third + F(3.0) * slope * second - F(2.0) * slope * slope * slope
        miss = level / slope
        if abs(miss) < _TRUST_NM or (miss < 0.0 and z <= floor):
            break
        step = min(max(miss, -F(_LARGEST_STEP_NM)), F(_LARGEST_STEP_NM))
        z = max(z + step, floor)
    away = miss
    if abs(miss) >= _TRUST_NM:
        out[0], out[1], out[2], out[3] = z + away, slope, F(0.0), F(0.0)
        return z
    # From the expansion about z to that about the height where it is 0.
    for _ in range(2):
        value = level - away * (slope - away * (F(0.5) * bend + twist * away / F(6.0)))
        away += value / (slope - away * (bend + F(0.5) * twist * away))
    out[0], out[1] = z + away, slope - away * (bend + F(0.5) * twist * away)
    out[2], out[3] = bend + twist * away, twist
    return z


@njit(cache=True, nogil=True)
def _fill(u0, v0, step, atoms, tip, weights, decay64, out):  # type: ignore[no-untyped-def]
    """All nodes, block by block; each node starts where the last one ended."""
    rows, columns = out.shape[0], out.shape[1]
    decay = F(decay64)
    top = atoms[2].max()
    floor = F(top + LOWEST_NM)
    pairs = np.empty((4, atoms.shape[1] * tip.shape[1]), dtype=np.float32)
    height = floor + F(0.5)
    for row in range(0, rows, BLOCK):
        for number in range((columns + BLOCK - 1) // BLOCK):
            # To and fro, so that neighbours follow each other.
            block = number if (row // BLOCK) % 2 == 0 else (columns - 1) // BLOCK - number
            column = block * BLOCK
            last_row, last_column = min(row + BLOCK, rows), min(column + BLOCK, columns)
            low_u, high_u = u0 + step * column, u0 + step * (last_column - 1)
            low_v, high_v = v0 + step * row, v0 + step * (last_row - 1)
            lowest = max(height - F(_MARGIN_NM), floor)
            if row + number == 0:
                found = _gather(low_u, high_u, low_v, high_v, floor, top, atoms, tip, weights, decay, pairs)
                height = _settle(F(low_u), F(low_v), height, floor, pairs, found, decay, out[0, 0])
                lowest = max(height - F(_MARGIN_NM), floor)
            found = _gather(low_u, high_u, low_v, high_v, lowest, top, atoms, tip, weights, decay, pairs)
            for r in range(row, last_row):
                for k in range(last_column - column):
                    c = column + k if (r - row) % 2 == 0 else last_column - 1 - k
                    u, v = F(u0 + step * c), F(v0 + step * r)
                    height = _settle(u, v, height, floor, pairs, found, decay, out[r, c])


@njit(cache=True, nogil=True)
def interpolated(columns, rows, values, out):  # type: ignore[no-untyped-def]
    """Catmull-Rom interpolation of ``values`` (rows, columns, k) at fractional indices (n,), into ``out``
    (n, k)."""
    across, along = np.empty(4), np.empty(4)
    count = values.shape[2]
    for n in range(columns.size):
        left = min(max(int(columns[n]), 1), values.shape[1] - 3)
        low = min(max(int(rows[n]), 1), values.shape[0] - 3)
        _cubic(columns[n] - left, across)
        _cubic(rows[n] - low, along)
        for k in range(count):
            total = 0.0
            for i in range(4):
                part = 0.0
                for j in range(4):
                    part += across[j] * values[low - 1 + i, left - 1 + j, k]
                total += along[i] * part
            out[n, k] = total


@njit(cache=True, inline="always")
def _cubic(t, weights):  # type: ignore[no-untyped-def]
    """Weights of the four neighbours."""
    weights[0] = t * (-0.5 + t * (1.0 - 0.5 * t))
    weights[1] = 1.0 + t * t * (-2.5 + 1.5 * t)
    weights[2] = t * (0.5 + t * (2.0 - 1.5 * t))
    weights[3] = t * t * (-0.5 + 0.5 * t)
