"""What every simulated surface offers to the tip, and what it knows of itself.

A surface knows where everything on it is, tells the true density of states at any point, and makes the
junction between itself and a tip.  The simplest kind is a height map with a mixture of a few basis spectra
(``MixtureSurface``): the local density of states at a point is ``sum_k weights[k] * basis[k]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.spectra import Spectrum

if TYPE_CHECKING:
    from sim_hardware.junction import Junction
    from sim_hardware.tip import Tip

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
    def objects(self) -> tuple[SurfaceObject, ...]:
        """Everything on it."""

    def junction(self, tip: Tip, work_function_ev: float | None = None) -> Junction:
        """This surface under a tip; None: the sample's own work function."""

    def true_density(self, x_m: float, y_m: float, energy_v: Floats) -> Floats:
        """The noise-free relative density of states at one point (shape of ``energy_v``)."""


class MixtureSurface(ABC):
    """A surface of closed forms: a relief and a mixture of basis spectra.

    Subclasses give ``name``, ``extent_m``, ``basis``, ``objects``, ``relief`` and ``weights``; the functions
    take arrays of sample coordinates of any one shape, so that any point can be asked for.
    """

    name: str
    extent_m: float
    basis: tuple[Spectrum, ...]
    objects: tuple[SurfaceObject, ...]
    work_function_ev = 4.0

    @abstractmethod
    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""

    @abstractmethod
    def weights(self, x_m: Floats, y_m: Floats) -> Floats:
        """Weights of the basis spectra: shape (k, *coordinates), summing to 1."""

    def junction(self, tip: Tip, work_function_ev: float | None = None) -> Junction:
        """This surface under a tip."""
        from sim_hardware.junction import MixtureJunction

        return MixtureJunction(self, tip, work_function_ev or self.work_function_ev)

    def true_density(self, x_m: float, y_m: float, energy_v: Floats) -> Floats:
        """The noise-free relative density of states at one point (shape of ``energy_v``)."""
        weight = self.weights(np.array([x_m]), np.array([y_m]))[:, 0]
        return sum(
            (w * s.density(energy_v) for w, s in zip(weight, self.basis, strict=True)),
            np.zeros(np.shape(energy_v)),
        )


def integrals(surface: MixtureSurface, bias_v: float) -> Floats:
    """Signed LDOS integral (V) of every basis spectrum at one bias: shape (k,)."""
    return np.array([float(s.integral(bias_v)) for s in surface.basis])
