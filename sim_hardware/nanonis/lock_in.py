"""Lock-in: modulators, demodulators, and what a demodulator shows at this moment.

The first modulator that is on and adds to the bias is what the world modulates with; the first demodulator's
low pass is what sweeps are measured behind.  Other demodulators see the same current at their own phase and
harmonic.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from protocols.messages.data import InstrumentState
from protocols.messages.recipes import LockIn
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings

REGISTRY = Registry()

MODULATORS = 8
DEMODULATORS = 8
_BIAS_SIGNAL = 24
FASTEST_S = 20e-6
"""Time constant with the low pass off."""
OUTPUT_NOISE_A = 5e-16


def modulation(lab: Instrument) -> tuple[int, LockIn] | None:
    """The modulator (1..) that adds to the bias, and its settings as the world takes them; None: none is
    on."""
    for number in range(1, MODULATORS + 1):
        amplitude = lab.setting("LockIn.ModAmp", number)["amplitude"]
        if (
            lab.setting("LockIn.ModOnOff", number)["on_off"]
            and lab.setting("LockIn.ModSignal", number)["modulator_signal_index"] == _BIAS_SIGNAL
            and amplitude != 0.0
        ):
            frequency = lab.setting("LockIn.ModPhasFreq", number)["frequency_hz"]
            settings = LockIn(
                amplitude_v=abs(amplitude), frequency_hz=frequency, time_constant_s=time_constant_s(lab, 1)
            )
            return number, settings
    return None


def time_constant_s(lab: Instrument, number: int) -> float:
    """Of a demodulator's low pass."""
    kept = lab.setting("LockIn.DemodLPFilter", number)
    if kept["lp_filter_order"] == 0:
        return FASTEST_S
    return max(FASTEST_S, 1.0 / (2.0 * math.pi * float(kept["lp_filter_cutoff_frequency_hz"])))


def phase_factor(lab: Instrument, number: int, modulator: int) -> complex:
    """What a demodulator multiplies the complex amplitude of the current with: its phase and harmonic."""
    turned = (
        lab.setting("LockIn.ModPhas", modulator)["phase_deg"]
        - lab.setting("LockIn.DemodPhas", number)["phase_deg"]
    )
    harmonic = (
        lab.setting("LockIn.DemodHarmonic", number)["harmonic"]
        == lab.setting("LockIn.ModHarmonic", modulator)["harmonic"]
    )
    signal = lab.setting("LockIn.DemodSignal", number)["demodulator_signal_index"] == 0
    if not (harmonic and signal):
        return 0.0
    return 1.0 + 0.0j if turned == 0.0 else cmath.exp(1j * math.radians(turned))


def output(lab: Instrument, number: int, state: InstrumentState) -> tuple[float, float]:
    """X and Y (A), or R (A) and phase (deg), of a demodulator now."""
    found = modulation(lab)
    amplitude = 0.0 if found is None else found[1].amplitude_v
    noise = np.random.default_rng(int(state.time_s * 1e9) & 0x7FFFFFFF).normal(0.0, OUTPUT_NOISE_A, 2)
    size = 0.0
    if amplitude and not state.withdrawn and state.bias_v != 0.0:
        size = amplitude * conductance(lab, state)
    turned = size * phase_factor(lab, number, found[0] if found else 1) + complex(*noise)
    if lab.setting("LockIn.DemodRTSignals", number)["rt_signals"] == "r/phi":
        return abs(turned), math.degrees(cmath.phase(turned))
    return turned.real, turned.imag


def conductance(lab: Instrument, state: InstrumentState) -> float:
    """dI/dV (S) under the tip as it is now, at most what the preamplifier's rail lets through."""
    world = lab.world
    with world.lock:
        dx, dy, dz = world.lateral(state.time_s)
        junction = world.junction
    found = junction.conductance(
        state.x_m - dx, state.y_m - dy, np.array([state.z_m - dz]), np.array([state.bias_v])
    )
    return float(min(found[0], world.controls.gain.rail_a / 1e-3))


