"""Nanonis ``.dat`` files of single spectra, read and written.

Text with CRLF line ends: ``key<TAB>value<TAB>`` lines, one empty line, ``[DATA]``, a line of column names
with units in brackets, then tab-separated rows.  The swept quantity comes first ("Bias calc (V)",
"Z rel (m)"), then each channel, then those of the way back ("Current [bwd] (A)").  Values have eight
significant digits, a little less than float32 can tell apart in part of its range; older software wrote
six.

A file of a sweep that was cut short has NaN in the rows that were not measured.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import DataFormatError, UsageError
from protocols.files.nanonis_text import (
    DATE_AND_TIME,
    Setting,
    Settings,
    decoded,
    encoded,
    engineering,
    one_line,
    parse_moment,
    parse_number,
    read_bytes,
    scientific,
    setting_text,
    write_whole,
)

Floats = npt.NDArray[np.float64]

BIAS_SPECTROSCOPY = "bias spectroscopy"
Z_SPECTROSCOPY = "Z spectroscopy"

_DECIMALS = 7
_TAG = "[DATA]"


@dataclass(frozen=True, kw_only=True)
class DatFile:
    """A spectrum.  What a file does not say is None.  Lengths in m, times in s, x and y piezo coordinates."""

    columns: Mapping[str, npt.NDArray[np.floating]]
    """By name with unit, as in the file, the swept quantity first; each (points,)."""
    experiment: str = BIAS_SPECTROSCOPY
    saved: datetime | None = None
    started: datetime | None = None
    user: str = ""
    x_m: float | None = None
    y_m: float | None = None
    z_m: float | None = None
    z_offset_m: float | None = None
    """Shift of the tip before the sweep; positive is away from the sample."""
    settling_s: float | None = None
    integration_s: float | None = None
    z_hold: bool | None = None
    """Whether the Z-controller was on hold during the sweep."""
    final_z_m: float | None = None
    filter_type: str = "None"
    filter_order: str = ""
    filter_cutoff: str = ""
    comments: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)
    """``Module>Parameter (unit)``; written module by module in alphabetical order."""
    other: Mapping[str, str] = field(default_factory=dict)
    """Other lines of the header.  Of a key that comes several times the first line counts."""

    @property
    def sweep_name(self) -> str:
        """Name and unit of the swept quantity."""
        return next(iter(self.columns))

    @property
    def points(self) -> int:
        """Number of rows."""
        return len(self.columns[self.sweep_name])


# Writing


def write_dat(path: str | Path, spectrum: DatFile) -> None:
    """Write a spectrum; the file appears whole or not at all.

    Raises:
        UsageError: no columns or rows, columns of different lengths, or a name with a tab or line end.
        DiskFullError, StorageError: it cannot be written.
    """
    _check(spectrum)
    write_whole(Path(path), _pieces(spectrum))


def _check(spectrum: DatFile) -> None:
    lengths = {name: np.shape(values) for name, values in spectrum.columns.items()}
    if not lengths or any(len(shape) != 1 or shape[0] == 0 for shape in lengths.values()):
        raise UsageError(f"a spectrum needs columns of at least one value each, not {lengths}.")
    if len(set(lengths.values())) != 1:
        raise UsageError(f"the columns of a spectrum differ in length: {lengths}.")
    for name in lengths:
        if not name.strip() or name != one_line(name):
            raise UsageError(f"{name!r} cannot be the name of a column.")


def _pieces(spectrum: DatFile) -> Iterator[bytes]:
    lines = [f"{one_line(key)}\t{value}\t" for key, value in _header_lines(spectrum)]
    lines += ["", _TAG, "\t".join(spectrum.columns)]
    table = np.column_stack([np.asarray(values, np.float64) for values in spectrum.columns.values()])
    lines += ["\t".join(scientific(value, _DECIMALS) for value in row) for row in table.tolist()]
    yield encoded("".join(f"{line}\r\n" for line in lines))


def _header_lines(spectrum: DatFile) -> Iterator[tuple[str, str]]:
    yield "Experiment", one_line(spectrum.experiment)
    yield "Saved Date", _moment(spectrum.saved)
    yield "User", one_line(spectrum.user)
    yield "Date", _moment(spectrum.saved)
    for key, value in (
        ("X (m)", spectrum.x_m),
        ("Y (m)", spectrum.y_m),
        ("Z (m)", spectrum.z_m),
        ("Z offset (m)", spectrum.z_offset_m),
        ("Settling time (s)", spectrum.settling_s),
        ("Integration time (s)", spectrum.integration_s),
    ):
        if value is not None:
            yield key, engineering(value)
    if spectrum.z_hold is not None:
        yield "Z-Ctrl hold", setting_text(spectrum.z_hold)
    yield "Final Z (m)", "N/A" if spectrum.final_z_m is None else engineering(spectrum.final_z_m)
    yield "Start time", _moment(spectrum.started)
    yield "Filter type", one_line(spectrum.filter_type)
    yield "Order", one_line(spectrum.filter_order)
    yield "Cutoff frq", one_line(spectrum.filter_cutoff)
    for number, comment in enumerate(spectrum.comments, start=1):
        yield f"Comment{number:02d}", one_line(comment)
    yield from ((key, one_line(value)) for key, value in spectrum.other.items())
    yield from ((key, setting_text(value)) for key, value in _by_module(spectrum.settings))


def _moment(when: datetime | None) -> str:
    return "" if when is None else when.strftime(DATE_AND_TIME)


def _by_module(settings: Settings) -> list[tuple[str, Setting]]:
    return sorted(settings.items(), key=lambda item: item[0].partition(">")[0])


# Reading


class _Lines:
    """The lines of a file, each of which must have its end: a number cut short would be a wrong number."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        *self.lines, rest = text.split("\n")
        self.torn = rest.rstrip("\r")
        self.number = 0
        """Of the line that ``next`` gave last, from 1."""

    def next(self) -> str | None:
        if self.number == len(self.lines):
            return None
        self.number += 1
        return self.lines[self.number - 1].removesuffix("\r")

    def where(self, key: str = "") -> str:
        return f"{self.path}: line {self.number}" + (f" ({key})" if key else "")


