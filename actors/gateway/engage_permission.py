"""Whether the tip may go to the surface: the guard's answer to the worker's question."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import structlog

from actors.gateway.internal import AskEngage, EngageAnswer
from actors.gateway.latch import Latch
from actors.gateway.lease import LeaseKeeper
from actors.gateway.withdrawal import Parker
from protocols.errors import RefusedError, TunnelpilotError

log = structlog.get_logger(__name__)


class EngagePermission:
    """Judged on the guard's main thread.  ``leaving`` says whether the guard is about to end."""

    def __init__(self, latch: Latch, lease: LeaseKeeper, parker: Parker, leaving: Callable[[], bool]) -> None:
        self._latch, self._lease, self._parker, self._leaving = latch, lease, parker, leaving
        self._approaching = ""
        self._withdrawals = 0
        """Ordered by persons, since this guard began."""

    @property
    def approaching(self) -> bool:
        """Whether the tip is on its way to the surface; from any thread."""
        return bool(self._approaching)

    @property
    def withdrawal_mark(self) -> str:
        """Changes with every withdrawal by a person, and with every guard."""
        return f"{os.getpid()}:{self._withdrawals}"

    def withdrawn_by_person(self) -> None:
        """A person withdraws the tip: engages that were decided before are not granted any more."""
        self._withdrawals += 1

    def judge(self, asked: AskEngage) -> EngageAnswer:
        """Grant an engage, or refuse it with the reason; a granted one is told to the park table."""
        job_id = asked.job_id
        try:
            self._latch.require_open()
            if asked.withdrawal_mark not in ("", self.withdrawal_mark):
                raise RefusedError(
                    "the tip was withdrawn by a person after this engage was decided.",
                    "'stmctl resume' engages again.",
                    refusal_code="withdrawn-since",
                )
            if not self._lease.held or self._lease.left_s(time.monotonic()) <= 0.0:
                raise RefusedError("nobody holds the lease.", refusal_code="no-lease")
            if self._leaving():
                raise RefusedError("the gateway is ending.", refusal_code="leaving")
            self._approaching = job_id
            if not self._parker.engage():
                self._approaching = ""
                raise RefusedError(
                    f"the tip is not parked yet ({self._parker.state}).", refusal_code="parking"
                )
        except TunnelpilotError as problem:
            log.warning("engage refused", job=job_id, reason=str(problem))
            return EngageAnswer(job_id=job_id, granted=False, code=problem.code, reason=problem.text)
        log.info("engage granted", job=job_id)
        return EngageAnswer(job_id=job_id, granted=True)

    def done(self, job_id: str) -> None:
        """That job's approach is over, at the surface or not."""
        if job_id == self._approaching:
            self._approaching = ""

    def parked(self) -> None:
        """A park is confirmed: nothing approaches."""
        self._approaching = ""