def _to_world(lab: Instrument, _: Mapping[str, Any]) -> None:
    """Tell the world what modulates the bias now."""
    found = modulation(lab)
    with lab.world.lock:
        lab.world.controls.lockin_order = max(1, lab.setting("LockIn.DemodLPFilter", 1)["lp_filter_order"])
    lab.world.set_lockin(None if found is None else found[1])


_MODULATOR = {"index": "modulator_number", "indices": range(1, MODULATORS + 1), "changed": _to_world}
_DEMODULATOR = {"index": "demodulator_number", "indices": range(1, DEMODULATORS + 1), "changed": _to_world}


def _modulator(what: str, limits: Mapping[str, tuple[float, float]], **first: Any) -> Settings:
    return Settings(f"LockIn.Mod{what}", first, limits, **_MODULATOR)  # type: ignore[arg-type]


def _demodulator(what: str, limits: Mapping[str, tuple[float, float]], **first: Any) -> Settings:
    return Settings(f"LockIn.Demod{what}", first, limits, **_DEMODULATOR)  # type: ignore[arg-type]


_SIGNAL = (0, 127)
_REGISTER = (1, 8)
_HARMONIC = (1, 32)
_PHASE = (-360.0, 360.0)

REGISTRY.keep(
    _modulator("OnOff", {}, on_off=False),
    _modulator("Signal", {"modulator_signal_index": _SIGNAL}, modulator_signal_index=_BIAS_SIGNAL),
    _modulator("PhasReg", {"phase_register_index": _REGISTER}, phase_register_index=1),
    _modulator("Harmonic", {"harmonic": _HARMONIC}, harmonic=1),
    _modulator("Phas", {"phase_deg": _PHASE}, phase_deg=0.0),
    _modulator("Amp", {"amplitude": (0.0, 10.0)}, amplitude=0.0),
    _modulator("PhasFreq", {"frequency_hz": (0.0, 40e3)}, frequency_hz=977.0),
    _demodulator("Signal", {"demodulator_signal_index": _SIGNAL}, demodulator_signal_index=0),
    _demodulator("Harmonic", {"harmonic": _HARMONIC}, harmonic=1),
    _demodulator(
        "HPFilter", {"hp_filter_order": (0, 8)}, hp_filter_order=0, hp_filter_cutoff_frequency_hz=10.0
    ),
    _demodulator(
        "LPFilter",
        {"lp_filter_order": (0, 8), "lp_filter_cutoff_frequency_hz": (1e-3, 40e3)},
        lp_filter_order=1,
        lp_filter_cutoff_frequency_hz=100.0,
    ),
    _demodulator("PhasReg", {"phase_register_index": _REGISTER}, phase_register_index=1),
    _demodulator("Phas", {"phase_deg": _PHASE}, phase_deg=0.0),
    _demodulator("SyncFilter", {}, sync_filter=False),
    _demodulator("RTSignals", {}, rt_signals="x/y"),
)


def demodulated(
    lab: Instrument, number: int, part: int, found: Mapping[str, Any], shape: tuple[int, ...]
) -> Any:
    """X or Y (``part`` 0, 1) of a demodulator, or R or phase, from what the world measured at phase 0."""
    if "lockin_x" not in found:
        return np.zeros(shape)
    x, y = np.asarray(found["lockin_x"]), np.asarray(found["lockin_y"])
    running = modulation(lab)
    factor = phase_factor(lab, number, running[0] if running else 1)
    if factor != 1.0:
        turned = (x + 1j * y) * factor
        x, y = turned.real, turned.imag
    if lab.setting("LockIn.DemodRTSignals", number)["rt_signals"] == "r/phi":
        return np.hypot(x, y) if part == 0 else np.degrees(np.arctan2(y, x))
    return y if part else x
