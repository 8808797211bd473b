"""PyMeasure's SerialAdapter without its dangers.

There, an answer that does not come is the empty text, a cut one is an answer, and a late one is taken for the
answer to the next question, so that all later answers are those to the question before (measured with 0.16;
https://github.com/pymeasure/pymeasure/issues/184).  Here:

- a question is asked only on a line that is quiet; what came unasked is thrown away, counted, and an error;
- an answer is one line of printable characters with its whole terminator, in time, and nothing after it;
- after any error the line is *in doubt*: nothing more is asked until ``recover`` has drained it for one
  time-out of silence, and whoever asks has to identify the instrument before anything else;
- a question without an answer leaves one *owed*: nothing is asked for ``LATEST_ANSWER`` time-outs after it,
  because the late answer could come between the next question and an answer that is late as well, and take
  its place without a trace (one value for another).

Extra lines of any other origin shift the answers by one.  Hence ``instruments`` ends each reading with
``*IDN?``, whose answer must be the next line.
"""

from __future__ import annotations

import termios
import time
from collections.abc import Callable
from typing import Any, NoReturn

import serial
from pymeasure.adapters import SerialAdapter

from protocols.errors import DeadlineError, DriverError, LinkLostError, TunnelpilotError
from protocols.instrument.auxiliary import LATEST_ANSWER

LONGEST_ANSWER = 1024
"""Bytes; no instrument here says more in one line."""
SHOWN = 80
"""Bytes of an answer in an error's text."""
READ_SHARE = 0.25
"""Of the time-out, for one call of the port: how exactly the time-out is kept."""
DRAIN_LIMIT = 5
"""Time-outs after which a line that does not fall silent is given up."""


GONE = (serial.SerialException, OSError, termios.error)
"""What a port that is gone raises, call by call."""


class SilenceError(DeadlineError):
    """No answer, or only a part of one, within the time-out."""

    code = "serial-silence"


class GarbledError(DriverError):
    """What came is not what the instrument can have said."""

    code = "serial-garbled"


class PortLostError(LinkLostError):
    """The port is gone, taken, or cannot be had."""

    code = "serial-port-lost"


