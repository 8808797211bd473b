"""How Nanonis writes numbers, dates, settings and names into its files, and how a file is put in place.

Numbers are LabVIEW's: no padding in the exponent ("2.000E-7", "0E+0"), "Inf" and "NaN" by name.  Settings
are in engineering notation (exponent a multiple of three, six significant digits).  Text is that of the
computer's code page: written here as Latin-1, read as UTF-8 where it is that, else as Latin-1.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from protocols.errors import DataFormatError, DiskFullError, StorageError

Setting = bool | int | float | str | tuple[float, ...]
"""The value of a ``Module>Parameter`` line.  Floats and tuples of floats are written in engineering notation,
booleans as TRUE and FALSE, whole numbers and text as they are.  A reader gives text."""

Settings = Mapping[str, Setting]
"""By "Module>Parameter (unit)", in the order of the file."""

DATE_AND_TIME = "%d.%m.%Y %H:%M:%S"
DATE = "%d.%m.%Y"
TIME = "%H:%M:%S"


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return None


def scientific(value: float, decimals: int) -> str:
    """``-1.571085E-7`` with 6 decimals: one digit before the point, exponent unpadded."""
    value = float(value)
    special = _special(value)
    if special is not None:
        return special
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa}E{int(exponent):+d}"


def engineering(value: float, digits: int = 6) -> str:
    """``-29.6486E-12``, ``20E+3``, ``0E+0``: at most ``digits`` significant digits, no zeros at the end."""
    value = float(value)
    special = _special(value)
    if special is not None:
        return special
    mantissa, exponent_text = f"{value:.{digits - 1}e}".split("e")
    exponent = int(exponent_text)
    shift = exponent % 3
    sign = "-" if mantissa.startswith("-") else ""
    figures = mantissa.lstrip("-").replace(".", "").ljust(shift + 1, "0")
    fraction = figures[shift + 1 :].rstrip("0")
    whole = figures[: shift + 1]
    return f"{sign}{whole}{'.' if fraction else ''}{fraction}E{exponent - shift:+d}"


def setting_text(value: Setting) -> str:
    """A setting as its line in a file shows it."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return engineering(value)
    if isinstance(value, tuple):
        return ";".join(engineering(part) for part in value)
    return one_line(str(value))


def one_line(text: str) -> str:
    """Text without tabs and line ends, which would break the line it stands on."""
    return " ".join(re.split(r"[\t\r\n\0]+", text))


def encoded(text: str) -> bytes:
    """Text as bytes; what the code page has no letter for becomes a question mark."""
    return text.encode("latin-1", errors="replace")


def decoded(data: bytes) -> str:
    """Bytes of a header as text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse_moment(where: str, text: str, form: str = DATE_AND_TIME) -> datetime:
    """A date and time of a file.

    Raises:
        DataFormatError: not of the form expected; ``where`` names file and line.
    """
    try:
        return datetime.strptime(text.strip(), form)
    except ValueError as problem:
        raise DataFormatError(
            f"{where} is {text.strip()!r}, not a date such as {datetime(2026, 1, 31, 12, 0).strftime(form)}."
        ) from problem


def parse_number(where: str, text: str) -> float:
    """A number of a file.

    Raises:
        DataFormatError: not a number; ``where`` names file and line.
    """
    try:
        return float(text)
    except ValueError as problem:
        raise DataFormatError(f"{where} is {text!r}, not a number.", "The file is damaged.") from problem


def read_bytes(path: Path) -> bytes:
    """All bytes of a data file.

    Raises:
        DataFormatError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as problem:
        raise DataFormatError(f"{path} cannot be read: {problem.strerror}.", "Check the path.") from problem


def write_failed(path: Path, problem: OSError) -> StorageError:
    """The error that tells why a file could not be written."""
    full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    kind = DiskFullError if full else StorageError
    return kind(
        f"{path} cannot be written: {problem.strerror}.",
        "Make room on the disk." if full else "Check that the folder exists and may be written to.",
    )


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Put a file in place whole or not at all: temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        DiskFullError, StorageError: the old file, if any, is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as problem:
        raise write_failed(path, problem) from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
