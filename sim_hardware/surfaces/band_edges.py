"""A semiconductor whose band edges differ from place to place.

The density is a valence band below ``E_V``, a conduction band above ``E_C``, both rising linearly over a
softened edge, what leaks through the gap, and states in the gap::

    rho(E) = leak + s_V softplus((E_V - E) / w) w + s_C softplus((E - E_C) / w) w + sum_p share_p peak_p(E)

An integral over energy is then a function of E_V, one of E_C and one number for each set of states: two
curves, tabulated once for each bias, whatever the edges' pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.spectra import Peak, Ramp

Floats = npt.NDArray[np.float64]

_EDGE_STEP_V = 4e-3


@dataclass(frozen=True)
class BandEdges:
    """Slopes (1/V), width of an edge (V), leakage, sets of states, and the range that each edge may take."""

    valence_slope: float
    conduction_slope: float
    width_v: float
    leak: float
    states: tuple[tuple[Peak, ...], ...]
    valence_range_v: tuple[float, float]
    conduction_range_v: tuple[float, float]

    def valence(self, edge_v: Floats, energy_v: Floats) -> Floats:
        """Density of the valence band; edge and energy broadcast."""
        return Ramp(0.0, self.valence_slope, self.width_v, -1).density(energy_v - edge_v)

    def conduction(self, edge_v: Floats, energy_v: Floats) -> Floats:
        """Density of the conduction band; edge and energy broadcast."""
        return Ramp(0.0, self.conduction_slope, self.width_v, +1).density(energy_v - edge_v)

    def in_gap(self, energy_v: Floats) -> Floats:
        """Densities of the sets of states: (sets, e)."""
        sets = [sum((p.density(energy_v) for p in peaks), np.zeros(energy_v.shape)) for peaks in self.states]
        return np.array(sets).reshape(len(self.states), energy_v.size)

    def density(self, valence_v: Floats, conduction_v: Floats, shares: Floats, energy_v: Floats) -> Floats:
        """Density at n places with edges (n,) and shares of the states (sets, n), at energies (e,)."""
        bands = self.valence(valence_v[:, None], energy_v) + self.conduction(conduction_v[:, None], energy_v)
        return np.asarray(self.leak + bands + shares.T @ self.in_gap(energy_v))


class EdgeIntegral:
    """The density's weighted integral as a function of edges and shares.

    ``weights`` (e,) belong to ``energies_v`` (e,).
    """

    def __init__(self, bands: BandEdges, energies_v: Floats, weights: Floats) -> None:
        self._valence = _grid(bands.valence_range_v)
        self._conduction = _grid(bands.conduction_range_v)
        self._of_valence = bands.valence(self._valence[:, None], energies_v) @ weights
        self._of_conduction = bands.conduction(self._conduction[:, None], energies_v) @ weights
        self._of_states = bands.in_gap(energies_v) @ weights
        self._leak = bands.leak * float(weights.sum())

    def __call__(self, valence_v: Floats, conduction_v: Floats, shares: Floats) -> Floats:
        """At n places: (n,)."""
        total = np.interp(valence_v, self._valence, self._of_valence)
        total += np.interp(conduction_v, self._conduction, self._of_conduction)
        return np.asarray(self._leak + total + self._of_states @ shares)


def _grid(bounds_v: tuple[float, float]) -> Floats:
    low, high = bounds_v
    return np.linspace(low, high, round((high - low) / _EDGE_STEP_V) + 1)
