"""How well a run did, measured against what it could not know: opened after the run, in simulation only.

The truth log says where the target lies and when the tip had no job; a recorded sample's file has the spectra
that were not taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from actors.journal.reader import JournalReader
from actors.journal.run_data import RunData, WindowData, load
from protocols.errors import TunnelpilotError
from protocols.files.truth_log import TruthEntry, idle_fraction, read_truth, shares, truth_path
from protocols.messages.records import PredictedMap

Floats = npt.NDArray[np.float64]

RECORDED = "recorded:"
TARGET_KIND = "vacancy"
"""The one object of the simulated sample "vacancy" that is sought; everything else there is a decoy."""
_CHANNELS = {
    "current": ("Current",),
    "lockin_x": ("LockinX", "LI Demod 1 X"),
    "lockin_y": ("LockinY", "LI Demod 1 Y"),
}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The place that was to be found, in the true sample frame and in that of the run."""

    kind: str
    x_m: float
    y_m: float
    run_x_m: float
    """In the run's drift-corrected frame, as it was in the last window."""
    run_y_m: float
    decoys: int
    best_distance_m: float | None
    """From the true place of the best spectrum."""
    window_centre_distance_m: float | None
    """From the centre of the last window."""
    in_last_window: bool | None


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted against true map (Pearson), over all places of the recorded grid."""

    map_correlation: float
    places: int
    spectra: int
    space_filling_correlation: float | None
    """With as many space-filling points and the same kind of model."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What the truth says of a run; None where it says nothing, and ``notes`` tell why."""

    sample: str
    target: Target | None = None
    correlation: Correlation | None = None
    duty_cycle: float | None = None
    shares: dict[str, float] = {}
    last_seq: int = 0
    """The journal's last number when this was computed."""
    notes: tuple[str, ...] = ()


