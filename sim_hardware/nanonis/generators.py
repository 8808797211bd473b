"""FunGen1Ch and FunGen2Ch: waveforms, counted in periods of instrument time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import DriverError
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.signals import BIAS, DRIVEN_OUTPUTS

REGISTRY = Registry()

LONGEST_S = 3600.0
FIRST_OUTPUT = 2
"""The output of the one-channel generator."""
_CHANNEL: dict[str, Any] = {"index": "channel_index", "indices": range(1, 3)}

REGISTRY.keep(
    Settings(
        "FunGen1Ch.Props",
        {"amplitude_percent": 100.0, "frequency_hz": 10.0, "polarity": "positive", "direction": "forward"},
        {"amplitude_percent": (0.0, 100.0), "frequency_hz": (1e-3, 1e4)},
    ),
    Settings("FunGen1Ch.Idle", {"idle_value": 0.0}, {"idle_value": (-10.0, 10.0)}),
    Settings(
        "FunGen2Ch.Idle",
        {"idle_value": 0.0},
        {"idle_value": (-10.0, 10.0)},
        index="device",
        indices=range(1, 3),
    ),
    Settings("FunGen2Ch.OnOff", {"status": 1}, {"status": (0, 1)}, **_CHANNEL),
    Settings("FunGen2Ch.Signal", {"signal_index": 25}, {"signal_index": (0, 127)}, **_CHANNEL),
    Settings(
        "FunGen2Ch.Props",
        {
            "amplitude_percent": 100.0,
            "time_s": 0.1,
            "polarity": "positive",
            "direction": "forward",
            "add_zero": "zero",
        },
        {"amplitude_percent": (0.0, 100.0), "time_s": (1e-4, 1e3)},
        **_CHANNEL,
    ),
    Settings("FunGen2Ch.Waveform", {"shape": 0}, {"shape": (0, 4)}, **_CHANNEL),
)


@dataclass
class Generator:
    """Periods that were started at an instrument time; -1: without end."""

    periods: int = 0
    period_s: float = 0.1
    began_s: float = -math.inf


@dataclass
class GeneratorsPanel:
    """Both generators."""

    one: Generator = field(default_factory=Generator)
    two: Generator = field(default_factory=Generator)


def _left(lab: Instrument, generator: Generator) -> int:
    """Periods that are still to come; -1: without end."""
    if generator.periods < 0:
        return -1
    passed = (lab.world.clock.now() - generator.began_s) / generator.period_s
    return max(0, generator.periods - int(min(passed, 2**30)))


def _start(call: Call, generator: Generator, period_s: float, periods: int, wait: int) -> None:
    lab = call.lab
    if periods < -1 or periods * period_s > LONGEST_S:
        raise DriverError(f"{periods} periods of {period_s:g} s are not possible.")
    with lab.lock:
        generator.periods, generator.period_s = periods, period_s
        generator.began_s = lab.world.clock.now()
    if wait and periods > 0:
        lab.pass_time(call.wait, periods * period_s)


def _status(call: Call, generator: Generator) -> tuple[int, int]:
    left = _left(call.lab, generator)
    return int(left != 0), left


def waveform(lab: Instrument, number: int) -> float | None:
    """What a generator puts out now at a user output: a sine at the first, the second's at its signal."""
    panel = lab.of(GeneratorsPanel)
    one = lab.setting("FunGen1Ch.Props")
    if number == FIRST_OUTPUT and _left(lab, panel.one):
        phase = 2.0 * math.pi * (lab.world.clock.now() - panel.one.began_s) / panel.one.period_s
        return _signed(one) * math.sin(phase)
    for channel in (1, 2):
        at_signal = lab.setting("FunGen2Ch.Signal", channel)["signal_index"]
        on = lab.setting("FunGen2Ch.OnOff", channel)["status"]
        if at_signal != number + BIAS - 1 or not on or not _left(lab, panel.two):
            continue
        share = (lab.world.clock.now() - panel.two.began_s) / panel.two.period_s % 1.0
        kept = lab.setting("FunGen2Ch.Props", channel)
        base = lab.setting("FunGen2Ch.Idle", channel)["idle_value"] if kept["add_zero"] == "add" else 0.0
        return base + _signed(kept) * _shape(lab.setting("FunGen2Ch.Waveform", channel)["shape"], share)
    return None


def _signed(kept: dict[str, Any]) -> float:
    """Amplitude (V) with the sign that polarity and direction of time give it: 100 % are 10 V."""
    same = (kept["polarity"] == "positive") == (kept["direction"] == "forward")
    return 0.1 * float(kept["amplitude_percent"]) * (1.0 if same else -1.0)


def _shape(shape: int, share: float) -> float:
    """A waveform, -1 to 1, at a share of its period: sine, triangle, square, saw, saw down."""
    return (
        math.sin(2.0 * math.pi * share),
        1.0 - 4.0 * abs(share - 0.5),
        1.0 if share < 0.5 else -1.0,
        2.0 * share - 1.0,
        1.0 - 2.0 * share,
    )[shape]


DRIVEN_OUTPUTS.append(waveform)


@REGISTRY.command("FunGen1Ch.Start")
def one_start(call: Call, periods: int, wait: int = 0) -> None:
    """So many periods; -1 without end."""
    period = 1.0 / call.lab.setting("FunGen1Ch.Props")["frequency_hz"]
    _start(call, call.lab.of(GeneratorsPanel).one, period, periods, wait)


@REGISTRY.command("FunGen1Ch.Stop")
def one_stop(call: Call) -> None:
    """End it."""
    call.lab.of(GeneratorsPanel).one.periods = 0


@REGISTRY.command("FunGen1Ch.StatusGet")
def one_status(call: Call) -> tuple[int, int]:
    """Whether it runs and the periods to come."""
    return _status(call, call.lab.of(GeneratorsPanel).one)


@REGISTRY.command("FunGen2Ch.Start")
def two_start(call: Call, periods: int, wait: int = 0) -> None:
    """So many periods; -1 without end."""
    period = max(call.lab.setting("FunGen2Ch.Props", channel)["time_s"] for channel in (1, 2))
    _start(call, call.lab.of(GeneratorsPanel).two, period, periods, wait)


@REGISTRY.command("FunGen2Ch.Stop")
def two_stop(call: Call) -> None:
    """End it."""
    call.lab.of(GeneratorsPanel).two.periods = 0


@REGISTRY.command("FunGen2Ch.StatusGet")
def two_status(call: Call) -> tuple[int, int]:
    """Whether it runs and the periods to come."""
    return _status(call, call.lab.of(GeneratorsPanel).two)
