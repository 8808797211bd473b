"""Oscilloscopes, signal chart and spectrum analyser: what they show is sampled from the world's signals.

They run by themselves: data can be had at any time, of "now" or of the next trigger, which comes at once
since nothing here waits for rare events.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from sim_hardware.nanonis import signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()

TIMEBASES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
POINTS = 256
HR_RATE_HZ = 1e6
OVERSAMPLINGS = (1, 2, 5, 10, 20, 50, 100)
"""Factors of the high-resolution oscilloscope and of the two-channel one."""
MOST_SAMPLES = 100_000
RANGES_HZ = (10.0, 100.0, 500.0, 1000.0, 5000.0, 10000.0)
RESOLUTION_BINS = (128, 256, 512, 1024, 2048)
WINDOWS = 9
"""Kinds of windows of a Fourier transform: 0 none, 1 Hanning, ..."""
_SIGNAL = (0, signals.SIGNALS - 1)


def _timebases(_: Instrument, __: dict[str, Any]) -> dict[str, Any]:
    return {"timebases_s": np.array(TIMEBASES_S, np.float32)}


REGISTRY.keep(
    Settings("Osci1T.Ch", {"channel_index": 0}, {"channel_index": _SIGNAL}),
    Settings(
        "Osci1T.Timebase",
        {"timebase_index": 0},
        choices={"timebase_index": len(TIMEBASES_S)},
        more=_timebases,
    ),
    Settings(
        "Osci1T.Trig",
        {"trigger_mode": 0, "trigger_slope": 1, "trigger_level": 0.0, "trigger_hysteresis": 0.0},
        {"trigger_mode": (0, 2), "trigger_slope": (0, 1)},
    ),
    Settings(
        "Osci2T.Chs",
        {"channel_a_index": 0, "channel_b_index": 30},
        {"channel_a_index": _SIGNAL, "channel_b_index": _SIGNAL},
    ),
    Settings(
        "Osci2T.Timebase",
        {"timebase_index": 0},
        choices={"timebase_index": len(TIMEBASES_S)},
        more=_timebases,
    ),
    Settings(
        "Osci2T.Oversampl", {"oversampling_index": 0}, choices={"oversampling_index": len(OVERSAMPLINGS)}
    ),
    Settings(
        "Osci2T.Trig",
        {
            "trigger_mode": 0,
            "trigger_channel": 0,
            "trigger_slope": 1,
            "trigger_level": 0.0,
            "trigger_hysteresis": 0.0,
            "trigger_position_s": 0.0,
        },
        {"trigger_mode": (0, 2), "trigger_slope": (0, 1), "trigger_channel": (0, 1)},
    ),
    Settings(
        "SignalChart.Chs",
        {"channel_a_index": 0, "channel_b_index": 30},
        {"channel_a_index": _SIGNAL, "channel_b_index": _SIGNAL},
    ),
)


@REGISTRY.command("SignalChart.Open")
def chart_open(call: Call) -> None:
    """Open its window."""
    call.lab.open("SignalChart")


def _run(call: Call) -> None:
    """It runs by itself."""


for name in ("Osci1T.Run", "Osci2T.Run", "OsciHR.Run", "OsciHR.TrigRearm", "OsciHR.PSDAvrgRestart"):
    REGISTRY.add(name, _run)


def _timebase_s(lab: Instrument, stem: str) -> float:
    return TIMEBASES_S[lab.setting(stem)["timebase_index"]]


def _sampled(lab: Instrument, stem: str, index: int) -> tuple[float, float, Floats]:
    """Begin (s of the instrument), step and values."""
    step = _timebase_s(lab, stem) / POINTS
    return lab.world.clock.now(), step, signals.samples(lab, index, POINTS, step)


@REGISTRY.command("Osci1T.DataGet")
def one_channel(call: Call, data_to_get: int) -> tuple[float, float, Floats]:
    """One timebase of the channel."""
    return _sampled(call.lab, "Osci1T.Timebase", call.lab.setting("Osci1T.Ch")["channel_index"])


@REGISTRY.command("Osci2T.DataGet")
def two_channels(call: Call, data_to_get: int) -> dict[str, Any]:
    """One timebase of both channels."""
    chosen = call.lab.setting("Osci2T.Chs")
    begin, step, first = _sampled(call.lab, "Osci2T.Timebase", chosen["channel_a_index"])
    _, _, second = _sampled(call.lab, "Osci2T.Timebase", chosen["channel_b_index"])
    return {"t0_s": begin, "dt_s": step, "data_a": first, "data_b": second}


# -- high resolution -----------------------------------------------------------------------------------------

_HR: dict[str, Any] = {"index": "channel_index", "indices": range(5)}

REGISTRY.keep(
    Settings("OsciHR.Ch", {"signal_index": 0}, {"signal_index": _SIGNAL}, **_HR),
    Settings("OsciHR.CalibrMode", {"calibration_mode": 0}, {"calibration_mode": (0, 1)}, **_HR),
    Settings(
        "OsciHR.Oversampl", {"oversampling_index": 3}, choices={"oversampling_index": len(OVERSAMPLINGS)}
    ),
    Settings("OsciHR.Samples", {"number_of_samples": 1024}, {"number_of_samples": (1, MOST_SAMPLES)}),
    Settings("OsciHR.PreTrig", {"pre_trigger_samples": 0}, {"pre_trigger_samples": (0, MOST_SAMPLES)}),
    Settings("OsciHR.TrigMode", {"trigger_mode": 0}, {"trigger_mode": (0, 2)}),
    Settings(
        "OsciHR.TrigLevCh", {"level_trigger_channel_index": 0}, {"level_trigger_channel_index": _SIGNAL}
    ),
    Settings("OsciHR.TrigLevVal", {"level_trigger_value": 0.0}),
    Settings("OsciHR.TrigLevHyst", {"level_trigger_hysteresis": 0.0}),
    Settings("OsciHR.TrigLevSlope", {"level_trigger_slope": 0}, {"level_trigger_slope": (0, 1)}),
    Settings(
        "OsciHR.TrigDigCh", {"digital_trigger_channel_index": 0}, {"digital_trigger_channel_index": (0, 31)}
    ),
    Settings("OsciHR.TrigArmMode", {"trigger_arming_mode": 0}, {"trigger_arming_mode": (0, 1)}),
    Settings("OsciHR.TrigDigSlope", {"digital_trigger_slope": 0}, {"digital_trigger_slope": (0, 1)}),
    Settings("OsciHR.PSDWeight", {"psd_weighting": 0}, {"psd_weighting": (0, 1)}),
    Settings("OsciHR.PSDWindow", {"psd_window_type": 1}, choices={"psd_window_type": WINDOWS}),
    Settings("OsciHR.PSDAvrgType", {"psd_averaging_type": 0}, {"psd_averaging_type": (0, 3)}),
    Settings("OsciHR.PSDAvrgCount", {"psd_averaging_count": 10}, {"psd_averaging_count": (1, 10_000)}),
)


@REGISTRY.command("OsciHR.PSDShow")
def psd_show(call: Call, show_psd_section: int) -> None:
    """Show the spectrum's part of the window; ``PSDDataGet`` works while it is shown."""
    call.lab.of(_Shown).psd = bool(show_psd_section)


