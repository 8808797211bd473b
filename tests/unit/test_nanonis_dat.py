"""Reading and writing .dat spectra."""

from __future__ import annotations

import dataclasses
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocols.errors import DataFormatError, UsageError
from protocols.files.nanonis_dat import DatFile, read_dat, write_dat

DATA = Path(os.environ.get("TUNNELPILOT_DATA", "/nowhere"))
real_files = pytest.mark.skipif(not (DATA / "nanonis_files").is_dir(), reason="needs TUNNELPILOT_DATA")

WHEN = datetime(2026, 11, 21, 9, 5, 7)


def spectrum(**changes: object) -> DatFile:
    """Three points of bias and current."""
    plain = DatFile(
        columns={
            "Bias calc (V)": np.array([-0.3, 0.0, 0.3]),
            "Current (A)": np.array([-1e-12, np.nan, 1.25e-10]),
        },
        saved=WHEN,
        started=WHEN,
        x_m=-890.53e-12,
        y_m=29.6968e-9,
        z_m=130.5e-9,
        z_offset_m=0.0,
        settling_s=2.1e-3,
        integration_s=150e-6,
        z_hold=True,
        comments=("a comment",),
        settings={"Z-Controller>Setpoint": 50e-12, "Bias>Bias (V)": 0.1, "Bias Spectroscopy>Num Pixel": 3},
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_the_file_is_what_the_software_writes(tmp_path: Path) -> None:
    """Lines, their order and ends, numbers and the table, byte for byte; modules in alphabetical order."""
    write_dat(tmp_path / "a.dat", spectrum())
    assert (tmp_path / "a.dat").read_bytes().decode() == "\r\n".join(
        [
            "Experiment\tbias spectroscopy\t",
            "Saved Date\t21.11.2026 09:05:07\t",
            "User\t\t",
            "Date\t21.11.2026 09:05:07\t",
            "X (m)\t-890.53E-12\t",
            "Y (m)\t29.6968E-9\t",
            "Z (m)\t130.5E-9\t",
            "Z offset (m)\t0E+0\t",
            "Settling time (s)\t2.1E-3\t",
            "Integration time (s)\t150E-6\t",
            "Z-Ctrl hold\tTRUE\t",
            "Final Z (m)\tN/A\t",
            "Start time\t21.11.2026 09:05:07\t",
            "Filter type\tNone\t",
            "Order\t\t",
            "Cutoff frq\t\t",
            "Comment01\ta comment\t",
            "Bias>Bias (V)\t100E-3\t",
            "Bias Spectroscopy>Num Pixel\t3\t",
            "Z-Controller>Setpoint\t50E-12\t",
            "",
            "[DATA]",
            "Bias calc (V)\tCurrent (A)",
            "-3.0000000E-1\t-1.0000000E-12",
            "0.0000000E+0\tNaN",
            "3.0000000E-1\t1.2500000E-10",
            "",
        ]
    )


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    """Everything but the types of the settings, which come as text."""
    written = spectrum(final_z_m=1.5e-9, user="someone", other={"Instrument": "simulated"})
    write_dat(tmp_path / "a.dat", written)
    back = read_dat(tmp_path / "a.dat")
    plain = {"columns": {}, "settings": {}}
    assert dataclasses.replace(back, **plain) == dataclasses.replace(written, **plain)
    assert list(back.columns) == list(written.columns)
    assert back.settings["Bias>Bias (V)"] == "100E-3"
    assert back.sweep_name == "Bias calc (V)" and back.points == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12))),
    user=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)
