"""Settings of the Nanonis door: what is set is read back, is bounded, and None leaves it as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from protocols.errors import DriverError
from protocols.nanonis.codings import codings
from protocols.nanonis.commands import table
from tests.sim.nanonis_bench import PROVEN, Served, served
from tests.sim.nanonis_client import Client

Values = dict[str, Any]

# By stem: which device is meant (if there are several), and values that differ from those at the start.
PAIRS: dict[str, tuple[Values, Values]] = {
    "Bias.Calibr": ({}, {"calibration": 2.0, "offset": 0.125}),
    "Bias.Range": ({}, {"bias_range_index": 1}),
    "BiasSpectr.Chs": ({}, {"channel_indexes": [0, 30, 86]}),
    "BiasSpectr.Props": (
        {},
        {
            "save_all": True,
            "number_of_sweeps": 3,
            "backward_sweep": False,
            "number_of_points": 77,
            "autosave": True,
            "show_save_dialog": True,
        },
    ),
    "BiasSpectr.AdvProps": (
        {},
        {"reset_bias": False, "z_controller_hold": False, "record_final_z": True, "lock_in_run": True},
    ),
    "BiasSpectr.Limits": ({}, {"start_value_v": -0.5, "end_value_v": 0.75}),
    "BiasSpectr.Timing": (
        {},
        {
            "z_averaging_time_s": 0.125,
            "z_offset_m": -1e-11,
            "initial_settling_time_s": 0.25,
            "maximum_slew_rate_v_s": 2.0,
            "settling_time_s": 0.5,
            "integration_time_s": 0.0625,
            "end_settling_time_s": 0.375,
            "z_control_time_s": 0.75,
        },
    ),
    "BiasSpectr.DigSync": ({}, {"digital_sync": "ttl"}),
    "BiasSpectr.TTLSync": (
        {},
        {"ttl_line": "3", "ttl_polarity": "low", "time_to_on_s": 0.5, "on_duration_s": 0.25},
    ),
    "BiasSpectr.PulseSeqSync": ({}, {"pulse_sequence_nr": 2, "nr_periods": 5}),
    "BiasSpectr.AltZCtrl": (
        {},
        {"alternate_z_controller_setpoint": True, "setpoint": 5e-11, "settling_time_s": 0.5},
    ),
    "BiasSpectr.ZOffRevert": ({}, {"z_offset_revert": False}),
    "BiasSpectr.SafeCond1": (
        {},
        {"condition": 1, "threshold": 0.5, "signal_index": 30, "comparison": 1},
    ),
    "BiasSpectr.SafeCond2": (
        {},
        {"condition": 2, "threshold": 0.25, "signal_index": 24, "comparison": 1},
    ),
    "BiasSpectr.MLSMode": ({}, {"sweep_mode": "MLS"}),
    "Current.Calibr": ({"gain_index": 1}, {"calibration": 2e-8, "offset": 1e-12}),
    "ZCtrl.SwitchOffDelay": ({}, {"delay_s": 0.25}),
    "ZCtrl.TipLift": ({}, {"tip_lift_m": 1e-9}),
    "ZCtrl.Gain": ({}, {"p_gain": 2e-12, "time_constant_s": 2e-4, "i_gain": 1e-8}),
    "ZCtrl.Setpnt": ({}, {"setpoint": 3e-11}),
    "ZCtrl.HomeProps": ({}, {"absolute_relative": "relative", "home_position_m": 7e-9}),
    "ZCtrl.WithdrawRate": ({}, {"rate_m_s": 1e-6}),
    "SafeTip.OnOff": ({}, {"status": True}),
    "SafeTip.Props": ({}, {"auto_recovery": True, "auto_pause_scan": True, "threshold": 2e-9}),
    "ZSpectr.Chs": ({}, {"channel_indexes": [30, 0]}),
    "ZSpectr.Props": (
        {},
        {
            "backward_sweep": False,
            "number_of_points": 33,
            "number_of_sweeps": 2,
            "autosave": True,
            "show_save_dialog": True,
            "save_all": True,
        },
    ),
    "ZSpectr.AdvProps": (
        {},
        {
            "time_between_forward_and_backward_sweep_s": 0.5,
            "record_final_z": True,
            "lock_in_run": True,
            "reset_z": False,
        },
    ),
    "ZSpectr.Range": ({}, {"z_offset_m": 1e-10, "z_sweep_distance_m": -2e-10}),
    "ZSpectr.Timing": (
        {},
        {
            "z_averaging_time_s": 0.125,
            "initial_settling_time_s": 0.25,
            "maximum_slew_rate_v_s": 4.0,
            "settling_time_s": 0.5,
            "integration_time_s": 0.75,
            "end_settling_time_s": 1.0,
            "z_control_time_s": 1.25,
        },
    ),
    "ZSpectr.RetractDelay": ({}, {"retract_delay_s": 0.5}),
    "ZSpectr.Retract": (
        {},
        {"enable": True, "threshold": 1e-9, "signal_index": 24, "comparison": "<"},
    ),
    "ZSpectr.Retract2nd": (
        {},
        {"condition": "and", "threshold": 2e-9, "signal_index": 30, "comparison": "<"},
    ),
    "ZSpectr.DigSync": ({}, {"digital_sync": "pulse sequence"}),
    "ZSpectr.TTLSync": (
        {},
        {"ttl_line": "2", "ttl_polarity": "low", "time_to_on_s": 0.5, "on_duration_s": 0.25},
    ),
    "ZSpectr.PulseSeqSync": ({}, {"pulse_sequence_nr": 3, "nr_periods": 7}),
    "Piezo.Tilt": ({}, {"tilt_x_deg": 0.5, "tilt_y_deg": -0.25}),
    "Piezo.XYZLimits": (
        {},
        {
            "enable_limits": True,
            "voltage_limit_x_low_v": -10.0,
            "voltage_limit_x_high_v": 20.0,
            "voltage_limit_y_low_v": -30.0,
            "voltage_limit_y_high_v": 40.0,
            "voltage_limit_z_low_v": -50.0,
            "voltage_limit_z_high_v": 60.0,
        },
    ),
    "Piezo.HystOnOff": ({}, {"on_off": True}),
    "Piezo.HystVals": (
        {},
        {
            "fast_axis_x_hysteresis_points": [0.5, 0.25],
            "fast_axis_y_hysteresis_points": [0.125],
            "slow_axis_x_hysteresis_points": [1.5, 2.5, 3.5],
            "slow_axis_y_hysteresis_points": [4.0],
        },
    ),
    "Scan.Buffer": ({}, {"channel_indexes": [30, 24], "pixels": 64, "lines": 48}),
    "FolMe.Speed": ({}, {"speed_m_s": 5e-8, "custom_speed": False}),
    "FolMe.Oversampl": ({}, {"oversampling": 20}),
    "FolMe.PSOnOff": ({}, {"point_shoot_status": True}),
    "FolMe.PSExp": ({}, {"point_shoot_experiment": 1}),
    "FolMe.PSProps": (
        {},
        {
            "auto_resume": True,
            "use_own_basename": False,
            "basename": "shot",
            "external_vi_path": "C:\\shoot.vi",
            "pre_measure_delay_s": 0.5,
        },
    ),
    "TipRec.BufferSize": ({}, {"buffer_size": 77}),
    "TipShaper.Props": (
        {},
        {
            "switch_off_delay_s": 0.125,
            "change_bias": True,
            "bias_v": 0.5,
            "tip_lift_m": -2e-10,
            "lift_time_1_s": 0.25,
            "bias_lift_v": -0.5,
            "bias_settling_time_s": 0.375,
            "lift_height_m": 3e-9,
            "lift_time_2_s": 0.5,
            "end_wait_time_s": 0.75,
            "restore_feedback": False,
        },
    ),
    "Motor.FreqAmp": ({"axis": 2}, {"frequency_hz": 500.0, "amplitude_v": 50.0}),
    "GenSwp.AcqChs": ({}, {"channel_indexes": [24, 0]}),
    "GenSwp.SwpSignal": ({}, {"sweep_channel_name": "Z (m)"}),
    "GenSwp.Limits": ({}, {"lower_limit": -0.25, "upper_limit": 0.5}),
    "GenSwp.Props": (
        {},
        {
            "initial_settling_time_ms": 5.0,
            "maximum_slew_rate_units_s": 3.0,
            "number_of_steps": 12,
            "period_ms": 7,
            "autosave": True,
            "save_dialog_box": True,
            "settling_time_ms": 2.5,
        },
    ),
    "BiasSwp.Limits": ({}, {"lower_limit": -0.5, "upper_limit": 0.25}),
    "GenPICtrl.OnOff": ({}, {"controller_status": 1}),
    "GenPICtrl.AOProps": (
        {},
        {
            "signal_name": "heater",
            "units": "W",
            "upper_limit": 5.0,
            "lower_limit": -1.0,
            "calibration_per_volt": 2.0,
            "offset_in_physical_units": 0.5,
        },
    ),
    "GenPICtrl.ModCh": ({}, {"output_index": 3}),
    "GenPICtrl.DemodCh": ({}, {"input_index": 30}),
    "GenPICtrl.Props": ({}, {"setpoint": 0.5, "p_gain": 0.25, "time_constant": 2.0, "slope": "negative"}),
    "PICtrl.OnOff": ({"controller_index": 2}, {"controller_status": 1}),
    "PICtrl.CtrlCh": ({"controller_index": 2}, {"control_signal_index": 26}),
    "PICtrl.InputCh": ({"controller_index": 3}, {"input_index": 30}),
    "PICtrl.Props": (
        {"controller_index": 3},
        {"setpoint": 0.5, "p_gain": 0.25, "i_gain": 0.125, "slope": "negative"},
    ),
    "PICtrl.CtrlChProps": ({"controller_index": 4}, {"lower_limit": -1.0, "upper_limit": 2.0}),
    "AtomTrack.Props": (
        {},
        {
            "integral_gain": 2.0,
            "frequency_hz": 20.0,
            "amplitude_m": 1e-10,
            "phase_deg": 30.0,
            "switch_off_delay_s": 0.5,
        },
    ),
    "LockIn.ModOnOff": ({"modulator_number": 2}, {"on_off": True}),
    "LockIn.ModSignal": ({"modulator_number": 2}, {"modulator_signal_index": 25}),
    "LockIn.ModPhasReg": ({"modulator_number": 1}, {"phase_register_index": 3}),
    "LockIn.ModHarmonic": ({"modulator_number": 1}, {"harmonic": 2}),
    "LockIn.ModPhas": ({"modulator_number": 1}, {"phase_deg": 45.0}),
    "LockIn.ModAmp": ({"modulator_number": 1}, {"amplitude": 0.015625}),
    "LockIn.ModPhasFreq": ({"modulator_number": 1}, {"frequency_hz": 1234.5}),
    "LockIn.DemodSignal": ({"demodulator_number": 3}, {"demodulator_signal_index": 30}),
    "LockIn.DemodHarmonic": ({"demodulator_number": 3}, {"harmonic": 2}),
    "LockIn.DemodHPFilter": (
        {"demodulator_number": 1},
        {"hp_filter_order": 2, "hp_filter_cutoff_frequency_hz": 5.0},
    ),
    "LockIn.DemodLPFilter": (
        {"demodulator_number": 1},
        {"lp_filter_order": 4, "lp_filter_cutoff_frequency_hz": 50.0},
    ),
    "LockIn.DemodPhasReg": ({"demodulator_number": 1}, {"phase_register_index": 2}),
    "LockIn.DemodPhas": ({"demodulator_number": 1}, {"phase_deg": -30.0}),
    "LockIn.DemodSyncFilter": ({"demodulator_number": 1}, {"sync_filter": True}),
    "LockIn.DemodRTSignals": ({"demodulator_number": 1}, {"rt_signals": "r/phi"}),
    "LockInFreqSwp.Signal": ({}, {"sweep_signal_index": 30}),
    "LockInFreqSwp.Limits": ({}, {"lower_limit_hz": 200.0, "upper_limit_hz": 900.0}),
    "LockInFreqSwp.Props": (
        {},
        {
            "number_of_steps": 11,
            "integration_periods": 4,
            "minimum_integration_time_s": 0.25,
            "settling_periods": 2,
            "minimum_settling_time_s": 0.125,
            "autosave": 1,
            "save_dialog": 1,
            "basename": "poles",
        },
    ),
    "UserOut.Mode": ({"output_index": 2}, {"output_mode": 1}),
    "UserOut.MonitorCh": ({"output_index": 2}, {"monitor_channel_index": 24}),
    "UserOut.CalcSignalName": ({"output_index": 3}, {"calculated_signal_name": "Sum (V)"}),
    "UserOut.CalcSignalConfig": (
        {"output_index": 3},
        {"signal_1": 24, "operation": 1, "signal_2": 30},
    ),
    "DataLog.Chs": ({}, {"channel_indexes": [24, 30, 0]}),
    "OsciHR.Ch": ({"channel_index": 1}, {"signal_index": 30}),
    "OsciHR.CalibrMode": ({"channel_index": 1}, {"calibration_mode": 1}),
    "OsciHR.Oversampl": ({}, {"oversampling_index": 1}),
    "OsciHR.Samples": ({}, {"number_of_samples": 333}),
    "OsciHR.PreTrig": ({}, {"pre_trigger_samples": 12}),
    "OsciHR.TrigMode": ({}, {"trigger_mode": 1}),
    "OsciHR.TrigLevCh": ({}, {"level_trigger_channel_index": 24}),
    "OsciHR.TrigLevVal": ({}, {"level_trigger_value": 0.5}),
    "OsciHR.TrigLevHyst": ({}, {"level_trigger_hysteresis": 0.25}),
    "OsciHR.TrigLevSlope": ({}, {"level_trigger_slope": 1}),
    "OsciHR.TrigDigCh": ({}, {"digital_trigger_channel_index": 3}),
    "OsciHR.TrigArmMode": ({}, {"trigger_arming_mode": 1}),
    "OsciHR.TrigDigSlope": ({}, {"digital_trigger_slope": 1}),
    "OsciHR.PSDWeight": ({}, {"psd_weighting": 1}),
    "OsciHR.PSDWindow": ({}, {"psd_window_type": 3}),
    "OsciHR.PSDAvrgType": ({}, {"psd_averaging_type": 2}),
    "OsciHR.PSDAvrgCount": ({}, {"psd_averaging_count": 25}),
    "Osci1T.Ch": ({}, {"channel_index": 30}),
    "Osci1T.Timebase": ({}, {"timebase_index": 2}),
    "Osci1T.Trig": (
        {},
        {"trigger_mode": 2, "trigger_slope": 0, "trigger_level": 0.5, "trigger_hysteresis": 0.25},
    ),
    "Osci2T.Chs": ({}, {"channel_a_index": 24, "channel_b_index": 0}),
    "Osci2T.Timebase": ({}, {"timebase_index": 3}),
    "Osci2T.Oversampl": ({}, {"oversampling_index": 2}),
    "Osci2T.Trig": (
        {},
        {
            "trigger_mode": 1,
            "trigger_channel": 1,
            "trigger_slope": 0,
            "trigger_level": 0.5,
            "trigger_hysteresis": 0.25,
            "trigger_position_s": 0.125,
        },
    ),
    "SignalChart.Chs": ({}, {"channel_a_index": 24, "channel_b_index": 0}),
    "SpectrumAnlzr.Ch": ({"spectrum_analyzer_instance": 2}, {"channel_index": 30}),
    "SpectrumAnlzr.FreqRange": ({"spectrum_analyzer_instance": 2}, {"range_index": 1}),
    "SpectrumAnlzr.FreqRes": ({"spectrum_analyzer_instance": 2}, {"resolution_index": 1}),
    "SpectrumAnlzr.FFTWindow": ({"spectrum_analyzer_instance": 2}, {"fft_window_index": 2}),
    "SpectrumAnlzr.Averag": (
        {"spectrum_analyzer_instance": 2},
        {"averaging_mode": 1, "weighting_mode": 1, "count": 4},
    ),
    "SpectrumAnlzr.ACCoupling": ({"spectrum_analyzer_instance": 2}, {"ac_coupling": 0}),
    "FunGen1Ch.Props": (
        {},
        {"amplitude_percent": 50.0, "frequency_hz": 25.0, "polarity": "negative", "direction": "backward"},
    ),
    "FunGen1Ch.Idle": ({}, {"idle_value": 0.5}),
    "FunGen2Ch.Idle": ({"device": 1}, {"idle_value": 0.25}),
    "FunGen2Ch.OnOff": ({"channel_index": 2}, {"status": 0}),
    "FunGen2Ch.Signal": ({"channel_index": 2}, {"signal_index": 26}),
    "FunGen2Ch.Props": (
        {"channel_index": 2},
        {
            "amplitude_percent": 25.0,
            "time_s": 0.5,
            "polarity": "negative",
            "direction": "backward",
            "add_zero": "add",
        },
    ),
    "FunGen2Ch.Waveform": ({"channel_index": 2}, {"shape": 2}),
    "Util.RTFreq": ({}, {"rt_frequency": 10e3}),
    "Util.AcqPeriod": ({}, {"acquisition_period_s": 0.5}),
    "Util.RTOversampl": ({}, {"rt_oversampling": 5}),
    "Pattern.Line": (
        {},
        {
            "number_of_points": 4,
            "line_point_1_x_m": 1e-9,
            "line_point_1_y_m": 2e-9,
            "line_point_2_x_m": 3e-9,
            "line_point_2_y_m": -1e-9,
        },
    ),
    "Pattern.Cloud": ({}, {"x_coordinates_m": [1e-9, 2e-9], "y_coordinates_m": [-1e-9, 3e-9]}),
}

MORE_TO_SET: dict[str, Values] = {
    "BiasSpectr.PropsSet": {"z_offset_m": None},
    "GenSwp.AcqChsSet": {"channel_names": ()},
    "OsciHR.PreTrigSet": {"pre_trigger_s": 0.0},
    "GenPICtrl.DemodChSet": {"ac_mode": None},
    "Pattern.LineSet": {"set_active_pattern": False, "line_scan_frame": False},
    "Pattern.CloudSet": {"set_active_pattern": False},
}
"""Arguments that only Set has."""

WINDOWS = ("BiasSpectr.Open", "ZSpectr.Open", "AutoApproach.Open", "DataLog.Open")

for stem in PAIRS:
    for ending in ("Set", "Get"):
        PROVEN.setdefault(f"{stem}{ending}", "test_what_is_set_is_read_back")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One door for all settings."""
    with served(tmp_path_factory.mktemp("nanonis")) as one:
        client = one.client()
        for command in WINDOWS:
            client(command)
        yield one