class _Shown:
    psd = False


def _hr_step_s(lab: Instrument) -> float:
    return OVERSAMPLINGS[lab.setting("OsciHR.Oversampl")["oversampling_index"]] / HR_RATE_HZ


def _hr_samples(lab: Instrument, channel: int) -> tuple[float, Floats]:
    step = _hr_step_s(lab)
    count = lab.setting("OsciHR.Samples")["number_of_samples"]
    index = lab.setting("OsciHR.Ch", channel)["signal_index"]
    found = signals.samples(lab, index, count, step)
    if lab.setting("OsciHR.CalibrMode", channel)["calibration_mode"] == 0:
        per_volt, offset = signals.calibration(lab, index)
        found = (found - offset) / per_volt
    return step, found


@REGISTRY.command("OsciHR.OsciDataGet")
def hr_data(call: Call, data_to_get: int, timeout_s: float, channel_index: int = 0) -> dict[str, Any]:
    """The samples, in volts or (calibration mode 1) in the signal's unit."""
    if channel_index not in _HR["indices"]:
        raise DriverError(f"channel index {channel_index} is outside 0 to 4.")
    step, found = _hr_samples(call.lab, channel_index)
    return {
        "t0_s": time.strftime("%d.%m.%Y %H:%M:%S"),
        "dt_s": step,
        "y": found.astype(np.float32),
        "timed_out": 0,
    }


