"""The constant-current frame: forward and backward traces line by line, as a real-time controller takes them.

The surface is looked at every 0.1 nm or finer; Z follows with the controller's lag and slew, and pixels are
averages over their samples, so that what is finer than a pixel blurs instead of aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.messages.data import Channel, FrameLines
from protocols.messages.recipes import Frame
from sim_hardware.electronics import averaged_current
from sim_hardware.feedback import follow
from sim_hardware.motions import Run, ramp_bias, travel
from sim_hardware.situation import Activity, InterruptedActivityError
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]

FINEST_STEP_M = 0.1e-9
MOST_SAMPLES_PER_PIXEL = 8
LINE_NOISE_M = 0.4e-12
"""Rms of the offset between lines: what is left of low-frequency noise."""


def frame_duration(recipe: Frame) -> float:
    """Instrument seconds of all lines, both ways."""
    return 2.0 * recipe.line_time_s * recipe.lines


def check(world: World, recipe: Frame) -> None:
    """Refuse what cannot be scanned.

    Raises:
        DriverError: says why.
    """
    if recipe.pixels < 1 or recipe.lines < 1 or not recipe.line_time_s > 0.0:
        raise DriverError(
            f"a frame of {recipe.pixels} x {recipe.lines} pixels at {recipe.line_time_s:g} s per "
            f"line is none."
        )
    if recipe.pixels > 4096 or recipe.lines > 4096:
        raise DriverError(f"{recipe.pixels} x {recipe.lines} pixels are more than 4096 x 4096.")
    low, high = world.settings.lateral_range_m
    reach = 0.5 * float(np.hypot(recipe.width_m, recipe.height_m))
    for centre in (recipe.centre_x_m, recipe.centre_y_m):
        if not low <= centre - reach <= centre + reach <= high:
            raise DriverError(
                f"the frame leaves the piezo's range {low * 1e9:g} to {high * 1e9:g} nm.",
                "Move or shrink it.",
            )
    if world.recorded is not None:
        world.recorded.check_frame(recipe)


@dataclass(frozen=True)
class _Raster:
    """Geometry of a frame: rotated about its centre."""

    recipe: Frame

    def points(self, row: int, along_m: Floats) -> tuple[Floats, Floats]:
        """Piezo coordinates at positions along the fast axis of a row (m from the centre)."""
        r = self.recipe
        across = -r.height_m / 2 + (row + 0.5) * r.height_m / r.lines
        cos, sin = np.cos(r.angle_rad), np.sin(r.angle_rad)
        return r.centre_x_m + along_m * cos - across * sin, r.centre_y_m + along_m * sin + across * cos

    def fine(self) -> tuple[Floats, int]:
        """Positions of all samples of a forward line and how many make a pixel."""
        r = self.recipe
        pixel = r.width_m / r.pixels
        per = int(np.clip(np.ceil(pixel / FINEST_STEP_M), 1, MOST_SAMPLES_PER_PIXEL))
        n = r.pixels * per
        return -r.width_m / 2 + (np.arange(n) + 0.5) * r.width_m / n, per


def frame(recipe: Frame) -> Run:
    """What ``World.submit`` runs for one frame."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        check(world, recipe)
        if s.shorted:
            raise DriverError("the tip is in contact after a crash.", "Withdraw.")
        if not s.feedback:
            raise DriverError("a frame needs the Z-controller on, but it is off.", "Engage first.")
        if s.bias_v != recipe.bias_v:
            ramp_bias(world, activity, recipe.bias_v, world.settings.electronics.bias_slew_v_s)
        world.set_setpoint(recipe.setpoint_a)
        raster = _Raster(recipe)
        rows = range(recipe.lines) if recipe.upward else range(recipe.lines - 1, -1, -1)
        start = raster.points(rows[0], np.array([-recipe.width_m / 2]))
        travel(world, activity, float(start[0][0]), float(start[1][0]), world.settings.travel_m_s)
        begin, rng = world.clock.now(), world.noise()
        try:
            for row in rows:
                _line(world, activity, raster, row, rng)
        finally:
            number = world.note(
                "frame_done",
                lines=len(activity.lines),
                of=recipe.lines,
                completed=len(activity.lines) == recipe.lines,
                seconds=world.clock.now() - begin,
                purpose=recipe.purpose,
            )
        world.pen.wait_durable(number)

    return run


