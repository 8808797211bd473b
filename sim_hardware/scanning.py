"""The constant-current frame: forward and backward traces line by line, as a real-time controller takes them.

The surface is looked at every 0.1 nm or finer; Z follows as the controller makes it, and pixels are averages
over their samples, so that what is finer than a pixel blurs instead of aliasing.  With the Z-controller off
the tip scans at constant height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.messages.data import Channel, FrameLines
from protocols.messages.recipes import Frame
from sim_hardware.controller import follow
from sim_hardware.electronics import averaged_current, lockin_output
from sim_hardware.junction import Profile
from sim_hardware.motions import Run, ramp_bias, travel
from sim_hardware.physics.lockin import OutputFilter
from sim_hardware.situation import Activity, InterruptedActivityError
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]

FINEST_STEP_M = 0.1e-9
MOST_SAMPLES_PER_PIXEL = 8
PAUSE_STEP_S = 0.05
MODULATION_SINES = tuple(float(np.sin(2.0 * np.pi * (k + 0.5) / 8)) for k in range(8))
"""Where a period of the modulation is looked at."""
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


def frame(recipe: Frame, more_channels: bool = False, needs_feedback: bool = True) -> Run:
    """What ``World.submit`` runs for one frame.

    ``more_channels``: the lock-in's X and Y too, while it is on.  Without ``needs_feedback`` the frame runs
    with the controller as it is, at the present bias and setpoint if the recipe's are those.
    """

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        check(world, recipe)
        if s.shorted:
            raise DriverError("the tip is in contact after a crash.", "Withdraw.")
        if needs_feedback and not s.feedback:
            raise DriverError("a frame needs the Z-controller on, but it is off.", "Engage first.")
        if s.bias_v != recipe.bias_v:
            ramp_bias(world, activity, recipe.bias_v, world.settings.electronics.bias_slew_v_s)
        world.set_setpoint(recipe.setpoint_a)
        raster = _Raster(recipe)
        rows = range(recipe.lines) if recipe.upward else range(recipe.lines - 1, -1, -1)
        start = raster.points(rows[0], np.array([-recipe.width_m / 2]))
        travel(world, activity, float(start[0][0]), float(start[1][0]), world.controls.travel_m_s)
        begin, rng = world.clock.now(), world.noise()
        try:
            for row in rows:
                _between_lines(world, activity)
                _line(world, activity, raster, row, rng, more_channels)
                world.may_change_tip(2.0 * recipe.line_time_s, recipe.bias_v, rng)
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


def _between_lines(world: World, activity: Activity) -> None:
    """Take over what was set meanwhile; stay where the tip is while the frame is paused."""
    while activity.between or activity.paused.is_set():
        if activity.between:
            activity.between.popleft()(world)
            continue
        world.wait(activity, world.clock.now() + PAUSE_STEP_S)
        if world.clock.stepped:
            activity.interrupt.wait(PAUSE_STEP_S)


def _line(
    world: World,
    activity: Activity,
    raster: _Raster,
    row: int,
    rng: np.random.Generator,
    more_channels: bool,
) -> None:
    """Scan one line there and back and hand it out."""
    if activity.interrupt.is_set():
        raise InterruptedActivityError(activity.why)
    recorded = world.recorded
    began = world.situation.since_s
    trace = _trace(world, raster, row, rng)
    world.play(activity, trace.trajectory)
    if trace.trajectory.ending:
        # the scan goes on with the tip in contact
        world.wait(activity, float(trace.trajectory.times_s[-1]))
    channels: tuple[Channel, ...]
    if recorded is not None:
        recorded_z = np.stack([recorded.topograph[row]] * 2).astype(np.float32)
        channels = (Channel(name="z", unit="m", values=recorded_z[None]),)
    else:
        channels = (_channel("z", "m", trace.z_m), _channel("current", "A", trace.current_a))
        if more_channels and world.situation.lockin is not None:
            x, y = _lockin(world, raster, row, trace, rng)
            channels += (_channel("lockin_x", "A", x), _channel("lockin_y", "A", y))
    activity.lines.append(FrameLines(rows=(row,), channels=channels, time_s=began))
    world.on_change()


def _channel(name: str, unit: str, values: Floats) -> Channel:
    return Channel(name=name, unit=unit, values=values.astype(np.float32)[None])


@dataclass(frozen=True)
class _Trace:
    """One line there and back: what the tip does, and its pixels (2, pixels), col 0 at the lowest x."""

    trajectory: Trajectory
    z_m: Floats
    current_a: Floats
    gap_m: Floats
    """Height of the tip in the surface's own frame at the pixels: (2, pixels)."""
    offsets_m: Floats
    """Drift and its like half way: (3,)."""


