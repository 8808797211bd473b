"""Reading .3ds grids strictly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sim_hardware.recorded
from protocols.errors import DataFormatError
from protocols.files.nanonis_grid import HEADER_END, name_and_unit, read_grid

DEMO = Path(sim_hardware.recorded.__path__[0]) / "NanonisReader_STS_grid_lockin.3ds"


def written(path: Path, *, nx: int = 4, ny: int = 3, points: int = 5, **changes: str) -> Path:
    """A small grid whose sample values count upward."""
    header = {
        "Grid dim": f'"{nx} x {ny}"',
        "Grid settings": "1E-8;2E-8;4E-9;3E-9;3E+1",
        "Sweep Signal": '"Bias (V)"',
        "Fixed parameters": '"Sweep Start;Sweep End"',
        "Experiment parameters": '"X (m);Y (m);Z (m)"',
        "# Parameters (4 byte)": "5",
        "Experiment size (bytes)": str(4 * points * 2),
        "Points": str(points),
        "Channels": '"Current (A);LI Demod 1 X [bwd] (A)"',
        **changes,
    }
    per_point = 5 + 2 * points
    table = np.arange(nx * ny * per_point, dtype=">f4").reshape(ny * nx, per_point)
    table[:, 0], table[:, 1] = -1.0, 1.0
    text = "\r\n".join(f"{key}={value}" for key, value in header.items())
    path.write_bytes(text.encode() + b"\r\n" + HEADER_END + table.tobytes())
    return path


def test_the_recorded_grid() -> None:
    """The grid that ships with us: 30 x 30 points of 200 samples over 5 nm, -0.22 to 0.22 V, turned by -45
    degrees counter-clockwise, 8 spectra with the lock-in at its rail."""
    grid = read_grid(DEMO)
    assert grid.shape == (30, 30)
    assert np.allclose(grid.sweep[[0, -1]], [-0.22, 0.22], rtol=1e-12, atol=0)
    assert len(grid.sweep) == 200
    assert list(grid.channels) == ["Current (A)", "LockinX (V)", "LockinY (V)", "Bias_m (V)"]
    assert grid.channels["LockinX (V)"].shape == (30, 30, 200)
    assert np.isclose(grid.angle_rad, -np.pi / 4, rtol=1e-9, atol=0)
    assert np.sum(grid.channels["LockinX (V)"].max(axis=2) >= 10.0) == 8
    assert np.allclose(np.diff(grid.x_m), 5e-9 / 30, rtol=1e-9, atol=0)


def test_rows_and_columns_are_those_of_the_grids_own_axes() -> None:
    """The positions that the electronics noted at each point are the own frame's, turned and shifted:
    columns go along x, rows along y (to 1 pm)."""
    grid = read_grid(DEMO)
    x, y = grid.parameters["X (m)"], grid.parameters["Y (m)"]
    cos, sin = np.cos(grid.angle_rad), np.sin(grid.angle_rad)
    u = (x - x.mean()) * cos + (y - y.mean()) * sin
    v = -(x - x.mean()) * sin + (y - y.mean()) * cos
    assert np.allclose(u, np.broadcast_to(grid.x_m, u.shape), rtol=0, atol=1e-12)
    assert np.allclose(v, np.broadcast_to(grid.y_m[:, None], v.shape), rtol=0, atol=1e-12)


def test_big_endian_values_by_name(tmp_path: Path) -> None:
    """Parameters and channels come out at the right point, row by row from the lowest y, x fastest."""
    grid = read_grid(written(tmp_path / "small.3ds"))
    per_point = 15
    assert grid.shape == (3, 4)
    for row, col in ((0, 0), (0, 3), (2, 1)):
        first = (row * 4 + col) * per_point
        assert grid.parameters["Z (m)"][row, col] == first + 4
        assert np.array_equal(grid.channels["Current (A)"][row, col], first + 5 + np.arange(5))
        assert np.array_equal(grid.channels["LI Demod 1 X [bwd] (A)"][row, col], first + 10 + np.arange(5))
    assert np.allclose(grid.x_m, [-1.5e-9, -0.5e-9, 0.5e-9, 1.5e-9], rtol=1e-9, atol=0)
    assert np.allclose(grid.y_m, [-1e-9, 0.0, 1e-9], rtol=1e-9, atol=1e-24)
    assert (grid.centre_x_m, grid.centre_y_m) == (1e-8, 2e-8)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_truncation_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    """However many bytes are missing, or too many: a format error, never a wrong grid."""
    path = written(tmp_path / "whole.3ds")
    whole = path.read_bytes()
    keep = data.draw(st.integers(0, len(whole) - 1))
    cut = tmp_path / "cut.3ds"
    cut.write_bytes(whole[:keep])
    with pytest.raises(DataFormatError, match=r"cut\.3ds"):
        read_grid(cut)
    cut.write_bytes(whole + b"\0" * data.draw(st.integers(1, 50)))
    with pytest.raises(DataFormatError, match="damaged"):
        read_grid(cut)


def test_truncation_names_expected_and_found(tmp_path: Path) -> None:
    """The error says how many bytes there should be, how many there are, and how many points are whole."""
    path = written(tmp_path / "grid.3ds")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        DataFormatError, match=r"expected 720 bytes .* 4 x 3 points, found 620 \(10 whole points\)"
    ):
        read_grid(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("Grid dim", '"four x 3"', "Grid dim"),
        ("Grid settings", "1;2;3", "Grid settings"),
        ("Points", "0", "Points"),
        ("Points", "6", "states 40 bytes per point"),
        ("# Parameters (4 byte)", "7", "names 5 parameters but counts 7"),
        ("Experiment size (bytes)", "44", "states 44 bytes per point"),
        ("Fixed parameters", '"Begin;End"', "no parameter 'Sweep Start'"),
    ],
)
def test_inconsistent_headers(tmp_path: Path, key: str, value: str, message: str) -> None:
    """A header that contradicts itself or the data is refused; the error names file and key or both
    counts."""
    with pytest.raises(DataFormatError, match=r"odd\.3ds") as caught:
        read_grid(written(tmp_path / "odd.3ds", **{key: value}))
    assert message in str(caught.value)


def test_not_a_grid(tmp_path: Path) -> None:
    """Random bytes, an empty file and a missing one are named as such."""
    for content in (b"", b"\x00\xff" * 5000):
        path = tmp_path / "noise.3ds"
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match="HEADER_END"):
            read_grid(path)
    with pytest.raises(DataFormatError, match="cannot be read"):
        read_grid(tmp_path / "missing.3ds")


def test_names_and_units() -> None:
    """Labels split into name and unit; direction marks stay with the name."""
    assert name_and_unit("Current (A)") == ("Current", "A")
    assert name_and_unit("LI Demod 1 X (A) [bwd]") == ("LI Demod 1 X [bwd]", "A")
    assert name_and_unit("Z-Ctrl hold") == ("Z-Ctrl hold", "")
