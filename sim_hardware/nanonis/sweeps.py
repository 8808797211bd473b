"""Bias sweeps of any shape at the tip's place: segments, with the Z-controller held, off, or working on.

The usual sweep (linear, from a working controller that is held) is the world's own (``sweeping``); this is
for what that one does not do.  What is measured comes from the same physics (``acquisition``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protocols.messages.data import Channel, SweepData
from protocols.messages.recipes import LockIn
from sim_hardware.acquisition import HeldSweep, measured
from sim_hardware.motions import Run, ramp_path
from sim_hardware.situation import Activity, InterruptedActivityError
from sim_hardware.sweeping import HOLD_JITTER_M, OFFSET_S
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """Some samples at evenly spaced biases."""

    start_v: float
    end_v: float
    points: int
    dwell_s: float
    settle_s: float = 0.0
    """Before the first sample."""


@dataclass(frozen=True)
class Program:
    """A sweep: its segments one after the other, ``repeats`` times, back again if ``backward``."""

    segments: tuple[Segment, ...]
    backward: bool = False
    repeats: int = 1
    z_offset_m: float = 0.0
    lockin: LockIn | None = None
    hold: bool = True
    """Whether the controller is off during the sweep; else it works on as it is."""

    @property
    def bias_v(self) -> Floats:
        """Biases of one way: (points,)."""
        return np.concatenate([np.linspace(s.start_v, s.end_v, s.points) for s in self.segments])

    @property
    def steps_s(self) -> Floats:
        """Time of each sample of one way, with what is waited before it: (points,)."""
        found = []
        for segment in self.segments:
            times = np.full(segment.points, segment.dwell_s)
            times[0] += segment.settle_s
            found.append(times)
        return np.concatenate(found)

    @property
    def duration_s(self) -> float:
        """Of all samples."""
        return float(self.steps_s.sum()) * self.repeats * (2 if self.backward else 1)


def sweep(program: Program) -> Run:
    """What ``World.submit`` runs."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        if s.feedback and not program.hold:
            _following(world, activity, program)
        else:
            _held(world, activity, program)

    return run


def _there_and_back(program: Program, one_way: Floats) -> Floats:
    """Values of all samples in the order of time."""
    both = np.concatenate([one_way, one_way[::-1]]) if program.backward else one_way
    return np.tile(both, program.repeats)


def _arranged(program: Program, samples: Floats) -> Floats:
    """(repeats, directions, points), backward samples in the order of the biases."""
    ways = 2 if program.backward else 1
    shaped = samples.reshape(program.repeats, ways, len(program.bias_v)).copy()
    if program.backward:
        shaped[:, 1] = shaped[:, 1, ::-1].copy()
    return shaped


def _held(world: World, activity: Activity, program: Program) -> None:
    s = world.situation
    rng = world.noise()
    with world.lock:
        if activity.interrupt.is_set():
            raise InterruptedActivityError(activity.why)
        world.advance()
        begin, before_z, before_v, feedback = s.since_s, s.z_m, s.bias_v, s.feedback
        withdrawn = s.withdrawn
        s.feedback = False
        if feedback:
            s.z_m += HOLD_JITTER_M * float(rng.normal()) * world.junction.tip.noise_factor
    trajectory, data = _plan(world, program, rng, begin, before_v)
    completed = False
    try:
        world.play(activity, trajectory)
        completed = True
    finally:
        with world.lock:
            if not (s.retracting or (s.withdrawn and not withdrawn)):
                s.bias_v = before_v
                if not s.shorted:
                    s.z_m = max(s.z_m, before_z) if feedback else before_z
                s.withdrawn = withdrawn
                s.since_s = world.clock.now()
                world.resume_feedback(feedback)
        _note(world, data, begin, completed)
    activity.sweep = data


