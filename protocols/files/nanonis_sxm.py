"""Nanonis ``.sxm`` images, read and written.

An ASCII header of ``:KEY:`` lines, each followed by its value (LF line ends), ends with ``:SCANIT_END:``,
two empty lines and the bytes 1A 04.  Then, for each channel of ``:DATA_INFO:`` and each direction, the whole
image as big-endian float32 in the order of acquisition: an upward scan begins with the bottom line, a
downward scan with the top line, and backward lines begin at the right.  Lines that were not scanned are NaN.

Here arrays are [row, col], row 0 at the lowest y and col 0 at the lowest x of the frame's own axes for both
scan directions and both senses, and angles are counter-clockwise; the file's conventions end in this module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import DataFormatError, UsageError
from protocols.files.nanonis_text import (
    DATE,
    DATE_AND_TIME,
    TIME,
    Settings,
    decoded,
    encoded,
    one_line,
    parse_moment,
    parse_number,
    read_bytes,
    scientific,
    setting_text,
    write_whole,
)
from protocols.nanonis.conventions import FrameArea, angle_deg, angle_rad, file_from_frame, frame_from_file

Floats = npt.NDArray[np.float64]

_END = b":SCANIT_END:\n"
_MAGIC = b"\x1a\x04"
_LONGEST_HEADER = 4_000_000
_KEY = re.compile(r":(.+):")


@dataclass(frozen=True, kw_only=True)
class SxmController:
    """A row of the table of Z-controllers."""

    name: str
    on: bool
    setpoint: float
    setpoint_unit: str = "A"
    p_gain_m: float = 0.0
    i_gain_m_s: float = 0.0
    time_constant_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SxmChannel:
    """One channel.  ``forward`` and ``backward`` are (lines, pixels) in our order; None if not recorded."""

    name: str
    """Without unit, with spaces: "LI Demod 1 X".  The file writes underscores for spaces."""
    unit: str
    index: int
    """Of the signal, in the electronics' list."""
    forward: npt.NDArray[np.floating] | None = None
    backward: npt.NDArray[np.floating] | None = None
    calibration: float = 1.0
    """Units per volt at the converter; the data have it applied already."""
    offset: float = 0.0

    @property
    def label(self) -> str:
        """Name and unit as in the list of signals: "Current (A)"."""
        return f"{self.name} ({self.unit})"

    @property
    def direction(self) -> str:
        """ "both", "forward" or "backward"."""
        if self.forward is not None and self.backward is not None:
            return "both"
        return "backward" if self.forward is None else "forward"

    def images(self) -> Iterator[tuple[bool, npt.NDArray[np.floating]]]:
        """(backward, data) of what was recorded, in the order of the file."""
        if self.forward is not None:
            yield False, self.forward
        if self.backward is not None:
            yield True, self.backward


