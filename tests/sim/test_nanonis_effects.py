"""What commands of the Nanonis door do: to the tip, to other commands, to files."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from protocols.errors import DriverError
from protocols.files.nanonis_dat import read_dat
from protocols.files.nanonis_grid import read_grid
from protocols.files.nanonis_sxm import read_sxm
from sim_hardware.drift import NO_DRIFT
from sim_hardware.electronics import ElectronicsSettings
from sim_hardware.nanonis.calls import Call, PatientWaiter
from sim_hardware.nanonis.jobs import name_of
from tests.sim.nanonis_bench import Served, proves, served, settle
from tests.sim.nanonis_client import Client
from tests.sim.simulated import Flat, until

QUIET = ElectronicsSettings(
    noise_a_per_sqrt_hz=0.0,
    shot_noise=0.0,
    gap_noise_m_per_sqrt_hz=0.0,
    image_noise_m=0.0,
    flicker_share=0.0,
    mains_a=0.0,
)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Served]:
    """A door to a surface with vacancies and steps."""
    with served(tmp_path) as one:
        yield one


@pytest.fixture
def flat(tmp_path: Path) -> Iterator[Served]:
    """A door to a flat, quiet, steady surface."""
    with served(tmp_path, surface=Flat(), drift=NO_DRIFT, electronics=QUIET) as one:
        yield one


def small_scan(client: Client, pixels: int = 32, lines: int = 8, line_s: float = 0.05) -> None:
    """Frame, buffer and speed of a small scan."""
    client("Scan.FrameSet", 0.0, 0.0, 6e-9, 3e-9, 0.0)
    client("Scan.BufferSet", [0, 30, 24, 28, 29], pixels, lines)
    client("Scan.SpeedSet", 0.0, 0.0, line_s, line_s, "time per line", 1.0)


def scanned(client: Client, direction: str = "up") -> str:
    """Scan and wait; the file's path."""
    client("Scan.Action", "start", direction)
    end = client("Scan.WaitEndOfScan", 20_000)
    assert not end["timed_out"]
    return str(end["file_path"])


def spectroscopy(client: Client, points: int = 41, sweeps: int = 1, backward: bool = True) -> None:
    """A short sweep of +-1 V."""
    client("BiasSpectr.Open")
    client("BiasSpectr.LimitsSet", -1.0, 1.0)
    client("BiasSpectr.PropsSet", False, sweeps, backward, points, None, False, False)


# -- bias, current, Z ----------------------------------------------------------------------------------------


def test_a_calibration_does_not_raise_what_the_output_can_give(flat: Served) -> None:
    """The junction never gets more than the output's range, and a ramp there ends; the panel shows what a
    calibration makes of it."""
    client = flat.client()
    for calibration, offset in ((1e-3, 0.0), (1.0, 1e30)):
        client("Bias.CalibrSet", calibration, offset)
        client("Bias.Set", 10.0)
        assert abs(flat.world.state().bias_v) == 10.0
    client("Bias.CalibrSet", 1.0, 0.0)
    client("Bias.Set", 1.0)
    assert flat.world.state().bias_v == 1.0


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("Bias.CalibrSet", (0.0, 0.0)),
        ("UserIn.CalibrSet", (5, 0.0, 0.5)),
        ("UserOut.CalibrSet", (1, 0.0, 0.5)),
    ],
)
def test_what_is_divided_by_cannot_be_zero(flat: Served, command: str, arguments: tuple[float, ...]) -> None:
    """It is refused, with its name; what was set before stays."""
    client = flat.client()
    with pytest.raises(DriverError, match=r"calibration.* of 0 is none"):
        client(command, *arguments)
    client("Bias.Set", 0.5)
    assert flat.world.state().bias_v == 0.5


@proves("Bias.Set", "Bias.Get", "Bias.RangeSet", "Bias.CalibrSet", "Signals.ValGet")
def test_bias_is_the_junctions_voltage(flat: Served) -> None:
    """Set, it is at the junction and in the signals; it is coerced into the range, and calibrated."""
    client = flat.client()
    client("Bias.Set", 0.5)
    assert client.one("Bias.Get") == 0.5
    assert client.one("Signals.ValGet", 24, 0) == 0.5
    client("Bias.Set", 20.0)
    assert client.one("Bias.Get") == 10.0
    client("Bias.RangeSet", 1)
    assert client.one("Bias.Get") == 1.0
    client("Bias.CalibrSet", 2.0, 0.0)
    client("Bias.Set", 0.5)
    assert client.one("Bias.Get") == 0.5
    assert flat.world.state().bias_v == 0.25


@proves(
    "ZCtrl.OnOffSet", "ZCtrl.OnOffGet", "ZCtrl.StatusGet", "ZCtrl.SetpntSet", "Current.Get", "ZCtrl.ZPosGet"
)
def test_the_controller_holds_the_setpoint(flat: Served) -> None:
    """On, |I| is the setpoint (1 %) with the bias's sign; ten times the setpoint is 112 pm closer (1 %)."""
    client = flat.engaged(1.0, 100e-12)
    assert client.one("ZCtrl.OnOffGet")
    assert client.one("ZCtrl.StatusGet") == "on"
    assert math.isclose(client.one("Current.Get"), 100e-12, rel_tol=0.02)
    far = client.one("ZCtrl.ZPosGet")
    client("ZCtrl.SetpntSet", 1e-9)
    settle(client, 0.1)
    way = math.log(10.0) / (2.0 * flat.world.junction.kappa)
    assert math.isclose(far - client.one("ZCtrl.ZPosGet"), way, rel_tol=0.01)


@proves("ZCtrl.TipLiftSet", "ZCtrl.SwitchOffDelaySet", "ZCtrl.ZPosSet", "ZCtrl.Home", "ZCtrl.HomePropsSet")
def test_z_by_hand(flat: Served) -> None:
    """Off lifts the tip by the tip lift, after the delay; Z and home are reached with the controller off;
    with it on Z cannot be set."""
    client = flat.engaged(1.0)
    with pytest.raises(DriverError, match="Z-Controller is on"):
        client("ZCtrl.ZPosSet", 1e-9)
    before = client.one("ZCtrl.ZPosGet")
    client("ZCtrl.TipLiftSet", 1e-9)
    client("ZCtrl.SwitchOffDelaySet", 0.05)
    client("ZCtrl.OnOffSet", False)
    settle(client, 0.1)
    assert not client.one("ZCtrl.OnOffGet")
    assert math.isclose(client.one("ZCtrl.ZPosGet") - before, 1e-9, rel_tol=0.01)
    client("ZCtrl.ZPosSet", 5e-9)
    assert math.isclose(client.one("ZCtrl.ZPosGet"), 5e-9, rel_tol=1e-6)
    client("ZCtrl.HomePropsSet", "relative", 2e-9)
    client("ZCtrl.Home")
    settle(client, 0.1)
    assert math.isclose(client.one("ZCtrl.ZPosGet"), 7e-9, rel_tol=1e-6)


@proves(
    "ZCtrl.Withdraw", "ZCtrl.WithdrawRateSet", "ZCtrl.LimitsSet", "ZCtrl.LimitsGet", "ZCtrl.LimitsEnabledSet"
)
def test_withdrawal_and_limits(flat: Served) -> None:
    """A withdrawal takes the way over the rate; limits are told and hold while they are enabled."""
    client = flat.engaged(1.0)
    client("ZCtrl.WithdrawRateSet", 1e-6)
    begin = flat.world.clock.now()
    client("ZCtrl.Withdraw", True, 10_000)
    assert math.isclose(flat.world.clock.now() - begin, 0.25, rel_tol=0.02)
    assert flat.world.state().withdrawn
    piezo = client("ZCtrl.LimitsGet")
    client("ZCtrl.LimitsSet", 20e-9, 2e-9)
    assert client("ZCtrl.LimitsGet") == piezo
    client("ZCtrl.LimitsEnabledSet", True)
    assert client.one("ZCtrl.LimitsEnabledGet")
    assert math.isclose(client("ZCtrl.LimitsGet")["z_low_limit_m"], 2e-9, rel_tol=1e-6)
    client("ZCtrl.OnOffSet", True)
    settle(client, 0.5)
    assert math.isclose(client.one("ZCtrl.ZPosGet"), 2e-9, rel_tol=1e-6)


