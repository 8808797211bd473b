"""Model spectra: a relative local density of states whose energy integral has a closed form.

Edges are softplus ramps (the integral of a Fermi-like step: the conductance rises linearly above an edge
that is broadened thermally), in-gap states are Gaussians, and a small constant background stands for what
always leaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import erf, spence

Floats = npt.NDArray[np.float64]


def _softplus(x: Floats) -> Floats:
    return np.logaddexp(0.0, x)


def _softplus_integral(x: Floats) -> Floats:
    """Integral of softplus from minus infinity to x: -Li2(-exp(x)), for large x by the inversion formula."""
    small = np.minimum(x, 0.0)
    large = np.maximum(x, 0.0)
    below = -spence(1.0 + np.exp(small))
    above = large**2 / 2.0 + np.pi**2 / 6.0 + spence(1.0 + np.exp(-large))
    return np.asarray(np.where(x <= 0.0, below, above))


@dataclass(frozen=True)
class Ramp:
    """A band edge: ``slope`` (1/V) beyond ``edge_v``, toward positive energies if ``sign`` is +1, else
    negative."""

    edge_v: float
    slope: float
    width_v: float
    sign: int

    def density(self, energy_v: Floats) -> Floats:
        """Density at an energy."""
        return self.slope * self.width_v * _softplus(self.sign * (energy_v - self.edge_v) / self.width_v)

    def primitive(self, energy_v: Floats) -> Floats:
        """An antiderivative."""
        inner = _softplus_integral(self.sign * (energy_v - self.edge_v) / self.width_v)
        return self.sign * self.slope * self.width_v**2 * inner


@dataclass(frozen=True)
class Peak:
    """A Gaussian state of ``height`` at ``centre_v`` with standard deviation ``sigma_v``."""

    centre_v: float
    height: float
    sigma_v: float

    def density(self, energy_v: Floats) -> Floats:
        """Density at an energy."""
        return np.asarray(self.height * np.exp(-0.5 * ((energy_v - self.centre_v) / self.sigma_v) ** 2))

    def primitive(self, energy_v: Floats) -> Floats:
        """An antiderivative."""
        scaled = (energy_v - self.centre_v) / (np.sqrt(2.0) * self.sigma_v)
        return np.asarray(self.height * self.sigma_v * np.sqrt(np.pi / 2.0) * erf(scaled))


@dataclass(frozen=True)
class Spectrum:
    """A named density of states: background plus ramps plus peaks."""

    name: str
    background: float
    parts: tuple[Ramp | Peak, ...] = ()

    def density(self, energy_v: float | Floats) -> Floats:
        """Relative density at energies (V), same shape."""
        energy = np.asarray(energy_v, dtype=np.float64)
        return sum((p.density(energy) for p in self.parts), np.full(energy.shape, self.background))

    def integral(self, bias_v: float | Floats) -> Floats:
        """Signed integral of the density from 0 to ``bias_v`` (V), same shape."""
        bias = np.asarray(bias_v, dtype=np.float64)
        zero = np.zeros(())
        return sum((p.primitive(bias) - p.primitive(zero) for p in self.parts), self.background * bias)


def gapped(
    name: str, valence_v: float, conduction_v: float, *, slope: float = 0.9, width_v: float = 0.025
) -> Spectrum:
    """A semiconductor with its valence edge below and its conduction edge above the Fermi level."""
    edges = (
        Ramp(conduction_v, slope, width_v, +1),
        Ramp(valence_v, 0.8 * slope, width_v, -1),
    )
    return Spectrum(name, 0.001, edges)


def with_states(spectrum: Spectrum, name: str, *peaks: Peak) -> Spectrum:
    """The same spectrum with states added."""
    return Spectrum(name, spectrum.background, spectrum.parts + peaks)
