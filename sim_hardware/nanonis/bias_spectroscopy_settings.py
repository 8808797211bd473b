"""BiasSpectr's settings: what a sweep does, and the segments of a multi-segment sweep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware.nanonis import bias, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.spectroscopy_panel import check_times, synchronisation

REGISTRY = Registry()

FIXED_PARAMETERS = ("Sweep Start", "Sweep End")
PARAMETERS = (
    "X (m)",
    "Y (m)",
    "Z (m)",
    "Z offset (m)",
    "Settling time (s)",
    "Integration time (s)",
    "Z-Ctrl hold",
    "Final Z (m)",
)
MOST_POINTS = 100_000
MOST_SWEEPS = 10_000
NOTHING_STOPS_IT = {"condition": 0, "threshold": 0.0, "signal_index": 0, "comparison": 0}
LINEAR, SEGMENTS = "Linear", "MLS"
_SIGNAL = (0, signals.SIGNALS - 1)


def _check_limits(lab: Instrument, wanted: dict[str, Any]) -> dict[str, Any]:
    """Biases are brought into the output's range."""
    return {name: bias.coerced(lab, float(value)) for name, value in wanted.items()}


def _check_mode(lab: Instrument, wanted: dict[str, Any]) -> dict[str, Any]:
    for mode in (LINEAR, SEGMENTS):
        if wanted["sweep_mode"].lower() == mode.lower():
            return {"sweep_mode": mode}
    raise DriverError(f"the sweep mode {wanted['sweep_mode']!r} is neither {LINEAR} nor {SEGMENTS}.")


def _z_offset_shared(lab: Instrument, values: Any) -> None:
    """Two panels show the same Z offset."""
    for stem in ("BiasSpectr.Props", "BiasSpectr.Timing"):
        lab.change_setting(stem, z_offset_m=values["z_offset_m"])


REGISTRY.keep(
    Settings(
        "BiasSpectr.Props",
        {
            "save_all": False,
            "number_of_sweeps": 1,
            "backward_sweep": True,
            "number_of_points": 256,
            "z_offset_m": 0.0,
            "autosave": False,
            "show_save_dialog": False,
        },
        {
            "number_of_sweeps": (1, MOST_SWEEPS),
            "number_of_points": (2, MOST_POINTS),
            "z_offset_m": (-1e-6, 1e-6),
        },
        changed=_z_offset_shared,
        more=lambda lab, kept: {"parameters": PARAMETERS, "fixed_parameters": FIXED_PARAMETERS},
    ),
    Settings(
        "BiasSpectr.AdvProps",
        {"reset_bias": True, "z_controller_hold": True, "record_final_z": False, "lock_in_run": False},
    ),
    Settings("BiasSpectr.Limits", {"start_value_v": -1.0, "end_value_v": 1.0}, check=_check_limits),
    Settings(
        "BiasSpectr.Timing",
        {
            "z_averaging_time_s": 0.0,
            "z_offset_m": 0.0,
            "initial_settling_time_s": 0.0,
            "maximum_slew_rate_v_s": math.inf,
            "settling_time_s": 0.0,
            "integration_time_s": 2e-3,
            "end_settling_time_s": 0.0,
            "z_control_time_s": 0.0,
        },
        {"z_offset_m": (-1e-6, 1e-6), "maximum_slew_rate_v_s": (1e-6, math.inf)},
        check=check_times,
        changed=_z_offset_shared,
    ),
    *synchronisation("BiasSpectr"),
    Settings(
        "BiasSpectr.AltZCtrl",
        {"alternate_z_controller_setpoint": False, "setpoint": 100e-12, "settling_time_s": 0.2},
        {"settling_time_s": (0.0, 3600.0)},
    ),
    Settings("BiasSpectr.ZOffRevert", {"z_offset_revert": True}),
    Settings("BiasSpectr.MLSMode", {"sweep_mode": LINEAR}, check=_check_mode),
    Settings("BiasSpectr.SafeCond1", NOTHING_STOPS_IT, {"signal_index": _SIGNAL}),
    Settings("BiasSpectr.SafeCond2", NOTHING_STOPS_IT, {"signal_index": _SIGNAL}),
)
REGISTRY.settings["BiasSpectr.MLSLockinPerSeg"] = Settings(
    "BiasSpectr.MLSLockinPerSeg", {"lock_in_per_segment": False}
)
REGISTRY.settings["BiasSpectr.MLSVals"] = Settings(
    "BiasSpectr.MLSVals",
    {
        "bias_start_v": np.array([-1.0], np.float32),
        "bias_end_v": np.array([1.0], np.float32),
        "initial_settling_time_s": np.array([0.0], np.float32),
        "settling_time_s": np.array([0.0], np.float32),
        "integration_time_s": np.array([2e-3], np.float32),
        "steps": np.array([128], np.int32),
        "lock_in_run": np.array([0], np.uint32),
    },
)


def _needs_segments(lab: Instrument) -> None:
    if lab.setting("BiasSpectr.MLSMode")["sweep_mode"] != SEGMENTS:
        raise DriverError("Bias spectroscopy module is not in multi segment mode. Set the mode first.")


@REGISTRY.command("BiasSpectr.MLSLockinPerSegSet")
def per_segment_set(call: Call, lock_in_per_segment: bool) -> None:
    """Whether each segment says if the lock-in runs in it."""
    _needs_segments(call.lab)
    call.lab.store_setting("BiasSpectr.MLSLockinPerSeg", 0, {"lock_in_per_segment": lock_in_per_segment})


@REGISTRY.command("BiasSpectr.MLSLockinPerSegGet")
def per_segment_get(call: Call) -> bool:
    """The same."""
    _needs_segments(call.lab)
    found: bool = call.lab.setting("BiasSpectr.MLSLockinPerSeg")["lock_in_per_segment"]
    return found


@REGISTRY.command("BiasSpectr.MLSValsSet")
def segments_set(call: Call, **values: Any) -> None:
    """The segments."""
    _needs_segments(call.lab)
    if (
        not len(values["steps"])
        or int(np.sum(values["steps"])) > MOST_POINTS
        or int(np.min(values["steps"])) < 2
    ):
        raise DriverError(
            f"segments of {list(values['steps'])} steps: 2 to {MOST_POINTS} in all are possible."
        )
    if not all(np.all(np.isfinite(array)) for array in values.values()):
        raise DriverError("a segment has a value that is no number.")
    call.lab.store_setting("BiasSpectr.MLSVals", 0, values)


@REGISTRY.command("BiasSpectr.MLSValsGet")
def segments_get(call: Call) -> dict[str, Any]:
    """The segments."""
    _needs_segments(call.lab)
    return call.lab.setting("BiasSpectr.MLSVals")
