"""The daemon's side of the lease against a played guard: renewed only while the run's loop gives signs of
life, lost when the guard says so or when it ran out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.runtime import tip_ownership
from actors.runtime.tip_ownership import TipOwnership
from protocols.errors import DeadlineError, LatchedError, LinkLostError, RefusedError, StaleEpochError
from protocols.files.state_directory import publish_endpoints
from protocols.links.server import Request
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
from tests.wire.link_servers import DEADLINE_S, eventually_on_loop, serving_commands

LEASE_S = 1.0
"""Short, so that renewals (every fifth of it) come quickly."""
STALL_S = 0.6

STATUS = GuardStatus(
    pid=1,
    worker_pid=2,
    worker_alive=True,
    epoch=0,
    owner="",
    lease_left_s=0.0,
    park="parked",
    latch="open",
    latch_reason="",
    last_park_reason="",
    instrument=None,
)


@dataclass
class PlayedGuard:
    """A guard that answers as it is told to and writes down what it hears."""

    state: Path
    epoch: int = 0
    parking: int = 0
    """So many requests for the lease are refused because the tip is still being parked."""
    renewal_refused: Exception | None = None
    silent: bool = False
    held_back: list[Request] = field(default_factory=list)
    hold_back: bool = False
    """Renewals are kept, and refused as stale when the lease is acquired anew."""
    heard: list[Message] = field(default_factory=list)
    status: GuardStatus = STATUS

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Listen and say where."""
        with serving_commands(self.answer) as server:
            publish_endpoints(self.state, "gateway", safety=server.endpoint)
            yield

    def count(self, kind: type[Message]) -> int:
        """How many of a kind were heard."""
        return sum(isinstance(m, kind) for m in self.heard)

    def answer(self, request: Request) -> None:
        """As told."""
        self.heard.append(request.message)
        if self.silent:
            return
        match request.message:
            case AcquireLease(duration_s=duration_s):
                if self.parking:
                    self.parking -= 1
                    request.refuse(RefusedError("the tip is being parked.", refusal_code="parking"))
                    return
                self.epoch += 1
                request.reply(LeaseGranted(epoch=self.epoch, duration_s=duration_s))
                for late in self.held_back:
                    late.refuse(StaleEpochError("an earlier epoch does not own the tip."))
                self.held_back.clear()
            case RenewLease(epoch=epoch):
                if self.hold_back:
                    self.held_back.append(request)
                elif self.renewal_refused is not None:
                    request.refuse(self.renewal_refused)  # type: ignore[arg-type]
                elif epoch != self.epoch:
                    request.refuse(StaleEpochError(f"epoch {epoch} does not own the tip."))
                else:
                    request.reply(Done())
            case ReleaseLease(park=park):
                request.reply(Done(note="parked" if park else "left as it is"))
            case AcknowledgeLatch(who=who):
                request.reply(Done(note=f"opened by {who}"))
            case GuardQuery():
                request.reply(msgspec.structs.replace(self.status, epoch=self.epoch))
            case _:
                request.refuse(RefusedError("what is that?"))


Session = Callable[[PlayedGuard, TipOwnership], Coroutine[Any, Any, None]]


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a coroutine with a guard and an owner that renews and looks."""
    monkeypatch.setattr(tip_ownership, "STALL_S", STALL_S)

    def run(session: Session, served: bool = True) -> None:
        guard = PlayedGuard(tmp_path)

        async def whole() -> None:
            tip = TipOwnership(tmp_path, "test", LEASE_S)
            tip.start()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await session(guard, tip)
            finally:
                await tip.close()

        if served:
            with guard.serving():
                asyncio.run(whole())
        else:
            asyncio.run(whole())

    return run


async def beating_until(tip: TipOwnership, condition: Callable[[], bool]) -> None:
    """Give signs of life until the condition holds."""

    def look() -> bool:
        tip.beat()
        return condition()

    await eventually_on_loop(look)


def test_a_lease_is_renewed_while_the_loop_beats(guarded: Any) -> None:
    """The owner asks for it by name, holds its epoch, and renews that epoch many times over its duration."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        assert await tip.acquire(DEADLINE_S) == 1
        assert (tip.held, tip.epoch, tip.stalls) == (True, 1, 0)
        await beating_until(tip, lambda: guard.count(RenewLease) >= 5)
        assert tip.held
        asked = next(m for m in guard.heard if isinstance(m, AcquireLease))
        assert (asked.owner, asked.duration_s) == ("test", LEASE_S)
        assert {m.epoch for m in guard.heard if isinstance(m, RenewLease)} == {1}
        assert tip.margin_s < LEASE_S

    guarded(session)


def test_an_owner_is_not_asked_to_acquire_twice(guarded: Any) -> None:
    """While the lease is held its epoch is the answer."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        assert await tip.acquire(DEADLINE_S) == await tip.acquire(DEADLINE_S) == 1
        assert guard.count(AcquireLease) == 1

    guarded(session)


def test_without_beats_nothing_is_renewed_and_the_lease_runs_out(guarded: Any) -> None:
    """A control loop that hangs loses the tip: no renewal after the stall is noticed, the stalls are counted,
    and beats that come afterwards do not bring the lease back."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        await tip.acquire(DEADLINE_S)
        await eventually_on_loop(lambda: tip.stalls > 0)
        renewals = guard.count(RenewLease)
        await eventually_on_loop(lambda: not tip.held)
        assert guard.count(RenewLease) == renewals
        looks = guard.count(GuardQuery)
        await beating_until(tip, lambda: guard.count(GuardQuery) > looks + 2)
        assert not tip.held
        assert guard.count(RenewLease) == renewals
        assert await tip.acquire(DEADLINE_S) == 2

    guarded(session)


