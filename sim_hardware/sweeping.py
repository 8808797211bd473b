"""The bias sweep: hold, offset, sweep, return, release.  The electronics carry it through by themselves.

At the held height z the current is ``I(V) = G0 exp(2 kappa (A(V) - z))`` with the sign of V, and the
conductance is the same with the density of states in place of its integral.  Z drifts meanwhile; the
preamplifier's rail ends the sweep; forward and backward differ by the lock-in's time constant.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.messages.data import Channel, SweepData
from protocols.messages.recipes import SpectrumRecipe
from sim_hardware.acquisition import HeldSweep, measured
from sim_hardware.motions import Run, ramp_bias
from sim_hardware.situation import Activity, InterruptedActivityError
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]

OFFSET_S = 10e-3
"""Time for the Z offset and its return."""
HOLD_JITTER_M = 0.5e-12
"""Rms of Z at the moment of the hold: the loop's own noise."""


def sweep_duration(world: World, recipe: SpectrumRecipe) -> float:
    """Instrument seconds from hold to release.

    Raises:
        DriverError: the recipe makes no sense or leaves the bias range.
    """
    low, high = world.settings.bias_range_v
    for value in (recipe.start_v, recipe.stop_v):
        if not low <= value <= high:
            raise DriverError(f"a sweep to {value:g} V leaves the bias range {low:g} to {high:g} V.")
    if recipe.points < 2 or not recipe.dwell_s > 0.0 or recipe.repeats < 1:
        raise DriverError(
            f"a sweep of {recipe.points} points, {recipe.dwell_s:g} s each, {recipe.repeats} times is none."
        )
    slew = world.settings.electronics.bias_slew_v_s
    ends = abs(recipe.start_v - recipe.stabilise_bias_v) + abs(recipe.stabilise_bias_v - recipe.stop_v)
    return recipe.sweep_duration_s + ends / slew + 2.0 * OFFSET_S


def sweep(recipe: SpectrumRecipe) -> Run:
    """What ``World.submit`` runs for one spectrum at the present position."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        if s.shorted:
            raise DriverError("the tip is in contact after a crash.", "Withdraw.")
        if not s.feedback:
            raise DriverError(
                "a sweep is stabilised with the Z-controller on, but it is off.", "Engage first."
            )
        if world.recorded is not None:
            world.recorded.check_recipe(recipe)
            world.recorded.spectrum_at(s.x_m, s.y_m)
        if s.bias_v != recipe.stabilise_bias_v:
            ramp_bias(world, activity, recipe.stabilise_bias_v, world.settings.electronics.bias_slew_v_s)
        world.set_setpoint(recipe.stabilise_current_a)
        world.wait(activity, world.clock.now() + 5.0 * world.settings.feedback.time_constant_s)
        if s.shorted:
            raise InterruptedActivityError("crash")
        _held(world, activity, recipe)

    return run


def _held(world: World, activity: Activity, recipe: SpectrumRecipe) -> None:
    """Hold, measure, release, write the truth, hand the data out."""
    s = world.situation
    rng = world.noise()
    with world.lock:
        if activity.interrupt.is_set():
            raise InterruptedActivityError(activity.why)
        world.advance()
        hold_s, hold_z = s.since_s, s.z_m
        s.feedback = False
        s.z_m += HOLD_JITTER_M * float(rng.normal()) * world.junction.tip.noise_factor
    plan = _recorded_plan(world, recipe) if world.recorded is not None else _plan(world, recipe, rng)
    trajectory, data = plan
    completed = False
    try:
        world.play(activity, trajectory)
        completed = True
    finally:
        with world.lock:
            if not (s.retracting or s.withdrawn):
                s.bias_v = recipe.stabilise_bias_v
                if not s.shorted:
                    s.z_m = max(s.z_m, hold_z)
                s.since_s = world.clock.now()
                world.resume_feedback(True)
        dx, dy, _ = world.lateral(hold_s)
        world.may_change_tip(world.clock.now() - hold_s, _strongest(recipe), rng)
        number = world.note(
            "sweep_done",
            x_m=data.x_m,
            y_m=data.y_m,
            sample_x_m=data.x_m - dx,
            sample_y_m=data.y_m - dy,
            seconds=world.clock.now() - hold_s,
            completed=completed,
            saturated=data.saturated,
            crashed=s.shorted,
        )
    world.pen.wait_durable(number)
    activity.sweep = data


def _strongest(recipe: SpectrumRecipe) -> float:
    return max(abs(recipe.start_v), abs(recipe.stop_v), abs(recipe.stabilise_bias_v))


def _times(recipe: SpectrumRecipe, slew_v_s: float) -> tuple[Floats, float]:
    """End of each sample and time of the first sample's begin, from the hold."""
    first = OFFSET_S + abs(recipe.start_v - recipe.stabilise_bias_v) / slew_v_s
    count = recipe.points * recipe.repeats * (2 if recipe.backward else 1)
    return np.asarray(first + recipe.dwell_s * np.arange(1, count + 1), dtype=np.float64), first


