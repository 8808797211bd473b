"""One run from its first journal record to its last: engaging, measuring, holding, concluding.

The loop is a sequence of small steps, each of which looks into the ledger for what is done already; a daemon
that was killed begins the loop again and goes on where the journal ends.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import structlog

from actors.journal.reader import JournalReader
from actors.runtime.auxiliary import GO_ON, AuxiliaryWatch, Verdict
from actors.runtime.engaging import LEASE_S, Engaging, HoldError, TryAgainError
from actors.runtime.instrument_clock import instrument_time_s
from actors.runtime.job_desk import NEVER_ARRIVED, Outcome
from actors.runtime.ledger import RunLedger, split_job_id
from actors.runtime.restart_budget import RestartBudget
from actors.runtime.run_control import Change, RunControl
from actors.runtime.run_tasks import BEAT_S, first_of, watched
from actors.runtime.site import Site
from actors.runtime.window_loop import CALL_S, THINK_S, WindowLoop
from protocols.errors import DiskFullError, StaleEpochError, TunnelpilotError
from protocols.messages.jobs import CHANGED_BY_OTHERS, JobState
from protocols.messages.recipes import Recipe
from protocols.messages.records import AttemptEnded, Conclusion, OperatorAction, Record, WindowOpened
from protocols.states.park import ENGAGED
from protocols.states.run import FINAL_RUN_STATES

ROOM_S = 1.0
"""Between two looks whether the disk has room again."""
READY_S = 60.0
"""The classifier is trained within this time, or the run goes on without waiting for it."""
AGAIN = 10
"""Engages that may be undone again within a minute."""
RANGE_ALARMS = ("z-range:", "x-range:", "y-range:")
ALARM_COMMAND_S = 30.0
LOOP_ENDS_S = 20.0
"""The loop leaves its step within this time after the run's end, or the run is concluded without it."""
STAYS = frozenset({"paused", "held"}) | FINAL_RUN_STATES
"""What a run that is taken up again remains; in any other state it begins with "starting"."""

log = structlog.get_logger(__name__)


