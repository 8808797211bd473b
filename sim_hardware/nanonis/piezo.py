"""Piezo: ranges and sensitivities, tilt, drift compensation, voltage limits, hysteresis tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings

REGISTRY = Registry()

HIGH_VOLTAGE_GAIN = 15.0
OUTPUT_V = 10.0
LARGEST_RANGE_M = 100e-6
USUAL_RANGE_M = (1e-6, 1e-6, 500e-9)
AXES = ("x", "y", "z")
_FULL_V = 2.0 * OUTPUT_V * HIGH_VOLTAGE_GAIN
STEEPEST_DEG = 45.0


def _sensitivities(ranges_m: Sequence[float]) -> dict[str, float]:
    """Metres per volt at the piezo, from the ranges of the axes."""
    return {f"calibration_{axis}_m_v": r / _FULL_V for axis, r in zip(AXES, ranges_m, strict=True)}


def _check_range(lab: Instrument, wanted: dict[str, Any]) -> dict[str, Any]:
    for axis in AXES:
        if not 0.0 < wanted[f"range_{axis}_m"] <= LARGEST_RANGE_M:
            raise DriverError(
                f"a range of {wanted[f'range_{axis}_m']:g} m is outside 0 to {LARGEST_RANGE_M:g} m."
            )
    return wanted


def _range_changed(lab: Instrument, values: Mapping[str, Any]) -> None:
    ranges = [float(values[f"range_{axis}_m"]) for axis in AXES]
    lab.store_setting("Piezo.Sens", 0, _sensitivities(ranges))
    _to_world(lab, ranges)


def _sensitivity_changed(lab: Instrument, values: Mapping[str, Any]) -> None:
    ranges = [float(values[f"calibration_{axis}_m_v"]) * _FULL_V for axis in AXES]
    lab.store_setting("Piezo.Range", 0, {f"range_{axis}_m": r for axis, r in zip(AXES, ranges, strict=True)})
    _to_world(lab, ranges)


def _check_sensitivity(lab: Instrument, wanted: dict[str, Any]) -> dict[str, Any]:
    _check_range(lab, {f"range_{axis}_m": wanted[f"calibration_{axis}_m_v"] * _FULL_V for axis in AXES})
    return wanted


def _to_world(lab: Instrument, ranges: list[float]) -> None:
    """The world's ranges: lateral is the smaller of both; a withdrawn tip stays at the upper end."""
    world = lab.world
    lateral, vertical = min(ranges[:2]) / 2.0, ranges[2] / 2.0
    with world.lock:
        world.advance()
        feedback = replace(world.settings.feedback, z_low_m=-vertical, z_high_m=vertical)
        world.settings = replace(world.settings, lateral_range_m=(-lateral, lateral), feedback=feedback)
        s = world.situation
        s.z_m = vertical if s.withdrawn else min(s.z_m, vertical)


def _tilt_changed(lab: Instrument, values: Mapping[str, Any]) -> None:
    with lab.world.lock:
        lab.world.advance()
        lab.world.controls.slope = (
            math.tan(math.radians(values["tilt_x_deg"])),
            math.tan(math.radians(values["tilt_y_deg"])),
        )


def _voltages() -> dict[str, Any]:
    found: dict[str, Any] = {"enable_limits": False}
    for axis in AXES:
        found[f"voltage_limit_{axis}_low_v"] = -OUTPUT_V * HIGH_VOLTAGE_GAIN
        found[f"voltage_limit_{axis}_high_v"] = OUTPUT_V * HIGH_VOLTAGE_GAIN
    return found


_TABLES = tuple(f"{speed}_axis_{axis}_hysteresis_points" for speed in ("fast", "slow") for axis in ("x", "y"))

REGISTRY.keep(
    Settings(
        "Piezo.Range",
        {f"range_{axis}_m": metres for axis, metres in zip(AXES, USUAL_RANGE_M, strict=True)},
        check=_check_range,
        changed=_range_changed,
    ),
    Settings(
        "Piezo.Sens",
        _sensitivities(USUAL_RANGE_M),
        check=_check_sensitivity,
        changed=_sensitivity_changed,
    ),
    Settings(
        "Piezo.Tilt",
        {"tilt_x_deg": 0.0, "tilt_y_deg": 0.0},
        {"tilt_x_deg": (-STEEPEST_DEG, STEEPEST_DEG), "tilt_y_deg": (-STEEPEST_DEG, STEEPEST_DEG)},
        changed=_tilt_changed,
    ),
    Settings("Piezo.XYZLimits", _voltages()),
    Settings("Piezo.HystOnOff", {"on_off": False}),
    Settings("Piezo.HystVals", {name: np.zeros(0, np.float32) for name in _TABLES}),
)


