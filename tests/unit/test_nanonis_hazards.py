"""The Nanonis driver where a tip could be lost or a number be wrong without anybody noticing."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.gateway.drivers import open_driver
from actors.gateway.drivers.nanonis.driver import NanonisDriver
from protocols.errors import ConfigError, DriverError
from protocols.messages.jobs import CHANGED_BY_OTHERS
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from protocols.nanonis.conventions import grab_from_frame
from tests.unit.scripted_nanonis import ScriptedNanonis, scripted

TRIP_A = 5e-9
SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=1e-10,
    settle_s=0.05,
    z_offset_m=0.0,
    start_v=-0.5,
    stop_v=0.5,
    points=11,
    dwell_s=0.01,
)
FRAME = Frame(
    centre_x_m=5e-9,
    centre_y_m=-3e-9,
    width_m=20e-9,
    height_m=10e-9,
    pixels=16,
    lines=8,
    bias_v=0.5,
    setpoint_a=1e-10,
    line_time_s=0.05,
)

Connect = Callable[..., NanonisDriver]


@pytest.fixture
def electronics() -> Iterator[ScriptedNanonis]:
    """Scripted electronics whose seconds pass in a millisecond."""
    with scripted() as found:
        yield found


@pytest.fixture
def connect(tmp_path: Path, electronics: ScriptedNanonis) -> Iterator[Connect]:
    """Opens drivers and closes them at the end."""
    opened: list[NanonisDriver] = []

    def open_one(role: str = "worker") -> NanonisDriver:
        driver = open_driver("nanonis", tmp_path, electronics.address, role)
        assert isinstance(driver, NanonisDriver)
        opened.append(driver)
        return driver

    yield open_one
    for driver in opened:
        driver.close()


def engaged(driver: NanonisDriver, setpoint_a: float = 1e-10) -> NanonisDriver:
    """The driver with its tip tunneling."""
    driver.set_bias(0.5, 50.0)
    driver.set_setpoint(setpoint_a)
    driver.arm_trip(TRIP_A)
    driver.set_feedback(True)
    return driver


def threshold(electronics: ScriptedNanonis) -> float:
    """SafeTip's."""
    return float(electronics.settings["SafeTip.Props"]["threshold"])


# SafeTip


