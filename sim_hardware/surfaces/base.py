"""What every simulated surface offers to the tip, and what it knows of itself.

A surface is a height map (m, positive away from the sample) and a mixture of a few basis spectra: the local
density of states at a point is ``sum_k weights[k] * basis[k]``.  All functions take arrays of sample
coordinates of any one shape and are closed forms, so that any point can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.spectra import Spectrum

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceObject:
    """Something on the surface, as the ground truth tells it."""

    kind: str
    """"adsorbate", "substitution", "vacancy", "step", ..."""
    form: str
    x_m: float
    y_m: float
    size_m: float
    """Full width at half maximum of its relief."""
    height_m: float
    """Largest height or, negative, depth."""
    footprint_m: float
    """Diameter within which its own spectrum has at least a tenth of the weight."""
    spectrum: str
    detail: dict[str, float] = field(default_factory=dict)


class Surface(Protocol):
    """A surface that can be imaged."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def extent_m(self) -> float:
        """Width of the square about the origin in which objects are placed."""

    @property
    def basis(self) -> tuple[Spectrum, ...]:
        """The basis spectra."""

    @property
    def objects(self) -> tuple[SurfaceObject, ...]:
        """Everything on it."""

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""

    def weights(self, x_m: Floats, y_m: Floats) -> Floats:
        """Weights of the basis spectra: shape (k, *coordinates), summing to 1."""


def true_spectrum(surface: Surface, x_m: float, y_m: float, energy_v: Floats) -> Floats:
    """The noise-free relative density of states at one point (shape of ``energy_v``)."""
    weight = surface.weights(np.array([x_m]), np.array([y_m]))[:, 0]
    return sum(
        (w * s.density(energy_v) for w, s in zip(weight, surface.basis, strict=True)),
        np.zeros(np.shape(energy_v)),
    )


def integrals(surface: Surface, bias_v: float) -> Floats:
    """Signed LDOS integral (V) of every basis spectrum at one bias: shape (k,)."""
    return np.array([float(s.integral(bias_v)) for s in surface.basis])
