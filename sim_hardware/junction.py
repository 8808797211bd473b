"""Tip above surface: the current at any place, bias and height, and where the two touch.

Heights here are those of the tip's foremost atom in the surface's own frame; the world adds the vertical
drift.  Every kind of surface brings a junction of its own that implements ``Junction``; what they share is
``Profile``, the logarithm of the current along z, which is (nearly) a straight line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.base import MixtureSurface, integrals
from sim_hardware.tip import Tip
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S, decay_constant

Floats = npt.NDArray[np.float64]

LOG_CONTACT = float(np.log(CONTACT_CONDUCTANCE_S))
LARGEST_EXPONENT = 50.0


@dataclass(frozen=True)
class Profile:
    """ln |I / A| along the tip's height at n places, linear about ``height_m``; all arrays (n,).

    ``log_current`` is its value there and ``decay_per_m`` minus its slope (1/m, about 2 kappa).
    ``contact_m`` is the height at which the tip touches.  A place that does not conduct has a height or a
    logarithm of minus infinity, and then a target of minus infinity.
    """

    height_m: Floats
    log_current: Floats
    decay_per_m: Floats
    contact_m: Floats

    def target(self, setpoint_a: float) -> Floats:
        """Heights (m) at which |I| is the setpoint: (n,)."""
        return np.asarray(self.height_m + (self.log_current - np.log(setpoint_a)) / self.decay_per_m)

    def current(self, z_m: Floats, rail_a: float = np.inf) -> Floats:
        """|I| (A) at heights (n,), at most the rail: (n,)."""
        exponent = self.log_current - self.decay_per_m * (z_m - self.height_m)
        return np.asarray(np.minimum(np.exp(np.minimum(exponent, LARGEST_EXPONENT)), rail_a))

    def at(self, chosen: npt.NDArray[np.intp]) -> Profile:
        """Some of the places, in any order and as often as wanted."""
        return Profile(
            self.height_m[chosen], self.log_current[chosen], self.decay_per_m[chosen], self.contact_m[chosen]
        )

    def raised(self, by_m: Floats) -> Profile:
        """The same over a surface that lies higher by so much at each place (n,)."""
        return replace(self, height_m=self.height_m + by_m, contact_m=self.contact_m + by_m)


class Junction(Protocol):
    """A tip over a surface.  Coordinates are those of the sample (m)."""

    @property
    def tip(self) -> Tip:
        """The tip."""

    @property
    def kappa(self) -> float:
        """Decay constant of the wave function (1/m)."""

    def profile(self, x_m: Floats, y_m: Floats, bias_v: float, near_a: float) -> Profile:
        """At n places (n,) for one bias, linearised where |I| is ``near_a`` (A)."""

    def bias_profile(self, x_m: float, y_m: float, biases_v: Floats, height_m: float) -> Profile:
        """At one place for m biases (m,), linearised at a height."""

    def conductance(self, x_m: float, y_m: float, height_m: Floats, biases_v: Floats) -> Floats:
        """|dI/dV| (S) at one place with the tip held at heights (m,), for as many biases: (m,)."""

    def contact(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) at which the tip touches, at n places: (n,)."""


@dataclass(frozen=True)
class _Underneath:
    """What lies under the apices: heights less lift (m, (apices, n)), weights ((apices, k, n))."""

    heights_m: Floats
    weights: Floats