def test_a_stricter_safetip_of_the_laboratory_stays_for_the_whole_run(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Each sweep and each setpoint arms it again: never above what the laboratory had set."""
    electronics.settings["SafeTip.Props"] |= {"threshold": 1e-9}
    electronics.settings["SafeTip.OnOff"] = {"status": True}
    driver = engaged(connect())
    assert np.allclose(threshold(electronics), 1e-9, rtol=1e-6, atol=0)
    driver.sweep(SPECTRUM)
    driver.set_setpoint(2e-10)
    driver.arm_trip(TRIP_A)
    assert np.allclose(threshold(electronics), 1e-9, rtol=1e-6, atol=0)


def test_ones_own_lower_threshold_is_not_taken_for_the_laboratorys(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """It goes up and down with the setpoint."""
    driver = engaged(connect())
    for setpoint_a, expected in ((7e-10, 7e-9), (1e-10, 5e-9), (8e-10, 8e-9)):
        driver.set_setpoint(setpoint_a)
        assert np.allclose(threshold(electronics), expected, rtol=1e-6, atol=0)


def test_a_lower_setpoint_is_there_before_its_threshold(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Going from 900 pA to 100 pA never leaves a threshold below the current that still flows."""
    driver = connect()
    driver.set_bias(0.5, 50.0)
    driver.set_setpoint(9e-10)
    driver.arm_trip(5e-10)
    driver.set_feedback(True)
    lowest: list[tuple[float, float]] = []
    original = electronics.carry_out

    def look(command: Any, arguments: Any) -> Any:
        found = original(command, arguments)
        lowest.append((abs(electronics._current()), threshold(electronics)))
        return found

    electronics.carry_out = look  # type: ignore[method-assign]
    driver.set_setpoint(1e-11)
    assert all(current < limit for current, limit in lowest)
    assert np.allclose(threshold(electronics), 5e-10, rtol=1e-6, atol=0)


def test_a_safetip_that_was_made_to_come_back_by_itself_is_a_foreign_change(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Nothing may switch feedback on after a trip: somebody's auto-recovery is told."""
    driver = engaged(connect())
    electronics.settings["SafeTip.Props"]["auto_recovery"] = True
    assert "recover" in "; ".join(driver.foreign_changes())


def test_another_gain_of_the_preamplifier_is_a_foreign_change(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rail is another: told, and then reckoned with, for a threshold above the rail is never reached, and
    a saturated sweep would not be noticed."""
    driver = engaged(connect())
    assert driver.foreign_changes() == ()
    gains = {"gains": ("LN 10^9", "LN 10^10"), "gain_index": 1, "filters": (), "filter_index": 0}
    monkeypatch.setattr(electronics, "_current_gainsget", lambda: gains)
    assert "1 nA instead of 10 nA" in "; ".join(driver.foreign_changes())
    driver.arm_trip(TRIP_A)
    assert driver.foreign_changes() == ()
    assert threshold(electronics) < 1e-9
    electronics.sweep_samples = lambda bias: np.full(len(bias), 1e-9 / 1.1)
    assert driver.sweep(SPECTRUM).saturated


# Feedback and bias


@pytest.mark.parametrize("status", ["withdrawing", "safe tip"])
def test_feedback_is_not_switched_on_while_the_tip_is_withdrawn(
    electronics: ScriptedNanonis, connect: Connect, status: str
) -> None:
    """Somebody's withdrawal, or SafeTip's, is under way: it is not turned round."""
    driver = engaged(connect())
    electronics.feedback, electronics.z_m = False, 100e-9
    electronics.settings["status"] = {"now": status}
    with pytest.raises(DriverError, match="withdraw"):
        driver.set_feedback(True)
    assert not electronics.feedback


def test_a_tip_that_safetip_has_withdrawn_can_be_engaged_again(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """At the top, when a person has acknowledged it, the status alone is no obstacle."""
    driver = engaged(connect())
    electronics.feedback, electronics.z_m = False, 250e-9
    electronics.settings["status"] = {"now": "safe tip"}
    driver.set_feedback(True)
    assert electronics.feedback


def test_no_ramp_goes_through_zero_with_feedback_on(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Whoever asks for it has not seen that the bias was turned: nothing is set."""
    driver = engaged(connect())
    electronics.bias_v = -0.5
    before = len(electronics.said("Bias.Set"))
    with pytest.raises(DriverError, match="0 V"):
        driver.set_bias(0.5, 50.0)
    assert len(electronics.said("Bias.Set")) == before
    electronics.feedback = False
    driver.set_bias(0.5, 50.0)
    assert np.allclose(electronics.bias_v, 0.5, rtol=1e-6, atol=0)


# Stops


def test_a_withdrawal_does_not_wait_for_a_question_that_nobody_answers(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """The port for readings is broken, the one for stops is busy with a reading without an answer: the
    withdrawal ends that reading."""
    guard = connect("guard")
    guard.state()
    guard._commands.link._suspect, guard._tried_s = True, float("inf")
    electronics.plan("Signals.ValsGet", "silent")
    errors: list[DriverError] = []

    def read() -> None:
        try:
            guard.state()
        except DriverError as cut:
            errors.append(cut)

    before = len(electronics.said("Signals.ValsGet"))
    reading = threading.Thread(target=read)
    reading.start()
    electronics.await_call("Signals.ValsGet", before + 1)
    electronics.feedback = True
    guard.withdraw()
    assert not electronics.feedback
    reading.join(10.0)
    assert "gave way" in str(errors[0])


def test_a_stop_without_an_answer_does_not_keep_the_others(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that never answers: the scan and the move are stopped all the same, and it is told."""
    monkeypatch.setattr("actors.gateway.drivers.nanonis.hold.STOP_ANSWER_S", 0.1)
    driver = connect()
    electronics.plan("BiasSpectr.Stop", "silent")
    electronics.scanning = True
    with pytest.raises(DriverError, match=r"BiasSpectr\.Stop"):
        driver.stop()
    assert not electronics.scanning
    assert electronics.said("FolMe.Stop")


def test_a_scan_whose_start_was_not_answered_is_stopped(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """It may have begun: it does not go on without anybody who reads it."""
    driver = engaged(connect())
    electronics.plan("Scan.Action", "reset after")
    with pytest.raises(DriverError):
        list(driver.frame(FRAME))
    assert [call["action"] for call in electronics.said("Scan.Action")] == ["start", "stop"]
    assert not electronics.scanning


def test_a_scan_that_was_refused_stops_nobodys(electronics: ScriptedNanonis, connect: Connect) -> None:
    """Nothing of ours has begun."""
    driver = engaged(connect())
    electronics.plan("Scan.Action", "zeros")
    with pytest.raises(DriverError, match="not available"):
        list(driver.frame(FRAME))
    assert [call["action"] for call in electronics.said("Scan.Action")] == ["start"]


# Numbers


@pytest.mark.parametrize("place", range(4))
def test_a_reading_that_is_no_number_is_an_error(
    electronics: ScriptedNanonis, connect: Connect, place: int
) -> None:
    """A current that is NaN is above no threshold: whoever watches would be blind and not know it."""
    driver = engaged(connect())
    values = np.array([1e-10, 0.0, 0.0, 0.0])
    values[place] = np.nan
    electronics._signals_valsget = lambda **_: {"values": values}  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="no number"):
        driver.state()


def test_an_answer_too_many_is_not_taken_for_the_next_one(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Two answers to one question: the second is not the answer to the same question asked later."""
    channel = connect()._commands
    assert np.allclose(channel.ask("Bias.Get")["bias_v"], 0.1, rtol=1e-6, atol=0)
    electronics.plan("Bias.Get", "twice")
    channel.ask("Bias.Get")
    electronics.bias_v = 0.7
    assert np.allclose(channel.ask("Bias.Get")["bias_v"], 0.7, rtol=1e-6, atol=0)


def test_the_laboratorys_alternate_setpoint_is_off_within_a_sweep(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Else a spectrum would be taken at another setpoint than its recipe says, whatever the limits allow."""
    electronics.settings["BiasSpectr.AltZCtrl"] = {
        "alternate_z_controller_setpoint": True,
        "setpoint": 5e-8,
        "settling_time_s": 1.0,
    }
    driver = engaged(connect())
    seen: list[bool] = []

    def look(bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(electronics.settings["BiasSpectr.AltZCtrl"]["alternate_z_controller_setpoint"])
        return bias * 1e-9

    electronics.sweep_samples = look
    driver.sweep(SPECTRUM)
    assert seen == [False]
    driver.withdraw()
    assert driver.restore_settings() == ()
    assert electronics.settings["BiasSpectr.AltZCtrl"] == {
        "alternate_z_controller_setpoint": True,
        "setpoint": pytest.approx(5e-8),
        "settling_time_s": 1.0,
    }


def test_a_sweep_whose_lock_in_ended_early_is_an_error(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Every channel must be whole, not the current alone."""
    driver = engaged(connect())
    recipe = msgspec.structs.replace(
        SPECTRUM, lockin=LockIn(amplitude_v=0.005, frequency_hz=900.0, time_constant_s=1e-3)
    )
    driver.set_lockin(recipe.lockin)
    rows: list[int] = []

    def current_alone(bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows.append(1)
        return bias * 1e-9 if len(rows) == 1 else np.where(np.arange(len(bias)) < 4, bias * 1e-9, np.nan)

    electronics.sweep_samples = current_alone
    with pytest.raises(DriverError, match="ended after"):
        driver.sweep(recipe)


# Frames


class PartialLines:
    """A live frame of which the line that is just scanned shows its first half already."""

    def __init__(self, electronics: ScriptedNanonis, unscanned: float) -> None:
        self._electronics, self._unscanned = electronics, unscanned
        self.final = np.arange(8 * 16, dtype=float).reshape(8, 16) + 1000.0
        electronics._scan_framedatagrab = self.grab  # type: ignore[method-assign]

    def grab(self, channel_index: int, direction: str) -> dict[str, Any]:
        """As Scan.FrameDataGrab answers."""
        found = np.full((8, 16), self._unscanned)
        done = min(self._electronics.lines, 8)
        found[:done] = self.final[:done]
        if self._electronics.scanning and 0 < done < 8:
            found[done, :8] = self.final[done, :8]
        return {"channel_name": "Z (m)", "data": grab_from_frame(found), "direction": "up"}


@pytest.mark.parametrize("unscanned", [1e-9, 0.0, np.nan])
def test_half_a_line_is_not_a_line(electronics: ScriptedNanonis, connect: Connect, unscanned: float) -> None:
    """Where the rest of a line still shows the scan before, or zeros, it is awaited."""
    driver = engaged(connect())
    partial = PartialLines(electronics, unscanned)
    pieces = list(driver.frame(FRAME))
    taken = np.concatenate([np.asarray(piece.channels[0].values)[:, 0] for piece in pieces])
    assert np.array_equal(taken, partial.final.astype(np.float32))


def test_a_frame_that_somebody_moved_under_way_is_told(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Its lines are not where the recipe says."""
    driver = engaged(connect())
    lines = driver.frame(FRAME)
    next(lines)
    electronics.settings["Scan.Frame"]["centre_x_m"] = 100e-9
    with pytest.raises(DriverError, match="centre_x_m") as told:
        list(lines)
    assert told.value.text.startswith(CHANGED_BY_OTHERS)


# Settings lent and given back


def kept_file(tmp_path: Path) -> Path:
    """The file of original settings."""
    (found,) = (tmp_path / "gateway").glob("nanonis_*.json")
    return found


def test_a_meaning_that_can_be_read_but_not_set_spoils_no_other_setting(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """Electronics that say "no change" of the paste mode: everything else of theirs is given back."""
    electronics.settings["Scan.Props"]["autopaste"] = "no change"
    driver = engaged(connect())
    list(driver.frame(FRAME))
    driver.withdraw()
    assert driver.restore_settings() == ()
    assert electronics.settings["Scan.Props"]["series_name"] == "mine"
    assert electronics.settings["SafeTip.Props"]["auto_recovery"] is True


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {},
        {"stem": "Scan.Nothing", "device": {}, "tolerance": {}, "values": {"x": 1}},
        {"stem": "Scan.Props", "device": {}, "tolerance": {}, "values": {"autosave": "sometimes"}},
        {"stem": "Scan.Props", "device": {}, "tolerance": {}, "values": [1]},
    ],
)
def test_an_entry_that_makes_no_sense_keeps_no_park_from_coming_true(
    electronics: ScriptedNanonis, connect: Connect, tmp_path: Path, entry: Any
) -> None:
    """It is told; the others are given back, and nothing is raised that a park would stumble over."""
    driver = engaged(connect())
    driver.move(1e-9, 0.0, 1e-6)
    path = kept_file(tmp_path)
    settings = json.loads(path.read_bytes())["settings"]
    path.write_text(json.dumps({"settings": {"odd": entry, **settings}}))
    driver.withdraw()
    driver.restore_settings()
    assert electronics.settings["SafeTip.Props"]["auto_recovery"] is True


def test_a_long_way_to_the_first_line_is_no_standstill(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The electronics bring the tip to the frame at their own, slow pace: that takes as long as it takes."""
    monkeypatch.setattr("actors.gateway.drivers.nanonis.frames.GRACE_S", 0.05)
    driver = engaged(connect())
    driver.move(-400e-9, 0.0, 1e-6)
    electronics.settings["FolMe.Speed"]["speed_m_s"] = 0.5e-9
    looks: list[int] = []
    original = electronics._scan_statusget

    def travelling() -> dict[str, Any]:
        looks.append(1)
        return {"status": True} if len(looks) < 12 else original()

    monkeypatch.setattr(electronics, "_scan_statusget", travelling)
    assert sum(len(piece.rows) for piece in driver.frame(FRAME)) == FRAME.lines


def test_a_scan_that_stands_still_is_told(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near by, and nothing comes."""
    monkeypatch.setattr("actors.gateway.drivers.nanonis.frames.GRACE_S", 0.05)
    driver = engaged(connect())
    driver.move(0.0, 0.0, 1e-6)
    monkeypatch.setattr(electronics, "_scan_statusget", lambda: {"status": True})
    with pytest.raises(DriverError, match="awaited line 0"):
        list(driver.frame(FRAME))
    assert not electronics.scanning


def test_a_controller_that_is_released_a_little_after_its_sweep_is_awaited(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status comes from the real-time system, later than the data: that is nobody else's doing."""
    driver = engaged(connect())
    original, late = electronics._zctrl_statusget, [0]

    def swept(bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        late[0] = 3
        return bias * 1e-9

    def status() -> dict[str, Any]:
        late[0] -= 1
        return {"status": "hold"} if late[0] >= 0 else original()

    electronics.sweep_samples = swept
    monkeypatch.setattr(electronics, "_zctrl_statusget", status)
    driver.sweep(SPECTRUM)
    assert driver.state().feedback


def test_a_scan_that_ends_right_after_a_long_way_has_scanned_nothing_anew(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to the first line is no time of scanning: what still looks as before is not taken for new."""
    driver = engaged(connect())
    driver.move(-400e-9, 0.0, 1e-6)
    electronics.settings["FolMe.Speed"]["speed_m_s"] = 0.5e-9
    electronics.old_frame = np.full((8, 16), 1e-9)
    looks: list[int] = []

    def travelling() -> dict[str, Any]:
        looks.append(1)
        return {"status": len(looks) < 12}

    monkeypatch.setattr(electronics, "_scan_statusget", travelling)
    with pytest.raises(DriverError, match="ended after 0 of 8"):
        list(driver.frame(FRAME))


def test_a_list_that_cannot_be_read_is_not_wiped(tmp_path: Path) -> None:
    """Some releases set the modules of a file's header and do not tell them: nothing is set beside them that
    is not needed."""
    with scripted(13742) as electronics:
        electronics.settings["Scan.Props"] |= {
            "continuous_scan": False,
            "bouncy_scan": False,
            "modules": ("Bias", "Lock-in"),
        }
        driver = open_driver("nanonis", tmp_path, electronics.address, "worker")
        assert isinstance(driver, NanonisDriver)
        engaged(driver)
        list(driver.frame(FRAME))
        driver.withdraw()
        assert driver.restore_settings() == ()
        assert electronics.settings["Scan.Props"]["modules"] == ("Bias", "Lock-in")
        driver.close()


def test_a_release_in_other_digits_is_refused_with_the_address_form(tmp_path: Path) -> None:
    """A superscript is a digit to Python and no number."""
    with pytest.raises(ConfigError, match="no release"):
        open_driver("nanonis", tmp_path, "h:6501-6504?release=\u00b2", "worker")


def test_ranges_are_those_of_now(
    electronics: ScriptedNanonis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others choose the gain and set Z's limits: whoever watches asks again now and then."""
    guard = connect("guard")
    assert np.allclose(guard.info().preamplifier_rail_a, 1e-8, rtol=1e-6, atol=0)
    gains = {"gains": ("LN 10^9", "LN 10^10"), "gain_index": 1, "filters": (), "filter_index": 0}
    monkeypatch.setattr(electronics, "_current_gainsget", lambda: gains)
    electronics.z_limits = (-100e-9, 100e-9)
    monkeypatch.setattr("actors.gateway.drivers.nanonis.hold.INFO_S", 0.0)
    assert np.allclose(guard.info().preamplifier_rail_a, 1e-9, rtol=1e-6, atol=0)
    assert np.allclose(guard.info().z_range_m, (-100e-9, 100e-9), rtol=1e-6, atol=0)


def test_electronics_without_a_lock_in_can_be_read_and_parked(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """It is an option of theirs: what needs none works, what needs one says so."""
    electronics.refused.add("LockIn")
    driver = engaged(connect())
    assert not driver.state().lockin_on
    assert driver.sweep(SPECTRUM).channels[0].name == "current"
    driver.set_lockin(None)
    with pytest.raises(DriverError, match="not available"):
        driver.set_lockin(LockIn(amplitude_v=0.005, frequency_hz=900.0, time_constant_s=1e-3))


def test_safetip_is_armed_again_also_if_its_rest_could_not_be_confirmed(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """It was switched off and the read-back failed: the tip is not left without it."""
    driver = engaged(connect())
    electronics.plan("SafeTip.OnOffGet", None, "zeros")
    with pytest.raises(DriverError, match="not available"):
        driver.pulse(1.0, 0.01, hold_z=True)
    assert electronics.said("Bias.Pulse") == []
    assert electronics.settings["SafeTip.OnOff"]["status"]


def test_stops_go_before_readings_and_the_withdrawal_before_stops(
    electronics: ScriptedNanonis, connect: Connect
) -> None:
    """A reading without an answer is given up for a stop, and a stop without one for a withdrawal."""
    driver = connect()
    driver.state()
    driver._commands.link._suspect, driver._tried_s = True, float("inf")
    for held, act, arrived in (
        ("Signals.ValsGet", driver.stop, "FolMe.Stop"),
        ("BiasSpectr.Stop", driver.withdraw, "ZCtrl.Withdraw"),
    ):
        electronics.plan(held, "silent")
        before = len(electronics.said(held))
        waiting = threading.Thread(
            target=_quietly, args=(driver.state if act == driver.stop else driver.stop,)
        )
        waiting.start()
        electronics.await_call(held, before + 1)
        act()
        assert electronics.said(arrived)
        waiting.join(10.0)


def _quietly(act: Callable[[], Any]) -> None:
    with contextlib.suppress(DriverError):
        act()
