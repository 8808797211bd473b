"""The guard's dealings with owners of the tip: a lease is asked for, given back, or runs out.

The worker is told of every change; a new owner hears of its lease when the worker knows of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from actors.gateway.delayed_answers import DelayedAnswers
from actors.gateway.internal import LeaseNews, LeaseSeen
from actors.gateway.lease import LeaseKeeper
from actors.gateway.withdrawal import Parker
from actors.gateway.worker_keeper import WorkerKeeper
from protocols.errors import RefusedError
from protocols.links.server import Request
from protocols.messages.control import AcquireLease, Done, LeaseGranted, ReleaseLease, RenewLease

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 0.3
"""A new owner is told of its lease when the worker knows of it, or after this time."""

RELEASE_WITHIN_S = 10.0
"""A released lease is answered when the tip is parked, or after this time."""


class LeaseDesk:
    """Used by the guard's main thread alone.

    ``usual_s`` is the duration for owners who ask for none; ``leaving`` says whether the guard is about to
    end: it admits nobody then.
    """

    def __init__(
        self,
        lease: LeaseKeeper,
        parker: Parker,
        workers: WorkerKeeper,
        answers: DelayedAnswers,
        *,
        usual_s: float,
        leaving: Callable[[], bool],
    ) -> None:
        self._lease, self._parker, self._workers, self._answers = lease, parker, workers, answers
        self._usual_s, self._leaving = usual_s, leaving
        self._seen: tuple[int, bool] = (-1, False)
        """Epoch, and whether it is held, as the worker last said that it knows."""

    def acquire(self, request: Request, message: AcquireLease) -> None:
        """Admit an owner; the answer follows.

        Raises:
            RefusedError: the guard ends, has no worker that serves, or the tip is owned or being parked.
            UsageError: no name, or a duration that is not possible.
        """
        if self._leaving():
            raise RefusedError("the gateway is ending.", "Start it again.", refusal_code="leaving")
        if self._workers.given_up:
            raise RefusedError(
                f"the gateway has no worker: {self._workers.given_up}.",
                "See gateway/worker.log, then stmctl ack.",
                refusal_code="no-worker",
            )
        if self._workers.ready is None:
            raise RefusedError(
                "the gateway's worker is starting.", "Ask again in a moment.", refusal_code="starting"
            )
        duration = message.duration_s or self._usual_s
        epoch = self._lease.acquire(message.owner, duration, time.monotonic())
        log.info("lease granted", owner=message.owner, epoch=epoch, duration_s=duration)
        self.tell()
        granted = LeaseGranted(epoch=epoch, duration_s=duration)
        self._answers.add(request, lambda: self._seen == (epoch, True), ANSWER_WITHIN_S, lambda _: granted)

    def renew(self, request: Request, message: RenewLease) -> None:
        """Let it run anew from now.

        Raises:
            StaleEpochError: that epoch does not own the tip (any more).
        """
        self._lease.renew(message.epoch, time.monotonic())
        request.reply(Done())

    def release(self, request: Request, message: ReleaseLease) -> None:
        """Take it back; parks if the owner wants it, and answers when that is done.

        Raises:
            StaleEpochError: that epoch does not own the tip (any more).
        """
        instructions = self._lease.release(message.epoch, message.park, time.monotonic())
        self.tell()
        log.info("lease released", epoch=message.epoch, park=message.park)
        if "park" not in instructions:
            request.reply(Done(note="the tip stays as it is; it is parked if nobody takes over"))
            return
        self._parker.order(f"lease of {self._lease.owner} given back", "released")
        self._answers.add(
            request,
            lambda: self._lease.state != "ending",
            RELEASE_WITHIN_S,
            lambda parked: Done(note="parked" if parked else "the park is not confirmed yet"),
        )

    def tick(self, now_s: float) -> None:
        """Park when a lease has run out; ``now_s`` is of the monotonic clock."""
        if "park" in self._lease.tick(now_s):
            log.warning("lease expired", owner=self._lease.owner, epoch=self._lease.epoch)
            self.tell()
            self._parker.order(f"lease of {self._lease.owner} ran out", "lease")

    def tell(self) -> None:
        """Let the worker know who owns the tip."""
        self._workers.tell(LeaseNews(epoch=self._lease.epoch, held=self._lease.held))

    def seen(self, message: LeaseSeen) -> None:
        """The worker knows of that lease."""
        self._seen = (message.epoch, message.held)
