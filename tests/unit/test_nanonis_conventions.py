"""Nanonis conventions: what their numbers, angles, rows, names and times mean in ours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MalformedMessageError, UsageError
from protocols.nanonis import codings, conventions
from protocols.nanonis.codings import Choice, to_codes, to_meanings
from protocols.nanonis.codings import codings as coded_fields
from protocols.nanonis.commands import KNOWN_RELEASES, table
from protocols.nanonis.conventions import ChannelName, FrameArea, channel_name

NOW = table()


# Angles, frames, pixels


def test_angles_turn_the_other_way_in_degrees() -> None:
    """A quarter turn clockwise is 90 degrees there and -pi/2 here; zero has no sign."""
    assert np.isclose(conventions.angle_rad(90.0), -math.pi / 2, rtol=1e-15, atol=0)
    assert np.isclose(conventions.angle_deg(math.pi / 6), -30.0, rtol=1e-15, atol=0)
    assert math.copysign(1, conventions.angle_rad(0.0)) == 1
    assert math.copysign(1, conventions.angle_deg(0.0)) == 1


@given(st.floats(-10, 10))
def test_angles_come_back(angle: float) -> None:
    """There and back is the same angle."""
    assert math.isclose(
        conventions.angle_rad(conventions.angle_deg(angle)), angle, rel_tol=1e-14, abs_tol=1e-300
    )


def test_frame_goes_out_and_comes_back() -> None:
    """Centre and sides go out as they are, the angle clockwise; back it is the same frame."""
    area = FrameArea(centre_x_m=1e-7, centre_y_m=-2e-7, width_m=5e-8, height_m=2.5e-8, angle_rad=math.pi / 4)
    sent = conventions.frame_arguments(area)
    assert tuple(sent) == NOW["Scan.FrameSet"].arguments.names
    assert np.isclose(sent["angle_deg"], -45.0, rtol=1e-15, atol=0)
    body = NOW["Scan.FrameSet"].encode_arguments(**sent)
    back = conventions.frame_area(NOW["Scan.FrameGet"].decode_result(body))
    assert np.allclose(
        [back.centre_x_m, back.centre_y_m, back.width_m, back.height_m, back.angle_rad],
        [1e-7, -2e-7, 5e-8, 2.5e-8, math.pi / 4],
        rtol=1e-7,
        atol=0,
    )


def test_a_grid_takes_the_same_names_as_a_frame() -> None:
    """The area's arguments also fit Pattern.GridSet."""
    names = conventions.frame_arguments(FrameArea(centre_x_m=0, centre_y_m=0, width_m=1, height_m=1))
    assert set(names) < set(NOW["Pattern.GridSet"].arguments.names)


def test_piezo_limits_lie_half_a_range_to_either_side() -> None:
    """The range is the full travel, centred on zero."""
    assert conventions.piezo_limits(3e-6) == (-1.5e-6, 1.5e-6)


@pytest.mark.parametrize(
    ("asked", "got"), [(1, 16), (0, 16), (16, 16), (23, 16), (24, 32), (25, 32), (100, 96), (256, 256)]
)
def test_pixels_are_coerced_to_the_closest_multiple(asked: int, got: int) -> None:
    """The electronics change the number of pixels to the closest multiple of 16."""
    assert conventions.coerced_pixels(asked) == got


def test_pixels_that_would_be_changed_are_refused() -> None:
    """We ask only for what stays as it is; the error names the neighbours."""
    conventions.check_pixels(64)
    with pytest.raises(UsageError, match="Take 96 or 112"):
        conventions.check_pixels(100)
    with pytest.raises(UsageError, match="Take 16 or 32"):
        conventions.check_pixels(0)


def test_scan_speed_from_line_time() -> None:
    """10 nm in 0.5 s are 20 nm/s; twice as fast back takes half the time; the time is kept."""
    values = conventions.speed_arguments(10e-9, 0.5, 2.0)
    assert np.isclose(values["forward_linear_speed_m_s"], 20e-9, rtol=1e-15, atol=0)
    assert np.isclose(values["backward_linear_speed_m_s"], 40e-9, rtol=1e-15, atol=0)
    assert values["backward_time_per_line_s"] == 0.25
    assert to_codes("Scan.SpeedSet", values)["keep_constant"] == 2
    assert tuple(values) == NOW["Scan.SpeedSet"].arguments.names
    with pytest.raises(UsageError, match="line_time_s"):
        conventions.speed_arguments(10e-9, 0.0)


