"""Auxiliary instruments where a run could go on too early or never: restarts, silences, faults."""

from __future__ import annotations

import termios
from typing import Any

import msgspec
import pytest
from serial_parts import Bench, Scripted, VirtualClock
from test_serial_waiting import WAIT, Daemon, campaign

from actors.gateway.auxiliary import Poller, ReadingRing
from actors.gateway.drivers.serial.adapter import PortLostError
from actors.runtime.auxiliary import AuxiliaryWatch
from actors.runtime.watch_ring import WatchRing
from protocols.instrument.auxiliary import Band, BandWatch
from protocols.messages.auxiliary import AuxiliaryReading, AuxiliaryValue
from protocols.messages.campaign import AuxiliarySection, WaitSection

THERMOMETER = AuxiliarySection(
    name="temperature", model="lakeshore335", port="/dev/x", inputs=("A",), period_s=1.0, timeout_s=1.0
)
PATIENT = WaitSection(
    instrument="temperature", channel="A", low=4.0, high=4.6, hold_after_s=120.0, resume_after_s=60.0
)


def fed(watch: BandWatch, *readings: tuple[float, float]) -> BandWatch:
    """The watch after these (time, value)."""
    for at_s, value in readings:
        watch.feed(at_s, value)
    return watch


def test_one_good_reading_and_silence_is_no_stay_inside() -> None:
    """It must have stayed for a minute: that is said by readings, not by the clock alone, however long an
    excursion may last."""
    watch = BandWatch(Band.of(PATIENT, THERMOMETER))
    fed(watch, (0.0, 5.0), (10.0, 4.3))
    for now in (30.0, 70.0, 100.0):
        watch.tick(now)
        assert watch.holds
    fed(watch, *((101.0 + 6.0 * k, 4.3) for k in range(10)))
    assert watch.holds
    assert not fed(watch, (161.0, 4.3)).holds


def test_after_a_silence_a_reading_inside_is_inside() -> None:
    """Who was inside before needs no hysteresis to be believed: else a lost reading near the edge of the band
    would hold a run for ever."""
    band = Band(4.0, 4.6, 0.1, 5.0, 30.0, 20.0)
    watch = fed(BandWatch(band), (0.0, 4.55))
    watch.tick(25.0)
    assert watch.state == "silent"
    fed(watch, (26.0, 4.55), (41.0, 4.55))
    assert watch.state == "returning"
    assert not fed(watch, (56.0, 4.55)).holds
    outside = fed(BandWatch(band), (0.0, 4.7))
    outside.tick(25.0)
    fed(outside, (26.0, 4.55), (41.0, 4.55), (56.0, 4.55))
    assert outside.state == "outside"


def test_who_waited_when_the_daemon_ended_waits_on() -> None:
    """A restart is no return: the band must be kept for as long as after any excursion."""
    watch = BandWatch(Band(4.0, 4.6, 0.1, 5.0, 30.0, 20.0), must_return=True)
    fed(watch, (0.0, 4.3))
    assert watch.state == "returning"
    fed(watch, (15.0, 4.3), (29.0, 4.3))
    assert watch.holds
    assert not fed(watch, (30.0, 4.3)).holds
    assert fed(BandWatch(watch.band, must_return=True), (0.0, 4.55)).state == "outside"


def test_a_run_that_waited_hands_that_on_to_its_bands() -> None:
    """As the daemon's watch is told by the run's last state."""
    said = msgspec.structs.replace(campaign(), auxiliary=(THERMOMETER,), wait_on=(PATIENT,))
    nothing: Any = None
    for waited in (False, True):
        watch = AuxiliaryWatch("r", said, nothing, nothing, WatchRing(), VirtualClock(), waited=waited)
        (condition,) = watch._conditions
        condition.watch.feed(0.0, 4.3)
        assert condition.watch.holds is waited


def test_the_reason_does_not_call_a_value_outside_that_lies_inside() -> None:
    """Inside, but not by the hysteresis."""
    daemon = Daemon(msgspec.structs.replace(WAIT, hysteresis=0.1), THERMOMETER)
    daemon.news(5.0)
    daemon.clock.pause(1.0)
    daemon.news(4.55)
    reason = daemon.watch.verdict().reason
    assert reason == "temperature A is 4.55 K, not yet 100 mK inside 4 K to 4.6 K"


def test_a_port_that_is_pulled_out_between_two_calls_is_a_lost_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing a port that is gone raises termios.error, which is no OSError."""
    parts = Bench(Scripted(KRDG="+4.20000"))
    adapter = parts.adapter(write_termination="\n", read_termination="\r\n")

    def gone() -> None:
        raise termios.error(5, "Input/output error")

    monkeypatch.setattr(parts.port, "reset_input_buffer", gone)
    with pytest.raises(PortLostError, match="lost"):
        adapter.write("KRDG? A")


class Broken:
    """An instrument with a fault that nobody foresaw, then one without."""

    identity, port, strays = "me", "/dev/x", 0

    def __init__(self, *gives: Any) -> None:
        self.gives = list(gives)
        self.settings: dict[str, float] = {}
        self.closed = 0

    def read(self) -> AuxiliaryReading:
        """The next one."""
        found = self.gives.pop(0)
        if isinstance(found, Exception):
            raise found
        values = (AuxiliaryValue(quantity="A", value=found, unit="K"),)
        return AuxiliaryReading(instrument="temperature", wall_s=0.0, values=values)

    def close(self) -> None:
        """Count."""
        self.closed += 1


def test_a_fault_that_nobody_foresaw_is_told_and_the_instrument_read_again() -> None:
    """Its thread goes on: a run that waits would wait for ever otherwise."""
    clock = VirtualClock()
    first, second = Broken(4.2, UnicodeError("odd")), Broken(4.3)
    opened = [first, ZeroDivisionError("odd"), second]

    def open_it(_section: AuxiliarySection) -> Any:
        found = opened.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    poller = Poller(THERMOMETER, open_it, ReadingRing(), clock, clock)
    poller.step()
    poller.step()
    assert (poller.health.state, first.closed) == ("silent", 1)
    assert "odd" in poller.health.reason
    poller.step()
    assert "odd" in poller.health.reason
    poller.step()
    assert (poller.health.state, poller.health.readings) == ("answers", 2)