@dataclass
class _Findings:
    """Filled step by step; each step may fail by itself."""

    target: Target | None = None
    correlation: Correlation | None = None
    duty_cycle: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    maps: dict[int, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate(state: Path, reader: JournalReader) -> tuple[Evaluation, dict[str, Any]]:
    """The evaluation, and the mapping that ``actors.journal.report.write_report`` takes as ``truth``.

    Raises:
        DataFormatError: the journal holds no run.
    """
    run = load(reader)
    sample = run.started.campaign.instrument.sample
    found = _Findings()
    if not run.started.simulated:
        found.notes.append("real electronics: there is no truth to compare with")
    else:
        _use_truth_log(state, run, found)
        if sample.startswith(RECORDED):
            _attempt(found, lambda: _use_recording(reader, run, found))
    evaluation = Evaluation(
        sample=sample,
        target=found.target,
        correlation=found.correlation,
        duty_cycle=found.duty_cycle,
        shares=found.shares,
        last_seq=reader.last_seq(),
        notes=tuple(found.notes),
    )
    return evaluation, _for_report(evaluation, found, sample)


def _attempt(found: _Findings, step: Any) -> None:
    try:
        step()
    except TunnelpilotError as problem:
        found.notes.append(str(problem))


# ---- the truth log ---------------------------------------------------------------------------------------


def _use_truth_log(state: Path, run: RunData, found: _Findings) -> None:
    path = truth_path(state)
    try:
        entries = read_truth(path)
    except TunnelpilotError as problem:
        found.notes.append(f"no truth log: {problem}")
        return
    jobs = [e for e in entries if e.job_id.startswith(f"{run.started.run}/")]
    if not jobs:
        found.notes.append(f"the truth log {path} knows no job of this run")
        return
    scale = run.started.time_scale
    spectra = {m.spectrum.job_id for m in run.measurements}
    frames = {f.job_id for f in run.frames}
    t0 = min((e.monotonic_s for e in jobs if e.event == "begin_job"), default=jobs[0].monotonic_s)
    ends = [e.monotonic_s for e in jobs if e.event == "end_job" and e.job_id in spectra | frames]
    t1 = max(ends, default=jobs[-1].monotonic_s)
    found.duty_cycle = 1.0 - idle_fraction(entries, t0, t1)
    found.shares = shares(entries, t0, t1, scale)
    found.target = _target(run, entries, jobs)


def _target(run: RunData, entries: list[TruthEntry], jobs: list[TruthEntry]) -> Target | None:
    truths = [e for e in entries if e.event == "ground_truth" and e.n <= jobs[0].n] or [
        e for e in entries if e.event == "ground_truth"
    ]
    objects = truths[-1].detail.get("objects", []) if truths else []
    targets = [o for o in objects if o.get("kind") == TARGET_KIND]
    if len(targets) != 1:
        return None
    x, y = float(targets[0]["x_m"]), float(targets[0]["y_m"])
    places = {
        e.job_id: (float(e.detail["sample_x_m"]), float(e.detail["sample_y_m"]))
        for e in jobs
        if e.event == "sweep_done" and "sample_x_m" in e.detail
    }
    distance = None
    if run.best is not None and run.best.spectrum.job_id in places:
        there = places[run.best.spectrum.job_id]
        distance = math.hypot(there[0] - x, there[1] - y)
    dx, dy = _frame_error(run, places)
    run_x, run_y = x - dx, y - dy
    last = run.windows[-1].opened if run.windows else None
    return Target(
        kind=TARGET_KIND,
        x_m=x,
        y_m=y,
        run_x_m=run_x,
        run_y_m=run_y,
        decoys=sum(o.get("kind") not in (TARGET_KIND, "step") for o in objects),
        best_distance_m=distance,
        window_centre_distance_m=(
            math.hypot(run_x - last.centre_x_m, run_y - last.centre_y_m) if last is not None else None
        ),
        in_last_window=_inside(run.windows[-1], run_x, run_y) if last is not None else None,
    )


def _frame_error(run: RunData, places: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """True less believed coordinates in the last window that has spectra: what drift correction left."""
    for window in reversed(run.windows):
        errors = [
            (places[s.job_id][0] - s.sample_x_m, places[s.job_id][1] - s.sample_y_m)
            for s in (m.spectrum for m in window.measurements)
            if s.job_id in places
        ]
        if errors:
            dx, dy = np.median(np.array(errors), axis=0)
            return float(dx), float(dy)
    return 0.0, 0.0


def _inside(window: WindowData, x_m: float, y_m: float) -> bool:
    o = window.opened
    dx, dy = x_m - o.centre_x_m, y_m - o.centre_y_m
    c, s = math.cos(o.angle_rad), math.sin(o.angle_rad)
    return abs(c * dx + s * dy) <= o.width_m / 2 and abs(c * dy - s * dx) <= o.height_m / 2


# ---- recorded samples ------------------------------------------------------------------------------------


def recorded_file(sample: str) -> Path:
    """The .3ds file behind a sample "recorded:..."; "demo" is the one that comes with the package."""
    name = sample.removeprefix(RECORDED)
    if name != "demo":
        return Path(name).expanduser()
    folder = resources.files("sim_hardware") / "recorded"
    return next(Path(str(f)) for f in folder.iterdir() if f.name.endswith(".3ds"))


def true_scalars(path: Path, run: RunData) -> tuple[Floats, Floats, Floats]:
    """(x_m, y_m, scalar) of every spectrum of a recorded grid, in its own frame; the scalar maximised.

    Each has shape (ny, nx).

    Raises:
        DataFormatError: the file is no whole grid, or lacks the channel.
    """
    from actors.analysis.scalarizers import scalarize
    from protocols.errors import DataFormatError
    from protocols.files.nanonis_grid import name_and_unit, read_grid

    grid = read_grid(path)
    section = run.started.campaign.scalar
    label = next((c for c in grid.channels if name_and_unit(c)[0] in _CHANNELS[section.channel]), None)
    if label is None:
        raise DataFormatError(f"{path} has no channel {section.channel} ({', '.join(grid.channels)}).")
    curves = grid.channels[label].astype(float)
    unit = name_and_unit(label)[1]
    ny, nx = grid.shape
    values = np.array(
        [[scalarize(grid.sweep, curves[r, c], section, unit).value for c in range(nx)] for r in range(ny)]
    )
    x, y = np.meshgrid(grid.x_m, grid.y_m)
    return x, y, values


def _use_recording(reader: JournalReader, run: RunData, found: _Findings) -> None:
    from actors.dkl_planner.control import correlation, space_filling_control
    from actors.journal.window_candidates import window_candidates

    path = recorded_file(run.started.campaign.instrument.sample)
    x, y, truth = true_scalars(path, run)
    window = next((w for w in reversed(run.windows) if w.predicted is not None), None)
    if window is None or window.predicted is None:
        found.notes.append("no window was closed, so there is no predicted map to compare")
        return
    predicted: PredictedMap = window.predicted
    at_candidates = _nearest(x, y, truth, predicted)
    spectra = len(window.points)
    candidates = window_candidates(reader, run.started, window.opened)
    control = None
    if len(candidates) == at_candidates.size and spectra >= 3:
        made = space_filling_control(
            run.started.campaign.planner, candidates, at_candidates, spectra, run.started.seed
        )
        control = made.correlation
    found.correlation = Correlation(
        map_correlation=correlation(np.asarray(predicted.mean, dtype=float).ravel(), at_candidates),
        places=int(np.isfinite(at_candidates).sum()),
        spectra=spectra,
        space_filling_correlation=control,
    )
    found.maps[window.opened.index] = {
        "x_m": np.asarray(predicted.x_m, dtype=float),
        "y_m": np.asarray(predicted.y_m, dtype=float),
        "values": run.sign * at_candidates,
        "shape": tuple(predicted.shape),
    }


def _nearest(x: Floats, y: Floats, values: Floats, predicted: PredictedMap) -> Floats:
    """The true values at the places of the predicted map; NaN where none was recorded."""
    px, py = np.asarray(predicted.x_m, dtype=float).ravel(), np.asarray(predicted.y_m, dtype=float).ravel()
    xs, ys = x[0], y[:, 0]
    col = np.abs(px[:, None] - xs[None, :]).argmin(axis=1)
    row = np.abs(py[:, None] - ys[None, :]).argmin(axis=1)
    step = max(abs(xs[1] - xs[0]) if xs.size > 1 else 0.0, abs(ys[1] - ys[0]) if ys.size > 1 else 0.0)
    near = np.hypot(px - xs[col], py - ys[row]) <= 0.5 * step
    return np.where(near, values[row, col], np.nan)


# ---- for the report --------------------------------------------------------------------------------------


def _for_report(evaluation: Evaluation, found: _Findings, sample: str) -> dict[str, Any]:
    truth: dict[str, Any] = {}
    if found.maps:
        truth["maps"] = found.maps
    if evaluation.correlation is not None:
        truth["map_correlation"] = evaluation.correlation.map_correlation
        if evaluation.correlation.space_filling_correlation is not None:
            truth["space_filling"] = {
                "correlation": evaluation.correlation.space_filling_correlation,
                "points": evaluation.correlation.spectra,
            }
    if evaluation.target is not None:
        truth["target"] = {
            "x_m": evaluation.target.run_x_m,
            "y_m": evaluation.target.run_y_m,
            "name": f"the {evaluation.target.kind}",
        }
    if evaluation.duty_cycle is not None:
        truth["duty_cycle"] = evaluation.duty_cycle
        truth["shares"] = evaluation.shares
    if sample == f"{RECORDED}demo":
        truth["recorded"] = [
            "Topograph and spectra were recorded on a real microscope: a complete 30 x 30 grid of 5 x 5 nm "
            "(pycroscopy/SciFiDatasets, MIT licence). Spectra were served at grid points only and never "
            "interpolated; the run knew no spectrum before it had taken it.",
        ]
        truth["added"] = [
            "Added by the simulation: the clock, travel and settling times, the feedback loop between "
            "points. Coordinates are the grid's own axes about its centre, not those of the piezo then.",
        ]
    return truth
