"""Writer of Nanonis ``.3ds`` grids (the reader is ``nanonis_grid``).

A text header of ``Key=Value`` lines (CRLF) up to ``:HEADER_END:``, then big-endian float32: for each grid
point its parameters, then each channel's samples.  Points run x fastest, from the grid's lower left upward,
at pixel centres.  The file grows point by point, as on the electronics: an aborted grid ends after its last
point.  Samples that were not taken within a point are NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from protocols.files.nanonis_text import (
    DATE_AND_TIME,
    Settings,
    encoded,
    one_line,
    scientific,
    setting_text,
    write_failed,
)
from protocols.nanonis.conventions import FrameArea, angle_deg

Floats = npt.NDArray[np.float64]

_END = ":HEADER_END:"

FIXED_PARAMETERS = ("Sweep Start", "Sweep End")
EXPERIMENT_PARAMETERS = (
    "X (m)",
    "Y (m)",
    "Z (m)",
    "Z offset (m)",
    "Settling time (s)",
    "Integration time (s)",
    "Z-Ctrl hold",
    "Final Z (m)",
)


@dataclass(frozen=True, kw_only=True)
class GridHeader:
    """What a grid is.  Lengths in m, times in s, angle in rad counter-clockwise."""

    nx: int
    ny: int
    area: FrameArea
    points: int
    """Samples per channel and point."""
    channels: tuple[str, ...]
    """With units; backward sweeps are channels of their own: "Current [bwd] (A)"."""
    started: datetime
    sweep_signal: str = "Bias (V)"
    fixed_parameters: tuple[str, ...] = FIXED_PARAMETERS
    experiment_parameters: tuple[str, ...] = EXPERIMENT_PARAMETERS
    delay_s: float = 0.0
    experiment: str = "Grid Spectroscopy"
    user: str = ""
    comment: str = ""
    settings: Settings = field(default_factory=dict)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the numbers that precede the samples of each point."""
        return self.fixed_parameters + self.experiment_parameters


def grid_positions(nx: int, ny: int, area: FrameArea) -> Floats:
    """Piezo coordinates (m) of the points of a grid in the order in which they are measured: (ny * nx, 2)."""
    u = (np.arange(nx) - (nx - 1) / 2) * (area.width_m / nx)
    v = (np.arange(ny) - (ny - 1) / 2) * (area.height_m / ny)
    v_all, u_all = (axis.ravel() for axis in np.meshgrid(v, u, indexing="ij"))
    cos, sin = np.cos(area.angle_rad), np.sin(area.angle_rad)
    x = area.centre_x_m + u_all * cos - v_all * sin
    y = area.centre_y_m + u_all * sin + v_all * cos
    return np.column_stack([x, y])


