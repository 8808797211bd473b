"""The daemon's status for people and as a JSON document."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.table import Table

from actors.console.commands_campaign import minutes
from actors.console.output import pairs, say, stdout, table
from protocols.files.quantities import format_place, format_quantity
from protocols.messages.control import GuardStatus
from protocols.messages.daemon import DaemonStatus, PointSummary, RunProgress
from protocols.messages.data import InstrumentState

LATCHED = "latched"
"""Name of that state in ``protocols.states.latch``."""


def latched(guard: GuardStatus | None) -> bool:
    """Whether the tip is latched parked."""
    return guard is not None and guard.latch == LATCHED


def needs_person(status: DaemonStatus) -> bool:
    """Whether the run holds or the tip is latched."""
    held = status.current is not None and status.current.state == "held"
    return held or latched(status.guard)


def status_document(status: DaemonStatus) -> dict[str, Any]:
    """Everything, with the messages' own names, which carry SI units."""
    from protocols.messages.codec import to_jsonable

    body: dict[str, Any] = _untagged(to_jsonable(status))
    body["latched"] = latched(status.guard)
    body["needs_person"] = needs_person(status)
    return body


def _untagged(value: Any) -> Any:
    """Without the wire's name of the kind."""
    if isinstance(value, dict):
        return {k: _untagged(v) for k, v in value.items() if k != "t"}
    if isinstance(value, list):
        return [_untagged(v) for v in value]
    return value


def print_status(status: DaemonStatus) -> None:
    """Tables for people."""
    console = stdout()
    ending = ", stops after its last run" if status.stop_after_last_run else ""
    say(f"Daemon {status.pid} with {status.state_directory}, up {minutes(status.uptime_s)}{ending}.")
    for alarm in alarms(status):
        console.print(f"ALARM: {alarm}", style="bold red", markup=False)
    if status.current is None:
        say("No run yet. Start one with 'stmctl run CAMPAIGN'.")
    else:
        console.print(progress_table(status.current))
        if status.current.latest:
            console.print(points_table(status.current.latest))
    console.print(_gateway(status))
    if status.auxiliary:
        console.print(_auxiliary(status))
    rows = [(a.name, a.state, str(a.pid or ""), str(a.restarts), a.last_fault) for a in status.actors]
    console.print(
        table("Actors", ("name", "state", "pid", "restarts", "last fault"), rows, ("pid", "restarts"))
    )
    edges = [
        (e.edge, f"{e.waiting} of {e.bound}", str(e.most_waiting), str(e.passed), str(e.dropped))
        for e in status.edges
    ]
    if edges:
        titles = ("edge", "waiting", "most", "passed", "dropped")
        console.print(table("Queues", titles, edges, ("waiting", "most", "passed", "dropped")))


def alarms(status: DaemonStatus) -> list[str]:
    """Everything that a person should know at once."""
    found = list(status.alarms)
    if status.guard is not None:
        found += [a for a in status.guard.alarms if a not in found]
        if latched(status.guard):
            why = status.guard.latch_reason.rstrip(".") or "no reason given"
            found.append(f"the tip is latched parked: {why}. Look at it, then 'stmctl ack'.")
    elif status.guard_fault:
        found.append(f"the gateway does not answer: {status.guard_fault}")
    if status.current is not None and status.current.state == "held":
        found.append(
            f"the run holds: {status.current.reason.rstrip('.')}. Then 'stmctl resume' or 'stmctl abort'."
        )
    return found


def progress_table(run: RunProgress) -> Table:
    """The run in a few lines."""
    state = f"{run.state} ({run.reason})" if run.reason else run.state
    rows = [("run", run.run), ("campaign", run.name), ("state", state)]
    window = run.window
    if window is not None:
        rows.append(
            (
                "window",
                f"{window.index + 1} of {run.windows_planned}: {format_quantity(window.width_m, 'm')} about "
                f"{format_place(window.centre_x_m, window.centre_y_m)}; {window.chosen_because}",
            )
        )
    rows.append(("spectra", f"{run.spectra_taken} of {run.spectra_planned} here, {run.spectra_total} in all"))
    if run.frame_lines_planned:
        rows.append(("frame", f"line {run.frame_lines_done} of {run.frame_lines_planned}"))
    if run.activity:
        rows.append(("now", run.activity))
    if run.best is not None:
        rows.append(("best so far", point_words(run.best)))
    rows.append(("drift", _drift(run)))
    if run.duty_cycle is not None:
        rows.append(("duty cycle", f"{100 * run.duty_cycle:.1f} %"))
    elapsed = minutes(max(0.0, time.time() - run.began_wall_s))
    clock = "" if run.time_scale == 1 else f", time scale {run.time_scale:g}"
    rows.append(("since", f"{elapsed}{clock}, seed {run.seed}{', simulated' if run.simulated else ''}"))
    return pairs("", rows)


