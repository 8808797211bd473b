"""SR830 and Lake Shore through PyMeasure's drivers: readings, settings, what must never become a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serial_parts import TIMEOUT_S, Bench, Scripted, lockin, lockin_bench, thermometer, thermometer_bench

from actors.gateway.drivers.serial.adapter import GarbledError, PortLostError, SilenceError
from actors.gateway.drivers.serial.instruments import InstrumentSettingsError, SerialInstrument, reading_words
from protocols.errors import ConfigError, DeadlineError, DriverError, TunnelpilotError
from protocols.instrument.auxiliary import LATEST_ANSWER
from protocols.messages.auxiliary import AuxiliaryReading

FAULTS = ("late", "silent", "garbage", "cut", "terminator", "double", "noise")


def values(reading: AuxiliaryReading) -> dict[str, float]:
    """By channel."""
    return {v.quantity: v.value for v in reading.values}


def test_temperatures_are_read_in_kelvin() -> None:
    """Each input that is wanted, with its unit, within the sensor's noise of the truth; exact commands."""
    bench = thermometer_bench(temperature_k=4.3)
    instrument = bench.instrument(thermometer())
    assert instrument.identity == "LSCI,MODEL335,3350137/0000000,1.6"
    bench.port.written.clear()
    reading = instrument.read()
    assert bench.port.written == [b"RDGST? A\n", b"KRDG? A\n", b"RDGST? B\n", b"KRDG? B\n", b"*IDN?\n"]
    assert reading.instrument == "temperature"
    assert {v.quantity: v.unit for v in reading.values} == {"A": "K", "B": "K"}
    assert np.allclose(list(values(reading).values()), 4.3, rtol=5e-4, atol=0)
    only_a = bench.instrument(thermometer(inputs=("A",))).read()
    assert list(values(only_a)) == ["A"]


def test_a_336_has_four_inputs() -> None:
    """And another identity."""
    instrument = thermometer_bench(336).instrument(thermometer(model="lakeshore336", inputs=("A", "D")))
    assert list(values(instrument.read())) == ["A", "D"]
    with pytest.raises(ConfigError, match="which is no Lake Shore 335"):
        thermometer_bench(336).instrument(thermometer())


def test_the_lock_in_is_set_and_read_back() -> None:
    """Amplitude, frequency, time constant; X and Y come from one instant."""
    bench = lockin_bench()
    section = lockin(amplitude_v=0.01, frequency_hz=973.0, time_constant_s=0.03)
    instrument = bench.instrument(section)
    assert instrument.settings == {"frequency": 973.0, "amplitude": 0.01, "time_constant": 0.03}
    assert b"SLVL0.010\r" in bench.port.written
    bench.clock.pause(1.0)
    bench.port.written.clear()
    found = values(instrument.read())
    assert bench.port.written == [b"SNAP? 1,2\r", b"SLVL?\r", b"FREQ?\r", b"OFLT?\r", b"LIAS?\r", b"*IDN?\r"]
    truth = bench.device.quantities()
    assert found["amplitude"] == 0.01
    for name in ("x", "y"):
        assert np.isclose(found[name], truth[name], rtol=1e-3, atol=0)


def test_what_is_not_set_is_left_as_it_is() -> None:
    """Without keys nothing is written but questions and where the answers go."""
    bench = lockin_bench()
    instrument = bench.instrument(lockin())
    instrument.read()
    assert instrument.settings == {}
    assert {w for w in bench.port.written if b"?" not in w} == {b"OUTX 0\r"}


def test_a_setting_that_is_not_taken_is_an_error() -> None:
    """An amplitude between two steps, a frequency on an external reference, a slow filter at 1 kHz."""
    with pytest.raises(InstrumentSettingsError, match="amplitude was set to 11 mV and is 12 mV"):
        lockin_bench().instrument(lockin(amplitude_v=0.011))
    bench = lockin_bench()
    bench.device.obey("FMOD 0", 0.0)
    with pytest.raises(InstrumentSettingsError, match="its reference is external"):
        bench.instrument(lockin(frequency_hz=100.0))
    with pytest.raises(InstrumentSettingsError, match="time_constant was set to 100 s and is 100 ms"):
        lockin_bench().instrument(lockin(frequency_hz=1000.0, time_constant_s=100.0))
    assert lockin_bench().instrument(lockin(frequency_hz=100.0, time_constant_s=100.0)).settings


