"""The energy integral of the tunneling current as weights of energies.

A local density of states known at ``nodes`` (V, ascending) and linear in between, constant beyond the ends,
carries the current::

    W(V) = integral rho(E) rho_tip(E - V) [f(E - V) - f(E)] dE = sum_i rho(E_i) q_i(V)

with the weights q_i(V) of this module: the integral of the i-th hat function times tip and window
(``physics.tunneling``, formula and sources).  They depend on bias, tip and temperature alone, so that one set
serves every place of a surface, and the conductance has weights of its own, their derivative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.tips import TipRecipe
from sim_hardware.physics.tunneling import thermal_energy_v, window

Floats = npt.NDArray[np.float64]

CONDUCTANCE_STEP_V = 1e-4
"""Half the bias step of the central difference that makes conductances."""
LEAST_TIP_DENSITY = 0.05
"""What is left of a leaning tip's density far out (``physics.tips.metallic``)."""
_THERMAL_REACH = 25.0
"""Thermal energies beyond which the Fermi function is 0 or 1 to 1e-11."""
_COLDEST_K = 1e-3
"""Colder than this counts as T = 0: 0.1 uV."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)


@dataclass(frozen=True)
class TipDensity:
    """Density of states of the tip: 1 + slope E and a Lorentzian ``resonance`` (centre V, full width V,
    height); E in V from the tip's Fermi level."""

    slope_per_v: float = 0.0
    resonance: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, recipe: TipRecipe | None) -> TipDensity:
        """As a recipe states it; without one a plain metal."""
        return cls() if recipe is None else cls(recipe.slope_per_v, recipe.resonance)

    def __call__(self, energy_v: Floats) -> Floats:
        """Relative density, any shape."""
        total = np.maximum(1.0 + self.slope_per_v * energy_v, LEAST_TIP_DENSITY)
        if self.resonance is not None:
            centre, fwhm, height = self.resonance
            total = total + height / (1.0 + (2.0 * (energy_v - centre) / fwhm) ** 2)
        return np.asarray(total)


METAL = TipDensity()


def current_weights(
    nodes_v: Floats, biases_v: Floats, temperature_k: float, tip: TipDensity = METAL
) -> Floats:
    """q_i(V) in V: shape (nodes, biases), negative for negative biases.

    Exact at T = 0 for a metallic tip, else to about 1e-6 of the whole window.
    """
    columns = [_column(nodes_v, float(bias), temperature_k, tip) for bias in np.ravel(biases_v)]
    return np.stack(columns, axis=1)


def conductance_weights(
    nodes_v: Floats, biases_v: Floats, temperature_k: float, tip: TipDensity = METAL
) -> Floats:
    """dq_i / dV, dimensionless: shape (nodes, biases); they add up to 1 for a metallic tip.

    Exact for a metallic tip, else by central differences of ``CONDUCTANCE_STEP_V``.
    """
    biases = np.ravel(np.asarray(biases_v, dtype=np.float64))
    if tip == METAL and temperature_k > _COLDEST_K:
        return _thermal_average(nodes_v, biases, thermal_energy_v(temperature_k))
    upper = current_weights(nodes_v, biases + CONDUCTANCE_STEP_V, temperature_k, tip)
    lower = current_weights(nodes_v, biases - CONDUCTANCE_STEP_V, temperature_k, tip)
    return np.asarray((upper - lower) / (2.0 * CONDUCTANCE_STEP_V))


def _thermal_average(nodes: Floats, biases: Floats, scale: float) -> Floats:
    """The hat functions averaged over -f'(E - V): twice integrated by parts, differences of the slopes of
    kT ln(1 + exp((E - V) / kT)), whose second derivative -f' is."""
    ramp = scale * np.logaddexp(0.0, (nodes[:, None] - biases) / scale)
    slope = np.diff(ramp, axis=0) / np.diff(nodes)[:, None]
    ends = np.zeros((1, biases.size))
    return np.diff(slope, axis=0, prepend=ends, append=ends + 1.0)


def _column(nodes: Floats, bias: float, temperature_k: float, tip: TipDensity) -> Floats:
    """Weights of all nodes at one bias."""
    kelvin = temperature_k if temperature_k > _COLDEST_K else 0.0
    scale = thermal_energy_v(kelvin)
    low, high = min(0.0, bias) - _THERMAL_REACH * scale, max(0.0, bias) + _THERMAL_REACH * scale
    if high <= low:
        return np.zeros(len(nodes))
    knots = [nodes[(nodes > low) & (nodes < high)], np.array([low, 0.0, bias, high])]
    if scale > 0.0:
        around = scale * np.linspace(-_THERMAL_REACH, _THERMAL_REACH, 101)
        knots += [around, around + bias]
    if tip.resonance is not None:
        centre, fwhm, _ = tip.resonance
        knots.append(bias + centre + fwhm * np.linspace(-6.0, 6.0, 49))
    edges = np.unique(np.clip(np.concatenate(knots), low, high))
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    energy = (middle[:, None] + half[:, None] * _NODES).ravel()
    share = (half[:, None] * _WEIGHTS).ravel() * window(energy, bias, kelvin) * tip(energy - bias)
    inside = np.clip(energy, nodes[0], nodes[-1])
    left = np.clip(np.searchsorted(nodes, inside, side="right") - 1, 0, len(nodes) - 2)
    fraction = (inside - nodes[left]) / (nodes[left + 1] - nodes[left])
    count = len(nodes)
    lower = np.bincount(left, weights=share * (1.0 - fraction), minlength=count)
    return np.asarray(lower + np.bincount(left + 1, weights=share * fraction, minlength=count))