@REGISTRY.command("OsciHR.PSDDataGet")
def hr_spectrum(call: Call, data_to_get: int, timeout_s: float) -> dict[str, Any]:
    """Power spectral density (unit per root Hz) of the first channel."""
    if not call.lab.of(_Shown).psd:
        raise DriverError("the PSD section is not shown.")
    step, found = _hr_samples(call.lab, 0)
    resolution, density = _density(found, step, call.lab.setting("OsciHR.PSDWindow")["psd_window_type"])
    return {"f0_hz": 0.0, "df_hz": resolution, "y": density, "timed_out": 0}


def _density(values: Floats, step_s: float, window: int) -> tuple[float, Floats]:
    """Resolution (Hz) and amplitude density (unit per root Hz), one-sided."""
    count = len(values)
    weights = np.hanning(count) if window and count > 2 else np.ones(count)
    spectrum = np.fft.rfft((values - values.mean()) * weights)
    power = 2.0 * np.abs(spectrum) ** 2 * step_s / max(float(np.sum(weights**2)), 1e-300)
    return 1.0 / (count * step_s), np.sqrt(power)


# -- spectrum analyser ---------------------------------------------------------------------------------------

_ANALYSER: dict[str, Any] = {"index": "spectrum_analyzer_instance", "indices": range(1, 9)}

REGISTRY.keep(
    Settings("SpectrumAnlzr.Ch", {"channel_index": 0}, {"channel_index": _SIGNAL}, **_ANALYSER),
    Settings(
        "SpectrumAnlzr.FreqRange",
        {"range_index": 3},
        choices={"range_index": len(RANGES_HZ)},
        more=lambda lab, kept: {"frequency_ranges_hz": np.array(RANGES_HZ, np.float32)},
        **_ANALYSER,
    ),
    Settings(
        "SpectrumAnlzr.FFTWindow", {"fft_window_index": 1}, choices={"fft_window_index": WINDOWS}, **_ANALYSER
    ),
    Settings(
        "SpectrumAnlzr.Averag",
        {"averaging_mode": 0, "weighting_mode": 0, "count": 10},
        {"averaging_mode": (0, 3), "weighting_mode": (0, 1), "count": (1, 10_000)},
        **_ANALYSER,
    ),
    Settings("SpectrumAnlzr.ACCoupling", {"ac_coupling": 1}, {"ac_coupling": (0, 1)}, **_ANALYSER),
)
REGISTRY.settings["SpectrumAnlzr.FreqRes"] = Settings(
    "SpectrumAnlzr.FreqRes", {"resolution_index": 2}, **_ANALYSER
)
REGISTRY.settings["SpectrumAnlzr.CursorPos"] = Settings(
    "SpectrumAnlzr.CursorPos", {"cursors": {}}, **_ANALYSER
)


def _check_analyser(number: int) -> int:
    if number not in _ANALYSER["indices"]:
        raise DriverError(f"spectrum analyzer instance {number} is not in 1..8.")
    return number


def _range_hz(lab: Instrument, number: int) -> float:
    return RANGES_HZ[lab.setting("SpectrumAnlzr.FreqRange", number)["range_index"]]


def _spectrum(lab: Instrument, number: int) -> tuple[float, Floats, float]:
    """Resolution (Hz), amplitude density over the range, and the mean value."""
    highest = _range_hz(lab, number)
    bins = RESOLUTION_BINS[lab.setting("SpectrumAnlzr.FreqRes", number)["resolution_index"]]
    step = 0.5 / highest
    index = lab.setting("SpectrumAnlzr.Ch", number)["channel_index"]
    window = lab.setting("SpectrumAnlzr.FFTWindow", number)["fft_window_index"]
    averages = min(lab.setting("SpectrumAnlzr.Averag", number)["count"], 32)
    if lab.setting("SpectrumAnlzr.Averag", number)["averaging_mode"] == 0:
        averages = 1
    found = [signals.samples(lab, index, 2 * bins, step) for _ in range(averages)]
    densities = [_density(values, step, window)[1] for values in found]
    mean = float(np.mean(found))
    density = np.sqrt(np.mean(np.square(densities), axis=0))
    if not lab.setting("SpectrumAnlzr.ACCoupling", number)["ac_coupling"]:
        density[0] = abs(mean)
    return highest / bins, density, mean


