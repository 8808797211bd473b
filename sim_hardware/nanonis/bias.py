"""Bias and Current: the junction's voltage and the preamplifier."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware import motions
from sim_hardware.controls import GAIN_RANGES
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings, no_zero
from sim_hardware.situation import Activity
from sim_hardware.world import World

REGISTRY = Registry()

SLEW_V_S = 1000.0
"""How fast the output follows a new value."""
RANGES_V = (10.0, 1.0, 0.1)
FILTERS = ("Off", "10 kHz", "1 kHz", "100 Hz")
LONGEST_PULSE_S = 10.0

REGISTRY.keep(
    Settings(
        "Bias.Calibr",
        {"calibration": 1.0, "offset": 0.0},
        {"calibration": (-1e3, 1e3)},
        check=no_zero("calibration"),
    ),
)
REGISTRY.settings["Bias.Range"] = Settings("Bias.Range", {"bias_range_index": 0})
REGISTRY.settings["Current.Gain"] = Settings("Current.Gain", {"filter_index": 0})
REGISTRY.settings["Current.Calibr"] = Settings(
    "Current.Calibr", {"relative": 1.0, "offset": 0.0}, indices=range(len(GAIN_RANGES))
)


def applied(lab: Instrument, shown_v: float) -> float:
    """The voltage at the junction for a bias as the panel shows it; whatever the calibration says, the output
    gives no more than its range."""
    kept = lab.setting("Bias.Calibr")
    return coerced(lab, (shown_v - float(kept["offset"])) / float(kept["calibration"]))


def shown(lab: Instrument, applied_v: Any) -> Any:
    """The bias as the panel shows it; also for arrays."""
    kept = lab.setting("Bias.Calibr")
    return applied_v * kept["calibration"] + kept["offset"]


def coerced(lab: Instrument, bias_v: float) -> float:
    """A bias (V) brought into the output's present range, as the electronics do."""
    low, high = lab.world.settings.bias_range_v
    reach = RANGES_V[lab.setting("Bias.Range")["bias_range_index"]]
    return min(max(bias_v, low, -reach), high, reach)


def set_bias(lab: Instrument, shown_v: float) -> None:
    """Bring the bias there; within a scan at the end of the present line."""
    wanted = applied(lab, coerced(lab, shown_v))
    frame = lab.running("frame")
    if frame is not None:
        lab.between_lines(frame, lambda world: _ramp(world, frame, wanted))
    elif lab.bias_v() != wanted:
        lab.brief("ramp", motions.ramp(wanted, SLEW_V_S))


def _ramp(world: World, activity: Activity, bias_v: float) -> None:
    motions.ramp_bias(world, activity, bias_v, SLEW_V_S)


@REGISTRY.command("Bias.Set")
def bias_set(call: Call, bias_v: float) -> None:
    """The bias (sample against tip)."""
    if not np.isfinite(bias_v):
        raise DriverError(f"a bias of {bias_v} V is none.")
    set_bias(call.lab, bias_v)


@REGISTRY.command("Bias.Get")
def bias_get(call: Call) -> float:
    """The bias."""
    found: float = shown(call.lab, call.lab.bias_v())
    return found


@REGISTRY.command("Bias.RangeSet")
def range_set(call: Call, bias_range_index: int) -> None:
    """Choose the output's range; the bias is brought into it."""
    if not 0 <= bias_range_index < len(RANGES_V):
        raise DriverError(f"bias range index {bias_range_index} is outside 0 to {len(RANGES_V) - 1}.")
    call.lab.store_setting("Bias.Range", 0, {"bias_range_index": bias_range_index})
    present = bias_get(call)
    if coerced(call.lab, present) != present:
        set_bias(call.lab, present)


@REGISTRY.command("Bias.RangeGet")
def range_get(call: Call) -> dict[str, Any]:
    """The ranges and the present one."""
    names = tuple(f"+/- {reach:g} V" for reach in RANGES_V)
    return {"bias_ranges": names, **call.lab.setting("Bias.Range")}


