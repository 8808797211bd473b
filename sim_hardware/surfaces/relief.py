"""Relief that covers a whole surface: lattice, terraces with steps, smooth disorder, tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HexagonalLattice:
    """Atomic corrugation of a hexagonal lattice: three plane waves, peak to peak ``corrugation_m``."""

    constant_m: float
    corrugation_m: float
    angle_rad: float

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), zero mean."""
        k = 4.0 * np.pi / (np.sqrt(3.0) * self.constant_m)
        angles = self.angle_rad + np.pi / 3.0 * np.arange(3)
        waves = sum((np.cos(k * (np.cos(a) * x_m + np.sin(a) * y_m)) for a in angles), np.zeros(x_m.shape))
        return np.asarray(waves * (self.corrugation_m / 4.5))


@dataclass(frozen=True)
class Step:
    """A wavy step edge: going along ``angle_rad`` the surface falls by ``height_m`` at ``distance_m``.

    ``waves`` are (amplitude_m, wavevector 1/m, phase) of the edge's meander, ``width_m`` the standard
    deviation of its profile under the tip.
    """

    height_m: float
    distance_m: float
    angle_rad: float
    waves: tuple[tuple[float, float, float], ...]
    width_m: float

    def beyond_m(self, x_m: Floats, y_m: Floats) -> Floats:
        """Distance (m) beyond the edge; negative on the upper terrace."""
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        along = -sin * x_m + cos * y_m
        edge = sum((a * np.sin(k * along + p) for a, k, p in self.waves), np.zeros(np.shape(x_m)))
        return np.asarray(cos * x_m + sin * y_m - self.distance_m - edge)

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m): 0 on the upper terrace."""
        return np.asarray(-self.height_m * ndtr(self.beyond_m(x_m, y_m) / self.width_m))


def meander(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    """Waves of a step edge as thermal meander leaves it: the longer, the higher."""
    waves = []
    for _ in range(5):
        share, wavelength = rng.uniform(0.3, 1.0), rng.uniform(20e-9, 110e-9)
        amplitude = 0.028 * share * wavelength
        waves.append((float(amplitude), float(2.0 * np.pi / wavelength), float(rng.uniform(0, 2 * np.pi))))
    return tuple(waves)


class Disorder:
    """A smooth random field: ``count`` plane waves with wavelengths between the two given, unit variance."""

    def __init__(self, rng: np.random.Generator, wavelengths_m: tuple[float, float], count: int) -> None:
        k = 2.0 * np.pi / rng.uniform(*wavelengths_m, size=count)
        angle = rng.uniform(0.0, 2.0 * np.pi, size=count)
        self._kx, self._ky = k * np.cos(angle), k * np.sin(angle)
        self._phase = rng.uniform(0.0, 2.0 * np.pi, size=count)
        self._scale = np.sqrt(2.0 / count)

    def value(self, x_m: Floats, y_m: Floats) -> Floats:
        """The field at points of any shape."""
        total = np.zeros(np.shape(x_m))
        for kx, ky, phase in zip(self._kx, self._ky, self._phase, strict=True):
            total += np.cos(kx * x_m + ky * y_m + phase)
        return np.asarray(total * self._scale)
