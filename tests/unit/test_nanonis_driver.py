"""The Nanonis driver against scripted electronics: what it says, what it makes of the answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.gateway.drivers import open_driver
from actors.gateway.drivers.nanonis.driver import NanonisDriver, measurement_name
from protocols.errors import ConfigError, DriverError
from protocols.instrument.driver import FastTrip, LentSettings, SharedPanel
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from tests.unit.scripted_nanonis import PRODUCT, ScriptedNanonis, scripted

SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=1e-10,
    settle_s=0.05,
    z_offset_m=-50e-12,
    start_v=-0.5,
    stop_v=0.5,
    points=11,
    dwell_s=0.01,
    lockin=LockIn(amplitude_v=0.005, frequency_hz=900.0, time_constant_s=0.001),
)
FRAME = Frame(
    centre_x_m=5e-9,
    centre_y_m=-3e-9,
    width_m=20e-9,
    height_m=10e-9,
    angle_rad=0.25,
    pixels=16,
    lines=8,
    bias_v=0.5,
    setpoint_a=1e-10,
    line_time_s=0.05,
)
JOB = "demo-20260101-120000/d0012/a1"
TRIP_A = 5e-9

Connect = Callable[..., NanonisDriver]


@pytest.fixture
def electronics() -> Iterator[ScriptedNanonis]:
    """Scripted electronics whose seconds pass in a millisecond."""
    with scripted() as found:
        yield found


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Opens drivers and closes them at the end."""
    opened: list[NanonisDriver] = []

    def open_one(electronics: ScriptedNanonis, role: str = "worker", options: str = "") -> NanonisDriver:
        driver = open_driver("nanonis", tmp_path, electronics.address + options, role)
        assert isinstance(driver, NanonisDriver)
        opened.append(driver)
        return driver

    yield open_one
    for driver in opened:
        driver.close()


def engaged(driver: NanonisDriver, bias_v: float = 0.5) -> NanonisDriver:
    """The driver with its tip tunneling."""
    driver.set_bias(bias_v, 50.0)
    driver.set_setpoint(1e-10)
    driver.arm_trip(TRIP_A)
    driver.set_feedback(True)
    driver.begin_job(JOB, "sweep")
    return driver


# Who answers


