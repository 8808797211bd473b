"""ZSpectr: spectra over the distance at the tip's place, with the bias held."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.files.nanonis_dat import Z_SPECTROSCOPY
from protocols.messages.data import Channel, SweepData
from sim_hardware.electronics import averaged_current
from sim_hardware.motions import Run
from sim_hardware.nanonis import bias, files, signals
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.spectroscopy_panel import (
    SpectroscopyPanel,
    Spectrum,
    check_times,
    recorded_columns,
    synchronisation,
)
from sim_hardware.nanonis.z_motion import vertical
from sim_hardware.situation import Activity
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()

SWEEP = "Z rel (m)"
FIXED_PARAMETERS = ("Sweep Start", "Sweep End")
PARAMETERS = ("X (m)", "Y (m)", "Z (m)", "Settling time (s)", "Integration time (s)", "Final Z (m)")
NEVER = {"threshold": 0.0, "signal_index": 0, "comparison": ">"}
_SIGNAL = (0, signals.SIGNALS - 1)

REGISTRY.keep(
    Settings(
        "ZSpectr.Props",
        {
            "backward_sweep": True,
            "number_of_points": 256,
            "number_of_sweeps": 1,
            "autosave": False,
            "show_save_dialog": False,
            "save_all": False,
        },
        {"number_of_sweeps": (1, 10_000), "number_of_points": (2, 100_000)},
        more=lambda lab, kept: {"parameters": PARAMETERS, "fixed_parameters": FIXED_PARAMETERS},
    ),
    Settings(
        "ZSpectr.AdvProps",
        {
            "time_between_forward_and_backward_sweep_s": 0.0,
            "record_final_z": False,
            "lock_in_run": False,
            "reset_z": True,
        },
        {"time_between_forward_and_backward_sweep_s": (0.0, 3600.0)},
    ),
    Settings(
        "ZSpectr.Range",
        {"z_offset_m": 0.0, "z_sweep_distance_m": 0.5e-9},
        {"z_offset_m": (-1e-6, 1e-6), "z_sweep_distance_m": (-1e-6, 1e-6)},
    ),
    Settings(
        "ZSpectr.Timing",
        {
            "z_averaging_time_s": 0.0,
            "initial_settling_time_s": 0.0,
            "maximum_slew_rate_v_s": math.inf,
            "settling_time_s": 0.0,
            "integration_time_s": 2e-3,
            "end_settling_time_s": 0.0,
            "z_control_time_s": 0.0,
        },
        {"maximum_slew_rate_v_s": (1e-6, math.inf)},
        check=check_times,
    ),
    Settings("ZSpectr.RetractDelay", {"retract_delay_s": 0.0}, {"retract_delay_s": (0.0, 60.0)}),
    Settings("ZSpectr.Retract", {"enable": False, **NEVER}, {"signal_index": _SIGNAL}),
    Settings("ZSpectr.Retract2nd", {"condition": "none", **NEVER}, {"signal_index": _SIGNAL}),
    *synchronisation("ZSpectr"),
)


# -- the sweep -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A sweep of Z: relative heights of one way, how often, how long each sample takes."""

    z_rel_m: Floats
    backward: bool
    repeats: int
    dwell_s: float
    before_s: float
    between_s: float
    after_s: float
    first: dict[str, Any]
    second: dict[str, Any]
    """Conditions that take the tip back, as their panels say."""

    @property
    def duration_s(self) -> float:
        """Of all samples."""
        return len(self.z_rel_m) * self.dwell_s * self.repeats * (2 if self.backward else 1)


def plan(lab: Instrument) -> Plan:
    """What the panel describes."""
    kept, area, timing = (lab.setting(f"ZSpectr.{what}") for what in ("Props", "Range", "Timing"))
    begin = area["z_offset_m"]
    return Plan(
        z_rel_m=np.linspace(begin, begin + area["z_sweep_distance_m"], kept["number_of_points"]),
        backward=bool(kept["backward_sweep"]),
        repeats=kept["number_of_sweeps"],
        dwell_s=timing["settling_time_s"] + timing["integration_time_s"],
        before_s=timing["z_averaging_time_s"] + timing["initial_settling_time_s"],
        between_s=lab.setting("ZSpectr.AdvProps")["time_between_forward_and_backward_sweep_s"],
        after_s=timing["end_settling_time_s"] + timing["z_control_time_s"],
        first=lab.setting("ZSpectr.Retract"),
        second=lab.setting("ZSpectr.Retract2nd"),
    )


def begin(lab: Instrument) -> Activity:
    """Begin the spectrum that the panel describes."""
    wanted = plan(lab)
    return lab.begin("z sweep", wanted.duration_s, sweep(wanted))


