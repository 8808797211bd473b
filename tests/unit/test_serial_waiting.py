"""From readings to a run that waits: bands, pollers and their ring, the daemon's watch, the run itself."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serial_parts import VirtualClock, lockin, thermometer, thermometer_bench
from synthetic_run import campaign

from actors.gateway.auxiliary import FAILURES_IN_A_ROW, OPEN_AGAIN_S, Poller, ReadingRing
from actors.gateway.drivers.serial.adapter import PortLostError, SilenceError
from actors.runtime import auxiliary
from actors.runtime.auxiliary import GO_ON, AuxiliaryWatch, Verdict
from actors.runtime.campaign_run import CampaignRun
from actors.runtime.ledger import RunLedger
from actors.runtime.watch_ring import WatchRing
from protocols.errors import ConfigError, DeadlineError, RefusedError
from protocols.files.campaign_toml import commented_campaign, describe_campaign, parse_campaign
from protocols.instrument.auxiliary import HOLDING, Band, BandWatch, stale_after
from protocols.messages.auxiliary import (
    AuxiliaryConnected,
    AuxiliaryHealth,
    AuxiliaryNews,
    AuxiliaryReading,
    AuxiliaryValue,
    NumberedReading,
)
from protocols.messages.campaign import AuxiliarySection, WaitSection
from protocols.messages.records import Fault, Record, RunStarted, RunState, StoredRecord

BAND = Band(4.0, 4.6, hysteresis=0.1, hold_after_s=5.0, resume_after_s=30.0, stale_after_s=20.0)


def fed(watch: BandWatch, *readings: tuple[float, float]) -> BandWatch:
    """The watch after these (time, value)."""
    for at_s, value in readings:
        watch.feed(at_s, value)
    return watch


# ---- the band ----


def test_the_first_reading_decides_at_once() -> None:
    """A run that begins waits neither for a good temperature nor begins with a bad one."""
    watch = BandWatch(BAND)
    watch.tick(1e9)
    assert watch.holds
    assert not fed(BandWatch(BAND), (0.0, 4.59)).holds
    assert fed(BandWatch(BAND), (0.0, 4.61)).state == "outside"


def test_a_short_excursion_is_none() -> None:
    """Only one that lasts holds; it counts from when the reading left the band."""
    watch = fed(BandWatch(BAND), (0.0, 4.3), (1.0, 4.7), (5.9, 4.7))
    assert (watch.state, watch.holds) == ("leaving", False)
    assert fed(BandWatch(BAND), (0.0, 4.3), (1.0, 4.7), (5.9, 4.7), (6.0, 4.3)).state == "inside"
    watch.tick(6.0)
    assert (watch.state, watch.since_s) == ("outside", 1.0)


def test_it_must_be_well_inside_for_long_enough() -> None:
    """By the hysteresis, without a break."""
    watch = fed(BandWatch(BAND), (0.0, 5.0), (10.0, 4.55))
    assert watch.state == "outside"  # inside, but not by 0.1
    fed(watch, (11.0, 4.45), (30.0, 4.2), (40.0, 4.45))
    assert watch.state == "returning"
    watch.tick(40.99)
    assert watch.holds
    watch.tick(41.0)
    assert watch.state == "inside"
    again = fed(BandWatch(BAND), (0.0, 5.0), (11.0, 4.45), (30.0, 4.55), (31.0, 4.45), (50.0, 4.3))
    assert again.state == "returning"
    again.tick(60.9)
    assert again.holds


def test_silence_holds_and_is_over_with_readings() -> None:
    """A reading that is too old is none; afterwards it must stay inside as after an excursion."""
    watch = fed(BandWatch(BAND), (0.0, 4.3))
    watch.tick(20.0)
    assert not watch.holds
    watch.tick(20.1)
    assert (watch.state, watch.since_s) == ("silent", 0.0)
    fed(watch, (25.0, 4.3))
    assert watch.state == "returning"
    fed(watch, (40.0, 4.3), (55.0, 4.3))
    assert watch.state == "inside"
    assert stale_after(thermometer(period_s=1.0, timeout_s=1.0)) == 11.0


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 40.0), st.one_of(st.none(), st.floats(3.0, 6.0))), max_size=40),
    hysteresis=st.floats(0.0, 0.25),
    hold_after=st.floats(0.0, 20.0),
    resume_after=st.floats(0.0, 40.0),
)
def test_a_run_measures_only_when_the_band_was_kept(
    steps: list[tuple[float, float | None]], hysteresis: float, hold_after: float, resume_after: float
) -> None:
    """Whatever the readings: it does not hold only if the last one is fresh, and either inside the band
    or outside for less than ``hold_after``; and it holds only if a reading was outside or missing."""
    band = Band(4.0, 4.6, hysteresis, hold_after, resume_after, stale_after_s=50.0)
    watch, now, outside_since, seen, ever_bad = BandWatch(band), 0.0, math.nan, -math.inf, False
    for wait_s, value in steps:
        now += wait_s
        if value is not None:
            inside = band.low <= value <= band.high
            outside_since = math.nan if inside else (now if math.isnan(outside_since) else outside_since)
            seen = now
            ever_bad |= not inside
            watch.feed(now, value)
        watch.tick(now)
        ever_bad |= seen > -math.inf and now - seen > band.stale_after_s
        assert watch.holds == (watch.state in HOLDING)
        if not watch.holds:
            assert now - seen <= band.stale_after_s
            assert math.isnan(outside_since) or now - outside_since < max(hold_after, 1e-9)
        elif watch.state != "unknown":
            assert ever_bad


# ---- the campaign ----

AUXILIARY = """
[auxiliary.temperature]
model = "lakeshore336"
port = "/dev/ttyUSB7"
inputs = ["A", "B"]
[auxiliary.lockin]
model = "sr830"
amplitude = "10mV"
frequency = "973Hz"
time_constant = "30ms"
[[wait_on]]
instrument = "temperature"
channel = "B"
low = "4.0K"
high = "4.6K"
hysteresis = "50mK"
[[wait_on]]
instrument = "lockin"
channel = "x"
low = "-1mV"
high = "1mV"
withdraw = false
"""


def test_a_campaign_names_its_instruments_and_what_it_waits_for() -> None:
    """Any number of each, quantities in the unit of their channel."""
    found = parse_campaign(commented_campaign() + AUXILIARY, "c.toml")
    temperature, lock_in = found.auxiliary
    assert (temperature.name, temperature.model, temperature.inputs) == (
        "temperature",
        "lakeshore336",
        ("A", "B"),
    )
    assert (lock_in.amplitude_v, lock_in.frequency_hz, lock_in.time_constant_s) == (0.01, 973.0, 0.03)
    first, second = found.wait_on
    assert (first.instrument, first.channel, first.low, first.high) == ("temperature", "B", 4.0, 4.6)
    assert (first.hysteresis, first.withdraw, second.withdraw) == (0.05, True, False)
    assert (second.low, second.high) == (-1e-3, 1e-3)
    shown = {(section, key): value for section, key, value in describe_campaign(found)}
    assert shown["wait_on[1]", "low"] == '"4K"'
    assert shown["wait_on[2]", "low"] == '"-1mV"'
    assert shown["auxiliary.lockin", "time_constant"] == '"30ms"'


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('model = "sr830"', 'model = "sr831"', 'did you mean "sr830"?'),
        (
            'channel = "B"',
            'channel = "C"',
            '[[wait_on]] 1 channel = "C": no such channel is read; temperature has',
        ),
        ('low = "4.0K"', 'low = "4.0V"', "a temperature is needed"),
        ('low = "-1mV"', 'low = "-1K"', "a voltage is needed"),
        ('high = "4.6K"', 'high = "3.6K"', "must be above low"),
        ('hysteresis = "50mK"', 'hysteresis = "0.3K"', "leaves no room inside the band"),
        ('instrument = "lockin"', 'instrument = "lokin"', 'did you mean "lockin"?'),
        ('amplitude = "10mV"', 'amplitude = "11mV"', "steps of 2 mV"),
        ('amplitude = "10mV"', 'amplitude = "1mV"', "out of range (allowed: 4 mV to 5 V)"),
        ('time_constant = "30ms"', 'time_constant = "20ms"', "10us, 30us, 100us"),
        ('inputs = ["A", "B"]', 'inputs = ["A", "E"]', "must be a list of one of"),
        ('6"\nport = "/dev/ttyUSB7"\ninputs = ["A", "B"]', '5"\ninputs = ["D"]', 'has the inputs "A", "B"'),
        ('port = "/dev/ttyUSB7"', 'amplitude = "10mV"', "has no such setting"),
        ('port = "/dev/ttyUSB7"', 'journal_period = "2s"\nperiod = "5s"', "is shorter than the period"),
        ('model = "sr830"', 'model = "sr830"\nport = "/dev/ttyUSB7"', "is that of temperature already"),
        ("[auxiliary.lockin]", "[auxiliary.-lockin]", "a name is letters, digits"),
        ("[[wait_on]]", "[wait_on]", "must be written with two brackets"),
        ("[auxiliary.temperature]", "[auxiliary]\n[auxiliary.temperature]\nlow = 3", "no such key"),
    ],
)
def test_what_a_campaign_may_not_say(was: str, becomes: str, says: str) -> None:
    """One mistake, with its line and what is allowed."""
    text = AUXILIARY.replace(was, becomes, 1)
    if becomes == "[wait_on]":
        text = text.replace("[[wait_on]]", "[ignored]")
    with pytest.raises(ConfigError) as wrong:
        parse_campaign(commented_campaign() + text, "c.toml")
    assert says in wrong.value.text
    assert "line " in wrong.value.text


def test_lockstep_and_the_wall_clock_do_not_go_together() -> None:
    """Readings come when they come: such a run cannot be repeated exactly."""
    text = commented_campaign().replace("# lockstep = false", "lockstep = true") + AUXILIARY
    with pytest.raises(ConfigError, match="cannot be exactly repeated with auxiliary instruments"):
        parse_campaign(text, "c.toml")


# ---- reading again and again ----


def reading(value: float, wall_s: float = 0.0, name: str = "temperature") -> AuxiliaryReading:
    """Input A at ``value``."""
    values = (AuxiliaryValue(quantity="A", value=value, unit="K"),)
    return AuxiliaryReading(instrument=name, wall_s=wall_s, values=values)


class Fake:
    """An instrument that gives what a test has put there."""

    identity, port, settings, strays = "me", "/dev/x", {"amplitude": 0.01}, 3

    def __init__(self, *gives: Any) -> None:
        self.gives = list(gives)
        self.closed = 0

    def read(self) -> AuxiliaryReading:
        """The next one; an exception is raised."""
        found = self.gives.pop(0)
        if isinstance(found, Exception):
            raise found
        return reading(found)

    def close(self) -> None:
        """Count."""
        self.closed += 1


def poller(*opened: Any, period_s: float = 2.0) -> tuple[Poller, ReadingRing, VirtualClock]:
    """A poller whose port opens to these, one after the other; an exception is raised."""
    clock, ring, left = VirtualClock(), ReadingRing(), list(opened)

    def open_it(_section: AuxiliarySection) -> Any:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return Poller(thermometer(period_s=period_s), open_it, ring, clock, clock), ring, clock


def test_readings_come_once_in_a_period() -> None:
    """Counted from one to the next, not from the end of each; what was missed is left out."""
    one, ring, clock = poller(Fake(4.2, 4.3, 4.4, 4.5))
    assert one.step() == 2.0
    clock.pause(2.5)  # late by half a second
    assert one.step() == 1.5
    clock.pause(10.0)
    assert one.step() == 0.0
    assert [r.reading.values[0].value for r in ring.after(0, 10)] == [4.2, 4.3, 4.4]
    assert one.health.state == "answers"
    assert (one.health.readings, one.health.failures, one.health.strays) == (3, 0, 3)
    assert one.health.connected is not None
    assert one.health.connected.settings == {"amplitude": 0.01}


def test_a_port_is_opened_again_and_again() -> None:
    """Never given up; what was wrong last is in the health, a port that is lost or fails thrice is closed."""
    failing = Fake(4.2, *[DeadlineError(f"silent {k}") for k in range(FAILURES_IN_A_ROW)])
    unplugged = Fake(PortLostError("pulled out"))
    one, _, _ = poller(PortLostError("no such port"), failing, unplugged, Fake(4.3))
    assert one.step() == OPEN_AGAIN_S
    assert (one.health.state, one.health.reason) == ("connecting", "no such port")
    one.step()
    assert one.health.state == "answers"
    for k in range(FAILURES_IN_A_ROW):
        assert failing.closed == 0
        one.step()
        assert (one.health.state, one.health.reason) == ("silent", f"silent {k}")
    assert failing.closed == 1
    assert one.step() == OPEN_AGAIN_S
    assert unplugged.closed == 1
    one.step()
    assert (one.health.state, one.health.connections, one.health.failures) == ("answers", 3, 5)
    assert one.health.strays == 9


def test_a_real_driver_under_a_poller() -> None:
    """A simulated thermometer that is silent for a while: no reading is wrong; it comes back by itself."""
    bench = thermometer_bench()
    ring = ReadingRing()
    one = Poller(thermometer(), bench.instrument, ring, bench.clock, bench.clock)
    for round_ in range(30):
        if round_ == 3:
            bench.faults.plan("late", 3, 1.7)
        bench.clock.pause(one.step())
    found = [r.reading.values[0].value for r in ring.after(0, 100)]
    assert len(found) == one.health.readings >= 8
    assert all(abs(v - 4.3) < 0.01 for v in found)
    assert one.health.failures >= 1
    assert one.health.state == "answers"


def test_a_port_is_not_opened_while_an_answer_to_its_last_user_may_come() -> None:
    """Closing and opening it does not make a late answer disappear; the wait is no failure."""
    owed = SilenceError("no answer", owed_until_s=1005.0)
    one, _, clock = poller(owed, Fake(4.2))
    assert one.step() == OPEN_AGAIN_S
    clock.pause(OPEN_AGAIN_S)
    assert one.step() == 4.0
    assert (one.health.failures, one.health.connections) == (1, 0)
    clock.pause(4.0)
    one.step()
    assert (one.health.connections, one.health.readings) == (1, 1)


def test_the_ring_is_bounded_and_counts_what_nobody_asked_for() -> None:
    """Who asks beyond a number has got it; a number of an earlier process means everything."""
    ring = ReadingRing(bound=3)
    for k in range(5):
        ring.put(float(k), reading(float(k)))
    assert (ring.waiting, ring.dropped, ring.most_waiting, ring.last) == (3, 2, 3, 5)
    assert [r.number for r in ring.after(0, 2)] == [3, 4]
    assert [r.number for r in ring.after(4, 10)] == [5]
    assert ring.waiting == 1
    assert [r.number for r in ring.after(77, 10)] == [5]
    ring.put(9.0, reading(9.0))
    assert (ring.dropped, ring.waiting) == (2, 2)


# ---- the daemon's watch ----


class Daemon:
    """What a watch needs: a journal and a ring of events; a clock."""

    def __init__(
        self, wait: WaitSection | None = None, *sections: AuxiliarySection, full: bool = False
    ) -> None:
        self.clock, self.records, self.ring = VirtualClock(), [], WatchRing()
        waits = (wait,) if wait is not None else ()
        self.campaign = msgspec.structs.replace(campaign(), auxiliary=sections, wait_on=waits)
        self.full = full
        self.written = asyncio.Event()
        self.number = 0
        nothing = cast(Any, None)
        self.watch = AuxiliaryWatch("r", self.campaign, nothing, self.commit, self.ring, self.clock)

    async def commit(self, run: str, records: Any) -> tuple[int, ...]:
        """Into the journal."""
        assert run == "r"
        if self.full:
            raise DeadlineError("no writer")
        self.records += records
        self.written.set()
        return tuple(range(len(records)))

    def news(self, *values: float, health: AuxiliaryHealth | None = None, name: str = "temperature") -> None:
        """The process says these readings of input A, now."""
        readings = []
        for value in values:
            self.number += 1
            one = reading(value, self.clock(), name)
            readings.append(NumberedReading(number=self.number, at_s=self.clock(), reading=one))
        state = health or AuxiliaryHealth(name=name, model="lakeshore335", state="answers")
        self.watch.take(
            AuxiliaryNews(
                pid=1,
                readings=tuple(readings),
                next=self.number,
                waiting=0,
                bound=10,
                most_waiting=2,
                dropped=4,
                instruments=(state,),
            )
        )

    def queued(self, kind: type) -> list[Any]:
        """Bodies of a kind on their way to the journal."""
        return [r.body for r in self.watch._to_write if isinstance(r.body, kind)]


WAIT = WaitSection(
    instrument="temperature", channel="A", low=4.0, high=4.6, hold_after_s=5.0, resume_after_s=10.0
)


def test_a_run_waits_for_a_band_and_goes_on() -> None:
    """With the reading and the band in the reason; whether the tip is withdrawn is the campaign's to say."""
    daemon = Daemon(WAIT, thermometer())
    verdict = daemon.watch.verdict()
    assert (verdict.holds, verdict.alarm, verdict.withdraw) == (True, True, True)
    assert verdict.reason == "temperature gives no reading: not asked yet"
    daemon.news(4.3)
    assert daemon.watch.verdict() == GO_ON
    for _ in range(6):
        daemon.clock.pause(1.0)
        daemon.news(5.25)
    assert daemon.watch.verdict() == Verdict(
        True, "temperature A is 5.25 K, outside 4 K to 4.6 K", False, True
    )
    daemon.clock.pause(1.0)
    daemon.news(4.5)
    expected = "temperature A is 4.5 K, back inside 4 K to 4.6 K, and must stay for 10 s"
    assert daemon.watch.verdict().reason == expected
    for _ in range(10):
        daemon.clock.pause(1.0)
        daemon.news(4.5)
    assert daemon.watch.verdict() == GO_ON


