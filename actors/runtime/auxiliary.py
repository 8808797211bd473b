"""The daemon's side of the auxiliary instruments: their readings into the journal, whether a run must wait.

A process of its own reads the ports; here it is started, asked a few times a second, and believed only while
it answers.  Nothing in here is awaited by whoever holds the lease.
"""

from __future__ import annotations

import asyncio
import collections
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from actors.runtime.processes import Companion
from actors.runtime.restart_budget import RestartBudget
from actors.runtime.watch_ring import WatchRing
from protocols.errors import LinkLostError, PeerError, StorageError, TunnelpilotError, UsageError
from protocols.files.quantities import format_quantity
from protocols.files.state_directory import read_endpoints
from protocols.instrument.auxiliary import (
    MODELS,
    OUTSIDE,
    SILENT,
    UNKNOWN,
    Band,
    BandWatch,
    stale_after,
)
from protocols.links.async_client import AsyncCommandClient
from protocols.messages.auxiliary import (
    AuxiliaryConnected,
    AuxiliaryHealth,
    AuxiliaryNews,
    AuxiliaryQuery,
    NumberedReading,
    SetUpAuxiliary,
)
from protocols.messages.base import Message
from protocols.messages.campaign import AuxiliarySection, Campaign
from protocols.messages.control import Done
from protocols.messages.daemon import EdgeStatistics
from protocols.messages.records import Fault, Record, RecordBody

PROCESS = "auxiliary"
LOOK_S = 0.25
"""Between two questions to the process."""
ASK_S = 2.0
SET_UP_S = 8.0
"""Ports are let go of and opened within this time."""
WRITE_BOUND = 1000
"""Records that wait for the journal; then the oldest are dropped and counted."""
WRITE_AT_ONCE = 100
WRITE_AGAIN_S = 1.0
FIRST_LOOK_S = 10.0
"""So long a run that begins waits for the first reading before it says that it waits."""

log = structlog.get_logger(__name__)

Commit = Callable[[str, Sequence[Record]], Awaitable[tuple[int, ...]]]


def auxiliary_process(state: Path) -> Companion:
    """The process that reads the instruments."""
    arguments = ("-m", "actors.gateway.auxiliary_process", "--state", str(state))
    return Companion(PROCESS, arguments, state, RestartBudget())


@dataclass(frozen=True)
class Verdict:
    """Whether a run must wait for an instrument."""

    holds: bool
    reason: str = ""
    alarm: bool = False
    """A person may have to look: an instrument does not answer."""
    withdraw: bool = False


GO_ON = Verdict(False)


@dataclass
class _Condition:
    """One band of one channel; without a channel: that the instrument answers at all."""

    section: AuxiliarySection
    channel: str
    unit: str
    watch: BandWatch
    withdraw: bool

    @property
    def name(self) -> str:
        return f"{self.section.name} {self.channel}".strip()


def conditions_of(campaign: Campaign, waited: bool = False) -> list[_Condition]:
    """What must hold for the campaign to measure; ``waited``: a run that waited already goes on doing so."""
    sections = {s.name: s for s in campaign.auxiliary}
    found = []
    for wait in campaign.wait_on:
        section = sections[wait.instrument]
        quantity = MODELS[section.model].quantity(wait.channel)
        unit = quantity.unit if quantity is not None else ""
        watch = BandWatch(Band.of(wait, section), must_return=waited)
        found.append(_Condition(section, wait.channel, unit, watch, wait.withdraw))
    named = {wait.instrument for wait in campaign.wait_on}
    for section in campaign.auxiliary:
        if section.required and section.name not in named:
            watch = BandWatch(Band(stale_after_s=stale_after(section)))
            found.append(_Condition(section, "", "", watch, False))
    return found


