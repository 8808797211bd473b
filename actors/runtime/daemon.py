"""The lab daemon: brings everything up, runs campaigns one at a time, answers the console, ends cleanly.

It may be killed at any time: gateway and journal writer outlive it, and the next daemon goes on with what was
under way.  When its Ray is broken it gives the tip back (the guard parks), and begins anew in the same
process id.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import structlog

from actors.console.daemon_options import DaemonOptions
from actors.runtime.actor_pool import CAMPAIGN_ACTORS, ActorPool, ActorSpec
from actors.runtime.auxiliary import auxiliary_process
from actors.runtime.campaign_run import CampaignRun
from actors.runtime.console_service import ConsoleService
from actors.runtime.job_desk import JobDesk
from actors.runtime.processes import Companion
from actors.runtime.ray_cluster import RayCluster, prepare_environment
from actors.runtime.restart_budget import RestartBudget
from actors.runtime.run_starting import campaign_of, first_record, new_run_name, open_run, unfinished_runs
from actors.runtime.site import Site
from actors.runtime.tip_ownership import TipOwnership
from actors.runtime.watch_ring import WatchRing
from actors.runtime.world import World, journal_writer
from protocols.errors import PeerError, RefusedError, TunnelpilotError
from protocols.files.logs import configure_logging
from protocols.files.state_directory import ProcessLock, publish_endpoints
from protocols.messages.daemon import RunAccepted, StartRun
from protocols.messages.records import Fault, Record, RunStarted

PROCESS = "daemon"
LOOK_S = 0.2
SIM_ACTOR = ActorSpec("sim_hardware", "sim_hardware.actor", "SimulatedMicroscope")
REBORN = "TUNNELPILOT_DAEMON_BEGAN_ANEW"
"""Times (Unix, comma-separated) at which this process began anew because of a broken Ray."""
BEGINNINGS = 4
BEGINNINGS_WITHIN_S = 120.0
BLOCKED_S = 20.0
"""A daemon that has lost its Ray begins anew within this time, or is made to."""
LOCK_TRIES = 10
RUN_ENDS_S = 45.0

log = structlog.get_logger(__name__)


class RayLostError(PeerError):
    """A process of our Ray died."""

    code = "ray-lost"


class Daemon:
    """One daemon; ``main`` returns when it was told to end."""

    def __init__(self, options: DaemonOptions) -> None:
        self.options = options
        self.state = options.state
        self.began_s = time.monotonic()
        self.ring = WatchRing()
        self.cluster = RayCluster(self.state, options.ray_address)
        self.writer: Companion = journal_writer(self.state)
        self.pool = ActorPool(self.state, (*CAMPAIGN_ACTORS, SIM_ACTOR), self._actor_fault)
        self.tip = TipOwnership(self.state, "stmd")
        self.desk = JobDesk(self.state, PROCESS)
        self.world = World(self.state, self.pool, options.limits)
        self.auxiliary: Companion = auxiliary_process(self.state)
        self.site = Site(
            self.state,
            self.pool,
            self.tip,
            self.desk,
            self.ring,
            ensure_world=self._ensure_world,
            auxiliary=self.auxiliary,
        )
        self.current: CampaignRun | None = None
        self.alarms: tuple[str, ...] = ()
        self._run_task: asyncio.Task[None] | None = None
        self._tokens: dict[str, RunAccepted] = {}
        self._starting = asyncio.Lock()
        self._stop = asyncio.Event()
        self._stop_reason = ""
        self._had_run = False
        self.keep_gateway = False
        self.park = True

    # ---- life ----

    async def main(self) -> None:
        """Serve until told to end.

        Raises:
            RayLostError: the cluster broke; the tip is given back, and everything has to begin anew.
            TunnelpilotError: something could not be started.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(
                number, self.end, f"{signal.Signals(number).name} received"
            )
        service = ConsoleService(self)
        try:
            await self._start()
            await service.start()
            publish_endpoints(self.state, PROCESS, console=service.endpoint, **self.cluster.pids)
            log.info("daemon serves", console=service.endpoint)
            await self._resume_unfinished()
            await self._supervise()
        finally:
            await service.close()
            await self._end()

    def end(self, reason: str) -> None:
        """End: park first; a run stays resumable."""
        self._stop_reason = self._stop_reason or reason
        log.info("told to end", reason=reason)
        self._stop.set()

    async def _start(self) -> None:
        await asyncio.gather(self._start_cluster(), self.writer.ensure())
        threading.Thread(target=self._watch_cluster, name="watch Ray", daemon=True).start()
        await self.pool.start()
        self.tip.start()

    async def _start_cluster(self) -> None:
        try:
            await asyncio.to_thread(self.cluster.start)
        except TunnelpilotError:
            raise
        except Exception as failed:
            # Ray raises plain exceptions here; another try often succeeds, and the tries are bounded.
            raise RayLostError(
                f"Ray did not start: {failed}", "Everything begins anew by itself."
            ) from failed

    def _watch_cluster(self) -> None:
        """The last resort, in a thread of its own: a call into a broken Ray may have blocked the loop.

        The lease is not renewed then, so the tip is parked.
        """
        whole_s = time.monotonic()
        while not self._stop.is_set():
            lost = self.cluster.lost()
            if not lost:
                whole_s = time.monotonic()
            elif time.monotonic() - whole_s > BLOCKED_S:
                self.cluster.kill()
                _begin_anew(f"{lost} is gone, and the daemon is blocked.", self.state / PROCESS)
                os._exit(1)
            time.sleep(LOOK_S)

    async def _supervise(self) -> None:
        """Look after everything until told to end, or until the cluster is lost."""
        while not self._stop.is_set():
            lost = self.cluster.lost()
            if lost:
                self.pool.abandon()
                raise RayLostError(f"{lost} is gone.", "Everything begins anew by itself.")
            try:
                await self.writer.ensure()
                if self.current is not None:
                    await self.world.keep()
            except TunnelpilotError as trouble:
                self._alarm(str(trouble))
            self._take_up_end_of_run()
            idle = self._run_task is None and not self._starting.locked()
            if self.options.stop_after_last_run and self._had_run and idle:
                self.end("the last run is over")
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stop.wait()
            except TimeoutError:
                pass  # time to look again

    async def _end(self) -> None:
        """Whatever the reason: run loop ended, tip parked, processes that we keep told to end."""
        log.info("daemon ends", reason=self._stop_reason or "trouble")
        await self._leave_run()
        try:
            if self.park:
                await self.tip.release(park=True)
        except TunnelpilotError as silent:
            log.warning("lease not given back", why=str(silent))
        await self.tip.close()
        broken = bool(self.cluster.lost())
        if self._stop.is_set():
            await self.auxiliary.stop()
        if self._stop.is_set() and not self.keep_gateway:
            try:
                async with asyncio.timeout(60.0):
                    await self.world.stop()
            except (TunnelpilotError, TimeoutError) as failed:
                log.error("the instrument's side did not end", why=str(failed))
            await self.desk.close()
            await self.writer.stop()
        else:
            await self.desk.close()
        if not broken:
            await self.pool.stop()
            await asyncio.to_thread(self.cluster.stop)
        self.cluster.kill()

    async def _leave_run(self) -> None:
        task, self._run_task = self._run_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=RUN_ENDS_S)

    # ---- runs ----

    async def start_run(self, request: StartRun) -> RunAccepted:
        """Begin a run; the same token gives the same run.

        Raises:
            ConfigError: the campaign is wrong.
            RefusedError: another run is under way.
            TunnelpilotError: the instrument did not come up.
        """
        async with self._starting:
            if request.token and request.token in self._tokens:
                return self._tokens[request.token]
            if self._run_task is not None and self.current is not None:
                raise RefusedError(
                    f"the run {self.current.run} is under way ({self.current.control.state}).",
                    "Wait for it, or end it with 'stmctl abort'; another microscope needs another --state.",
                    refusal_code="busy-with-run",
                )
            self._had_run = True  # also if it is refused below: then nothing else is waited for
            campaign = campaign_of(request)
            await self.world.replace(campaign, campaign.seed, campaign.instrument.time_scale)
            await self.world.ensure(campaign, campaign.seed, campaign.instrument.time_scale)
            worker = await self.world.worker_status()
            run = new_run_name(self.state, campaign)
            started = first_record(run, request, campaign, worker)
            await self.desk.journal.commit(run, [Record(key="run", actor=PROCESS, body=started)])
            accepted = RunAccepted(run=run, directory=str(self.state / "runs" / run))
            if request.token:
                self._tokens[request.token] = accepted
            self._begin(run, allowed=True, allowed_at=await self.withdrawal_mark())
            return accepted

    async def withdrawal_mark(self) -> str:
        """The guard's present mark, which a permission to engage carries; "" if it does not answer: then it
        begins anew, parked, and the run looks again before it engages."""
        try:
            return (await self.tip.look()).withdrawal_mark
        except TunnelpilotError as silent:
            log.info("permission without a withdrawal mark", why=str(silent))
            return ""

    def _begin(self, run: str, allowed: bool, allowed_at: str = "") -> None:
        reader, ledger = open_run(self.state, run)
        self.current = CampaignRun(self.site, reader, ledger, allowed, allowed_at)
        self._had_run = True
        self._run_task = asyncio.create_task(self.current.main(), name=f"run {run}")
        self.ring.say(PROCESS, "run", f"{'begins' if allowed else 'goes on'}: {run}", run)

    async def _resume_unfinished(self) -> None:
        """Go on with the run that was under way; there is at most one that can be."""
        for run in unfinished_runs(self.state)[-1:]:
            log.info("run goes on", run=run)
            try:
                self._begin(run, allowed=False)
            except TunnelpilotError as unreadable:
                self._alarm(f"run {run} cannot go on: {unreadable}")

    def _take_up_end_of_run(self) -> None:
        task = self._run_task
        if task is None or not task.done():
            return
        self._run_task = None
        trouble = None if task.cancelled() else task.exception()
        if trouble is not None:
            log.error("run loop failed", error=str(trouble), exc_info=trouble)
            self._alarm(f"the run cannot go on: {trouble}")
        if self.current is not None:
            self.desk.forget()

    async def _ensure_world(self, started: RunStarted) -> None:
        scale = started.campaign.instrument.time_scale
        await self.world.ensure(started.campaign, started.seed, scale)

    # ---- trouble ----

    async def _actor_fault(self, actor: str, what: str, action: str) -> None:
        """An actor died: journal it with the run that is under way."""
        log.warning("actor fault", of=actor, what=what, action=action)
        run = self.current.run if self._run_task is not None and self.current is not None else ""
        self.ring.say(actor, "fault", f"{what}: {action}", run)
        if run:
            body = Fault(actor=actor, what=what, action=action)
            key = f"fault:{time.time_ns()}"
            try:
                await self.desk.journal.commit(run, [Record(key=key, actor=PROCESS, body=body)])
            except TunnelpilotError as failed:
                log.error("fault not journaled", error=str(failed))

    def _alarm(self, text: str) -> None:
        if text not in self.alarms:
            log.error("alarm", text=text)
            self.alarms = (*self.alarms[-9:], text)
            self.ring.say(PROCESS, "alarm", text)

    def forgive(self) -> None:
        """A person has looked: alarms are cleared, restart budgets are full again."""
        self.alarms = ()
        if self.current is not None:
            self.current.signs.alarms = ()
        self.pool.forgive()
        self.world.forgive()
        self.writer.budget.reset()
        self.auxiliary.budget.reset()