@pytest.fixture
def client(door: Served) -> Client:
    """The client that opened the windows."""
    return door.clients[0]


def read(client: Client, stem: str, device: Values) -> Values:
    """What Get says, without more than is asked for."""
    wanted = {name: device[name] for name in table()[f"{stem}Get"].arguments.names if name in device}
    return client(f"{stem}Get", **wanted)


def told(client: Client, stem: str, device: Values, values: Values) -> None:
    """Set."""
    client(f"{stem}Set", **device, **values, **MORE_TO_SET.get(f"{stem}Set", {}))


def same(found: Any, wanted: Any) -> bool:
    """Equal as float32 holds it."""
    if isinstance(wanted, list | np.ndarray):
        return len(found) == len(wanted) and bool(np.allclose(found, wanted, rtol=1e-6, atol=0))
    if isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return bool(found == wanted)


@pytest.mark.parametrize("stem", PAIRS)
def test_what_is_set_is_read_back(client: Client, stem: str) -> None:
    """Get tells other values before, the set ones after, and the first ones when they are set again."""
    device, values = PAIRS[stem]
    before = {name: read(client, stem, device)[name] for name in values}
    assert not any(same(before[name], value) for name, value in values.items())
    told(client, stem, device, values)
    after = read(client, stem, device)
    assert all(same(after[name], value) for name, value in values.items()), (after, values)
    told(client, stem, device, before)
    assert all(same(read(client, stem, device)[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "stem",
    [
        stem
        for stem in PAIRS
        if stem.startswith(("BiasSpectr.Props", "BiasSpectr.AdvProps", "BiasSpectr.Timing", "ZSpectr.Props"))
    ],
)
def test_no_change_changes_nothing(client: Client, stem: str) -> None:
    """Where a value means "no change" (0, NaN), sending it for all leaves everything as it was."""
    before = read(client, stem, {})
    told(client, stem, {}, dict.fromkeys(PAIRS[stem][1]))
    after = read(client, stem, {})
    assert all(np.array_equal(after[name], before[name]) for name in PAIRS[stem][1])


@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("LockIn.ModAmpSet", {"modulator_number": 9, "amplitude": 0.01}),
        ("LockIn.DemodLPFilterSet", {"demodulator_number": 1, "lp_filter_order": 9}),
        ("BiasSpectr.PropsSet", {"number_of_points": 1}),
        ("ZCtrl.WithdrawRateSet", {"rate_m_s": -1.0}),
        ("ZCtrl.LimitsSet", {"z_high_limit_m": -1e-9, "z_low_limit_m": 1e-9}),
        ("Piezo.RangeSet", {"range_x_m": 0.0, "range_y_m": 1e-6, "range_z_m": 1e-6}),
        ("UserOut.ValSet", {"output_index": 1, "output_value": 11.0}),
        ("Signals.ValGet", {"signal_index": 128, "wait_for_newest_data": 0}),
        ("Scan.FrameSet", {"centre_x_m": 0.0, "centre_y_m": 0.0, "width_m": -1e-9, "height_m": 1e-9}),
        ("BiasSpectr.MLSModeSet", {"sweep_mode": "sideways"}),
        ("Motor.StartMove", {"direction": "z+", "number_of_steps": 1, "group": 9, "wait": True}),
        ("Util.SessionPathSet", {"session_path": "not absolute", "save_settings_to_previous": 0}),
        ("Util.SettingsLoad", {"settings_file_path": "/nowhere/at.all", "load_session_settings": 0}),
    ],
)
def test_what_makes_no_sense_is_refused(client: Client, command: str, values: Values) -> None:
    """A value out of range is answered with an error that says what was wrong, and the door goes on."""
    blank: dict[str, Any] = {"S": "", "H": 0, "f": 0.0, "i": 0, "I": 0, "d": 0.0}
    layout = table()[command].arguments
    filled = {field.name: blank[field.code] for field in layout.fields}
    filled |= dict.fromkeys(codings(command))
    with pytest.raises(DriverError) as refused:
        client(command, **{**filled, **values})
    assert f"Error in command: {command.lower()}: " in str(refused.value)
    assert client("Util.VersionGet")["host_release"] == 14718
