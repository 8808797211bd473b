"""Activities that bring the tip or the bias somewhere: moves, ramps, settling, pulses, indentation.

Each function returns what ``World.submit`` runs.  Paths are computed before they are played, so that a crash
on the way is known when it happens and a withdrawal finds the tip where it then is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from sim_hardware.controller import follow
from sim_hardware.junction import Profile
from sim_hardware.situation import Activity
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]
Run = Callable[[World, Activity], None]

PATH_STEP_M = 0.05e-9
MOST_SAMPLES = 4000
INDENT_SPEED_M_S = 20e-9
PULSE_THRESHOLD_V = 2.5
"""Pulses below this leave the tip alone."""
BREAKING_DEPTH_M = 2e-9
"""An indentation deeper than this into the surface is a crash."""


def move_duration(world: World, x_m: float, y_m: float, speed_m_s: float) -> float:
    """Instrument seconds that a move from here takes.

    Raises:
        DriverError: outside the piezo's range, or no speed.
    """
    low, high = world.settings.lateral_range_m
    if not (low <= x_m <= high and low <= y_m <= high):
        raise DriverError(
            f"({x_m * 1e9:g}, {y_m * 1e9:g}) nm is outside the piezo's range "
            f"{low * 1e9:g} to {high * 1e9:g} nm."
        )
    if not speed_m_s > 0.0:
        raise DriverError(f"a tip speed of {speed_m_s:g} m/s leads nowhere.")
    s = world.situation
    return float(np.hypot(x_m - s.x_m, y_m - s.y_m)) / speed_m_s


def path(world: World, x_m: float, y_m: float, duration_s: float) -> Trajectory:
    """A straight line from here to there; Z follows if the controller is on."""
    with world.lock:
        world.advance()
        s = world.situation
        begin, feedback, airborne = s.since_s, s.feedback, s.withdrawn
        x0, y0, z0, bias, setpoint, shorted = s.x_m, s.y_m, s.z_m, s.bias_v, s.setpoint_a, s.shorted
        junction, loop = world.junction, world.loop()
    distance = float(np.hypot(x_m - x0, y_m - y0))
    n = int(np.clip(np.ceil(distance / PATH_STEP_M), 1, MOST_SAMPLES))
    share = np.arange(1, n + 1) / n
    times = begin + duration_s * share
    x, y = x0 + (x_m - x0) * share, y0 + (y_m - y0) * share
    bias_v = np.full(n, bias)
    if airborne or shorted:
        current = np.full(n, np.copysign(world.electronics.rail_a, bias) if shorted else 0.0)
        return Trajectory(begin, times, x, y, np.full(n, z0), bias_v, current, n)
    offsets = world.offsets(times)
    profile = junction.profile(x - offsets[:, 0], y - offsets[:, 1], bias, setpoint)
    rise = world.rise(x, y, offsets)
    z = follow(loop, s.loop, profile, rise, z0, duration_s / n).z_m if feedback else np.full(n, z0)
    return touched(world, begin, times, x, y, z, bias_v, profile, rise)


def touched(
    world: World,
    begin_s: float,
    times_s: Floats,
    x_m: Floats,
    y_m: Floats,
    z_m: Floats,
    bias_v: Floats,
    profile: Profile,
    rise_m: Floats,
) -> Trajectory:
    """A trajectory with its current, cut at the first contact."""
    rail = world.electronics.rail_a
    current = profile.current(z_m - rise_m, rail) * np.where(bias_v < 0.0, -1.0, 1.0)
    contact = z_m <= profile.contact_m + rise_m
    hit = bool(contact.any())
    end = int(np.argmax(contact)) + 1 if hit else len(times_s)
    return Trajectory(begin_s, times_s, x_m, y_m, z_m, bias_v, current, end, "crash" if hit else "")


def move(x_m: float, y_m: float, speed_m_s: float) -> Run:
    """Go there in a straight line."""

    def run(world: World, activity: Activity) -> None:
        travel(world, activity, x_m, y_m, speed_m_s)

    return run


def travel(world: World, activity: Activity, x_m: float, y_m: float, speed_m_s: float) -> None:
    """Go there, as a part of whatever activity; written to the truth log as a move."""
    s = world.situation
    start_x, start_y, begin = s.x_m, s.y_m, world.clock.now()
    completed = False
    try:
        duration = move_duration(world, x_m, y_m, speed_m_s)
        if duration == 0.0:
            completed = True
            return
        world.play(activity, path(world, x_m, y_m, duration))
        completed = not s.shorted
    finally:
        world.stage.scanner.moved(world.clock.now(), s.x_m - start_x, s.y_m - start_y)
        seconds = world.clock.now() - begin
        if seconds > 0.0:
            world.note(
                "move",
                from_x_m=start_x,
                from_y_m=start_y,
                x_m=s.x_m,
                y_m=s.y_m,
                seconds=seconds,
                completed=completed,
            )


def settle(seconds: float) -> Run:
    """Let time pass."""

    def run(world: World, activity: Activity) -> None:
        begin = world.clock.now()
        try:
            world.wait(activity, begin + seconds)
        finally:
            world.note("settle", seconds=world.clock.now() - begin)

    return run


def ramp(bias_v: float, slew_v_s: float) -> Run:
    """Bring the bias there."""

    def run(world: World, activity: Activity) -> None:
        ramp_bias(world, activity, bias_v, slew_v_s)

    return run


def ramp_bias(world: World, activity: Activity, bias_v: float, slew_v_s: float) -> None:
    """Bring the bias there, as a part of whatever activity.  Through zero with the controller on is a
    crash."""
    before = world.situation.bias_v
    if before == bias_v:
        return
    try:
        world.play(activity, ramp_path(world, bias_v, abs(bias_v - before) / slew_v_s))
    finally:
        world.note("bias", previous_v=before, bias_v=world.situation.bias_v)


def ramp_path(world: World, bias_v: float, duration_s: float) -> Trajectory:
    """The tip while the bias goes linearly to ``bias_v``."""
    with world.lock:
        world.advance()
        s = world.situation
        begin, x0, y0, z0, before = s.since_s, s.x_m, s.y_m, s.z_m, s.bias_v
        feedback, away, shorted, junction = s.feedback, s.withdrawn or s.retracting, s.shorted, world.junction
        loop = world.loop()
    n = int(np.clip(np.ceil(duration_s / 0.2e-3), 2, 1000))
    share = np.arange(1, n + 1) / n
    bias = before + (bias_v - before) * share
    times = begin + duration_s * share
    x, y = np.full(n, x0), np.full(n, y0)
    if away or shorted:
        rail = world.electronics.rail_a if shorted else 0.0
        return Trajectory(begin, times, x, y, np.full(n, z0), bias, np.sign(bias) * rail, n)
    offsets = world.offsets(np.array([begin]))
    rise = np.repeat(world.rise(x[:1], y[:1], offsets), n)
    profile = junction.bias_profile(x0 - offsets[0, 0], y0 - offsets[0, 1], bias, z0 - float(rise[0]))
    if not feedback:
        return touched(world, begin, times, x, y, np.full(n, z0), bias, profile, rise)
    through_zero = (np.sign(bias) != np.sign(before)) & (before != 0.0)
    profile = replace(profile, contact_m=np.where(through_zero, np.inf, profile.contact_m))
    z = follow(loop, s.loop, profile, rise, z0, duration_s / n).z_m
    return touched(world, begin, times, x, y, z, bias, profile, rise)


def pulse(bias_v: float, width_s: float, hold_z: bool) -> Run:
    """One bias pulse; strong ones change the tip."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        if s.withdrawn:
            raise DriverError("the tip is withdrawn: nothing to pulse at.")
        before, feedback = s.bias_v, s.feedback
        rng = world.noise()
        with world.lock:
            s.feedback = feedback and not hold_z
        changed = 0
        try:
            world.play(activity, ramp_path(world, bias_v, 1e-4))
            world.wait(activity, world.clock.now() + width_s)
            if (
                rng.uniform() < (abs(bias_v) - PULSE_THRESHOLD_V + 0.5) / 3.0
                and abs(bias_v) >= PULSE_THRESHOLD_V
            ):
                changed = world.change_tip("pulse")
            world.play(activity, ramp_path(world, before, 1e-4))
        finally:
            world.note("pulse", bias_v=bias_v, width_s=width_s, tip_changes=changed)
            release(world, activity, before, feedback)

    return run


