"""A run as plain files for other programs: CSV tables and NPZ arrays, with a README that explains them.

``points.csv`` has one row per spectrum; ``spectra/`` one CSV per spectrum, ready for a plot; ``spectra.npz``,
``frames.npz`` and ``maps.npz`` the same arrays in full precision.  SI units, named in every header.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.journal.auxiliary import auxiliary_rows
from actors.journal.reader import JournalReader, Measurement
from actors.journal.run_data import RunData, load
from actors.journal.wording import scalar_name, scalar_words
from protocols.errors import UsageError
from protocols.files.state_directory import write_durably
from protocols.messages.codec import to_jsonable
from protocols.messages.records import FrameTaken, StoredRecord

_DIRECTIONS = ("forward", "backward")


def export_run(reader: JournalReader, directory: Path) -> list[Path]:
    """Write a run's data below ``directory``, which must be new or empty; the files written.

    Raises:
        UsageError: the directory holds something already.
        DataFormatError: there is no run in the journal yet, or it is damaged.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty.", "Name a directory that is new or empty.")
    run = load(reader)
    written = [_points(run, directory / "points.csv"), _decisions(run, directory / "decisions.csv")]
    written += [_spectrum(m, directory / "spectra" / f"{_file_name(m)}.csv") for m in run.measurements]
    written.append(_npz(directory / "spectra.npz", _spectra_arrays(run)))
    written.append(_npz(directory / "frames.npz", _frame_arrays(reader)))
    written.append(_npz(directory / "maps.npz", _map_arrays(run)))
    written.append(_auxiliary(reader, directory / "auxiliary.csv"))
    written.append(_events(reader.records(), directory / "events.csv"))
    campaign = directory / "campaign.toml"
    write_durably(campaign, run.started.campaign_text.encode())
    readme = directory / "README.txt"
    write_durably(readme, _readme(run).encode())
    return [*written, campaign, readme]


def _points(run: RunData, path: Path) -> Path:
    head = [
        "number",
        "job_id",
        "window",
        "x_m",
        "y_m",
        "piezo_x_m",
        "piezo_y_m",
        f"scalar_{(run.unit or 'arb').replace(' ', '_')}",
        "counts",
        "quality",
        "label",
        "label_confidence",
        "began_s",
        "ended_s",
        "travel_s",
        "settle_s",
        "decision",
        "expected_mean",
        "expected_std",
        "file",
    ]
    return _csv(path, head, (_point(run, k, m) for k, m in enumerate(run.measurements, 1)))


def _point(run: RunData, number: int, m: Measurement) -> list[Any]:
    s, decision = m.spectrum, run.decisions.get(m.spectrum.decision)
    return [
        number,
        s.job_id,
        s.window,
        s.sample_x_m,
        s.sample_y_m,
        s.piezo_x_m,
        s.piezo_y_m,
        run.sign * s.scalar,
        int(m.counts),
        " ".join(s.quality),
        m.label.label if m.label else "",
        m.label.confidence if m.label else "",
        s.began_s,
        s.ended_s,
        s.travel_s,
        s.settle_s,
        s.decision,
        run.sign * decision.mean if decision else "",
        decision.std if decision else "",
        f"spectra/{_file_name(m)}.csv",
    ]


def _decisions(run: RunData, path: Path) -> Path:
    head = ["decision", "window", "index", "x_m", "y_m", "kind", "acquisition", "mean", "std", "beta"]
    head += ["observed", "pending", "cursor", "seconds", "reason"]
    rows = (
        [
            *(d.decision, d.window, d.index, d.x_m, d.y_m, d.kind, d.acquisition),
            *(
                run.sign * d.mean,
                d.std,
                d.beta,
                d.observed,
                " ".join(d.pending),
                d.cursor,
                d.seconds,
                d.reason,
            ),
        ]
        for d in run.decisions.values()
    )
    return _csv(path, head, rows)