class GridWriter:
    """A grid file that grows point by point.  Each point is handed to the system whole; ``sync`` makes all
    durable.  Closing early leaves an aborted grid.  One thread at a time."""

    def __init__(self, path: str | Path, header: GridHeader) -> None:
        """Create the file and write its header; "End time" is the start until ``close``.

        Raises:
            UsageError: a number of points, channels or sides that makes no grid.
            DiskFullError, StorageError: it cannot be written.
        """
        _check(header)
        self.path = Path(path)
        self.header = header
        self.written = 0
        """Whole points in the file."""
        head, self._end_time_at = _header_bytes(header)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self._size = 0
            self._append(head)
        except OSError as problem:
            raise write_failed(self.path, problem) from problem

    @property
    def total(self) -> int:
        """Points of the whole grid."""
        return self.header.nx * self.header.ny

    def append(self, parameters: Sequence[float], samples: npt.ArrayLike) -> None:
        """Write the next point.

        Args:
            parameters: in the order of ``header.parameters``.
            samples: (channels, points); NaN where none was taken.

        Raises:
            UsageError: of another shape, or the grid is full or closed.
            DiskFullError, StorageError: it cannot be written; the file ends after the point before.
        """
        table = np.asarray(samples, dtype=">f4")
        expected = (len(self.header.channels), self.header.points)
        if table.shape != expected or len(parameters) != len(self.header.parameters):
            raise UsageError(
                f"a point of {len(parameters)} parameters and samples {table.shape}; this grid takes "
                f"{len(self.header.parameters)} and {expected}."
            )
        if self._file < 0 or self.written == self.total:
            raise UsageError(f"{self.path}: the grid of {self.total} points is full or closed.")
        try:
            self._append(np.asarray(parameters, dtype=">f4").tobytes() + table.tobytes())
        except OSError as problem:
            raise write_failed(self.path, problem) from problem
        self.written += 1

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        try:
            os.fsync(self._file)
        except OSError as problem:
            raise write_failed(self.path, problem) from problem

    def close(self, ended: datetime | None = None) -> None:
        """Note the time of the end, sync and close.  Closing again does nothing."""
        if self._file < 0:
            return
        descriptor, self._file = self._file, -1
        try:
            if ended is not None:
                os.pwrite(descriptor, encoded(ended.strftime(DATE_AND_TIME)), self._end_time_at)
            os.fsync(descriptor)
        except OSError as problem:
            raise write_failed(self.path, problem) from problem
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, data: bytes) -> None:
        """Whole or not at all: a piece that was written is taken back."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, data[done:], self._size + done)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)


def _check(header: GridHeader) -> None:
    if min(header.nx, header.ny, header.points, len(header.channels)) < 1:
        raise UsageError(
            f"a grid of {header.nx} x {header.ny} points, {len(header.channels)} channels of {header.points}."
        )
    if not (header.area.width_m > 0 and header.area.height_m > 0):
        raise UsageError(f"a grid of {header.area.width_m} x {header.area.height_m} m.")
    for names in (header.channels, header.parameters):
        if len(set(names)) != len(names) or any(not n or n != _in_list(n) for n in names):
            raise UsageError(f"these names cannot stand in the header of a grid: {'; '.join(names)}.")


def _in_list(name: str) -> str:
    return one_line(name).replace(";", " ").replace('"', " ")


def _quoted(text: str) -> str:
    text = one_line(text).replace('"', "'")
    return f'"{text}"' if text else ""


def _key(text: str) -> str:
    return _value(one_line(text)).replace("=", " ")


def _value(text: str) -> str:
    """Text that cannot be taken for the end of the header."""
    return text.replace(_END, " ")


def _header_bytes(header: GridHeader) -> tuple[bytes, int]:
    """The header, and where in it the text of the end time begins."""
    moment = header.started.strftime(DATE_AND_TIME)
    before = "".join(f"{line}\r\n" for line in _lines_before_end_time(header)) + 'End time="'
    after = [f"User={_quoted(header.user)}", f"Comment={_quoted(header.comment)}"]
    after += [f"{_key(key)}={_value(setting_text(value))}" for key, value in header.settings.items()]
    after.append(_END)
    head = encoded(before)
    return head + encoded(f'{moment}"\r\n' + "".join(f"{line}\r\n" for line in after)), len(head)


def _lines_before_end_time(header: GridHeader) -> Iterator[str]:
    area = header.area
    numbers = (area.centre_x_m, area.centre_y_m, area.width_m, area.height_m, angle_deg(area.angle_rad))
    yield f'Grid dim="{header.nx} x {header.ny}"'
    yield f"Grid settings={';'.join(scientific(number, 6) for number in numbers)}"
    yield "Filetype=Linear"
    yield f"Sweep Signal={_quoted(header.sweep_signal)}"
    yield f'Fixed parameters="{";".join(header.fixed_parameters)}"'
    yield f'Experiment parameters="{";".join(header.experiment_parameters)}"'
    yield f"# Parameters (4 byte)={len(header.parameters)}"
    yield f"Experiment size (bytes)={4 * header.points * len(header.channels)}"
    yield f"Points={header.points}"
    yield f'Channels="{";".join(header.channels)}"'
    yield f"Delay before measuring (s)={scientific(header.delay_s, 6)}"
    yield f"Experiment={_quoted(header.experiment)}"
    yield f'Start time="{header.started.strftime(DATE_AND_TIME)}"'
