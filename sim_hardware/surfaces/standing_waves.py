"""Standing waves of a surface state as tables, so that a line of an image costs milliseconds.

An impurity's wave at distance r is ``D(E) Re[t H0(k r)^2]`` and a step's ``-D(E) r J0(2 k x)``
(``physics.surface_state``, formulas and sources; each impurity by itself, without paths between several).
The Hankel and Bessel functions know nothing of the impurity, so one table of distance and energy serves all
kinds: for one bias it is contracted with the weights of ``energy_integrals`` to one curve of distance for
each kind, which is read by linear interpolation.

Two tapers, which an endless wave would not have, bound the tables: every wave ends smoothly between ``TAPER``
times its reach and its reach, and between ``FADE_FROM_V`` and ``FADE_TO_V`` above the Fermi level, where hot
electrons live too short to come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import hankel1, j0

from sim_hardware.physics.surface_state import Impurity, SurfaceState

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

NM = 1e-9
REACH_M = 36 * NM
STEP_M = 0.02 * NM
TAPER = 0.75
FADE_FROM_V, FADE_TO_V = 1.2, 1.8
LOWEST_V = -0.80
"""Below this, half an electronvolt under the band, there are no waves."""
ENERGY_STEP_V = 2.5e-3
_ASYMPTOTIC = 6.0
"""|k r| from which the asymptotic series of the Hankel function is right to 1e-4."""
_SERIES = (-1.0 / 8.0, 9.0 / 128.0, -225.0 / 3072.0, 11025.0 / 98304.0)
_LEAST_KR = 1e-3
_POINTS_AT_ONCE = 4096


def wave_energies() -> Floats:
    """The energies (V) at which waves are tabulated."""
    count = round((FADE_TO_V - LOWEST_V) / ENERGY_STEP_V) + 1
    return np.linspace(LOWEST_V, FADE_TO_V, count)


def energy_taper(energy_v: Floats) -> Floats:
    """1 where waves are whole, 0 where there are none: any shape."""
    above = np.clip((energy_v - FADE_FROM_V) / (FADE_TO_V - FADE_FROM_V), 0.0, 1.0)
    below = np.clip((energy_v - LOWEST_V) / (10.0 * ENERGY_STEP_V), 0.0, 1.0)
    return np.asarray(0.25 * (1.0 + np.cos(np.pi * above)) * (1.0 - np.cos(np.pi * below)))


def distance_taper(distance_m: Floats) -> Floats:
    """1 near the source, 0 beyond the reach: any shape."""
    beyond = np.clip((distance_m / REACH_M - TAPER) / (1.0 - TAPER), 0.0, 1.0)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * beyond))


def squared_hankel(kr: Complexes) -> Complexes:
    """H0(kr)^2 of the first kind: to 1e-4 of itself, any shape."""
    out = np.empty(kr.shape, dtype=np.complex128)
    far = np.abs(kr) >= _ASYMPTOTIC
    z = kr[far]
    inverse = 1j / z
    series = 1.0 + inverse * (
        _SERIES[0] + inverse * (_SERIES[1] + inverse * (_SERIES[2] + inverse * _SERIES[3]))
    )
    out[far] = -2j / (np.pi * z) * np.exp(2j * z) * series**2
    out[~far] = hankel1(0, kr[~far]) ** 2
    return out


def impurity_wave(state: SurfaceState, impurity: Impurity, distance_m: Floats, energy_v: Floats) -> Floats:
    """D(E) Re[t H0(k r)^2], faded in the core and tapered, directly: distance and energy broadcast."""
    k = state.complex_wave_vector(energy_v)
    kr = np.maximum(distance_m, _LEAST_KR / np.maximum(np.abs(k), 1.0)) * k
    wave = (impurity.scattering * hankel1(0, kr) ** 2).real
    fading = (1.0 - impurity.core(distance_m)) * distance_taper(distance_m)
    return np.asarray(state.density(energy_v) * energy_taper(energy_v) * wave * fading)


def step_wave(state: SurfaceState, distance_m: Floats, energy_v: Floats) -> Floats:
    """-D(E) J0(2 k x) for a reflection of 1, damped and tapered, directly: shapes broadcast."""
    k = state.complex_wave_vector(energy_v)
    wave = j0(2.0 * k.real * distance_m) * np.exp(-2.0 * k.imag * distance_m)
    return np.asarray(-state.density(energy_v) * energy_taper(energy_v) * wave * distance_taper(distance_m))


@dataclass(frozen=True)
class WaveTable:
    """``energies_v`` (e,); ``impurity`` (d, e) complex: D H0(k r)^2; ``step`` (d, e) real; distances are
    multiples of ``STEP_M``.  Both tapered, not yet faded in a core."""

    energies_v: Floats
    impurity: npt.NDArray[np.complex64]
    step: npt.NDArray[np.float32]

    @property
    def distances_m(self) -> Floats:
        """(d,)."""
        return np.arange(len(self.step), dtype=np.float64) * STEP_M


@lru_cache(maxsize=4)
def wave_table(state: SurfaceState) -> WaveTable:
    """The table of a surface state: half a second the first time, 23 MB."""
    energies = wave_energies()
    distances = np.arange(round(REACH_M / STEP_M) + 1, dtype=np.float64) * STEP_M
    k = state.complex_wave_vector(energies)
    away = np.maximum(distances[:, None], _LEAST_KR / np.abs(k))
    weight = state.density(energies) * energy_taper(energies) * distance_taper(distances)[:, None]
    impurity = (weight * squared_hankel(away * k)).astype(np.complex64)
    step = step_wave(state, distances[:, None], energies).astype(np.float32)
    return WaveTable(energies, impurity, step)


def read(curve: Floats | npt.NDArray[np.float32], distance_m: Floats) -> Floats:
    """A curve of distance (d, ...) at distances of any shape, linear in between, 0 beyond its end."""
    scaled = np.minimum(distance_m * (1.0 / STEP_M), len(curve) - 1.000001)
    left = scaled.astype(np.intp)
    share = (scaled - left).reshape(*scaled.shape, *(1,) * (curve.ndim - 1))
    low = curve[left]
    return np.asarray(low + share * (curve[left + 1] - low))


class PointScatterers:
    """Impurities of several kinds at known places.

    ``kinds``: scatterer of each kind (its own position is not used); ``kind`` (n,) picks one for each place
    ``x_m``, ``y_m`` (n,).
    """

    def __init__(
        self,
        table: WaveTable,
        kinds: tuple[Impurity, ...],
        kind: npt.NDArray[np.intp],
        x_m: Floats,
        y_m: Floats,
    ) -> None:
        self.table = table
        self.kinds = kinds
        self.kind, self.x_m, self.y_m = kind, x_m, y_m
        self._fading = np.array([1.0 - k.core(table.distances_m) for k in kinds]).reshape(len(kinds), -1)
        self._core = np.array([k.core(table.distances_m) for k in kinds]).reshape(len(kinds), -1)

    def curves(self, weights: Floats, bound: Floats) -> Floats:
        """Wave and core of each kind against distance: (kinds, d).

        ``weights`` (e,) of the table's energies; ``bound`` (kinds,) the weighted integral of bound states.
        """
        wave = self.table.impurity @ weights.astype(np.complex64)
        curves = [
            (kind.scattering * wave).real * fading + held * core
            for kind, fading, core, held in zip(self.kinds, self._fading, self._core, bound, strict=True)
        ]
        return np.array(curves, dtype=np.float64).reshape(len(self.kinds), -1)

    def summed(self, curves: Floats, x_m: Floats, y_m: Floats) -> Floats:
        """Sum over all impurities of their kind's curve at points (n,): (n,)."""
        total = np.zeros(x_m.shape)
        for start in range(0, x_m.size, _POINTS_AT_ONCE):
            part = slice(start, start + _POINTS_AT_ONCE)
            total[part] = self._part(curves, x_m[part], y_m[part])
        return total

    def _part(self, curves: Floats, x: Floats, y: Floats) -> Floats:
        total = np.zeros(x.shape)
        near = self.near(x, y)
        for kind, curve in enumerate(curves):
            which = near[self.kind[near] == kind]
            if which.size:
                distance = np.hypot(x - self.x_m[which, None], y - self.y_m[which, None])
                total += read(curve, distance).sum(axis=0)
        return total

    def near(self, x: Floats, y: Floats) -> npt.NDArray[np.intp]:
        """Indices of impurities whose waves may reach any of these points."""
        if not x.size:
            return np.zeros(0, dtype=np.intp)
        close = (
            (self.x_m > x.min() - REACH_M)
            & (self.x_m < x.max() + REACH_M)
            & (self.y_m > y.min() - REACH_M)
            & (self.y_m < y.max() + REACH_M)
        )
        return np.nonzero(close)[0]

    def spectrum(self, x_m: float, y_m: float) -> tuple[Floats, Floats]:
        """At one point: the sum of all waves against the table's energies (e,), and how much of each kind's
        core is there (kinds,)."""
        near = self.near(np.array([x_m]), np.array([y_m]))
        distance = np.hypot(x_m - self.x_m[near], y_m - self.y_m[near])
        near, distance = near[distance < REACH_M], distance[distance < REACH_M]
        waves, cores = np.zeros(len(self.table.energies_v)), np.zeros(len(self.kinds))
        for index, away in zip(self.kind[near], distance, strict=True):
            kind = self.kinds[int(index)]
            row, share = divmod(float(away) / STEP_M, 1.0)
            low, high = self.table.impurity[int(row)], self.table.impurity[int(row) + 1]
            core = float(kind.core(np.asarray(away)))
            waves += (kind.scattering * (low + share * (high - low))).real * (1.0 - core)
            cores[int(index)] += core
        return waves, cores