@REGISTRY.command("SpectrumAnlzr.FreqResSet")
def resolution_set(call: Call, spectrum_analyzer_instance: int, resolution_index: int) -> None:
    """Choose from the resolutions of the present range."""
    if not 0 <= resolution_index < len(RESOLUTION_BINS):
        raise DriverError(f"resolution index {resolution_index} is outside 0 to {len(RESOLUTION_BINS) - 1}.")
    call.lab.store_setting(
        "SpectrumAnlzr.FreqRes",
        _check_analyser(spectrum_analyzer_instance),
        {"resolution_index": resolution_index},
    )


@REGISTRY.command("SpectrumAnlzr.FreqResGet")
def resolution_get(call: Call, spectrum_analyzer_instance: int) -> dict[str, Any]:
    """The chosen one and all of the present range."""
    number = _check_analyser(spectrum_analyzer_instance)
    highest = _range_hz(call.lab, number)
    return {
        **call.lab.setting("SpectrumAnlzr.FreqRes", number),
        "frequency_resolutions_hz": np.array([highest / bins for bins in RESOLUTION_BINS], np.float32),
    }


@REGISTRY.command("SpectrumAnlzr.CursorPosSet")
def cursor_set(
    call: Call,
    spectrum_analyzer_instance: int,
    cursor_type: int,
    position_x_cursor_1_hz: float,
    position_x_cursor_2_hz: float,
) -> None:
    """Place the cursors of one type."""
    number = _check_analyser(spectrum_analyzer_instance)
    cursors = dict(call.lab.setting("SpectrumAnlzr.CursorPos", number)["cursors"])
    cursors[str(cursor_type)] = [position_x_cursor_1_hz, position_x_cursor_2_hz]
    call.lab.store_setting("SpectrumAnlzr.CursorPos", number, {"cursors": cursors})


def _cursors(lab: Instrument, number: int, cursor_type: int) -> tuple[float, float]:
    kept = lab.setting("SpectrumAnlzr.CursorPos", number)["cursors"].get(str(cursor_type))
    return (kept[0], kept[1]) if kept else (0.0, _range_hz(lab, number))


@REGISTRY.command("SpectrumAnlzr.CursorPosGet")
def cursor_get(call: Call, spectrum_analyzer_instance: int, cursor_type: int) -> tuple[float, float, float]:
    """Where they are and what the spectrum is at the first."""
    number = _check_analyser(spectrum_analyzer_instance)
    first, second = _cursors(call.lab, number, cursor_type)
    resolution, density, _ = _spectrum(call.lab, number)
    place = int(np.clip(round(first / resolution), 0, len(density) - 1))
    return first, second, float(density[place])


@REGISTRY.command("SpectrumAnlzr.BandRMSGet")
def band_rms(call: Call, spectrum_analyzer_instance: int) -> tuple[float, float, float]:
    """Rms between the band's cursors (type 0), and the band."""
    number = _check_analyser(spectrum_analyzer_instance)
    first, second = sorted(_cursors(call.lab, number, 0))
    resolution, density, _ = _spectrum(call.lab, number)
    frequencies = resolution * np.arange(len(density))
    inside = (frequencies >= first) & (frequencies <= second)
    return float(np.sqrt(np.sum(density[inside] ** 2) * resolution)), first, second


@REGISTRY.command("SpectrumAnlzr.DCGet")
def dc_value(call: Call, spectrum_analyzer_instance: int) -> float:
    """The mean value."""
    return _spectrum(call.lab, _check_analyser(spectrum_analyzer_instance))[2]


@REGISTRY.command("SpectrumAnlzr.Run")
def analyser_run(call: Call, spectrum_analyzer_instance: int) -> None:
    """It runs by itself."""
    _check_analyser(spectrum_analyzer_instance)


@REGISTRY.command("SpectrumAnlzr.DataGet")
def spectrum_get(call: Call, spectrum_analyzer_instance: int) -> tuple[float, float, Floats]:
    """The spectrum (unit per root Hz)."""
    resolution, density, _ = _spectrum(call.lab, _check_analyser(spectrum_analyzer_instance))
    return 0.0, resolution, density