# Rows


def test_a_live_frame_has_the_top_line_first() -> None:
    """Row 0 there is our last row; columns stay; NaN is what was not scanned."""
    data = np.array([[np.nan, np.nan], [3, 4], [1, 2]], np.float32)
    frame = conventions.frame_from_grab(data)
    assert np.array_equal(frame, [[1, 2], [3, 4], [np.nan, np.nan]], equal_nan=True)
    assert frame.dtype == np.float64
    assert np.array_equal(conventions.grab_from_frame(frame), data, equal_nan=True)


def test_rows_of_zeros_are_not_scanned() -> None:
    """Some servers fill with zeros: a row of zeros is not scanned, a single zero is a value."""
    data = [[0, 0], [0, 1]]
    assert np.array_equal(conventions.frame_from_grab(data), [[0, 1], [np.nan, np.nan]], equal_nan=True)
    assert np.array_equal(conventions.frame_from_grab(data, zeros_unscanned=False), [[0, 1], [0, 0]])


def test_mirrored_backward_data() -> None:
    """Where backward data come in the order of travel, they are turned round, both ways."""
    frame = conventions.frame_from_grab([[1, 2, 3]], mirrored=True)
    assert frame.tolist() == [[3, 2, 1]]
    assert conventions.grab_from_frame(frame, mirrored=True).tolist() == [[1, 2, 3]]


def test_a_grab_that_is_no_frame() -> None:
    """Data that are not two-dimensional are the peer's fault."""
    with pytest.raises(MalformedMessageError):
        conventions.frame_from_grab([1.0, 2.0])


@pytest.mark.parametrize(("upward", "lines"), [(True, 2), (False, 1)])
def test_lines_are_counted_from_where_the_scan_began(upward: bool, lines: int) -> None:
    """Up-scans fill from our row 0 on, down-scans from the last row on; half a line does not count."""
    frame = [[1, 1], [1, 1], [1, np.nan], [1, 1]]
    assert conventions.scanned_lines(frame, upward=upward) == lines


def test_whole_and_empty_frames_are_counted() -> None:
    """All lines of a whole frame, none of an empty one."""
    assert conventions.scanned_lines(np.ones((3, 2)), upward=True) == 3
    assert conventions.scanned_lines(np.full((3, 2), np.nan), upward=False) == 0


@pytest.mark.parametrize(
    ("upward", "backward", "stored"),
    [
        (True, False, [[1, 2], [3, 4]]),
        (False, False, [[3, 4], [1, 2]]),
        (True, True, [[2, 1], [4, 3]]),
        (False, True, [[4, 3], [2, 1]]),
    ],
)
def test_files_hold_the_order_of_acquisition(upward: bool, backward: bool, stored: list[list[int]]) -> None:
    """In a file up-scans begin at the bottom, down-scans at the top, and backward lines at the right."""
    frame = [[1, 2], [3, 4]]
    assert conventions.file_from_frame(frame, upward=upward, backward=backward).tolist() == stored
    assert conventions.frame_from_file(stored, upward=upward, backward=backward).tolist() == frame


# Sweeps and signals


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Current (A)", ChannelName("Current", "A")),
        ("Current [bwd] (A)", ChannelName("Current", "A", ("bwd",))),
        ("LI Demod 1 X [AVG] [bwd] (A)", ChannelName("LI Demod 1 X", "A", ("AVG", "bwd"))),
        ("Bias calc (V)", ChannelName("Bias calc", "V")),
        ("Input 3", ChannelName("Input 3")),
        ("Counter 1 (raw) (Hz)", ChannelName("Counter 1 (raw)", "Hz")),
    ],
)
def test_channel_names_come_apart_and_together(text: str, parts: ChannelName) -> None:
    """Quantity, tags and unit; put together they are the name again."""
    assert channel_name(text) == parts
    assert str(parts) == text
    assert parts.backward == ("bwd" in text)


@given(st.text(max_size=20))
def test_any_name_has_parts(text: str) -> None:
    """Names of any shape are taken apart without an error."""
    assert isinstance(channel_name(text), ChannelName)