def test_round_trip(tmp_path: Path, table: npt.NDArray[np.float32], user: str) -> None:
    """Any numbers, NaN and infinities among them, come back to the eight digits of the format."""
    columns = {f"Channel {i} [bwd] (A)": row for i, row in enumerate(table)}
    write_dat(tmp_path / "a.dat", spectrum(columns=columns, user=user, settings={}))
    back = read_dat(tmp_path / "a.dat")
    for name, row in columns.items():
        assert np.allclose(back.columns[name], row.astype(np.float64), rtol=5.1e-8, atol=0, equal_nan=True)
    assert back.user == user


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_an_error_or_padded(tmp_path: Path, share: float) -> None:
    """Cut at any byte: an error that names the file; read as partial, whole rows and NaN, never another
    number."""
    whole, cut = tmp_path / "whole.dat", tmp_path / "cut.dat"
    if not whole.exists():
        write_dat(whole, spectrum())
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataFormatError, match=r"cut\.dat"):
        read_dat(cut)
    try:
        part = read_dat(cut, partial=True)
    except DataFormatError:
        return
    for name, values in spectrum().columns.items():
        found = part.columns[name]
        kept = int(np.sum(np.isfinite(part.columns["Bias calc (V)"])))
        assert len(found) == 3 and np.all(np.isnan(found[kept:]))
        assert np.allclose(found[:kept], values[:kept], rtol=5.1e-8, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"3.0000000E-1\t1.25", b"3.0000000E-1;1.25", "line 26 has 1 values for 2 columns"),
        (b"1.2500000E-10", b"1.25OOOOOE-10", "line 26 is '1.25OOOOOE-10', not a number"),
        (b"130.5E-9", b"130.5E--9", r"line 7 \(Z \(m\)\) is '130.5E--9', not a number"),
        (b"[DATA]", b"[DATEN]", "line 22 is '\\[DATEN\\]'; a key, a tab and a value were expected"),
        (b"Current (A)", b"Bias calc (V)", "line 23: the column names .* repeat"),
        (b"Saved Date\t21.11.", b"Saved Date\t21/11.", r"line 2 \(Saved Date\) is .*, not a date"),
    ],
)
def test_damage_is_named(tmp_path: Path, old: bytes, new: bytes, expected: str) -> None:
    """The error says which line, what was expected and what stands there."""
    path = tmp_path / "a.dat"
    write_dat(path, spectrum())
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(DataFormatError, match=expected):
        read_dat(path)


def test_what_is_no_spectrum_is_refused(tmp_path: Path) -> None:
    """No columns, no rows, columns of different lengths, names with tabs; nothing is left on the disk."""
    one, two = np.zeros(1), np.zeros(2)
    for columns in ({}, {"a": np.zeros(0)}, {"a": one, "b": two}, {"a\tb": one}, {"": one}):
        with pytest.raises(UsageError):
            write_dat(tmp_path / "a.dat", spectrum(columns=columns))
    assert list(tmp_path.iterdir()) == []


def test_free_text_cannot_break_its_line(tmp_path: Path) -> None:
    """Tabs and line ends in a user's text become spaces."""
    write_dat(tmp_path / "a.dat", spectrum(user="a\tb\r\n[DATA]\r\nc"))
    assert read_dat(tmp_path / "a.dat").user == "a b [DATA] c"


@real_files
@pytest.mark.parametrize(
    ("name", "points", "columns", "first"),
    [
        ("nanonis_files/STS_nanonis_generic_5e_1.dat", 4096, 21, 4.8234696e-13),
        ("nanonis_files/filtered.dat", 200, 27, 1.02819e-9),
        ("nanonis_files/i_v.dat", 201, 15, -100.161e-12),
        ("sts_grid/NanonisReader_BiasSpectroscopy.dat", 256, 25, -10.0007e-9),
    ],
)
def test_files_of_real_electronics(name: str, points: int, columns: int, first: float) -> None:
    """Spectra of three generations, with LF and CRLF, filtered, with and without the way back."""
    found = read_dat(DATA / name)
    assert (found.points, len(found.columns)) == (points, columns)
    assert found.sweep_name == "Bias calc (V)"
    assert found.columns["Current (A)"][0] == first
    assert found.saved is not None and found.z_hold is True


@real_files
def test_a_real_file_written_again_has_the_same_table(tmp_path: Path) -> None:
    """Table and settings of the newest generation, read and written anew, are the same byte for byte."""
    path = DATA / "nanonis_files" / "STS_nanonis_generic_5e_1.dat"
    write_dat(tmp_path / "again.dat", read_dat(path))
    old, new = path.read_bytes(), (tmp_path / "again.dat").read_bytes()
    assert new[new.index(b"X (m)") :] == old[old.index(b"X (m)") :]