def test_a_hand_at_the_front_panel_is_seen() -> None:
    """A setting of the campaign that was changed is an error until it is set back; others may change."""
    bench = lockin_bench()
    instrument = bench.instrument(lockin(amplitude_v=0.01))
    bench.device.set_quantity("frequency", 500.0)
    assert values(instrument.read())["frequency"] == 500.0
    bench.device.set_quantity("amplitude", 0.02)
    with pytest.raises(
        InstrumentSettingsError, match=r"amplitude is 20 mV, not the 10 mV.*somebody changed it"
    ):
        instrument.read()
    bench.device.set_quantity("amplitude", 0.01)
    assert values(instrument.read())["amplitude"] == 0.01


def test_what_the_lock_in_says_of_itself_is_in_the_note() -> None:
    """An overload does not stop a run, but it is on record."""
    bench = lockin_bench()
    instrument = bench.instrument(lockin())
    assert instrument.read().note == ""
    bench.device.obey("SENS 3", bench.clock())
    reading = instrument.read()
    assert reading.note == "output overload"
    assert reading_words(reading).endswith("(output overload)")


def test_a_sensor_that_gives_nothing_is_an_error() -> None:
    """The controller then says 0 K and status 1; 0 K is never a reading."""
    bench = thermometer_bench()
    instrument = bench.instrument(thermometer())
    instrument.read()
    bench.device.set_quantity("broken A", 1.0)
    with pytest.raises(
        DriverError, match=r"input A gives no temperature: invalid reading.*last reading: A 4\.3"
    ):
        instrument.read()
    bench.device.set_quantity("broken A", 0.0)
    assert values(instrument.read())["A"] > 4.0


@pytest.mark.parametrize(
    "answer", ["abc", "", "+4.2,+4.3", "nan", "inf", "+0.00000", "-4.2", "+9999.9", "true"]
)
def test_what_is_no_temperature_is_an_error(answer: str) -> None:
    """PyMeasure hands out a text or a list where there is no number; zero and nonsense are out of range."""
    identity = "LSCI,MODEL335,1/1,1.0"
    bench = Bench(Scripted(**{"*IDN": identity, "RDGST? A": "000", "KRDG? A": "+4.20000"}))
    instrument = bench.instrument(thermometer(inputs=("A",)))
    assert values(instrument.read()) == {"A": 4.2}
    bench.device.answers["KRDG? A"] = answer
    with pytest.raises((DriverError, DeadlineError)):
        instrument.read()
    bench.device.answers["KRDG? A"] = "+4.30000"
    assert values(instrument.read()) == {"A": 4.3}


@pytest.mark.parametrize(
    ("command", "answer"), [("OFLT", "77"), ("OFLT", "x"), ("SNAP? 1,2", "1.0"), ("LIAS", "-")]
)
def test_what_is_no_setting_is_an_error(command: str, answer: str) -> None:
    """An index that no table has, one number where two belong, no number at all."""
    good = {
        **{"*IDN": "Stanford_Research_Systems,SR830,s/n1,ver1", "SNAP? 1,2": "0.1,0.2", "SLVL": "1.000"},
        **{"FREQ": "1000", "OFLT": "8", "LIAS": "0"},
    }
    device = Scripted(**good)
    device.terminator, device.ends = "\r", b"\r"
    bench = Bench(device)
    instrument = bench.instrument(lockin())
    assert values(instrument.read())["x"] == 0.1
    device.answers[command] = answer
    with pytest.raises(DriverError):
        instrument.read()


def test_another_instrument_on_the_port_is_refused() -> None:
    """At the start as a mistake of the campaign; later, when cables were changed, as an error of the line."""
    with pytest.raises(ConfigError, match="which is no SR830"):
        device = Scripted(**{"*IDN": "LSCI,MODEL335,1/1,1.0"})
        device.terminator, device.ends = "\r", b"\r"
        Bench(device).instrument(lockin())
    bench = thermometer_bench()
    instrument = bench.instrument(thermometer())
    bench.device.identity = "LSCI,MODEL335,7654321/0000000,1.6"
    with pytest.raises(GarbledError, match="an answer came too many"):
        instrument.read()
    with pytest.raises(GarbledError, match="the instrument now says it is"):
        instrument.read()