@proves("ZCtrl.LimitsEnabledGet", "ZCtrl.ActiveCtrlSet", "ZCtrl.CtrlListGet", "ZCtrl.GainSet")
def test_gains_and_the_choice_of_controller_change_the_loop(flat: Served) -> None:
    """A hundred times less gain leaves the tip behind a step of the setpoint; the linear controller is listed
    as active once it is chosen, and holds the setpoint too."""
    client = flat.engaged(1.0, 100e-12)
    gains = client("ZCtrl.GainGet")
    client("ZCtrl.GainSet", gains["p_gain"] / 100, gains["time_constant_s"], 0.0)
    client("ZCtrl.SetpntSet", 1e-9)
    settle(client, 1e-3)
    assert client.one("Current.Get") < 0.5e-9
    client("ZCtrl.GainSet", *gains.values())
    settle(client, 0.2)
    assert math.isclose(client.one("Current.Get"), 1e-9, rel_tol=0.02)
    client("ZCtrl.ActiveCtrlSet", 1)
    listed = client("ZCtrl.CtrlListGet")
    assert listed["controllers"][listed["controller_index"]] == "Current"
    settle(client, 0.5)
    assert math.isclose(client.one("Current.Get"), 1e-9, rel_tol=0.02)


@proves("Current.GainSet", "Current.GainsGet", "Current.CalibrSet", "Current.CalibrGet", "Signals.RangeGet")
def test_the_preamplifiers_gain_is_its_range(flat: Served) -> None:
    """A gain of 10^10 has a rail of 1 nA: a setpoint above is refused; the calibration scales the reading."""
    client = flat.engaged(1.0)
    client("Current.GainSet", 3, None)
    gains = client("Current.GainsGet")
    assert gains["gains"][gains["gain_index"]] == "LN 10^10"
    assert math.isclose(client("Signals.RangeGet", 0)["maximum_limit"], 1e-9, rel_tol=1e-6)
    with pytest.raises(DriverError, match="setpoint"):
        client("ZCtrl.SetpntSet", 2e-9)
    shown = client.one("Current.Get")
    client("Current.CalibrSet", -1, 2e-10, 0.0)
    assert math.isclose(client.one("Current.Get"), 2.0 * shown, rel_tol=0.05)


@proves("SafeTip.OnOffSet", "SafeTip.PropsSet", "SafeTip.SignalGet")
def test_safe_tip_withdraws_only_if_armed(flat: Served) -> None:
    """A current above the threshold withdraws the tip if SafeTip is armed, and only then."""
    client = flat.engaged(1.0, 100e-12)
    client("SafeTip.PropsSet", False, False, 1e-9)
    client("ZCtrl.SetpntSet", 2e-9)
    settle(client, 0.1)
    assert math.isclose(client.one("SafeTip.SignalGet"), 2e-9, rel_tol=0.02)
    assert client.one("ZCtrl.StatusGet") == "on"
    client("SafeTip.OnOffSet", True)
    settle(client, 0.1)
    assert client.one("ZCtrl.StatusGet") == "safe tip"
    until(lambda: flat.world.state().withdrawn, "the withdrawal")
    assert flat.events("safe_tip")


@proves("Bias.Pulse")
def test_a_strong_pulse_changes_the_tip(flat: Served) -> None:
    """Pulses of 6 V at a held tip change it; the bias is as before, and the truth log has them."""
    client = flat.engaged(1.0)
    for _ in range(3):
        client("Bias.Pulse", True, 0.01, 6.0, True, "absolute")
    assert client.one("Bias.Get") == 1.0
    assert [entry.detail["bias_v"] for entry in flat.events("pulse")] == [6.0] * 3
    assert flat.world.junction.tip.changes > 0
    client("Bias.Pulse", True, 0.01, 0.5, True, "relative")
    assert math.isclose(flat.events("pulse")[-1].detail["bias_v"], 1.5, rel_tol=1e-6)


# -- motion --------------------------------------------------------------------------------------------------


@proves("FolMe.XYPosSet", "FolMe.XYPosGet", "FolMe.SpeedSet", "FolMe.Stop", "Scan.XYPosGet", "TipRec.DataGet")
def test_follow_me_moves_at_its_speed(door: Served) -> None:
    """A move of 5 nm at 10 nm/s takes 0.5 s, is recorded, and ends where it was sent; beyond the range it is
    refused."""
    client = door.engaged()
    client("FolMe.SpeedSet", 10e-9, True)
    begin = door.world.clock.now()
    client("FolMe.XYPosSet", 4e-9, -3e-9, True)
    assert math.isclose(door.world.clock.now() - begin, 0.5, rel_tol=1e-3)
    assert client("FolMe.XYPosGet", False) == {"x_m": 4e-9, "y_m": -3e-9}
    assert math.isclose(client("Scan.XYPosGet", 0)["x_m"], 4e-9, rel_tol=1e-6)
    recorded = client("TipRec.DataGet")
    assert list(recorded["channel_indexes"]) == [0, 24, 28, 29, 30]
    assert np.allclose(recorded["data"][2:4, -1], [4e-9, -3e-9], rtol=1e-6, atol=0)
    with pytest.raises(DriverError, match="range"):
        client("FolMe.XYPosSet", 1e-3, 0.0, True)
    client("FolMe.Stop")


@proves("TipRec.BufferSizeSet", "TipRec.BufferClear", "TipRec.DataSave", "File.datLoad")
def test_the_tip_recorder_is_bounded_and_saved(door: Served) -> None:
    """It keeps the last samples only, writes them to a file that can be read back, and can be cleared."""
    client = door.engaged()
    client("TipRec.BufferSizeSet", 3)
    for k in range(3):
        client("FolMe.XYPosSet", k * 1e-9, 0.0, True)
    assert client("TipRec.DataGet")["data"].shape == (5, 3)
    client("TipRec.DataSave", 0, "way")
    (path,) = door.session.glob("way*.dat")
    loaded = client("File.datLoad", str(path), 0)
    assert loaded["channels"][:2] == ("Index", "Current (A)")
    assert loaded["data"].shape == (3, 6)
    client("TipRec.BufferClear")
    assert client("TipRec.DataGet")["data"].size == 0


@proves(
    "Piezo.RangeSet",
    "Piezo.RangeGet",
    "Piezo.SensSet",
    "Piezo.SensGet",
    "Piezo.CalibrGet",
    "Piezo.HVAInfoGet",
)
def test_ranges_and_sensitivities_belong_together(flat: Served) -> None:
    """Half the sensitivity is half the range, beyond which no move goes; the output's calibration is the
    sensitivity times the amplifier's gain."""
    client = flat.client()
    ranges, sensitivities = client("Piezo.RangeGet"), client("Piezo.SensGet")
    client("Piezo.SensSet", *(value / 2 for value in sensitivities.values()))
    halved = client("Piezo.RangeGet")
    assert np.allclose(list(halved.values()), np.array(list(ranges.values())) / 2, rtol=1e-5, atol=0)
    gain = client("Piezo.HVAInfoGet")["gain_x"]
    calibration = client("Piezo.CalibrGet")["calibration_x_m_v"]
    assert math.isclose(calibration, gain * client("Piezo.SensGet")["calibration_x_m_v"], rel_tol=1e-6)
    with pytest.raises(DriverError, match="range"):
        client("FolMe.XYPosSet", 0.4e-6, 0.0, True)
    client("Piezo.RangeSet", *ranges.values())
    assert np.allclose(
        list(client("Piezo.SensGet").values()), list(sensitivities.values()), rtol=1e-5, atol=0
    )
    client("FolMe.XYPosSet", 0.4e-6, 0.0, True)


@proves("Piezo.TiltSet", "Piezo.XYZLimitsSet")
def test_tilt_and_voltage_limits_reach_the_tip(flat: Served) -> None:
    """A tilt of 1 degree over a flat sample makes 100 nm to the side 1.75 nm lower (2 %); a place that needs
    more volts than the limits allow is refused."""
    client = flat.engaged(1.0)
    before = client.one("ZCtrl.ZPosGet")
    client("Piezo.TiltSet", 1.0, 0.0)
    client("FolMe.XYPosSet", 100e-9, 0.0, True)
    settle(client, 0.1)
    way = 100e-9 * math.tan(math.radians(1.0))
    assert math.isclose(before - client.one("ZCtrl.ZPosGet"), way, rel_tol=0.02)
    client("Piezo.XYZLimitsSet", True, -10.0, 10.0, -10.0, 10.0, -150.0, 150.0)
    with pytest.raises(DriverError, match="beyond the limits"):
        client("FolMe.XYPosSet", 200e-9, 0.0, True)


