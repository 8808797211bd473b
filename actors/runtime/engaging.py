"""Bringing the tip to the surface, and finding the place again.

By itself only after a start, a lost lease or a dead process; after anything else a person has to say so.
Afterwards the last reference of the open window is looked for: "cannot tell" holds the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from actors.runtime.instrument_clock import instrument_time_s
from actors.runtime.job_desk import Order, Outcome
from actors.runtime.ledger import RunLedger, split_job_id
from actors.runtime.run_tasks import watched
from actors.runtime.site import Site
from actors.runtime.window_loop import CALL_S, THINK_S
from protocols.errors import PeerError
from protocols.messages.control import GuardStatus
from protocols.messages.jobs import Priority
from protocols.messages.recipes import BiasFrames, Engage, Frame, Recipe, ReferencePatch, Sweep
from protocols.messages.records import JobDone, JobIssued, Transform
from protocols.states.park import ENGAGED

BY_ITSELF = frozenset({"start", "lease", "released", "worker", "signal"})
"""Causes of a park after which a run may engage without being told."""
LEASE_S = 60.0
ENGAGE_S = 120.0
SETTLE_S = 0.5

log = structlog.get_logger(__name__)


class HoldError(PeerError):
    """The run has to wait for a person; the text says for what."""

    code = "hold"


class TryAgainError(PeerError):
    """The world changed meanwhile: begin this step again.  ``details["not_begun"]``: no engage had begun."""

    code = "try-again"


class Engaging:
    """Engages for one run.  ``place_lost``: the tip was away from the surface since the last registration."""

    def __init__(
        self, site: Site, ledger: RunLedger, refresh: Callable[[], None], beat: Callable[[], None]
    ) -> None:
        self._site, self._ledger = site, ledger
        self._refresh, self._beat = refresh, beat
        self.place_lost = True

    async def engage(self, allowed: bool, withdrawal_mark: str = "") -> None:
        """Own the tip, settle what is open, engage if it is parked, find the place again.

        A permission that was given at another ``withdrawal_mark`` than the present one counts for nothing: a
        person has withdrawn the tip since.

        Raises:
            HoldError: a person has to look.
            TryAgainError: the tip was parked again meanwhile.
            TunnelpilotError: gateway, journal or an actor did not answer.
        """
        tip = self._site.tip
        await watched(tip.acquire(LEASE_S), self._beat)
        await self._settle_open_jobs()
        status = await tip.look()
        if status.latch_reason:
            raise HoldError(
                f"the tip is latched parked: {status.latch_reason}",
                "Look at it; then 'stmctl ack' and 'stmctl resume'.",
            )
        if status.park != ENGAGED:
            newer = withdrawal_mark not in ("", status.withdrawal_mark)
            self._require_leave(status, allowed and not newer)
            self.place_lost = True
            await self._engage_job(status.withdrawal_mark)
        if self.place_lost and self._has_frames():
            await self._find_place()
        self.place_lost = False

    def _require_leave(self, status: GuardStatus, allowed: bool) -> None:
        if not allowed and status.last_park_cause not in BY_ITSELF:
            raise HoldError(
                f"the tip was parked ({status.last_park_cause}): {status.last_park_reason}",
                "'stmctl resume' engages again.",
            )

    async def _engage_job(self, withdrawal_mark: str) -> None:
        assert self._ledger.started is not None
        imaging = self._ledger.started.campaign.imaging
        name = f"engage-{self._ledger.count('engage-') + 1}"
        outcome = await self.job(
            name,
            Engage(
                bias_v=imaging.bias_v,
                setpoint_a=imaging.setpoint_a,
                settle_s=SETTLE_S,
                withdrawal_mark=withdrawal_mark,
            ),
            "campaign",
        )
        if outcome["state"] == "finished":
            return
        status = await self._site.tip.look()
        if status.latch_reason or outcome["state"] == "failed":
            raise HoldError(f"the tip could not be engaged: {outcome['reason']}", "See 'stmctl status'.")
        raise TryAgainError(
            f"engage {outcome['state']}: {outcome['reason']}", not_begun=outcome["state"] == "refused"
        )

    async def job(self, name: str, recipe: Recipe, by: str) -> Outcome:
        """A job without data (engage, move) in the run's journal.

        Raises:
            TunnelpilotError: gateway or journal did not answer.
        """
        return await watched(self._perform(self._ledger.next_job(name), recipe, by), self._beat)

    async def _perform(self, job_id: str, recipe: Recipe, by: str) -> Outcome:
        run = split_job_id(job_id)[0]
        epoch = self._site.tip.epoch
        priority = Priority.RECOVERY if by == "campaign" else Priority.OPERATOR

        def result(_issued: JobIssued, job: Any) -> Any:
            end = job.end
            done = JobDone(job_id=job_id, began_s=end.began_s, ended_s=end.ended_s, final=end.final)
            return [(f"done:{job_id}", done)], {}

        def issue() -> JobIssued:
            return JobIssued(job_id=job_id, recipe=recipe, epoch=epoch, by=by)

        order = Order(run, job_id, epoch, ENGAGE_S, priority)
        outcome = await self._site.desk.perform(order, issue, result)
        self._refresh()
        self._site.ring.say("daemon", "job", f"{job_id}: {outcome['state']} {outcome['reason']}", run, job_id)
        return outcome

    # ---- what was open when the lease was lost ----

    async def _settle_open_jobs(self) -> None:
        """Acknowledge what the journal has, and end what no earlier owner can finish any more.

        Sweeps and surveys that were finished meanwhile come out of the spool when the loop orders them again;
        other jobs are not ordered again, so their end is fetched here.
        """
        self._refresh()
        run, desk, epoch = self._ledger.run, self._site.desk, self._site.tip.epoch
        for job in self._ledger.open_jobs():
            issued = self._site.desk.reader(run).get(f"issued:{job}")
            if issued is None or not isinstance(issued.body, JobIssued) or issued.body.epoch == epoch:
                continue
            await watched(self._settle(job, issued.body), self._beat)
        self._refresh()
        for answer in await desk.gateway.unacknowledged(run):
            if desk.settled(Order(run, answer.job_id, epoch, ENGAGE_S)) is not None:
                await desk.gateway.acknowledge(answer.job_id, epoch)

    async def _settle(self, job: str, issued: JobIssued) -> None:
        """Fetch the end (and the data) of a job of an earlier epoch; nothing is done a second time."""
        pool, run, epoch = self._site.pool, self._ledger.run, self._site.tip.epoch
        place = (issued.sample_x_m, issued.sample_y_m)
        match issued.recipe:
            case Sweep():
                await pool.call(
                    "spectroscopy_acquirer",
                    "measure",
                    run,
                    job,
                    place,
                    issued.transform,
                    0.0,
                    epoch,
                    issued.window,
                    issued.decision,
                    issued.by,
                    deadline_s=CALL_S,
                )
            case Frame() | ReferencePatch() | BiasFrames():
                await pool.call("scan_controller", "settle", run, job, epoch, deadline_s=CALL_S)
            case _:
                await self._perform(job, issued.recipe, issued.by)

    # ---- finding the place again ----

    def _has_frames(self) -> bool:
        window = self._ledger.open_window()
        return window is not None and any(w == window.index for w, _ in self._ledger.frames.values())

    async def _find_place(self) -> None:
        """Register the window's reference, where the drift should have carried it, then where it was seen
        last (a velocity may be wrong after a long time away), then the whole survey."""
        window = self._ledger.open_window()
        assert window is not None
        note = ""
        seen = self._ledger.transform
        still = msgspec.structs.replace(seen, velocity_x_m_s=0.0, velocity_y_m_s=0.0)
        for where, transform in (("last_patch", seen), ("last_patch", still), ("survey_patch", still)):
            found = await self._look(window.index, where, transform)
            note = found["note"]
            if found["accepted"]:
                return
        raise HoldError(
            f"the place cannot be told after the engage: {note}",
            "'stmctl resume' looks again, 'stmctl abort' ends the run.",
        )

    async def _look(self, window: int, where: str, transform: Transform) -> dict[str, Any]:
        pool, run, tip = self._site.pool, self._ledger.run, self._site.tip
        assert self._ledger.started is not None
        patch = await watched(pool.call("drift_tracker", where, run, window, deadline_s=THINK_S), self._beat)
        name = f"resume-{self._ledger.count('resume-') + 1}"
        outcome = await watched(
            pool.call(
                "scan_controller",
                "patch",
                run,
                self._ledger.next_job(name),
                patch,
                "resume",
                transform,
                instrument_time_s(tip, self._ledger.started.time_scale),
                tip.epoch,
                window,
                deadline_s=CALL_S,
            ),
            self._beat,
        )
        self._refresh()
        if outcome["state"] != "finished":
            status = await tip.look()
            if status.park == ENGAGED and outcome["state"] == "failed":
                raise HoldError(f"no frame for registration: {outcome['reason']}")
            raise TryAgainError(f"frame for registration {outcome['state']}: {outcome['reason']}")
        found: dict[str, Any] = await watched(
            pool.call("drift_tracker", "compare", run, outcome["job_id"], deadline_s=THINK_S), self._beat
        )
        self._refresh()
        self._site.ring.say("drift_tracker", "drift", found["note"], run, outcome["job_id"])
        return found