def _spectrum(m: Measurement, path: Path) -> Path:
    """One column for the bias and one for each channel, repeat and direction."""
    data = m.spectrum.data
    head, columns = ["bias_V"], [np.asarray(data.bias_v, dtype=float)]
    for channel in data.channels:
        values = np.asarray(channel.values, dtype=float)
        for repeat in range(values.shape[0]):
            for direction in range(values.shape[1]):
                which = _DIRECTIONS[direction] if values.shape[1] > 1 else _DIRECTIONS[0]
                number = f"_{repeat + 1}" if values.shape[0] > 1 else ""
                head.append(f"{channel.name}_{which}{number}_{channel.unit or 'arb'}")
                columns.append(values[repeat, direction])
    return _csv(path, head, np.stack(columns, axis=1).tolist())


def _auxiliary(reader: JournalReader, path: Path) -> Path:
    """One row per value."""
    return _csv(path, ["wall_s", "instrument", "quantity", "value", "unit", "note"], auxiliary_rows(reader))


def _events(records: Iterable[StoredRecord], path: Path) -> Path:
    """Everything in the journal that is no array: one line each."""
    silent = {
        *("SpectrumTaken", "FrameTaken", "ModelState", "PredictedMap", "RunStarted"),
        "AuxiliaryReading",  # in auxiliary.csv
    }
    rows = (
        [r.seq, r.wall_s, r.actor, type(r.body).__name__, to_jsonable(r.body)]
        for r in records
        if type(r.body).__name__ not in silent
    )
    return _csv(path, ["seq", "wall_s", "actor", "kind", "content"], rows)


def _spectra_arrays(run: RunData) -> dict[str, np.ndarray[Any, Any]]:
    """Vectors over the spectra, and each channel as (spectra, repeats, directions, points), NaN-padded."""
    found = run.measurements
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "job_id": np.array([m.spectrum.job_id for m in found], dtype=np.str_),
        "window": np.array([m.spectrum.window for m in found], dtype=np.int64),
        "x_m": np.array([m.spectrum.sample_x_m for m in found], dtype=float),
        "y_m": np.array([m.spectrum.sample_y_m for m in found], dtype=float),
        "scalar": np.array([run.sign * m.spectrum.scalar for m in found], dtype=float),
        "counts": np.array([m.counts for m in found], dtype=bool),
        "label": np.array([m.label.label if m.label else "" for m in found], dtype=np.str_),
    }
    if not found:
        return arrays
    biases = [np.asarray(m.spectrum.data.bias_v, dtype=float) for m in found]
    points = max(b.size for b in biases)
    arrays["bias_V"] = np.stack([_padded(b, (points,)) for b in biases])
    for name in sorted({c.name for m in found for c in m.spectrum.data.channels}):
        own = [next((c.values for c in m.spectrum.data.channels if c.name == name), None) for m in found]
        shapes = [np.shape(v) for v in own if v is not None]
        largest = tuple(max(s[k] for s in shapes) for k in range(3))
        arrays[name] = np.stack(
            [_padded(np.zeros((0, 0, 0)) if v is None else np.asarray(v, dtype=float), largest) for v in own]
        )
    return arrays