@dataclass(frozen=True, kw_only=True)
class SxmFile:
    """A scan.  Lengths in m, times in s, bias in V (sample against tip), angle in rad counter-clockwise."""

    channels: tuple[SxmChannel, ...]
    area: FrameArea
    upward: bool
    """Whether the slow axis was scanned from the lowest y upward."""
    bias_v: float
    started: datetime
    acquisition_s: float = math.nan
    line_time_s: tuple[float, float] = (math.nan, math.nan)
    """Time of a line forward and backward."""
    controllers: tuple[SxmController, ...] = ()
    temperature_k: float = 290.0
    comment: str = ""
    scan_file: str = ""
    """The path under which the electronics' computer stored it."""
    settings: Settings = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(lines, pixels)."""
        for channel in self.channels:
            for _, data in channel.images():
                return int(data.shape[0]), int(data.shape[1])
        return 0, 0

    def channel(self, name: str) -> SxmChannel:
        """A channel by its name, with or without unit.

        Raises:
            UsageError: there is none of that name; the text lists what there is.
        """
        for channel in self.channels:
            if name in (channel.name, channel.label):
                return channel
        raise UsageError(
            f"no channel {name!r} among: {', '.join(channel.label for channel in self.channels)}.", name=name
        )


# Writing


def write_sxm(path: str | Path, scan: SxmFile) -> None:
    """Write a scan; the file appears whole or not at all.

    Raises:
        UsageError: no channel, channels of different shapes, or one without any data.
        DiskFullError, StorageError: it cannot be written.
    """
    _check(scan)
    write_whole(Path(path), _pieces(scan))


def _check(scan: SxmFile) -> None:
    if not scan.channels:
        raise UsageError("a scan without channels cannot be written.")
    for channel in scan.channels:
        shapes = [data.shape for _, data in channel.images()]
        if not shapes:
            raise UsageError(f"channel {channel.label} has no data.")
        if any(shape != scan.shape or len(shape) != 2 or 0 in shape for shape in shapes):
            raise UsageError(f"channel {channel.label} is of shape {shapes}, others {scan.shape}.")


def _pieces(scan: SxmFile) -> Iterator[bytes]:
    yield encoded("".join(f"{line}\n" for line in _header_lines(scan)))
    yield _END + b"\n\n" + _MAGIC
    for channel in scan.channels:
        for backward, data in channel.images():
            yield file_from_frame(data, upward=scan.upward, backward=backward).astype(">f4").tobytes()


def _header_lines(scan: SxmFile) -> Iterator[str]:
    ny, nx = scan.shape
    area = scan.area
    yield from (":NANONIS_VERSION:", "2")
    yield from (":SCANIT_TYPE:", f"{'FLOAT':>19}{'MSBFIRST':>20}")
    yield from (":REC_DATE:", " " + scan.started.strftime(DATE))
    yield from (":REC_TIME:", scan.started.strftime(TIME))
    yield from (":REC_TEMP:", f"{scan.temperature_k:20.10f}")
    yield from (":ACQ_TIME:", f"{scan.acquisition_s:12.1f}" if math.isfinite(scan.acquisition_s) else "NaN")
    yield from (":SCAN_PIXELS:", f"{nx:10d}{ny:10d}")
    yield from (":SCAN_FILE:", _harmless(one_line(scan.scan_file)))
    yield from (":SCAN_TIME:", "".join(" " * 13 + scientific(t, 3) for t in scan.line_time_s))
    sides = (area.width_m, area.height_m)
    yield from (":SCAN_RANGE:", "".join(" " * 11 + scientific(side, 6) for side in sides))
    centre = " " * 13 + scientific(area.centre_x_m, 6) + " " * 9 + scientific(area.centre_y_m, 6)
    yield from (":SCAN_OFFSET:", centre)
    yield from (":SCAN_ANGLE:", " " * 12 + scientific(angle_deg(area.angle_rad), 3))
    yield from (":SCAN_DIR:", "up" if scan.upward else "down")
    yield from (":BIAS:", " " * 12 + scientific(scan.bias_v, 3))
    yield from _controller_table(scan)
    yield from (":COMMENT:", *(_harmless(line) for line in scan.comment.split("\n")))
    for key, value in scan.settings.items():
        yield from (f":{one_line(key)}:", _harmless(setting_text(value)))
    yield ":DATA_INFO:"
    yield "\tChannel\tName\tUnit\tDirection\tCalibration\tOffset"
    for channel in scan.channels:
        name = one_line(channel.name).replace(" ", "_")
        numbers = f"{scientific(channel.calibration, 3)}\t{scientific(channel.offset, 3)}"
        yield f"\t{channel.index}\t{name}\t{one_line(channel.unit)}\t{channel.direction}\t{numbers}"
    yield ""


def _controller_table(scan: SxmFile) -> Iterator[str]:
    yield ":Z-CONTROLLER:"
    yield "\tName\ton\tSetpoint\tP-gain\tI-gain\tT-const"
    for row in scan.controllers:
        cells = (
            one_line(row.name),
            f"{int(row.on)}",
            f"{scientific(row.setpoint, 3)} {row.setpoint_unit}",
            f"{scientific(row.p_gain_m, 3)} m",
            f"{scientific(row.i_gain_m_s, 3)} m/s",
            f"{scientific(row.time_constant_s, 3)} s",
        )
        yield "\t" + "\t".join(cells)


def _harmless(line: str) -> str:
    """A line of free text that cannot be taken for a key."""
    line = line.replace("\0", " ").replace("\x1a", " ").rstrip("\r")
    return f" {line}" if _KEY.fullmatch(line) else line


# Reading


class _Header:
    """The keys of a header with the lines their values begin on, and errors that name file and line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.values: dict[str, tuple[int, list[str]]] = {}
        lines: list[str] | None = None
        for number, line in enumerate(text.split("\n"), start=1):
            key = _KEY.fullmatch(line.rstrip("\r"))
            if key is not None:
                lines = []
                self.values.setdefault(key[1], (number + 1, lines))
            elif lines is not None:
                lines.append(line.rstrip("\r"))
            elif line.strip():
                raise DataFormatError(
                    f"{path}: line {number} is {line[:40]!r}; a key such as ':REC_DATE:' was expected.",
                    "It is not an .sxm file.",
                )

    def where(self, key: str) -> str:
        return f"{self.path}: line {self.values[key][0]} ({key})"

    def lines(self, key: str) -> list[str]:
        if key not in self.values:
            raise DataFormatError(f"{self.path}: header key {key!r} is missing.", "The file is damaged.")
        return self.values[key][1]

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and key not in self.values:
            return default
        return "\n".join(self.lines(key)).strip()

    def numbers(self, key: str, count: int) -> list[float]:
        parts = self.text(key).split()
        if len(parts) != count:
            raise DataFormatError(f"{self.where(key)} is {self.text(key)!r}, not {count} number(s).")
        return [parse_number(self.where(key), part) for part in parts]

    def optional_numbers(self, key: str, count: int) -> list[float]:
        return self.numbers(key, count) if self.text(key, "") else [math.nan] * count