class CarefulSerialAdapter(SerialAdapter):  # type: ignore[misc]  # PyMeasure's types are not checked
    """One serial line with one instrument at its end.

    Args:
        connection: an open port whose own time-out is a share of ``timeout_s``.
        instrument: its name, for errors.
        port: the port's name, for errors.
        write_termination, read_termination: end of a command and of an answer.
        timeout_s: longest wait for an answer.
        pace_s: least time between two messages to the instrument.
    """

    def __init__(
        self,
        connection: serial.SerialBase,
        *,
        instrument: str,
        port: str,
        write_termination: str,
        read_termination: str,
        timeout_s: float,
        pace_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(connection, write_termination=write_termination, read_termination=read_termination)
        self.instrument, self.port = instrument, port
        self.timeout_s, self.pace_s = timeout_s, pace_s
        self.strays = 0
        """Bytes that came when none were expected."""
        self.last_reading = "none yet"
        """In words, for errors."""
        self.in_doubt = ""
        """Why the line has to be drained; empty: it is in order."""
        self._clock, self._pause = clock, pause
        self._command = ""
        self._asked_s = clock()
        self._spoke_s = -float("inf")
        self._owed_until_s = 0.0
        """Until when the answer to a question that had none may still come."""

    # ---- what PyMeasure calls ----

    def _write(self, command: str, **_: Any) -> None:
        """Send a command on a quiet line.

        Raises:
            GarbledError: the line is in doubt, or bytes came unasked.
            PortLostError: the port is gone.
        """
        self._write_bytes((command + self.write_termination).encode("ascii"), command)

    def _write_bytes(self, content: bytes, command: str = "", **_: Any) -> None:
        self._command, self._asked_s = command or repr(content), self._clock()
        if self.in_doubt:
            self._fail(GarbledError, f"nothing is asked until the line is drained ({self.in_doubt})")
        left_s = self._spoke_s + self.pace_s - self._clock()
        if left_s > 0:
            self._pause(left_s)
        unasked = self._take_waiting()
        if unasked:
            self.strays += len(unasked)
            self._fail(GarbledError, "bytes came before anything was asked", unasked)
        try:
            self.connection.reset_input_buffer()
            self._asked_s = self._clock()
            if b"?" in content:
                self._owed_until_s = self._asked_s + LATEST_ANSWER * self.timeout_s
            self.connection.write(content)
        except GONE as gone:
            self._lose(gone)
        self._spoke_s = self._clock()

    def _read(self, **_kwargs: Any) -> str:
        """The one line that answers.

        Raises:
            SilenceError: no terminator within the time-out.
            GarbledError: unprintable characters, too long, or more than one line.
            PortLostError: the port is gone.
        """
        end = self.read_termination.encode("ascii")
        until = self._clock() + self.timeout_s
        got = bytearray()
        while end not in got:
            if len(got) > LONGEST_ANSWER:
                self._fail(GarbledError, f"an answer of more than {LONGEST_ANSWER} bytes", bytes(got))
            if self._clock() >= until:
                what = f"no terminator {end!r}" if got else "no answer"
                self._fail(SilenceError, what, bytes(got))
            got += self._receive()
        self._owed_until_s = 0.0
        line, _, more = bytes(got).partition(end)
        more += self._take_waiting()
        if more:
            self.strays += len(more)
            self._fail(GarbledError, f"more than one answer: after {line[:SHOWN]!r} came", more)
        if any(not 0x20 <= byte <= 0x7E for byte in line):
            self._fail(GarbledError, "unprintable characters (wrong baud rate or parity, or noise)", line)
        return line.decode("ascii")

    def _read_bytes(self, count: int, break_on_termchar: bool, **_kwargs: Any) -> bytes:
        """Exactly ``count`` bytes, or the line that answers.

        Raises:
            SilenceError, GarbledError, PortLostError: as for a line.
        """
        if break_on_termchar or count < 0:
            return (self._read() + str(self.read_termination)).encode("ascii")
        until = self._clock() + self.timeout_s
        got = bytearray()
        while len(got) < count:
            if self._clock() >= until:
                self._fail(SilenceError, f"only {len(got)} of {count} bytes", bytes(got))
            got += self._receive(count - len(got))
        self._owed_until_s = 0.0
        return bytes(got)

    # ---- for instruments ----

    def doubt(self, what: str, received: str = "") -> NoReturn:
        """The last answer cannot be right: remember it, and say so.

        Raises:
            GarbledError: always.
        """
        self._fail(GarbledError, what, received.encode("ascii", "replace"))

    def recover(self) -> None:
        """Drain the line until nothing has come for one time-out.  Identify the instrument next.

        Raises:
            GarbledError: it does not fall silent, or an answer may still be on its way: try again later.
            PortLostError: the port is gone.
        """
        why, began = self.in_doubt, self._clock()
        quiet_s = began
        while self._clock() - quiet_s < self.timeout_s:
            drained = self._receive()
            if drained:
                self.strays += len(drained)
                quiet_s = self._clock()
            if self._clock() - began > DRAIN_LIMIT * self.timeout_s:
                self._asked_s = began
                self._fail(GarbledError, f"the line does not fall silent ({why})", drained)
        left_s = self._owed_until_s - self._clock()
        if left_s > 0:
            self._fail(
                GarbledError,
                f"nothing is asked for another {left_s:.1f} s, because an answer may still come: {why}",
            )
        self.in_doubt = ""

    def close(self) -> None:
        """Close the port; safe to repeat."""
        super().close()

    # ---- inside ----

    def _receive(self, most: int = LONGEST_ANSWER) -> bytes:
        """What is there, or the next byte; nothing if none comes within the port's own time-out."""
        try:
            waiting = int(self.connection.in_waiting)
            return bytes(self.connection.read(min(max(waiting, 1), most)))
        except GONE as gone:
            self._lose(gone)

    def _take_waiting(self) -> bytes:
        try:
            waiting = int(self.connection.in_waiting)
            return bytes(self.connection.read(waiting)) if waiting else b""
        except GONE as gone:
            self._lose(gone)

    def _lose(self, gone: Exception) -> NoReturn:
        self._fail(PortLostError, f"the port is lost: {gone}")

    def _fail(self, kind: type[TunnelpilotError], what: str, received: bytes = b"") -> NoReturn:
        waited_s = self._clock() - self._asked_s
        self.in_doubt = self.in_doubt or what
        came = f", received {received[:SHOWN]!r}" if received else ""
        raise kind(
            f"{self.instrument} at {self.port}: {what} (command {self._command!r}, after {waited_s:.2f} s of "
            f"{self.timeout_s:g} s{came}); last reading: {self.last_reading}.",
            "Look at the cable, the port and the instrument's interface settings.",
            instrument=self.instrument,
            port=self.port,
            command=self._command,
            waited_s=waited_s,
            owed_until_s=self._owed_until_s,
            received=received[:SHOWN],
            last_reading=self.last_reading,
        )