def _trace(world: World, raster: _Raster, row: int, rng: np.random.Generator) -> _Trace:
    """Compute one line beforehand."""
    recipe, electronics, junction = raster.recipe, world.electronics, world.junction
    with world.lock:
        world.advance()
        s = world.situation
        begin, z0, bias, shorted, feedback = s.since_s, s.z_m, s.bias_v, s.shorted, s.feedback
        setpoint, loop = s.setpoint_a, world.loop(noisy=True)
    along, per = raster.fine()
    n, step = len(along), recipe.line_time_s / len(along)
    x, y = raster.points(row, along)
    times = np.asarray(begin + step * np.arange(1, 2 * n + 1), dtype=np.float64)
    there_and_back = np.concatenate([np.arange(n), np.arange(n)[::-1]])
    offsets = _between(world.offsets(times[[0, n, -1]]), times)
    x, y = x[there_and_back], y[there_and_back]
    bent = world.stage.scanner.bent(recipe.width_m, n)
    cos, sin = np.cos(recipe.angle_rad), np.sin(recipe.angle_rad)
    sign = 1.0 if bias >= 0.0 else -1.0
    rise = world.rise(x, y, offsets)
    held = np.full(2 * n, bias)
    if shorted:
        z = z0 + rng.normal(0.0, 20e-12, size=2 * n)
        ideal = np.full(2 * n, electronics.rail_a)
        trajectory = Trajectory(begin, times, x, y, z, held, sign * ideal, 2 * n)
    else:
        profile = _profile(world, x - offsets[n, 0], y - offsets[n, 1], bent, cos, sin, bias, setpoint)
        if feedback:
            found = follow(loop, s.loop, profile, rise, z0, step, rng)
            z, hit = found.z_m, found.hit
        else:
            z = np.full(2 * n, z0)
            touching = z <= profile.contact_m + rise
            hit = int(np.argmax(touching)) if touching.any() else -1
        ideal = profile.current(z - rise, electronics.rail_a)
        if hit >= 0:
            z[hit:], ideal[hit:] = z[hit], electronics.rail_a
        end, ending = (hit + 1, "crash") if hit >= 0 else (2 * n, "")
        trajectory = Trajectory(begin, times, x, y, z, held, sign * ideal, end, ending)
    pixels_z = z.reshape(2, recipe.pixels, per).mean(axis=2)
    gap = (z - rise).reshape(2, recipe.pixels, per).mean(axis=2)
    pixels_i = ideal.reshape(2, recipe.pixels, per).mean(axis=2)
    noise = electronics.image_noise_m * junction.tip.noise_factor
    pixels_z = pixels_z + rng.normal(0.0, noise, size=pixels_z.shape) + rng.normal(0.0, LINE_NOISE_M)
    dwell = recipe.line_time_s / recipe.pixels
    pixels_i = sign * averaged_current(pixels_i, dwell, junction.kappa, rng, electronics)
    for pixels in (pixels_z, pixels_i, gap):
        pixels[1] = pixels[1, ::-1].copy()
    return _Trace(trajectory, pixels_z, pixels_i, gap, offsets[n])


def _between(knots_m: Floats, times_s: Floats) -> Floats:
    """Offsets (3, 3) at the begin, middle and end of a line and its return, at all its samples: (2n, 3)."""
    n = len(times_s) // 2
    at = times_s[[0, n, -1]]
    return np.stack([np.interp(times_s, at, knots_m[:, k]) for k in range(3)], axis=1)


def _profile(
    world: World,
    x_m: Floats,
    y_m: Floats,
    bent_m: Floats,
    cos: float,
    sin: float,
    bias_v: float,
    setpoint_a: float,
) -> Profile:
    """The profile along a line and its return; where both pass the same places they are looked at once."""
    n = len(x_m) // 2
    if not np.any(bent_m):
        way = world.junction.profile(x_m[:n], y_m[:n], bias_v, setpoint_a)
        return way.at(np.concatenate([np.arange(n), np.arange(n)[::-1]]))
    return world.junction.profile(x_m + bent_m * cos, y_m + bent_m * sin, bias_v, setpoint_a)


def _lockin(
    world: World, raster: _Raster, row: int, trace: _Trace, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """X and Y at the pixels of a line (A, peak), each (2, pixels), behind the output filter, in time.

    The first harmonic of I(V + a sin wt) at the tip's height, ``2 / N sum_k I(V + a s_k) s_k``.
    """
    recipe, settings, electronics = raster.recipe, world.situation.lockin, world.electronics
    assert settings is not None
    pixel = recipe.width_m / recipe.pixels
    along = -recipe.width_m / 2 + (np.arange(recipe.pixels, dtype=np.float64) + 0.5) * pixel
    x, y = raster.points(row, along)
    x, y = x - trace.offsets_m[0], y - trace.offsets_m[1]
    harmonic = np.zeros((2, recipe.pixels))
    for share in MODULATION_SINES:
        bias = recipe.bias_v + settings.amplitude_v * share
        profile = world.junction.profile(x, y, bias, recipe.setpoint_a)
        for way in range(2):
            seen = profile.current(trace.gap_m[way], electronics.rail_a)
            harmonic[way] += np.sign(bias) * seen * share * 2.0 / len(MODULATION_SINES)
    in_time = np.concatenate([harmonic[0], harmonic[1, ::-1]]) / settings.amplitude_v
    current = np.abs(np.concatenate([trace.current_a[0], trace.current_a[1, ::-1]]))
    found = lockin_output(
        in_time,
        current,
        settings.amplitude_v,
        OutputFilter(settings.time_constant_s, world.controls.lockin_order),
        recipe.line_time_s / recipe.pixels,
        world.junction.kappa,
        rng,
        electronics,
    )
    shaped = [out.reshape(2, recipe.pixels).copy() for out in found]
    for out in shaped:
        out[1] = out[1, ::-1].copy()
    return shaped[0], shaped[1]