def test_an_instrument_that_does_not_answer_holds_the_run_with_its_reason() -> None:
    """Also one that nothing waits on, if it is required; the error of the driver is the reason."""
    for wait, section, holds in (
        (WAIT, thermometer(), True),
        (None, thermometer(), True),
        (None, thermometer(required=False), False),
    ):
        daemon = Daemon(wait, section)
        daemon.news(4.3)
        assert not daemon.watch.verdict().holds
        daemon.clock.pause(11.5)
        silent = AuxiliaryHealth(
            name="temperature", model="lakeshore335", state="silent", reason="no answer (KRDG?)"
        )
        daemon.news(health=silent)
        verdict = daemon.watch.verdict()
        assert verdict.holds == holds
        if holds:
            assert verdict.reason == "temperature gives no reading for 12 s: no answer (KRDG?)"
            assert verdict.alarm
            assert verdict.withdraw == (wait is not None)
        daemon.news(4.3)
        assert daemon.watch.verdict().holds == (wait is not None)  # a band must be kept for a while
        for _ in range(2):
            daemon.clock.pause(5.0)
            daemon.news(4.3)
        assert not daemon.watch.verdict().holds


def test_a_process_that_is_gone_holds_the_run() -> None:
    """Nobody reads any more: as good as silence."""
    daemon = Daemon(WAIT, thermometer())
    daemon.news(4.3)
    daemon.clock.pause(30.0)
    daemon.watch._lost(DeadlineError("the auxiliary process did not answer within 2 s."))
    assert "the auxiliary process did not answer" in daemon.watch.verdict().reason


