"""What a run's changes of state entail: every one journaled, its instructions carried out, in order.

Goes on beside the loop that measures, so that a park or an abort does not wait for a step of the loop; only
the conclusion, the last thing in a run's journal, waits until the loop is out of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import structlog

from actors.runtime.job_desk import NEVER_ARRIVED
from actors.runtime.ledger import RunLedger
from actors.runtime.measuring import Measuring
from actors.runtime.run_control import Change, RunControl
from actors.runtime.run_signs import RunSigns
from actors.runtime.site import Site
from protocols.errors import DiskFullError, TunnelpilotError
from protocols.messages.jobs import JobState
from protocols.messages.records import AttemptEnded, Conclusion, Record

ROOM_S = 1.0
"""Between two looks whether the disk has room again."""
ALARM_COMMAND_S = 30.0
LOOP_ENDS_S = 20.0
"""The loop leaves its step within this time after the run's end, or the run is concluded without it."""

log = structlog.get_logger(__name__)


class StateChanges:
    """Carries out the changes of one run; ``main`` returns when the run is concluded."""

    def __init__(
        self,
        site: Site,
        ledger: RunLedger,
        control: RunControl,
        signs: RunSigns,
        measuring: Measuring,
        refresh: Callable[[], None],
    ) -> None:
        self._site, self._ledger, self._control, self._signs = site, ledger, control, signs
        self._measuring, self._refresh = measuring, refresh
        self.loop_over = asyncio.Event()
        """Set by the loop when it is over: nothing that it began goes on."""

    async def main(self) -> None:
        """Journal every change and carry out its instructions, in order; ends with the run.

        Raises:
            TunnelpilotError: a change cannot be journaled, for another reason than a full disk.
        """
        while True:
            while self._control.changes:
                change = self._control.changes.popleft()
                await self._write_surely(f"state:{change.number}", change.body)
                self._say("state", f"{change.body.state}: {change.body.reason}")
                await self._obey(change)
                if "conclude" in change.instructions:
                    return
            self._control.pending.clear()
            await self._control.pending.wait()

    async def park(self) -> None:
        """Give the lease back; the guard parks the tip."""
        try:
            said = await self._site.tip.release(park=True)
        except TunnelpilotError as silent:
            said = f"the guard did not answer; it parks when the lease runs out ({silent})"
        self._say("park", said or "no lease was held")

    async def write(self, key: str, body: Any) -> None:
        """Journal something that the daemon itself has to say.

        Raises:
            TunnelpilotError: the journal cannot be written.
        """
        await self._site.desk.journal.commit(self._ledger.run, [Record(key=key, actor="daemon", body=body)])

    async def _write_surely(self, key: str, body: Any) -> None:
        """Journal what must not be left out: where there is no room at all it waits until there is."""
        while True:
            try:
                return await self.write(key, body)
            except DiskFullError as full:
                if str(full) not in self._signs.alarms:
                    self._signs.alarm(str(full))
                await asyncio.sleep(ROOM_S)

    def _say(self, kind: str, text: str) -> None:
        self._site.ring.say("run", kind, text, self._ledger.run)

    # ---- instructions ----

    async def _obey(self, change: Change) -> None:
        for instruction in change.instructions:
            match instruction:
                case "cancel-jobs":
                    await self._cancel_jobs(change.body.reason)
                case "park":
                    await self.park()
                case "alarm":
                    await self._alarm(change.body.reason)
                case "conclude":
                    await self._leave_nothing_open()
                    await self._conclude(change)
                case _:
                    pass  # engage, measure, drain: the loop's steps

    async def _cancel_jobs(self, reason: str) -> None:
        for job in self._ledger.open_jobs():
            try:
                await self._site.desk.gateway.cancel(job, self._site.tip.epoch, reason)
            except TunnelpilotError as failed:
                log.warning("not cancelled", job=job, why=str(failed))

    async def _alarm(self, reason: str) -> None:
        """Run the user's command with the reason; its failure is a fault on record."""
        assert self._ledger.started is not None
        command = self._ledger.started.campaign.on_alarm
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

    # ---- the end of a run ----

    async def _leave_nothing_open(self) -> None:
        """Before the conclusion: the loop is out of its step, the tip is parked, every attempt has ended."""
        try:
            async with asyncio.timeout(LOOP_ENDS_S):
                await self.loop_over.wait()
        except TimeoutError:
            log.error("concluded while the loop is still in a step", seconds=LOOP_ENDS_S)
            return
        if self._site.tip.held:  # acquired after the run had ended: its engage may have gone through
            await self.park()
        self._refresh()
        for job in self._ledger.open_jobs():
            try:
                arrived = await self._site.desk.gateway.query(job) is not None
            except TunnelpilotError as silent:
                log.warning("open attempt", job=job, why=str(silent))
                continue
            if not arrived:  # issued, then refused because the lease had been given back meanwhile
                ended = AttemptEnded(job_id=job, state=JobState.DISCARDED.value, reason=NEVER_ARRIVED)
                await self._write_surely(f"ended:{job}", ended)

    async def _conclude(self, change: Change) -> None:
        self._refresh()
        ledger, found = self._ledger, self._measuring.found
        best = ledger.best_point()
        figures = {
            "windows": float(len(ledger.windows)),
            "frames": float(len(ledger.frames)),
            "confirmed": float(bool(found.get("confirmed", False))),
            "returns": float(found.get("returns", 0)),
        }
        job = found.get("best_job") or (best.job_id if best else "")
        point = ledger.points.get(job)
        body = Conclusion(
            outcome=change.body.state,
            reason=change.body.reason,
            best_job=job,
            best_x_m=point.x_m if point else math.nan,
            best_y_m=point.y_m if point else math.nan,
            best_scalar=point.scalar if point else math.nan,
            spectra=len(ledger.points),
            figures=figures,
        )
        await self._write_surely("conclusion", body)
        self._refresh()
        self._say("conclusion", f"{change.body.state}: {change.body.reason}")