@proves("Piezo.DriftCompSet", "Piezo.DriftCompGet")
def test_drift_compensation_moves_the_sample_under_the_tip(flat: Served) -> None:
    """At 1 nm/s the place under the tip moves by 2 nm in 2 s; a small share of the range is used up."""
    client = flat.client()
    client("Piezo.DriftCompSet", True, 1e-9, 0.0, 0.0, 1e-1)
    before = flat.world.lateral(flat.world.clock.now())
    settle(client, 2.0)
    after = flat.world.lateral(flat.world.clock.now())
    assert math.isclose(abs(after[0] - before[0]), 2e-9, rel_tol=1e-3)
    told = client("Piezo.DriftCompGet")
    assert told["on_off"]
    assert (told["x_saturated_status"], told["y_saturated_status"]) == (1, 0)


@proves("Piezo.HystFileSave", "Piezo.HystFileLoad", "Piezo.HVAStatusLEDGet")
def test_hysteresis_tables_go_to_a_file_and_back(flat: Served) -> None:
    """What was saved comes back when it is loaded; a file that is not there is refused."""
    client = flat.client()
    client("Piezo.HystValsSet", [1.0], [2.0], [3.0], [4.0, 5.0])
    path = str(flat.session / "tables.json")
    client("Piezo.HystFileSave", path)
    client("Piezo.HystValsSet", [], [], [], [])
    client("Piezo.HystFileLoad", path)
    assert list(client("Piezo.HystValsGet")["slow_axis_y_hysteresis_points"]) == [4.0, 5.0]
    with pytest.raises(DriverError, match="Not a valid path"):
        client("Piezo.HystFileLoad", "/nowhere/at.all")
    assert client("Piezo.HVAStatusLEDGet")["hv_supply_status"] == 1


@proves(
    "Motor.StartMove",
    "Motor.StepCounterGet",
    "Motor.PosGet",
    "Motor.FreqAmpSet",
    "Motor.StartClosedLoop",
    "Motor.StopMove",
)
def test_the_motor_steps(flat: Served) -> None:
    """Steps are counted, proportional to the amplitude, as fast as the frequency, and lead the tip away; the
    closed loop comes back to the place it is told."""
    client = flat.client()
    client("Motor.FreqAmpSet", 100.0, 50.0, 0)
    begin = flat.world.clock.now()
    client("Motor.StartMove", "z+", 20, 0, True)
    assert math.isclose(flat.world.clock.now() - begin, 0.2, rel_tol=1e-6)
    step = flat.world.controls.coarse_step_m[2] * 0.5
    assert math.isclose(client("Motor.PosGet", 0, 500)["z_m"], 20 * step, rel_tol=1e-6)
    assert client("Motor.StepCounterGet", 0, 0, 1)["step_counter_z"] == 20
    assert client("Motor.StepCounterGet", 0, 0, 0)["step_counter_z"] == 0
    client("Motor.StartClosedLoop", 1, 0.0, 0.0, 5 * step, True, 0)
    assert math.isclose(client("Motor.PosGet", 0, 500)["z_m"], 5 * step, rel_tol=1e-6)
    client("Motor.StopMove")


@proves("AutoApproach.Open", "AutoApproach.OnOffSet", "AutoApproach.OnOffGet")
def test_auto_approach_finds_a_surface_out_of_reach(flat: Served) -> None:
    """From 1 um beyond the piezo's reach, the approach ends with the controller holding the setpoint."""
    client = flat.client()
    client("Bias.Set", 1.0)
    client("Motor.StartMove", "z+", 20, 0, True)
    with pytest.raises(DriverError, match="make sure it is running"):
        client("AutoApproach.OnOffSet", True)
    client("AutoApproach.Open")
    client("AutoApproach.OnOffSet", True)
    until(lambda: not client.one("AutoApproach.OnOffGet"), "the end of the approach")
    assert client.one("ZCtrl.OnOffGet")
    settle(client, 0.5)
    assert math.isclose(client.one("Current.Get"), 100e-12, rel_tol=0.05)
    assert client("Motor.StepCounterGet", 0, 0, 0)["step_counter_z"] <= 20


@proves("TipShaper.Start", "TipShaper.PropsSet")
def test_the_tip_shaper_touches_and_changes_the_tip(flat: Served) -> None:
    """1 nm into the surface changes the tip and is in the truth log; the controller is on again after it; far
    too deep is a crash."""
    client = flat.engaged(1.0)
    client("TipShaper.PropsSet", 0.01, True, 0.1, -1.5e-9, 0.01, 0.1, 0.01, 3e-9, 0.01, 0.01, True)
    client("TipShaper.Start", True, -1)
    assert flat.world.junction.tip.changes == 1
    (entry,) = flat.events("indentation")
    assert 0.0 < entry.detail["depth_m"] < 1.5e-9
    assert not entry.detail["broken"]
    assert client.one("ZCtrl.OnOffGet")
    assert client.one("Bias.Get") == 1.0
    client("TipShaper.PropsSet", 0.01, True, 0.1, -9e-9, 0.01, 0.1, 0.01, 3e-9, 0.01, 0.01, True)
    client("TipShaper.Start", True, -1)
    assert flat.world.state().crashed


# -- scan ----------------------------------------------------------------------------------------------------


@proves(
    "Scan.Action",
    "Scan.StatusGet",
    "Scan.WaitEndOfScan",
    "Scan.FrameDataGrab",
    "Scan.BufferSet",
    "Scan.FrameSet",
)
def test_a_frame_live_and_in_its_file(door: Served) -> None:
    """Row 0 of live data is the top edge; the file, read back, holds the same numbers; X and Y are the places
    of the pixels; the scan's end is told with the file's path, also to who asks late."""
    client = door.engaged()
    small_scan(client)
    path = scanned(client)
    assert not client.one("Scan.StatusGet")
    assert client("Scan.WaitEndOfScan", -1) == {"timed_out": False, "file_path": path}
    live = {i: client("Scan.FrameDataGrab", i, "forward") for i in (30, 28, 29)}
    assert live[30]["direction"] == "up"
    assert live[30]["data"].shape == (8, 32)
    assert np.all(np.diff(live[28]["data"][0]) > 0.0)
    assert np.all(np.diff(live[29]["data"][:, 0]) < 0.0)
    stored = read_sxm(path)
    assert stored.upward
    z = stored.channel("Z")
    assert z.forward is not None
    assert np.array_equal(z.forward[::-1].astype(np.float32), live[30]["data"])
    assert math.isclose(stored.bias_v, -1.5, rel_tol=1e-3)
    with pytest.raises(DriverError, match="not in the scan buffer"):
        client("Scan.FrameDataGrab", 86, "forward")


@proves("Scan.BufferGet", "Scan.FrameGet", "Scan.SpeedSet", "Scan.SpeedGet")
def test_pixels_are_coerced_and_speeds_follow(door: Served) -> None:
    """Pixels become a multiple of 16; with a kept time per line the speed follows the frame's width; a ratio
    gives the backward time; a frame beyond the range shrinks into it."""
    client = door.client()
    client("Scan.BufferSet", [], 50, 0)
    assert client("Scan.BufferGet")["pixels"] == 48
    client("Scan.SpeedSet", 0.0, 0.0, 0.5, 0.0, "time per line", 2.0)
    client("Scan.FrameSet", 0.0, 0.0, 10e-9, 10e-9, 15.0)
    told = client("Scan.SpeedGet")
    assert math.isclose(told["forward_linear_speed_m_s"], 20e-9, rel_tol=1e-6)
    assert math.isclose(told["backward_time_per_line_s"], 0.25, rel_tol=1e-6)
    client("Scan.SpeedSet", 40e-9, 0.0, 0.0, 0.0, "linear speed", 1.0)
    assert math.isclose(client("Scan.SpeedGet")["forward_time_per_line_s"], 0.25, rel_tol=1e-6)
    client("Scan.FrameSet", 0.0, 0.0, 1.0, 1e-9, 0.0)
    assert math.isclose(client("Scan.FrameGet")["width_m"], 1e-6, rel_tol=1e-6)