def test_the_journal_gets_readings_at_its_period_and_those_that_matter() -> None:
    """One in ten seconds of those that come every second, and each that makes the run wait or go on."""
    daemon = Daemon(WAIT, thermometer(period_s=1.0, journal_period_s=10.0))
    for second in range(41):
        daemon.news(5.0 if 13 <= second < 27 else 4.3)
        daemon.clock.pause(1.0)
    times = [r.wall_s - 1000.0 for r in daemon.queued(AuxiliaryReading)]
    # 13 to 27 outside: waits at 18, is back at 27, goes on at 37
    assert times == [0, 10, 18, 28, 37]
    keys = [r.key for r in daemon.watch._to_write]
    assert len(set(keys)) == len(keys)


def test_what_happens_to_an_instrument_is_journaled() -> None:
    """Found, silent, back again: who and what, once each."""
    daemon = Daemon(WAIT, thermometer())
    found = AuxiliaryConnected(
        instrument="temperature",
        model="lakeshore335",
        identity="LSCI",
        port="/dev/x",
        settings={},
        wall_s=1.0,
    )
    for _ in range(3):
        daemon.news(health=AuxiliaryHealth(name="temperature", model="lakeshore335", state="connecting"))
    assert not daemon.watch._to_write
    health = AuxiliaryHealth(name="temperature", model="lakeshore335", state="answers", connected=found)
    for _ in range(3):
        daemon.news(4.3, health=health)
    for _ in range(3):
        daemon.news(health=msgspec.structs.replace(health, state="silent", reason="pulled out"))
    daemon.news(4.3, health=health)
    assert daemon.queued(AuxiliaryConnected) == [found]
    assert [(f.actor, f.what, f.action) for f in daemon.queued(Fault)] == [
        ("temperature", "pulled out", "the run waits if it lasts"),
        ("temperature", "it answers again", ""),
    ]


