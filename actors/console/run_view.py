"""One run for people and as a JSON document."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from actors.console.commands_campaign import minutes
from actors.console.evaluation import Evaluation
from actors.console.output import pairs, stdout, table
from actors.journal.auxiliary import waited_s
from actors.journal.reader import Measurement, RunSummary
from actors.journal.run_data import RunData, WindowData
from actors.journal.wording import scalar_words, si
from protocols.files.quantities import format_place, format_quantity
from protocols.messages.records import Fault

REPORT = "report.html"
FINAL = frozenset({"completed", "aborted", "failed"})


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """A run in the list of ``stmctl runs``."""
    return {
        "run": summary.run,
        "campaign": summary.campaign,
        "state": summary.state,
        "reason": summary.reason,
        "outcome": summary.outcome,
        "spectra": summary.spectra,
        "started_wall_s": summary.started_s,
        "updated_wall_s": summary.updated_s,
        "trouble": summary.trouble,
    }


def run_document(run: RunData, evaluation: Evaluation | None, directory: Path) -> dict[str, Any]:
    """Everything ``stmctl show`` says."""
    report = directory / REPORT
    campaign = run.started.campaign
    measurements = run.measurements
    return {
        **summary_document(run.summary),
        "description": campaign.description,
        "directory": str(directory),
        "report": str(report) if report.is_file() else None,
        "seed": run.started.seed,
        "simulated": run.started.simulated,
        "sample": campaign.instrument.sample if run.started.simulated else None,
        "time_scale": run.started.time_scale,
        "scalar_unit": run.unit,
        "windows": [_window_document(run, w) for w in run.windows],
        "spectra_counted": sum(m.counts for m in measurements),
        "frames": len(run.frames),
        "decisions": len(run.decisions),
        "interrupted_attempts": len(run.ended_attempts),
        "faults": len(run.faults),
        "operator_actions": len(run.operator_actions),
        "best": best_document(run, run.best),
        "figures": dict(run.conclusion.figures) if run.conclusion is not None else {},
        "time_shares": run.time_shares(),
        "auxiliary": [msgspec.to_builtins(a) for a in run.auxiliary],
        "waited_s": waited_s(run.states),
        "truth": msgspec.to_builtins(evaluation) if evaluation is not None else None,
    }


def best_document(run: RunData, best: Measurement | None) -> dict[str, Any] | None:
    """A measurement with its physical scalar."""
    if best is None:
        return None
    s = best.spectrum
    return {
        "job_id": s.job_id,
        "window": s.window,
        "x_m": s.sample_x_m,
        "y_m": s.sample_y_m,
        "scalar": run.sign * s.scalar,
        "label": best.label.label if best.label is not None else "",
        "label_confidence": best.label.confidence if best.label is not None else None,
    }


def _window_document(run: RunData, window: WindowData) -> dict[str, Any]:
    o = window.opened
    return {
        "index": o.index,
        "centre_x_m": o.centre_x_m,
        "centre_y_m": o.centre_y_m,
        "width_m": o.width_m,
        "height_m": o.height_m,
        "angle_rad": o.angle_rad,
        "chosen_because": o.chosen_because,
        "spectra": len(window.measurements),
        "spectra_counted": len(window.points),
        "candidates": int(window.predicted.mean.size) if window.predicted is not None else None,
        "closed_because": window.closed.reason if window.closed is not None else None,
        "best": best_document(run, window.best),
    }


def finding_words(run: RunData) -> str:
    """Where the most interesting structure is, in a sentence."""
    best = run.best
    if best is None:
        return "No spectrum counts as data yet."
    s = best.spectrum
    label = ""
    if best.label is not None:
        label = f"; the classifier says: {best.label.label}"
        if best.label.confidence > 0:
            label += f" ({100 * best.label.confidence:.0f} % sure)"
    value = si(run.sign * s.scalar, run.unit)
    return (
        f"The most interesting structure is at {format_place(s.sample_x_m, s.sample_y_m)} ({value}, "
        f"{s.job_id}{label})."
    )


def figure_rows(run: RunData, evaluation: Evaluation | None) -> list[tuple[str, str]]:
    """Figures of merit, one per row."""
    taken = len(run.measurements)
    places = [w.predicted.mean.size for w in run.windows if w.predicted is not None]
    out_of = f" of {sum(places)} possible places" if places else ""
    rows = [("spectra", f"{taken}{out_of}; {sum(m.counts for m in run.measurements)} count as data")]
    if evaluation is None:
        return rows
    if (c := evaluation.correlation) is not None:
        text = f"{c.map_correlation:.3f} over all {c.places} places"
        if c.space_filling_correlation is not None:
            text += f"; {c.spectra} space-filling points would give {c.space_filling_correlation:.3f}"
        rows.append(("map correlation", text))
    if (t := evaluation.target) is not None:
        rows += _target_rows(t.best_distance_m, t.in_last_window, t.window_centre_distance_m, t.decoys)
    if evaluation.duty_cycle is not None:
        parts = ", ".join(f"{k} {100 * v:.1f} %" for k, v in evaluation.shares.items())
        rows.append(("duty cycle", f"{100 * evaluation.duty_cycle:.1f} % ({parts})"))
    rows += [("note", n) for n in evaluation.notes]
    return rows


def _auxiliary_table(run: RunData) -> Table:
    rows = [
        (
            a.instrument,
            q.quantity,
            str(q.readings),
            *(si(v, q.unit) for v in (q.last, q.minimum, q.maximum, q.mean)),
        )
        for a in run.auxiliary
        for q in a.quantities
    ]
    waited = waited_s(run.states)
    title = "Auxiliary instruments" + (f" (the run waited for them {minutes(waited)})" if waited else "")
    titles = ("instrument", "quantity", "readings", "last", "smallest", "largest", "mean")
    return table(title, titles, rows, ("readings",))


def _target_rows(
    distance: float | None, inside: bool | None, centre: float | None, decoys: int
) -> list[tuple[str, str]]:
    rows = []
    if inside is not None and centre is not None:
        words = "lies in" if inside else "is NOT in"
        rows.append(
            (
                "true target",
                f"{words} the last window, {format_quantity(centre, 'm', 3)} from its centre "
                f"({decoys} decoys on the surface)",
            )
        )
    if distance is not None:
        rows.append(("best point", f"{format_quantity(distance, 'm', 3)} from the true target"))
    return rows


def print_run(run: RunData, evaluation: Evaluation | None, directory: Path) -> None:
    """A run for people."""
    console = stdout()
    s = run.summary
    state = f"{s.state} ({s.reason})" if s.reason else s.state
    length = s.updated_s - s.started_s
    report = directory / REPORT
    rows = [
        ("run", s.run),
        ("campaign", f"{s.campaign}: {run.started.campaign.description}".rstrip(": ")),
        ("sought", scalar_words(run.started.campaign.scalar)),
        ("state", state),
        ("time", minutes(length) if math.isfinite(length) else "unknown"),
        *figure_rows(run, evaluation),
        ("journal", str(directory)),
        ("report", str(report) if report.is_file() else f"none yet: 'stmctl report {s.run}'"),
    ]
    console.print(pairs("", rows))
    windows = [
        (
            str(w.opened.index + 1),
            format_quantity(w.opened.width_m, "m"),
            format_place(w.opened.centre_x_m, w.opened.centre_y_m),
            f"{len(w.points)} of {len(w.measurements)}",
            si(run.sign * w.best.spectrum.scalar, run.unit) if w.best is not None else "",
            w.opened.chosen_because,
            w.closed.reason if w.closed is not None else "open",
        )
        for w in run.windows
    ]
    titles = ("window", "width", "centre", "count", "best", "chosen because", "closed because")
    console.print(table("Windows", titles, windows))
    if run.auxiliary:
        console.print(_auxiliary_table(run))
    for record in run.faults[-5:]:
        if isinstance(record.body, Fault):
            console.print(
                f"fault: {record.body.actor}: {record.body.what}; {record.body.action}", markup=False
            )
    console.print(finding_words(run), markup=False)
