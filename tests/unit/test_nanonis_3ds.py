"""Writing .3ds grids, read back by our strict reader."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sim_hardware.recorded
from protocols.errors import DataFormatError, StorageError, UsageError
from protocols.files.nanonis_3ds import GridHeader, GridWriter, grid_positions
from protocols.files.nanonis_grid import read_grid
from protocols.nanonis.conventions import FrameArea

DEMO = Path(sim_hardware.recorded.__path__[0]) / "NanonisReader_STS_grid_lockin.3ds"
WHEN, LATER = datetime(2026, 11, 21, 9, 5, 7), datetime(2026, 11, 22, 0, 0, 1)
AREA = FrameArea(centre_x_m=1e-8, centre_y_m=2e-8, width_m=4e-9, height_m=3e-9, angle_rad=0.25)


def grid_header(**changes: object) -> GridHeader:
    """Four by three points of five samples in two channels."""
    plain = GridHeader(
        nx=4,
        ny=3,
        area=AREA,
        points=5,
        channels=("Current (A)", "LI Demod 1 X [bwd] (A)"),
        started=WHEN,
        comment="test",
        settings={"Bias>Bias (V)": 0.05, "Scan>lines": 3},
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def point(header: GridHeader, k: int) -> tuple[list[float], npt.NDArray[np.float32]]:
    """Parameters and samples of the k-th point, all different."""
    xy = grid_positions(header.nx, header.ny, header.area)[k]
    count = len(header.channels) * header.points
    samples = (k + 1) * 1e-12 * np.arange(1, count + 1).reshape(len(header.channels), header.points)
    return [-0.2, 0.2, *xy, 1e-9 * k, 0.0, 1e-3, 2e-3, 1.0, 1e-9], samples.astype(np.float32)


def written(path: Path, header: GridHeader, points: int) -> Path:
    """A grid with its first points."""
    with GridWriter(path, header) as grid:
        for k in range(points):
            grid.append(*point(header, k))
    return path


def test_the_header_is_what_the_software_writes(tmp_path: Path) -> None:
    """Keys in their order, quotes, LabVIEW numbers and line ends, byte for byte; the end time is noted at the
    close."""
    grid = GridWriter(tmp_path / "a.3ds", grid_header())
    grid.close(LATER)
    assert (tmp_path / "a.3ds").read_bytes().decode() == "\r\n".join(
        [
            'Grid dim="4 x 3"',
            "Grid settings=1.000000E-8;2.000000E-8;4.000000E-9;3.000000E-9;-1.432394E+1",
            "Filetype=Linear",
            'Sweep Signal="Bias (V)"',
            'Fixed parameters="Sweep Start;Sweep End"',
            'Experiment parameters="X (m);Y (m);Z (m);Z offset (m);Settling time (s);Integration time (s);'
            'Z-Ctrl hold;Final Z (m)"',
            "# Parameters (4 byte)=10",
            "Experiment size (bytes)=40",
            "Points=5",
            'Channels="Current (A);LI Demod 1 X [bwd] (A)"',
            "Delay before measuring (s)=0.000000E+0",
            'Experiment="Grid Spectroscopy"',
            'Start time="21.11.2026 09:05:07"',
            'End time="22.11.2026 00:00:01"',
            "User=",
            'Comment="test"',
            "Bias>Bias (V)=50E-3",
            "Scan>lines=3",
            ":HEADER_END:",
            "",
        ]
    )


def test_a_whole_grid_reads_back(tmp_path: Path) -> None:
    """Positions, parameters and samples of every point, to float32."""
    header = grid_header()
    grid = read_grid(written(tmp_path / "a.3ds", header, 12))
    assert (grid.shape, grid.measured) == ((3, 4), 12)
    assert np.isclose(grid.angle_rad, 0.25, rtol=1e-6, atol=0)
    assert np.allclose(grid.sweep, np.linspace(-0.2, 0.2, 5), rtol=1e-6, atol=0)
    for k in range(12):
        parameters, samples = point(header, k)
        row, col = divmod(k, 4)
        assert grid.parameters["X (m)"][row, col] == np.float32(parameters[2])
        assert grid.parameters["Y (m)"][row, col] == np.float32(parameters[3])
        for channel, values in zip(header.channels, samples, strict=True):
            assert np.array_equal(grid.channels[channel][row, col], values)


def test_positions_agree_with_real_electronics() -> None:
    """The places that the electronics noted for the recorded grid, turned by 45 degrees (to 1 pm; the tip
    stood 0.11 nm beside the grid throughout)."""
    recorded = read_grid(DEMO)
    area = FrameArea(
        centre_x_m=recorded.centre_x_m,
        centre_y_m=recorded.centre_y_m,
        width_m=recorded.width_m,
        height_m=recorded.height_m,
        angle_rad=recorded.angle_rad,
    )
    noted = np.column_stack([recorded.parameters[name].ravel() for name in ("X (m)", "Y (m)")])
    away = noted - grid_positions(30, 30, area)
    assert np.max(np.abs(away - away.mean(axis=0))) < 1e-12
    assert np.hypot(*away.mean(axis=0)) < 0.12e-9


def test_an_aborted_grid_ends_after_its_last_point(tmp_path: Path) -> None:
    """The strict reader says how much is there; as partial, what is missing is NaN."""
    header = grid_header()
    path = written(tmp_path / "a.3ds", header, 7)
    with pytest.raises(DataFormatError, match="7 whole points"):
        read_grid(path)
    grid = read_grid(path, partial=True)
    current = grid.channels["Current (A)"].reshape(12, 5)
    assert grid.measured == 7
    assert np.array_equal(current[6], point(header, 6)[1][0])
    assert np.all(np.isnan(current[7:])) and np.all(np.isnan(grid.parameters["Z (m)"].ravel()[7:]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_an_error_or_padded(tmp_path: Path, share: float) -> None:
    """Cut at any byte: an error; read as partial, whole points and NaN, never another number."""
    whole, cut = tmp_path / "whole.3ds", tmp_path / "cut.3ds"
    if not whole.exists():
        written(whole, grid_header(), 12)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataFormatError, match=r"cut\.3ds"):
        read_grid(cut)
    try:
        part = read_grid(cut, partial=True)
    except DataFormatError:
        return
    for name, expected in read_grid(whole).channels.items():
        found = part.channels[name].reshape(12, 5)
        assert np.array_equal(found[: part.measured], expected.reshape(12, 5)[: part.measured])
        assert np.all(np.isnan(found[part.measured :]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6))),
    nx=st.integers(1, 4),
    ny=st.integers(1, 4),
)
def test_round_trip(tmp_path: Path, samples: npt.NDArray[np.float32], nx: int, ny: int) -> None:
    """Any numbers, NaN (samples that were skipped) and infinities among them, come back to the bit."""
    names = tuple(f"Channel {i} (V)" for i in range(len(samples)))
    header = grid_header(nx=nx, ny=ny, channels=names, points=samples.shape[1])
    with GridWriter(tmp_path / "a.3ds", header) as grid:
        for k in range(grid.total):
            grid.append(point(header, k)[0], np.roll(samples, k, axis=1))
            grid.sync()
    back = read_grid(tmp_path / "a.3ds")
    for i, name in enumerate(names):
        found = back.channels[name].reshape(nx * ny, -1)
        assert all(np.array_equal(row, np.roll(samples[i], k), equal_nan=True) for k, row in enumerate(found))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A point of another shape, one too many or one after the close; headers that describe no grid."""
    header = grid_header(nx=1, ny=1)
    parameters, samples = point(header, 0)
    grid = GridWriter(tmp_path / "a.3ds", header)
    with pytest.raises(UsageError, match="takes 10 and"):
        grid.append(parameters, samples[:1])
    grid.append(parameters, samples)
    with pytest.raises(UsageError, match="full"):
        grid.append(parameters, samples)
    grid.close()
    grid.close()
    assert read_grid(tmp_path / "a.3ds").measured == 1
    for changes in ({"nx": 0}, {"channels": ()}, {"channels": ("a", "a")}, {"channels": ("a;b",)}):
        with pytest.raises(UsageError):
            GridWriter(tmp_path / "b.3ds", grid_header(**changes))
    with pytest.raises(StorageError, match="missing"):
        GridWriter(tmp_path / "missing" / "b.3ds", header)
