"""The daemon's socket for the console: every request gets an answer."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.journal.reader import runs
from actors.runtime.actor_pool import CONCURRENT_CALLS
from actors.runtime.campaign_run import CampaignRun
from actors.runtime.daemon_status import (
    actor_line,
    call_edges,
    point_summary,
    process_line,
    run_line,
    run_progress,
)
from actors.runtime.instrument_clock import instrument_time_s
from actors.runtime.run_starting import versions
from protocols.errors import RefusedError, TunnelpilotError, UnknownMessageError
from protocols.files.state_directory import read_endpoints
from protocols.links.async_server import AsyncCommandServer
from protocols.messages.auxiliary import AuxiliaryHealth
from protocols.messages.base import Message
from protocols.messages.control import Done, WorkerStatus
from protocols.messages.daemon import (
    AbortRun,
    AcknowledgeAlarm,
    ActorHealth,
    DaemonQuery,
    DaemonStatus,
    EdgeStatistics,
    EngageTip,
    GotoAt,
    MeasureAt,
    OperatorResult,
    PauseRun,
    ResumeRun,
    RunAnswer,
    RunProgress,
    ScanNow,
    ShutDown,
    StartRun,
    WatchQuery,
)
from protocols.messages.recipes import Engage, Move

if TYPE_CHECKING:
    from actors.runtime.daemon import Daemon

ABORTED_S = 60.0
MOST_RUNS = 50
OPERATOR_S = 600.0
PROGRESS_S = 0.3


class ConsoleService:
    """Serves ``protocols.messages.daemon``."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._server = AsyncCommandServer("tcp://127.0.0.1:0", "stmd", self._answer)
        self._versions = versions()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return self._server.endpoint

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    async def _answer(self, message: Message, peer: str) -> Message:
        match message:
            case StartRun():
                return await self._daemon.start_run(message)
            case DaemonQuery():
                return await self._status(message.points)
            case PauseRun():
                event = "pause-now" if message.now else "pause"
                return await self._command(event, f"{event} by {peer}")
            case ResumeRun():
                return await self._command("resume", f"resumed by {peer}")
            case AbortRun():
                return await self._abort(message.reason)
            case EngageTip() | MeasureAt() | GotoAt() | ScanNow():
                return await self._operate(message)
            case AcknowledgeAlarm():
                return await self._acknowledge(message.who)
            case WatchQuery():
                return await self._daemon.ring.after(message.since, message.limit, message.wait_s)
            case ShutDown():
                return self._shut_down(message)
            case _:
                kind = type(message).__name__
                raise UnknownMessageError(f"the daemon has nothing to do with a {kind}.", kind=kind)

    # ---- runs ----

    def _run(self) -> CampaignRun:
        run = self._daemon.current
        if run is None or run.control.final:
            raise RefusedError(
                "no run is under way.", "Start one with 'stmctl run CAMPAIGN'.", refusal_code="no-run"
            )
        return run

    async def _command(self, event: str, reason: str) -> RunAnswer:
        run = self._run()
        mark = await self._daemon.withdrawal_mark() if event == "resume" else ""
        run.control.order(event, reason)
        if event == "resume":
            self._daemon.forgive()
            run.allowed = True  # only now: a resume that was refused permits nothing later
            run.allowed_at = mark
        await run.note_operator(event, {}, run.control.state)
        return RunAnswer(run=run.run, state=run.control.state, reason=run.control.reason)

    async def _abort(self, reason: str) -> RunAnswer:
        run = self._run()
        run.control.order("abort", f"aborted: {reason}")
        until = time.monotonic() + ABORTED_S
        while run.ledger.conclusion is None and time.monotonic() < until:  # noqa: ASYNC110  a deadline
            await asyncio.sleep(0.05)
        return RunAnswer(run=run.run, state=run.control.state, reason=run.control.reason)

    def _shut_down(self, message: ShutDown) -> Done:
        self._daemon.park = message.park or message.stop_gateway
        self._daemon.keep_gateway = not message.stop_gateway
        # The answer leaves before the server closes.
        asyncio.get_running_loop().call_later(0.05, self._daemon.end, "stmctl down")
        return Done(note="parking" if self._daemon.park else "the tip stays as it is")

    async def _acknowledge(self, who: str) -> OperatorResult:
        try:
            said = await self._daemon.tip.acknowledge(who)
        except TunnelpilotError as failed:
            return OperatorResult(outcome="refused", reason=str(failed))
        self._daemon.forgive()
        run = self._daemon.current
        if run is not None and not run.control.final:
            await run.note_operator("ack", {"who": who}, said)
        return OperatorResult(outcome="accepted", reason=said)

    # ---- what moves the tip ----

    async def _operate(self, message: Message) -> OperatorResult:
        run = self._run()
        command, arguments = _words(message)
        try:
            outcome = await self._perform(run, message)
        except TunnelpilotError as failed:
            outcome = {"state": "refused", "reason": str(failed), "job_id": ""}
        run.refresh()
        text = f"{outcome['state']} {outcome['reason']}".strip()
        await run.note_operator(command, arguments, text)
        point = run.ledger.points.get(outcome["job_id"])
        return OperatorResult(
            outcome=outcome["state"],
            reason=outcome["reason"],
            job_id=outcome["job_id"],
            point=point_summary(run.ledger, point) if point else None,
        )

    async def _perform(self, run: CampaignRun, message: Message) -> dict[str, Any]:
        pool, tip, ledger = self._daemon.pool, self._daemon.tip, run.ledger
        assert ledger.started is not None
        run.refresh()
        now_s = instrument_time_s(tip, ledger.started.time_scale)
        name = f"operator-{ledger.count('operator-') + 1:04d}"
        job, window = ledger.next_job(name), ledger.open_window()
        match message:
            case EngageTip():
                return await run.engage_by_hand(name, _engage(run, message))
            case GotoAt():
                x, y = ledger.transform.to_piezo(message.x_m, message.y_m, now_s)
                return await run.job(name, Move(x_m=x, y_m=y))
            case MeasureAt():
                answer: dict[str, Any] = await pool.call(
                    "spectroscopy_acquirer",
                    "measure",
                    run.run,
                    job,
                    (message.x_m, message.y_m),
                    ledger.transform,
                    now_s,
                    tip.epoch,
                    window.index if window else -1,
                    "",
                    "operator",
                    deadline_s=OPERATOR_S,
                )
                return answer
            case _:
                if window is None:
                    raise RefusedError("no window is open.", "Wait until the run has opened one.")
                frame: dict[str, Any] = await pool.call(
                    "scan_controller",
                    "survey",
                    run.run,
                    job,
                    window,
                    ledger.transform,
                    now_s,
                    tip.epoch,
                    "operator",
                    deadline_s=OPERATOR_S,
                )
                return frame

    # ---- status ----

    async def _status(self, points: int) -> DaemonStatus:
        daemon = self._daemon
        worker, worker_fault = await self._worker()
        current = daemon.current
        stands = current is not None and current.control.state in ("held", "waiting")
        run_alarms = current.signs.alarms if current is not None and stands else ()
        found = await asyncio.to_thread(runs, daemon.state)
        return DaemonStatus(
            pid=os.getpid(),
            uptime_s=time.monotonic() - daemon.began_s,
            state_directory=str(daemon.state),
            stop_after_last_run=daemon.options.stop_after_last_run,
            versions=self._versions,
            runs=tuple(run_line(s) for s in found[:MOST_RUNS]),
            current=await self._progress(points) if current is not None else None,
            actors=(*(actor_line(h) for h in daemon.pool.health), *self._processes()),
            lease="held"
            if daemon.tip.held
            else ("lost" if current and not current.control.final else "none"),
            epoch=daemon.tip.epoch,
            lease_margin_s=daemon.tip.margin_s,
            guard=daemon.tip.status,
            worker=worker,
            guard_fault=daemon.tip.fault if daemon.tip.status is None else "",
            worker_fault=worker_fault,
            edges=self._edges(),
            auxiliary=self._auxiliary(),
            alarms=(*daemon.alarms, *run_alarms),
        )

    async def _progress(self, points: int) -> RunProgress:
        current = self._daemon.current
        assert current is not None
        lines = (0, 0)
        if current.scanning:
            try:
                lines = await self._daemon.pool.call("scan_controller", "progress", deadline_s=PROGRESS_S)
            except TunnelpilotError:
                lines = (0, 0)  # it is being started again
        return run_progress(current, points, lines)

    async def _worker(self) -> tuple[WorkerStatus | None, str]:
        if not self._daemon.world.wanted:
            return None, "no run needs the gateway"
        try:
            return await self._daemon.world.worker_status(), ""
        except TunnelpilotError as silent:
            return None, str(silent)

    def _processes(self) -> list[ActorHealth]:
        daemon = self._daemon
        lines = [process_line(n, pid, True) for n, pid in daemon.cluster.pids.items()]
        companions = {"journal": daemon.writer, "gateway": daemon.world.gateway}
        for name, companion in companions.items():
            runs_now = companion.runs
            pid = _pid(daemon.state, name, "pid") if runs_now else 0
            lines.append(process_line(name, pid, runs_now, max(companion.budget.total - 1, 0)))
        auxiliary = current.auxiliary if (current := daemon.current) is not None else None
        if auxiliary is not None and not (current is not None and current.control.final):
            companion, fault = daemon.auxiliary, auxiliary.fault
            pid = _pid(daemon.state, "auxiliary", "pid") if companion.runs else 0
            restarts = max(companion.budget.total - 1, 0)
            lines.append(process_line("auxiliary", pid, companion.runs, restarts, fault))
        guard = daemon.tip.status
        if guard is not None:
            lines.append(process_line("worker", guard.worker_pid, guard.worker_alive))
            lines.append(process_line("sim", _pid(daemon.state, "sim", "pid"), True))
        return lines

    def _edges(self) -> tuple[EdgeStatistics, ...]:
        daemon = self._daemon
        edges = list(call_edges(daemon.pool.health, CONCURRENT_CALLS))
        if daemon.current is not None:
            bounds = {"measuring": 2, "planning": 1, "labelling": daemon.current.edge_bound}
            for name, waiting in daemon.current.edges.items():
                edges.append(EdgeStatistics(edge=f"window loop: {name}", bound=bounds[name], waiting=waiting))
            if daemon.current.auxiliary is not None:
                edges += daemon.current.auxiliary.edges
        return tuple(edges)

    def _auxiliary(self) -> tuple[AuxiliaryHealth, ...]:
        current = self._daemon.current
        return current.auxiliary.health if current is not None and current.auxiliary is not None else ()


def _words(message: Message) -> tuple[str, dict[str, str]]:
    names = {"EngageTip": "engage", "MeasureAt": "measure", "GotoAt": "goto", "ScanNow": "scan"}
    fields = {f: str(getattr(message, f)) for f in message.__struct_fields__}
    return names[type(message).__name__], fields


def _engage(run: CampaignRun, message: EngageTip) -> Engage:
    assert run.ledger.started is not None
    imaging = run.ledger.started.campaign.imaging
    return Engage(
        bias_v=imaging.bias_v if message.bias_v is None else message.bias_v,
        setpoint_a=imaging.setpoint_a if message.setpoint_a is None else message.setpoint_a,
    )


def _pid(state: Path, process: str, key: str) -> int:
    try:
        return int(read_endpoints(state, process).get(key, 0))
    except TunnelpilotError:
        return 0
