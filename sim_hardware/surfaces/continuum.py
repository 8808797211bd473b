"""Surfaces that are a relief and a local density of states, and the junction of a tip with one.

Above such a surface the current is exactly exponential in the height of the tip, with kappa from the sample's
work function, and summed over the tip's apices::

    I(V) = G0 sum_a J_a(V) exp(2 kappa (h_a - lift_a - z)),
    J_a(V) = integral rho(x_a, y_a, E) rho_tip(E - V) [f(E - V) - f(E)] dE

with the surface's height h_a and its density rho under apex a: the tip's density of states and the sample's
temperature are in the integral (``energy_integrals``; sources in ``physics.tunneling``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim_hardware.junction import LARGEST_EXPONENT, LOG_CONTACT, Profile
from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.surfaces.energy_integrals import TipDensity, conductance_weights, current_weights
from sim_hardware.tip import Tip
from sim_hardware.tunneling import decay_constant

Floats = npt.NDArray[np.float64]
DensityIntegral = Callable[[Floats, Floats], Floats]
"""Takes points x and y (n,) and returns the weighted integral of the density there (n,)."""

KEPT_INTEGRALS = 24
"""Biases whose integrals are kept ready for many points."""
KEPT_WEIGHTS = 8_000_000
"""Weights of sets of biases that are kept: 64 MB, the latest set in any case."""


class ContinuumSurface(Protocol):
    """What ``ContinuumJunction`` needs of a surface."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def extent_m(self) -> float:
        """Width of the square about the origin in which objects are placed."""

    @property
    def objects(self) -> tuple[SurfaceObject, ...]:
        """Everything on it."""

    @property
    def temperature_k(self) -> float:
        """Of sample and tip."""

    @property
    def work_function_ev(self) -> float:
        """Mean of sample and tip."""

    @property
    def energies_v(self) -> Floats:
        """Energies (e,) between which the density is linear; constant beyond the ends."""

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""

    def densities(self, x_m: Floats, y_m: Floats) -> Floats:
        """Density at a few points (n,) and all of ``energies_v``: (n, e), nowhere negative."""

    def integral(self, weights: Floats) -> DensityIntegral:
        """``densities @ weights`` for weights (e,), made ready for many points."""


class ContinuumJunction:
    """A tip over a continuum surface."""

    def __init__(self, surface: ContinuumSurface, tip: Tip, work_function_ev: float | None = None) -> None:
        self.surface = surface
        self.tip = tip
        self.kappa = decay_constant(
            surface.work_function_ev if work_function_ev is None else work_function_ev
        )
        self._tip_density = TipDensity.of(tip.recipe)
        self._ready: OrderedDict[float, DensityIntegral] = OrderedDict()
        self._weights: OrderedDict[tuple[str, bytes], Floats] = OrderedDict()

    def profile(self, x_m: Floats, y_m: Floats, bias_v: float, near_a: float) -> Profile:
        """The exponential above points (n,), stated where |I| is ``near_a``; at minus infinity where nothing
        conducts."""
        ready = self._integral(bias_v)
        exponents, heights = [], []
        for apex in self.tip.apices:
            x, y = x_m + apex.dx_m, y_m + apex.dy_m
            heights.append(self.surface.relief(x, y) - apex.lift_m)
            exponents.append(_logarithm(ready(x, y)) + 2.0 * self.kappa * heights[-1])
        level = np.asarray(exponents[0] if len(exponents) == 1 else np.logaddexp.reduce(exponents, axis=0))
        log_current = np.full(level.shape, np.log(near_a))
        height = (level + LOG_CONTACT - log_current) / (2.0 * self.kappa)
        decay = np.full(level.shape, 2.0 * self.kappa)
        return Profile(height, log_current, decay, np.asarray(np.max(heights, axis=0)))

    def bias_profile(self, x_m: float, y_m: float, biases_v: Floats, height_m: float) -> Profile:
        """|I| of every bias (m,) at one place, stated at ``height_m``."""
        level, contact_m = self._levels("current", x_m, y_m, biases_v)
        flat = np.ones(len(level))
        log_current = LOG_CONTACT + level - 2.0 * self.kappa * height_m
        return Profile(height_m * flat, log_current, 2.0 * self.kappa * flat, contact_m * flat)

    def conductance(self, x_m: float, y_m: float, height_m: Floats, biases_v: Floats) -> Floats:
        """|dI/dV| (S) at fixed heights (m,) for biases (m,): (m,)."""
        level, _ = self._levels("conductance", x_m, y_m, biases_v)
        exponent = LOG_CONTACT + level - 2.0 * self.kappa * np.asarray(height_m)
        return np.asarray(np.exp(np.minimum(exponent, LARGEST_EXPONENT)))

    def contact(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) at which the foremost apex touches: (n,)."""
        apices = self.tip.apices
        return np.asarray(
            np.max([self.surface.relief(x_m + a.dx_m, y_m + a.dy_m) - a.lift_m for a in apices], axis=0)
        )

    def _integral(self, bias_v: float) -> DensityIntegral:
        key = round(bias_v, 9)
        if key not in self._ready:
            weights = self._bias_weights("current", np.array([key]))[:, 0]
            self._ready[key] = self.surface.integral(weights)
            if len(self._ready) > KEPT_INTEGRALS:
                self._ready.popitem(last=False)
        return self._ready[key]

    def _bias_weights(self, kind: str, biases_v: Floats) -> Floats:
        """Weights (e, m) of the current or its derivative at biases (m,)."""
        key = kind, np.round(biases_v, 9).tobytes()
        if key not in self._weights:
            make = current_weights if kind == "current" else conductance_weights
            surface = self.surface
            self._weights[key] = make(
                surface.energies_v, np.asarray(biases_v), surface.temperature_k, self._tip_density
            )
            while len(self._weights) > 1 and sum(w.size for w in self._weights.values()) > KEPT_WEIGHTS:
                self._weights.popitem(last=False)
        return self._weights[key]

    def _levels(self, kind: str, x_m: float, y_m: float, biases_v: Floats) -> tuple[Floats, float]:
        """ln sum_a |J_a| exp(2 kappa (h_a - lift_a)) at one place for biases (m,): (m,), and the height of
        contact."""
        apices = self.tip.apices
        x = np.array([x_m + a.dx_m for a in apices])
        y = np.array([y_m + a.dy_m for a in apices])
        height = self.surface.relief(x, y) - np.array([a.lift_m for a in apices])
        share = self.surface.densities(x, y) @ self._bias_weights(kind, biases_v)
        top = float(height.max())
        summed = np.exp(2.0 * self.kappa * (height - top)) @ share
        return np.asarray(_logarithm(summed) + 2.0 * self.kappa * top), top


def _logarithm(integral: Floats) -> Floats:
    """ln |integral|, minus infinity where nothing conducts."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.abs(integral)))