@proves("Scan.PropsSet", "Scan.PropsGet", "Scan.Save", "Scan.BackgroundPaste", "Scan.BackgroundDelete")
def test_properties_rule_what_is_saved(door: Served) -> None:
    """Without autosave there is no file and no path; "next" saves one frame and is off then; Save writes the
    frame at any time, under the series name and with the comment; the background can be deleted once."""
    client = door.engaged()
    small_scan(client, lines=2)
    client("Scan.PropsSet", False, False, "off", "series", "what for", ("Bias",), "off")
    assert scanned(client) == ""
    assert not list(door.session.glob("*.sxm"))
    client("Scan.PropsSet", None, None, "next", "", "what for", (), None)
    assert scanned(client).endswith("series0001.sxm")
    told = client("Scan.PropsGet")
    assert (told["autosave"], told["series_name"], told["modules"]) == ("off", "series", ("Bias",))
    client("Scan.Save", 1, 1000)
    stored = read_sxm(door.session / "series0002.sxm")
    assert stored.comment.strip() == "what for"
    assert {key.partition(">")[0] for key in stored.settings} == {"Bias", "Scan"}
    client("Scan.BackgroundPaste", 1, 1000)
    client("Scan.BackgroundDelete", 1, 1000, 1)
    with pytest.raises(DriverError, match="empty"):
        client("Scan.BackgroundDelete", 1, 1000, 1)


@proves("Scan.WaitEndOfLine")
def test_pause_stop_and_partial_frames(door: Served) -> None:
    """A paused scan takes no line until it is resumed; a stopped one is saved as far as it came, with NaN for
    the rest; going down fills from the top."""
    client = door.engaged()
    small_scan(client, lines=400)
    client("Scan.Action", "start", "down")
    client("Scan.WaitEndOfLine", 5000)
    client("Scan.Action", "pause", "down")
    client("Scan.WaitEndOfLine", 300)
    waited = client("Scan.WaitEndOfLine", 300)
    assert waited["timed_out"]
    assert client.one("Scan.StatusGet")
    data = client("Scan.FrameDataGrab", 30, "forward")["data"]
    assert np.all(np.isfinite(data[0]))
    assert np.all(np.isnan(data[-1]))
    client("Scan.Action", "resume", "down")
    assert not client("Scan.WaitEndOfLine", 5000)["timed_out"]
    client("Scan.Action", "stop", "down")
    assert not client.one("Scan.StatusGet")
    stored = read_sxm(client("Scan.WaitEndOfScan", -1)["file_path"]).channel("Z").forward
    assert stored is not None
    assert np.isnan(stored[0]).all()
    assert np.isfinite(stored[-1]).all()
    client("Scan.Action", "centre", "up")
    settle(client, 1.0)
    assert client("FolMe.XYPosGet", False) == {"x_m": 0.0, "y_m": 0.0}


def test_continuous_and_bouncy(door: Served) -> None:
    """A continuous scan goes on by itself, up and down in turn when it bounces, until it is stopped."""
    client = door.engaged()
    small_scan(client, lines=2)
    client("Scan.PropsSet", True, True, "all", "turns", "", (), "off")
    client("Scan.Action", "start", "up")
    until(lambda: len(list(door.session.glob("turns*.sxm"))) >= 3, "three frames")
    client("Scan.Action", "stop", "up")
    assert not client.one("Scan.StatusGet")
    first, second = (read_sxm(door.session / f"turns{n:04d}.sxm").upward for n in (1, 2))
    assert (first, second) == (True, False)


def test_settings_changed_within_a_scan_take_effect(door: Served) -> None:
    """A bias that is set within a scan holds from the next lines on; controller and setpoint can be changed
    too, and the scan goes on."""
    client = door.engaged()
    small_scan(client, lines=2000)
    client("Scan.Action", "start", "up")
    client("Scan.WaitEndOfLine", 5000)
    client("Bias.Set", -1.0)
    client("Scan.WaitEndOfLine", 5000)
    until(lambda: math.isclose(client.one("Bias.Get"), -1.0, rel_tol=1e-6), "the new bias")
    client("ZCtrl.OnOffSet", False)
    until(lambda: not client.one("ZCtrl.OnOffGet"), "the controller off")
    assert client.one("Scan.StatusGet")
    client("Scan.Action", "stop", "up")


# -- spectroscopy --------------------------------------------------------------------------------------------


@proves(
    "BiasSpectr.Open", "BiasSpectr.Start", "BiasSpectr.StatusGet", "BiasSpectr.LimitsSet", "BiasSpectr.ChsSet"
)
def test_a_spectrum_of_a_metal_is_a_line(flat: Served) -> None:
    """Over a constant density of states the current is linear in the bias, through the setpoint (2 %); rows
    are channels, the bias first, backward rows after; the controller is on again."""
    client = flat.engaged(1.0, 100e-12)
    spectroscopy(client)
    client("BiasSpectr.ChsSet", [0, 30])
    answer = client("BiasSpectr.Start", True, None)
    assert answer["channels"] == ("Bias calc (V)", "Current (A)", "Z (m)", "Current [bwd] (A)", "Z [bwd] (m)")
    bias, current = answer["data"][:2].astype(float)
    assert np.allclose(bias, np.linspace(-1.0, 1.0, 41), rtol=1e-6, atol=1e-9)
    assert np.allclose(current, 100e-12 * bias, rtol=0.02, atol=1e-13)
    assert np.allclose(answer["data"][3], current, rtol=1e-3, atol=1e-13)
    assert client.one("ZCtrl.OnOffGet")
    assert client.one("Bias.Get") == 1.0
    assert not client.one("BiasSpectr.StatusGet")


def test_a_module_must_be_opened_first(flat: Served) -> None:
    """Until its window is open, every command of the module answers with the error that says so."""
    client = flat.client()
    with pytest.raises(DriverError, match="Cannot access the Bias Spectroscopy module"):
        client("BiasSpectr.PropsGet")
    body = client.raw("BiasSpectr.LimitsGet")
    assert body[:8] == bytes(8)
    assert body[8:12] == struct.pack(">I", 1)


@proves(
    "BiasSpectr.PropsSet",
    "LockIn.ModAmpSet",
    "LockIn.ModOnOffSet",
    "LockIn.DemodPhasSet",
    "BiasSpectr.AdvPropsSet",
)
def test_the_lock_in_shows_the_conductance(flat: Served) -> None:
    """X is amplitude times dI/dV (2 %); turned by 90 degrees it is in Y; several sweeps come as their average
    and, if wanted, one by one; switched on for the sweep only, the modulation is off again."""
    client = flat.engaged(1.0, 100e-12)
    spectroscopy(client, sweeps=2, backward=False)
    client("BiasSpectr.PropsSet", True, None, None, None, None, None, None)
    client("BiasSpectr.ChsSet", [86, 87])
    client("LockIn.ModAmpSet", 1, 0.01)
    client("LockIn.DemodLPFilterSet", 1, 1, 2000.0)
    client("BiasSpectr.AdvPropsSet", None, None, None, True)
    answer = client("BiasSpectr.Start", True, None)
    rows = dict(zip(answer["channels"], answer["data"].astype(float), strict=True))
    single = "LI Demod 1 X [00002] (A)"
    assert {"LI Demod 1 X [AVG] (A)", single} < set(rows)
    assert np.allclose(rows[single], 0.01 * 100e-12, rtol=0.02, atol=0)
    assert np.all(np.abs(rows["LI Demod 1 Y [AVG] (A)"]) < 0.02 * 1e-12)
    assert flat.world.situation.lockin is None
    client("LockIn.ModOnOffSet", 1, True)
    client("LockIn.DemodPhasSet", 1, -90.0)
    x, y = client.one("Signals.ValsGet", [86, 87], 0)
    assert math.isclose(y, 0.01 * 100e-12, rel_tol=0.02)
    assert abs(x) < 0.02 * 1e-12
    client("LockIn.DemodRTSignalsSet", 1, "r/phi")
    r, phi = client.one("Signals.ValsGet", [86, 87], 0)
    assert math.isclose(r, 0.01 * 100e-12, rel_tol=0.02)
    assert math.isclose(phi, 90.0, rel_tol=0.01)


