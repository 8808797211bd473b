"""The gateway's limits file: TOML, one key per limit, quantities with their unit (``setpoint_max = "5nA"``).

Limits refuse, they never clamp.  They live in this file alone: no message widens them, and a campaign may
only narrow them (``narrowed``).  Every key must be there, so that nobody measures under a limit he never saw.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from protocols.errors import ConfigError
from protocols.files.quantities import format_quantity, parse_quantity


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All limits, SI.  The names are those of the file."""

    x_min: float
    """m; the tip goes no lower (piezo coordinates)."""
    x_max: float
    """m"""
    y_min: float
    """m"""
    y_max: float
    """m"""
    xy_margin: float
    """m kept free at both ends of the piezo's own range, in x and y."""
    xy_hold_margin: float
    """Fraction of the piezo's x and y range at either end within which the guard raises an alarm."""
    z_hold_margin: float
    """Fraction of the Z range at either end within which the guard raises an alarm and runs hold."""
    z_park_margin: float
    """Fraction of the Z range at either end within which the tip is parked and latched."""
    bias_min: float
    """V"""
    bias_max: float
    """V"""
    bias_slew: float
    """V/s; fastest change of the bias, in ramps and in sweeps."""
    min_feedback_bias: float
    """V; |bias| (less the lock-in's amplitude) stays above it while feedback is on."""
    rest_bias: float
    """V; the bias of a parked tip."""
    setpoint_min: float
    """A"""
    setpoint_max: float
    """A"""
    tip_speed: float
    """m/s; fastest lateral speed, moves and scan lines alike, and the speed of moves that name none."""
    z_offset_toward_max: float
    """m; farthest the tip may be moved toward the sample from its height under feedback."""
    feedback_off_time_max: float
    """s; longest time with the controller held while the tip is not withdrawn."""
    feedback_off_drift_max: float
    """m; largest vertical drift predicted for such a time."""
    vertical_drift_assumed: float
    """m/s; such a drift of Z is reckoned with at least, whatever the electronics say of theirs."""
    trip_current: float
    """A; |I| above the larger of this and ten setpoints with feedback on trips."""
    trip_time: float
    """s of the instrument's clock that the current must stay there."""
    engage_time_max: float
    """s; the surface must be found within this time."""
    settle_time_max: float
    """s; longest settling a recipe may ask for."""
    frame_time_max: float
    """s; longest job that scans."""
    frame_pixels_max: float
    """Most pixels in a line, and most lines."""
    pulse_bias_max: float
    """V; largest |bias| of a pulse."""
    pulse_width_max: float
    """s"""
    indentation_max: float
    """m; deepest indentation."""
    bias_tolerance: float
    """V; read-back may differ from what was set by this much."""
    setpoint_tolerance: float
    """Fraction by which the setpoint may differ when read back."""
    position_tolerance: float
    """m by which x and y may differ when read back."""
    spool_quota_bytes: float
    """Most bytes of unacknowledged results that the spool keeps."""
    disk_reserve_bytes: float
    """Free space that must remain on the spool's file system."""

    def flat(self) -> dict[str, float]:
        """All limits by name, as in ``WorkerStatus.limits``."""
        return {name: float(getattr(self, name)) for name in self.__struct_fields__}


class LimitField(msgspec.Struct, frozen=True):
    """How one limit is written, what the file may say, and in which direction it becomes narrower."""

    unit: str
    """SI unit; "" for fractions, counts and bytes, which are written as plain numbers."""
    lowest: float
    highest: float
    narrower: Literal["smaller", "larger"]


_DIMENSIONS = {"m": "length", "V": "voltage", "A": "current", "s": "time", "m/s": "speed", "V/s": "slew"}

LIMIT_FIELDS: dict[str, LimitField] = {
    "x_min": LimitField("m", -1e-3, 1e-3, "larger"),
    "x_max": LimitField("m", -1e-3, 1e-3, "smaller"),
    "y_min": LimitField("m", -1e-3, 1e-3, "larger"),
    "y_max": LimitField("m", -1e-3, 1e-3, "smaller"),
    "xy_margin": LimitField("m", 0.0, 1e-5, "larger"),
    "xy_hold_margin": LimitField("", 0.0, 0.45, "larger"),
    "z_hold_margin": LimitField("", 0.0, 0.45, "larger"),
    "z_park_margin": LimitField("", 0.001, 0.2, "larger"),
    "bias_min": LimitField("V", -20.0, 0.0, "larger"),
    "bias_max": LimitField("V", 0.0, 20.0, "smaller"),
    "bias_slew": LimitField("V/s", 1e-3, 1e5, "smaller"),
    "min_feedback_bias": LimitField("V", 1e-4, 1.0, "larger"),
    "rest_bias": LimitField("V", -10.0, 10.0, "smaller"),
    "setpoint_min": LimitField("A", 1e-14, 1e-6, "larger"),
    "setpoint_max": LimitField("A", 1e-14, 1e-6, "smaller"),
    "tip_speed": LimitField("m/s", 1e-12, 1e-3, "smaller"),
    "z_offset_toward_max": LimitField("m", 0.0, 1e-8, "smaller"),
    "feedback_off_time_max": LimitField("s", 1e-3, 36000.0, "smaller"),
    "feedback_off_drift_max": LimitField("m", 1e-13, 1e-9, "smaller"),
    "vertical_drift_assumed": LimitField("m/s", 0.0, 1e-9, "larger"),
    "trip_current": LimitField("A", 1e-12, 1e-5, "smaller"),
    "trip_time": LimitField("s", 0.0, 10.0, "smaller"),
    "engage_time_max": LimitField("s", 0.1, 3600.0, "smaller"),
    "settle_time_max": LimitField("s", 0.0, 36000.0, "smaller"),
    "frame_time_max": LimitField("s", 1.0, 1e6, "smaller"),
    "frame_pixels_max": LimitField("", 2, 16384, "smaller"),
    "pulse_bias_max": LimitField("V", 0.0, 20.0, "smaller"),
    "pulse_width_max": LimitField("s", 0.0, 10.0, "smaller"),
    "indentation_max": LimitField("m", 0.0, 1e-7, "smaller"),
    "bias_tolerance": LimitField("V", 1e-6, 0.1, "smaller"),
    "setpoint_tolerance": LimitField("", 1e-6, 0.2, "smaller"),
    "position_tolerance": LimitField("m", 1e-13, 1e-8, "smaller"),
    "spool_quota_bytes": LimitField("", 1e5, 1e13, "smaller"),
    "disk_reserve_bytes": LimitField("", 0, 1e13, "larger"),
}
"""By name.  ``narrower`` says which way a campaign may change the limit."""


