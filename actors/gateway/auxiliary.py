"""Reading auxiliary instruments again and again: one ``Poller`` each, and the ring that keeps their readings.

Nothing here knows of the tip: it runs in a process of its own (``auxiliary_process``), so that a port that
hangs delays nobody.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

import msgspec
import structlog

from protocols.errors import ConfigError, LinkLostError, TunnelpilotError
from protocols.instrument.auxiliary import AuxiliaryInstrument
from protocols.messages.auxiliary import (
    AuxiliaryConnected,
    AuxiliaryHealth,
    AuxiliaryReading,
    NumberedReading,
)
from protocols.messages.campaign import AuxiliarySection

RING = 2000
"""Readings that wait for the daemon; then the oldest are dropped and counted."""
OPEN_AGAIN_S = 1.0
"""Between two tries to open a port."""
FAILURES_IN_A_ROW = 3
"""After so many the port is closed and opened again."""

log = structlog.get_logger(__name__)


class ReadingRing:
    """Numbered readings of all instruments; bounded, with statistics.  For many threads."""

    def __init__(self, bound: int = RING) -> None:
        self.bound = bound
        self.most_waiting = 0
        self.dropped = 0
        self._number = 0
        self._taken = 0
        """Highest number that somebody has asked beyond: it has arrived."""
        self._ring: collections.deque[NumberedReading] = collections.deque()
        self._lock = threading.Lock()

    def put(self, at_s: float, reading: AuxiliaryReading) -> None:
        """Add a reading; the oldest makes room."""
        with self._lock:
            self._number += 1
            self._ring.append(NumberedReading(number=self._number, at_s=at_s, reading=reading))
            if len(self._ring) > self.bound and self._ring.popleft().number > self._taken:
                self.dropped += 1
            self.most_waiting = max(self.most_waiting, len(self._ring))

    def after(self, number: int, limit: int) -> tuple[NumberedReading, ...]:
        """Readings with a higher number, oldest first.  One that was asked beyond has arrived and is let go.

        A number that was never given belongs to an earlier process: everything there is is returned.
        """
        with self._lock:
            if number > self._number:
                number = 0
            self._taken = max(self._taken, number)
            while self._ring and self._ring[0].number <= self._taken:
                self._ring.popleft()
            return tuple(self._ring)[: max(limit, 0)]

    @property
    def waiting(self) -> int:
        """Readings that nobody has got yet."""
        return len(self._ring)

    @property
    def last(self) -> int:
        """Highest number that was given."""
        return self._number


class Poller:
    """One instrument: opens it, reads it, opens it again; never gives up.

    ``step`` does one thing and says how long (s) to wait before the next; ``health`` may be read from any
    thread.
    """

    def __init__(
        self,
        section: AuxiliarySection,
        open_it: Callable[[AuxiliarySection], AuxiliaryInstrument],
        ring: ReadingRing,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.section = section
        self.health = AuxiliaryHealth(name=section.name, model=section.model, state="connecting")
        self._open_it, self._ring = open_it, ring
        self._clock, self._wall = clock, wall
        self._instrument: AuxiliaryInstrument | None = None
        self._in_a_row = 0
        self._strays_before = 0
        self._due_s = clock()
        self._open_from_s = self._due_s
        """An answer to the port's last question may come until then: who opens it earlier could take it for
        the answer to another."""

    def step(self) -> float:
        """Open the port if it is not, or take one reading."""
        early_s = self._open_from_s - self._clock()
        if self._instrument is None and early_s > 0:
            return early_s
        try:
            if self._instrument is None:
                self._open()
                self._due_s = self._clock()
            self._read()
        except TunnelpilotError as trouble:
            return self._after(trouble)
        except Exception as mistake:  # told like any failure: who waits for readings must not wait for ever
            log.exception("a mistake of ours", name=self.section.name)
            return self._after(LinkLostError(f"{self.section.name}: a mistake of ours: {mistake!r}."))
        return self._until_due()

    def _after(self, trouble: TunnelpilotError) -> float:
        """Something went wrong: say so; how long to wait."""
        self._fail(trouble)
        self._open_from_s = max(self._open_from_s, float(trouble.details.get("owed_until_s", 0.0)))
        return OPEN_AGAIN_S if self._instrument is None else self._until_due()

    def close(self) -> None:
        """Let go of the port."""
        instrument, self._instrument = self._instrument, None
        if instrument is not None:
            self._strays_before += instrument.strays
            instrument.close()

    def _open(self) -> None:
        self._instrument = instrument = self._open_it(self.section)
        connected = AuxiliaryConnected(
            instrument=self.section.name,
            model=self.section.model,
            identity=instrument.identity,
            port=instrument.port,
            settings=dict(instrument.settings),
            wall_s=self._wall(),
        )
        self._say(connections=self.health.connections + 1, connected=connected, port=instrument.port)
        log.info(
            "instrument found", name=self.section.name, identity=instrument.identity, port=instrument.port
        )

    def _read(self) -> None:
        assert self._instrument is not None
        reading = self._instrument.read()
        self._in_a_row = 0
        self._ring.put(self._clock(), reading)
        if self.health.state != "answers":
            log.info("instrument answers", name=self.section.name)
        self._say(state="answers", reason="", last=reading, readings=self.health.readings + 1)

    def _fail(self, trouble: TunnelpilotError) -> None:
        self._in_a_row += 1
        reason = str(trouble)
        if reason != self.health.reason and self._in_a_row == 1:
            log.warning("no reading", name=self.section.name, error=reason)
        state = "silent" if self.health.readings else "connecting"
        self._say(state=state, reason=reason, failures=self.health.failures + 1)
        lost = isinstance(trouble, LinkLostError | ConfigError)
        if lost or self._in_a_row % FAILURES_IN_A_ROW == 0:
            self.close()

    def _until_due(self) -> float:
        """The next reading is due one period after this one was; periods that were missed are left out."""
        self._due_s = max(self._due_s + self.section.period_s, self._clock())
        return self._due_s - self._clock()

    def _say(self, **news: object) -> None:
        strays = self._strays_before + (self._instrument.strays if self._instrument is not None else 0)
        self.health = msgspec.structs.replace(self.health, strays=strays, **news)


class PollerThread(threading.Thread):
    """Runs a poller until it is told to end."""

    def __init__(self, poller: Poller) -> None:
        super().__init__(name=f"read {poller.section.name}", daemon=True)
        self.poller = poller
        self._ended = threading.Event()

    def run(self) -> None:
        """Step, wait, step."""
        try:
            while not self._ended.is_set():
                self._ended.wait(self.poller.step())
        finally:
            self.poller.close()

    def end(self) -> None:
        """End after the step that is under way."""
        self._ended.set()
