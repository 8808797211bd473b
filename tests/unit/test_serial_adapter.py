"""The careful adapter: every way in which PyMeasure's own makes a wrong reading is an error here.

PyMeasure's adapter runs beside ours in the first tests, so that the danger is seen and not only believed.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymeasure.adapters import SerialAdapter
from pymeasure.instruments.srs import SR830
from serial_parts import TIMEOUT_S, Bench, Scripted, lockin_bench

from actors.gateway.drivers.serial.adapter import (
    DRAIN_LIMIT,
    LONGEST_ANSWER,
    CarefulSerialAdapter,
    GarbledError,
    PortLostError,
    SilenceError,
)
from protocols.errors import DeadlineError, DriverError, LinkLostError
from protocols.instrument.auxiliary import LATEST_ANSWER


def bench(**answers: str) -> Bench:
    """A device that answers "KRDG" with 4.2 K unless told otherwise."""
    return Bench(Scripted(**{"KRDG": "+4.20000", "SRDG": "+1.61000", **answers}))


def ask(adapter: CarefulSerialAdapter, command: str) -> str:
    """One question, as PyMeasure's instruments ask it."""
    adapter.write(command)
    return adapter.read()


def careless() -> tuple[Bench, SR830]:
    """The same line with PyMeasure's own adapter."""
    parts = lockin_bench()
    return parts, SR830(SerialAdapter(parts.port, read_termination="\r", write_termination="\r"))


def careful() -> tuple[Bench, SR830, CarefulSerialAdapter]:
    """And with ours."""
    parts = lockin_bench()
    adapter = parts.adapter(write_termination="\r", read_termination="\r")
    return parts, SR830(adapter), adapter


# ---- the scenarios of the danger, one by one ----


def test_silence_is_an_error_not_an_empty_text() -> None:
    """PyMeasure hands out '' as X; ours raises, with everything that helps to find the fault."""
    parts, theirs = careless()
    parts.faults.plan("silent")
    assert theirs.x == ""
    parts, ours, adapter = careful()
    adapter.last_reading = "x 25.9 mV"
    parts.faults.plan("silent")
    with pytest.raises(SilenceError) as silence:
        _ = ours.x
    assert isinstance(silence.value, DeadlineError)
    text = str(silence.value)
    for words in ("thermometer at /dev/ttyX", "'OUTP?1'", "of 1 s", "last reading: x 25.9 mV", "no answer"):
        assert words in text
    assert silence.value.details["command"] == "OUTP?1"
    assert silence.value.details["port"] == "/dev/ttyX"
    assert 1.0 <= silence.value.details["waited_s"] <= 1.3


def test_a_late_reply_is_never_the_answer_to_the_next_question() -> None:
    """With PyMeasure, Y is what X was, and so on for ever.  Ours asks nothing before the line was drained."""
    parts, theirs = careless()
    parts.device.set_quantity("phase", -1.0)
    true_x, true_y = theirs.x, theirs.y
    parts.clock.pause(0.25)
    parts.faults.plan("late", seconds=0.3)
    assert theirs.x == ""
    parts.clock.pause(0.1)
    assert math.isclose(theirs.y, true_x, rel_tol=1e-3)  # the danger: asked for y, got x
    assert not math.isclose(true_x, true_y, rel_tol=0.1)

    parts, ours, adapter = careful()
    parts.device.set_quantity("phase", -1.0)
    true_y = ours.y
    parts.faults.plan("late", seconds=1.4)
    with pytest.raises(SilenceError):
        _ = ours.x
    with pytest.raises(GarbledError, match="nothing is asked until the line is drained"):
        _ = ours.y
    asked = len(parts.port.written)
    with pytest.raises(
        GarbledError, match=r"nothing is asked for another \d\.\d s.*may still come: no answer"
    ):
        adapter.recover()
    assert adapter.in_doubt == "no answer"
    parts.clock.pause(LATEST_ANSWER * TIMEOUT_S)
    adapter.recover()
    assert len(parts.port.written) == asked
    assert adapter.strays > 0
    assert math.isclose(ours.y, true_y, rel_tol=1e-3)


def test_a_reply_that_comes_before_the_question_is_an_error() -> None:
    """Flushing it away is not enough: its second half may still be on the line."""
    parts = bench()
    adapter = parts.adapter()
    parts.port.buffer += b"+4.2"
    with pytest.raises(GarbledError, match="bytes came before anything was asked") as unasked:
        ask(adapter, "KRDG?")
    assert unasked.value.details["received"] == b"+4.2"
    assert (parts.port.written, adapter.strays) == ([], 4)
    adapter.recover()
    assert ask(adapter, "KRDG?") == "+4.20000"


def test_a_cut_reply_is_an_error() -> None:
    """Half a number is a number, and PyMeasure takes it; without its terminator it is none."""
    parts, theirs = careless()
    true_x = theirs.x
    parts.faults.plan("cut")
    assert isinstance(theirs.x, float)
    parts.faults.plan("cut")
    assert theirs.x != true_x
    parts, ours, _ = careful()
    parts.faults.plan("cut")
    with pytest.raises(SilenceError, match="no terminator"):
        _ = ours.x


def test_another_terminator_is_an_error() -> None:
    """An instrument that is set otherwise is not half understood."""
    for fault in ("terminator", "garbage", "noise"):
        parts, ours, _ = careful()
        parts.faults.plan(fault)
        with pytest.raises((SilenceError, GarbledError)):
            _ = ours.x