def read_dat(path: str | Path, *, partial: bool = False) -> DatFile:
    """Read a spectrum of any generation of the software; settings come as text.

    Args:
        path: the file.
        partial: accept a file that ends early: what is missing of the stated number of points is NaN.

    Raises:
        DataFormatError: not such a file, damaged, or (unless ``partial``) truncated; names file, line and
            what was expected.
    """
    path = Path(path)
    lines = _Lines(path, decoded(read_bytes(path)))
    header = _read_header(lines)
    names = _read_names(lines)
    rows = _read_rows(lines, len(names))
    stated = _stated_points(header)
    if lines.torn and not partial:
        raise DataFormatError(
            f"{path}: line {len(lines.lines) + 1} has no end; {len(rows)} whole rows precede it.",
            "It is truncated; copy it again, or read it as partial.",
        )
    if stated is not None and len(rows) < stated and not partial:
        raise DataFormatError(
            f"{path}: {len(rows)} rows of data; the header states {stated} points.",
            "It is truncated; copy it again, or read it as partial.",
        )
    table = np.full((max(len(rows), stated or 0), len(names)), np.nan)
    if rows:
        table[: len(rows)] = rows
    elif not (partial and stated):
        raise DataFormatError(f"{path}: no row of data after line {lines.number}.", "It is truncated.")
    return _spectrum(header, dict(zip(names, np.ascontiguousarray(table.T), strict=True)))