def test_readings_wait_for_the_journal_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it cannot be written the oldest are dropped and counted; afterwards the rest is written once."""
    monkeypatch.setattr(auxiliary, "WRITE_BOUND", 5)
    monkeypatch.setattr(auxiliary, "WRITE_AGAIN_S", 0.0)

    async def session() -> Daemon:
        daemon = Daemon(WAIT, thermometer(period_s=1.0, journal_period_s=1.0), full=True)
        for _ in range(8):
            daemon.news(4.3)
            daemon.clock.pause(1.0)
        writing = asyncio.ensure_future(daemon.watch._write_for_ever())
        await asyncio.sleep(0)
        daemon.full = False
        async with asyncio.timeout(10.0):
            await daemon.written.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        return daemon

    daemon = asyncio.run(session())
    assert [r.body.wall_s - 1000.0 for r in daemon.records] == [3, 4, 5, 6, 7]
    process, journal = daemon.watch.edges
    assert (journal.bound, journal.waiting, journal.passed, journal.dropped) == (5, 0, 5, 3)
    assert (process.bound, process.dropped, process.most_waiting) == (10, 4, 2)


# ---- the run ----


class Tip:
    """A tip that is held until it is given back."""

    def __init__(self) -> None:
        self.held, self.beats, self.asked_s = True, 0, 0.0
        self.status: Any = None
        self.released: list[bool] = []

    def beat(self) -> None:
        """Count."""
        self.beats += 1

    async def release(self, park: bool) -> str:
        """Park."""
        self.held = False
        self.released.append(park)
        return "parked"


def waiting_run(state: str = "running", allowed: bool = False) -> tuple[CampaignRun, Any]:
    """A run with an auxiliary instrument whose verdict the test decides."""
    ledger = RunLedger("r")
    body = RunState(state=state, reason="why")
    ledger.fold([StoredRecord(seq=1, key="state:1", actor="daemon", wall_s=0.0, body=body)])
    said = cast(Any, campaign())
    ledger.started = RunStarted(
        run="r",
        campaign=said,
        campaign_text="",
        seed=1,
        versions={},
        limits={},
        simulated=True,
        time_scale=1.0,
    )
    nothing = cast(Any, None)
    site = cast(Any, SimpleNamespace(tip=Tip(), ring=WatchRing()))
    run = CampaignRun(site, nothing, ledger, allowed)
    run.control._machine.state = state
    watch = SimpleNamespace(said=GO_ON)
    watch.verdict = lambda: watch.said
    run.waiting.watch = cast(Any, watch)
    return run, watch


def test_a_running_run_begins_to_wait_with_the_next_beat() -> None:
    """At once in any wait of the loop; what is under way ends first, then the tip is withdrawn, once."""

    async def session() -> None:
        run, watch = waiting_run()
        run.beat()
        assert run.control.state == "running"
        watch.said = Verdict(True, "temperature A is 5 K", False, True)
        run.beat()
        change = run.control.changes[-1]
        assert change.body == RunState(state="waiting", reason="waits: temperature A is 5 K")
        assert change.instructions == ("drain",)
        assert run.site.tip.held  # the loop is still in its step
        await run.waiting.step()
        await run.waiting.step()
        assert cast(Any, run.site.tip).released == [True]
        assert run.signs.activity == "waiting: temperature A is 5 K"
        watch.said = GO_ON
        await run.waiting.step()
        assert run.control.state == "engaging"
        assert run.control.changes[-1].instructions == ("engage",)
        assert (run.signs.activity, len(run.control.changes)) == ("", 2)

    asyncio.run(session())


def test_a_tip_that_may_stay_is_not_withdrawn() -> None:
    """withdraw = false."""

    async def session() -> None:
        run, watch = waiting_run()
        watch.said = Verdict(True, "lockin x is 1 V", False, False)
        run.beat()
        await run.waiting.step()
        assert run.site.tip.held
        assert cast(Any, run.site.tip).released == []

    asyncio.run(session())


def test_a_silent_instrument_calls_for_a_person_once() -> None:
    """Also when it falls silent while the run waits already; it goes on by itself all the same, and the alarm
    is gone then."""

    async def session() -> None:
        run, watch = waiting_run()
        watch.said = Verdict(True, "temperature A is 5 K", False, True)
        run.beat()
        await run.waiting.step()
        assert run.signs.alarms == ()
        for text in ("no reading for 9 s", "no reading for 10 s"):
            watch.said = Verdict(True, text, True, True)
            await run.waiting.step()
        assert run.signs.alarms == ("no reading for 9 s",)
        assert [c.instructions for c in run.control.changes] == [("drain",), ("alarm",)]
        watch.said = GO_ON
        await run.waiting.step()
        assert (run.control.state, run.signs.alarms) == ("engaging", ())

    asyncio.run(session())


def test_nothing_is_engaged_while_an_instrument_is_not_content() -> None:
    """Also right at the beginning; a person's leave to engage is kept for afterwards."""

    async def session() -> None:
        run, watch = waiting_run("engaging", allowed=True)
        run.site.tip.held = False
        watch.said = Verdict(True, "temperature A is 5 K", False, True)
        await run._engage()  # would fail on this site if it engaged
        assert run.control.state == "waiting"
        await run.waiting.step()
        assert cast(Any, run.site.tip).released == []
        watch.said = GO_ON
        await run.waiting.step()
        assert (run.control.state, run.allowed) == ("engaging", True)

    asyncio.run(session())


def test_people_can_pause_and_abort_a_run_that_waits() -> None:
    """Resume makes no sense: it goes on by itself, or the reason says what to mend."""
    for order, state in (("pause", "paused"), ("pause-now", "paused"), ("abort", "aborted")):
        run, _ = waiting_run("waiting")
        run.control.order(order, "told")
        assert run.control.state == state
    run, _ = waiting_run("waiting")
    with pytest.raises(RefusedError, match="resume makes no sense now"):
        run.control.order("resume", "told")


def test_a_lock_in_is_watched_like_a_thermometer() -> None:
    """Any channel of any model can be waited on, in its own unit."""
    wait = WaitSection(instrument="lockin", channel="x", low=-1e-3, high=1e-3, hold_after_s=0.0)
    daemon = Daemon(wait, lockin())
    values = (AuxiliaryValue(quantity="x", value=0.02, unit="V"),)
    one = AuxiliaryReading(instrument="lockin", wall_s=1.0, values=values)
    daemon.watch._take_reading(NumberedReading(number=1, at_s=daemon.clock(), reading=one))
    assert daemon.watch.verdict().reason == "lockin x is 20 mV, outside -1 mV to 1 mV"
    assert isinstance(daemon.watch._to_write[0], Record)