def read_sxm(path: str | Path) -> SxmFile:
    """Read a scan of any generation of the software; settings come as text.

    Raises:
        DataFormatError: not such a file, truncated, or header and data disagree; names file, line or offset,
            what was expected and what was found.
    """
    path = Path(path)
    data = read_bytes(path)
    header, begin = _split(path, data)
    nx, ny = _pixels(header)
    upward = _upward(header)
    _check_number_type(header)
    rows = [_channel_row(header, offset, line) for offset, line in _table(header, "DATA_INFO")]
    if not rows:
        raise DataFormatError(f"{header.where('DATA_INFO')} lists no channel.", "The file is damaged.")
    images = sum(2 if row["Direction"] == "both" else 1 for row in rows)
    expected, found = 4 * nx * ny * images, len(data) - begin
    if found != expected:
        raise DataFormatError(
            f"{path}: expected {expected} bytes of data from offset {begin} for {images} images of "
            f"{nx} x {ny}, found {found}.",
            "It is truncated; copy it again." if found < expected else "It is damaged.",
        )
    stored = np.frombuffer(data, dtype=">f4", offset=begin).reshape(images, ny, nx)
    width, height = header.numbers("SCAN_RANGE", 2)
    centre_x, centre_y = header.numbers("SCAN_OFFSET", 2)
    line_times = header.optional_numbers("SCAN_TIME", 2)
    return SxmFile(
        channels=tuple(_channels(header, rows, stored, upward)),
        area=FrameArea(
            centre_x_m=centre_x,
            centre_y_m=centre_y,
            width_m=width,
            height_m=height,
            angle_rad=angle_rad(header.numbers("SCAN_ANGLE", 1)[0]),
        ),
        upward=upward,
        bias_v=header.optional_numbers("BIAS", 1)[0],
        started=_started(header),
        acquisition_s=header.optional_numbers("ACQ_TIME", 1)[0],
        line_time_s=(line_times[0], line_times[1]),
        controllers=tuple(_controllers(header)),
        temperature_k=header.optional_numbers("REC_TEMP", 1)[0],
        comment="\n".join(header.lines("COMMENT")) if "COMMENT" in header.values else "",
        scan_file=header.text("SCAN_FILE", ""),
        settings={key: "\n".join(lines) for key, (_, lines) in header.values.items() if ">" in key},
    )


def _split(path: Path, data: bytes) -> tuple[_Header, int]:
    end = data.find(b"\n" + _END, 0, _LONGEST_HEADER)
    if end < 0:
        raise DataFormatError(
            f"{path}: no line ':SCANIT_END:' in the first {min(len(data), _LONGEST_HEADER)} bytes.",
            "It is not an .sxm file, or it is truncated within its header.",
        )
    after = end + 1 + len(_END)
    magic = data.find(_MAGIC, after, after + 64)
    if magic < 0 or data[after:magic].strip():
        raise DataFormatError(
            f"{path}: after ':SCANIT_END:' (offset {after}) the bytes 1A 04 were expected, found "
            f"{data[after : after + 8].hex(' ') or 'the end of the file'}.",
            "It is truncated or damaged.",
        )
    return _Header(path, decoded(data[:end])), magic + len(_MAGIC)