def points_table(points: tuple[PointSummary, ...]) -> Table:
    """The latest points, newest first."""
    rows = [
        (
            p.job_id.partition("/")[2] or p.job_id,
            f"{p.x_m * 1e9:.2f}",
            f"{p.y_m * 1e9:.2f}",
            format_quantity(p.scalar, "", 4) if math.isfinite(p.scalar) else "none",
            "" if p.valid else ", ".join(p.quality) or "invalid",
            _label(p),
            p.kind,
        )
        for p in reversed(points)
    ]
    titles = ("job", "x/nm", "y/nm", "scalar", "quality", "label", "chosen by")
    return table("Latest points", titles, rows, ("x/nm", "y/nm", "scalar"))


def _label(point: PointSummary) -> str:
    sure = f" {100 * point.label_confidence:.0f} %" if point.label_confidence > 0 else ""
    return point.label + sure


def point_words(point: PointSummary) -> str:
    """One point in a line."""
    label = f", {point.label}" if point.label else ""
    value = format_quantity(point.scalar, "")
    return f"{value} at {format_place(point.x_m, point.y_m)}{label} ({point.job_id})"


def _drift(run: RunProgress) -> str:
    speed = math.hypot(run.drift_x_m_s, run.drift_y_m_s)
    return format_quantity(speed, "m/s", 3) if speed else "none measured"


def _auxiliary(status: DaemonStatus) -> Table:
    rows = []
    for health in status.auxiliary:
        last = health.last
        values = [f"{v.quantity} {format_quantity(v.value, v.unit)}" for v in last.values] if last else []
        age = f"{time.time() - last.wall_s:.0f} s ago" if last else ""
        note = health.reason or (last.note if last else "")
        port = health.port or "not found yet"
        counts = f"{health.readings} read, {health.failures} failed"
        rows.append((health.name, health.model, port, health.state, ", ".join(values), age, counts, note))
    titles = ("auxiliary", "model", "port", "state", "reading", "when", "count", "note")
    return table("Auxiliary instruments", titles, rows)


def _gateway(status: DaemonStatus) -> Table:
    guard, worker = status.guard, status.worker
    if guard is None:
        return pairs("Gateway", [("state", f"does not answer ({status.guard_fault or 'no reason'})")])
    owner = (
        f"{guard.owner}, epoch {guard.epoch}, {guard.lease_left_s:.1f} s left" if guard.owner else "nobody"
    )
    rows = [
        ("tip", f"{guard.park}{_tip(guard.instrument)}"),
        ("lease", owner),
        ("latch", f"{guard.latch} {guard.latch_reason}".strip()),
        (
            "processes",
            f"guard {guard.pid}, worker {guard.worker_pid}{'' if guard.worker_alive else ' (DEAD)'}",
        ),
    ]
    if guard.last_park_reason:
        rows.append(("last park", guard.last_park_reason))
    if worker is not None:
        running = worker.running or "nothing"
        ready = f", next {worker.ready}" if worker.ready else ""
        rows.append(("queue", f"running {running}{ready}"))
        rows.append(
            (
                "jobs",
                f"{worker.jobs_finished} finished, {worker.jobs_refused} refused, {worker.jobs_discarded} "
                f"discarded; spool {worker.spool_unacknowledged} unacknowledged",
            )
        )
    elif status.worker_fault:
        rows.append(("worker", f"does not answer ({status.worker_fault})"))
    return pairs("Gateway", rows)


def _tip(instrument: InstrumentState | None) -> str:
    if instrument is None:
        return ""
    feedback = "on" if instrument.feedback else "off"
    return (
        f"; {format_quantity(instrument.bias_v, 'V')}, {format_quantity(instrument.current_a, 'A')} "
        f"(setpoint {format_quantity(instrument.setpoint_a, 'A')}), feedback {feedback}, "
        f"z {format_quantity(instrument.z_m, 'm')}"
    )
