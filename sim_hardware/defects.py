"""What can break in the microscope itself, on demand: preamplifier, controller, a sample that comes.

Each function changes the world under its lock, as the thing would happen in a laboratory, and no part of the
world knows of it.  What is broken stays so until it is mended by the same function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError
from sim_hardware.drift import ThermalDrift
from sim_hardware.junction import Junction, Profile
from sim_hardware.tip import Tip
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]

BEYOND_RAIL = 10.0
"""What drives a preamplifier to its rail is so many times larger than the rail."""
FLAT_PER_M = 1.0
"""Decay of a current that does not depend on the gap (1/m): none within any piezo's range."""
FURTHEST_M = 10e-6
LONGEST_S = 3600.0


@dataclass(frozen=True)
class RailedJunction:
    """A junction whose preamplifier sits at its rail wherever the tip is; contact is where it was."""

    inner: Junction
    rail_a: float

    @property
    def tip(self) -> Tip:
        """The tip."""
        return self.inner.tip

    @property
    def kappa(self) -> float:
        """Decay constant of the wave function (1/m)."""
        return self.inner.kappa

    def profile(self, x_m: Floats, y_m: Floats, bias_v: float, near_a: float) -> Profile:
        """The rail, at n places."""
        return self._railed(self.inner.profile(x_m, y_m, bias_v, near_a))

    def bias_profile(self, x_m: float, y_m: float, biases_v: Floats, height_m: float) -> Profile:
        """The rail, at m biases."""
        return self._railed(self.inner.bias_profile(x_m, y_m, biases_v, height_m))

    def conductance(self, x_m: float, y_m: float, height_m: Floats, biases_v: Floats) -> Floats:
        """Nothing that a modulation would show: zeros (m,)."""
        return np.zeros(np.shape(biases_v))

    def contact(self, x_m: Floats, y_m: Floats) -> Floats:
        """As the inner one."""
        return self.inner.contact(x_m, y_m)

    def _railed(self, profile: Profile) -> Profile:
        count = len(profile.height_m)
        return replace(
            profile,
            height_m=np.zeros(count),
            log_current=np.full(count, math.log(BEYOND_RAIL * self.rail_a)),
            decay_per_m=np.full(count, FLAT_PER_M),
        )


class ApproachingSample(ThermalDrift):
    """The drift there was, and a sample that moves by ``metres`` toward the tip within ``seconds``."""

    def __init__(self, before: ThermalDrift, metres: float, begin_s: float, seconds: float) -> None:
        self.before = before
        self.constant_m_s = before.constant_m_s
        self._metres, self._begin_s, self._seconds = metres, begin_s, seconds

    def velocity(self, time_s: float | Floats) -> Floats:
        """Velocity (m/s) at ``time_s`` (scalar or shape (n,)): shape (3,) or (n, 3)."""
        t = np.asarray(time_s, dtype=np.float64)
        moves = (t >= self._begin_s) & (t < self._begin_s + self._seconds)
        return self._with(self.before.velocity(time_s), np.where(moves, self._metres / self._seconds, 0.0))

    def offset(self, time_s: float | Floats) -> Floats:
        """Offset (m) since time 0 at ``time_s`` (scalar or shape (n,)): shape (3,) or (n, 3)."""
        t = np.asarray(time_s, dtype=np.float64)
        share = np.clip((t - self._begin_s) / self._seconds, 0.0, 1.0)
        return self._with(self.before.offset(time_s), share * self._metres)

    @staticmethod
    def _with(values: Floats, vertical: Floats) -> Floats:
        more = np.zeros(values.shape)
        more[..., 2] = vertical
        return np.asarray(values + more)


def saturate_preamplifier(world: World, broken: bool) -> None:
    """The preamplifier sits at its rail, or is mended."""
    with world.lock:
        junction = world.stage.junction
        if broken and not isinstance(junction, RailedJunction):
            world.stage.junction = RailedJunction(junction, world.electronics.rail_a)
        elif not broken and isinstance(junction, RailedJunction):
            world.stage.junction = junction.inner


def reverse_controller(world: World, broken: bool) -> None:
    """The Z-controller acts with the wrong sign, or the right one again."""
    with world.lock:
        world.advance()
        controller = world.controls.controller
        size = abs(controller.proportional_m)
        controller.proportional_m = -size if broken else size


def bring_sample(world: World, metres: float, seconds: float) -> None:
    """The sample comes nearer by ``metres`` (negative: goes away), evenly, within ``seconds``.

    Raises:
        ConfigError: farther or slower than is sensible, or at once.
    """
    if not abs(metres) <= FURTHEST_M or not 0.0 < seconds <= LONGEST_S:
        raise ConfigError(f"a sample that moves by {metres:g} m within {seconds:g} s is not sensible.")
    with world.lock:
        stage = world.stage
        stage.drift = ApproachingSample(stage.drift, metres, world.clock.now(), seconds)