def test_a_reply_that_comes_twice_is_an_error() -> None:
    """The second one would be the answer to the next question."""
    parts, ours, adapter = careful()
    parts.faults.plan("double")
    with pytest.raises(GarbledError, match="more than one answer"):
        _ = ours.x
    assert adapter.in_doubt
    adapter.recover()
    assert isinstance(ours.x, float)


def test_an_endless_stream_is_an_error() -> None:
    """Bytes without a terminator end the wait, by their number or by the time-out."""
    parts = bench(KRDG="9" * (2 * LONGEST_ANSWER))
    with pytest.raises(GarbledError, match=f"more than {LONGEST_ANSWER} bytes"):
        ask(parts.adapter(), "KRDG?")


def test_a_port_that_is_pulled_out_is_lost() -> None:
    """At any step; the kind of error says that opening again is what helps."""
    for step in range(2):
        parts = bench()
        adapter = parts.adapter()
        if step:
            adapter.write("KRDG?")
        parts.port.gone = True
        with pytest.raises(PortLostError) as lost:
            adapter.read() if step else adapter.write("KRDG?")
        assert isinstance(lost.value, LinkLostError)
        assert "the port is lost: device reports readiness" in str(lost.value)


def test_a_line_that_babbles_is_given_up() -> None:
    """Draining ends, with an error, and the line stays in doubt."""
    parts = bench()
    adapter = parts.adapter()
    adapter.in_doubt = "test"
    for k in range(200):
        parts.line._send(parts.clock() + 0.5 * k, b"x")
    with pytest.raises(GarbledError, match="does not fall silent"):
        adapter.recover()
    assert parts.clock() - 1000.0 <= (DRAIN_LIMIT + 1) * adapter.timeout_s
    assert adapter.in_doubt


def test_messages_keep_their_distance() -> None:
    """Lake Shore wants 50 ms between two messages."""
    parts = bench()
    adapter = parts.adapter(pace_s=0.05)
    began = parts.clock()
    for _ in range(5):
        ask(adapter, "KRDG?")
    assert math.isclose(parts.clock() - began, 4 * 0.05, rel_tol=1e-9)


def test_exact_bytes() -> None:
    """A command is followed by its terminator and nothing else; read_bytes gives exactly so many."""
    parts = bench()
    adapter = parts.adapter()
    assert ask(adapter, "KRDG?") == "+4.20000"
    assert parts.port.written == [b"KRDG?\n"]
    adapter.write("KRDG?")
    assert adapter.read_bytes(4) == b"+4.2"
    adapter.recover()
    adapter.write("KRDG?")
    assert adapter.read_bytes(-1, break_on_termchar=True) == b"+4.20000\r\n"
    adapter.write("KRDG?")
    with pytest.raises(SilenceError, match="only 10 of 11 bytes"):
        adapter.read_bytes(11)
    adapter.close()
    assert parts.port.closed_times == 1


# ---- however the bytes come ----


@given(
    answer=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=60),
    cuts=st.lists(st.floats(0.0, 0.09), max_size=12),
)
def test_an_answer_may_come_in_any_pieces(answer: str, cuts: list[float]) -> None:
    """Split anywhere, with pauses anywhere: in time it is the answer, whole."""
    parts = bench()
    adapter = parts.adapter()
    adapter.write("NOTHING?")
    whole = answer.encode() + b"\r\n"
    size = max(len(whole) // (len(cuts) + 1), 1)
    at_s = parts.clock()
    pieces = [whole[k : k + size] for k in range(0, len(whole), size)]
    for piece, pause_s in zip(pieces, [0.0, *cuts, *([0.0] * len(pieces))], strict=False):
        at_s = min(at_s + pause_s, 1000.0 + 0.99)
        parts.line._send(at_s, piece)
    assert adapter.read() == answer


@given(
    late_s=st.floats(0.0, 6.0),
    fault=st.sampled_from(["late", "silent", "cut", "double", "terminator", "split", "noise", "garbage"]),
    pauses=st.lists(st.floats(0.0, 2.0), min_size=3, max_size=6),
)
def test_no_answer_is_ever_that_to_another_question(late_s: float, fault: str, pauses: list[float]) -> None:
    """Two questions with different answers in turn, one fault of any kind at the first: whoever drains after
    an error and asks for the identity gets right answers or errors, never the other one's."""
    parts = bench(KRDG="+4.20000", SRDG="+1.61000", IDN="me")
    adapter = parts.adapter()
    parts.faults.plan(fault, seconds=late_s)
    for number, pause_s in enumerate(pauses):
        question, right = ("KRDG?", "+4.20000") if number % 2 == 0 else ("SRDG?", "+1.61000")
        parts.clock.pause(pause_s)
        try:
            if adapter.in_doubt:
                adapter.recover()
                if ask(adapter, "IDN?") != "me":
                    adapter.doubt("not the identity")
            found = ask(adapter, question)
            if ask(adapter, "IDN?") != "me":  # the seal of a reading
                adapter.doubt("not the identity")
        except (DriverError, DeadlineError):
            continue
        assert found == right


@given(data=st.binary(max_size=60))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    """Only one line of printable characters with its whole terminator is an answer."""
    parts = bench()
    adapter = parts.adapter()
    adapter.write("NOTHING?")
    parts.line._send(parts.clock(), data)
    line, end, more = data.partition(b"\r\n")
    right = bool(end) and not more and all(0x20 <= b <= 0x7E for b in line)
    if right:
        assert adapter.read() == line.decode()
        assert not adapter.in_doubt
        return
    with pytest.raises((SilenceError, GarbledError)):
        adapter.read()
    assert adapter.in_doubt