class AuxiliaryWatch:
    """For one run: ``main`` goes on until cancelled; ``verdict`` and ``health`` are there at any time."""

    def __init__(
        self,
        run: str,
        campaign: Campaign,
        companion: Companion,
        commit: Commit,
        ring: WatchRing,
        clock: Callable[[], float] = time.monotonic,
        waited: bool = False,
    ) -> None:
        self.run, self.campaign = run, campaign
        self.health: tuple[AuxiliaryHealth, ...] = ()
        self.fault = "not asked yet"
        """Why the process does not answer; empty: it does."""
        self.dropped = 0
        """Records that found no room on their way to the journal."""
        self._companion, self._commit, self._ring, self._clock = companion, commit, ring, clock
        self._conditions = conditions_of(campaign, waited)
        self._to_write: collections.deque[Record] = collections.deque()
        self._written = 0
        self._most_to_write = 0
        self._something = asyncio.Event()
        self._looked = asyncio.Event()
        self._journaled_s: dict[str, float] = {}
        self._connected: dict[str, AuxiliaryConnected] = {}
        self._answering: dict[str, bool] = {}
        self._pid = 0
        self._after = 0
        self._news: AuxiliaryNews | None = None
        self._client: AsyncCommandClient | None = None

    # ---- what the run asks ----

    def verdict(self) -> Verdict:
        """Whether the run must wait now, and for what."""
        now = self._clock()
        holding = []
        for condition in self._conditions:
            condition.watch.tick(now)
            if condition.watch.holds:
                holding.append(condition)
        if not holding:
            return GO_ON
        reasons = [self._reason(c, now) for c in holding]
        return Verdict(
            True,
            "; ".join(reasons),
            alarm=any(c.watch.state in (SILENT, UNKNOWN) for c in holding),
            withdraw=any(c.withdraw for c in holding),
        )

    async def first_look(self) -> None:
        """Wait until every instrument has answered, or has had the time to."""
        until = self._clock() + FIRST_LOOK_S
        while any(c.watch.state == UNKNOWN for c in self._conditions):
            if self._clock() > until:
                return
            self._looked.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._looked.wait()
            except TimeoutError:
                pass  # the process is still starting: look at the clock

    @property
    def edges(self) -> tuple[EdgeStatistics, ...]:
        """The two queues on the readings' way."""
        found = []
        if (news := self._news) is not None:
            found.append(
                EdgeStatistics(
                    edge="auxiliary -> daemon",
                    bound=news.bound,
                    waiting=news.waiting,
                    most_waiting=news.most_waiting,
                    passed=self._after,
                    dropped=news.dropped,
                )
            )
        journal = EdgeStatistics(
            edge="auxiliary readings -> journal",
            bound=WRITE_BOUND,
            waiting=len(self._to_write),
            most_waiting=self._most_to_write,
            passed=self._written,
            dropped=self.dropped,
        )
        return (*found, journal)

    # ---- the loop ----

    async def main(self) -> None:
        """Keep the process up, ask it, journal; until cancelled."""
        writing = asyncio.create_task(self._write_for_ever(), name="journal auxiliary readings")
        try:
            while not writing.done():
                try:
                    await self._look()
                except TunnelpilotError as trouble:
                    self._lost(trouble)
                await asyncio.sleep(LOOK_S)
            writing.result()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await self._let_go()

    async def _look(self) -> None:
        await self._companion.ensure()
        found = read_endpoints(self._companion.state, PROCESS)
        pid, endpoint = int(found.get("pid", 0)), str(found.get("commands", ""))
        if not endpoint:
            raise LinkLostError(f"the {PROCESS} process has not said yet where it listens.")
        if self._client is None:
            self._client = AsyncCommandClient(endpoint, "stmd", f"{PROCESS} process")
        elif self._client.endpoint != endpoint:
            self._client.reconnect(endpoint)
        if pid != self._pid:
            answer = await self._client.request(SetUpAuxiliary(instruments=self.campaign.auxiliary), SET_UP_S)
            _expect(answer, Done)
            self._pid, self._after = pid, 0
        answer = await self._client.request(AuxiliaryQuery(after=self._after), ASK_S)
        if not isinstance(answer, AuxiliaryNews):
            raise PeerError(f"the {PROCESS} process answered AuxiliaryQuery with {type(answer).__name__}.")
        self.take(answer)

    def take(self, news: AuxiliaryNews) -> None:
        """Take in what the process says."""
        self._news, self.fault = news, ""
        self._looked.set()
        self._after = news.next
        self.health = news.instruments
        for health in news.instruments:
            self._note_health(health)
        for numbered in news.readings:
            self._take_reading(numbered)

    def _lost(self, trouble: TunnelpilotError) -> None:
        if not self.fault or self.fault == "not asked yet":
            log.warning("no auxiliary readings", why=str(trouble))
        self.fault = str(trouble)
        self._pid = 0  # whoever answers next is told again what is wanted

    async def _let_go(self) -> None:
        """The run is over: the ports are free for others."""
        if self._client is None:
            return
        try:
            await self._client.request(SetUpAuxiliary(instruments=()), SET_UP_S)
        except TunnelpilotError as silent:
            log.warning("auxiliary ports not let go of", why=str(silent))
        finally:
            await self._client.close()

    # ---- readings ----

    def _take_reading(self, numbered: NumberedReading) -> None:
        reading, name = numbered.reading, numbered.reading.instrument
        values = {v.quantity: v.value for v in reading.values}
        turned = False
        for condition in self._conditions:
            if condition.section.name != name:
                continue
            before = condition.watch.holds
            value = values.get(condition.channel, math.nan) if condition.channel else 0.0
            condition.watch.feed(numbered.at_s, value)
            turned |= condition.watch.holds != before
        section = next((s for s in self.campaign.auxiliary if s.name == name), None)
        if section is None:
            return
        last_s = self._journaled_s.get(name)
        # Half a reading's period early is on time: readings do not come to the millisecond.
        due_s = section.journal_period_s - 0.5 * section.period_s
        if turned or last_s is None or numbered.at_s - last_s >= due_s:
            self._journaled_s[name] = numbered.at_s
            self._queue(f"auxiliary:{name}:{round(reading.wall_s * 1e6)}", reading)

    def _note_health(self, health: AuxiliaryHealth) -> None:
        """Journal that an instrument was found, fell silent, or answers again."""
        name = health.name
        connected = health.connected
        if connected is not None and self._connected.get(name) != connected:
            self._connected[name] = connected
            self._queue(f"auxiliary-connected:{name}:{round(connected.wall_s * 1e6)}", connected)
            self._ring.say(name, "auxiliary", f"{connected.identity} at {connected.port}", self.run)
        answers = health.state == "answers"
        if not answers and not health.reason:
            return  # it is just being opened
        if self._answering.get(name, True) != answers:
            what = "it answers again" if answers else health.reason
            required = any(c.section.name == name for c in self._conditions)
            action = "" if answers else ("the run waits if it lasts" if required else "the run goes on")
            self._queue(f"fault:auxiliary:{time.time_ns()}", Fault(actor=name, what=what, action=action))
            self._ring.say(name, "fault" if not answers else "auxiliary", what, self.run)
        self._answering[name] = answers

    def _reason(self, condition: _Condition, now_s: float) -> str:
        watch, band = condition.watch, condition.watch.band
        for_s = f"{max(now_s - watch.since_s, 0.0):.0f} s"
        value = format_quantity(watch.value, condition.unit)
        limits = (
            f"{format_quantity(band.low, condition.unit)} to {format_quantity(band.high, condition.unit)}"
        )
        match watch.state:
            case state if state in (SILENT, UNKNOWN):
                health = next((h for h in self.health if h.name == condition.section.name), None)
                why = self.fault or (health.reason if health is not None else "") or "no reading yet"
                since = f" for {for_s}" if state == SILENT else ""
                return f"{condition.section.name} gives no reading{since}: {why}"
            case state if state == OUTSIDE and band.low <= watch.value <= band.high:
                short = format_quantity(band.hysteresis, condition.unit)
                return f"{condition.name} is {value}, not yet {short} inside {limits}"
            case state if state == OUTSIDE:
                return f"{condition.name} is {value}, outside {limits}"
            case _:
                stay = f"{band.resume_after_s:g} s"
                return f"{condition.name} is {value}, back inside {limits}, and must stay for {stay}"

    # ---- the journal ----

    def _queue(self, key: str, body: RecordBody) -> None:
        if len(self._to_write) >= WRITE_BOUND:
            self._to_write.popleft()
            self.dropped += 1
        self._to_write.append(Record(key=key, actor=PROCESS, body=body))
        self._most_to_write = max(self._most_to_write, len(self._to_write))
        self._something.set()

    async def _write_for_ever(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._to_write:
                batch = list(self._to_write)[:WRITE_AT_ONCE]
                try:
                    await self._commit(self.run, batch)
                except (PeerError, StorageError) as later:
                    log.warning("auxiliary readings wait for the journal", why=str(later))
                    await asyncio.sleep(WRITE_AGAIN_S)
                    continue
                except UsageError as mistake:  # they can never be written: they must not block the others
                    log.error("auxiliary readings refused by the journal", why=str(mistake))
                    self.dropped += len(batch)
                else:
                    self._written += len(batch)
                for record in batch:
                    if self._to_write and self._to_write[0] is record:
                        self._to_write.popleft()


def _expect(answer: Message, kind: type[Message]) -> None:
    if not isinstance(answer, kind):
        raise PeerError(f"the {PROCESS} process answered with {type(answer).__name__}.")