@REGISTRY.command("Bias.Pulse")
def pulse(
    call: Call,
    wait: bool,
    width_s: float,
    bias_v: float,
    z_hold: bool | None,
    absolute_relative: str | None,
) -> None:
    """One pulse of the bias."""
    lab = call.lab
    if not 0.0 <= width_s <= LONGEST_PULSE_S:
        raise DriverError(f"a pulse of {width_s:g} s is outside 0 to {LONGEST_PULSE_S:g} s.")
    with lab.lock:
        kept = lab.setting("Bias.Pulse")
        kept["z_hold"] = kept["z_hold"] if z_hold is None else z_hold
        kept["mode"] = absolute_relative or kept["mode"]
        lab.store_setting("Bias.Pulse", 0, kept)
    state = lab.world.state()
    wanted = bias_v + shown(lab, state.bias_v) if kept["mode"] == "relative" else bias_v
    height = applied(lab, coerced(lab, wanted))
    run = (
        _pulse_in_air(height, width_s) if state.withdrawn else motions.pulse(height, width_s, kept["z_hold"])
    )
    activity = lab.begin("pulse", width_s, run)
    if wait:
        call.finish(activity)


REGISTRY.settings["Bias.Pulse"] = Settings("Bias.Pulse", {"z_hold": True, "mode": "absolute"})


def _pulse_in_air(bias_v: float, width_s: float) -> motions.Run:
    """A pulse while withdrawn, which does nothing to the tip."""

    def run(world: World, activity: Activity) -> None:
        before = world.situation.bias_v
        try:
            world.play(activity, motions.ramp_path(world, bias_v, 1e-4))
            world.wait(activity, world.clock.now() + width_s)
        finally:
            with world.lock:
                world.situation.bias_v = before

    return run


# -- preamplifier --------------------------------------------------------------------------------------------


def current_shown(lab: Instrument, current_a: float) -> float:
    """A current (A) as the calibration of the present gain shows it."""
    kept = lab.setting("Current.Calibr", lab.world.controls.gain_index)
    return float(current_a * kept["relative"] + kept["offset"])


@REGISTRY.command("Current.Get")
def current_get(call: Call) -> float:
    """The tunneling current."""
    return current_shown(call.lab, call.lab.world.state().current_a)


@REGISTRY.command("Current.GainSet")
def gain_set(call: Call, gain_index: int | None, filter_index: int | None = None) -> None:
    """Choose gain and filter of the preamplifier; an index beyond the list counts as its last entry."""
    lab = call.lab
    if filter_index is not None:
        kept = min(max(filter_index, 0), len(FILTERS) - 1)
        lab.store_setting("Current.Gain", 0, {"filter_index": kept})
    if gain_index is not None:
        with lab.world.lock:
            lab.world.advance()
            lab.world.controls.gain_index = min(max(gain_index, 0), len(GAIN_RANGES) - 1)


@REGISTRY.command("Current.GainsGet")
def gains_get(call: Call) -> dict[str, Any]:
    """All gains and filters and the present ones."""
    return {
        "gains": tuple(gain.name for gain in GAIN_RANGES),
        "gain_index": call.lab.world.controls.gain_index,
        "filters": FILTERS,
        **call.lab.setting("Current.Gain"),
    }


def _gain(lab: Instrument, gain_index: int) -> int:
    index = lab.world.controls.gain_index if gain_index == -1 else gain_index
    if not 0 <= index < len(GAIN_RANGES):
        raise DriverError(f"gain index {gain_index} is outside -1 to {len(GAIN_RANGES) - 1}.")
    return index


@REGISTRY.command("Current.CalibrSet")
def calibration_set(call: Call, gain_index: int, calibration: float, offset: float) -> None:
    """Calibration (A/V) and offset of a gain; -1 is the present one."""
    index = _gain(call.lab, gain_index)
    if calibration == 0.0 or not np.isfinite(calibration):
        raise DriverError(f"a calibration of {calibration:g} A/V is none.")
    relative = calibration * GAIN_RANGES[index].gain_v_per_a
    relative = 1.0 if abs(relative - 1.0) < 1e-12 else relative
    call.lab.store_setting("Current.Calibr", index, {"relative": relative, "offset": offset})


@REGISTRY.command("Current.CalibrGet")
def calibration_get(call: Call, gain_index: int = -1) -> tuple[float, float]:
    """Calibration (A/V) and offset of a gain."""
    index = _gain(call.lab, gain_index)
    kept = call.lab.setting("Current.Calibr", index)
    return kept["relative"] / GAIN_RANGES[index].gain_v_per_a, kept["offset"]