@pytest.mark.parametrize(
    "refusal",
    [StaleEpochError("epoch 1 does not own the tip."), LatchedError("the tip is latched parked.")],
)
def test_a_refused_renewal_loses_the_lease_at_once(guarded: Any, refusal: Exception) -> None:
    """The guard says that somebody else owns the tip, or nobody: the lease is lost and no longer renewed."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        await tip.acquire(DEADLINE_S)
        guard.renewal_refused = refusal
        await beating_until(tip, lambda: not tip.held)
        renewals, looks = guard.count(RenewLease), guard.count(GuardQuery)
        await beating_until(tip, lambda: guard.count(GuardQuery) > looks + 2)
        assert guard.count(RenewLease) == renewals
        guard.renewal_refused = None
        assert await tip.acquire(DEADLINE_S) == 2

    guarded(session)


def test_a_guard_that_falls_silent_loses_us_the_lease_when_it_has_run_out(guarded: Any) -> None:
    """One renewal without an answer is no loss; a whole duration without one is."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        await tip.acquire(DEADLINE_S)
        guard.silent = True
        before = guard.count(RenewLease)
        await beating_until(tip, lambda: guard.count(RenewLease) > before)
        assert tip.held
        await beating_until(tip, lambda: not tip.held)
        guard.silent = False
        assert await tip.acquire(DEADLINE_S) == 2

    guarded(session)


def test_the_answer_to_a_renewal_of_an_earlier_lease_says_nothing_of_this_one(guarded: Any) -> None:
    """A renewal is under way while the lease is given back and acquired anew: its late refusal does not lose
    the new lease."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        await tip.acquire(DEADLINE_S)
        guard.hold_back = True
        await beating_until(tip, lambda: len(guard.held_back) == 1)
        guard.hold_back = False
        await tip.release()
        assert await tip.acquire(DEADLINE_S) == 2
        before = guard.count(RenewLease)
        await beating_until(tip, lambda: guard.count(RenewLease) > before + 1 or not tip.held)
        assert (tip.held, tip.epoch) == (True, 2)

    guarded(session)


def test_a_guard_that_still_parks_is_asked_again(guarded: Any) -> None:
    """The owner before has just lost the tip: nobody is admitted before it is parked, so the asking goes on
    and gives signs of life meanwhile."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        guard.parking = 5
        assert await tip.acquire(DEADLINE_S) == 1
        assert guard.count(AcquireLease) == 6
        await eventually_on_loop(lambda: guard.count(RenewLease) > 0)

    guarded(session)


def test_a_guard_that_never_admits_is_an_error_with_its_last_words(guarded: Any) -> None:
    """The text says how long was waited and what the guard said last."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        guard.parking = 10_000
        with pytest.raises(DeadlineError, match=r"no lease within 0\.3 s; last: the tip is being parked"):
            await tip.acquire(0.3)
        assert not tip.held
        assert guard.count(RenewLease) == 0

    guarded(session)


def test_without_a_gateway_there_is_nobody_to_ask(guarded: Any) -> None:
    """No gateway has run here: acquiring ends at its deadline, looking says why, and one that comes up later
    is found."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        with pytest.raises(LinkLostError, match="no gateway has run"):
            await tip.look()
        with pytest.raises(DeadlineError, match="no gateway has run"):
            await tip.acquire(0.2)
        await eventually_on_loop(lambda: "no gateway has run" in tip.fault)
        assert tip.status is None
        with guard.serving():
            assert await tip.acquire(DEADLINE_S) == 1
            await eventually_on_loop(lambda: tip.status is not None)
            assert tip.fault == ""

    guarded(session, served=False)


def test_a_gateway_that_moves_is_followed(guarded: Any) -> None:
    """After a restart the guard listens elsewhere: the next question goes there."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        with guard.serving():
            assert await tip.acquire(DEADLINE_S) == 1
        with guard.serving():
            await beating_until(tip, lambda: guard.count(RenewLease) > 0)
            assert tip.held

    guarded(session, served=False)


def test_given_back_it_is_no_longer_renewed(guarded: Any) -> None:
    """The guard hears the epoch and whether to park; a second time nothing is said."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        assert await tip.release() == ""
        await tip.acquire(DEADLINE_S)
        assert await tip.release(park=True) == "parked"
        assert await tip.release() == ""
        renewals, looks = guard.count(RenewLease), guard.count(GuardQuery)
        await beating_until(tip, lambda: guard.count(GuardQuery) > looks + 2)
        assert guard.count(RenewLease) == renewals
        said = [m for m in guard.heard if isinstance(m, ReleaseLease)]
        assert said == [ReleaseLease(epoch=1, park=True)]

    guarded(session)


def test_the_guards_answer_is_kept_with_the_time_of_asking(guarded: Any) -> None:
    """The status is the latest answer; who looks himself gets the newest."""

    async def session(guard: PlayedGuard, tip: TipOwnership) -> None:
        await eventually_on_loop(lambda: tip.status is not None)
        first = tip.asked_s
        guard.status = msgspec.structs.replace(STATUS, park="engaged")
        assert (await tip.look()).park == "engaged"
        assert tip.status is not None
        assert tip.status.park == "engaged"
        assert tip.asked_s > first
        assert await tip.acknowledge("ada") == "opened by ada"

    guarded(session)
