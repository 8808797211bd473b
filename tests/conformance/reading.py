"""Compares what public readers make of our files with the truth, in numbers and in orientation.

The readers differ in convention, and each is held to its own: nanonispy2 gives the numbers in the order of
the file (of acquisition), xarray-nanonis turns images to row 0 = lowest y and sorts spectra by bias.  They
are by different authors and share no code.  SciFiReaders, which turns images to row 0 = highest y, is a part
of its own that is not run by default: its parser is a copy of nanonispy's, it reads square images only, and
its 960 MB take longer to install than all the other parts take to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conformance.environments import HERE, python_of, run_client
from tests.conformance.results import Findings

READERS = ("nanonispy2", "xarray-nanonis")
ENVIRONMENTS = {"SciFiReaders": "scifireaders"}
"""Of readers that are not in the environment "readers"."""
READ_S = 120.0

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageTruth:
    """What an .sxm file must hold.  Images by channel name as in the file, in our order."""

    path: Path
    upward: bool
    forward: Mapping[str, Array]
    backward: Mapping[str, Array]
    width_m: float
    height_m: float
    centre_m: tuple[float, float]
    bias_v: float


@dataclass(frozen=True)
class SpectrumTruth:
    """What a .dat file must hold: columns with units, the swept one first."""

    path: Path
    columns: Mapping[str, Array]
    position_m: tuple[float, float]
    digits: float = 5.1e-8
    """Relative rounding of the file's eight digits."""


@dataclass(frozen=True)
class GridTruth:
    """What a .3ds file must hold: channels (ny, nx, points) and parameters (ny, nx) in our order."""

    path: Path
    sweep: Array
    channels: Mapping[str, Array]
    parameters: Mapping[str, Array]
    measured: int
    centre_m: tuple[float, float]
    angle_deg: float = field(default=0.0)


Truth = ImageTruth | SpectrumTruth | GridTruth


class Readings:
    """What the readers found, by file, reader and name."""

    def __init__(self, store: Mapping[str, Array]) -> None:
        self.store = {key.replace("~", "/"): values for key, values in store.items()}

    def find(self, number: int, reader: str, name: str) -> Array | None:
        """An array, or None if the reader did not find it."""
        return self.store.get(f"{number}|{reader}|{name}")

    def error(self, number: int, reader: str) -> str:
        """Why a reader failed on a file; empty if it did not."""
        text = self.store.get(f"{number}|{reader}|error")
        return "" if text is None else str(text)


def read_with_others(paths: Sequence[Path], folder: Path, readers: Sequence[str]) -> Readings:
    """Have public readers read files, in their own environment.

    Raises:
        RuntimeError: the reading itself failed; the text holds the end of its words.
    """
    out = folder / "readings.npz"
    script = HERE / "clients" / "read_files.py"
    arguments = [str(script), ",".join(readers), str(out), *(str(path) for path in paths)]
    environment = ENVIRONMENTS.get(readers[0], "readers")
    done = run_client(python_of(environment), arguments, deadline_s=READ_S, folder=folder)
    if done.returncode != 0:
        raise RuntimeError(f"read_files.py ended with {done.returncode}: {done.stderr[-1000:]}")
    with np.load(out) as store:
        return Readings({key: store[key] for key in store.files})


def compare(
    findings: Findings, truths: Sequence[Truth], folder: Path, readers: Sequence[str] = READERS
) -> None:
    """Read every file with every reader and note, for each array, whether it is the truth."""
    readings = read_with_others([truth.path for truth in truths], folder, readers)
    for number, truth in enumerate(truths):
        for reader in readers:
            head = f"{truth.path.name} by {reader}"
            if error := readings.error(number, reader):
                findings.add(head, good=False, note=error.strip().splitlines()[-1])
                continue
            for name, expected, digits in _expected(truth, reader):
                found = readings.find(number, reader, name)
                note = difference(found, expected, digits)
                findings.add(f"{head}: {name}", not note, note)


