"""The Z-controller of ``physics.feedback`` over all lines of a frame at once, compiled to vector
instructions.

Same equations, tick by tick, on the current or its logarithm, with the preamplifier's band and rail; every
line is a lane.  ln |I / setpoint| of a place is a cubic in the height (``current_map``), linear in between
places.  Beyond ``TRUST_NM`` from the setpoint's height the cubic goes on as a straight line.

Noise is added to the current at every tick (one-sided densities as in ``physics.noise``): white, following
the current (shot noise) on a constant (thermal); the amplifier's voltage noise on the input's capacitance, C
e_n d/dt, by differences from tick to tick; flicker, a factor of the current; the mains' pick-up.  Normal
numbers are a function of an image's key and a counter, so that no memory holds them and every back end draws
the same.

Currents in setpoints, lengths in nm, single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from sim_hardware.dataset.fast_math import FAST, F, exp32, log32, normal_pair
from sim_hardware.physics.feedback import LEAST_SHARE, PidSettings

Singles = npt.NDArray[np.float32]

TRUST_NM = 0.15
LARGEST_EXPONENT = 15.0
"""Currents above exp of this (far beyond any rail) count as this."""
CONSTANTS = 15
MAINS_TERMS = 6


@dataclass(frozen=True)
class Lanes:
    """What the tip meets: ``path`` (places, 5, lanes): z0, s, c, k of the current and the flicker's share of
    it; ``z0`` holds what tilt and drift add.

    ``mains_ticks`` (ticks, 6) and ``mains_lanes`` (6, lanes): the pick-up is their product.  ``key`` (32
    bits) is that of the noise.  Places are ``ticks_per_place`` ticks apart, the first of them included, as
    in ``scan_lines``.
    """

    path: Singles
    mains_ticks: Singles
    mains_lanes: Singles
    key: int
    ticks_per_place: int


@dataclass(frozen=True)
class LaneScan:
    """Height (nm) and magnitude of the current that the controller saw, at each place's last tick: (places,
    lanes)."""

    z: Singles
    seen: Singles


def constants(
    settings: PidSettings,
    shot_a2_hz: float = 0.0,
    white_a2_hz: float = 0.0,
    charge_c_per_sqrt_hz: float = 0.0,
) -> Singles:
    """The loop's constants in its units: (CONSTANTS,).

    ``shot_a2_hz``: shot noise's density at the setpoint; ``white_a2_hz``: that of constant white noise;
    ``charge_c_per_sqrt_hz``: capacitance times voltage noise.
    """
    s, nm = settings, 1e9
    half_rate = 0.5 * s.rate_hz
    return np.array(
        [
            s.smoothing,
            s.rail_a / s.setpoint_a,
            s.proportional_m * nm,
            s.integral_m_s * s.tick_s * nm,
            s.derivative_m_s / s.tick_s * nm,
            s.z_low_m * nm,
            s.z_high_m * nm,
            min(s.slew_m_s * s.tick_s * nm, 1e9),
            shot_a2_hz * half_rate / s.setpoint_a**2,
            white_a2_hz * half_rate / s.setpoint_a**2,
            1.0 if s.logarithmic else 0.0,
            TRUST_NM,
            LARGEST_EXPONENT,
            LEAST_SHARE,
            charge_c_per_sqrt_hz * half_rate**0.5 * s.rate_hz / s.setpoint_a,
        ],
        dtype=np.float32,
    )


def scan_lanes(lanes: Lanes, constant: Singles) -> LaneScan:
    """Scan from the first place to the last, from where the setpoint flows."""
    places, _, count = lanes.path.shape
    z, seen = np.empty((2, places, count), dtype=np.float32)
    key = np.uint32(lanes.key)
    _scan(lanes.path, lanes.mains_ticks, lanes.mains_lanes, key, lanes.ticks_per_place, constant, z, seen)
    return LaneScan(z, seen)


@njit(cache=True, inline="always")
def _exponent(z, z0, s, c, k, trust):  # type: ignore[no-untyped-def]
    """ln of the current in setpoints."""
    away = z - z0
    near = min(max(away, -trust), trust)
    beyond = away - near
    value = -s * near + near * near * (F(0.5) * c + near * k / F(6.0))
    return value + beyond * (-s + near * (c + F(0.5) * near * k))


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _scan(path, mains_ticks, mains_lanes, key, ticks, constant, z_out, seen_out):  # type: ignore[no-untyped-def]
    places, count = path.shape[0], path.shape[2]
    smoothing, rail, proportional, integral_gain, derivative = constant[:5]
    z_low, z_high, furthest, shot, white, logarithmic, trust, largest, least, charge = constant[5:]
    state = np.empty((6, count), dtype=np.float32)
    z, seen, integral, before, last, pick_up = state[0], state[1], state[2], state[3], state[4], state[5]
    for n in range(count):
        z[n] = path[0, 0, n]
        seen[n] = min(F(1.0), rail)
        before[n] = log32(seen[n]) if logarithmic > F(0.0) else seen[n] - F(1.0)
        integral[n] = z[n] - proportional * before[n]
        last[n] = F(0.0)
    for p in range(places):
        here = path[p]
        there = path[max(p - 1, 0)]
        for t in range(ticks):
            share = F(t + 1) / F(ticks)
            tick = p * ticks + t
            first = np.uint32(tick * count)
            m0, m1, m2 = mains_ticks[tick, 0], mains_ticks[tick, 1], mains_ticks[tick, 2]
            m3, m4, m5 = mains_ticks[tick, 3], mains_ticks[tick, 4], mains_ticks[tick, 5]
            for n in range(count):
                pick_up[n] = (
                    m0 * mains_lanes[0, n]
                    + m1 * mains_lanes[1, n]
                    + m2 * mains_lanes[2, n]
                    + m3 * mains_lanes[3, n]
                    + m4 * mains_lanes[4, n]
                    + m5 * mains_lanes[5, n]
                )
            for n in range(count):
                old = _exponent(z[n], there[0, n], there[1, n], there[2, n], there[3, n], trust)
                new = _exponent(z[n], here[0, n], here[1, n], here[2, n], here[3, n], trust)
                current = exp32(min(old + share * (new - old), largest))
                flicker = there[4, n] + share * (here[4, n] - there[4, n])
                normal, voltage = normal_pair(np.uint32(first + np.uint32(n)), key)
                noise = np.sqrt(shot * current + white) * normal + charge * (voltage - last[n])
                noise += pick_up[n] + flicker * current
                last[n] = voltage
                current = abs(current + noise)
                shown = seen[n] + smoothing * (min(current, rail) - seen[n])
                log = log32(max(shown, least))
                error = log if logarithmic > F(0.0) else shown - F(1.0)
                total = min(max(integral[n] + integral_gain * error, z_low), z_high)
                wanted = total + proportional * error + derivative * (error - before[n])
                wanted = min(max(wanted, z_low), z_high)
                z[n] = min(max(wanted, z[n] - furthest), z[n] + furthest)
                seen[n], integral[n], before[n] = shown, total, error
        for n in range(count):
            z_out[p, n] = z[n]
            seen_out[p, n] = seen[n]
