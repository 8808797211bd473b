"""Strict reader of autonomous STM runs in NSID files (``.hf5``: HDF5 as sidpy and pyNSID lay it out).

An NSID file holds *main datasets*: each carries the attributes ``quantity``, ``units`` and
``DIMENSION_LABELS`` and has a one-dimensional dataset beside it for every axis.  A run (as published with
G. Narasimha et al., Multiscale structure-property discovery via active learning in scanning tunneling
microscopy) is four of them, told by a word in their names:

- Spectroscopy (spectra, channels, sweep): the channel axis' ``quantity`` names the channels, joined by "_"
  (``Bias_Current_didv_LIY``); V and A.
- Image (rows, columns): the topograph; nm where its units say "generic".
- Position (spectra, 2): x and y of each spectrum from the lower left corner; nm likewise.
- Scalar (spectra,): what steered the run; optional.

The stored image has its *top* row first; here row 0 is the lowest y, so that positions meet their pixels: the
pixel at (row, col) has the position (col, row) times the pixel's size.  The width of the frame is taken from
the image's axes where they have a unit of length, else from the file's name (``..._250nm.hf5``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from protocols.errors import DataFormatError

Floats = npt.NDArray[np.float64]

METRES = {
    "m": 1.0,
    "um": 1e-6,
    "nm": 1e-9,
    "nanometer": 1e-9,
    "nanometers": 1e-9,
    "nanometre": 1e-9,
    "angstrom": 1e-10,
    "å": 1e-10,
    "pm": 1e-12,
}
"""Units of length by the names that files use; micro signs are read as "u"."""
UNSTATED = ("generic", "")
"""Units of an axis or dataset that nobody filled in: lengths are nm then."""
CHANNEL_NAMES = {
    "bias": "bias",
    "current": "current",
    "didv": "lockin_x",
    "lix": "lockin_x",
    "liy": "lockin_y",
}
"""Our names of a run's channels by theirs, in lower case."""
BIAS_TOLERANCE_V = 1e-6
_WIDTH_IN_NAME = re.compile(r"(\d+(?:\.\d+)?)\s*nm", re.IGNORECASE)


@dataclass(frozen=True)
class NsidRun:
    """One run.  Arrays are [row, col], row 0 at the lowest y; lengths in m."""

    path: Path
    topograph_m: Floats
    """(ny, nx) heights."""
    width_m: float
    height_m: float
    x_m: Floats
    y_m: Floats
    """(n,) where each spectrum was taken, from the frame's lower left corner, in the order of acquisition."""
    bias_v: Floats
    """(points,), the same for all spectra."""
    channels: dict[str, Floats]
    """"current", "lockin_x", "lockin_y" (A): (n, points)."""
    scalar: Floats | None
    """(n,), in whatever unit the run used."""

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.topograph_m.shape[0], self.topograph_m.shape[1]

    def __len__(self) -> int:
        return len(self.x_m)