def read_limits(path: Path) -> Limits:
    """Read and check a limits file.

    Raises:
        ConfigError: the text lists everything that is wrong: file, key, allowed range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"limits file {path} does not exist.", "Name another with --limits.") from None
    except OSError as problem:
        raise ConfigError(f"limits file {path} cannot be read: {problem}.") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"limits file {path} is not TOML: {problem}.") from problem
    return limits_from(raw, str(path))


def limits_from(raw: dict[str, Any], source: str) -> Limits:
    """Check a table of limits; ``source`` names the file in errors.

    Raises:
        ConfigError: the text lists everything that is wrong: file, key, allowed range.
    """
    wrong = [
        f"{key}: no such limit (known: {', '.join(LIMIT_FIELDS)})" for key in raw if key not in LIMIT_FIELDS
    ]
    values: dict[str, float] = {}
    for key, field in LIMIT_FIELDS.items():
        if key not in raw:
            wrong.append(f"{key}: missing ({_allowed(field)})")
            continue
        try:
            values[key] = _read_value(raw[key], field)
        except ConfigError as problem:
            wrong.append(f"{key}: {problem.text} ({_allowed(field)})")
    if not wrong:
        wrong = _contradictions(values)
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong)
        raise ConfigError(f"limits file {source}:{listed}", source=source, keys=tuple(wrong))
    return Limits(**values)


def limits_from_flat(values: dict[str, float]) -> Limits:
    """Limits as the gateway reports them (``Limits.flat``).

    Raises:
        ConfigError: names are missing or unknown: the gateway is of another version.
    """
    if set(values) != set(LIMIT_FIELDS):
        wrong = ", ".join(sorted(set(values) ^ set(LIMIT_FIELDS)))
        raise ConfigError(
            f"the gateway's limits do not fit ours: {wrong}.", "Gateway and daemon are of different versions."
        )
    return Limits(**values)


def narrowed(limits: Limits, values: dict[str, float], source: str) -> Limits:
    """These limits with some of them made narrower, as a campaign may.

    Raises:
        ConfigError: a name is unknown, or a value would widen its limit; ``source`` names the campaign.
    """
    wrong = []
    for key, value in values.items():
        field = LIMIT_FIELDS.get(key)
        if field is None:
            wrong.append(f"{key}: no such limit (known: {', '.join(LIMIT_FIELDS)})")
            continue
        present = getattr(limits, key)
        if (value > present) if field.narrower == "smaller" else (value < present):
            way = "at most" if field.narrower == "smaller" else "at least"
            wrong.append(
                f"{key}: {_text(value, field)} would widen the limit ({way} {_text(present, field)})"
            )
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong)
        raise ConfigError(f"{source}, limits:{listed}", "A campaign may only narrow the gateway's limits.")
    return msgspec.structs.replace(limits, **values)


def _read_value(value: Any, field: LimitField) -> float:
    if field.unit:
        if not isinstance(value, str):
            raise ConfigError(f"{value!r} has no unit; write a quantity in {field.unit}, in quotes")
        number = parse_quantity(value, _DIMENSIONS[field.unit])
    else:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{value!r} is not a plain number")
        number = float(value)
    if not field.lowest <= number <= field.highest:  # also refuses NaN
        raise ConfigError(f"{value} is out of range")
    return number


def _contradictions(values: dict[str, float]) -> list[str]:
    wrong = [
        f"{low}: {_text(values[low], LIMIT_FIELDS[low])} is not below {high} "
        f"({_text(values[high], LIMIT_FIELDS[high])})"
        for low, high in (
            ("x_min", "x_max"),
            ("y_min", "y_max"),
            ("bias_min", "bias_max"),
            ("setpoint_min", "setpoint_max"),
        )
        if not values[low] < values[high]
    ]
    if not values["bias_min"] <= values["rest_bias"] <= values["bias_max"]:
        wrong.append("rest_bias: not between bias_min and bias_max")
    if not values["min_feedback_bias"] < max(values["bias_max"], -values["bias_min"]):
        wrong.append("min_feedback_bias: not below the largest |bias|")
    if not values["z_park_margin"] <= values["z_hold_margin"]:
        wrong.append("z_park_margin: larger than z_hold_margin")
    return wrong


def _text(value: float, field: LimitField) -> str:
    return format_quantity(value, field.unit) if field.unit else f"{value:g}"


def _allowed(field: LimitField) -> str:
    return f"allowed: {_text(field.lowest, field)} to {_text(field.highest, field)}"