def difference(found: Array | None, expected: Array, digits: float = 0.0) -> str:
    """What distinguishes two arrays; empty if they are the same to float32 (and ``digits``, relative)."""
    if found is None:
        return "the reader did not find it"
    if found.shape != expected.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if found.dtype.kind == "b" or expected.dtype.kind == "b":
        return "" if np.array_equal(found, expected) else f"{found} instead of {expected}"
    a, b = found.astype(np.float64), np.float32(expected).astype(np.float64)
    same = np.isclose(a, b, rtol=max(digits, 6e-8), atol=0, equal_nan=True)
    if same.all():
        return ""
    place = tuple(int(i) for i in np.argwhere(~same)[0]) if same.ndim else ()
    flips = [
        words
        for words, turned in (
            ("up-down", np.flip(a, 0)),
            ("left-right", np.flip(a, -1)),
            ("both ways", np.flip(a)),
        )
        if a.ndim >= 1 and np.allclose(turned, b, rtol=1e-6, atol=0, equal_nan=True)
    ]
    turned_text = f"; it is the truth turned {flips[0]}" if flips else ""
    return f"{np.sum(~same)} of {same.size} differ, first at {place}: {a[place]} for {b[place]}{turned_text}"


def _expected(truth: Truth, reader: str) -> Iterator[tuple[str, Array, float]]:
    """(name, array, relative digits) that a reader must find in a file, by its own convention."""
    if isinstance(truth, ImageTruth):
        yield from _expected_images(truth, reader)
    elif isinstance(truth, SpectrumTruth):
        yield from _expected_spectrum(truth, reader)
    else:
        yield from _expected_grid(truth, reader)


def _expected_images(truth: ImageTruth, reader: str) -> Iterator[tuple[str, Array, float]]:
    raw = reader == "nanonispy2"
    turned = not truth.upward if raw else reader == "SciFiReaders"
    rows = slice(None, None, -1 if turned else 1)
    for name, data in truth.forward.items():
        yield f"{name}/forward", data[rows], 0.0
    for name, data in truth.backward.items():
        yield f"{name}/backward", data[rows, :: -1 if raw else 1], 0.0
    if raw:
        yield "range", np.array([truth.width_m, truth.height_m]), 1e-6
        yield "offset", np.array(truth.centre_m), 1e-6
        yield "bias", np.array(truth.bias_v), 1e-3
        yield "upward", np.array(truth.upward), 0.0


def _expected_spectrum(truth: SpectrumTruth, reader: str) -> Iterator[tuple[str, Array, float]]:
    sweep, *rest = truth.columns.items()
    if reader == "nanonispy2":
        yield from ((name, values, truth.digits) for name, values in truth.columns.items())
        yield "position", np.array(truth.position_m), 1e-5
        return
    if reader == "SciFiReaders":
        yield from ((f"{name.partition('(')[0]}", values, truth.digits) for name, values in rest)
        return
    order = np.argsort(sweep[1], kind="stable")
    yield "bias", sweep[1][order], truth.digits
    yield from ((_without_unit(name), values[order], 2 * truth.digits) for name, values in rest)


def _expected_grid(truth: GridTruth, reader: str) -> Iterator[tuple[str, Array, float]]:
    raw = reader == "nanonispy2"
    order = slice(None) if raw or truth.sweep[0] < truth.sweep[-1] else slice(None, None, -1)
    missing = 0.0 if raw else np.nan  # nanonispy2 fills an aborted grid with zeros, xarray-nanonis with NaN
    yield ("sweep_signal" if raw else "bias"), truth.sweep[order], 1e-6
    for name, data in truth.channels.items():
        yield (name if raw else _without_unit(name)), _filled(data, truth.measured, missing)[:, :, order], 0.0
    filled = [_filled(data, truth.measured, missing) for data in truth.parameters.values()]
    if raw:
        yield "params", np.stack(filled, axis=2), 0.0
        yield "centre", np.array(truth.centre_m), 1e-6
        yield "angle", np.array(truth.angle_deg), 1e-6
        return
    for name, data in zip(truth.parameters, filled, strict=True):
        yield _without_unit(name), data, 0.0


def _filled(data: Array, measured: int, missing: float) -> Array:
    flat = np.array(data, np.float32).reshape(data.shape[0] * data.shape[1], -1)
    flat[measured:] = missing
    return flat.reshape(data.shape)


def _without_unit(name: str) -> str:
    """A name as xarray-nanonis has it: units of one letter go, spaces become underscores."""
    return re.sub(r" \(.\)", "", name).replace(" ", "_")
