"""Where files of measurements go: names with a counter in the session's folder; what their headers say."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path

from protocols.files.nanonis_sxm import SxmController
from protocols.files.nanonis_text import Setting
from protocols.messages.data import InstrumentState
from sim_hardware.nanonis import bias
from sim_hardware.nanonis.instrument import Instrument

DIGITS = {".sxm": 4, ".dat": 5, ".3ds": 3}
_UNFIT = re.compile(r'[\\/:*?"<>|\x00-\x1f]')
LONGEST_NAME = 120
KEPT_COUNTERS = 1000


def expanded(name: str) -> str:
    """A base name with the date and time filled in for %Y, %y, %m, %d, %H, %M and %S; what no file may be
    called becomes an underscore."""
    now = time.localtime()
    for code in "YymdHMS":
        name = name.replace(f"%{code}", time.strftime(f"%{code}", now))
    return _UNFIT.sub("_", name.replace("%N", ""))[:LONGEST_NAME] or "unnamed"


def next_path(lab: Instrument, name: str, suffix: str) -> Path:
    """The next free file of a base name: name, counter, suffix."""
    base = expanded(name)
    with lab.lock:
        lab.session.mkdir(parents=True, exist_ok=True)
        number = lab.counters.pop(base + suffix, 0)
        while True:
            number += 1
            path = lab.session / f"{base}{number:0{DIGITS[suffix]}d}{suffix}"
            if not path.exists():
                break
        lab.counters[base + suffix] = number
        while len(lab.counters) > KEPT_COUNTERS:
            lab.counters.pop(next(iter(lab.counters)))
        return path


def now() -> datetime:
    """The wall's time, as files state it."""
    return datetime.now()


def controller(lab: Instrument, state: InstrumentState) -> SxmController:
    """The Z-controller's row in an image's header."""
    settings = lab.world.controls.controller
    return SxmController(
        name="log Current" if settings.logarithmic else "Current",
        on=state.feedback,
        setpoint=state.setpoint_a,
        p_gain_m=settings.proportional_m,
        i_gain_m_s=settings.integral_m_s,
        time_constant_s=settings.time_constant_s,
    )


def module_settings(lab: Instrument, state: InstrumentState) -> dict[str, Setting]:
    """Lines of the header that every kind of file has."""
    world = lab.world
    settings, gain = world.controls.controller, world.controls.gain
    ranges = lab.setting("Piezo.Range")
    found: dict[str, Setting] = {
        "Bias>Bias (V)": float(bias.shown(lab, state.bias_v)),
        "Bias>Calibration (V/V)": lab.setting("Bias.Calibr")["calibration"],
        "Bias>Offset (V)": lab.setting("Bias.Calibr")["offset"],
        "Current>Current (A)": state.current_a,
        "Current>Calibration (A/V)": 1.0 / gain.gain_v_per_a,
        "Current>Offset (A)": 0.0,
        "Current>Gain": gain.name,
        "Piezo Configuration>Range X (m)": ranges["range_x_m"],
        "Piezo Configuration>Range Y (m)": ranges["range_y_m"],
        "Piezo Configuration>Range Z (m)": ranges["range_z_m"],
        "Z-Controller>Z (m)": state.z_m,
        "Z-Controller>Controller name": "log Current" if settings.logarithmic else "Current",
        "Z-Controller>Controller status": "ON" if state.feedback else "OFF",
        "Z-Controller>Setpoint": state.setpoint_a,
        "Z-Controller>Setpoint unit": "A",
        "Z-Controller>P gain": settings.proportional_m,
        "Z-Controller>I gain": settings.integral_m_s,
        "Z-Controller>Time const (s)": settings.time_constant_s,
        "Z-Controller>TipLift (m)": settings.tip_lift_m,
        "Z-Controller>Switch off delay (s)": settings.switch_off_delay_s,
        "NanonisMain>Session Path": str(lab.session),
        "NanonisMain>SW Version": f"Tunnelpilot simulated SPM, release {lab.release}",
        "NanonisMain>UI Release": lab.release,
        "NanonisMain>RT Release": lab.release,
        "NanonisMain>RT Frequency (Hz)": lab.setting("Util.RTFreq")["rt_frequency"],
        "NanonisMain>Signals Oversampling": lab.setting("Util.RTOversampl")["rt_oversampling"],
    }
    lockin = world.situation.lockin
    found["Lock-in>Lock-in status"] = "OFF" if lockin is None else "ON"
    if lockin is not None:
        found["Lock-in>Modulated signal"] = "Bias (V)"
        found["Lock-in>Frequency (Hz)"] = lockin.frequency_hz
        found["Lock-in>Amplitude"] = lockin.amplitude_v
        found["Lock-in>Demodulated signal"] = "Current (A)"
    return found


def bias_sweep_settings(lab: Instrument, points: int) -> dict[str, Setting]:
    """Lines of the header that tell how a bias spectrum of so many points was taken."""
    limits, module = lab.setting("BiasSpectr.Limits"), "Bias Spectroscopy"
    advanced = lab.setting("BiasSpectr.AdvProps")
    return {
        f"{module}>Sweep Start (V)": limits["start_value_v"],
        f"{module}>Sweep End (V)": limits["end_value_v"],
        f"{module}>Z offset (m)": lab.setting("BiasSpectr.Timing")["z_offset_m"],
        f"{module}>Reset Bias": bool(advanced["reset_bias"]),
        f"{module}>Z-controller hold": bool(advanced["z_controller_hold"]),
        f"{module}>Sweep mode": lab.setting("BiasSpectr.MLSMode")["sweep_mode"],
        **_sweep_settings(lab, "BiasSpectr", module, points),
    }


def z_sweep_settings(lab: Instrument, points: int) -> dict[str, Setting]:
    """Lines of the header that tell how a Z spectrum of so many points was taken."""
    reach, module = lab.setting("ZSpectr.Range"), "Z Spectroscopy"
    return {
        f"{module}>Z offset (m)": reach["z_offset_m"],
        f"{module}>Z sweep distance (m)": reach["z_sweep_distance_m"],
        **_sweep_settings(lab, "ZSpectr", module, points),
    }


def _sweep_settings(lab: Instrument, commands: str, module: str, points: int) -> dict[str, Setting]:
    """What both kinds of spectra have."""
    timing, kept = lab.setting(f"{commands}.Timing"), lab.setting(f"{commands}.Props")
    advanced = lab.setting(f"{commands}.AdvProps")
    return {
        f"{module}>Num Pixel": points,
        f"{module}>Z Avg time (s)": timing["z_averaging_time_s"],
        f"{module}>1st Settling time (s)": timing["initial_settling_time_s"],
        f"{module}>Settling time (s)": timing["settling_time_s"],
        f"{module}>Integration time (s)": timing["integration_time_s"],
        f"{module}>End Settling time (s)": timing["end_settling_time_s"],
        f"{module}>Z control time (s)": timing["z_control_time_s"],
        f"{module}>Max Slew rate (V/s)": timing["maximum_slew_rate_v_s"],
        f"{module}>backward sweep": bool(kept["backward_sweep"]),
        f"{module}>Number of sweeps": kept["number_of_sweeps"],
        f"{module}>Record final Z": bool(advanced["record_final_z"]),
        f"{module}>Lock-In run": bool(advanced["lock_in_run"]),
    }