def run_daemon(options: DaemonOptions) -> int:
    """Run until told to end; the exit status.

    Raises:
        AlreadyRunningError: another daemon has this state directory.
        TunnelpilotError: it cannot start; the text says why.
    """
    prepare_environment(own_cluster=options.ray_address is None)
    logging.raiseExceptions = False  # a full disk must not end the daemon because of a log line
    lock = ProcessLock(options.state, PROCESS)
    _acquire(lock)
    folder = options.state / PROCESS
    (folder / "endpoints.json").unlink(missing_ok=True)
    configure_logging("stmd", folder / "daemon.log", terminal=not options.quiet, level=options.log_level)
    log.info("daemon begins", state=str(options.state))
    try:
        asyncio.run(Daemon(options).main())
    except RayLostError as lost:
        return _begin_anew(str(lost), folder)
    finally:
        (folder / "endpoints.json").unlink(missing_ok=True)
        lock.release()
    return 0


def _acquire(lock: ProcessLock) -> None:
    """Who only looks whether the lock is held takes it for a moment: try more than once."""
    for _ in range(LOCK_TRIES):
        try:
            lock.acquire()
        except TunnelpilotError:
            time.sleep(0.02)
        else:
            return
    lock.acquire()


def _begin_anew(why: str, folder: Path) -> int:
    """Replace this process by a new daemon, a few times in two minutes at most."""
    now = time.time()
    times = [float(t) for t in os.environ.get(REBORN, "").split(",") if t]
    recent = [t for t in times if now - t < BEGINNINGS_WITHIN_S]
    budget = RestartBudget(BEGINNINGS, BEGINNINGS_WITHIN_S)
    allowed = all(budget.spend(t) for t in (*recent, now))
    log.error("Ray is lost", why=why, anew=allowed)
    if not allowed:
        sys.stderr.write(f"stmd: {why} It happened {len(recent) + 1} times; see {folder}.\n")
        return 1
    os.environ[REBORN] = ",".join(str(t) for t in (*recent, now))
    for handler in logging.getLogger().handlers:
        handler.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return 0  # never reached: this process is another program now