def test_a_sweep_has_a_row_for_each_channel() -> None:
    """Rows are channels; the swept one is the first."""
    channels = conventions.sweep_channels(
        ("Bias calc (V)", "Current (A)"), np.array([[-1, 1], [2, 3]], np.float32)
    )
    assert list(channels) == ["Bias calc (V)", "Current (A)"]
    assert channels["Current (A)"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c"), ("a", "a")])
def test_a_sweep_whose_names_do_not_fit(names: tuple[str, ...]) -> None:
    """Too few, too many or repeated names are the peer's fault."""
    with pytest.raises(MalformedMessageError):
        conventions.sweep_channels(names, np.zeros((2, 5)))


def test_signals_are_found_by_name() -> None:
    """With or without the unit; an unknown one is told with the list."""
    names = ("Current (A)", "", "Z (m)", "Z")
    assert conventions.signal_index(names, "Z (m)") == 2
    assert conventions.signal_index(names, "Current") == 0
    assert conventions.signal_index(names, "Z") == 3
    with pytest.raises(UsageError, match="Frequency"):
        conventions.signal_index(names, "Frequency")


# Times


def test_timeouts_are_whole_milliseconds() -> None:
    """Never shorter than asked; None is for ever, and comes back as None."""
    assert conventions.timeout_ms(0.2) == 200
    assert conventions.timeout_ms(0.0001) == 1
    assert conventions.timeout_ms(None) == -1
    assert conventions.timeout_s(-1) is None
    assert conventions.timeout_s(250) == 0.25
    for bad in (-0.1, math.nan, math.inf, 3e6):
        with pytest.raises(UsageError):
            conventions.timeout_ms(bad)


@pytest.mark.parametrize(
    ("command", "arguments", "wait"),
    [
        ("Bias.Get", (), 0.0),
        ("BiasSpectr.Start", (0, ""), None),
        ("Scan.WaitEndOfScan", (-1,), None),
        ("Scan.WaitEndOfScan", (1500,), 1.5),
        ("ZCtrl.Withdraw", (1, 2000), 2.0),
        ("ZCtrl.Withdraw", (0, 2000), 0.0),
        ("FolMe.XYPosSet", (0, 0, 1), None),
        ("FolMe.XYPosGet", (1,), 0.0),
        ("TipShaper.Start", (1, -1), None),
        ("Motor.PosGet", (0, 500), 0.0),
    ],
)
def test_what_keeps_a_connection_busy(command: str, arguments: tuple[Any, ...], wait: float | None) -> None:
    """Commands that wait are known before they are sent: they must not share a connection with a stop."""
    found = NOW[command]
    values = found.decode_arguments(found.encode_arguments(*arguments))
    assert conventions.longest_wait_s(command, values) == wait


# Codings


@pytest.mark.parametrize(
    ("command", "field", "meaning", "asked", "answered"),
    [
        ("BiasSpectr.Props", "autosave", True, 1, 1),
        ("BiasSpectr.Props", "autosave", False, 2, 0),
        ("BiasSpectr.AdvProps", "z_controller_hold", False, 2, 0),
        ("Scan.Props", "continuous_scan", False, 2, 0),
        ("Scan.Props", "autosave", "all", 1, 0),
        ("Scan.Props", "autosave", "next", 2, 1),
        ("Scan.Props", "autosave", "off", 3, 2),
        ("Scan.Speed", "keep_constant", "linear speed", 1, 0),
        ("Scan.Speed", "keep_constant", "time per line", 2, 1),
        ("SafeTip.OnOff", "status", False, 2, 0),
        ("ZCtrl.HomeProps", "absolute_relative", "absolute", 1, 0),
        ("ZCtrl.HomeProps", "absolute_relative", "relative", 2, 1),
        ("ZCtrl.OnOff", "status", False, 0, 0),
        ("LockIn.ModOnOff", "on_off", True, 1, 1),
        ("FolMe.Speed", "custom_speed", False, 0, 0),
        ("Piezo.DriftComp", "on_off", False, 2, 0),
        ("TipShaper.Props", "restore_feedback", False, 2, 0),
    ],
)
def test_setting_and_reading_are_coded_differently(
    command: str, field: str, meaning: Any, asked: int, answered: int
) -> None:
    """The same meaning has one code in a request and another in an answer; both come back as the meaning."""
    assert to_codes(f"{command}Set", {field: meaning}) == {field: asked}
    assert to_meanings(f"{command}Set", {field: asked}) == {field: meaning}
    assert to_codes(f"{command}Get", {field: meaning}, result=True) == {field: answered}
    assert to_meanings(f"{command}Get", {field: answered}, result=True) == {field: meaning}


@pytest.mark.parametrize(
    ("release", "unchanged", "off", "on"), [(10862, "refused", 0, 1), (13742, -1, 0, 1), (14718, 0, 2, 1)]
)
def test_drift_compensation_has_three_codings(release: int, unchanged: Any, off: int, on: int) -> None:
    """The switch of the drift compensation changed its coding with the releases."""
    known = coded_fields("Piezo.DriftCompSet", release)["on_off"]
    assert known.code(False, answer=False, what="x") == off
    assert known.code(True, answer=False, what="x") == on
    if unchanged == "refused":
        with pytest.raises(UsageError):
            known.code(None, answer=False, what="x")
    else:
        assert known.code(None, answer=False, what="x") == unchanged


def test_pulse_is_relative_before_absolute() -> None:
    """In a bias pulse 1 is relative and 2 absolute, the reverse of the home position."""
    meanings = to_meanings("Bias.Pulse", {"z_hold": 1, "absolute_relative": 2, "bias_v": 1.0})
    assert meanings == {"z_hold": True, "absolute_relative": "absolute", "bias_v": 1.0}


def test_directions() -> None:
    """Up and forward are 1; a grab's argument is the way of the line, its result the way of the frame."""
    assert to_codes("Scan.Action", {"action": "start", "direction": "up"}) == {"action": 0, "direction": 1}
    assert to_codes("Scan.FrameDataGrab", {"direction": "forward"}) == {"direction": 1}
    assert to_meanings("Scan.FrameDataGrab", {"direction": 0}, result=True) == {"direction": "down"}
    assert to_codes("Motor.StartMove", {"direction": "z-"}) == {"direction": 5}
    assert to_meanings("ZCtrl.StatusGet", {"status": 6}, result=True) == {"status": "withdrawing"}


def test_nan_zero_and_nothing_mean_no_change() -> None:
    """In requests NaN times, zero counts and empty names change nothing; in answers they are values."""
    asked = to_codes("BiasSpectr.TimingSet", {"z_offset_m": None, "settling_time_s": 0.0})
    assert math.isnan(asked["z_offset_m"]) and asked["settling_time_s"] == 0.0
    assert to_meanings("BiasSpectr.TimingSet", {"z_offset_m": math.nan}) == {"z_offset_m": None}
    assert to_meanings("BiasSpectr.PropsSet", {"number_of_points": 0}) == {"number_of_points": None}
    assert to_meanings("BiasSpectr.PropsGet", {"number_of_points": 0}, result=True) == {"number_of_points": 0}
    assert to_codes("BiasSpectr.Start", {"get_data": True, "basename": None}) == {
        "get_data": 1,
        "basename": "",
    }


@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("BiasSpectr.PropsSet", {"number_of_points": 0}),
        ("BiasSpectr.TimingSet", {"z_offset_m": math.nan}),
        ("BiasSpectr.PropsSet", {"autosave": 1}),
        ("Scan.PropsSet", {"autosave": True}),
        ("ZCtrl.OnOffSet", {"status": None}),
        ("Scan.Action", {"action": "jump"}),
    ],
)
def test_what_cannot_be_meant_is_refused(command: str, values: dict[str, Any]) -> None:
    """A value that would mean "no change", a bare code, or a meaning that is not there is our mistake."""
    with pytest.raises(UsageError, match=command.replace(".", r"\.")):
        to_codes(command, values)


def test_codes_without_a_meaning_are_told() -> None:
    """A code that is not defined is the peer's fault; the error lists what is."""
    with pytest.raises(MalformedMessageError, match=r"ZCtrl\.StatusGet, status: 7 has no meaning"):
        to_meanings("ZCtrl.StatusGet", {"status": 7}, result=True)


def test_every_coding_belongs_to_a_command_and_a_field() -> None:
    """No entry of the table of codings is misspelt, and a choice has each code only once."""
    fields = {
        (stem, name)
        for release in KNOWN_RELEASES
        for command in table(release)
        for stem in (command, command.removesuffix("Set").removesuffix("Get"))
        for name in (*table(release)[command].arguments.names, *table(release)[command].result.names)
    }
    for stem, its_fields in codings._CODINGS.items():
        for name, coding in its_fields.items():
            assert (stem, name) in fields
            if isinstance(coding, Choice):
                for codes in (coding.in_request, coding.in_answer):
                    assert len(set(codes.values())) == len(codes)
