"""GenPICtrl and PICtrl: PI controllers that drive an output so that an input comes to its setpoint.

An output is a number that integrates while its controller is on; it is brought to the present whenever it is
looked at, and the signals of the user outputs show it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware.nanonis import signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings

REGISTRY = Registry()

CONTROLLERS = range(1, 9)
LONGEST_STEP_S = 10.0
_SIGNAL = (0, signals.SIGNALS - 1)
_PI: dict[str, Any] = {"index": "controller_index", "indices": CONTROLLERS}


@dataclass
class Output:
    """A driven value at an instrument time."""

    value: float = 0.0
    since_s: float = 0.0


@dataclass
class RegulatorsPanel:
    """Outputs by controller; 0 is the generic one."""

    outputs: dict[int, Output] = field(default_factory=dict)


REGISTRY.keep(
    Settings("GenPICtrl.OnOff", {"controller_status": 0}, {"controller_status": (0, 1)}),
    Settings(
        "GenPICtrl.AOProps",
        {
            "signal_name": "Generic PI output",
            "units": "V",
            "upper_limit": 10.0,
            "lower_limit": -10.0,
            "calibration_per_volt": 1.0,
            "offset_in_physical_units": 0.0,
        },
    ),
    Settings("GenPICtrl.ModCh", {"output_index": -1}, {"output_index": (-1, 127)}),
    Settings("GenPICtrl.DemodCh", {"input_index": 0, "ac_mode": False}, {"input_index": _SIGNAL}),
    Settings(
        "GenPICtrl.Props",
        {"setpoint": 0.0, "p_gain": 0.0, "time_constant": 1.0, "slope": "positive"},
        {"time_constant": (1e-6, 1e6)},
    ),
    Settings("PICtrl.OnOff", {"controller_status": 0}, {"controller_status": (0, 1)}, **_PI),
    Settings(
        "PICtrl.CtrlCh",
        {"control_signal_index": 25},
        {"control_signal_index": _SIGNAL},
        more=lambda lab, kept: {
            "control_signals_names": signals.NAMES,
            "control_signals_indexes": np.arange(signals.SIGNALS, dtype=np.int32),
        },
        **_PI,
    ),
    Settings(
        "PICtrl.InputCh",
        {"input_index": 0},
        {"input_index": _SIGNAL},
        more=lambda lab, kept: {
            "input_signals_names": signals.NAMES,
            "input_signals_indexes": np.arange(signals.SIGNALS, dtype=np.int32),
        },
        **_PI,
    ),
    Settings(
        "PICtrl.Props",
        {"setpoint": 0.0, "p_gain": 0.0, "i_gain": 0.0, "slope": "positive"},
        **_PI,
    ),
    Settings("PICtrl.CtrlChProps", {"lower_limit": -10.0, "upper_limit": 10.0}, **_PI),
)


def output(lab: Instrument, number: int) -> float:
    """What a controller (0: the generic one) puts out now."""
    now = lab.world.clock.now()
    if number == 0:
        on = lab.setting("GenPICtrl.OnOff")["controller_status"]
        kept, limits = lab.setting("GenPICtrl.Props"), lab.setting("GenPICtrl.AOProps")
        integral = kept["p_gain"] / kept["time_constant"]
        source = lab.setting("GenPICtrl.DemodCh")["input_index"]
    else:
        on = lab.setting("PICtrl.OnOff", number)["controller_status"]
        kept, limits = lab.setting("PICtrl.Props", number), lab.setting("PICtrl.CtrlChProps", number)
        integral = kept["i_gain"]
        source = lab.setting("PICtrl.InputCh", number)["input_index"]
    sign = -1.0 if kept["slope"] == "negative" else 1.0
    measured = signals.value(lab, source) if on else 0.0
    with lab.lock:
        driven = lab.of(RegulatorsPanel).outputs.setdefault(number, Output(0.0, now))
        if on:
            error = sign * (kept["setpoint"] - measured)
            driven.value += integral * error * min(now - driven.since_s, LONGEST_STEP_S)
        driven.value = float(np.clip(driven.value, limits["lower_limit"], limits["upper_limit"]))
        driven.since_s = now
        return driven.value


def driven(lab: Instrument, number: int) -> float | None:
    """What a controller that is on puts out at a user output; None: none drives it."""
    index = number + signals.BIAS - 1
    for controller in CONTROLLERS:
        drives = lab.setting("PICtrl.CtrlCh", controller)["control_signal_index"] == index
        if drives and lab.setting("PICtrl.OnOff", controller)["controller_status"]:
            return output(lab, controller)
    if lab.setting("GenPICtrl.ModCh")["output_index"] == number:
        return output(lab, 0)
    return None


signals.DRIVEN_OUTPUTS.append(driven)


@REGISTRY.command("GenPICtrl.AOValSet")
def generic_set(call: Call, output_value: float) -> None:
    """Put a value out; the controller must be off."""
    if call.lab.setting("GenPICtrl.OnOff")["controller_status"]:
        raise DriverError("the controller is on: it determines the output.")
    with call.lab.lock:
        call.lab.of(RegulatorsPanel).outputs[0] = Output(output_value, call.lab.world.clock.now())
    output(call.lab, 0)


@REGISTRY.command("GenPICtrl.AOValGet")
def generic_get(call: Call) -> float:
    """What is put out."""
    return output(call.lab, 0)