class CampaignRun:
    """One run; ``main`` returns when it is in a final state and concluded.

    ``allowed``: a person has just asked for this (a new run, or ``resume``), so the tip may be engaged
    whatever it was parked for, unless it is latched.  ``allowed_at``: the guard's withdrawal mark when this
    was said; a withdrawal since then takes the permission back.
    """

    def __init__(
        self, site: Site, reader: JournalReader, ledger: RunLedger, allowed: bool, allowed_at: str = ""
    ) -> None:
        self.site, self.ledger, self.reader = site, ledger, reader
        self.allowed = allowed
        self.allowed_at = allowed_at
        state = ledger.state if ledger.state in STAYS else "starting"
        self.control = RunControl(state, ledger.state_reason, ledger.states_written)
        if self.control.final:  # its daemon died before the conclusion: the last change is carried out again
            self.control.again(("park", "conclude"))
        self.activity = ""
        self.began_s = time.monotonic()
        self.ended_s = 0.0
        """When the loop ended; 0 while it goes on."""
        self.busy_s = 0.0
        self._frame_under_way = False
        self.alarms: tuple[str, ...] = ()
        self._window_loop: WindowLoop | None = None
        self._engaging = Engaging(site, ledger, self.refresh, self.beat)
        self._engaged_s = math.inf
        self._confirmed: dict[str, Any] | None = None
        self._duty_s = time.monotonic()
        self._again = RestartBudget(AGAIN)
        self._changing: asyncio.Task[None] | None = None
        self.auxiliary: AuxiliaryWatch | None = None
        """Instruments beside the microscope, if the campaign has any."""
        self._wait_alarm = ""
        self._out = asyncio.Event()
        """The loop is over: nothing that it began goes on."""

    @property
    def run(self) -> str:
        """Its name."""
        return self.ledger.run

    @property
    def duty_cycle(self) -> float | None:
        """Share of this daemon's time with the run in which a spectrum or frame was under way."""
        measured_s = (self.ended_s or time.monotonic()) - self.began_s
        return min(self.busy_s / measured_s, 1.0) if measured_s > 1.0 and self.busy_s > 0 else None

    @property
    def edges(self) -> dict[str, int]:
        """What is under way in the open window, by edge."""
        return self._window_loop.waiting if self._window_loop is not None else {}

    @property
    def scanning(self) -> bool:
        """Whether a frame may be under way."""
        return self._frame_under_way or self.control.state == "engaging"

    @property
    def edge_bound(self) -> int:
        """Most labels that can be waited for: one for every spectrum of a window."""
        assert self.ledger.started is not None
        return self.ledger.started.campaign.planner.points

    async def job(self, name: str, recipe: Recipe) -> Outcome:
        """An operator's job without data, in this run's journal."""
        return await self._engaging.job(name, recipe, "operator")

    async def engage_by_hand(self, name: str, recipe: Recipe) -> Outcome:
        """Engage because a person says so; owns the tip first."""
        await self._bring_up()
        await self.site.tip.acquire(LEASE_S)
        return await self.job(name, recipe)

    def activity_text(self) -> str:
        """What the tip does now, in a few words."""
        if self._window_loop is not None and (jobs := self._window_loop.jobs):
            decision = self.ledger.decisions.get(split_job_id(jobs[0])[1])
            if decision is not None:
                place = f"{decision.x_m * 1e9:.1f} nm, {decision.y_m * 1e9:.1f} nm"
                return f"sweep {decision.decision} at {place}"
        return self.activity

    # ---- the loop ----

    async def main(self) -> None:
        """Go on until the run is over.

        Raises:
            TunnelpilotError: the journal cannot be written; nothing more can be done here.
        """
        structlog.contextvars.bind_contextvars(run=self.run)
        self._changing = asyncio.create_task(self._carry_out_changes(), name="changes of state")
        training = asyncio.create_task(self._train(), name="train")
        watching = self._watch_auxiliary()
        try:
            while not self.control.final:
                await self._step()
            self._out.set()
            await self._changing
        finally:
            self.ended_s = time.monotonic()
            tasks = [training, self._changing, *([watching] if watching is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.reader.close()

    async def _step(self) -> None:
        if self._changing is not None and self._changing.done():
            self._changing.result()  # raises: changes can no longer be journaled
        self.refresh()
        self.beat()
        try:
            match self.control.state:
                case "starting":
                    await watched(self._bring_up(), self.beat)
                    if self.auxiliary is not None:
                        await watched(self.auxiliary.first_look(), self.beat)
                    self.control.feed("ready", "the microscope is ready")
                case "engaging":
                    await self._engage()
                case "running" | "pausing":
                    await self._measure()
                case "waiting":
                    await self._wait()
                case _:
                    await first_of(set(), self.control.changed)
        except TryAgainError as again:
            log.info("again", why=str(again))
            if not self._again.spend(time.monotonic()):
                self.hold(f"{self._again.restarts} tries within a minute did not help; the last: {again}")
            await asyncio.sleep(BEAT_S)
        except HoldError as hold:
            self.hold(str(hold))
        except StaleEpochError:
            self._lost("the lease is lost")
            await asyncio.sleep(BEAT_S)
        except TunnelpilotError as trouble:
            await self._note_fault(trouble)
            self.hold(str(trouble))
        except Exception as mistake:
            log.exception("mistake of ours")
            self.hold(
                f"a mistake of ours: {mistake!r}; the daemon's log has the details.",
            )

    async def _bring_up(self) -> None:
        assert self.ledger.started is not None
        await self.site.ensure_world(self.ledger.started)

    async def _engage(self) -> None:
        if self._must_wait():
            return
        self.activity = "engaging"
        await watched(self._bring_up(), self.beat)
        allowed, again = self.allowed, False
        try:
            await self._engaging.engage(allowed, self.allowed_at)
        except TryAgainError as trouble:
            again = bool(trouble.details.get("not_begun"))
            raise
        finally:
            self.allowed = allowed and again  # used up: it is no leave to undo a park that came afterwards
        self._engaged_s = time.monotonic()
        self.activity = ""
        self.control.feed("engaged", "the tip is at the surface")

    # ---- waiting for an auxiliary instrument ----

    def _watch_auxiliary(self) -> asyncio.Task[None] | None:
        """Begin to read the campaign's auxiliary instruments, if it has any."""
        started = self.ledger.started
        if started is None or not started.campaign.auxiliary or self.control.final:
            return None
        if (process := self.site.auxiliary) is None:
            return None
        commit, ring = self.site.desk.journal.commit, self.site.ring
        waited = self.ledger.state == "waiting"
        self.auxiliary = AuxiliaryWatch(self.run, started.campaign, process, commit, ring, waited=waited)
        task = asyncio.create_task(self.auxiliary.main(), name="auxiliary instruments")
        task.add_done_callback(_log_failure)  # the run then waits for readings that do not come
        return task

    def _verdict(self) -> Verdict:
        return self.auxiliary.verdict() if self.auxiliary is not None else GO_ON

    def _must_wait(self) -> bool:
        """Look at the auxiliary instruments; begin to wait if one of them says so."""
        verdict = self._verdict()
        if not verdict.holds:
            return False
        self._wait_alarm = ""
        if verdict.alarm:
            self._call_for_help(verdict)
        else:
            self.control.feed("wait", f"waits: {verdict.reason}")
        return True

    def _call_for_help(self, verdict: Verdict) -> None:
        self._wait_alarm = verdict.reason
        self.alarms = (*self.alarms[-9:], verdict.reason)
        self.control.feed("wait-alarm", f"waits: {verdict.reason}")

    async def _wait(self) -> None:
        """Withdrawn, if so wanted, until every auxiliary instrument is content."""
        verdict = self._verdict()
        if not verdict.holds:
            self.activity = ""
            self.alarms = tuple(a for a in self.alarms if a != self._wait_alarm)
            self.control.feed("wait-over", "the auxiliary instruments are as they should be")
            return
        self.activity = f"waiting: {verdict.reason}"
        if verdict.alarm and not self._wait_alarm:
            self._call_for_help(verdict)
        if verdict.withdraw and self.site.tip.held:
            self._engaged_s = math.inf  # this park is ours
            self._engaging.place_lost = True
            await watched(self._park(), self.beat)
        await first_of(set(), self.control.changed)

    # ---- measuring ----

    async def _measure(self) -> None:
        if self.control.state == "pausing":
            self.control.feed("safe-point", self.control.reason)
            return
        window = self.ledger.open_window()
        if window is None:
            await self._next_window()
        elif not self.ledger.subject(_survey(window)).done_job:
            await self._survey(window)
        else:
            await self._measure_in(window)

    async def _measure_in(self, window: WindowOpened) -> None:
        assert self.ledger.started is not None
        every = self.ledger.started.campaign.drift.every
        if every and not self.ledger.subject(f"w{window.index:02d}-ref-0000").done_job:
            await self._first_reference(window)
            return
        self._window_loop = WindowLoop(
            self.site, self.ledger, self.control, self.refresh, self.beat, self.hold
        )
        try:
            await self._window_loop.run(window.index)
        finally:
            self._window_loop = None

    async def _next_window(self) -> None:
        self.activity = "choosing a window"
        answer = await self._call("zoom_supervisor", "next_window", self.run, deadline_s=THINK_S)
        self.refresh()
        if answer["over"]:
            self._confirmed = answer
            last = max(self.ledger.closed.values(), key=lambda w: w.index, default=None)
            self.control.feed("finished", f"{answer['over']}: {last.reason}" if last else answer["over"])
            return
        opened = self.ledger.windows[answer["window"]]
        self.site.ring.say(
            "zoom_supervisor", "window", f"window {opened.index}: {opened.chosen_because}", self.run
        )

    async def _survey(self, window: WindowOpened) -> None:
        self.activity = f"survey of window {window.index}"
        await self._frame(
            "survey", _survey(window), window, self.ledger.transform, self._time_s(), self.site.tip.epoch
        )

    async def _first_reference(self, window: WindowOpened) -> None:
        self.activity = f"reference patch of window {window.index}"
        patch = await self._call("drift_tracker", "place_patch", self.run, window.index, deadline_s=THINK_S)
        await self._frame(
            "patch",
            f"w{window.index:02d}-ref-0000",
            patch,
            "reference",
            self.ledger.transform,
            self._time_s(),
            self.site.tip.epoch,
            window.index,
        )

    async def _frame(self, method: str, subject: str, *arguments: Any) -> None:
        """One frame; holds when it cannot be had."""
        job = self.ledger.next_job(subject)
        self._frame_under_way = True
        try:
            outcome = await self._call(
                "scan_controller", method, self.run, job, *arguments, deadline_s=CALL_S
            )
        finally:
            self._frame_under_way = False
        self.refresh()
        self.activity = ""
        if outcome["state"] != "finished":
            text = f"{subject}: {outcome['state']}: {outcome['reason']}"
            self.site.ring.say("scan_controller", "attempt", text, self.run, outcome["job_id"])
            if outcome["reason"].startswith(CHANGED_BY_OTHERS):
                raise HoldError(f"{subject}: {outcome['reason']}")
            if self.ledger.subject(subject).given_up:
                raise HoldError(f"the frame {subject} cannot be taken: {outcome['reason']}")
            await asyncio.sleep(BEAT_S)  # a park is seen by then
            return
        note = f"{subject}: {outcome.get('quality', 'good')} {outcome.get('note', '')}".strip()
        self.site.ring.say("scan_controller", "frame", note, self.run, outcome["job_id"])

    async def _call(self, actor: str, method: str, *arguments: Any, deadline_s: float) -> Any:
        return await watched(self.site.pool.call(actor, method, *arguments, deadline_s=deadline_s), self.beat)

    async def _train(self) -> None:
        try:
            await self.site.pool.call("spectrum_classifier", "prepare", self.run, deadline_s=READY_S)
        except TunnelpilotError as late:
            log.warning("classifier not ready in time; it labels later", why=str(late))

    def _time_s(self) -> float:
        assert self.ledger.started is not None
        if self.ledger.started.campaign.lockstep:
            return self.ledger.ended_s(self.ledger.last_seq)
        return instrument_time_s(self.site.tip, self.ledger.started.time_scale)

    # ---- looking at the world ----

    def refresh(self) -> None:
        """Take in what the journal has got meanwhile."""
        self.ledger.fold(self.reader.records(self.ledger.last_seq))

    def beat(self) -> None:
        """Progress for the lease, and a look at the tip; called at least every 0.2 s."""
        self.site.tip.beat()
        now = time.monotonic()
        status = self.site.tip.status
        loop = self._window_loop
        if self._frame_under_way or (loop is not None and loop.waiting["measuring"]):
            self.busy_s += now - self._duty_s
        self._duty_s = now
        if self.control.state == "running":
            self._must_wait()
        if status is None:
            return
        ranges = tuple(a for a in status.alarms if a.startswith(RANGE_ALARMS))
        if ranges and self.control.state in ("running", "pausing"):
            self.hold(f"near the end of a range: {'; '.join(ranges)}")
        if self.control.state in ("running", "pausing", "paused", "held", "waiting"):
            parked = status.park != ENGAGED and self.site.tip.asked_s > self._engaged_s
            if parked:
                self._lost(f"the tip was parked: {status.last_park_reason}")
            elif not self.site.tip.held and self._engaged_s != math.inf:
                self._lost("the lease is lost")

    def _lost(self, why: str) -> None:
        self._engaged_s = math.inf
        self._engaging.place_lost = True
        self.control.feed("tip-parked", why)

    def hold(self, reason: str) -> None:
        """Wait for a person, and call for one."""
        if self.control.state != "held" or self.control.reason != reason:
            self.alarms = (*self.alarms[-9:], reason)
            self.control.feed("hold", reason)

    # ---- what a change of state entails ----

    async def _carry_out_changes(self) -> None:
        """Journal every change and carry out its instructions, in order; ends with the run."""
        while True:
            while self.control.changes:
                change = self.control.changes.popleft()
                await self._write_surely(f"state:{change.number}", change.body)
                self.site.ring.say("run", "state", f"{change.body.state}: {change.body.reason}", self.run)
                await self._obey(change)
                if "conclude" in change.instructions:
                    return
            self.control.pending.clear()
            await self.control.pending.wait()

    async def _obey(self, change: Change) -> None:
        for instruction in change.instructions:
            match instruction:
                case "cancel-jobs":
                    await self._cancel_jobs(change.body.reason)
                case "park":
                    await self._park()
                case "alarm":
                    await self._alarm(change.body.reason)
                case "conclude":
                    await self._leave_nothing_open()
                    await self._conclude(change)
                case _:
                    pass  # engage, measure, drain: the loop's steps

    async def _cancel_jobs(self, reason: str) -> None:
        for job in self.ledger.open_jobs():
            try:
                await self.site.desk.gateway.cancel(job, self.site.tip.epoch, reason)
            except TunnelpilotError as failed:
                log.warning("not cancelled", job=job, why=str(failed))

    async def _park(self) -> None:
        try:
            said = await self.site.tip.release(park=True)
        except TunnelpilotError as silent:
            said = f"the guard did not answer; it parks when the lease runs out ({silent})"
        self.site.ring.say("run", "park", said or "no lease was held", self.run)

    async def _leave_nothing_open(self) -> None:
        """Before the conclusion: the loop is out of its step, the tip is parked, every attempt has ended."""
        try:
            async with asyncio.timeout(LOOP_ENDS_S):
                await self._out.wait()
        except TimeoutError:
            log.error("concluded while the loop is still in a step", seconds=LOOP_ENDS_S)
            return
        if self.site.tip.held:  # acquired after the run had ended: its engage may have gone through
            await self._park()
        self.refresh()
        for job in self.ledger.open_jobs():
            try:
                arrived = await self.site.desk.gateway.query(job) is not None
            except TunnelpilotError as silent:
                log.warning("open attempt", job=job, why=str(silent))
                continue
            if not arrived:  # issued, then refused because the lease had been given back meanwhile
                ended = AttemptEnded(job_id=job, state=JobState.DISCARDED.value, reason=NEVER_ARRIVED)
                await self._write_surely(f"ended:{job}", ended)

    async def _alarm(self, reason: str) -> None:
        """Run the user's command with the reason; its failure is a fault on record."""
        assert self.ledger.started is not None
        command = self.ledger.started.campaign.on_alarm
        if not command:
            return
        try:
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f'{command} "$@"', "sh", reason)
            async with asyncio.timeout(ALARM_COMMAND_S):
                status = await process.wait()
            if status:
                log.error("on_alarm failed", status=status, command=command)
        except TimeoutError:
            process.kill()
            log.error("on_alarm did not end in time", command=command, seconds=ALARM_COMMAND_S)
        except OSError as failed:
            log.error("on_alarm could not be started", command=command, error=str(failed))

    async def _conclude(self, change: Change) -> None:
        self.refresh()
        best = self.ledger.best_point()
        found = self._confirmed or {}
        figures = {
            "windows": float(len(self.ledger.windows)),
            "frames": float(len(self.ledger.frames)),
            "confirmed": float(bool(found.get("confirmed", False))),
            "returns": float(found.get("returns", 0)),
        }
        job = found.get("best_job") or (best.job_id if best else "")
        point = self.ledger.points.get(job)
        body = Conclusion(
            outcome=change.body.state,
            reason=change.body.reason,
            best_job=job,
            best_x_m=point.x_m if point else math.nan,
            best_y_m=point.y_m if point else math.nan,
            best_scalar=point.scalar if point else math.nan,
            spectra=len(self.ledger.points),
            figures=figures,
        )
        await self._write_surely("conclusion", body)
        self.refresh()
        self.site.ring.say("run", "conclusion", f"{change.body.state}: {change.body.reason}", self.run)

    async def _note_fault(self, trouble: TunnelpilotError) -> None:
        self.site.ring.say("run", "fault", str(trouble), self.run)
        log.error("trouble", error=str(trouble), kind=type(trouble).__name__)

    async def note_operator(self, command: str, arguments: dict[str, str], outcome: str) -> None:
        """Journal what a person did."""
        body = OperatorAction(command=command, arguments=arguments, outcome=outcome)
        await self._write(f"operator:{time.time_ns()}", body)
        self.site.ring.say("operator", "operator", f"{command}: {outcome}", self.run)

    async def _write_surely(self, key: str, body: Any) -> None:
        """Journal what must not be left out: where there is no room at all it waits until there is."""
        while True:
            try:
                return await self._write(key, body)
            except DiskFullError as full:
                if str(full) not in self.alarms:
                    self.alarms = (*self.alarms[-9:], str(full))
                await asyncio.sleep(ROOM_S)

    async def _write(self, key: str, body: Any) -> None:
        await self.site.desk.journal.commit(self.run, [Record(key=key, actor="daemon", body=body)])


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failed := task.exception()) is not None:
        log.error("task failed", task=task.get_name(), error=repr(failed), exc_info=failed)


def _survey(window: WindowOpened) -> str:
    return f"w{window.index:02d}-survey"