def sweep(wanted: Plan) -> Run:
    """What ``World.submit`` runs: hold, go through the heights, return, release."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        world.wait(activity, world.clock.now() + wanted.before_s)
        rng = world.noise()
        with world.lock:
            world.advance()
            begin, start, feedback, withdrawn = s.since_s, s.z_m, s.feedback, s.withdrawn
            s.feedback = False
        trajectory, data = _measured(world, wanted, begin, start, rng)
        completed = False
        try:
            if not withdrawn:
                world.play(activity, trajectory)
            else:
                world.wait(activity, trajectory.end_s)
            completed = True
        finally:
            with world.lock:
                if not (s.retracting or (s.withdrawn and not withdrawn) or s.shorted):
                    s.z_m, s.since_s = start, world.clock.now()
                    world.resume_feedback(feedback)
            dx, dy, _ = world.lateral(begin)
            number = world.note(
                "sweep_done",
                kind="z",
                x_m=s.x_m,
                y_m=s.y_m,
                sample_x_m=s.x_m - dx,
                sample_y_m=s.y_m - dy,
                seconds=world.clock.now() - begin,
                completed=completed,
                saturated=data.saturated,
                crashed=s.shorted,
            )
        world.pen.wait_durable(number)
        activity.sweep = data
        world.wait(activity, world.clock.now() + wanted.after_s)

    return run


def _measured(
    world: World, wanted: Plan, begin_s: float, start_m: float, rng: np.random.Generator
) -> tuple[Trajectory, SweepData]:
    """The way of the tip and the current on it; cut where a condition takes the tip back, or at contact."""
    s = world.situation
    ways = [wanted.z_rel_m, wanted.z_rel_m[::-1]] if wanted.backward else [wanted.z_rel_m]
    z = start_m + np.tile(np.concatenate(ways), wanted.repeats)
    times = np.asarray(begin_s + wanted.dwell_s * np.arange(1, len(z) + 1), np.float64)
    if wanted.backward:
        turns = (np.arange(len(z)) // len(wanted.z_rel_m) + 1) // 2
        times += wanted.between_s * turns
    trajectory = vertical(world, z, times, begin_s, s.bias_v)
    electronics = world.electronics
    kappa, tip = world.junction.kappa, world.junction.tip
    ideal = trajectory.current_a
    shown = averaged_current(ideal, wanted.dwell_s, kappa, rng, electronics) + tip.current_offset_a
    taken = trajectory.end
    met = _retracts(wanted, {signals.CURRENT: shown, signals.Z: z, signals.BIAS: trajectory.bias_v})
    if met[:taken].any():
        taken = int(np.argmax(met)) + 1
    shown[taken:] = np.nan
    ended = "" if taken < trajectory.end else trajectory.ending
    cut = Trajectory(
        trajectory.begin_s,
        trajectory.times_s,
        trajectory.x_m,
        trajectory.y_m,
        trajectory.z_m,
        trajectory.bias_v,
        trajectory.current_a,
        taken,
        ended,
    )
    shape = (wanted.repeats, len(ways), len(wanted.z_rel_m))
    arranged = shown.reshape(shape).copy()
    if wanted.backward:
        arranged[:, 1] = arranged[:, 1, ::-1].copy()
    data = SweepData(
        bias_v=wanted.z_rel_m,
        channels=(Channel(name="current", unit="A", values=arranged),),
        x_m=s.x_m,
        y_m=s.y_m,
        z_m=start_m,
        time_s=begin_s,
        saturated=bool(np.any(np.abs(ideal[:taken]) >= electronics.rail_a)),
    )
    return cut, data


def _retracts(wanted: Plan, samples: dict[int, Floats]) -> npt.NDArray[np.bool_]:
    """At which samples the conditions take the tip back: (n,)."""

    def met(condition: dict[str, Any]) -> npt.NDArray[np.bool_]:
        values = samples.get(condition["signal_index"], np.full(len(samples[signals.CURRENT]), np.nan))
        above, threshold = condition["comparison"] == ">", condition["threshold"]
        return np.asarray(values > threshold if above else values < threshold)

    if not wanted.first["enable"]:
        return np.zeros(len(samples[signals.CURRENT]), bool)
    first, second, both = met(wanted.first), met(wanted.second), wanted.second["condition"]
    if both == "or":
        return first | second
    if both == "and":
        return first & second
    return np.maximum.accumulate(first) & second if both == "then" else first


# -- what it shows -------------------------------------------------------------------------------------------


def _evaluated(lab: Instrument, data: SweepData) -> Spectrum:
    """What a finished sweep shows."""
    timing = lab.setting("ZSpectr.Timing")
    z_rel = np.asarray(data.bias_v, np.float64)
    current = np.asarray(data.channels[0].values, np.float64)
    ways = current.shape[1]
    columns = {
        SWEEP: z_rel,
        **recorded_columns(lab, "ZSpectr", ways, lambda index: _values(lab, index, data, current)),
    }
    final = lab.world.state().z_m
    parameters = (
        float(z_rel[0]),
        float(z_rel[-1]),
        data.x_m,
        data.y_m,
        data.z_m,
        timing["settling_time_s"],
        timing["integration_time_s"],
        final,
    )
    return Spectrum(columns, parameters, data, final)


def _values(lab: Instrument, index: int, data: SweepData, current: Floats) -> Floats:
    """A signal during the sweep: (repeats, ways, points)."""
    shape = current.shape
    if index == signals.CURRENT:
        return current
    if index == signals.Z:
        return np.broadcast_to(data.z_m + np.asarray(data.bias_v, np.float64), shape)
    held = {signals.X: data.x_m, signals.Y: data.y_m}.get(index)
    if held is not None:
        return np.full(shape, held)
    if index == signals.BIAS:
        return np.full(shape, float(bias.shown(lab, lab.world.state().bias_v)))
    return signals.samples(lab, index, int(np.prod(shape)), 1e-3).reshape(shape)


PANEL = SpectroscopyPanel(
    stem="ZSpectr",
    kind="z sweep",
    basename="Z-Spectroscopy",
    begin=begin,
    evaluated=_evaluated,
    described=lambda _lab, file: replace(file, experiment=Z_SPECTROSCOPY),
    sweep_settings=files.z_sweep_settings,
)
PANEL.offer(REGISTRY)
