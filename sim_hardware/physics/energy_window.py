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

import math
from collections import OrderedDict
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from sim_hardware.physics.tunneling import DensityTable, thermal_energy_v

Floats = npt.NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_THERMAL = np.linspace(-25.0, 25.0, 101)
"""Where the Fermi edge is resolved, in k T."""
_KEPT_VALUES = 8_000_000
"""Numbers in the responses that are remembered: 64 MB."""


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
        self.scale_v = thermal_energy_v(max(temperature_k, 0.0))
        self._sweeps: OrderedDict[bytes, Response] = OrderedDict()

    def responses(self, biases_v: Floats) -> Response:
        """For several biases (m,); those of late are remembered."""
        biases = np.ascontiguousarray(biases_v, dtype=np.float64)
        key = biases.tobytes()
        found = self._sweeps.get(key)
        if found is None:
            shape = (biases.size, len(self.energies_v), self.tip.kinds)
            found = Response(np.zeros(shape), np.zeros(shape))
            _respond(
                biases,
                self.energies_v,
                self.tip.energies_v,
                self.tip.densities,
                self.scale_v,
                found.integral,
                found.slope,
            )
            self._sweeps[key] = found
            while len(self._sweeps) > 1 and 2 * self._remembered() > _KEPT_VALUES:
                self._sweeps.popitem(last=False)
        self._sweeps.move_to_end(key)
        return found

    def _remembered(self) -> int:
        return sum(response.integral.size for response in self._sweeps.values())

    def weights(self, densities: Floats, bias_v: float) -> Floats:
        """W (V) of kinds with ``densities`` (kinds, energies) at one bias: (kinds, tip kinds)."""
        return np.asarray(densities @ self.responses(np.array([bias_v])).integral[0])


@numba.njit(cache=True, error_model="numpy")
def _window(energy, bias, scale):  # type: ignore[no-untyped-def]
    """f(E - V) - f(E), and the derivative of the first by V, at a temperature above zero."""
    upper = 1.0 / (1.0 + math.exp(min((energy - bias) / scale, 700.0)))
    lower = 1.0 / (1.0 + math.exp(min(energy / scale, 700.0)))
    return upper - lower, upper * (1.0 - upper) / scale


@numba.njit(cache=True, error_model="numpy")
def _merged(first, second, third, fourth, low, high, into):  # type: ignore[no-untyped-def]
    """The different values of four ascending arrays between two ends, and the ends: how many."""
    a, b, c, d = 0, 0, 0, 0
    into[0] = low
    count = 1
    while True:
        value = high
        if a < first.size:
            value = min(value, first[a])
        if b < second.size:
            value = min(value, second[b])
        if c < third.size:
            value = min(value, third[c])
        if d < fourth.size:
            value = min(value, fourth[d])
        while a < first.size and first[a] <= value:
            a += 1
        while b < second.size and second[b] <= value:
            b += 1
        while c < third.size and third[c] <= value:
            c += 1
        while d < fourth.size and fourth[d] <= value:
            d += 1
        if value > into[count - 1]:
            into[count] = value
            count += 1
        if value >= high:
            return count


@numba.njit(cache=True, error_model="numpy")
def _share(knots, energy, left):  # type: ignore[no-untyped-def]
    """Interval of ``knots`` with an energy, found from ``left`` on, and its share of the interval's right
    end."""
    while left < knots.size - 2 and energy > knots[left + 1]:
        left += 1
    share = (energy - knots[left]) / (knots[left + 1] - knots[left])
    return left, min(max(share, 0.0), 1.0)


@numba.njit(cache=True, error_model="numpy")
def _respond(biases, energies, tip_energies, tip, scale, integral, slope):  # type: ignore[no-untyped-def]
    """Fill the responses: Gauss points between all kinks of what is integrated."""
    thermal = scale * _THERMAL if scale > 0.0 else np.zeros(1)
    edges = np.empty(energies.size + tip_energies.size + 2 * thermal.size + 2)
    for n in range(biases.size):
        bias = biases[n]
        low, high = min(0.0, bias) - 25.0 * scale, max(0.0, bias) + 25.0 * scale
        if scale == 0.0:
            g, right = _share(energies, bias, 0)
            h, beside = _share(tip_energies, 0.0, 0)
            for k in range(tip.shape[0]):
                density = tip[k, h] * (1.0 - beside) + tip[k, h + 1] * beside
                slope[n, g, k] += (1.0 - right) * density
                slope[n, g + 1, k] += right * density
        if high <= low:
            continue
        count = _merged(energies, tip_energies + bias, thermal, thermal + bias, low, high, edges)
        g, h = 0, 0
        for i in range(count - 1):
            half, middle = 0.5 * (edges[i + 1] - edges[i]), 0.5 * (edges[i + 1] + edges[i])
            for node in range(3):
                energy = middle + half * _NODES[node]
                if scale > 0.0:
                    open_, rise = _window(energy, bias, scale)
                else:
                    open_, rise = (1.0 if bias > 0.0 else -1.0), 0.0
                g, right = _share(energies, energy, g)
                h, beside = _share(tip_energies, energy - bias, h)
                inside = tip_energies[0] < energy - bias < tip_energies[-1]
                weight = half * _WEIGHTS[node]
                for k in range(tip.shape[0]):
                    step = tip[k, h + 1] - tip[k, h]
                    density = tip[k, h] + step * beside
                    lean = step / (tip_energies[h + 1] - tip_energies[h]) if inside else 0.0
                    more = weight * open_ * density
                    steeper = weight * (rise * density - open_ * lean)
                    integral[n, g, k] += more * (1.0 - right)
                    integral[n, g + 1, k] += more * right
                    slope[n, g, k] += steeper * (1.0 - right)
                    slope[n, g + 1, k] += steeper * right
