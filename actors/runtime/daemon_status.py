"""What ``stmctl status`` shows, gathered from the daemon's parts."""

from __future__ import annotations

from actors.journal.reader import RunSummary as JournalSummary
from actors.runtime.actor_pool import ActorHealth as PoolHealth
from actors.runtime.campaign_run import CampaignRun
from actors.runtime.ledger import Point, RunLedger
from protocols.messages.daemon import ActorHealth, EdgeStatistics, PointSummary, RunProgress, RunSummary
from protocols.states.run import FINAL_RUN_STATES

MOST_POINTS = 100


def point_summary(ledger: RunLedger, point: Point) -> PointSummary:
    """One spectrum in a line."""
    decision = ledger.decisions.get(point.decision)
    label = ledger.labelled.get(point.job_id)
    return PointSummary(
        job_id=point.job_id,
        window=point.window,
        x_m=point.x_m,
        y_m=point.y_m,
        scalar=point.scalar,
        valid=point.valid,
        quality=point.quality,
        label=label.label if label else "",
        label_confidence=label.confidence if label else 0.0,
        kind=decision.kind if decision else "",
        reason=decision.reason if decision else "",
        wall_s=point.wall_s,
    )


def run_progress(run: CampaignRun, points: int, lines: tuple[int, int]) -> RunProgress:
    """How a run stands."""
    ledger, started = run.ledger, run.ledger.started
    assert started is not None
    window = ledger.open_window() or max(ledger.windows.values(), key=lambda w: w.index, default=None)
    taken = ledger.points_in(window.index) if window else []
    best = ledger.best_point()
    over = run.control.state in FINAL_RUN_STATES
    return RunProgress(
        run=run.run,
        name=started.campaign.name,
        state=run.control.state,
        reason=run.control.reason,
        began_wall_s=ledger.began_wall_s,
        seed=started.seed,
        simulated=started.simulated,
        time_scale=started.time_scale,
        window=window,
        windows_planned=len(started.campaign.zoom.widths_m),
        spectra_taken=sum(p.valid for p in taken),
        spectra_planned=started.campaign.planner.points,
        spectra_total=len(ledger.points),
        frames_taken=len(ledger.frames),
        frame_lines_done=lines[0],
        frame_lines_planned=lines[1],
        activity="" if over else run.activity_text(),
        latest=tuple(point_summary(ledger, p) for p in ledger.latest_points(min(points, MOST_POINTS))),
        best=point_summary(ledger, best) if best else None,
        drift_x_m_s=ledger.transform.velocity_x_m_s,
        drift_y_m_s=ledger.transform.velocity_y_m_s,
        duty_cycle=run.signs.duty_cycle,
    )


def run_line(summary: JournalSummary) -> RunSummary:
    """One run in a line."""
    over = summary.outcome or summary.state in FINAL_RUN_STATES
    return RunSummary(
        run=summary.run,
        name=summary.campaign,
        state=summary.state,
        reason=summary.reason,
        spectra=summary.spectra,
        began_wall_s=summary.started_s,
        ended_wall_s=summary.updated_s if over else None,
    )


def actor_line(health: PoolHealth) -> ActorHealth:
    """One actor."""
    return ActorHealth(
        name=health.name,
        state=health.state,
        pid=health.pid,
        restarts=health.restarts,
        last_fault=health.last_fault,
    )


def process_line(name: str, pid: int, up: bool, restarts: int = 0, fault: str = "") -> ActorHealth:
    """One process beside the actors."""
    return ActorHealth(
        name=name, state="up" if up else "down", pid=pid if up else 0, restarts=restarts, last_fault=fault
    )


def call_edges(health: list[PoolHealth], bound: int) -> tuple[EdgeStatistics, ...]:
    """Calls to the actors: how many wait, how many were made."""
    return tuple(
        EdgeStatistics(
            edge=f"daemon -> {h.name}",
            bound=bound,
            waiting=h.calls_pending,
            most_waiting=h.most_pending,
            passed=h.calls,
        )
        for h in health
    )