@proves(
    "BiasSpectr.MLSValsSet",
    "BiasSpectr.MLSValsGet",
    "BiasSpectr.MLSLockinPerSegSet",
    "BiasSpectr.MLSLockinPerSegGet",
)
def test_segments_follow_one_another(flat: Served) -> None:
    """Segments need the mode; then the biases are those of the segments, the current is that of a line."""
    client = flat.engaged(1.0, 100e-12)
    spectroscopy(client, backward=False)
    segments = ([-1.0, 0.2], [-0.2, 1.0], [0.0, 0.0], [0.0, 0.0], [2e-3, 2e-3], [5, 9], [0, 0])
    with pytest.raises(DriverError, match="not in multi segment mode"):
        client("BiasSpectr.MLSValsSet", *segments)
    client("BiasSpectr.MLSModeSet", "MLS")
    client("BiasSpectr.MLSLockinPerSegSet", True)
    assert client.one("BiasSpectr.MLSLockinPerSegGet")
    client("BiasSpectr.MLSValsSet", *segments)
    assert list(client("BiasSpectr.MLSValsGet")["steps"]) == [5, 9]
    bias, current = client("BiasSpectr.Start", True, None)["data"].astype(float)
    wanted = np.concatenate([np.linspace(-1.0, -0.2, 5), np.linspace(0.2, 1.0, 9)])
    assert np.allclose(bias, wanted, rtol=1e-6, atol=0)
    assert np.allclose(current, 100e-12 * wanted, rtol=0.02, atol=0)
    assert client.one("ZCtrl.OnOffGet")


@proves("BiasSpectr.AltZCtrlSet", "BiasSpectr.TimingSet")
def test_another_setpoint_and_times_of_a_sweep(flat: Served) -> None:
    """With the alternate setpoint the sweep is stabilised there, and the usual one holds after it; settling
    and integration times make the sweep longer."""
    client = flat.engaged(1.0, 100e-12)
    spectroscopy(client, points=11, backward=False)
    client("BiasSpectr.AltZCtrlSet", True, 300e-12, 0.1)
    client("BiasSpectr.TimingSet", None, None, None, None, 0.05, 0.05, None, None)
    begin = flat.world.clock.now()
    answer = client("BiasSpectr.Start", True, None)
    assert flat.world.clock.now() - begin >= 11 * 0.1 + 0.1
    assert math.isclose(answer["data"][1][-1], 300e-12, rel_tol=0.02)
    assert math.isclose(client.one("ZCtrl.SetpntGet"), 100e-12, rel_tol=1e-6)


def test_a_sweep_with_the_controller_off_or_not_held(flat: Served) -> None:
    """With the controller off the sweep is taken where the tip is, and leaves it off; not held, the tip
    follows the bias and the current stays at the setpoint."""
    client = flat.engaged(1.0, 100e-12)
    spectroscopy(client, points=11, backward=False)
    client("BiasSpectr.LimitsSet", 0.5, 1.0)
    client("BiasSpectr.AdvPropsSet", None, False, None, None)
    bias, current = client("BiasSpectr.Start", True, None)["data"]
    assert np.allclose(current[1:], 100e-12, rtol=0.05, atol=0)
    client("BiasSpectr.AdvPropsSet", None, True, None, None)
    client("ZCtrl.OnOffSet", False)
    bias, current = client("BiasSpectr.Start", True, None)["data"].astype(float)
    assert np.allclose(current, 100e-12 * bias, rtol=0.03, atol=0)
    assert not client.one("ZCtrl.OnOffGet")


@proves("BiasSpectr.Stop", "BiasSpectr.ChsGet")
def test_spectra_are_saved_and_named(flat: Served) -> None:
    """With autosave a .dat file with the same columns appears; a base name that stands for a measurement id
    keys the truth log and ends with the sweep."""
    client = flat.engaged(1.0, 100e-12)
    spectroscopy(client, points=11)
    client("BiasSpectr.PropsSet", None, None, None, None, None, True, None)
    name = name_of("run1/d0003/a1")
    answer = client("BiasSpectr.Start", True, name)
    (path,) = flat.session.glob(f"{name}*.dat")
    stored = read_dat(path)
    assert tuple(stored.columns) == answer["channels"]
    assert np.allclose(stored.columns["Current (A)"], answer["data"][1], rtol=1e-6, atol=0)
    (done,) = flat.events("sweep_done")
    assert done.job_id == "run1/d0003/a1"
    assert [entry.detail["outcome"] for entry in flat.events("end_job")] == ["finished"]
    client("BiasSpectr.Stop")


@proves(
    "ZSpectr.Open", "ZSpectr.Start", "ZSpectr.RangeSet", "ZSpectr.ChsSet", "ZSpectr.StatusGet", "ZSpectr.Stop"
)
def test_a_z_spectrum_decays_at_twice_kappa(flat: Served) -> None:
    """The current falls by exp(-2 kappa z) (1 %) over 0.3 nm, and is the setpoint where it begins."""
    client = flat.engaged(1.0, 500e-12)
    client("ZSpectr.Open")
    client("ZSpectr.RangeSet", 0.0, 0.3e-9)
    client("ZSpectr.PropsSet", False, 31, 1, True, False, False)
    answer = client("ZSpectr.Start", True, "distance")
    z, current = answer["data"].astype(float)
    assert answer["channels"] == ("Z rel (m)", "Current (A)")
    slope = np.polyfit(z, np.log(current), 1)[0]
    assert math.isclose(slope, -2.0 * flat.world.junction.kappa, rel_tol=0.01)
    assert math.isclose(current[0], 500e-12, rel_tol=0.03)
    assert client.one("ZCtrl.OnOffGet")
    assert len(list(flat.session.glob("distance*.dat"))) == 1
    assert not client.one("ZSpectr.StatusGet")
    client("ZSpectr.Stop")


@proves("ZSpectr.RetractSet")
def test_a_condition_takes_the_tip_back(flat: Served) -> None:
    """Going toward the sample ends at the threshold of the current: later samples are NaN, no crash."""
    client = flat.engaged(1.0, 100e-12)
    client("ZSpectr.Open")
    client("ZSpectr.RangeSet", 0.0, -0.3e-9)
    client("ZSpectr.PropsSet", False, 61, 1, False, False, False)
    client("ZSpectr.RetractSet", True, 1e-9, 0, ">")
    _, current = client("ZSpectr.Start", True, None)["data"]
    taken = current[np.isfinite(current)]
    assert len(taken) < 61
    assert 1e-9 < taken[-1] < 1.3e-9
    assert not flat.world.state().crashed


@proves(
    "Pattern.GridSet",
    "Pattern.GridGet",
    "Pattern.ExpOpen",
    "Pattern.ExpStart",
    "Pattern.ExpStatusGet",
    "Pattern.PropsSet",
    "Pattern.PropsGet",
)
def test_a_grid_of_spectra(door: Served) -> None:
    """Points are measured x fastest from the lower left; the file, read back, holds them in place."""
    client = door.engaged()
    spectroscopy(client, points=11, backward=False)
    client("Pattern.GridSet", True, 3, 2, False, 1e-9, -1e-9, 6e-9, 4e-9, 0.0)
    assert client("Pattern.GridGet")["number_of_points_in_x"] == 3
    client("Pattern.PropsSet", "Bias Spectroscopy", "cits", "", 0.05, False)
    assert client("Pattern.PropsGet")["selected_experiment"] == "Bias Spectroscopy"
    client("Pattern.ExpOpen")
    client("Pattern.ExpStart", "grid")
    until(lambda: not client.one("Pattern.ExpStatusGet"), "the end of the grid")
    (path,) = door.session.glob("cits*.3ds")
    grid = read_grid(path)
    assert grid.shape == (2, 3)
    assert np.allclose(grid.parameters["X (m)"][0], [-1e-9, 1e-9, 3e-9], rtol=1e-6, atol=0)
    assert np.allclose(grid.parameters["Y (m)"][:, 0], [-2e-9, 0.0], rtol=1e-6, atol=1e-16)
    places = [(entry.detail["x_m"], entry.detail["y_m"]) for entry in door.events("sweep_done")]
    assert np.allclose(places[0], (-1e-9, -2e-9), rtol=1e-6, atol=0)