def _plan(
    world: World, program: Program, rng: np.random.Generator, begin_s: float, before_v: float
) -> tuple[Trajectory, SweepData]:
    s, electronics, junction = world.situation, world.electronics, world.junction
    one_way = program.bias_v
    swept = _there_and_back(program, one_way)
    times = begin_s + OFFSET_S + np.cumsum(_there_and_back(program, program.steps_s))
    offsets = world.offsets(times)
    here = np.full(len(times), s.x_m), np.full(len(times), s.y_m)
    z = np.full(len(times), s.z_m + program.z_offset_m)
    height = z - world.rise(*here, offsets)
    x, y = s.x_m - float(offsets[0, 0]), s.y_m - float(offsets[0, 1])
    dwell = float(np.mean([segment.dwell_s for segment in program.segments]))
    held = HeldSweep(x, y, swept, height, dwell, program.lockin or s.lockin, world.controls.lockin_order)
    found = measured(junction, held, rng, electronics)
    rail = electronics.rail_a
    ideal = np.nan_to_num(found.ideal_a)
    contact = height <= float(junction.contact(np.array([x]), np.array([y]))[0])
    if s.shorted:
        ideal, contact = np.sign(swept) * rail, np.zeros(len(swept), bool)
        found = replace(found, current_a=ideal.copy())
    over = contact | (np.abs(ideal) >= rail)
    saturated = bool(over.any()) and not s.shorted
    taken = int(np.argmax(over)) + 1 if saturated else len(times)
    channels = []
    for name, samples in (
        ("current", found.current_a),
        ("lockin_x", found.lockin_x_a),
        ("lockin_y", found.lockin_y_a),
    ):
        if samples is not None:
            samples = np.nan_to_num(samples)
            samples[taken:] = np.nan
            channels.append(Channel(name=name, unit="A", values=_arranged(program, samples)))
    crash = bool(contact[:taken].any())
    data = SweepData(
        bias_v=one_way,
        channels=tuple(channels),
        x_m=s.x_m,
        y_m=s.y_m,
        z_m=s.z_m,
        time_s=begin_s + OFFSET_S,
        saturated=saturated,
    )
    end = taken if crash else taken + 1
    back = times[taken - 1] + OFFSET_S
    return (
        Trajectory(
            begin_s,
            np.append(times[:taken], back),
            np.full(taken + 1, s.x_m),
            np.full(taken + 1, s.y_m),
            np.append(z[:taken], z[taken - 1] - program.z_offset_m),
            np.append(swept[:taken], before_v),
            np.append(np.clip(ideal, -rail, rail)[:taken], 0.0),
            end,
            "crash" if crash else "",
        ),
        data,
    )


def _following(world: World, activity: Activity, program: Program) -> None:
    """The controller works on: Z follows the bias, and a bias through zero is a crash."""
    s = world.situation
    begin, before_v = world.clock.now(), s.bias_v
    biases, steps = _there_and_back(program, program.bias_v), _there_and_back(program, program.steps_s)
    current, height = np.full(len(biases), np.nan), np.full(len(biases), np.nan)
    rng = world.noise()
    completed = False
    try:
        for i, (bias, seconds) in enumerate(zip(biases, steps, strict=True)):
            world.play(activity, ramp_path(world, float(bias), float(seconds)))
            if s.shorted:
                break
            current[i], height[i] = world.state().current_a, s.z_m
        else:
            completed = True
        world.play(activity, ramp_path(world, before_v, 1e-3))
    finally:
        data = SweepData(
            bias_v=program.bias_v,
            channels=(
                Channel(name="current", unit="A", values=_arranged(program, current)),
                Channel(name="z", unit="m", values=_arranged(program, height)),
            ),
            x_m=s.x_m,
            y_m=s.y_m,
            z_m=s.z_m,
            time_s=begin,
        )
        world.may_change_tip(world.clock.now() - begin, before_v, rng)
        _note(world, data, begin, completed)
    activity.sweep = data


def _note(world: World, data: SweepData, begin_s: float, completed: bool) -> None:
    dx, dy, _ = world.lateral(begin_s)
    number = world.note(
        "sweep_done",
        x_m=data.x_m,
        y_m=data.y_m,
        sample_x_m=data.x_m - dx,
        sample_y_m=data.y_m - dy,
        seconds=world.clock.now() - begin_s,
        completed=completed,
        saturated=data.saturated,
        crashed=world.situation.shorted,
    )
    world.pen.wait_durable(number)