class MixtureJunction:
    """A tip over a surface whose density of states is a mixture of basis spectra.

    With the surface's height ``h_a`` and the LDOS integral ``J_a`` under each apex::

        |I| = G0 exp(2 kappa (A - z)),    A = ln( sum_a |J_a| exp(2 kappa (h_a - lift_a)) ) / (2 kappa)

    exactly, so that profiles hold at any height.  The tip's own density of states is constant here.
    """

    def __init__(self, surface: MixtureSurface, tip: Tip, work_function_ev: float = 4.0) -> None:
        self.surface = surface
        self.tip = tip
        self.kappa = decay_constant(work_function_ev)
        self._integrals: dict[float, Floats] = {}

    def profile(self, x_m: Floats, y_m: Floats, bias_v: float, near_a: float = 0.0) -> Profile:
        """At n places for one bias."""
        under = self._underneath(x_m, y_m)
        share = np.abs(np.einsum("k,akn->an", self._integral(bias_v), under.weights))
        return self._profile(share, under.heights_m)

    def bias_profile(self, x_m: float, y_m: float, biases_v: Floats, height_m: float = 0.0) -> Profile:
        """At one place for m biases."""
        table = np.array([spectrum.integral(biases_v) for spectrum in self.surface.basis])
        return self._at_one_place(x_m, y_m, table)

    def conductance(self, x_m: float, y_m: float, height_m: Floats, biases_v: Floats) -> Floats:
        """|dI/dV| (S): the density of states in place of its integral."""
        table = np.array([spectrum.density(biases_v) for spectrum in self.surface.basis])
        return self._at_one_place(x_m, y_m, table).current(height_m)

    def contact(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height at which the foremost apex touches."""
        reliefs = [self.surface.relief(x_m + a.dx_m, y_m + a.dy_m) - a.lift_m for a in self.tip.apices]
        return np.asarray(np.max(reliefs, axis=0))

    def _at_one_place(self, x_m: float, y_m: float, table: Floats) -> Profile:
        under = self._underneath(np.array([x_m]), np.array([y_m]))
        share = np.abs(np.einsum("km,ak->am", table, under.weights[:, :, 0]))
        return self._profile(share, np.broadcast_to(under.heights_m[:, :1], share.shape))

    def _underneath(self, x_m: Floats, y_m: Floats) -> _Underneath:
        heights, weights = [], []
        for apex in self.tip.apices:
            x, y = x_m + apex.dx_m, y_m + apex.dy_m
            heights.append(self.surface.relief(x, y) - apex.lift_m)
            weights.append(self.surface.weights(x, y))
        return _Underneath(np.stack(heights), np.stack(weights))

    def _integral(self, bias_v: float) -> Floats:
        """LDOS integrals (V) of the basis spectra at one bias: (k,)."""
        key = round(bias_v, 9)
        found = self._integrals.get(key)
        if found is None:
            if len(self._integrals) > 4096:
                self._integrals.clear()
            found = self._integrals[key] = integrals(self.surface, key)
        return found

    def _profile(self, share: Floats, heights_m: Floats) -> Profile:
        with np.errstate(divide="ignore"):
            exponents = np.log(share) + 2.0 * self.kappa * heights_m
        total = exponents[0] if len(exponents) == 1 else np.logaddexp.reduce(exponents, axis=0)
        level = np.asarray(total / (2.0 * self.kappa))
        decay = np.full(level.shape, 2.0 * self.kappa)
        return Profile(level, np.full(level.shape, LOG_CONTACT), decay, heights_m.max(axis=0))


@dataclass(frozen=True)
class RaisedJunction:
    """A junction over the same surface with something added to its relief: what crashes left behind."""

    inner: Junction
    relief: Callable[[Floats, Floats], Floats]
    """Height (m) to be added at coordinates (n,): (n,)."""

    @property
    def tip(self) -> Tip:
        """The tip."""
        return self.inner.tip

    @property
    def kappa(self) -> float:
        """Decay constant of the wave function (1/m)."""
        return self.inner.kappa

    def profile(self, x_m: Floats, y_m: Floats, bias_v: float, near_a: float) -> Profile:
        """As the inner one, raised."""
        return self.inner.profile(x_m, y_m, bias_v, near_a).raised(self.relief(x_m, y_m))

    def bias_profile(self, x_m: float, y_m: float, biases_v: Floats, height_m: float) -> Profile:
        """As the inner one, raised."""
        more = self._here(x_m, y_m)
        below = self.inner.bias_profile(x_m, y_m, biases_v, height_m - more)
        return below.raised(np.full(len(biases_v), more))

    def conductance(self, x_m: float, y_m: float, height_m: Floats, biases_v: Floats) -> Floats:
        """As the inner one, raised."""
        return self.inner.conductance(x_m, y_m, height_m - self._here(x_m, y_m), biases_v)

    def contact(self, x_m: Floats, y_m: Floats) -> Floats:
        """As the inner one, raised."""
        return np.asarray(self.inner.contact(x_m, y_m) + self.relief(x_m, y_m))

    def _here(self, x_m: float, y_m: float) -> float:
        return float(self.relief(np.array([x_m]), np.array([y_m]))[0])
