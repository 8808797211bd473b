"""Reading and writing .sxm images."""

from __future__ import annotations

import dataclasses
import math
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocols.errors import DataFormatError, StorageError, UsageError
from protocols.files.nanonis_sxm import SxmChannel, SxmController, SxmFile, read_sxm, write_sxm
from protocols.files.nanonis_text import engineering, scientific
from protocols.nanonis.conventions import FrameArea

DATA = Path(os.environ.get("TUNNELPILOT_DATA", "/nowhere"))
real_files = pytest.mark.skipif(not (DATA / "nanonis_files").is_dir(), reason="needs TUNNELPILOT_DATA")

WHEN = datetime(2026, 11, 21, 9, 5, 7)
AREA = FrameArea(centre_x_m=1.5e-7, centre_y_m=-2e-7, width_m=5e-9, height_m=3e-9, angle_rad=-0.5)


def image(ny: int = 3, nx: int = 4, first: float = 0.0) -> npt.NDArray[np.float64]:
    """Every pixel differs."""
    return (first + np.arange(ny * nx, dtype=np.float64).reshape(ny, nx)) * 1e-12


def scan(**changes: object) -> SxmFile:
    """Z in both directions, current forward only."""
    plain = SxmFile(
        channels=(
            SxmChannel(name="Z", unit="m", index=30, forward=image(), backward=image(first=100.0)),
            SxmChannel(name="LI Demod 1 X", unit="A", index=86, forward=image(first=200.0), calibration=1e-9),
        ),
        area=AREA,
        upward=True,
        bias_v=-0.05,
        started=WHEN,
        acquisition_s=92.0,
        line_time_s=(0.1792, 0.2),
        controllers=(
            SxmController(
                name="log Current",
                on=True,
                setpoint=2.5e-10,
                p_gain_m=4e-12,
                i_gain_m_s=3e-8,
                time_constant_s=1e-4,
            ),
        ),
        comment="first\nsecond",
        scan_file=r"C:\Nanonis\Image_001.sxm",
        settings={
            "Bias>Bias (V)": -0.05,
            "Scan>lines": 3,
            "Z-Controller>hold": False,
            "Scan>Scanfield": (1e-9, 0.0),
        },
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def payload(path: Path) -> npt.NDArray[np.float32]:
    """The numbers as they stand in the file."""
    data = path.read_bytes()
    return np.frombuffer(data[data.index(b"\x1a\x04") + 2 :], ">f4").astype(np.float32)


def test_the_header_is_what_the_software_writes(tmp_path: Path) -> None:
    """Key order, widths, LabVIEW numbers, tables and the end of the header, byte for byte."""
    write_sxm(tmp_path / "a.sxm", scan())
    text = (tmp_path / "a.sxm").read_bytes()
    head = text[: text.index(b"\x1a\x04")].decode()
    assert head == (
        ":NANONIS_VERSION:\n2\n"
        ":SCANIT_TYPE:\n              FLOAT            MSBFIRST\n"
        ":REC_DATE:\n 21.11.2026\n:REC_TIME:\n09:05:07\n"
        ":REC_TEMP:\n      290.0000000000\n:ACQ_TIME:\n        92.0\n"
        ":SCAN_PIXELS:\n         4         3\n"
        ":SCAN_FILE:\nC:\\Nanonis\\Image_001.sxm\n"
        ":SCAN_TIME:\n             1.792E-1             2.000E-1\n"
        ":SCAN_RANGE:\n           5.000000E-9           3.000000E-9\n"
        ":SCAN_OFFSET:\n             1.500000E-7         -2.000000E-7\n"
        ":SCAN_ANGLE:\n            2.865E+1\n"
        ":SCAN_DIR:\nup\n:BIAS:\n            -5.000E-2\n"
        ":Z-CONTROLLER:\n\tName\ton\tSetpoint\tP-gain\tI-gain\tT-const\n"
        "\tlog Current\t1\t2.500E-10 A\t4.000E-12 m\t3.000E-8 m/s\t1.000E-4 s\n"
        ":COMMENT:\nfirst\nsecond\n"
        ":Bias>Bias (V):\n-50E-3\n:Scan>lines:\n3\n:Z-Controller>hold:\nFALSE\n:Scan>Scanfield:\n1E-9;0E+0\n"
        ":DATA_INFO:\n\tChannel\tName\tUnit\tDirection\tCalibration\tOffset\n"
        "\t30\tZ\tm\tboth\t1.000E+0\t0.000E+0\n"
        "\t86\tLI_Demod_1_X\tA\tforward\t1.000E-9\t0.000E+0\n\n"
        ":SCANIT_END:\n\n\n"
    )


@pytest.mark.parametrize("upward", [True, False])
def test_the_payload_is_in_the_order_of_acquisition(tmp_path: Path, upward: bool) -> None:
    """The first stored number is the one measured first: the bottom left for an upward scan, the top left for
    a downward one; backward lines begin at the right."""
    write_sxm(tmp_path / "a.sxm", scan(upward=upward))
    stored = payload(tmp_path / "a.sxm").reshape(3, 3, 4)
    z, order = image().astype(np.float32), 1 if upward else -1
    assert np.array_equal(stored[0], z[::order])
    assert np.array_equal(stored[1], image(first=100.0).astype(np.float32)[::order, ::-1])
    assert np.array_equal(stored[2], image(first=200.0).astype(np.float32)[::order])


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    """Header values to the digits that the file has, data to float32, settings as text."""
    write_sxm(tmp_path / "a.sxm", scan(upward=False))
    back = read_sxm(tmp_path / "a.sxm")
    assert (back.upward, back.started, back.comment) == (False, WHEN, "first\nsecond")
    assert back.scan_file == r"C:\Nanonis\Image_001.sxm"
    assert back.controllers == scan().controllers
    assert (back.bias_v, back.acquisition_s, back.line_time_s) == (-0.05, 92.0, (0.1792, 0.2))
    assert math.isclose(back.area.angle_rad, -0.5, rel_tol=1e-3)
    assert (back.area.width_m, back.area.centre_y_m) == (5e-9, -2e-7)
    assert back.settings["Bias>Bias (V)"] == "-50E-3"
    assert [channel.label for channel in back.channels] == ["Z (m)", "LI Demod 1 X (A)"]
    assert [channel.direction for channel in back.channels] == ["both", "forward"]
    assert np.array_equal(back.channel("Z (m)").backward, image(first=100.0).astype(np.float32))
    assert np.array_equal(back.channel("LI Demod 1 X").forward, image(first=200.0).astype(np.float32))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
    upward=st.booleans(),
    which=st.sampled_from(["both", "forward", "backward"]),
    comment=st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=60),
    centre=st.floats(-1e-6, 1e-6),
)
def test_round_trip(
    tmp_path: Path, data: npt.NDArray[np.float32], upward: bool, which: str, comment: str, centre: float
) -> None:
    """Whatever the numbers (NaN, infinities, denormals), direction or comment: the same to the bit."""
    channel = SxmChannel(
        name="Current",
        unit="A",
        index=0,
        forward=None if which == "backward" else data,
        backward=None if which == "forward" else data[::-1, ::-1],
    )
    area = FrameArea(centre_x_m=centre, centre_y_m=-centre, width_m=1e-9, height_m=2e-9)
    write_sxm(tmp_path / "a.sxm", scan(channels=(channel,), upward=upward, comment=comment, area=area))
    back = read_sxm(tmp_path / "a.sxm")
    for name in ("forward", "backward"):
        ours, theirs = getattr(channel, name), getattr(back.channels[0], name)
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert np.array_equal(ours, theirs.astype(np.float32), equal_nan=True)
    assert np.allclose(back.area.centre_x_m, centre, rtol=1e-6, atol=0)
    assert [line.strip() for line in back.comment.split("\n")] == [
        line.strip() for line in comment.split("\n")
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float) -> None:
    """Cut at any byte: an error that names the file, never an image."""
    whole, cut = tmp_path / "whole.sxm", tmp_path / "cut.sxm"
    if not whole.exists():
        write_sxm(whole, scan())
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataFormatError, match=r"cut\.sxm"):
        read_sxm(cut)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"SCAN_DIR:\nup", b"SCAN_DIR:\nno", "line 26 .SCAN_DIR. is 'no'"),
        (b"         4         3", b"         4         x", "line 14 .SCAN_PIXELS. is 'x', not a number"),
        (b"         4         3", b"         4        30", "expected 1440 bytes of data from offset"),
        (b"\tboth\t", b"\tBOTH\t", "DATA_INFO: direction 'BOTH'"),
        (b" 21.11.2026", b" 2026-11-21", "REC_DATE. is '2026-11-21 09:05:07', not a date"),
        (b"FLOAT ", b"SHORT ", "not 'FLOAT MSBFIRST'"),
        (b":SCAN_RANGE:", b":SCAN_ORANGE:", "header key 'SCAN_RANGE' is missing"),
        (b"\n\n\x1a\x04", b"\n\n\x1a\x05", "1A 04 were expected, found 0a 0a 1a 05"),
    ],
)
def test_damage_is_named(tmp_path: Path, old: bytes, new: bytes, expected: str) -> None:
    """The error says which line or offset, what was expected and what stands there."""
    path = tmp_path / "a.sxm"
    write_sxm(path, scan())
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(DataFormatError, match=expected):
        read_sxm(path)