def indent(depth_m: float, bias_v: float, dwell_s: float) -> Run:
    """Controlled contact: down by ``depth_m``, wait, up again; touching changes the tip."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        if not s.feedback or s.withdrawn:
            raise DriverError("an indentation begins with the Z-controller on.")
        before, changed = s.bias_v, 0
        with world.lock:
            world.advance()
            s.feedback = False
        try:
            world.play(activity, ramp_path(world, bias_v, 0.01))
            with world.lock:
                world.advance()
                start, x, y, begin = s.z_m, s.x_m, s.y_m, s.since_s
            offsets = world.offsets(np.array([begin]))
            here = np.array([x]) - offsets[:, 0], np.array([y]) - offsets[:, 1]
            rise = world.rise(np.array([x]), np.array([y]), offsets)
            contact = float((world.junction.contact(*here) + rise)[0])
            down_s = depth_m / INDENT_SPEED_M_S
            n = 200
            share = np.concatenate([np.linspace(0, 1, n), np.ones(n), np.linspace(1, 0, n)])
            times = begin + np.concatenate(
                [
                    np.linspace(0, down_s, n),
                    down_s + np.linspace(0, dwell_s, n),
                    down_s + dwell_s + np.linspace(0, down_s, n),
                ]
            )
            z = start - depth_m * share
            rail = world.electronics.rail_a
            touching = np.where(z <= contact, rail, s.setpoint_a)
            current = np.asarray(np.copysign(touching, bias_v), dtype=np.float64)
            broken = start - depth_m < contact - BREAKING_DEPTH_M
            end = int(np.argmax(z < contact - BREAKING_DEPTH_M)) + 1 if broken else 3 * n
            ends = "crash" if broken else ""
            held = [np.full(3 * n, value) for value in (x, y, bias_v)]
            world.play(activity, Trajectory(begin, times, held[0], held[1], z, held[2], current, end, ends))
            if not broken and start - depth_m <= contact:
                changed = world.change_tip("indentation")
            if not s.shorted:
                world.play(activity, ramp_path(world, before, 0.01))
        finally:
            world.note("indentation", depth_m=depth_m, tip_changes=changed, broken=s.shorted)
            release(world, activity, before, True)

    return run


def release(world: World, activity: Activity, bias_v: float, feedback: bool) -> None:
    """What the electronics do at the end of a held action: bias back, controller as before; not after a
    withdrawal."""
    with world.lock:
        s = world.situation
        if s.retracting or s.withdrawn or s.shorted or activity.why == "withdrawn":
            return
        world.advance()
        s.bias_v = bias_v
        world.resume_feedback(feedback)