def _plan(world: World, recipe: SpectrumRecipe, rng: np.random.Generator) -> tuple[Trajectory, SweepData]:
    """Everything the sweep will show, computed at its beginning."""
    s, electronics, junction = world.situation, world.electronics, world.junction
    offsets, first = _times(recipe, world.settings.electronics.bias_slew_v_s)
    times = s.since_s + offsets
    bias = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
    one_way = np.concatenate([bias, bias[::-1]]) if recipe.backward else bias
    swept = np.tile(one_way, recipe.repeats)
    at_hold = world.offsets(np.array([s.since_s]))
    x, y = s.x_m - float(at_hold[0, 0]), s.y_m - float(at_hold[0, 1])
    here = np.full(len(times), s.x_m), np.full(len(times), s.y_m)
    z = np.full(len(times), s.z_m + recipe.z_offset_m)
    height = z - world.rise(*here, world.offsets(times))
    lockin = recipe.lockin or s.lockin
    held = HeldSweep(x, y, swept, height, recipe.dwell_s, lockin, world.controls.lockin_order)
    found = measured(junction, held, rng, electronics)
    ideal = found.ideal_a
    contact = height <= float(junction.contact(np.array([x]), np.array([y]))[0])
    at_rail = (np.abs(ideal) >= electronics.rail_a) | contact
    saturated = bool(at_rail.any())
    taken = int(np.argmax(at_rail)) + 1 if saturated else len(times)
    channels = []
    for name, samples in (
        ("current", found.current_a),
        ("lockin_x", found.lockin_x_a),
        ("lockin_y", found.lockin_y_a),
    ):
        if samples is not None:
            samples[taken:] = np.nan
            channels.append(Channel(name=name, unit="A", values=_arranged(samples, recipe)))
    crash = bool(contact[:taken].any())
    live = np.clip(ideal, -electronics.rail_a, electronics.rail_a)
    return (
        _closing(world, recipe, s.since_s, times, z, swept, live, taken, "crash" if crash else ""),
        SweepData(
            bias_v=bias,
            channels=tuple(channels),
            x_m=s.x_m,
            y_m=s.y_m,
            z_m=s.z_m,
            time_s=s.since_s + first,
            saturated=saturated,
        ),
    )


def _closing(
    world: World,
    recipe: SpectrumRecipe,
    begin_s: float,
    times: Floats,
    z: Floats,
    bias: Floats,
    current: Floats,
    taken: int,
    ending: str,
) -> Trajectory:
    """The samples that are taken and the return of bias and Z after them."""
    s = world.situation
    n = taken
    back_s = (
        OFFSET_S
        + abs(float(bias[n - 1]) - recipe.stabilise_bias_v) / world.settings.electronics.bias_slew_v_s
    )
    end = n if ending else n + 1
    sign = np.sign(recipe.stabilise_bias_v)
    return Trajectory(
        begin_s,
        np.append(times[:n], times[n - 1] + back_s),
        np.full(n + 1, s.x_m),
        np.full(n + 1, s.y_m),
        np.append(z[:n], z[n - 1] - recipe.z_offset_m),
        np.append(bias[:n], recipe.stabilise_bias_v),
        np.append(current[:n], sign * recipe.stabilise_current_a),
        end,
        ending,
    )


def _arranged(samples: Floats, recipe: SpectrumRecipe) -> Floats:
    """In the order of acquisition to (repeats, directions, points), backward samples in the order of the
    bias."""
    shaped = samples.reshape(recipe.repeats, 2 if recipe.backward else 1, recipe.points).copy()
    if recipe.backward:
        shaped[:, 1] = shaped[:, 1, ::-1].copy()
    return np.asarray(shaped)


def _recorded_plan(world: World, recipe: SpectrumRecipe) -> tuple[Trajectory, SweepData]:
    """A recorded spectrum takes as long as the recipe says and shows what was recorded, no more."""
    s, recorded = world.situation, world.recorded
    assert recorded is not None
    row, col = recorded.spectrum_at(s.x_m, s.y_m)
    channels, saturated = recorded.recorded_sweep(recipe, row, col)
    offsets, first = _times(recipe, world.settings.electronics.bias_slew_v_s)
    times = s.since_s + offsets
    bias = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
    current = next(c.values for c in channels if c.name == "current").reshape(-1).astype(np.float64)
    z = np.full(len(times), s.z_m)
    trajectory = _closing(world, recipe, s.since_s, times, z, bias, current, len(times), "")
    data = SweepData(
        bias_v=bias,
        channels=channels,
        x_m=s.x_m,
        y_m=s.y_m,
        z_m=float(recorded.topograph[row, col]),
        time_s=s.since_s + first,
        saturated=saturated,
    )
    return trajectory, data