@REGISTRY.command("Piezo.CalibrGet")
def calibration_get(call: Call) -> tuple[float, float, float]:
    """Metres per volt of the electronics' own output, before the high-voltage amplifier."""
    kept = call.lab.setting("Piezo.Sens")
    x, y, z = (kept[f"calibration_{axis}_m_v"] * HIGH_VOLTAGE_GAIN for axis in AXES)
    return x, y, z


@REGISTRY.command("Piezo.DriftCompSet")
def drift_set(
    call: Call,
    on_off: bool | None,
    vx_m_s: float,
    vy_m_s: float,
    vz_m_s: float,
    saturation_limit_percent: float = math.nan,
) -> None:
    """Let the piezo follow a drift; NaN leaves a value as it is."""
    world = call.lab.world
    with world.lock:
        world.advance()
        drift = world.controls.drift
        given = (vx_m_s, vy_m_s, vz_m_s)
        vx, vy, vz = (
            wanted if math.isfinite(wanted) else kept
            for wanted, kept in zip(given, drift.velocity_m_s, strict=True)
        )
        drift.change(world.clock.now(), drift.on if on_off is None else on_off, (vx, vy, vz))
        if math.isfinite(saturation_limit_percent) and saturation_limit_percent > 0.0:
            drift.saturation = min(saturation_limit_percent, 100.0) / 100.0


@REGISTRY.command("Piezo.DriftCompGet")
def drift_get(call: Call) -> dict[str, Any]:
    """The same, and on which axes the compensation has used up its share of the range."""
    world = call.lab.world
    with world.lock:
        drift = world.controls.drift
        offset = drift.at(world.clock.now())
    ranges = call.lab.setting("Piezo.Range")
    used = [
        int(abs(metres) >= drift.saturation * ranges[f"range_{axis}_m"])
        for axis, metres in zip(AXES, offset, strict=True)
    ]
    return {
        "on_off": drift.on,
        **{f"v{axis}_m_s": v for axis, v in zip(AXES, drift.velocity_m_s, strict=True)},
        **{f"{axis}_saturated_status": flag for axis, flag in zip(AXES, used, strict=True)},
        "saturation_limit_percent": 100.0 * drift.saturation,
    }


@REGISTRY.command("Piezo.HVAInfoGet")
def amplifier_get(call: Call) -> dict[str, Any]:
    """The high-voltage amplifier."""
    gain = HIGH_VOLTAGE_GAIN
    return {
        "gain_aux": gain,
        "gain_x": gain,
        "gain_y": gain,
        "gain_z": gain,
        "x_y_enabled_status": 1,
        "z_enabled_status": 1,
        "aux_enabled_status": 0,
    }


@REGISTRY.command("Piezo.HVAStatusLEDGet")
def amplifier_status(call: Call) -> tuple[int, int, int, int]:
    """Its lamps: not too hot, supply present, connector in place."""
    return 0, 1, 0, 1


@REGISTRY.command("Piezo.HystFileSave")
def hysteresis_save(call: Call, file_path: str) -> None:
    """Write the tables to a file."""
    kept = call.lab.setting("Piezo.HystVals")
    path = Path(file_path)
    try:
        path.write_text(json.dumps({name: np.asarray(kept[name]).tolist() for name in _TABLES}), "utf-8")
    except OSError as refused:
        raise DriverError(f"Not a valid path: {file_path} ({refused.strerror})") from None


@REGISTRY.command("Piezo.HystFileLoad")
def hysteresis_load(call: Call, file_path: str) -> None:
    """Read the tables from a file."""
    try:
        found = json.loads(Path(file_path).read_text("utf-8"))
        tables = {name: np.array(found[name], np.float32) for name in _TABLES}
    except OSError as missing:
        raise DriverError(f"Not a valid path: {file_path} ({missing.strerror})") from None
    except (ValueError, KeyError, TypeError) as damaged:
        raise DriverError(f"{file_path} holds no hysteresis tables: {damaged}") from None
    call.lab.store_setting("Piezo.HystVals", 0, tables)