@proves("Pattern.ExpPause", "Pattern.ExpStop", "Pattern.CloudSet", "Pattern.LineSet", "Pattern.LineGet")
def test_a_pattern_pauses_and_stops(door: Served) -> None:
    """Paused, no further point is measured; stopped, the file ends with the last whole point."""
    client = door.engaged()
    spectroscopy(client, points=11, backward=False)
    client("Pattern.CloudSet", True, [k * 1e-10 for k in range(2000)], [0.0] * 2000)
    client("Pattern.ExpStart", "cloud")
    until(lambda: len(door.events("sweep_done")) >= 2, "two points")
    client("Pattern.ExpPause", "pause")
    with pytest.raises(DriverError, match="runs already"):
        client("Pattern.ExpStart", "cloud")
    client("Pattern.ExpStop")
    assert not client.one("Pattern.ExpStatusGet")
    (path,) = door.session.glob("*.3ds")
    grid = read_grid(path, partial=True)
    assert 1 <= grid.measured < 2000
    client("FolMe.XYPosSet", 0.0, 0.0, True)


@proves("FolMe.PSOnOffSet", "FolMe.PSExpSet", "FolMe.PSPropsSet")
def test_point_and_shoot(flat: Served) -> None:
    """Each move that is waited for ends with the chosen spectrum, saved under the own base name."""
    client = flat.engaged(1.0)
    spectroscopy(client, points=11)
    client("FolMe.PSPropsSet", False, False, "shot", "", 0.0)
    client("FolMe.PSOnOffSet", True)
    client("FolMe.XYPosSet", 1e-9, 0.0, True)
    (path,) = flat.session.glob("shot*.dat")
    assert read_dat(path).x_m == 1e-9


@proves("BiasSwp.Open", "BiasSwp.Start", "BiasSwp.LimitsSet", "BiasSwp.PropsSet", "BiasSwp.LimitsGet")
def test_a_bias_sweep_by_steps(flat: Served) -> None:
    """With the tip held the current is linear in the bias; the bias is reset after it."""
    client = flat.engaged(1.0, 100e-12)
    client("BiasSwp.Open")
    client("BiasSwp.LimitsSet", 0.5, 1.0)
    client("BiasSwp.PropsSet", 6, 10, False, False)
    bias, current = client("BiasSwp.Start", True, 1, True, None, True)["data"].astype(float)
    assert np.allclose(bias, np.linspace(0.5, 1.0, 6), rtol=1e-6, atol=0)
    assert np.allclose(current, 100e-12 * bias, rtol=0.05, atol=0)
    assert client.one("Bias.Get") == 1.0
    assert client.one("ZCtrl.OnOffGet")


@proves(
    "GenSwp.Open",
    "GenSwp.Start",
    "GenSwp.Stop",
    "GenSwp.SwpSignalListGet",
    "GenSwp.PropsSet",
    "GenSwp.LimitsSet",
)
def test_a_sweep_of_any_signal(flat: Served) -> None:
    """Sweeping Z with the controller off shows the decay of the current (2 %); the lock-in's amplitude
    shows a proportional X."""
    client = flat.engaged(1.0, 500e-12)
    client("GenSwp.Open")
    assert "Z (m)" in client.one("GenSwp.SwpSignalListGet")
    client("GenSwp.PropsSet", 0.0, math.nan, 9, 5, False, False, 0.0)
    client("LockIn.ModOnOffSet", 1, True)
    client("GenSwp.SwpSignalSet", "LI Modulator 1 Amplitude (V)")
    client("GenSwp.LimitsSet", 0.01, 0.02)
    client("GenSwp.AcqChsSet", [86], ())
    amplitude, x = client("GenSwp.Start", True, 1, None, True, False)["data"].astype(float)
    assert np.allclose(x / amplitude, 500e-12, rtol=0.03, atol=0)
    client("ZCtrl.OnOffSet", False)
    z = client.one("ZCtrl.ZPosGet")
    client("GenSwp.SwpSignalSet", "Z (m)")
    client("GenSwp.LimitsSet", z, z + 0.2e-9)
    client("GenSwp.AcqChsSet", [0], ())
    z, current = client("GenSwp.Start", True, 1, None, True, False)["data"].astype(float)
    slope = np.polyfit(z, np.log(current), 1)[0]
    assert math.isclose(slope, -2.0 * flat.world.junction.kappa, rel_tol=0.03)
    client("GenSwp.Stop")


@proves("LockInFreqSwp.Open", "LockInFreqSwp.Start", "LockInFreqSwp.LimitsSet", "LockInFreqSwp.PropsSet")
def test_the_preamplifiers_pole_shows_in_a_frequency_sweep(flat: Served) -> None:
    """R falls as a first-order low pass of 1.5 kHz, and the phase turns by 45 degrees there (1 %)."""
    client = flat.engaged(1.0, 500e-12)
    client("LockIn.ModAmpSet", 1, 0.01)
    client("LockIn.ModOnOffSet", 1, True)
    client("LockInFreqSwp.Open")
    client("LockInFreqSwp.LimitsSet", 300.0, 1500.0)
    client("LockInFreqSwp.PropsSet", 4, 2, 1e-3, 2, 1e-3, 0, 0, "")
    frequency, r, phase = client("LockInFreqSwp.Start", 1, 1)["data"].astype(float)
    assert np.allclose(r / r[-1], np.sqrt(2.0 / (1.0 + (frequency / 1500.0) ** 2)), rtol=0.01, atol=0)
    assert math.isclose(phase[-1], -45.0, rel_tol=0.01)


@proves(
    "AtomTrack.CtrlSet",
    "AtomTrack.StatusGet",
    "AtomTrack.QuickCompStart",
    "AtomTrack.DriftComp",
    "AtomTrack.PropsSet",
)
def test_atom_tracking_measures_a_drift(door: Served) -> None:
    """The controller needs the modulation; what the tip moved while it was followed becomes a velocity of the
    drift compensation; the tilt compensation takes the slope under the tip away."""
    client = door.engaged()
    with pytest.raises(DriverError, match="modulation is off"):
        client("AtomTrack.CtrlSet", "controller", True)
    client("AtomTrack.CtrlSet", "modulation", True)
    client("AtomTrack.CtrlSet", "drift", True)
    begin = client("FolMe.XYPosGet", False)
    client("AtomTrack.CtrlSet", "controller", True)
    assert client.one("AtomTrack.StatusGet", "controller")
    started = door.world.clock.now()
    until(lambda: door.world.clock.now() > started + 2.0, "two seconds of tracking")
    client("AtomTrack.CtrlSet", "controller", False)
    assert not client.one("AtomTrack.StatusGet", "controller")
    moved = client("FolMe.XYPosGet", False)["x_m"] - begin["x_m"]
    client("AtomTrack.DriftComp")
    told = client("Piezo.DriftCompGet")
    assert told["on_off"]
    assert math.copysign(1.0, told["vx_m_s"]) == math.copysign(1.0, moved)
    client("AtomTrack.QuickCompStart", 0)
    assert any(client("Piezo.TiltGet").values())


# -- signals, outputs, loggers -------------------------------------------------------------------------------


@proves(
    "Signals.NamesGet",
    "Signals.MeasNamesGet",
    "Signals.ValsGet",
    "Signals.CalibrGet",
    "Signals.AddRTSet",
    "Signals.AddRTGet",
)
def test_signals_have_names_and_values(flat: Served) -> None:
    """128 names with units, at the usual places; values of one reading; the added ones are told by name."""
    client = flat.engaged(1.0, 100e-12)
    names = client.one("Signals.NamesGet")
    assert len(names) == 128
    places = {"Current (A)": 0, "Bias (V)": 24, "Z (m)": 30, "LI Demod 1 X (A)": 86, "LI Demod 1 Y (A)": 87}
    assert all(names[index] == name for name, index in places.items())
    assert set(client.one("Signals.MeasNamesGet")) > set(names)
    current, bias, z = client.one("Signals.ValsGet", [0, 24, 30], 0)
    assert (math.isclose(current, 100e-12, rel_tol=0.03), bias, z) == (True, 1.0, client.one("ZCtrl.ZPosGet"))
    assert math.isclose(client("Signals.CalibrGet", 0)["calibration_per_volt"], 1e-9, rel_tol=1e-6)
    client("Signals.AddRTSet", 24, 30)
    assert client("Signals.AddRTGet")["additional_rt_signal_2"] == "Z (m)"


