"""Vertical motions beside the feedback: Z by hand, home, the coarse motor, and the automatic approach."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from sim_hardware.controller import MOST_TICKS_AT_REST
from sim_hardware.motions import PATH_STEP_M, Run, touched
from sim_hardware.situation import Activity, InterruptedActivityError
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]

Z_SPEED_M_S = 100e-9
"""Speed of Z by hand."""
MOST_SAMPLES = 4000
FOUND_SHARE = 0.5
"""Share of the setpoint at which the surface counts as found."""
LOW_SHARE = 0.35
"""Of the range of Z: an approach that ends below goes on."""
SETTLE_S = 5e-3
LOOK_S = 0.02
STEP_S = 5e-3
"""Time of one step of the coarse motor."""
MOST_CYCLES = 20_000


def z_ramp(z_m: float, speed_m_s: float = Z_SPEED_M_S) -> Run:
    """Bring Z there with the controller off; touching the surface is a crash.

    The activity fails with DriverError if the controller is on or Z would leave its range.
    """

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        low, high = world.z_range()
        if s.feedback:
            raise DriverError("Z is the controller's while it is on.", "Switch it off first.")
        if not low <= z_m <= high:
            raise DriverError(f"z = {z_m * 1e9:g} nm is outside {low * 1e9:g} to {high * 1e9:g} nm.")
        with world.lock:
            s.withdrawn = False
        world.play(activity, _z_path(world, z_m, speed_m_s))
        with world.lock:
            s.withdrawn = s.z_m >= world.settings.feedback.z_high_m
        world.note("z", z_m=s.z_m)

    return run


def home() -> Run:
    """Controller off, and Z to the home position of the controls, absolute or from where it was."""

    def run(world: World, activity: Activity) -> None:
        with world.lock:
            world.advance()
            s, settings = world.situation, world.controls.controller
            s.feedback = False
            wanted = settings.home_m + (s.z_m if settings.home_relative else 0.0)
        low, high = world.z_range()
        z_ramp(min(max(wanted, low), high))(world, activity)

    return run


def motor_steps(axis: int, steps: int) -> Run:
    """Steps of the coarse motor along an axis (0, 1, 2 for x, y, z; z positive: away from the sample)."""

    def run(world: World, activity: Activity) -> None:
        size = world.controls.coarse_step_m[axis]
        sign = 1 if steps > 0 else -1
        made = 0
        try:
            for _ in range(abs(steps)):
                world.wait(activity, world.clock.now() + STEP_S)
                moved = [0.0, 0.0, 0.0]
                moved[axis] = sign * size
                world.coarse(*moved)
                world.controls.coarse_steps[axis] += sign
                made += sign
        finally:
            world.note("motor", axis="xyz"[axis], steps=made, of=steps)

    return run


def auto_approach(steps_per_cycle: int = 2) -> Run:
    """Look for the surface with Z; if it is not in reach, withdraw, make some steps toward it, look again.

    Ends with the controller on and the surface found in the upper part of the range, with room to drift:
    if it is found low, the motor goes on.  The activity fails with DriverError if the motor comes
    nowhere.
    """

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        for cycle in range(MOST_CYCLES):
            if not s.feedback:
                with world.lock:
                    world.resume_feedback(True)
                    s.withdrawn = False
            if _found(world, activity) and not _too_low(world, steps_per_cycle):
                world.note("approached", cycles=cycle, z_m=s.z_m)
                return
            with world.lock:
                s.feedback = False
            z_ramp(world.z_range()[1], world.controls.withdraw_m_s)(world, activity)
            motor_steps(2, -steps_per_cycle)(world, activity)
        raise DriverError(f"the surface was not found in {MOST_CYCLES} cycles of the coarse motor.")

    return run


def _too_low(world: World, steps: int) -> bool:
    """Whether a surface that was found lies so low that a few more steps would bring it nearer the middle."""
    low, high = world.z_range()
    room = world.situation.z_m - low
    return room < LOW_SHARE * (high - low) and room + steps * world.controls.coarse_step_m[2] < 0.8 * (
        high - low
    )


def _found(world: World, activity: Activity) -> bool:
    """Let the controller extend until it holds the setpoint or reaches its end."""
    s = world.situation
    low, high = world.z_range()
    slowest = min(world.settings.feedback.slew_m_s, abs(world.controls.controller.integral_m_s))
    limit_s = world.clock.now() + min(2.0 * (high - low) / max(slowest, 1e-12), MOST_TICKS_AT_REST / 20e3)
    while world.clock.now() < limit_s:
        world.wait(activity, world.clock.now() + LOOK_S)
        if s.shorted:
            raise InterruptedActivityError("crash")
        if s.z_m <= low + 1e-12:
            return False
        if abs(world.state().current_a) >= FOUND_SHARE * s.setpoint_a:
            world.wait(activity, world.clock.now() + SETTLE_S)
            return True
    return False


def _z_path(world: World, z_m: float, speed_m_s: float) -> Trajectory:
    with world.lock:
        world.advance()
        s = world.situation
        begin, x0, y0, z0, bias, setpoint = s.since_s, s.x_m, s.y_m, s.z_m, s.bias_v, s.setpoint_a
        junction = world.junction
    duration = max(abs(z_m - z0) / speed_m_s, 1e-3)
    n = int(np.clip(np.ceil(abs(z_m - z0) / PATH_STEP_M), 2, MOST_SAMPLES))
    times = begin + duration * np.arange(1, n + 1) / n
    z = z0 + (z_m - z0) * np.arange(1, n + 1) / n
    x, y = np.full(n, x0), np.full(n, y0)
    offsets = world.offsets(times)
    profile = junction.profile(x - offsets[:, 0], y - offsets[:, 1], bias, setpoint)
    rise = world.rise(x, y, offsets)
    return touched(world, begin, times, x, y, z, np.full(n, bias), profile, rise)
