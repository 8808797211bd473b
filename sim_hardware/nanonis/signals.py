"""The 128 signals of the electronics: their names, their present values and samples of them in time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.messages.data import InstrumentState
from sim_hardware.electronics import averaged_current
from sim_hardware.nanonis import lock_in
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()

SIGNALS = 128
CURRENT, BIAS, X, Y, Z = 0, 24, 28, 29, 30
FIRST_OUTPUT = 25
OUTPUTS = 3
"""User outputs 2 to 4 beside the bias, as signals 25 to 27."""
FIRST_DEMODULATOR = 86
TIME = 127
"""The instrument's clock: a client of a microscope whose time does not run like its own reads it here."""
INPUT_NOISE_V = 0.2e-3
Z_NOISE_M = 0.8e-12
OUTPUT_RANGE_V = 10.0
MEASURED_EXTRA = ("Excitation (V)", "Phase (deg)")


DRIVEN_OUTPUTS: list[Callable[[Instrument, int], float | None]] = []
"""What may drive a user output (its number) instead of its own setting: controllers, generators."""


def _names() -> tuple[str, ...]:
    names = [f"Internal {index} (V)" for index in range(SIGNALS)]
    names[CURRENT] = "Current (A)"
    for index in range(1, 24):
        names[index] = f"Input {index + 1} (V)"
    names[BIAS] = "Bias (V)"
    for index in range(FIRST_OUTPUT, FIRST_OUTPUT + OUTPUTS):
        names[index] = f"Output {index - BIAS + 1} (V)"
    names[X], names[Y], names[Z] = "X (m)", "Y (m)", "Z (m)"
    for number in range(1, lock_in.DEMODULATORS + 1):
        first = FIRST_DEMODULATOR + 2 * (number - 1)
        names[first], names[first + 1] = f"LI Demod {number} X (A)", f"LI Demod {number} Y (A)"
    names[TIME] = "Time (s)"
    return tuple(names)


NAMES = _names()
"""By index; as Signals.NamesGet lists them."""


@dataclass
class SignalsPanel:
    """The two signals that were added to the list of measured ones, and the panel's own noise."""

    added: list[int] = field(default_factory=lambda: [X, Y])
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0x51A))


def check_index(index: int) -> int:
    """The index if there is such a signal.

    Raises:
        DriverError: there is none.
    """
    if not 0 <= index < SIGNALS:
        raise DriverError(f"signal index {index} is outside 0 to {SIGNALS - 1}.")
    return index


def values(lab: Instrument, indexes: list[int]) -> list[float]:
    """Present values, all of one reading."""
    state = lab.world.state()
    return [_value(lab, check_index(index), state) for index in indexes]


def value(lab: Instrument, index: int) -> float:
    """The present value of one signal."""
    return values(lab, [index])[0]


def _value(lab: Instrument, index: int, state: InstrumentState) -> float:
    plain = {
        CURRENT: state.current_a,
        BIAS: state.bias_v,
        X: state.x_m,
        Y: state.y_m,
        Z: state.z_m,
        TIME: state.time_s,
    }
    if index in plain:
        return plain[index]
    if FIRST_DEMODULATOR <= index < FIRST_DEMODULATOR + 2 * lock_in.DEMODULATORS:
        number, part = divmod(index - FIRST_DEMODULATOR, 2)
        return lock_in.output(lab, number + 1, state)[part]
    if FIRST_OUTPUT <= index < FIRST_OUTPUT + OUTPUTS:
        return output_value(lab, index - BIAS + 1)
    noise = float(lab.of(SignalsPanel).rng.normal(0.0, INPUT_NOISE_V))
    if 1 <= index < 24:
        per_volt, offset = calibration(lab, index)
        return offset + per_volt * noise
    return 0.0


def output_value(lab: Instrument, number: int) -> float:
    """What a user output puts out: its own value, or the signal that it monitors, within its limits."""
    for driver in DRIVEN_OUTPUTS:
        driven = driver(lab, number)
        if driven is not None:
            return driven
    mode = lab.setting("UserOut.Mode", number)["output_mode"]
    if mode == 1:
        monitored = lab.setting("UserOut.MonitorCh", number)["monitor_channel_index"]
        found = 0.0 if FIRST_OUTPUT <= monitored < FIRST_OUTPUT + OUTPUTS else value(lab, monitored)
    elif mode == 2:
        config = lab.setting("UserOut.CalcSignalConfig", number)
        found = _calculated(lab, config)
    else:
        found = lab.setting("UserOut.Val", number)["output_value"]
    limits = lab.setting("UserOut.Limits", number)
    return float(np.clip(found, limits["lower_limit"], limits["upper_limit"]))


def _calculated(lab: Instrument, config: dict[str, Any]) -> float:
    plain = [
        0.0 if FIRST_OUTPUT <= config[name] < FIRST_OUTPUT + OUTPUTS else value(lab, int(config[name]))
        for name in ("signal_1", "signal_2")
    ]
    first, second = plain
    return {
        0: lambda: 0.0,
        1: lambda: first + second,
        2: lambda: first - second,
        3: lambda: first * second,
        4: lambda: first / second if second else 0.0,
        6: lambda: math.log10(abs(first)) if first else 0.0,
    }.get(int(config["operation"]), lambda: 0.0)()