@proves(
    "UserOut.ValSet",
    "UserOut.ModeSet",
    "UserOut.MonitorChSet",
    "UserOut.CalcSignalConfigSet",
    "UserOut.LimitsSet",
    "UserOut.LimitsGet",
    "UserOut.CalibrSet",
    "UserIn.CalibrSet",
)
def test_user_outputs_show_in_the_signals(flat: Served) -> None:
    """An output puts out its value, the monitored signal, or the calculated one, within its limits, raw ones
    too; an input's calibration is that of its signal."""
    client = flat.client()
    client("Bias.Set", 0.75)
    client("UserOut.ValSet", 2, 2.5)
    assert client.one("Signals.ValGet", 25, 0) == 2.5
    client("UserOut.ModeSet", 2, 1)
    client("UserOut.MonitorChSet", 2, 24)
    assert client.one("Signals.ValGet", 25, 0) == 0.75
    client("UserOut.ModeSet", 2, 2)
    client("UserOut.CalcSignalConfigSet", 2, 24, 1, 24)
    assert client.one("Signals.ValGet", 25, 0) == 1.5
    client("UserOut.CalibrSet", 2, 0.5, 0.0)
    client("UserOut.LimitsSet", 2, 2.0, -2.0, 1)
    assert client("UserOut.LimitsGet", 2, 0) == {"upper_limit": 1.0, "lower_limit": -1.0}
    assert client("UserOut.LimitsGet", 2, 1) == {"upper_limit": 2.0, "lower_limit": -2.0}
    assert client.one("Signals.ValGet", 25, 0) == 1.0
    client("UserIn.CalibrSet", 5, 3.0, 0.5)
    assert client("Signals.CalibrGet", 4) == {"calibration_per_volt": 3.0, "offset_in_physical_units": 0.5}


@proves("DigLines.PropsSet", "DigLines.OutStatusSet", "DigLines.TTLValGet", "DigLines.Pulse")
def test_digital_lines(flat: Served) -> None:
    """An active line is high, or low where its polarity is so; after pulses it is inactive."""
    client = flat.client()
    client("DigLines.OutStatusSet", 1, 3, 1)
    assert list(client.one("DigLines.TTLValGet", 1)) == [0, 0, 1, 0, 0, 0, 0, 0]
    client("DigLines.PropsSet", 3, 1, 1, 0)
    assert list(client.one("DigLines.TTLValGet", 1)) == [0, 0, 0, 0, 0, 0, 0, 0]
    client("DigLines.PropsSet", 3, 1, 1, 1)
    client("DigLines.Pulse", 1, [3], 0.001, 0.001, 2, 1)
    assert not any(client.one("DigLines.TTLValGet", 1))


@proves(
    "GenPICtrl.AOValSet",
    "GenPICtrl.AOValGet",
    "GenPICtrl.OnOffSet",
    "PICtrl.OnOffSet",
    "PICtrl.PropsSet",
    "PICtrl.CtrlChSet",
)
def test_regulators_drive_their_outputs(flat: Served) -> None:
    """Off, the output is what it is set to; on, it integrates the error over time, up to its limit."""
    client = flat.client()
    client("Bias.Set", 0.5)
    client("GenPICtrl.AOValSet", 1.25)
    assert client.one("GenPICtrl.AOValGet") == 1.25
    client("PICtrl.InputChSet", 1, 24)
    client("PICtrl.CtrlChSet", 1, 26)
    client("PICtrl.PropsSet", 1, 1.5, 0.0, 0.5, "positive")
    client("PICtrl.OnOffSet", 1, 1)
    client.one("Signals.ValGet", 26, 0)
    settle(client, 2.0)
    assert math.isclose(client.one("Signals.ValGet", 26, 0), 1.0, rel_tol=1e-3)
    client("PICtrl.CtrlChPropsSet", 1, -0.5, 0.5)
    assert client.one("Signals.ValGet", 26, 0) == 0.5


@proves(
    "FunGen1Ch.Start",
    "FunGen1Ch.StatusGet",
    "FunGen1Ch.Stop",
    "FunGen2Ch.Start",
    "FunGen2Ch.StatusGet",
    "FunGen2Ch.Stop",
)
def test_function_generators_count_periods(flat: Served) -> None:
    """Five periods of 0.1 s are over after 0.5 s; meanwhile the output swings; -1 runs until stopped."""
    client = flat.client()
    client("FunGen1Ch.Start", 5, 0)
    settle(client, 0.225)
    assert client("FunGen1Ch.StatusGet") == {"status": 1, "periods_left": 3}
    assert abs(client.one("Signals.ValGet", 25, 0)) > 5.0
    settle(client, 0.3)
    assert client("FunGen1Ch.StatusGet") == {"status": 0, "periods_left": 0}
    client("FunGen2Ch.Start", -1, 0)
    assert client("FunGen2Ch.StatusGet") == {"status": 1, "periods_left": -1}
    client("FunGen2Ch.Stop")
    client("FunGen1Ch.Stop")
    assert client("FunGen2Ch.StatusGet")["status"] == 0


@proves(
    "Osci1T.DataGet",
    "Osci2T.DataGet",
    "OsciHR.OsciDataGet",
    "OsciHR.PSDDataGet",
    "OsciHR.PSDShow",
    "SignalChart.Open",
)
def test_oscilloscopes_sample_the_signals(flat: Served) -> None:
    """Each shows the channel that was chosen, over the timebase that was chosen, in volts or in its unit."""
    client = flat.client()
    client("Bias.Set", 0.5)
    client("Osci1T.ChSet", 24)
    client("Osci1T.TimebaseSet", 3)
    trace = client("Osci1T.DataGet", 0)
    assert math.isclose(trace["dt_s"] * len(trace["y"]), 0.1, rel_tol=1e-9)
    assert np.allclose(trace["y"], 0.5, rtol=1e-3, atol=0)
    client("Osci2T.ChsSet", 24, 30)
    both = client("Osci2T.DataGet", 0)
    assert np.allclose(both["data_b"].mean(), client.one("ZCtrl.ZPosGet"), rtol=1e-3, atol=0)
    client("OsciHR.ChSet", 0, 30)
    client("OsciHR.SamplesSet", 100)
    client("OsciHR.CalibrModeSet", 0, 1)
    y = client("OsciHR.OsciDataGet", 0, 0, 1.0)["y"]
    assert len(y) == 100
    client("OsciHR.CalibrModeSet", 0, 0)
    raw = client("OsciHR.OsciDataGet", 0, 0, 1.0)["y"]
    per_volt = client("Signals.CalibrGet", 30)["calibration_per_volt"]
    assert math.isclose(float(raw.mean()) * per_volt, float(y.mean()), rel_tol=1e-3)
    with pytest.raises(DriverError, match="not shown"):
        client("OsciHR.PSDDataGet", 0, 1.0)
    client("OsciHR.PSDShow", 1)
    assert len(client("OsciHR.PSDDataGet", 0, 1.0)["y"]) == 51
    client("SignalChart.Open")