def test_surplus_bytes_are_an_error(tmp_path: Path) -> None:
    """Data that the header does not explain are not silently dropped."""
    write_sxm(tmp_path / "a.sxm", scan())
    with (tmp_path / "a.sxm").open("ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(DataFormatError, match="found 148"):
        read_sxm(tmp_path / "a.sxm")


def test_a_comment_cannot_forge_a_key(tmp_path: Path) -> None:
    """Free text that looks like the header's own lines stays a comment."""
    write_sxm(tmp_path / "a.sxm", scan(comment=":SCAN_DIR:\ndown\n:SCANIT_END:\n\x1a\x04"))
    back = read_sxm(tmp_path / "a.sxm")
    assert back.upward
    assert ":SCAN_DIR:" in back.comment


def test_what_is_no_scan_is_refused(tmp_path: Path) -> None:
    """Channels of different shapes, none at all, or one without data; nothing is left on the disk."""
    bare = SxmChannel(name="Z", unit="m", index=30)
    small = dataclasses.replace(bare, forward=image(2, 2))
    for channels in ((), (bare,), (scan().channels[0], small)):
        with pytest.raises(UsageError):
            write_sxm(tmp_path / "a.sxm", scan(channels=channels))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A folder that is missing is a storage error that names the path; a file in place is replaced whole."""
    with pytest.raises(StorageError, match="missing"):
        write_sxm(tmp_path / "missing" / "a.sxm", scan())
    write_sxm(tmp_path / "a.sxm", scan())
    write_sxm(tmp_path / "a.sxm", scan(upward=False))
    assert not read_sxm(tmp_path / "a.sxm").upward
    assert [path.name for path in tmp_path.iterdir()] == ["a.sxm"]


@real_files
@pytest.mark.parametrize(
    ("name", "upward", "shape", "varies"),
    [
        ("nanonis_files/Au_mica_2023_Y_A_diPAMY_195.sxm", False, (256, 256), "Current"),
        ("nanonis_files/STM_nanonis_generic_4_5.sxm", False, (256, 256), "Z"),
        ("drift_pair/01514.sxm", True, (160, 160), "Frequency Shift"),
    ],
)
def test_files_of_real_electronics(name: str, upward: bool, shape: tuple[int, int], varies: str) -> None:
    """Three generations are read; forward and backward images then show the same surface."""
    scanned = read_sxm(DATA / name)
    assert (scanned.upward, scanned.shape) == (upward, shape)
    both = scanned.channel(varies)
    assert both.forward is not None and both.backward is not None
    forward, backward = (np.diff(data, axis=1).ravel() for data in (both.forward, both.backward))
    mirrored = np.diff(both.backward[:, ::-1], axis=1).ravel()
    assert np.corrcoef(forward, backward)[0, 1] > abs(np.corrcoef(forward, mirrored)[0, 1])


@real_files
@pytest.mark.parametrize("name", ["STM_nanonis_generic_4_5.sxm", "Au_mica_2023_Y_A_diPAMY_195.sxm"])
def test_a_real_file_written_again_is_the_same(name: str, tmp_path: Path) -> None:
    """Read and written anew, a file of real electronics is the same byte for byte."""
    path = DATA / "nanonis_files" / name
    write_sxm(tmp_path / "again.sxm", read_sxm(path))
    assert (tmp_path / "again.sxm").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-29.6486e-12, "-29.6486E-12"),
        (20e3, "20E+3"),
        (0.0, "0E+0"),
        (1.0, "1E+0"),
        (0.05, "50E-3"),
        (999.9999e-3, "1E+0"),
        (-113.25e-15, "-113.25E-15"),
        (33.3e-9, "33.3E-9"),
        (300.0, "300E+0"),
        (math.inf, "Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_engineering_notation(value: float, text: str) -> None:
    """As settings stand in files of real electronics."""
    assert engineering(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_digits(value: float) -> None:
    """Both notations read back to the digits they have; the exponent of the one is a multiple of three."""
    assert np.allclose(float(engineering(value)), float(f"{value:.5e}"), rtol=1e-15, atol=0)
    assert int(engineering(value).split("E")[1]) % 3 == 0
    assert float(scientific(value, 7)) == float(f"{value:.7e}")