def test_a_reply_of_another_time_breaks_the_seal() -> None:
    """The one that drains and identities cannot stop: it comes between a question and its answer, much later.
    The count of the answers is one too high then, and the reading is refused."""
    bench = thermometer_bench()
    instrument = bench.instrument(thermometer(inputs=("A",)))
    instrument.read()
    bench.device.set_quantity("A", 77.0)

    class Sneaking:
        """Puts an old reply on the line just before the answer to KRDG?."""

        def __init__(self, receive: Any) -> None:
            self.receive = receive

        def __call__(self, data: bytes, now_s: float) -> None:
            if data.startswith(b"KRDG"):
                bench.line._send(now_s, b"+4.30000\r\n")
                bench.line.receive = self.receive
                bench.line._send(now_s + 0.001, b"")
                bench.clock.now_s = now_s
                later = bench.line.device.obey("KRDG? A", now_s)[0]
                bench.line._send(now_s + 0.01, later.encode() + b"\r\n")
                return
            self.receive(data, now_s)

    bench.line.receive = Sneaking(bench.line.receive)  # type: ignore[method-assign]
    with pytest.raises((GarbledError, SilenceError)):
        instrument.read()
    assert values(instrument.read())["A"] > 70.0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "make", [lambda: (thermometer_bench(), thermometer()), lambda: (lockin_bench(), lockin())]
)
def test_after_any_fault_anywhere_in_a_reading_the_next_one_is_right(make: Any, at: int, fault: str) -> None:
    """The faulty reading is an error; the next, after draining and asking who is there, is true."""
    bench, section = make()
    instrument: SerialInstrument = bench.instrument(section)
    before = values(instrument.read())
    healthy = bench.line.faults.apply
    count = iter(range(1000))

    def faulty(answer: bytes, terminator: bytes) -> list[tuple[float, bytes]]:
        if next(count) == at:
            bench.faults.plan(fault, seconds=1.5)
        found: list[tuple[float, bytes]] = healthy(answer, terminator)
        return found

    bench.line.faults.apply = faulty
    with pytest.raises((DriverError, DeadlineError)):
        instrument.read()
    bench.clock.pause(LATEST_ANSWER * TIMEOUT_S)
    after = values(instrument.read())
    assert list(after) == list(before)
    assert np.allclose(list(after.values()), list(before.values()), rtol=1e-2, atol=0)
    assert instrument.strays >= 0


@settings(max_examples=300)
@example(plan=[("late", 3.0, 3, 0.0), ("late", 1.0, 0, 0.0)], first=3.0, second=60.0)
@example(plan=[("late", 3.0, 0, 0.0), ("late", 1.0, 3, 0.0)], first=3.0, second=60.0)
@given(
    plan=st.lists(
        st.tuples(st.sampled_from(FAULTS), st.floats(0.0, 5.0), st.integers(0, 6), st.floats(0.0, 3.0)),
        max_size=6,
    ),
    first=st.floats(3.0, 6.0),
    second=st.floats(60.0, 90.0),
)
def test_a_reading_is_true_whatever_happens_on_the_line(
    plan: list[tuple[str, float, int, float]], first: float, second: float
) -> None:
    """Input A and B differ by far; any number of faults, at any time, late by any time in which an answer may
    come: a reading that is given has A near A's truth and B near B's.  (Without the wait for an answer that
    is owed, two late answers can meet: A's is late while an old one of B's takes its place.)"""
    bench = thermometer_bench()
    device: Any = bench.device
    instrument = bench.instrument(thermometer())
    device._sensors.update(A=first, B=second)
    device._advance = lambda _now: None
    for fault, late_s, skip, pause_s in plan:
        bench.faults.plan("split", max(skip, 1), 0.05)
        bench.faults.plan(fault, 1, late_s)
        bench.clock.pause(pause_s)
        for _ in range(3):
            try:
                found = values(instrument.read())
            except (DriverError, DeadlineError):
                continue
            assert np.isclose(found["A"], first, rtol=1e-2, atol=0)
            assert np.isclose(found["B"], second, rtol=1e-2, atol=0)


def test_what_whoever_had_the_port_before_has_left_is_drained() -> None:
    """An answer that is still on its way when the port is opened is nobody's."""
    bench = thermometer_bench()
    bench.line._send(bench.clock() + 0.4, b"+77.0000\r\n")
    instrument = bench.instrument(thermometer())
    assert instrument.strays == 10
    assert values(instrument.read())["A"] < 5.0


def test_an_instrument_that_is_silent_cannot_be_opened() -> None:
    """With what was asked and how long was waited; so with a port that is gone."""
    bench = thermometer_bench()
    bench.faults.plan("silent", 5)
    with pytest.raises(SilenceError, match=r"'\*IDN\?'"):
        bench.instrument(thermometer())
    bench = thermometer_bench()
    bench.port.gone = True
    with pytest.raises(PortLostError):
        bench.instrument(thermometer())


def test_every_error_names_port_instrument_command_time_and_the_last_reading() -> None:
    """Whatever the fault."""
    for fault in FAULTS:
        bench = thermometer_bench()
        instrument = bench.instrument(thermometer(inputs=("A",)))
        words = reading_words(instrument.read())
        bench.faults.plan(fault, seconds=3.0)
        with pytest.raises(TunnelpilotError) as error:
            instrument.read()
        text = str(error.value)
        for part in (
            "temperature (Lake Shore 335)",
            "/dev/ttyX",
            "RDGST? A",
            "of 1 s",
            f"last reading: {words}",
        ):
            assert part in text, fault
