"""What crashes leave on the surface: a crater with a rim where the tip hit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NM = 1e-9
WITHIN = 6.0
"""Radii beyond which a crater adds nothing."""


@dataclass(frozen=True)
class Crater:
    """At a place of the sample: radius and depth (m), and the height of its rim (m)."""

    x_m: float
    y_m: float
    radius_m: float
    depth_m: float
    rim_m: float

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) that it adds, any shape."""
        r = np.hypot(x_m - self.x_m, y_m - self.y_m) / self.radius_m
        hole = -self.depth_m * np.exp(-(r**2))
        rim = self.rim_m * np.exp(-(((r - 1.6) / 0.5) ** 2))
        return np.where(r < WITHIN, hole + rim, 0.0)


def crater_at(x_m: float, y_m: float, seed: int, number: int) -> Crater:
    """The crater of the ``number``-th crash: a function of its arguments, so a restart finds it again."""
    rng = np.random.default_rng([seed, 0xC8A7E8, number])
    radius = float(rng.uniform(1.0, 2.5)) * NM
    return Crater(x_m, y_m, radius, float(rng.uniform(0.3, 0.9)) * NM, float(rng.uniform(0.2, 0.6)) * NM)


def total_relief(craters: tuple[Crater, ...], x_m: Floats, y_m: Floats) -> Floats:
    """The sum of all craters (m)."""
    total = np.zeros(np.shape(x_m))
    for crater in craters:
        total += crater.relief(x_m, y_m)
    return total