def read_nsid(path: str | Path, width_m: float | None = None) -> NsidRun:
    """Read a whole run; ``width_m`` overrides what file and name say about the frame's width.

    Raises:
        DataFormatError: no HDF5 file, truncated, or no such run; names file, what was expected and what is
            there.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            return _Mains(path, file).run(width_m)
    except FileNotFoundError as problem:
        raise DataFormatError(
            f"{path} cannot be read: No such file or directory.", "Check the path."
        ) from problem
    except (OSError, RuntimeError) as problem:
        raise DataFormatError(
            f"{path}: expected an HDF5 file with an NSID run, but {_reason(problem)}.",
            "It is truncated, damaged, or no .hf5 file; copy it again.",
        ) from problem


def _reason(problem: Exception) -> str:
    text = str(problem)
    inner = re.search(r"\((.*)\)\s*$", text)
    return inner[1] if inner else text


class _Mains:
    """The main datasets of one open file."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.found: dict[str, h5py.Dataset] = {}

        def visit(name: str, item: Any) -> None:
            if (
                isinstance(item, h5py.Dataset)
                and "DIMENSION_LABELS" in item.attrs
                and "quantity" in item.attrs
            ):
                self.found[name] = item

        file.visititems(visit)

    def run(self, width_m: float | None) -> NsidRun:
        """All of it, checked against itself."""
        spectra = self._main("spectroscopy", 3, "(spectra, channels, sweep)")
        image = self._main("image", 2, "(rows, columns)")
        position = self._main("position", 2, "(spectra, 2)")
        scalar = self._optional("scalar", 1)
        count = spectra.shape[0]
        for name, other in (("Position", position), ("Scalar", scalar)):
            if other is not None and other.shape[0] != count:
                raise self._wrong(f"{name} has {other.shape[0]} rows for {count} spectra")
        if position.shape[1] != 2:
            raise self._wrong(f"Position has {position.shape[1]} columns instead of x and y")
        bias, channels = self._spectra(spectra)
        stored = self._numbers(image, "Image")
        width, height = self._extent(image, width_m)
        places = self._numbers(position, "Position") * self._length(position)
        for axis, extent in enumerate((width, height)):
            low, high = float(places[:, axis].min()), float(places[:, axis].max())
            if low < 0.0 or high > extent:
                raise self._wrong(
                    f"positions from {low * 1e9:g} to {high * 1e9:g} nm do not lie in a frame of "
                    f"{extent * 1e9:g} nm"
                )
        return NsidRun(
            path=self.path,
            topograph_m=np.ascontiguousarray(stored[::-1]) * self._length(image),
            width_m=width,
            height_m=height,
            x_m=places[:, 0].copy(),
            y_m=places[:, 1].copy(),
            bias_v=bias,
            channels=channels,
            scalar=None if scalar is None else self._numbers(scalar, "Scalar"),
        )

    def _wrong(self, what: str) -> DataFormatError:
        return DataFormatError(f"{self.path}: {what}.", "It is not a whole autonomous run as NSID.")

    def _optional(self, word: str, dimensions: int) -> h5py.Dataset | None:
        """The one main dataset whose own name holds a word."""
        fitting = [
            item
            for name, item in self.found.items()
            if word in name.rpartition("/")[2].lower() and item.ndim == dimensions
        ]
        if len(fitting) > 1:
            raise self._wrong(f"{len(fitting)} main datasets are named like {word!r}")
        return fitting[0] if fitting else None

    def _main(self, word: str, dimensions: int, shape: str) -> h5py.Dataset:
        item = self._optional(word, dimensions)
        if item is None or item.size == 0:
            held = ", ".join(f"{n.rpartition('/')[2]} {i.shape}" for n, i in self.found.items()) or "none"
            raise self._wrong(
                f"expected a main dataset of shape {shape} with {word!r} in its name; "
                f"main datasets found: {held}"
            )
        return item

    def _numbers(self, item: h5py.Dataset, name: str) -> Floats:
        try:
            values = np.asarray(item[()], dtype=np.float64)
        except (TypeError, ValueError) as problem:
            raise self._wrong(f"{name} holds {item.dtype}, not numbers") from problem
        if not np.all(np.isfinite(values)):
            raise self._wrong(
                f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are no numbers"
            )
        return values

    def _spectra(self, item: h5py.Dataset) -> tuple[Floats, dict[str, Floats]]:
        """Bias and channels by our names."""
        axis = self._axis(item, 1)
        names = [] if axis is None else _text(axis.attrs.get("quantity")).lower().split("_")
        if len(names) != item.shape[1]:
            raise self._wrong(f"the channel axis names {'_'.join(names)!r} for {item.shape[1]} channels")
        values = self._numbers(item, "Spectroscopy")
        channels = {CHANNEL_NAMES[n]: values[:, i].copy() for i, n in enumerate(names) if n in CHANNEL_NAMES}
        if "bias" not in channels or "current" not in channels:
            raise self._wrong(f"expected channels Bias and Current, found {', '.join(names)}")
        bias = channels.pop("bias")
        if float(np.ptp(bias, axis=0).max()) > BIAS_TOLERANCE_V:
            raise self._wrong("the swept bias differs from spectrum to spectrum")
        swept = np.diff(bias[0])
        if len(swept) == 0 or not (np.all(swept > 0.0) or np.all(swept < 0.0)):
            raise self._wrong("the bias is no sweep: it does not rise or fall throughout")
        return bias[0].copy(), channels

    def _axis(self, item: h5py.Dataset, number: int) -> h5py.Dataset | None:
        """The dataset of an axis: beside the main one, named by its label."""
        labels = [_text(label) for label in item.attrs["DIMENSION_LABELS"]]
        beside = item.parent
        if number >= len(labels) or labels[number] not in beside:
            return None
        axis = beside[labels[number]]
        return axis if isinstance(axis, h5py.Dataset) and axis.shape == (item.shape[number],) else None

    def _length(self, item: h5py.Dataset) -> float:
        """Metres of the dataset's unit."""
        unit = _text(item.attrs.get("units")).strip()
        metres = _metres(unit)
        if metres is None and unit.lower() not in UNSTATED:
            name = str(item.name).rpartition("/")[2]
            raise self._wrong(f"{name} is in {unit!r}, which is no unit of length ({', '.join(METRES)})")
        return 1e-9 if metres is None else metres

    def _extent(self, image: h5py.Dataset, width_m: float | None) -> tuple[float, float]:
        """Width and height of the frame (m)."""
        ny, nx = image.shape
        if width_m is not None:
            return width_m, width_m * ny / nx
        sizes = []
        for number in (1, 0):
            axis = self._axis(image, number)
            metres = None if axis is None else _metres(_text(axis.attrs.get("units")))
            if axis is not None and metres is not None and axis.size > 1:
                places = np.asarray(axis[()], dtype=np.float64)
                sizes.append(metres * abs(float(places[-1] - places[0])) * axis.size / (axis.size - 1))
        if len(sizes) == 2 and min(sizes) > 0.0:
            return sizes[0], sizes[1]
        named = _WIDTH_IN_NAME.findall(self.path.stem)
        if not named or float(named[-1]) <= 0.0:
            raise DataFormatError(
                f"{self.path}: expected the frame's width, but the image's axes have no unit of length and "
                f"the file's name no width such as '_250nm'.",
                "Rename the file so that it does.",
            )
        width = float(named[-1]) * 1e-9
        return width, width * ny / nx


def _metres(unit: str) -> float | None:
    return METRES.get(unit.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u"))


def _text(value: Any) -> str:
    """An attribute as text; empty if it is none."""
    if isinstance(value, bytes | np.bytes_):
        return bytes(value).decode("utf-8", errors="replace")
    return "" if value is None else str(value)
