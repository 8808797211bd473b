"""BiasSpectr: spectra over the bias at the tip's place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError, TunnelpilotError
from protocols.files.nanonis_dat import DatFile, write_dat
from protocols.messages.data import SweepData
from protocols.messages.recipes import LockIn, SpectrumRecipe
from protocols.nanonis.conventions import channel_name
from sim_hardware import sweeping
from sim_hardware.motions import Run
from sim_hardware.nanonis import bias, files, jobs, lock_in, signals, sweeps
from sim_hardware.nanonis.bias_spectroscopy_settings import LINEAR, SEGMENTS, SHORTEST_S
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry
from sim_hardware.situation import Activity
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()

SWEEP = "Bias calc (V)"


@REGISTRY.command("BiasSpectr.Open")
def window_open(call: Call) -> None:
    """Open its window."""
    call.lab.open("BiasSpectr")


@REGISTRY.command("BiasSpectr.Stop")
def stop(call: Call) -> None:
    """End a sweep under way; the controller goes on as before."""
    running = call.lab.running("sweep")
    if running is not None:
        running.stop("stopped")


@REGISTRY.command("BiasSpectr.StatusGet")
def status_get(call: Call) -> bool:
    """Whether a sweep is under way."""
    return call.lab.running("sweep") is not None


@dataclass(frozen=True)
class Spectrum:
    """A finished spectrum as clients and files get it.

    ``columns``: by name, the swept quantity first, each (points,).
    """

    columns: dict[str, Floats]
    parameters: tuple[float, ...]
    data: SweepData
    final_z_m: float


def begin(lab: Instrument) -> Activity:
    """Begin the spectrum that the panel describes."""
    seconds, run = plan(lab)
    return lab.begin("sweep", seconds, run)


def plan(lab: Instrument) -> tuple[float, Run]:
    """How long it takes and what the world carries out."""
    program, usual = _program(lab), _usual(lab)
    timing, alternate = lab.setting("BiasSpectr.Timing"), lab.setting("BiasSpectr.AltZCtrl")
    inner = sweeping.sweep(usual) if usual is not None else sweeps.sweep(program)
    before = timing["z_averaging_time_s"] + timing["initial_settling_time_s"]
    after = timing["end_settling_time_s"] + timing["z_control_time_s"]

    def run(world: World, activity: Activity) -> None:
        setpoint = world.situation.setpoint_a
        other = bool(alternate["alternate_z_controller_setpoint"]) and world.situation.feedback
        try:
            if other:
                world.set_setpoint(abs(alternate["setpoint"]))
                world.wait(activity, world.clock.now() + alternate["settling_time_s"])
            if before > 0.0:
                world.wait(activity, world.clock.now() + before)
            inner(world, activity)
        finally:
            if other:
                world.set_setpoint(setpoint)
        if after > 0.0:
            world.wait(activity, world.clock.now() + after)

    return program.duration_s + before + after, run


def _modulation(lab: Instrument) -> LockIn | None:
    """The lock-in as it runs during the sweep: on anyway, or switched on for it."""
    found = lock_in.modulation(lab)
    if found is not None:
        return found[1]
    if not lab.setting("BiasSpectr.AdvProps")["lock_in_run"]:
        return None
    amplitude = abs(lab.setting("LockIn.ModAmp", 1)["amplitude"])
    if amplitude == 0.0:
        return None
    return LockIn(
        amplitude_v=amplitude,
        frequency_hz=lab.setting("LockIn.ModPhasFreq", 1)["frequency_hz"],
        time_constant_s=lock_in.time_constant_s(lab, 1),
    )


def _usual(lab: Instrument) -> SpectrumRecipe | None:
    """The recipe, if this is the sweep that the world makes itself."""
    state = lab.world.state()
    advanced = lab.setting("BiasSpectr.AdvProps")
    if lab.setting("BiasSpectr.MLSMode")["sweep_mode"] != LINEAR or not state.feedback:
        return None
    if not (advanced["z_controller_hold"] and advanced["reset_bias"]):
        return None
    kept, limits, timing = (lab.setting(f"BiasSpectr.{what}") for what in ("Props", "Limits", "Timing"))
    return SpectrumRecipe(
        stabilise_bias_v=state.bias_v,
        stabilise_current_a=_setpoint(lab),
        settle_s=0.0,
        z_offset_m=kept["z_offset_m"],
        start_v=bias.applied(lab, limits["start_value_v"]),
        stop_v=bias.applied(lab, limits["end_value_v"]),
        points=kept["number_of_points"],
        dwell_s=timing["settling_time_s"] + timing["integration_time_s"],
        repeats=kept["number_of_sweeps"],
        backward=bool(kept["backward_sweep"]),
        lockin=_modulation(lab),
    )


def _setpoint(lab: Instrument) -> float:
    alternate = lab.setting("BiasSpectr.AltZCtrl")
    if alternate["alternate_z_controller_setpoint"]:
        return abs(float(alternate["setpoint"]))
    return lab.world.situation.setpoint_a


def _program(lab: Instrument) -> sweeps.Program:
    kept, limits, timing = (lab.setting(f"BiasSpectr.{what}") for what in ("Props", "Limits", "Timing"))
    if lab.setting("BiasSpectr.MLSMode")["sweep_mode"] == SEGMENTS:
        segments = tuple(_segments(lab))
    else:
        segments = (
            sweeps.Segment(
                bias.applied(lab, limits["start_value_v"]),
                bias.applied(lab, limits["end_value_v"]),
                kept["number_of_points"],
                timing["settling_time_s"] + timing["integration_time_s"],
            ),
        )
    return sweeps.Program(
        segments=segments,
        backward=bool(kept["backward_sweep"]),
        repeats=kept["number_of_sweeps"],
        z_offset_m=kept["z_offset_m"],
        lockin=_modulation(lab),
        hold=bool(lab.setting("BiasSpectr.AdvProps")["z_controller_hold"]),
    )


def _segments(lab: Instrument) -> list[sweeps.Segment]:
    values = lab.setting("BiasSpectr.MLSVals")
    return [
        sweeps.Segment(
            bias.applied(lab, bias.coerced(lab, float(values["bias_start_v"][i]))),
            bias.applied(lab, bias.coerced(lab, float(values["bias_end_v"][i]))),
            int(values["steps"][i]),
            max(float(values["settling_time_s"][i]) + float(values["integration_time_s"][i]), SHORTEST_S),
            float(values["initial_settling_time_s"][i]),
        )
        for i in range(len(values["steps"]))
    ]


def spectrum(lab: Instrument, activity: Activity) -> Spectrum:
    """What a finished sweep shows.

    Raises:
        DriverError: it was stopped before there were data.
    """
    data = activity.sweep
    if data is None:
        raise DriverError(f"the sweep was ended: {activity.reason or activity.why}.")
    kept, timing = lab.setting("BiasSpectr.Props"), lab.setting("BiasSpectr.Timing")
    columns = {SWEEP: np.asarray(bias.shown(lab, data.bias_v), np.float64)}
    found = {channel.name: np.asarray(channel.values) for channel in data.channels}
    indexes = lab.setting("BiasSpectr.Chs")["channel_indexes"]
    ways = next(iter(found.values())).shape[1]
    for way in range(ways):
        for index in indexes:
            values = _values(lab, index, data, found)[:, way]
            columns |= columns_of(index, way, values, bool(kept["save_all"]))
    state = lab.world.state()
    parameters = (
        float(columns[SWEEP][0]),
        float(columns[SWEEP][-1]),
        data.x_m,
        data.y_m,
        data.z_m,
        kept["z_offset_m"],
        timing["settling_time_s"],
        timing["integration_time_s"],
        float(lab.setting("BiasSpectr.AdvProps")["z_controller_hold"]),
        state.z_m,
    )
    return Spectrum(columns, parameters, data, state.z_m)


def columns_of(index: int, way: int, values: Floats, save_all: bool) -> dict[str, Floats]:
    """A channel one way, (repeats, points): itself, or the average of several sweeps and, if wanted, each."""
    back = ("bwd",) if way else ()
    if len(values) == 1:
        return {_label(index, *back): values[0]}
    columns = {_label(index, "AVG", *back): values.mean(axis=0)}
    if save_all:
        columns |= {_label(index, f"{n + 1:05d}", *back): one for n, one in enumerate(values)}
    return columns


def _label(index: int, *tags: str) -> str:
    label = channel_name(signals.NAMES[index])
    return str(type(label)(label.quantity, label.unit, tags))


def _values(lab: Instrument, index: int, data: SweepData, found: dict[str, Any]) -> Floats:
    """A signal during the sweep: (repeats, ways, points)."""
    shape = next(iter(found.values())).shape
    if index == signals.CURRENT:
        return np.asarray(found["current"], np.float64)
    if index == signals.BIAS:
        return np.broadcast_to(np.asarray(bias.shown(lab, data.bias_v), np.float64), shape)
    if index in (signals.X, signals.Y, signals.Z):
        if index == signals.Z and "z" in found:
            return np.asarray(found["z"], np.float64)
        held = {signals.X: data.x_m, signals.Y: data.y_m}.get(
            index, data.z_m + lab.setting("BiasSpectr.Props")["z_offset_m"]
        )
        return np.full(shape, held)
    if signals.FIRST_DEMODULATOR <= index < signals.FIRST_DEMODULATOR + 2 * lock_in.DEMODULATORS:
        number, part = divmod(index - signals.FIRST_DEMODULATOR, 2)
        return np.asarray(lock_in.demodulated(lab, number + 1, part, found, shape), np.float64)
    return signals.samples(lab, index, int(np.prod(shape)), 1e-3).reshape(shape)


@REGISTRY.command("BiasSpectr.Start")
def start(call: Call, get_data: bool, basename: str | None) -> dict[str, Any]:
    """Take a spectrum and wait for it."""
    lab = call.lab
    if basename:
        lab.store_setting("BiasSpectr.Start", 0, {"basename": basename})
    job = jobs.begin(lab.world, basename or "", "sweep")
    try:
        activity = begin(lab)
    except TunnelpilotError:
        if job:
            lab.world.end_job(job, "refused")
        raise
    lab.after(activity, lambda ended: _ended(lab, ended, job))
    call.wait(activity.done)
    lab.settled(activity)
    if activity.state == "failed":
        raise activity.error or DriverError(activity.reason)
    if not get_data:
        return {"channels": (), "data": np.zeros((0, 0), np.float32), "parameters": np.zeros(0, np.float32)}
    found = spectrum(lab, activity)
    return {
        "channels": tuple(found.columns),
        "data": np.array(list(found.columns.values()), np.float32),
        "parameters": np.array(found.parameters, np.float32),
    }


def _ended(lab: Instrument, activity: Activity, job: str) -> None:
    """What the electronics do at the end, whether or not somebody waits."""
    jobs.end(lab.world, job, activity)
    if activity.sweep is not None and lab.setting("BiasSpectr.Props")["autosave"]:
        save(lab, spectrum(lab, activity))


def save(lab: Instrument, found: Spectrum) -> Path:
    """Write a spectrum to a file."""
    path = files.next_path(lab, lab.setting("BiasSpectr.Start")["basename"], ".dat")
    kept, timing = lab.setting("BiasSpectr.Props"), lab.setting("BiasSpectr.Timing")
    advanced = lab.setting("BiasSpectr.AdvProps")
    write_dat(
        path,
        DatFile(
            columns=found.columns,
            saved=files.now(),
            started=files.now(),
            x_m=found.data.x_m,
            y_m=found.data.y_m,
            z_m=found.data.z_m,
            z_offset_m=kept["z_offset_m"],
            settling_s=timing["settling_time_s"],
            integration_s=timing["integration_time_s"],
            z_hold=bool(advanced["z_controller_hold"]),
            final_z_m=found.final_z_m if advanced["record_final_z"] else None,
            settings={
                **files.module_settings(lab, lab.world.state()),
                **files.bias_sweep_settings(lab, len(found.columns[SWEEP])),
            },
        ),
    )
    return path
