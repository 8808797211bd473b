"""The lock-in: modulator 1 on the bias, demodulator 1 on the current.

Phase, harmonic of the reference and filter order are the laboratory's and stay as they are; what the recipe
says is set and read back.
"""

from __future__ import annotations

import math

from actors.gateway.drivers.nanonis.identity import Signals
from actors.gateway.drivers.nanonis.panel import Panel, Setting
from protocols.errors import DriverError
from protocols.messages.recipes import LockIn

MODULATOR = {"modulator_number": 1}
DEMODULATOR = {"demodulator_number": 1}
GRID = 1e-3
"""Electronics round frequencies to their own grid: a thousandth is still the same."""

ON_OFF = Setting("LockIn.ModOnOff", MODULATOR)
AMPLITUDE = Setting("LockIn.ModAmp", MODULATOR, {"amplitude": 1e-4})
FREQUENCY = Setting("LockIn.ModPhasFreq", MODULATOR, {"frequency_hz": GRID})
MODULATED = Setting("LockIn.ModSignal", MODULATOR)
DEMODULATED = Setting("LockIn.DemodSignal", DEMODULATOR)
HARMONIC = Setting("LockIn.DemodHarmonic", DEMODULATOR)
LOW_PASS = Setting("LockIn.DemodLPFilter", DEMODULATOR, {"lp_filter_cutoff_frequency_hz": GRID})
OUTPUTS = Setting("LockIn.DemodRTSignals", DEMODULATOR)

LEAST_ORDER = 1


def cutoff_hz(time_constant_s: float) -> float:
    """Cut-off frequency of each pole of a low pass with that time constant: 1 / (2 pi tau)."""
    return 1.0 / (2.0 * math.pi * time_constant_s)


def switch_on(panel: Panel, signals: Signals, settings: LockIn) -> None:
    """Configure, then switch the modulation on; a running one is changed as it runs.

    Raises:
        DriverError: a value was not taken, or a signal is missing.
    """
    panel.ensure(MODULATED, modulator_signal_index=signals.require("bias"))
    panel.ensure(DEMODULATED, demodulator_signal_index=signals.require("current"))
    panel.ensure(HARMONIC, harmonic=1)
    panel.ensure(OUTPUTS, rt_signals="x/y")
    panel.ensure(FREQUENCY, frequency_hz=settings.frequency_hz)
    order = int(panel.read(LOW_PASS)["lp_filter_order"])
    panel.ensure(
        LOW_PASS,
        lp_filter_order=max(order, LEAST_ORDER),
        lp_filter_cutoff_frequency_hz=cutoff_hz(settings.time_constant_s),
    )
    panel.ensure(AMPLITUDE, amplitude=settings.amplitude_v)
    panel.ensure(ON_OFF, on_off=True)


def switch_off(panel: Panel) -> None:
    """No modulation; electronics without a lock-in have none.

    Raises:
        DriverError: it stayed on.
    """
    try:
        if not panel.read(ON_OFF)["on_off"]:
            return
    except DriverError as problem:
        if problem.details.get("outcome") != "refused":
            raise
        return
    panel.ensure(ON_OFF, on_off=False)
