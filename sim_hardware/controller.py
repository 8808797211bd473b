"""The Z-controller along a path: a PI loop at the electronics' own rate over a profile of the current.

The same loop as ``physics.feedback`` (which runs whole images at once), here for one tip in time: it keeps
its state between calls, knows contact, and is compiled, since a second of it has 20,000 ticks.  At every
tick::

    seen += smoothing (I - seen);    e = ln(seen / setpoint)  or  seen / setpoint - 1
    integral += I dt e;              z = integral + P e

Source: V. Luzny, Synthetic STM Imaging, slide "Feedback Control"; integrator held by back-calculation at the
slew limit and at the ends of the range (K. J. Astrom and R. M. Murray, Feedback Systems, sec. 11.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from sim_hardware.controls import ControllerSettings
from sim_hardware.junction import Profile

Floats = npt.NDArray[np.float64]

LEAST_SHARE = 1e-6
"""A current below this share of the setpoint counts as this much, as a logarithmic amplifier's floor does."""
MOST_TICKS_PER_SAMPLE = 400
"""20 ms: where a sample takes longer, the rest of it is left out, since the loop has long settled."""
MOST_TICKS_AT_REST = 200_000
SETTLED = 1e-12
"""At rest the loop is left as soon as the error is below this, relative, and the amplifier has followed."""
END = 1e-3
"""At an end of Z the loop is left when the amplifier has followed to this share of the setpoint."""


@dataclass(frozen=True)
class Loop:
    """The controller with everything that it knows of its surroundings."""

    settings: ControllerSettings
    setpoint_a: float
    bandwidth_hz: float
    rail_a: float
    z_low_m: float
    z_high_m: float
    slew_m_s: float
    noise_a_per_sqrt_hz: float = 0.0

    @property
    def tick_s(self) -> float:
        """Time between two actions."""
        return 1.0 / self.settings.rate_hz


@dataclass
class LoopState:
    """What the controller remembers: the integrator (m) and the amplifier's output (A)."""

    integral_m: float = 0.0
    seen_a: float = 0.0
    rest_s: float = 0.0
    """Time that was too short for a tick."""

    def switch_on(self, z_m: float, seen_a: float, loop: Loop) -> None:
        """Begin without a jump: the integrator takes over the present height."""
        self.seen_a = min(max(seen_a, 0.0), loop.rail_a)
        self.integral_m = z_m - loop.settings.proportional_m * _error(
            self.seen_a, loop.setpoint_a, loop.settings.logarithmic
        )
        self.rest_s = 0.0


@dataclass(frozen=True)
class Followed:
    """Heights (m) and currents as the amplifier shows them (A), at the end of each sample: (n,).

    ``hit`` is the sample in which the tip touched, or -1; later samples repeat it.
    """

    z_m: Floats
    current_a: Floats
    hit: int


def follow(
    loop: Loop,
    state: LoopState,
    profile: Profile,
    rise_m: Floats,
    z_m: float,
    step_s: float,
    rng: np.random.Generator | None = None,
) -> Followed:
    """Follow a profile (n,) whose samples are ``step_s`` apart, linear in between; changes ``state``.

    ``rise_m`` (n,) is the height of the surface's origin in the piezo's coordinates (drift, tilt).  A step
    shorter than a tick makes a tick of its own.
    """
    ticks = min(max(1, round(step_s / loop.tick_s)), MOST_TICKS_PER_SAMPLE)
    tick_s = min(step_s / ticks, loop.tick_s) if ticks == MOST_TICKS_PER_SAMPLE else step_s / ticks
    return _followed(loop, state, profile, rise_m, z_m, ticks, tick_s, rng, 0.0)


def rest(
    loop: Loop, state: LoopState, profile: Profile, rise_m: float, z_m: float, elapsed_s: float
) -> tuple[float, bool]:
    """Height (m) after a time at one place (``profile`` of one sample), and whether the tip touches."""
    ticks = int((elapsed_s + state.rest_s) / loop.tick_s + 1e-9)
    state.rest_s = max(0.0, elapsed_s + state.rest_s - ticks * loop.tick_s)
    if ticks == 0:
        return z_m, z_m - rise_m <= float(profile.contact_m[0])
    found = _followed(
        loop,
        state,
        profile,
        np.array([rise_m]),
        z_m,
        min(ticks, MOST_TICKS_AT_REST),
        loop.tick_s,
        None,
        SETTLED,
    )
    return float(found.z_m[0]), found.hit >= 0


