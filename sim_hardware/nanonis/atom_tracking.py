"""AtomTrack: the tip circles on a maximum of the surface and follows it; what it drifted becomes a velocity.

The controller climbs the height of constant current by the gradient on its circle, as the demodulated circle
of the real one does; its speed is the integral gain times the modulation's first harmonic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware import motions
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import PATIENCE_S, Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.situation import Activity
from sim_hardware.world import World

REGISTRY = Registry()
PARTS = ("modulation", "controller", "drift")
STEP_S = 0.05
CIRCLE = 16
MOST_STEP_M = 0.05e-9

REGISTRY.keep(
    Settings(
        "AtomTrack.Props",
        {
            "integral_gain": 1.0,
            "frequency_hz": 10.0,
            "amplitude_m": 0.2e-9,
            "phase_deg": 0.0,
            "switch_off_delay_s": 0.2,
        },
        {
            "integral_gain": (0.0, 1e6),
            "frequency_hz": (0.1, 1e4),
            "amplitude_m": (1e-12, 20e-9),
            "switch_off_delay_s": (0.0, 60.0),
        },
    ),
)


@dataclass
class Tracking:
    """What is switched on, and where and when the drift measurement began."""

    modulation: bool = False
    drift: bool = False
    from_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    from_s: float = 0.0
    velocity_m_s: tuple[float, float, float] | None = None


@REGISTRY.command("AtomTrack.CtrlSet")
def control_set(call: Call, at_control: str, status: bool) -> None:
    """Modulation, controller or drift measurement on or off."""
    lab = call.lab
    tracking = lab.of(Tracking)
    running = lab.running("atom tracking")
    if at_control == "modulation":
        tracking.modulation = status
    elif at_control == "controller":
        if status and running is None:
            if not tracking.modulation:
                raise DriverError("the modulation is off: there is nothing to follow.")
            lab.begin("atom tracking", 0.0, follow(lab))
        elif not status and running is not None:
            running.stop("stopped")
            running.done.wait(PATIENCE_S)
    elif status:
        _begin_drift(lab, tracking)
    else:
        _measure_drift(lab, tracking)
        tracking.drift = False


@REGISTRY.command("AtomTrack.StatusGet")
def status_get(call: Call, at_control: str) -> bool:
    """Whether a part is on."""
    tracking = call.lab.of(Tracking)
    if at_control == "modulation":
        return tracking.modulation
    return tracking.drift if at_control == "drift" else call.lab.running("atom tracking") is not None


def _place(lab: Instrument) -> tuple[tuple[float, float, float], float]:
    state = lab.world.state()
    return (state.x_m, state.y_m, state.z_m), state.time_s


def _begin_drift(lab: Instrument, tracking: Tracking) -> None:
    tracking.drift = True
    tracking.from_m, tracking.from_s = _place(lab)


def _measure_drift(lab: Instrument, tracking: Tracking) -> None:
    """What the tip, following its maximum, has moved since the measurement began."""
    if not tracking.drift:
        return
    place, now = _place(lab)
    if now > tracking.from_s:
        passed = now - tracking.from_s
        x, y, z = ((there - here) / passed for there, here in zip(place, tracking.from_m, strict=True))
        tracking.velocity_m_s = (x, y, z)


@REGISTRY.command("AtomTrack.DriftComp")
def apply_drift(call: Call) -> None:
    """Let the piezo follow the measured drift from now on."""
    lab = call.lab
    tracking = lab.of(Tracking)
    _measure_drift(lab, tracking)
    measured = tracking.velocity_m_s or (0.0, 0.0, 0.0)
    world = lab.world
    with world.lock:
        world.advance()
        drift = world.controls.drift
        before = drift.velocity_m_s if drift.on else (0.0, 0.0, 0.0)
        x, y, z = (a + b for a, b in zip(before, measured, strict=True))
        drift.change(world.clock.now(), True, (x, y, z))


@REGISTRY.command("AtomTrack.QuickCompStart")
def quick_compensation(call: Call, at_control: int | str) -> None:
    """Compensate the tilt (0) under the tip now, or the drift (1) measured so far."""
    lab = call.lab
    if at_control in (1, "controller", "drift"):
        apply_drift(call)
        return
    slope = gradient(lab.world, lab.setting("AtomTrack.Props")["amplitude_m"])
    taken = lab.world.controls.slope
    degrees = [math.degrees(math.atan(t + s)) for t, s in zip(taken, slope, strict=True)]
    lab.apply_setting("Piezo.Tilt", 0, {"tilt_x_deg": degrees[0], "tilt_y_deg": degrees[1]})


def gradient(world: World, radius_m: float) -> tuple[float, float]:
    """Slope of the height of constant current on a circle about the tip: dz/dx, dz/dy."""
    with world.lock:
        world.advance()
        s = world.situation
        x0, y0, bias, setpoint, now = s.x_m, s.y_m, s.bias_v, s.setpoint_a, s.since_s
        if s.withdrawn or s.shorted or bias == 0.0:
            return 0.0, 0.0
    angle = 2.0 * math.pi * np.arange(CIRCLE) / CIRCLE
    x, y = x0 + radius_m * np.cos(angle), y0 + radius_m * np.sin(angle)
    offsets = world.offsets(np.full(CIRCLE, now))
    profile = world.junction.profile(x - offsets[:, 0], y - offsets[:, 1], bias, setpoint)
    height = np.nan_to_num(profile.target(setpoint)) + world.rise(x, y, offsets)
    scale = 2.0 / (CIRCLE * radius_m)
    return float(scale * np.sum(height * np.cos(angle))), float(scale * np.sum(height * np.sin(angle)))


def follow(lab: Instrument) -> motions.Run:
    """Climb, until it is stopped."""

    def run(world: World, activity: Activity) -> None:
        while True:
            kept: dict[str, Any] = lab.setting("AtomTrack.Props")
            slope = gradient(world, kept["amplitude_m"])
            way = [kept["integral_gain"] * kept["amplitude_m"] * STEP_S * g * 10.0 for g in slope]
            dx, dy = (max(-MOST_STEP_M, min(MOST_STEP_M, w)) for w in way)
            begin = world.clock.now()
            if dx or dy:
                x, y = world.situation.x_m + dx, world.situation.y_m + dy
                motions.move_duration(world, x, y, 1.0)
                world.play(activity, motions.path(world, x, y, STEP_S))
            world.wait(activity, begin + STEP_S)
            if world.clock.stepped:
                activity.interrupt.wait(1e-3)

    return run