def test_what_the_electronics_say_of_themselves(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Ranges are half the travel to either side, Z is its limits, the rail is that of the gain."""
    info = connect(electronics).info()
    assert np.allclose(info.x_range_m, (-5e-7, 5e-7), rtol=1e-6, atol=0)
    assert np.allclose(info.z_range_m, (-2.5e-7, 2.5e-7), rtol=1e-6, atol=0)
    assert np.allclose(info.preamplifier_rail_a, 1e-8, rtol=1e-6, atol=0)
    assert info.pixel_step == 16
    assert (info.simulated, info.time_scale) == (True, 1000.0)


def test_real_electronics_are_not_simulated_and_run_at_one(connect: Connect) -> None:
    """Whatever product calls itself otherwise than our door is real."""
    with scripted(product=PRODUCT) as real:
        info = connect(real).info()
    assert (info.simulated, info.time_scale) == (False, 1.0)
    assert PRODUCT in info.name


@pytest.mark.parametrize("release", [10862, 11798, 13742, 14128, 14429, 14573, 14718])
def test_every_release_measures(release: int, connect: Connect) -> None:
    """Layouts of each release: identity, state, a sweep with lock-in and a frame."""
    with scripted(release) as electronics:
        options = "" if release >= 13742 else f"?release={release}"
        driver = connect(electronics, options=options)
        assert driver._who().release == release
        engaged(driver)
        driver.set_lockin(SPECTRUM.lockin)
        assert driver.sweep(SPECTRUM).channels[1].name == "lockin_x"
        assert sum(len(piece.rows) for piece in driver.frame(FRAME)) == FRAME.lines
        driver.withdraw()
        assert driver.state().withdrawn
        assert driver.restore_settings() == ()


def test_a_release_without_a_version_counts_as_the_oldest(connect: Connect) -> None:
    """Util.VersionGet came later: who refuses it is old, and nothing hangs."""
    with scripted(10862, PRODUCT) as old:
        driver = connect(old)
        assert driver._who().release == 10862
        assert not driver.info().simulated


@pytest.mark.parametrize(
    "endpoint",
    [
        *("6501-6504", "127.0.0.1", "127.0.0.1:", "127.0.0.1:6501", "h:1-3", "h:1,1,2,3", "h:4-1", "h:0-3"),
        *("h:6501-6504?release=", "h:6501-6504?speed=3", "h:a-b", "h:70000-70003"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_with_its_form(endpoint: str, tmp_path: Path) -> None:
    """Before anything is connected, and the text says how it is written."""
    with pytest.raises(ConfigError, match="Write it like"):
        open_driver("nanonis", tmp_path, endpoint, "worker")


# Reading


def test_a_reading(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Controller, bias, setpoint as |I|, current, place; the four signals come in one request."""
    driver = engaged(connect(electronics))
    electronics.x_m, electronics.setpoint_a = 3e-9, -2e-10
    before = len(electronics.said("Signals.ValsGet"))
    state = driver.state()
    assert len(electronics.said("Signals.ValsGet")) == before + 1
    assert (state.feedback, state.withdrawn, state.scanning, state.sweeping) == (True, False, False, False)
    assert np.allclose([state.bias_v, state.setpoint_a, state.x_m], [0.5, 2e-10, 3e-9], rtol=1e-6, atol=0)


def test_withdrawn_is_controller_off_at_the_upper_limit(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Off alone is not enough, high alone neither; a limit that somebody moved is asked for again."""
    driver = connect(electronics)
    assert driver.state().withdrawn
    electronics.z_m = 200e-9
    assert not driver.state().withdrawn
    electronics.z_limits = (-250e-9, 200e-9)
    assert driver.state().withdrawn
    electronics.feedback = True
    assert not driver.state().withdrawn


@pytest.mark.parametrize(
    ("status", "feedback", "tripped"),
    [
        ("on", True, False),
        ("hold", False, False),
        ("switching off", True, False),
        ("safe tip", False, True),
        ("withdrawing", False, False),
    ],
)
def test_states_of_the_controller(
    electronics: ScriptedNanonis, connect: Connect, status: str, feedback: bool, tripped: bool
) -> None:
    """A held controller is not in feedback, and SafeTip's work is told apart."""
    driver = connect(electronics)
    electronics.feedback, electronics.z_m = True, 0.0
    electronics.settings["status"] = {"now": status}
    found = driver.state()
    assert (found.feedback, found.tripped, found.withdrawn) == (feedback, tripped, False)


def test_old_releases_read_slots_or_single_values(connect: Connect) -> None:
    """Where the list of signals lacks x and y, each value has its own command."""
    with scripted(10862) as old:
        driver = connect(old)
        old.x_m = 4e-9
        assert np.allclose(driver.state().x_m, 4e-9, rtol=1e-6, atol=0)
        assert old.said("Signals.ValsGet") == []
        assert driver._who().signals.places["current"] == 0
        assert driver._who().signals.places["bias"] == 8


# Ports


def test_each_half_of_the_gateway_has_ports_of_its_own(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Worker: 1st and 2nd; guard: 3rd and 4th; stop and withdraw never on the port of the commands."""
    worker, guard = connect(electronics), connect(electronics, "guard")
    worker.state()
    guard.state()
    worker.withdraw()
    guard.withdraw()
    guard.stop()
    assert electronics.places("ZCtrl.StatusGet") == {0, 2}
    assert electronics.places("ZCtrl.Withdraw") == {1, 3}
    assert electronics.places("Scan.Action") == {3}


def test_the_ports_for_stops_are_occupied_before_they_are_needed(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """A port serves one client: a stranger who came first would keep a stop from being heard.  One that was
    lost is taken again with the next reading."""
    for role, place in (("worker", 1), ("guard", 3)):
        driver = connect(electronics, role)
        driver.state()
        assert electronics.places("Bias.Get") >= {place}
        link = driver._urgent.link
        assert link.held
        assert link._socket is not None
        link._socket.shutdown(socket.SHUT_RDWR)
        assert not link.held
        driver.state()
        assert link.held
        assert link.connections == 2


def test_withdraw_and_readings_do_not_wait_for_a_sweep(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """While a sweep occupies the first port, both go over the second; the sweep then tells that it ended."""
    driver = engaged(connect(electronics))
    electronics.hold_sweeps = True
    errors: list[DriverError] = []

    def sweep() -> None:
        try:
            driver.sweep(SPECTRUM)
        except DriverError as ended:
            errors.append(ended)

    sweeping = threading.Thread(target=sweep)
    sweeping.start()
    electronics.await_call("BiasSpectr.Start")
    assert driver.state().sweeping
    driver.withdraw()
    sweeping.join(10.0)
    assert "ended after" in str(errors[0])
    assert electronics.places("ZCtrl.Withdraw") == {1}
    assert driver.state().withdrawn


def test_a_slow_reading_does_not_keep_a_withdrawal(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Signals take their time on real electronics; the guard's withdrawal has a port of its own."""
    guard = connect(electronics, "guard")
    guard.info()
    electronics.plan("Signals.ValsGet", "hold")
    reading = threading.Thread(target=guard.state)
    reading.start()
    electronics.await_call("Signals.ValsGet")
    guard.withdraw()
    assert electronics.said("ZCtrl.Withdraw")
    electronics.held.set()
    reading.join(10.0)


def test_readings_return_to_their_own_port(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a port broke, readings go over the one for stops only until the first serves again."""
    monkeypatch.setattr("actors.gateway.drivers.nanonis.hold.TRY_AGAIN_S", 0.0)
    guard = connect(electronics, "guard")
    guard.state()
    electronics.plan("Signals.ValsGet", "half", "half", "half")
    with pytest.raises(DriverError):
        guard.state()
    electronics.calls.clear()
    guard.state()
    assert electronics.places("Signals.ValsGet") == {2}


def test_a_withdrawal_outlives_a_broken_connection(electronics: ScriptedNanonis, connect: Connect) -> None:
    """It is sent again over a new connection at once: withdrawing twice is withdrawing."""
    driver = engaged(connect(electronics))
    electronics.plan("ZCtrl.Withdraw", "reset", "reset")
    driver.withdraw()
    assert driver.state().withdrawn
    assert len(electronics.said("ZCtrl.Withdraw")) == 3


def test_a_withdrawal_needs_no_greeting(electronics: ScriptedNanonis, connect: Connect) -> None:
    """The first thing a fresh driver says may be the withdrawal."""
    electronics.feedback = True
    connect(electronics).withdraw()
    assert electronics.names() == ["ZCtrl.Withdraw"]
    assert electronics.said("Util.VersionGet") == []


# Settings


def test_the_bias_goes_in_steps_and_is_read_back(electronics: ScriptedNanonis, connect: Connect) -> None:
    """No step is larger than the slew allows in 10 ms; the last one is the value itself."""
    driver = connect(electronics)
    driver.set_bias(-0.4, 5.0)
    steps = [call["bias_v"] for call in electronics.said("Bias.Set")]
    path = np.array([0.1, *steps])
    assert np.max(np.abs(np.diff(path))) <= 0.05 * (1 + 1e-6)
    assert np.allclose(path[-1], -0.4, rtol=1e-6, atol=0)
    driver.set_bias(-0.4, 5.0)
    assert len(electronics.said("Bias.Set")) == len(steps)


@pytest.mark.parametrize(
    ("stem", "coerced", "act", "told"),
    [
        ("Bias", {"bias_v": 0.25}, lambda d: d.set_bias(0.3, 50.0), ("300 mV", "250 mV")),
        ("ZCtrl.Setpnt", {"setpoint": 5e-11}, lambda d: d.set_setpoint(2e-10), ("2e-10", "setpoint")),
        ("FolMe.Speed", {"speed_m_s": 1e-9}, lambda d: d.move(1e-9, 0.0, 1e-6), ("1e-06", "speed_m_s")),
        ("LockIn.ModAmp", {"amplitude": 0.02}, lambda d: d.set_lockin(SPECTRUM.lockin), ("0.005", "0.02")),
        ("BiasSpectr.Props", {"number_of_points": 10}, lambda d: d.sweep(SPECTRUM), ("11", "10")),
        ("Scan.Buffer", {"lines": 16}, lambda d: list(d.frame(FRAME)), ("lines", "16")),
        ("SafeTip.OnOff", {"status": False}, lambda d: d.arm_trip(TRIP_A), ("True", "False")),
    ],
)
def test_a_coerced_value_is_an_error_that_names_both(
    electronics: ScriptedNanonis,
    connect: Connect,
    stem: str,
    coerced: dict[str, Any],
    act: Callable[[NanonisDriver], Any],
    told: tuple[str, ...],
) -> None:
    """What was asked for and what came back stand in the error."""
    electronics.coerce[stem] = lambda given: {**given, **{k: v for k, v in coerced.items() if k in given}}
    with pytest.raises(DriverError) as refused:
        act(connect(electronics))
    assert all(word in str(refused.value) for word in told), str(refused.value)


def test_the_controller_must_read_back_as_switched(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that stays off after it was switched on is an error."""
    monkeypatch.setattr("actors.gateway.drivers.nanonis.driver.SWITCH_S", 0.05)
    monkeypatch.setattr(electronics, "_zctrl_onoffset", lambda status: None)
    with pytest.raises(DriverError, match="Z-controller is not on"):
        connect(electronics).set_feedback(True)


def test_a_move_that_arrives_elsewhere_is_an_error(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Where the tip was sent and where it is stand in the error; the newest position was asked for."""
    driver = connect(electronics)

    def elsewhere(x_m: float, y_m: float, wait: bool) -> None:
        electronics.x_m = x_m + 1e-9

    electronics._folme_xyposset = elsewhere  # type: ignore[method-assign]
    with pytest.raises(DriverError, match=r"sent to \(5\.000, 0\.000\) nm and is at \(6\.000"):
        driver.move(5e-9, 0.0, 1e-6)
    assert electronics.said("FolMe.XYPosGet")[-1] == {"wait_for_newest_data": True}


# SafeTip


def test_safetip_is_armed_with_the_guards_threshold(electronics: ScriptedNanonis, connect: Connect) -> None:
    """The larger of trip_current and ten setpoints, below the rail; it never comes back by itself."""
    driver = connect(electronics)
    driver.set_setpoint(1e-10)
    driver.arm_trip(TRIP_A)
    props = electronics.settings["SafeTip.Props"]
    assert (props["auto_recovery"], electronics.settings["SafeTip.OnOff"]["status"]) == (False, True)
    assert np.allclose(props["threshold"], 5e-9, rtol=1e-6, atol=0)
    driver.set_setpoint(7e-10)
    assert np.allclose(props["threshold"], 7e-9, rtol=1e-6, atol=0)
    driver.set_setpoint(5e-9)
    assert np.allclose(props["threshold"], 0.99e-8, rtol=1e-6, atol=0)


def test_a_stricter_safetip_of_the_laboratory_stays(electronics: ScriptedNanonis, connect: Connect) -> None:
    """One that is on already with a lower threshold is not loosened."""
    electronics.settings["SafeTip.Props"] = {
        "auto_recovery": False,
        "auto_pause_scan": False,
        "threshold": 1e-9,
    }
    electronics.settings["SafeTip.OnOff"] = {"status": True}
    connect(electronics).arm_trip(TRIP_A)
    assert np.allclose(electronics.settings["SafeTip.Props"]["threshold"], 1e-9, rtol=1e-6, atol=0)


def test_safetip_that_somebody_switched_off_is_a_foreign_change(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """It is told in words, and feedback is not switched on without it."""
    driver = engaged(connect(electronics))
    assert driver.foreign_changes() == ()
    electronics.settings["SafeTip.OnOff"]["status"] = False
    assert driver.foreign_changes() == ("SafeTip is off",)
    with pytest.raises(DriverError, match="SafeTip is off"):
        driver.set_feedback(True)
    driver.arm_trip(TRIP_A)
    electronics.settings["SafeTip.Props"]["threshold"] = 9e-9
    assert "threshold is 9 nA instead of 5 nA" in driver.foreign_changes()[0]


def test_safetip_rests_within_a_sweep_and_is_armed_afterwards(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Saturation ends a sweep, not the run; also after a sweep that failed it is on again."""
    driver = engaged(connect(electronics))
    seen: list[bool] = []

    def look(bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(electronics.settings["SafeTip.OnOff"]["status"])
        return bias * 1e-9

    electronics.sweep_samples = look
    driver.sweep(SPECTRUM)
    assert set(seen) == {False}
    assert electronics.settings["SafeTip.OnOff"]["status"]
    electronics.plan("BiasSpectr.Start", "zeros")
    with pytest.raises(DriverError, match="Module not available"):
        driver.sweep(SPECTRUM)
    assert electronics.settings["SafeTip.OnOff"]["status"]


# Sweeps


def test_a_sweep_is_told_as_the_recipe_says(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Limits, points, timing, offset, hold, lock-in run, no dialogue that waits for a person; its name."""
    driver = engaged(connect(electronics))
    driver.sweep(msgspec.structs.replace(SPECTRUM, backward=True))
    props, timing = electronics.settings["BiasSpectr.Props"], electronics.settings["BiasSpectr.Timing"]
    assert (props["number_of_points"], props["backward_sweep"], props["show_save_dialog"]) == (
        11,
        True,
        False,
    )
    assert props["autosave"] is True, "whether files are written is the laboratory's"
    assert np.allclose(
        [timing["z_offset_m"], timing["integration_time_s"] + timing["settling_time_s"]],
        [-50e-12, 0.01],
        rtol=1e-6,
        atol=0,
    )
    assert electronics.settings["BiasSpectr.AdvProps"] == {
        "reset_bias": True,
        "z_controller_hold": True,
        "record_final_z": False,
        "lock_in_run": True,
    }
    assert electronics.settings["BiasSpectr.MLSMode"]["sweep_mode"] == "Linear"
    assert electronics.said("BiasSpectr.Start") == [
        {"get_data": True, "basename": "tp_demo-20260101-120000--d0012--a1"}
    ]
    assert measurement_name(JOB) == "tp_demo-20260101-120000--d0012--a1"


def test_the_data_of_a_sweep(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Current and lock-in, shape (repeats, directions, points), backward in the order of the bias."""
    driver = engaged(connect(electronics))
    electronics.x_m, electronics.z_m = 7e-9, 3e-9
    recipe = msgspec.structs.replace(SPECTRUM, backward=True, repeats=3)
    data = driver.sweep(recipe)
    assert [channel.name for channel in data.channels] == ["current", "lockin_x", "lockin_y"]
    assert {np.shape(channel.values) for channel in data.channels} == {(3, 2, 11)}
    bias = np.asarray(data.bias_v)
    assert np.allclose(bias, np.linspace(-0.5, 0.5, 11), rtol=1e-12, atol=0)
    ratio = np.asarray(data.channels[0].values) / (bias * 1e-9 + 1e-30)
    expected = [[1.1 + 0.1 * (k + 3 * way) for way in range(2)] for k in range(3)]
    assert np.allclose(ratio[:, :, 0], expected, rtol=1e-5, atol=0)
    assert (data.x_m, data.saturated) == (7e-9, False)
    assert np.allclose(data.z_m, 3e-9, rtol=1e-6, atol=0)
    assert len(electronics.said("BiasSpectr.Start")) == 1


def test_repeats_that_come_back_averaged_are_measured_one_by_one(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """The first such answer is thrown away; from then on every repeat is a sweep of its own."""
    driver = engaged(connect(electronics))
    electronics.averages_only = True
    recipe = msgspec.structs.replace(SPECTRUM, repeats=3)
    assert np.shape(driver.sweep(recipe).channels[0].values) == (3, 1, 11)
    assert len(electronics.said("BiasSpectr.Start")) == 4
    driver.sweep(recipe)
    assert len(electronics.said("BiasSpectr.Start")) == 7


def test_a_saturated_sweep_says_so(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Samples at the rail mark it; what is missing after them stays NaN and is no error."""
    driver = engaged(connect(electronics))

    def clipped(bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        current = np.clip(bias * 1e-7, -1e-8, 1e-8)
        current[9:] = np.nan
        return current / 1.1

    electronics.sweep_samples = lambda bias: clipped(bias) * 1.0
    data = driver.sweep(msgspec.structs.replace(SPECTRUM, lockin=None))
    assert data.saturated
    assert np.isnan(np.asarray(data.channels[0].values)[0, 0, 9:]).all()


def test_a_sweep_of_another_span_is_refused(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Somebody changed the limits between our read-back and the start: the data are not taken for ours."""
    driver = engaged(connect(electronics))
    original = electronics._biasspectr_start

    def turned(get_data: bool, basename: str) -> dict[str, Any]:
        electronics.settings["BiasSpectr.Limits"]["end_value_v"] = 0.3
        return original(get_data, basename)

    electronics._biasspectr_start = turned  # type: ignore[method-assign]
    with pytest.raises(DriverError, match=r"-0\.5 V to 0\.3 V .* -0\.5 V to 0\.5 V"):
        driver.sweep(SPECTRUM)


def test_a_sweep_that_never_comes_back_is_stopped(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the recipe's time and some grace: stopped over the other port, and an error with the wait."""
    monkeypatch.setattr("actors.gateway.drivers.nanonis.driver.GRACE_S", 0.1)
    driver = engaged(connect(electronics))
    electronics.plan("BiasSpectr.Start", "hold")
    with pytest.raises(DriverError, match=r"awaited an answer to BiasSpectr\.Start"):
        driver.sweep(SPECTRUM)
    assert electronics.names("BiasSpectr.Stop") == ["BiasSpectr.Stop"]
    assert electronics.places("BiasSpectr.Stop") == {1}


def test_the_lock_in_is_set_without_touching_the_laboratorys_phase(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Amplitude, frequency, cut-off of the time constant; filter order and phase stay."""
    driver = connect(electronics)
    driver.set_lockin(SPECTRUM.lockin)
    low_pass = electronics.settings["LockIn.DemodLPFilter 1"]
    assert low_pass["lp_filter_order"] == 4
    assert np.allclose(low_pass["lp_filter_cutoff_frequency_hz"], 159.15494, rtol=1e-5, atol=0)
    assert driver.state().lockin_on
    assert electronics.names("LockIn.ModPhasSet", "LockIn.DemodPhasSet", "LockIn.DemodPhasRegSet") == []
    driver.set_lockin(None)
    assert not driver.state().lockin_on


# Frames


@pytest.mark.parametrize("upward", [True, False])
def test_a_frame_comes_line_by_line(electronics: ScriptedNanonis, connect: Connect, upward: bool) -> None:
    """Whole lines only, in the order of the scan, row 0 at the lowest y, both ways, z and current."""
    driver = engaged(connect(electronics))
    pieces = list(driver.frame(msgspec.structs.replace(FRAME, upward=upward)))
    rows = [row for piece in pieces for row in piece.rows]
    assert rows == (list(range(8)) if upward else list(range(7, -1, -1)))
    assert len(pieces) > 1
    for piece in pieces:
        z, current = piece.channels
        assert (z.name, z.unit, current.name, current.unit) == ("z", "m", "current", "A")
        assert np.shape(z.values) == (len(piece.rows), 2, 16)
        for k, row in enumerate(piece.rows):
            assert np.asarray(z.values)[k, 0, 0] == 16 * row + 30
            assert np.asarray(z.values)[k, 1, 15] == -(16 * row + 15 + 30) - 1
            assert np.asarray(current.values)[k, 0, 3] == 16 * row + 3


def test_a_frame_is_told_in_the_vendors_convention(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Degrees clockwise, time per line, one scan and not several, the job's name on it."""
    driver = engaged(connect(electronics))
    list(driver.frame(FRAME))
    area, props = electronics.settings["Scan.Frame"], electronics.settings["Scan.Props"]
    assert np.allclose(area["angle_deg"], -np.degrees(0.25), rtol=1e-6, atol=0)
    assert np.allclose(area["centre_y_m"], -3e-9, rtol=1e-6, atol=0)
    assert (props["continuous_scan"], props["bouncy_scan"]) == (False, False)
    assert props["series_name"] == measurement_name(JOB)
    assert (props["autosave"], props["comment"]) == ("all", "theirs")
    assert electronics.settings["Scan.Speed"]["keep_constant"] == "time per line"


def test_pixels_that_would_be_coerced_are_refused_before_anything_is_set(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """The error names the next possible numbers."""
    driver = engaged(connect(electronics))
    with pytest.raises(DriverError, match="Take 16 or 32"):
        list(driver.frame(msgspec.structs.replace(FRAME, pixels=20)))
    assert electronics.names("Scan.") == []


def test_a_frame_that_ends_early_says_after_how_many_lines(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Somebody stops the scan: the lines so far came, then the error."""
    driver = engaged(connect(electronics))
    lines = driver.frame(FRAME)
    first = next(lines)
    electronics.scanning = False
    with pytest.raises(DriverError, match=f"ended after {len(first.rows)} of 8 lines"):
        list(lines)


def test_closing_a_frame_stops_the_scan(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Over the other port, at once."""
    driver = engaged(connect(electronics))
    lines = driver.frame(FRAME)
    next(lines)
    lines.close()  # type: ignore[attr-defined]
    assert [call["action"] for call in electronics.said("Scan.Action")] == ["start", "stop"]
    assert not electronics.scanning


def test_old_lines_are_not_taken_for_new_ones(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Where old data stay in the live frame, a line counts once it differs from what was there before."""
    driver = engaged(connect(electronics))
    electronics.old_frame = np.full((8, 16), 1e-9)
    pieces = list(driver.frame(FRAME))
    assert [row for piece in pieces for row in piece.rows] == list(range(8))
    assert not any((np.asarray(piece.channels[0].values) == np.float32(1e-9)).any() for piece in pieces)


def test_the_frame_before_may_have_had_another_size(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Until the scan begins the live frame is the old one; its size is nobody's fault."""
    driver = engaged(connect(electronics))
    original, looks = electronics._scan_framedatagrab, []

    def late(channel_index: int, direction: str) -> dict[str, Any]:
        looks.append(channel_index)
        answer = original(channel_index, direction)
        return {**answer, "data": np.ones((32, 32))} if len(looks) <= 4 else answer

    electronics._scan_framedatagrab = late  # type: ignore[method-assign]
    assert sum(len(piece.rows) for piece in driver.frame(FRAME)) == 8


# Others


def test_pulses_and_indentations(electronics: ScriptedNanonis, connect: Connect) -> None:
    """A pulse is absolute and waited for; an indentation goes down by its depth and up again."""
    driver = engaged(connect(electronics))
    driver.pulse(3.0, 0.05, hold_z=True)
    (pulse,) = electronics.said("Bias.Pulse")
    assert (pulse["wait"], pulse["z_hold"], pulse["absolute_relative"]) == (True, True, "absolute")
    driver.indent(0.5e-9, 0.1, 0.2)
    shaper = electronics.settings["TipShaper.Props"]
    assert np.allclose([shaper["tip_lift_m"], shaper["lift_height_m"]], [-5e-10, 5e-10], rtol=1e-6, atol=0)
    assert electronics.said("TipShaper.Start")[0]["wait"] is True


def test_a_lost_link_in_mid_motion_leaves_the_outcome_unknown(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """The move is not repeated, and the next reading works."""
    driver = engaged(connect(electronics))
    electronics.plan("FolMe.XYPosSet", "reset after")
    with pytest.raises(DriverError) as lost:
        driver.move(5e-9, 0.0, 1e-6)
    assert lost.value.details["outcome"] == "unknown"
    assert len(electronics.said("FolMe.XYPosSet")) == 1
    assert np.allclose(driver.state().x_m, 5e-9, rtol=1e-6, atol=0)


def test_what_the_driver_can_beside_the_common(electronics: ScriptedNanonis, connect: Connect) -> None:
    """The gateway finds its fast trip, its foreign changes and its lent settings by type."""
    driver = connect(electronics)
    assert isinstance(driver, FastTrip)
    assert isinstance(driver, SharedPanel)
    assert isinstance(driver, LentSettings)
