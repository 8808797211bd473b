"""Tip above surface: current, equilibrium height and contact at any place, bias and height.

Heights here are those of the foremost apex in the surface's own frame; the world adds the vertical drift.
With the surface's height ``h_a`` and LDOS integral ``J_a`` under each apex, the current at height z is::

    |I| = G0 exp(2 kappa (A - z)),    A = ln( sum_a |J_a| exp(2 kappa (h_a - lift_a)) ) / (2 kappa)

so that the Z-controller's target is ``A + ln(G0 / setpoint) / (2 kappa)`` and contact is where z reaches the
largest ``h_a - lift_a``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.base import Surface, integrals
from sim_hardware.tip import Tip
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S, decay_constant

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Underneath:
    """What lies under the apices at n points: heights less lift (m, (apices, n)), weights ((apices, k,
    n))."""

    heights_m: Floats
    weights: Floats

    @property
    def contact_m(self) -> Floats:
        """Height at which the tip touches: (n,)."""
        return np.asarray(self.heights_m.max(axis=0))


class Junction:
    """A tip over a surface."""

    def __init__(self, surface: Surface, tip: Tip, work_function_ev: float = 4.0) -> None:
        self.surface = surface
        self.tip = tip
        self.kappa = decay_constant(work_function_ev)
        self._integrals: dict[float, Floats] = {}

    def underneath(self, x_m: Floats, y_m: Floats) -> Underneath:
        """Look at flat arrays of sample coordinates (n,)."""
        heights, weights = [], []
        for apex in self.tip.apices:
            x, y = x_m + apex.dx_m, y_m + apex.dy_m
            heights.append(self.surface.relief(x, y) - apex.lift_m)
            weights.append(self.surface.weights(x, y))
        return Underneath(np.stack(heights), np.stack(weights))

    def integral(self, bias_v: float) -> Floats:
        """LDOS integrals (V) of the basis spectra at one bias: (k,)."""
        key = round(bias_v, 9)
        found = self._integrals.get(key)
        if found is None:
            if len(self._integrals) > 4096:
                self._integrals.clear()
            found = self._integrals[key] = integrals(self.surface, key)
        return found

    def level(self, under: Underneath, bias_v: float) -> Floats:
        """A (m) at n points for one bias: (n,); minus infinity where nothing conducts."""
        share = np.abs(np.einsum("k,akn->an", self.integral(bias_v), under.weights))
        return self._sum_apices(share, under.heights_m)

    def levels(self, under: Underneath, integrals_v: Floats) -> Floats:
        """A (m) at one point for m biases, whose LDOS integrals (k, m) are given: (m,)."""
        share = np.abs(np.einsum("km,ak->am", integrals_v, under.weights[:, :, 0]))
        return self._sum_apices(share, np.broadcast_to(under.heights_m[:, :1], share.shape))

    def _sum_apices(self, share: Floats, heights_m: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            exponents = np.log(share) + 2.0 * self.kappa * heights_m
        total = exponents[0] if len(exponents) == 1 else np.logaddexp.reduce(exponents, axis=0)
        return np.asarray(total / (2.0 * self.kappa))

    def target(self, level_m: Floats, setpoint_a: float) -> Floats:
        """Height (m) that the Z-controller seeks."""
        return np.asarray(level_m + np.log(CONTACT_CONDUCTANCE_S / setpoint_a) / (2.0 * self.kappa))

    def current(self, level_m: Floats, height_m: Floats, rail_a: float) -> Floats:
        """|I| (A), at most the rail."""
        exponent = np.minimum(2.0 * self.kappa * (level_m - height_m), 50.0)
        return np.asarray(np.minimum(CONTACT_CONDUCTANCE_S * np.exp(exponent), rail_a))