@proves(
    "SpectrumAnlzr.DataGet",
    "SpectrumAnlzr.BandRMSGet",
    "SpectrumAnlzr.DCGet",
    "SpectrumAnlzr.CursorPosSet",
    "SpectrumAnlzr.CursorPosGet",
    "SpectrumAnlzr.FreqResSet",
    "SpectrumAnlzr.FreqRangeSet",
)
def test_the_spectrum_analyser_shows_the_mains(door: Served) -> None:
    """In the spectrum of the current the mains' 50 Hz stand above their neighbours; the rms of the band is
    that of its density; the resolution follows the range."""
    client = door.engaged(1.0, 1e-12)
    client("ZCtrl.Withdraw", True, -1)
    client("SpectrumAnlzr.ChSet", 1, 0)
    client("SpectrumAnlzr.FreqRangeSet", 1, 1)
    client("SpectrumAnlzr.FreqResSet", 1, 2)
    client("SpectrumAnlzr.AveragSet", 1, 1, 0, 20)
    found = client("SpectrumAnlzr.DataGet", 1)
    assert math.isclose(found["df_hz"], 100.0 / 512, rel_tol=1e-6)
    place = round(50.0 / found["df_hz"])
    assert found["y"][place] > 3.0 * np.median(found["y"][place + 5 : place + 50])
    client("SpectrumAnlzr.CursorPosSet", 1, 0, 10.0, 40.0)
    band = client("SpectrumAnlzr.BandRMSGet", 1)
    assert (band["minimum_frequency_hz"], band["maximum_frequency_hz"]) == (10.0, 40.0)
    inside = found["y"][round(10.0 / found["df_hz"]) : round(40.0 / found["df_hz"])]
    assert math.isclose(band["band_rms"], float(np.sqrt(np.sum(inside**2) * found["df_hz"])), rel_tol=0.2)
    assert client("SpectrumAnlzr.CursorPosGet", 1, 0)["position_x_cursor_2_hz"] == 40.0
    assert abs(client.one("SpectrumAnlzr.DCGet", 1)) < 1e-12


@proves(
    "DataLog.Open",
    "DataLog.Start",
    "DataLog.Stop",
    "DataLog.StatusGet",
    "DataLog.ChsSet",
    "DataLog.PropsSet",
    "DataLog.PropsGet",
)
def test_the_data_logger_writes_a_file(flat: Served) -> None:
    """It counts points while it runs, and its file holds them."""
    client = flat.client()
    client("Bias.Set", 0.5)
    client("DataLog.Open")
    client("DataLog.ChsSet", [24])
    client("DataLog.PropsSet", 2, 0, 1, 0.0, 1, "log", "why", ())
    assert client("DataLog.PropsGet")["acquisition_mode"] == 1
    client("DataLog.Start")
    client("DataLog.ChsSet", [24, 30])  # for the next one
    until(lambda: client("DataLog.StatusGet")["points_counter"] >= 3, "three points")
    client("DataLog.Stop")
    told = client("DataLog.StatusGet")
    stored = read_dat(told["file_path"])
    assert len(stored.columns["Bias (V)"]) == told["points_counter"]
    assert list(stored.columns) == ["Time (s)", "Bias (V)"]
    assert np.allclose(stored.columns["Bias (V)"], 0.5, rtol=1e-6, atol=0)
    assert np.all(np.diff(stored.columns["Time (s)"]) > 0.0)
    client("DataLog.Start")
    client("DataLog.Stop")
    again = client("DataLog.StatusGet")
    assert len(read_dat(again["file_path"]).columns) == 3
    assert 1 <= again["points_counter"] < 100


def test_who_waits_in_vain_leaves_nothing_behind(flat: Served) -> None:
    """Waits for something that does not come end with their time, and nobody is told of changes any more."""
    lab = flat.door.instrument
    call = Call(lab, "Scan.WaitEndOfScan", PatientWaiter())
    for _ in range(20):
        assert not call.until(lambda: False, 1)
    with lab.changes() as changed:
        assert not changed.is_set()
        lab.world_changed()
        assert changed.is_set()
    changed.clear()
    lab.world_changed()
    assert not changed.is_set()
    assert not lab.waiting_for_changes


@proves("TCPLog.Start", "TCPLog.Stop", "TCPLog.ChsSet", "TCPLog.OversamplSet", "TCPLog.StatusGet")
def test_the_tcp_logger_streams(flat: Served) -> None:
    """Frames on its own port hold the chosen channels, counted from 0; nothing is sent before the start."""
    client = flat.client()
    client("Bias.Set", 0.5)
    client("TCPLog.ChsSet", [24, 30])
    client("TCPLog.OversamplSet", 2)
    assert client.one("TCPLog.StatusGet") == 1
    with socket.create_connection(("127.0.0.1", flat.door.log_port), timeout=10.0) as stream:
        client("TCPLog.Start")
        assert client.one("TCPLog.StatusGet") == 2
        data = b""
        while len(data) < 2 * 26:
            data += stream.recv(4096)
    client("TCPLog.Stop")
    assert client.one("TCPLog.StatusGet") == 1
    channels, oversampling, counter, state = struct.unpack_from(">IfQH", data)
    assert (channels, oversampling, counter, state) == (2, 2.0, 0, 2)
    bias, z = struct.unpack_from(">ff", data, 18)
    assert (bias, math.isclose(z, 250e-9, rel_tol=1e-6)) == (0.5, True)
    assert struct.unpack_from(">IfQH", data, 26)[2] == 1


@proves(
    "Marks.PointDraw",
    "Marks.PointsDraw",
    "Marks.PointsGet",
    "Marks.PointsErase",
    "Marks.PointsVisibleSet",
    "Marks.LineDraw",
    "Marks.LinesDraw",
    "Marks.LinesGet",
    "Marks.LinesErase",
    "Marks.LinesVisibleSet",
)
def test_marks_are_drawn_hidden_and_erased(flat: Served) -> None:
    """Points and lines are told as they were drawn, with texts and colours; erased ones are gone."""
    client = flat.client()
    client("Marks.PointDraw", 1e-9, 2e-9, "here", 255)
    client("Marks.PointsDraw", [3e-9, 5e-9], [4e-9, 6e-9], ("a", "b"), [1, 2])
    client("Marks.PointsVisibleSet", 1, False)
    points = client("Marks.PointsGet")
    assert points["text"] == ("here", "a", "b")
    assert list(points["visible"]) == [1, 0, 1]
    client("Marks.PointsErase", 0)
    assert client("Marks.PointsGet")["text"] == ("a", "b")
    client("Marks.PointsErase", -1)
    assert client("Marks.PointsGet")["text"] == ()
    client("Marks.LineDraw", 0.0, 0.0, 1e-9, 1e-9, 7)
    client("Marks.LinesDraw", [0.0], [0.0], [2e-9], [2e-9], [8])
    client("Marks.LinesVisibleSet", 0, False)
    lines = client("Marks.LinesGet")
    assert (list(lines["colour"]), list(lines["visible"])) == ([7, 8], [0, 1])
    client("Marks.LinesErase", 0)
    assert list(client("Marks.LinesGet")["colour"]) == [8]


@proves(
    "Util.SessionPathSet",
    "Util.SessionPathGet",
    "Util.SettingsSave",
    "Util.SettingsLoad",
    "Util.LayoutSave",
    "Util.LayoutLoad",
    "Util.VersionGet",
)
def test_session_settings_and_layout(flat: Served) -> None:
    """Files go to the session's folder; settings that were saved come back when they are loaded, down to the
    world; a layout opens the windows that were open."""
    client = flat.client()
    other = flat.session.parent / "other"
    client("Util.SessionPathSet", str(other), 0)
    assert client.one("Util.SessionPathGet") == str(other)
    client("LockIn.ModAmpSet", 1, 0.01)
    client("LockIn.ModOnOffSet", 1, True)
    client("Util.SettingsSave", "", 1)
    client("LockIn.ModOnOffSet", 1, False)
    assert flat.world.situation.lockin is None
    client("Util.SettingsLoad", "", 1)
    assert client.one("LockIn.ModOnOffGet", 1)
    assert flat.world.situation.lockin is not None
    client("BiasSpectr.Open")
    client("Util.LayoutSave", str(other / "windows"), 0)
    assert (other / "windows").exists()
    client("Util.LayoutLoad", str(other / "windows"), 0)
    assert client("Util.VersionGet")["host_release"] == 14718


def test_unsimulated_and_unknown_commands_answer(flat: Served) -> None:
    """Modules that the microscope lacks say so after zeros; unknown names and removed commands get the error
    alone; nobody is left waiting."""
    client = flat.client()
    body = client.raw("PLL.CenterFreqGet", struct.pack(">i", 1))
    assert body[:8] == bytes(8)
    assert b"pll.centerfreqget: Module not available" in body
    for name in ("Signals.InSlotsGet", "Nothing.AtAll"):
        body = client.raw(name)
        assert struct.unpack_from(">Ii", body) == (1, len(body) - 8)
        assert name.lower().encode() in body
    with pytest.raises(DriverError, match="not by a client"):
        client("Util.Quit", 0, "", "", 0)
