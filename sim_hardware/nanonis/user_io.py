"""User inputs and outputs, and the digital lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.registry import Registry, Settings, no_zero

REGISTRY = Registry()

OUTPUT_NUMBERS = range(1, 9)
INPUT_NUMBERS = range(1, 25)
PORTS = 4
LINES = 8
LONGEST_PULSES_S = 60.0

_NO_ZERO = no_zero("calibration_per_volt")
_PER_VOLT = {"calibration_per_volt": 1.0, "offset_in_physical_units": 0.0}
_OUTPUT: dict[str, Any] = {"index": "output_index", "indices": OUTPUT_NUMBERS}
_SIGNAL = (0, 127)

REGISTRY.keep(
    Settings("UserIn.Calibr", _PER_VOLT, index="input_index", indices=INPUT_NUMBERS, check=_NO_ZERO),
    Settings("UserOut.Mode", {"output_mode": 0}, {"output_mode": (0, 3)}, **_OUTPUT),
    Settings(
        "UserOut.MonitorCh", {"monitor_channel_index": 0}, {"monitor_channel_index": _SIGNAL}, **_OUTPUT
    ),
    Settings("UserOut.Val", {"output_value": 0.0}, {"output_value": (-10.0, 10.0)}, **_OUTPUT),
    Settings("UserOut.Calibr", _PER_VOLT, check=_NO_ZERO, **_OUTPUT),
    Settings("UserOut.CalcSignalName", {"calculated_signal_name": "Calculated (V)"}, **_OUTPUT),
    Settings(
        "UserOut.CalcSignalConfig",
        {"signal_1": 0, "operation": 0, "signal_2": 0},
        {"signal_1": _SIGNAL, "signal_2": _SIGNAL, "operation": (0, 6)},
        **_OUTPUT,
    ),
)


def _check_output(number: int) -> int:
    if number not in OUTPUT_NUMBERS:
        raise DriverError(f"output index {number} is not in 1..{OUTPUT_NUMBERS.stop - 1}.")
    return number


def _limits(call: Call, number: int) -> dict[str, Any]:
    return call.lab.setting("UserOut.Limits", _check_output(number))


REGISTRY.settings["UserOut.Limits"] = Settings(
    "UserOut.Limits", {"upper_limit": 10.0, "lower_limit": -10.0}, **_OUTPUT
)
"""In physical units."""


@REGISTRY.command("UserOut.LimitsSet")
def limits_set(
    call: Call, output_index: int, upper_limit: float, lower_limit: float, raw_limits: int = 0
) -> None:
    """Limits of an output, in its unit or (raw) in volts."""
    kept = call.lab.setting("UserOut.Calibr", _check_output(output_index))
    if lower_limit > upper_limit:
        raise DriverError(f"the lower limit {lower_limit:g} is above the upper {upper_limit:g}.")
    scale, offset = (
        (kept["calibration_per_volt"], kept["offset_in_physical_units"]) if raw_limits else (1.0, 0.0)
    )
    call.lab.store_setting(
        "UserOut.Limits",
        output_index,
        {"upper_limit": offset + scale * upper_limit, "lower_limit": offset + scale * lower_limit},
    )


@REGISTRY.command("UserOut.LimitsGet")
def limits_get(call: Call, output_index: int, raw_limits: int = 0) -> tuple[float, float]:
    """Upper and lower limit."""
    limits = _limits(call, output_index)
    if not raw_limits:
        return limits["upper_limit"], limits["lower_limit"]
    kept = call.lab.setting("UserOut.Calibr", output_index)
    scale, offset = kept["calibration_per_volt"], kept["offset_in_physical_units"]
    return (limits["upper_limit"] - offset) / scale, (limits["lower_limit"] - offset) / scale


# -- digital lines -------------------------------------------------------------------------------------------


@dataclass
class DigitalLines:
    """Four ports of eight lines: direction (1 out), polarity (1 active high), status."""

    direction: dict[tuple[int, int], int] = field(default_factory=dict)
    polarity: dict[tuple[int, int], int] = field(default_factory=dict)
    active: dict[tuple[int, int], int] = field(default_factory=dict)

    def level(self, port: int, line: int) -> int:
        """What a voltmeter sees: 1 is high."""
        return int(self.active.get((port, line), 0) == self.polarity.get((port, line), 1))


def _check_line(port: int, line: int) -> tuple[int, int]:
    if not 0 <= port < PORTS or not 1 <= line <= LINES:
        raise DriverError(f"there is no digital line {line} of port {port}.")
    return port, line


@REGISTRY.command("DigLines.PropsSet")
def line_props(call: Call, digital_line: int, port: int, direction: int, polarity: int) -> None:
    """Direction and polarity of a line."""
    key = _check_line(port, digital_line)
    with call.lab.lock:
        lines = call.lab.of(DigitalLines)
        lines.direction[key], lines.polarity[key] = direction, polarity


@REGISTRY.command("DigLines.OutStatusSet")
def line_out(call: Call, port: int, digital_line: int, status: int) -> None:
    """Set an output line active or inactive."""
    key = _check_line(port, digital_line)
    with call.lab.lock:
        call.lab.of(DigitalLines).active[key] = int(bool(status))


@REGISTRY.command("DigLines.TTLValGet")
def line_values(call: Call, port: int) -> dict[str, Any]:
    """Levels of the lines of a port."""
    _check_line(port, 1)
    with call.lab.lock:
        lines = call.lab.of(DigitalLines)
        return {"ttl_voltages": np.array([lines.level(port, n) for n in range(1, LINES + 1)], np.uint32)}


@REGISTRY.command("DigLines.Pulse")
def line_pulse(
    call: Call,
    port: int,
    digital_lines: Any,
    pulse_width_s: float,
    pulse_pause_s: float,
    number_of_pulses: int,
    wait: int,
) -> None:
    """Pulses on some lines; the lines are inactive again afterwards."""
    keys = [_check_line(port, int(line)) for line in digital_lines]
    length = max(0, number_of_pulses) * (pulse_width_s + pulse_pause_s)
    if not 0.0 <= length <= LONGEST_PULSES_S:
        raise DriverError(
            f"{number_of_pulses} pulses of {length:g} s in all are outside 0 to {LONGEST_PULSES_S:g} s."
        )
    if wait:
        call.lab.pass_time(call.wait, length)
    with call.lab.lock:
        for key in keys:
            call.lab.of(DigitalLines).active[key] = 0
