"""Strict reader of Nanonis ``.3ds`` grids (spectra on a raster).

The file is a text header of ``Key=Value`` lines (CRLF) up to ``:HEADER_END:``, then big-endian float32: for
each grid point its parameters, then each channel's samples.  Points run x fastest, from the grid's lower
left upward. An aborted grid simply ends early in the file; this reader wants the whole grid and says what is
missing, unless told to take what there is.  (The writer is ``nanonis_3ds``.)

Positions are given in the grid's own frame: origin at its centre, x along the fast axis, y along the slow
one, pixel j at ``(j - (n - 1) / 2) * width / n``.  Where that frame lies and how it is turned is reported
beside it (``centre_*`` and ``angle_rad``, counter-clockwise; the header counts clockwise degrees).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import DataFormatError

Floats = npt.NDArray[np.float64]

HEADER_END = b":HEADER_END:\r\n"
_LONGEST_HEADER = 1_000_000
_NAME_AND_UNIT = re.compile(r"^(?P<name>.*?)\s*\((?P<unit>[^()]*)\)\s*(?P<rest>.*)$")


@dataclass(frozen=True)
class NanonisGrid:
    """One whole grid.  Arrays are [row, col], row 0 at the lowest y, col 0 at the lowest x of the grid's own
    frame."""

    path: Path
    header: dict[str, str]
    x_m: Floats
    """(nx,) positions along the fast axis, in the grid's own frame."""
    y_m: Floats
    """(ny,) positions along the slow axis."""
    width_m: float
    height_m: float
    centre_x_m: float
    centre_y_m: float
    """Piezo coordinates of the centre when it was recorded."""
    angle_rad: float
    """Rotation of the grid when it was recorded, counter-clockwise."""
    sweep_name: str
    """Name and unit of the swept signal, as in the header, for example "Bias (V)"."""
    sweep: Floats
    """(points,) values of the swept signal."""
    parameters: dict[str, Floats]
    """By header name (with unit, for example "Z (m)"): (ny, nx)."""
    channels: dict[str, npt.NDArray[np.float32]]
    """By header name: (ny, nx, points)."""
    measured: int
    """Whole points in the file, in the order of acquisition; all others are NaN."""

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return len(self.y_m), len(self.x_m)


def name_and_unit(label: str) -> tuple[str, str]:
    """Split "Current (A)" into ("Current", "A"); a suffix such as "[bwd]" stays with the name."""
    match = _NAME_AND_UNIT.match(label)
    if match is None:
        return label.strip(), ""
    return " ".join(part for part in (match["name"], match["rest"]) if part), match["unit"]


def _header(path: Path, data: bytes) -> tuple[dict[str, str], int]:
    end = data.find(HEADER_END, 0, _LONGEST_HEADER)
    if end < 0:
        raise DataFormatError(
            f"{path}: no line ':HEADER_END:' in the first {min(len(data), _LONGEST_HEADER)} bytes.",
            "It is not a .3ds grid, or it is truncated within its header.",
        )
    header: dict[str, str] = {}
    for line in data[:end].decode("utf-8", errors="replace").split("\r\n"):
        if not line.strip():
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise DataFormatError(f"{path}: header line {line!r} has no '='.", "The file is damaged.")
        header[key.strip()] = value.strip().strip('"')
    return header, end + len(HEADER_END)


class _Header:
    """Typed access to a header, with errors that name file and key."""

    def __init__(self, path: Path, header: dict[str, str]) -> None:
        self.path = path
        self.header = header

    def text(self, key: str) -> str:
        if key not in self.header:
            raise DataFormatError(f"{self.path}: header key {key!r} is missing.", "The file is damaged.")
        return self.header[key]

    def names(self, key: str) -> list[str]:
        return [name for name in self.text(key).split(";") if name]

    def whole(self, key: str) -> int:
        text = self.text(key)
        if not text.isdigit() or int(text) == 0:
            raise DataFormatError(f"{self.path}: header key {key!r} is {text!r}, not a positive number.")
        return int(text)

    def numbers(self, key: str, count: int, separator: str) -> list[float]:
        text = self.text(key)
        try:
            values = [float(part) for part in text.split(separator)]
        except ValueError:
            values = []
        if len(values) != count or not all(np.isfinite(values)):
            raise DataFormatError(f"{self.path}: header key {key!r} is {text!r}, not {count} numbers.")
        return values