def _line(world: World, activity: Activity, raster: _Raster, row: int, rng: np.random.Generator) -> None:
    """Scan one line there and back and hand it out."""
    if activity.interrupt.is_set():
        raise InterruptedActivityError(activity.why)
    recorded = world.recorded
    began = world.situation.since_s
    trajectory, z, current = _trace(world, raster, row, rng)
    world.play(activity, trajectory)
    if trajectory.ending:
        world.wait(activity, float(trajectory.times_s[-1]))  # the scan goes on with the tip in contact
    channels: tuple[Channel, ...]
    if recorded is not None:
        recorded_z = np.stack([recorded.topograph[row]] * 2).astype(np.float32)
        channels = (Channel(name="z", unit="m", values=recorded_z[None]),)
    else:
        channels = (
            Channel(name="z", unit="m", values=z.astype(np.float32)[None]),
            Channel(name="current", unit="A", values=current.astype(np.float32)[None]),
        )
    activity.lines.append(FrameLines(rows=(row,), channels=channels, time_s=began))
    world.on_change()


def _trace(
    world: World, raster: _Raster, row: int, rng: np.random.Generator
) -> tuple[Trajectory, Floats, Floats]:
    """The line's trajectory and its pixels: z and current, each (2, pixels), col 0 at the lowest x."""
    recipe, electronics, junction = raster.recipe, world.settings.electronics, world.junction
    with world.lock:
        world.advance()
        s = world.situation
        begin, z0, bias, setpoint, shorted = s.since_s, s.z_m, s.bias_v, s.setpoint_a, s.shorted
    along, per = raster.fine()
    n, step = len(along), recipe.line_time_s / len(along)
    x, y = raster.points(row, along)
    times = np.asarray(begin + step * np.arange(1, 2 * n + 1), dtype=np.float64)
    drift = world.offsets(np.array([times[0], times[n], times[-1]]))
    drift_z = np.interp(times, [times[0], times[-1]], drift[[0, 2], 2])
    there_and_back = np.concatenate([np.arange(n), np.arange(n)[::-1]])
    sign = 1.0 if bias >= 0.0 else -1.0
    if shorted:
        z = z0 + rng.normal(0.0, 20e-12, size=2 * n)
        ideal = np.full(2 * n, electronics.rail_a)
        trajectory = Trajectory(
            begin, times, x[there_and_back], y[there_and_back], z, np.full(2 * n, bias), sign * ideal, 2 * n
        )
    else:
        under = junction.underneath(x - drift[1, 0], y - drift[1, 1])
        level = junction.level(under, bias)[there_and_back]
        targets = junction.target(level, setpoint) + drift_z
        z = follow(z0, targets, step, world.settings.feedback)
        ideal = junction.current(level, z - drift_z, electronics.rail_a)
        contact = z <= under.contact_m[there_and_back] + drift_z
        hit = bool(contact.any())
        first = int(np.argmax(contact))
        if hit:
            z[first:], ideal[first:] = z[first], electronics.rail_a
        trajectory = Trajectory(
            begin,
            times,
            x[there_and_back],
            y[there_and_back],
            z,
            np.full(2 * n, bias),
            sign * ideal,
            first + 1 if hit else 2 * n,
            "crash" if hit else "",
        )
    pixels_z = z.reshape(2, recipe.pixels, per).mean(axis=2)
    pixels_i = ideal.reshape(2, recipe.pixels, per).mean(axis=2)
    noise = electronics.image_noise_m * junction.tip.noise_factor
    pixels_z = pixels_z + rng.normal(0.0, noise, size=pixels_z.shape) + rng.normal(0.0, LINE_NOISE_M)
    dwell = recipe.line_time_s / recipe.pixels
    pixels_i = sign * averaged_current(pixels_i, dwell, junction.kappa, rng, electronics)
    pixels_z[1], pixels_i[1] = pixels_z[1, ::-1].copy(), pixels_i[1, ::-1].copy()
    return trajectory, pixels_z, pixels_i
