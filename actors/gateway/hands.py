"""The guard's hands: the thread that reads the electronics, carries out parks, latches on what it sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from actors.gateway.electronics import Electronics
from actors.gateway.latch import Latch
from actors.gateway.watch import Watch
from actors.gateway.withdrawal import Parker
from protocols.errors import TunnelpilotError
from protocols.messages.data import InstrumentState
from protocols.states.park import ENGAGED, PARKED

log = structlog.get_logger(__name__)

POLL_S = 0.03
"""Wall time between readings of the electronics."""

BLIND_S = 1.0
"""An engaged tip whose electronics were not readable for so long is parked."""

INFO_S = 2.0
"""Others may set ranges: they are asked for again after this time."""

LINGERS_S = 5.0
"""A range alarm stays this long after its cause, so that nobody misses it."""


class Alarms:
    """What a person should know now, by key; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        self._times: dict[str, float] = {}

    def set(self, key: str, text: str) -> None:
        """Raise an alarm, or take it back with ""."""
        with self._lock:
            if text:
                self._texts[key] = text
            else:
                self._texts.pop(key, None)

    def show_ranges(self, found: dict[str, str], now_s: float) -> None:
        """Raise what was found; take back other range alarms some time after their cause is gone."""
        with self._lock:
            for key, text in found.items():
                if key not in self._texts:
                    log.warning("range alarm", text=text)
                self._texts[key], self._times[key] = text, now_s
            for key in [k for k in self._texts if k.endswith("-range") and k not in found]:
                if now_s - self._times.get(key, 0.0) > LINGERS_S:
                    del self._texts[key]

    def clear(self) -> None:
        """A person has seen them."""
        with self._lock:
            self._texts.clear()

    def texts(self) -> tuple[str, ...]:
        """All of them."""
        with self._lock:
            return tuple(self._texts.values())


class Hands:
    """One thread.  ``approaching`` says whether the tip is on its way to the surface."""

    def __init__(
        self,
        electronics: Electronics,
        parker: Parker,
        latch: Latch,
        watch: Watch,
        alarms: Alarms,
        approaching: Callable[[], bool],
    ) -> None:
        self._electronics, self._parker, self._latch = electronics, parker, latch
        self._watch, self._alarms, self._approaching = watch, alarms, approaching
        self._read_s = time.monotonic()
        self._tripped = False
        self._info_s = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._use, name="hands", daemon=True)
        self.instrument: InstrumentState | None = None
        """The last reading."""
        self.trips = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._parker.wanted.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def blind_s(self) -> float:
        """Seconds since the electronics were last read."""
        return time.monotonic() - self._read_s

    def shut_latch(self, cause: str, reason: str) -> None:
        """Latch and park; from any thread.  The tip goes up before the disk is waited for."""
        self._latch.shut(cause, reason)
        self._parker.order(f"{cause}: {reason}", cause)
        self._latch.save()
        self._watch.forget()
        self.trips += cause == "trip"
        self._alarms.set("latch", f"latched: {cause}: {reason}")
        log.error("latched", cause=cause, reason=reason)

    def _use(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._parker.busy:
                    self._step()
                else:
                    self._parker.wanted.clear()
                    if not self._parker.busy:
                        self._look()
                        self._parker.wanted.wait(POLL_S)
            except Exception as problem:
                # The hands must go on whatever happens: without them nothing parks.
                log.exception("the hands stumbled")
                self._alarms.set("driver", f"driver: the electronics cannot be watched: {problem!r}")
                if self._parker.state == ENGAGED and self.blind_s >= BLIND_S:
                    self._parker.order(
                        f"the electronics were not watched for {self.blind_s:.1f} s: {problem!r}", "driver"
                    )
                time.sleep(POLL_S)  # the next look; electronics tell nothing unasked

    def _step(self) -> None:
        before = self._parker.last_state
        self._parker.step()
        if self._parker.last_state is not before:
            self.instrument, self._read_s = self._parker.last_state, time.monotonic()
        elif self.blind_s > BLIND_S:
            self._electronics.reopen()

    def _look(self) -> None:
        try:
            driver = self._electronics.driver()
            state = driver.state()
            if time.monotonic() - self._info_s >= INFO_S:
                self._watch.info, self._info_s = driver.info(), time.monotonic()
        except (TunnelpilotError, OSError) as problem:
            self._cannot_look(str(problem))
            return
        self.instrument, self._read_s = state, time.monotonic()
        self._alarms.set("driver", "")
        if not state.crashed:
            self._latch.forget_crash()
        self._judge(state)

    def _judge(self, state: InstrumentState) -> None:
        """What follows from a reading; a park may have been ordered while it was taken."""
        park = self._parker.state
        approaching = self._approaching()
        tripped_now = state.tripped and not self._tripped
        self._tripped = state.tripped
        if tripped_now and park == ENGAGED:
            self.shut_latch(
                "trip", "the electronics withdrew the tip by themselves: the current was too high"
            )
            return
        if park == PARKED and (state.feedback or not state.withdrawn):
            self._parker.found_engaged(
                "a parked tip is not withdrawn any more "
                f"(feedback {state.feedback}, withdrawn {state.withdrawn})"
            )
            return
        if park == ENGAGED and state.withdrawn and not state.feedback and not approaching:
            self._parker.order("the tip was withdrawn by somebody else", "found-withdrawn")
            return
        if park != ENGAGED:
            self._watch.forget()
        crash_news = state.crashed and not self._latch.crash_seen and self._latch.state == "open"
        if park != ENGAGED and not (park == PARKED and crash_news):
            self._alarms.show_ranges({}, time.monotonic())
            return
        finding = self._watch.look(state, approaching=approaching, crash_seen=self._latch.crash_seen)
        if finding is not None:
            self.shut_latch(finding.cause, finding.reason)
        self._alarms.show_ranges(self._watch.range_alarms(state, approaching=approaching), time.monotonic())

    def _cannot_look(self, problem: str) -> None:
        blind_s = self.blind_s
        self._alarms.set("driver", f"driver: the electronics do not answer: {problem}")
        if blind_s < BLIND_S:
            return
        if self._parker.state == ENGAGED:
            self._parker.order(f"the electronics were not readable for {blind_s:.1f} s: {problem}", "driver")
        self._electronics.reopen()