def read_grid(path: str | Path, *, partial: bool = False) -> NanonisGrid:
    """Read a grid.

    Args:
        path: the file.
        partial: accept an aborted grid of at least one whole point; parameters and samples of the points that
            are missing are NaN.

    Raises:
        DataFormatError: not a grid, truncated, or header and data disagree; names file, expected and found
        bytes.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise DataFormatError(f"{path} cannot be read: {problem.strerror}.", "Check the path.") from problem
    raw, begin = _header(path, data)
    header = _Header(path, raw)
    nx, ny = (int(n) for n in header.numbers("Grid dim", 2, "x"))
    centre_x, centre_y, width, height, degrees = header.numbers("Grid settings", 5, ";")
    points = header.whole("Points")
    parameter_count = header.whole("# Parameters (4 byte)")
    parameter_names = header.names("Fixed parameters") + header.names("Experiment parameters")
    channel_names = header.names("Channels")
    if nx < 1 or ny < 1 or width <= 0.0 or height <= 0.0:
        raise DataFormatError(f"{path}: the grid has {nx} x {ny} points in {width:g} x {height:g} m.")
    if len(parameter_names) != parameter_count:
        raise DataFormatError(
            f"{path}: the header names {len(parameter_names)} parameters but counts {parameter_count}."
        )
    per_point = 4 * points * len(channel_names)
    stated = header.whole("Experiment size (bytes)")
    if stated != per_point:
        raise DataFormatError(
            f"{path}: the header states {stated} bytes per point but {len(channel_names)} channels of "
            f"{points} points are {per_point} bytes."
        )
    expected = nx * ny * (4 * parameter_count + per_point)
    found = len(data) - begin
    per_whole_point = 4 * parameter_count + per_point
    whole = min(found // per_whole_point, nx * ny)
    if found > expected or (found < expected and not (partial and whole > 0)):
        raise DataFormatError(
            f"{path}: expected {expected} bytes of data for {nx} x {ny} points, found {found} "
            f"({whole} whole points).",
            "It was aborted or truncated; record or copy it again." if found < expected else "It is damaged.",
        )
    table = np.full((nx * ny, per_whole_point // 4), np.nan, np.float32)
    stored = np.frombuffer(data, dtype=">f4", offset=begin, count=whole * per_whole_point // 4)
    table[:whole] = stored.reshape(whole, -1)
    grid = table.reshape(ny, nx, -1)
    parameters = {name: grid[:, :, i].astype(np.float64) for i, name in enumerate(parameter_names)}
    samples = grid[:, :, parameter_count:].reshape(ny, nx, len(channel_names), points)
    channels = {
        name: np.ascontiguousarray(samples[:, :, i], dtype=np.float32) for i, name in enumerate(channel_names)
    }
    return NanonisGrid(
        path=path,
        header=raw,
        x_m=_centred(nx, width),
        y_m=_centred(ny, height),
        width_m=width,
        height_m=height,
        centre_x_m=centre_x,
        centre_y_m=centre_y,
        angle_rad=-float(np.deg2rad(degrees)),
        sweep_name=header.text("Sweep Signal"),
        sweep=_sweep(path, parameters, points),
        parameters=parameters,
        channels=channels,
        measured=whole,
    )


def _centred(count: int, extent_m: float) -> Floats:
    """Pixel centres about 0."""
    return np.asarray((np.arange(count) - (count - 1) / 2.0) * (extent_m / count), dtype=np.float64)


def _sweep(path: Path, parameters: dict[str, Floats], points: int) -> Floats:
    """The swept values from the parameters "Sweep Start" and "Sweep End", which must be the same
    everywhere."""
    ends = []
    for name in ("Sweep Start", "Sweep End"):
        if name not in parameters:
            raise DataFormatError(f"{path}: no parameter {name!r}, so the swept values are unknown.")
        values = parameters[name][np.isfinite(parameters[name])]
        if not values.size:
            raise DataFormatError(
                f"{path}: parameter {name!r} is no number, so the swept values are unknown."
            )
        if not np.all(values == values.flat[0]):
            raise DataFormatError(f"{path}: parameter {name!r} differs from point to point.")
        ends.append(float(np.float32(values.flat[0])))
    start, stop = (float(f"{value:.7g}") for value in ends)  # what float32 can tell
    return np.linspace(start, stop, points)
