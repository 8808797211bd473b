"""``stmctl runs``, ``show``, ``explain``, ``report``, ``export``: reading journals; no daemon is needed."""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path

import click
import msgspec

from actors.console.app import state_of
from actors.console.options import json_option, run_argument, state_option
from actors.console.output import emit, note, pairs, say, stdout, table
from actors.console.run_names import find_run
from protocols.errors import ConfigError


@click.command("runs")
@json_option
@state_option
@click.pass_context
def runs_command(ctx: click.Context, as_json: bool) -> None:
    """List all runs of the state directory, newest first."""
    from actors.console.run_view import summary_document
    from actors.journal.reader import runs

    state = state_of(ctx)
    found = runs(state)
    if as_json:
        emit("runs", {"state_directory": str(state), "runs": [summary_document(s) for s in found]})
        return
    if not found:
        say(f"No runs in {state}. Start one with 'stmctl run CAMPAIGN'.")
        return
    rows = [
        (s.run, s.campaign, s.state, str(s.spectra), _clock(s.started_s), s.trouble or s.reason)
        for s in found
    ]
    stdout().print(
        table("", ("run", "campaign", "state", "spectra", "started", "reason"), rows, ("spectra",))
    )


@click.command("show")
@run_argument
@json_option
@state_option
@click.pass_context
def show_command(ctx: click.Context, run: str, as_json: bool) -> None:
    """Show RUN (a name, the beginning of one, or 'last'): windows, best point, figures.

    For simulated runs the truth is opened: distance to the true target, map correlation, duty cycle.
    """
    from actors.console.evaluation import evaluate
    from actors.console.run_view import print_run, run_document
    from actors.journal.reader import JournalReader
    from actors.journal.run_data import load

    state = state_of(ctx)
    directory = find_run(state, run)
    with JournalReader(directory) as reader:
        data = load(reader)
        evaluation, _ = evaluate(state, reader)
    if as_json:
        emit("run", run_document(data, evaluation, directory))
    else:
        print_run(data, evaluation, directory)


@click.command("explain")
@run_argument
@click.argument("k")
@json_option
@state_option
@click.pass_context
def explain_command(ctx: click.Context, run: str, k: str, as_json: bool) -> None:
    """Say why spectrum K of RUN was taken where it was, what was expected, and what came out.

    K is the number of the decision (12 or d0012), a job id, or 'best' or 'last'.
    """
    from actors.journal.reader import JournalReader
    from actors.journal.run_data import load
    from actors.journal.wording import explain

    directory = find_run(state_of(ctx), run)
    with JournalReader(directory) as reader:
        data = load(reader)
    name = _decision_name(k, list(data.decisions), data.best.spectrum.decision if data.best else "")
    decision = data.decisions[name]
    measurement = next((m for m in data.measurements if m.spectrum.decision == name), None)
    words = explain(decision, measurement, data.unit, data.sign)
    if as_json:
        body = msgspec.to_builtins(decision)
        body.pop("t", None)
        emit(
            "decision",
            {
                **body,
                "run": data.started.run,
                "explanation": words,
                "job_id": measurement.spectrum.job_id if measurement else None,
                "scalar": data.sign * measurement.spectrum.scalar if measurement else None,
                "valid": measurement.valid if measurement else None,
                "quality": list(measurement.spectrum.quality) if measurement else None,
                "label": measurement.label.label if measurement and measurement.label else None,
            },
        )
        return
    from actors.journal.wording import si
    from protocols.files.quantities import format_place

    say(words)
    if measurement is not None and measurement.label is not None:
        label = measurement.label
        note_words = f" ({label.note})" if label.note else ""
        sure = f"{100 * label.confidence:.0f} % sure"
        say(f"The classifier {label.model} says: {label.label}, {sure}{note_words}.")
    saw = f"{decision.observed} points (journal up to record {decision.cursor})"
    if decision.pending:
        saw += f", pending {', '.join(decision.pending)}"
    stdout().print(
        pairs("", [("decision", name), ("place", format_place(decision.x_m, decision.y_m)), ("it saw", saw)])
    )
    if decision.alternatives:
        rows = [
            (
                format_place(a.x_m, a.y_m),
                f"{a.acquisition:.4g}",
                f"{si(data.sign * a.mean, data.unit)} ± {si(a.std, data.unit, 2)}",
            )
            for a in decision.alternatives
        ]
        stdout().print(table("Not chosen", ("place", "acquisition", "expected"), rows, ("acquisition",)))


@click.command("report")
@run_argument
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where (default: in the run's directory).",
)
@json_option
@state_option
@click.pass_context
def report_command(ctx: click.Context, run: str, output: Path | None, as_json: bool) -> None:
    """Write the report of RUN: one HTML file with maps, spectra and reasons that needs nothing else."""
    directory = find_run(state_of(ctx), run)
    path = write_report_of(state_of(ctx), directory, output)
    if as_json:
        emit("report", {"run": directory.name, "report": str(path)})
    else:
        say(f"Wrote {path}.")


def write_report_of(state: Path, directory: Path, output: Path | None = None) -> Path:
    """The report of a run, with the truth for simulated ones; its path."""
    from actors.console.evaluation import evaluate
    from actors.console.run_view import REPORT
    from actors.journal.reader import JournalReader
    from actors.journal.report import write_report

    with JournalReader(directory) as reader:
        _, truth = evaluate(state, reader)
        return write_report(reader, output or directory / REPORT, truth)


@click.command("export")
@run_argument
@click.option(
    "--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder."
)
@json_option
@state_option
@click.pass_context
def export_command(ctx: click.Context, run: str, folder: Path, as_json: bool) -> None:
    """Export RUN as CSV and NPZ files, SI units in the column names."""
    from actors.journal.export import export_run
    from actors.journal.reader import JournalReader

    directory = find_run(state_of(ctx), run)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"the folder {folder} is not empty.", "Name a new one.")
    with JournalReader(directory) as reader:
        export_run(reader, folder)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    if as_json:
        emit("export", {"run": directory.name, "folder": str(folder.absolute()), "files": files})
    else:
        say(f"Wrote {len(files)} files to {folder}.")
        note(", ".join(files))


def _decision_name(k: str, known: list[str], best: str) -> str:
    """Id of the decision that ``k`` means.

    Raises:
        ConfigError: there is none; says what there is.
    """
    if not known:
        raise ConfigError("this run has made no decision yet.")
    wanted = known[-1] if k == "last" else best if k == "best" else k
    job = re.fullmatch(r"(.+)/a\d+", wanted)
    wanted = (job[1] if job else wanted).rpartition("/")[2]
    for name in known:
        tail = name.rpartition("/")[2]
        if wanted == tail or (wanted.isdigit() and re.fullmatch(rf"[a-z]+0*{int(wanted)}", tail)):
            return name
    raise ConfigError(
        f"there is no decision '{k}'.", f"There are {known[0]} to {known[-1]}, or say 'best' or 'last'."
    )


def _clock(wall_s: float) -> str:
    if not math.isfinite(wall_s):
        return "unknown"
    return datetime.fromtimestamp(wall_s).astimezone().strftime("%Y-%m-%d %H:%M")