def _pixels(header: _Header) -> tuple[int, int]:
    nx, ny = header.numbers("SCAN_PIXELS", 2)
    if not all(1 <= n < 2**31 and n == int(n) for n in (nx, ny)):
        raise DataFormatError(f"{header.where('SCAN_PIXELS')} is {header.text('SCAN_PIXELS')!r}.")
    return int(nx), int(ny)


def _upward(header: _Header) -> bool:
    text = header.text("SCAN_DIR")
    if text not in ("up", "down"):
        raise DataFormatError(f"{header.where('SCAN_DIR')} is {text!r}, neither 'up' nor 'down'.")
    return text == "up"


def _check_number_type(header: _Header) -> None:
    text = header.text("SCANIT_TYPE")
    if text.split() != ["FLOAT", "MSBFIRST"]:
        raise DataFormatError(f"{header.where('SCANIT_TYPE')} is {text!r}, not 'FLOAT MSBFIRST'.")


def _started(header: _Header) -> datetime:
    text = f"{header.text('REC_DATE')} {header.text('REC_TIME')}"
    return parse_moment(header.where("REC_DATE"), text, DATE_AND_TIME)


def _table(header: _Header, key: str) -> list[tuple[int, dict[str, str]]]:
    """Rows of a table by their column titles, with line numbers."""
    begin, lines = header.values.get(key, (0, []))
    filled = [(begin + i, line) for i, line in enumerate(lines) if line.strip()]
    if not filled:
        return []
    titles = filled[0][1].strip("\t").split("\t")
    rows = []
    for number, line in filled[1:]:
        cells = line.removeprefix("\t").split("\t")
        if len(cells) < len(titles):
            raise DataFormatError(
                f"{header.path}: line {number} of the table {key} has {len(cells)} cells for "
                f"{len(titles)} columns.",
                "The file is damaged.",
            )
        rows.append((number, dict(zip(titles, cells, strict=False))))
    return rows


_COLUMNS = ("Channel", "Name", "Unit", "Direction", "Calibration", "Offset")


def _channel_row(header: _Header, number: int, row: dict[str, str]) -> dict[str, str]:
    where = f"{header.path}: line {number} of the table DATA_INFO"
    if missing := [title for title in _COLUMNS if title not in row]:
        raise DataFormatError(f"{where}: no column {missing[0]!r}.", "The file is damaged.")
    if row["Direction"] not in ("both", "forward", "backward"):
        raise DataFormatError(
            f"{where}: direction {row['Direction']!r}, not 'both', 'forward' or 'backward'."
        )
    for title in ("Channel", "Calibration", "Offset"):
        parse_number(f"{where}: {title}", row[title])
    return row


def _channels(
    header: _Header, rows: list[dict[str, str]], stored: npt.NDArray[np.float32], upward: bool
) -> Iterator[SxmChannel]:
    images = iter(stored)
    for row in rows:
        data: Mapping[bool, Floats] = {
            backward: frame_from_file(next(images), upward=upward, backward=backward)
            for backward in (False, True)
            if row["Direction"] in ("both", "backward" if backward else "forward")
        }
        yield SxmChannel(
            name=row["Name"].replace("_", " "),
            unit=row["Unit"],
            index=int(float(row["Channel"])),
            forward=data.get(False),
            backward=data.get(True),
            calibration=float(row["Calibration"]),
            offset=float(row["Offset"]),
        )


def _controllers(header: _Header) -> Iterator[SxmController]:
    for number, row in _table(header, "Z-CONTROLLER"):
        where = f"{header.path}: line {number} of the table Z-CONTROLLER"

        def cell(title: str, row: dict[str, str] = row, where: str = where) -> tuple[float, str]:
            value, _, unit = row.get(title, "NaN").strip().partition(" ")
            return parse_number(f"{where}: {title}", value), unit

        setpoint, unit = cell("Setpoint")
        yield SxmController(
            name=row.get("Name", ""),
            on=row.get("on", "") == "1",
            setpoint=setpoint,
            setpoint_unit=unit,
            p_gain_m=cell("P-gain")[0],
            i_gain_m_s=cell("I-gain")[0],
            time_constant_s=cell("T-const")[0],
        )