def calibration(lab: Instrument, index: int) -> tuple[float, float]:
    """Calibration per volt and offset of a signal, in its unit."""
    controls = lab.world.controls
    if index == CURRENT:
        return 1.0 / controls.gain.gain_v_per_a, 0.0
    if index == BIAS:
        kept = lab.setting("Bias.Calibr")
        return kept["calibration"], kept["offset"]
    if index in (X, Y, Z):
        kept = lab.setting("Piezo.Sens")
        return kept[f"calibration_{'xyz'[index - X]}_m_v"], 0.0
    if 1 <= index < 24:
        kept = lab.setting("UserIn.Calibr", index + 1)
        return kept["calibration_per_volt"], kept["offset_in_physical_units"]
    if FIRST_OUTPUT <= index < FIRST_OUTPUT + OUTPUTS:
        kept = lab.setting("UserOut.Calibr", index - BIAS + 1)
        return kept["calibration_per_volt"], kept["offset_in_physical_units"]
    if FIRST_DEMODULATOR <= index < FIRST_DEMODULATOR + 2 * lock_in.DEMODULATORS:
        return 1.0 / controls.gain.gain_v_per_a, 0.0
    return 1.0, 0.0


def limits(lab: Instrument, index: int) -> tuple[float, float]:
    """Highest and lowest value of a signal."""
    if index == BIAS:
        low, high = lab.world.settings.bias_range_v
        return high, low
    if index in (X, Y, Z):
        ranges = lab.setting("Piezo.Range")
        half = ranges[f"range_{'xyz'[index - X]}_m"] / 2.0
        return half, -half
    per_volt, offset = calibration(lab, index)
    return offset + OUTPUT_RANGE_V * per_volt, offset - OUTPUT_RANGE_V * per_volt


def samples(lab: Instrument, index: int, count: int, step_s: float) -> Floats:
    """A signal sampled so many times, with the noise that it has at that rate: (count,)."""
    rng = lab.of(SignalsPanel).rng
    world = lab.world
    state = world.state()
    if index == CURRENT:
        with world.lock:
            electronics, kappa, tip = world.electronics, world.junction.kappa, world.junction.tip
        level = 0.0 if state.withdrawn else state.setpoint_a * math.copysign(1.0, state.bias_v)
        level = level if state.feedback else state.current_a
        return averaged_current(np.full(count, level), step_s, kappa, rng, electronics) + tip.current_offset_a
    here = _value(lab, check_index(index), state)
    scale = {BIAS: 1e-5, X: Z_NOISE_M, Y: Z_NOISE_M, Z: Z_NOISE_M}.get(index, INPUT_NOISE_V)
    if FIRST_DEMODULATOR <= index < FIRST_DEMODULATOR + 2 * lock_in.DEMODULATORS:
        scale = 1e-15
    return np.asarray(here + rng.normal(0.0, scale, size=count))


def settle_newest(call: Call, wait: Any) -> None:
    """Wait for newly acquired data, as the flag of many reading commands asks: one acquisition period.

    On a stepped clock a reading is always new.
    """
    clock = call.lab.world.clock
    if wait and not clock.stepped:
        period = call.lab.setting("Util.AcqPeriod")["acquisition_period_s"]
        call.wait(_NEVER, int(1000.0 * min(2.0 * period / clock.scale, 1.5)))


_NEVER = threading.Event()

# -- commands ------------------------------------------------------------------------------------------------


@REGISTRY.command("Signals.NamesGet")
def names_get(call: Call) -> tuple[str, ...]:
    """All names."""
    return NAMES


@REGISTRY.command("Signals.MeasNamesGet")
def measured_names(call: Call) -> tuple[str, ...]:
    """Names of what can be recorded: all signals, then those that are only calculated."""
    return NAMES + MEASURED_EXTRA


@REGISTRY.command("Signals.ValGet")
def value_get(call: Call, signal_index: int, wait_for_newest_data: int) -> float:
    """One signal now."""
    check_index(signal_index)
    settle_newest(call, wait_for_newest_data)
    return value(call.lab, signal_index)


@REGISTRY.command("Signals.ValsGet")
def values_get(call: Call, indexes: Any, wait_for_newest_data: int) -> dict[str, Any]:
    """Several signals of one reading."""
    wanted = [check_index(int(index)) for index in indexes]
    settle_newest(call, wait_for_newest_data)
    return {"values": np.array(values(call.lab, wanted) if wanted else [], np.float32)}


@REGISTRY.command("Signals.CalibrGet")
def calibration_get(call: Call, signal_index: int) -> tuple[float, float]:
    """Calibration per volt and offset."""
    return calibration(call.lab, check_index(signal_index))


@REGISTRY.command("Signals.RangeGet")
def range_get(call: Call, signal_index: int) -> tuple[float, float]:
    """Upper and lower limit."""
    return limits(call.lab, check_index(signal_index))


@REGISTRY.command("Signals.AddRTSet")
def added_set(call: Call, additional_rt_signal_1: int, additional_rt_signal_2: int) -> None:
    """Choose the two additional signals."""
    call.lab.of(SignalsPanel).added = [
        check_index(additional_rt_signal_1),
        check_index(additional_rt_signal_2),
    ]


@REGISTRY.command("Signals.AddRTGet")
def added_get(call: Call) -> dict[str, Any]:
    """The list to choose from and the two chosen."""
    first, second = call.lab.of(SignalsPanel).added
    return {
        "names": NAMES,
        "additional_rt_signal_1": NAMES[first],
        "additional_rt_signal_2": NAMES[second],
    }
