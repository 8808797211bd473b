"""The energy integral for many biases at once: what a density of states, known at some energies, contributes.

``W(V) = integral rho(E) rho_tip(E - V) [f(E - V) - f(E)] dE`` (``physics.tunneling``) is linear in the
sample's
density, which is linear between the energies of its table.  So W(V) = sum_g K_g(V) rho_g with a response K
that knows the tip, the bias and the temperature but nothing of the sample's kinds of atoms: one product
serves hundreds
of kinds and biases.  Its derivative, at fixed height, gives the differential conductance::

    dW/dV = integral rho(E) { rho_tip(E - V) (-f'(E - V)) - rho_tip'(E - V) [f(E - V) - f(E)] } dE

whose first term is the sample's density broadened by temperature (3.5 k T wide) times the tip's at its Fermi
level.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from sim_hardware.physics.tunneling import DensityTable, thermal_energy_v, window

Floats = npt.NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_THERMAL = np.linspace(-25.0, 25.0, 101)
"""Where the Fermi edge is resolved, in k T."""
_KEPT = 8
"""Sweeps remembered."""


@dataclass(frozen=True)
class Response:
    """``integral`` (V) and ``slope`` (dimensionless): (biases, energies of the sample's table, tip kinds)."""

    integral: Floats
    slope: Floats


class EnergyWindow:
    """Responses of one tip at one temperature, on the energies of a sample's table."""

    def __init__(self, energies_v: Floats, tip: DensityTable, temperature_k: float) -> None:
        self.energies_v = energies_v
        self.tip = tip
        self.temperature_k = max(temperature_k, 0.0)
        self._tip_slopes = np.diff(tip.densities, axis=1) / np.diff(tip.energies_v)
        self._sweeps: OrderedDict[bytes, Response] = OrderedDict()

    def responses(self, biases_v: Floats) -> Response:
        """For several biases (m,); the last few sweeps are remembered."""
        biases = np.ascontiguousarray(biases_v, dtype=np.float64)
        key = biases.tobytes()
        found = self._sweeps.get(key)
        if found is None:
            parts = [self._response(float(v)) for v in biases]
            found = Response(np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts]))
            self._sweeps[key] = found
            while len(self._sweeps) > _KEPT:
                self._sweeps.popitem(last=False)
        self._sweeps.move_to_end(key)
        return found

    def weights(self, densities: Floats, bias_v: float) -> Floats:
        """W (V) of kinds with ``densities`` (kinds, energies) at one bias: (kinds, tip kinds)."""
        return np.asarray(densities @ self.responses(np.array([bias_v])).integral[0])

    def _response(self, bias_v: float) -> tuple[Floats, Floats]:
        """(energies, tip kinds) of the integral and of its derivative."""
        scale = thermal_energy_v(self.temperature_k)
        low, high = min(0.0, bias_v) - 25.0 * scale, max(0.0, bias_v) + 25.0 * scale
        kinds = self.tip.kinds
        integral, slope = np.zeros((2, len(self.energies_v), kinds))
        if high > low:
            energy, share = self._nodes(bias_v, low, high, scale)
            open_share = share * window(energy, bias_v, self.temperature_k)
            tip = self.tip.at(energy - bias_v)
            self._scatter(integral, energy, open_share * tip)
            self._scatter(slope, energy, -open_share * self._tip_slope(energy - bias_v))
            if scale > 0.0:
                occupied = expit((bias_v - energy) / scale)
                self._scatter(slope, energy, share * occupied * (1.0 - occupied) / scale * tip)
        if scale == 0.0:
            self._scatter(slope, np.array([bias_v]), self.tip.at(np.zeros(1)))
        return integral, slope

    def _nodes(self, bias_v: float, low: float, high: float, scale: float) -> tuple[Floats, Floats]:
        """Gauss points between all kinks of what is integrated, and their widths (V)."""
        knots = [self.energies_v, self.tip.energies_v + bias_v, np.array([low, 0.0, bias_v, high])]
        if scale > 0.0:
            knots += [scale * _THERMAL, scale * _THERMAL + bias_v]
        edges = np.unique(np.clip(np.concatenate(knots), low, high))
        half = 0.5 * np.diff(edges)
        middle = 0.5 * (edges[1:] + edges[:-1])
        return (middle[:, None] + half[:, None] * _NODES).ravel(), (half[:, None] * _WEIGHTS).ravel()

    def _tip_slope(self, energy_v: Floats) -> Floats:
        """Derivative of the tip's densities (1/V): (kinds, m); zero beyond its table."""
        knots = self.tip.energies_v
        left = np.clip(np.searchsorted(knots, energy_v, side="right") - 1, 0, len(knots) - 2)
        inside = (energy_v > knots[0]) & (energy_v < knots[-1])
        return np.asarray(np.where(inside, self._tip_slopes[:, left], 0.0))

    def _scatter(self, into: Floats, energy_v: Floats, share: Floats) -> None:
        """Add ``share`` (tip kinds, m) at ``energy_v`` (m,) to the table's energies on either side."""
        knots = self.energies_v
        inside = np.clip(energy_v, knots[0], knots[-1])
        left = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
        right = (inside - knots[left]) / (knots[left + 1] - knots[left])
        for kind in range(into.shape[1]):
            into[:, kind] += np.bincount(left, share[kind] * (1.0 - right), len(knots))
            into[:, kind] += np.bincount(left + 1, share[kind] * right, len(knots))