def _followed(
    loop: Loop,
    state: LoopState,
    profile: Profile,
    rise_m: Floats,
    z_m: float,
    ticks: int,
    tick_s: float,
    rng: np.random.Generator | None,
    settled: float,
) -> Followed:
    count = len(profile.height_m)
    noise = np.zeros(1)
    if rng is not None and loop.noise_a_per_sqrt_hz > 0.0:
        noise = rng.normal(0.0, loop.noise_a_per_sqrt_hz * math.sqrt(0.5 / tick_s), size=count * ticks)
    smoothing = -math.expm1(-2.0 * math.pi * loop.bandwidth_hz * tick_s)
    z, seen = np.empty(count), np.empty(count)
    integral, amplifier, hit = _track(
        np.ascontiguousarray(profile.height_m),
        np.ascontiguousarray(profile.log_current),
        np.ascontiguousarray(profile.decay_per_m),
        np.ascontiguousarray(profile.contact_m),
        np.ascontiguousarray(rise_m, dtype=np.float64),
        ticks,
        tick_s,
        z_m,
        state.integral_m,
        state.seen_a,
        loop.setpoint_a,
        loop.settings.proportional_m,
        loop.settings.integral_m_s,
        loop.settings.logarithmic,
        smoothing,
        loop.rail_a,
        loop.z_low_m,
        loop.z_high_m,
        loop.slew_m_s,
        noise,
        settled,
        z,
        seen,
    )
    state.integral_m, state.seen_a = float(integral), float(amplifier)
    return Followed(z, seen, int(hit))


def _error(seen_a: float, setpoint_a: float, logarithmic: bool) -> float:
    if logarithmic:
        return math.log(max(seen_a, LEAST_SHARE * setpoint_a) / setpoint_a)
    return seen_a / setpoint_a - 1.0


_compiled_error = njit(cache=True)(_error)


@njit(cache=True, nogil=True)
def _track(  # type: ignore[no-untyped-def]  # compiled: the types are those of the call above
    height,
    log_current,
    decay,
    contact,
    rise,
    ticks,
    tick_s,
    z,
    integral,
    seen,
    setpoint,
    proportional,
    integral_gain,
    logarithmic,
    smoothing,
    rail,
    z_low,
    z_high,
    slew,
    noise,
    settled,
    z_out,
    seen_out,
):
    """The loop of the module's text, tick by tick; fills the last two and returns integral, seen, hit."""
    count = len(height)
    furthest = slew * tick_s
    hit = -1
    for i in range(count):
        before = i - 1 if i > 0 else 0
        for k in range(ticks):
            share = (k + 1) / ticks
            up = rise[before] + (rise[i] - rise[before]) * share
            place = height[before] + (height[i] - height[before]) * share
            log_here = log_current[before] + (log_current[i] - log_current[before]) * share
            slope = decay[before] + (decay[i] - decay[before]) * share
            exponent = log_here - slope * (z - up - place)
            current = math.exp(min(exponent, 50.0)) if exponent == exponent else 0.0
            if len(noise) > 1:
                current += noise[i * ticks + k]
            shown = min(max(current, -rail), rail)
            seen += smoothing * (shown - seen)
            error = _compiled_error(seen, setpoint, logarithmic)
            integral += integral_gain * tick_s * error
            wanted = integral + proportional * error
            limited = min(max(wanted, z - furthest), z + furthest)
            limited = min(max(limited, z_low), z_high)
            if limited != wanted:
                integral = limited - proportional * error
            moved = abs(limited - z)
            z = limited
            if z - up <= contact[before] + (contact[i] - contact[before]) * share:
                hit = i
                break
            if settled > 0.0 and abs(error) < settled and abs(current - seen) < settled * setpoint:
                break
            if settled > 0.0 and moved == 0.0 and z in (z_low, z_high) and abs(shown - seen) < END * setpoint:
                break
        z_out[i] = z
        seen_out[i] = seen
        if hit >= 0:
            for rest in range(i + 1, count):
                z_out[rest] = z
                seen_out[rest] = rail
            break
    return integral, seen, hit


def warm_up() -> None:
    """Compile the loop, or load it, before an instrument's time runs."""
    ready = ControllerSettings(proportional_m=1e-12, time_constant_s=1e-4)
    loop = Loop(ready, 1e-10, 1e3, 1e-8, -1e-9, 1e-9, 1e-6)
    one = np.ones(1)
    follow(loop, LoopState(), Profile(0.0 * one, -20.0 * one, 2e10 * one, -one), 0.0 * one, 0.0, 1e-3)
