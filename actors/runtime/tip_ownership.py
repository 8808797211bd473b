"""The daemon's side of the lease, and its view of the guard.

The lease is renewed only while the run's control loop made progress: a loop that hangs loses the tip, and the
guard parks it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from protocols.errors import DeadlineError, LinkLostError, PeerError, RefusedError, TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.links.async_client import AsyncCommandClient
from protocols.messages.base import Message
from protocols.messages.control import (
    AcknowledgeLatch,
    AcquireLease,
    Done,
    GuardQuery,
    GuardStatus,
    LeaseGranted,
    ReleaseLease,
    RenewLease,
)

LEASE_S = 2.0
RENEWALS = 5
"""Renewals within one lease."""
STALL_S = 1.0
"""A control loop that gave no sign for this long is stalled: its lease is not renewed."""
LOOK_S = 0.2
ASK_AGAIN_S = 0.05

log = structlog.get_logger(__name__)


class TipOwnership:
    """Holds the lease for the run that is under way, and asks the guard how the tip is.

    ``status`` is the guard's last answer, ``asked_s`` the monotonic time at which it was asked for.
    """

    def __init__(self, state: Path, owner: str, lease_s: float = LEASE_S) -> None:
        self.state, self.owner, self.lease_s = state, owner, lease_s
        self.epoch = 0
        self.held = False
        self.margin_s = lease_s
        self.status: GuardStatus | None = None
        self.asked_s = 0.0
        self.fault = "not asked yet"
        self.stalls = 0
        self._beat_s = 0.0
        self._left_until = 0.0
        self._client: AsyncCommandClient | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to renew and to look."""
        self._tasks = [
            asyncio.create_task(self._renew_for_ever(), name="renew lease"),
            asyncio.create_task(self._look_for_ever(), name="look at guard"),
        ]

    async def close(self) -> None:
        """Stop; the lease is not given back by this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def beat(self) -> None:
        """The control loop made progress."""
        self._beat_s = time.monotonic()

    async def acquire(self, deadline_s: float) -> int:
        """Become the owner of the tip; the epoch.

        A guard that still parks for the owner before, or whose worker still starts, is asked again.

        Raises:
            DeadlineError: not within ``deadline_s``; the text has the last answer.
        """
        if self.held:
            return self.epoch
        until = time.monotonic() + deadline_s
        last: object = "nothing"
        while time.monotonic() < until:
            self.beat()
            asked = time.monotonic()
            try:
                answer = await self._ask(AcquireLease(owner=self.owner, duration_s=self.lease_s), 2.0)
            except (RefusedError, DeadlineError, LinkLostError) as refused:
                last = refused
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            if not isinstance(answer, LeaseGranted):
                raise PeerError(f"the guard answered AcquireLease with {type(answer).__name__}.")
            self.epoch, self.held = answer.epoch, True
            self._left_until = asked + answer.duration_s
            log.info("lease held", epoch=answer.epoch)
            return answer.epoch
        raise DeadlineError(
            f"the guard gave no lease within {deadline_s:g} s; last: {last}.",
            "See 'stmctl status' and gateway/guard.log.",
        )

    async def release(self, park: bool = True) -> str:
        """Give the tip back; the guard parks first.  What it said; "" if nothing was held.

        Raises:
            TunnelpilotError: the guard did not answer: it parks by itself when the lease runs out.
        """
        if not self.held:
            return ""
        self.held = False
        answer = await self._ask(ReleaseLease(epoch=self.epoch, park=park), 12.0)
        log.info("lease given back", epoch=self.epoch, park=park)
        return answer.note if isinstance(answer, Done) else ""

    async def acknowledge(self, who: str) -> str:
        """A person has looked: open the guard's latch; what it said.

        Raises:
            TunnelpilotError: it did not answer, or refused.
        """
        answer = await self._ask(AcknowledgeLatch(who=who), 3.0)
        return answer.note if isinstance(answer, Done) else ""

    async def look(self) -> GuardStatus:
        """The guard's status now.

        Raises:
            TunnelpilotError: it did not answer.
        """
        asked = time.monotonic()
        answer = await self._ask(GuardQuery(), 2.0)
        if not isinstance(answer, GuardStatus):
            raise PeerError(f"the guard answered GuardQuery with {type(answer).__name__}.")
        if asked >= self.asked_s:
            self.status, self.asked_s, self.fault = answer, asked, ""
        return answer

    async def _ask(self, message: Message, timeout_s: float) -> Message:
        endpoint = str(read_endpoints(self.state, "gateway").get("safety", ""))
        if not endpoint:
            raise LinkLostError("the gateway has not said yet where its guard listens.")
        if self._client is None:
            self._client = AsyncCommandClient(endpoint, self.owner, "stmgate guard")
        elif self._client.endpoint != endpoint:
            self._client.reconnect(endpoint)
        return await self._client.request(message, timeout_s)

    async def _renew_for_ever(self) -> None:
        pause_s = self.lease_s / RENEWALS
        while True:
            await asyncio.sleep(pause_s)
            if self.held:
                await self._renew(pause_s)

    async def _renew(self, pause_s: float) -> None:
        now, epoch = time.monotonic(), self.epoch
        if now - self._beat_s > STALL_S:
            self.stalls += 1
            log.error("control loop stalled: lease not renewed", seconds=round(now - self._beat_s, 2))
        else:
            try:
                await self._ask(RenewLease(epoch=epoch), pause_s)
                if self.epoch != epoch:
                    return  # given back and acquired anew meanwhile: the answer is about the lease before
                self.margin_s = min(self.margin_s, self._left_until - time.monotonic())
                self._left_until = now + self.lease_s
            except (DeadlineError, LinkLostError) as silent:
                log.warning("lease not renewed", why=str(silent))
            except TunnelpilotError as refused:
                if self.epoch == epoch:
                    self._lose(str(refused))
        if self.held and time.monotonic() > self._left_until:
            self._lose("it ran out")

    def _lose(self, why: str) -> None:
        if self.held:
            log.warning("lease lost", epoch=self.epoch, why=why)
        self.held = False

    async def _look_for_ever(self) -> None:
        while True:
            try:
                await self.look()
            except TunnelpilotError as silent:
                self.fault = str(silent)
                if time.monotonic() - self.asked_s > LEASE_S:
                    self.status = None
            await asyncio.sleep(LOOK_S)