class _Header:
    """Values by key (the first of each), with the place where each stood."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, str]] = {}
        """(value, where) by key."""
        self.used: set[str] = set()

    def text(self, key: str) -> str:
        self.used.add(key)
        return self.values[key][0].strip() if key in self.values else ""

    def number(self, key: str) -> float | None:
        text = self.text(key)
        return None if text in ("", "N/A") else parse_number(self.values[key][1], text)

    def moment(self, key: str) -> datetime | None:
        text = self.text(key)
        return parse_moment(self.values[key][1], text) if text else None


def _read_header(lines: _Lines) -> _Header:
    header = _Header()
    while (line := lines.next()) is not None:
        if line == _TAG:
            return header
        if not line.strip():
            continue
        key, tab, value = line.partition("\t")
        if not tab:
            raise DataFormatError(
                f"{lines.where()} is {line[:40]!r}; a key, a tab and a value were expected.",
                "It is not a .dat file of a spectrum.",
            )
        header.values.setdefault(key, (value.removesuffix("\t"), lines.where(key)))
    raise DataFormatError(
        f"{lines.path}: no line '{_TAG}' in its {len(lines.lines)} lines.",
        "It is not a .dat file of a spectrum, or it is truncated within its header.",
    )


def _read_names(lines: _Lines) -> list[str]:
    line = lines.next()
    if line is None:
        raise DataFormatError(f"{lines.path}: it ends after '{_TAG}'.", "It is truncated.")
    names = line.removesuffix("\t").split("\t")
    if "" in names or len(set(names)) != len(names):
        raise DataFormatError(f"{lines.where()}: the column names {line!r} are empty or repeat.")
    return names


def _read_rows(lines: _Lines, columns: int) -> list[list[float]]:
    rows = []
    while (line := lines.next()) is not None:
        if not line.strip():
            if rest := next((text for text in lines.lines[lines.number :] if text.strip()), ""):
                raise DataFormatError(f"{lines.where()} is empty and more follows: {rest[:40]!r}.")
            break
        cells = line.removesuffix("\t").split("\t")
        if len(cells) != columns:
            raise DataFormatError(
                f"{lines.where()} has {len(cells)} values for {columns} columns.", "The file is damaged."
            )
        rows.append([parse_number(lines.where(), cell) for cell in cells])
    return rows


def _stated_points(header: _Header) -> int | None:
    """The number of points that the settings of a plain sweep state; None where they do not tell."""
    modules = {BIAS_SPECTROSCOPY: "Bias Spectroscopy", Z_SPECTROSCOPY.lower(): "Z Spectroscopy"}
    module = modules.get(header.text("Experiment").lower())
    text = header.text(f"{module}>Num Pixel") if module else ""
    plain = header.text(f"{module}>Sweep mode") in ("", "Linear")
    return int(text) if plain and text.isdecimal() else None


def _spectrum(header: _Header, columns: dict[str, Floats]) -> DatFile:
    hold = header.text("Z-Ctrl hold")
    saved = header.moment("Saved Date") or header.moment("Date")
    header.used.add("Date")
    known = DatFile(
        columns=columns,
        experiment=header.text("Experiment"),
        saved=saved,
        started=header.moment("Start time"),
        user=header.text("User"),
        x_m=header.number("X (m)"),
        y_m=header.number("Y (m)"),
        z_m=header.number("Z (m)"),
        z_offset_m=header.number("Z offset (m)"),
        settling_s=header.number("Settling time (s)"),
        integration_s=header.number("Integration time (s)"),
        z_hold=hold == "TRUE" if hold else None,
        final_z_m=header.number("Final Z (m)"),
        filter_type=header.text("Filter type"),
        filter_order=header.text("Order"),
        filter_cutoff=header.text("Cutoff frq"),
        comments=tuple(_comments(header)),
    )
    rest = {key: text for key, (text, _) in header.values.items() if key not in header.used or ">" in key}
    return dataclasses.replace(
        known,
        settings={key: text for key, text in rest.items() if ">" in key},
        other={key: text for key, text in rest.items() if ">" not in key},
    )


def _comments(header: _Header) -> Iterator[str]:
    for number in itertools.count(1):
        key = f"Comment{number:02d}"
        if key not in header.values:
            return
        yield header.text(key)