def _frame_arrays(reader: JournalReader) -> dict[str, np.ndarray[Any, Any]]:
    """``NAME.CHANNEL.BIAS`` -> (2, lines, pixels), and ``NAME.place`` -> (x, y, width, height, angle)."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for record in reader.records(kinds=(FrameTaken,)):
        frame = record.body
        if not isinstance(frame, FrameTaken):
            continue
        name = _flat(frame.job_id)
        for image in frame.images:
            arrays[f"{name}.{image.channel}_{image.unit}.{image.bias_v:g}V"] = np.asarray(image.values)
        arrays[f"{name}.place"] = np.array(
            [frame.centre_x_m, frame.centre_y_m, frame.width_m, frame.height_m, frame.angle_rad]
        )
    return arrays


def _map_arrays(run: RunData) -> dict[str, np.ndarray[Any, Any]]:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for window in run.windows:
        found = window.predicted
        if found is None:
            continue
        shape = found.shape if len(found.shape) == 2 else (-1,)
        name = f"window{window.opened.index}"
        arrays[f"{name}.x_m"] = np.asarray(found.x_m).reshape(shape)
        arrays[f"{name}.y_m"] = np.asarray(found.y_m).reshape(shape)
        arrays[f"{name}.mean"] = run.sign * np.asarray(found.mean, dtype=float).reshape(shape)
        arrays[f"{name}.std"] = np.asarray(found.std, dtype=float).reshape(shape)
    return arrays


_README = """Run {run} of the campaign "{campaign}"
({kind}; sample {sample}).
Sought: {sought}.
Spectra: {spectra}, of which {counting} count as data.

Units are SI everywhere (m, V, A, s, rad) and stand in the column names.
Coordinates: x_m, y_m are in the sample's frame, corrected for drift; piezo_x_m, piezo_y_m
are what the scanner was told.  Angles are counter-clockwise.
Bias is sample against tip.  Positive z is away from the sample.
Images are [row, column]; row 0 is at the lowest y, column 0 at the lowest x of the frame's
own axes, for both scan directions (in matplotlib: imshow(image, origin="lower")).
Times (began_s, ended_s) are seconds of the instrument's own clock; wall_s is Unix time.

points.csv     One row per spectrum in the order of measurement.
               scalar_...: {scalar}, in "{unit}".
               counts: 1 if it is data, 0 if quality or a later judgement says no.
               expected_mean, expected_std: the model's prediction before the measurement,
               in the scalar's unit.
spectra/       One CSV per spectrum: bias_V, then one column per channel and direction (and
               repeat).  Backward sweeps are in the order of bias_V too.  Empty cells: no
               value (the preamplifier was at its rail).
spectra.npz    The same as arrays: each channel (spectra, repeats, directions, points),
               direction 0 forward, 1 backward; bias_V (spectra, points); NaN where there is
               no value.
frames.npz     JOB.CHANNEL_UNIT.BIAS: (2, lines, pixels), first axis forward, backward.
               JOB.place: centre x, centre y (sample frame, m), width, height (m), angle (rad).
maps.npz       windowN.mean, windowN.std at the candidates windowN.x_m, windowN.y_m:
               predictions, not measurements.
decisions.csv  Why each point was chosen: what the model saw, expected and preferred.
auxiliary.csv  Readings of the instruments beside the microscope: one value per row, wall_s is
               Unix time.
events.csv     Everything else in the journal, one line each; content is JSON.
campaign.toml  The campaign as it was given.
"""


def _readme(run: RunData) -> str:
    campaign = run.started.campaign
    return _README.format(
        run=run.started.run,
        campaign=campaign.name,
        kind="simulated" if run.started.simulated else "measured",
        sample=campaign.instrument.sample,
        sought=scalar_words(campaign.scalar),
        spectra=len(run.measurements),
        counting=sum(m.counts for m in run.measurements),
        scalar=scalar_name(campaign.scalar),
        unit=run.unit or "arbitrary units",
    )


def _csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([_cell(v) for v in row])
    write_durably(path, buffer.getvalue().encode())
    return path


def _cell(value: Any) -> Any:
    """Shortest text that reads back to the same number; nothing for a missing one."""
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(float(value))
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value


def _npz(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> Path:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_durably(path, buffer.getvalue())
    return path


def _padded(values: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """``values`` in the corner of an array of NaN."""
    out = np.full(shape, np.nan)
    out[tuple(slice(0, n) for n in values.shape)] = values
    return out


def _file_name(m: Measurement) -> str:
    return _flat(m.spectrum.job_id)


def _flat(job_id: str) -> str:
    """A job id without its run, fit for a file name."""
    return job_id.split("/", 1)[-1].replace("/", "-")
