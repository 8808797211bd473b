"""How a run waits for the instruments beside the microscope: when it begins to, when it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from actors.runtime.auxiliary import GO_ON, AuxiliaryWatch, Verdict
from actors.runtime.ledger import RunLedger
from actors.runtime.run_control import RunControl
from actors.runtime.run_signs import RunSigns
from actors.runtime.run_tasks import first_of
from actors.runtime.site import Site

log = structlog.get_logger(__name__)


class AuxiliaryWait:
    """Begins to wait (``must_wait``) and waits (``step``) as the campaign's auxiliary instruments say.

    ``withdraw`` parks a tip that is held; it is called where an instrument wants the tip away meanwhile.
    """

    def __init__(
        self,
        site: Site,
        ledger: RunLedger,
        control: RunControl,
        signs: RunSigns,
        withdraw: Callable[[], Awaitable[None]],
    ) -> None:
        self._site, self._ledger, self._control, self._signs = site, ledger, control, signs
        self._withdraw = withdraw
        self.watch: AuxiliaryWatch | None = None
        """Instruments beside the microscope, if the campaign has any."""
        self._called_for = ""

    def begin(self) -> asyncio.Task[None] | None:
        """Begin to read the campaign's auxiliary instruments, if any; the task goes on until cancelled."""
        started = self._ledger.started
        if started is None or not started.campaign.auxiliary or self._control.final:
            return None
        if (process := self._site.auxiliary) is None:
            return None
        commit, ring = self._site.desk.journal.commit, self._site.ring
        waited = self._ledger.state == "waiting"
        self.watch = AuxiliaryWatch(self._ledger.run, started.campaign, process, commit, ring, waited=waited)
        task = asyncio.create_task(self.watch.main(), name="auxiliary instruments")
        task.add_done_callback(_log_failure)  # the run then waits for readings that do not come
        return task

    def must_wait(self) -> bool:
        """Look at the auxiliary instruments; begin to wait if one of them says so."""
        verdict = self._verdict()
        if not verdict.holds:
            return False
        self._called_for = ""
        if verdict.alarm:
            self._call_for_help(verdict)
        else:
            self._control.feed("wait", f"waits: {verdict.reason}")
        return True

    async def step(self) -> None:
        """Withdrawn, if so wanted, until every auxiliary instrument is content; one look, at most 0.2 s."""
        verdict = self._verdict()
        if not verdict.holds:
            self._signs.activity = ""
            self._signs.all_clear(self._called_for)
            self._control.feed("wait-over", "the auxiliary instruments are as they should be")
            return
        self._signs.activity = f"waiting: {verdict.reason}"
        if verdict.alarm and not self._called_for:
            self._call_for_help(verdict)
        if verdict.withdraw and self._site.tip.held:
            await self._withdraw()
        await first_of(set(), self._control.changed)

    def _verdict(self) -> Verdict:
        return self.watch.verdict() if self.watch is not None else GO_ON

    def _call_for_help(self, verdict: Verdict) -> None:
        self._called_for = verdict.reason
        self._signs.alarm(verdict.reason)
        self._control.feed("wait-alarm", f"waits: {verdict.reason}")


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failed := task.exception()) is not None:
        log.error("task failed", task=task.get_name(), error=repr(failed), exc_info=failed)
