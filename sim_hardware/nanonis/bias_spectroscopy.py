"""BiasSpectr: spectra over the bias at the tip's place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.files.nanonis_dat import DatFile
from protocols.messages.data import SweepData
from protocols.messages.recipes import LockIn, SpectrumRecipe
from sim_hardware import sweeping
from sim_hardware.motions import Run
from sim_hardware.nanonis import bias, files, lock_in, signals, sweeps
from sim_hardware.nanonis.bias_spectroscopy_settings import LINEAR, SEGMENTS
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry
from sim_hardware.nanonis.spectroscopy_panel import SHORTEST_S, SpectroscopyPanel, Spectrum, recorded_columns
from sim_hardware.situation import Activity
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()

SWEEP = "Bias calc (V)"


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


def _evaluated(lab: Instrument, data: SweepData) -> Spectrum:
    """What a finished sweep shows."""
    kept, timing = lab.setting("BiasSpectr.Props"), lab.setting("BiasSpectr.Timing")
    found = {channel.name: np.asarray(channel.values) for channel in data.channels}
    ways = next(iter(found.values())).shape[1]
    swept = np.asarray(bias.shown(lab, data.bias_v), np.float64)
    columns = {
        SWEEP: swept,
        **recorded_columns(lab, "BiasSpectr", ways, lambda index: _values(lab, index, data, found)),
    }
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


def _described(lab: Instrument, file: DatFile) -> DatFile:
    return replace(
        file,
        z_offset_m=lab.setting("BiasSpectr.Props")["z_offset_m"],
        z_hold=bool(lab.setting("BiasSpectr.AdvProps")["z_controller_hold"]),
    )


PANEL = SpectroscopyPanel(
    stem="BiasSpectr",
    kind="sweep",
    basename="Bias-Spectroscopy",
    begin=begin,
    evaluated=_evaluated,
    described=_described,
    sweep_settings=files.bias_sweep_settings,
)
PANEL.offer(REGISTRY)
