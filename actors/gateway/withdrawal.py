"""Carries out the park: the table of ``protocols.states.park`` against a driver.
``order`` may come from any thread: it withdraws on the caller's thread, and waits for nothing before that.
The remaining steps are done by ``step``, called by one thread until ``busy`` is false.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from protocols.errors import TunnelpilotError
from protocols.files.limits_toml import Limits
from protocols.instrument.driver import Driver, LentSettings
from protocols.messages.data import InstrumentState
from protocols.states.park import PARK_TABLE
from protocols.states.table import Machine

log = structlog.get_logger(__name__)

FAULTS = (
    *(TunnelpilotError, OSError, RuntimeError, AssertionError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)
"""Whatever a driver raises, also where it is a fault of ours: a park goes on."""

RETRY_S = 0.02
"""Pause between repeated steps."""

BEGIN_S = 0.005
"""Longest wait until whoever else acts is told to stop before the withdrawal is sent, and not after it."""

TRAVEL_S = 2.0
"""A tip that goes up may take so long to arrive before the park counts as not coming true."""


@dataclass(frozen=True)
class Withdrawal:
    """What became of one order."""

    withdrawn: bool
    detail: str
    took_s: float


class Parker:
    """Parks the tip and makes sure of it.

    ``driver`` gives the present driver (it may be replaced while nothing answers).  ``silence`` is called
    once per park with its generation and the reason: whoever else acts on the electronics must stop;
    ``is_silent`` says whether that has happened.  ``confirmed`` is called when the tip is parked.  ``alarm``
    takes the text of a park that does not come true, and "" when it has.
    """

    def __init__(
        self,
        driver: Callable[[], Driver],
        limits: Limits,
        *,
        silence: Callable[[int, str], None],
        is_silent: Callable[[], bool],
        confirmed: Callable[[int], None],
        alarm: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._limits = limits
        self._silence = silence
        self._is_silent = is_silent
        self._confirmed = confirmed
        self._alarm = alarm
        self._machine = Machine(PARK_TABLE)
        self._lock = threading.RLock()
        self._withdrawing = threading.Lock()
        self._pending = ""
        self._ticket = 0
        self._attempts = 0
        self._withdrawn_s = 0.0
        self.wanted = threading.Event()
        """Set while there are steps to do."""
        self.generation = 0
        self.reason = ""
        self.cause = ""
        self.last_state: InstrumentState | None = None

    @property
    def state(self) -> str:
        """State name of the park table."""
        return self._machine.state

    @property
    def busy(self) -> bool:
        """Whether ``step`` has something to do."""
        return bool(self._pending)

    @property
    def wants_reading(self) -> bool:
        """Whether the next step reads the electronics."""
        return self._pending == "read-back"

    def start(self) -> None:
        """Look how the electronics are, and park unless they are withdrawn with the controller off."""
        with self._lock:
            self.reason, self.cause = "start", "start"
            self._feed("start")

    def order(self, reason: str, cause: str) -> Withdrawal:
        """Park now: withdraws on this thread first.  Returns when the retraction has begun (or failed to)."""
        # Electronics may take their time to answer: nothing may be begun against the withdrawal meanwhile.
        begun = self._lock.acquire(timeout=BEGIN_S)
        first = False
        if begun:
            try:
                first = self._begin(reason, cause)
            finally:
                self._lock.release()
        done = self._withdraw()
        with self._lock:
            if not begun:
                first = self._begin(reason, cause)
            if first:
                self._feed("done" if done.withdrawn else "failed")
        log.warning("park ordered", reason=reason, cause=cause, withdrawn=done.withdrawn, detail=done.detail)
        return done

    def _begin(self, reason: str, cause: str) -> bool:
        """A park begins, unless one is under way already; all but the withdrawal itself."""
        instructions = self._machine.feed("park")
        if "withdraw" not in instructions:
            return False
        self.reason, self.cause = reason, cause
        self._pending = ""
        self._ticket += 1
        self._follow(tuple(i for i in instructions if i != "withdraw"))
        return True

    def engage(self) -> bool:
        """The tip is about to leave its parked position; False if it may not now."""
        with self._lock:
            if not self._machine.can("engage") or self._pending:
                return False
            self._machine.feed("engage")
            return True

    def found_engaged(self, reason: str) -> None:
        """The electronics say that a parked tip is not withdrawn."""
        with self._lock:
            if not self._machine.can("found-engaged"):
                return
            self.reason, self.cause = reason, "found-engaged"
            self._say(reason)
            self._feed("found-engaged")

    def step(self) -> None:
        """Do the next instruction; waits a little before one that is repeated."""
        with self._lock:
            pending, ticket = self._pending, self._ticket
        match pending:
            case "withdraw":
                if self._attempts:
                    time.sleep(RETRY_S)  # the electronics have just failed to do it
                self._answer("done" if self._withdraw().withdrawn else "failed", ticket)
            case "stop":
                self._answer(self._try("stop", lambda: self._driver().stop()), ticket)
            case "read-back":
                event = self._read_back()
                if event:
                    self._answer(event, ticket)
            case "rest":
                self._answer(self._try("rest", self._rest), ticket)
            case _:
                self.wanted.clear()

    def _withdraw(self) -> Withdrawal:
        began = time.perf_counter()
        self._withdrawn_s = time.monotonic()
        with self._withdrawing:
            try:
                self._driver().withdraw()
            except FAULTS as problem:
                self._say(f"withdraw failed: {_told(problem)}")
                return Withdrawal(False, str(problem), time.perf_counter() - began)
        return Withdrawal(True, "the retraction has begun", time.perf_counter() - began)

    def _read_back(self) -> str:
        try:
            found = self._driver().state()
        except FAULTS as problem:
            self._say(f"read-back failed: {_told(problem)}")
            return "failed"
        before, self.last_state = self.last_state, found
        if found.withdrawn and not found.feedback and not found.sweeping and not found.scanning:
            if self._is_silent():
                return "good"
            time.sleep(RETRY_S / 4)  # read again: nothing counts while the worker may still act
            return ""
        if self._goes_up(found, before):
            time.sleep(RETRY_S / 4)  # it takes its time to the top, which only the next reading shows
            return ""
        if self._machine.state not in {"probing", "probing again"}:
            self._say(
                f"read-back: withdrawn {found.withdrawn}, feedback {found.feedback}, "
                f"sweeping {found.sweeping}, scanning {found.scanning}, z {found.z_m:.3e} m"
            )
        return "bad"

    def _goes_up(self, found: InstrumentState, before: InstrumentState | None) -> bool:
        """Whether the retraction is under way and wants nothing but time."""
        if found.feedback or found.sweeping or found.scanning or before is None:
            return False
        rising = found.z_m > before.z_m
        return rising and time.monotonic() - self._withdrawn_s < TRAVEL_S

    def _rest(self) -> None:
        driver = self._driver()
        driver.set_lockin(None)
        driver.set_bias(self._limits.rest_bias, self._limits.bias_slew)
        if isinstance(driver, LentSettings):
            self._give_settings_back(driver)

    def _give_settings_back(self, driver: LentSettings) -> None:
        """The tip is withdrawn: what was set for our work is set as it was.  A park does not depend on it."""
        try:
            problems = driver.restore_settings()
        except FAULTS as failed:
            problems = (_told(failed),)
        if problems:
            log.warning("original settings are not restored", problems=problems)

    def _try(self, what: str, action: Callable[[], None]) -> str:
        try:
            action()
        except FAULTS as problem:
            self._say(f"{what} failed: {_told(problem)}")
            return "failed"
        return "done"

    def _say(self, text: str) -> None:
        self._attempts += 1
        log.error("park does not come true yet", what=text, attempt=self._attempts, reason=self.reason)
        self._alarm(f"park (attempt {self._attempts}): {text}")

    def _answer(self, event: str, ticket: int) -> None:
        """The outcome of an instruction; forgotten if an order has come in between."""
        with self._lock:
            if ticket == self._ticket:
                self._feed(event)

    def _feed(self, event: str) -> None:
        self._pending = ""
        self._ticket += 1
        self._follow(self._machine.feed(event))

    def _follow(self, instructions: tuple[str, ...]) -> None:
        """Carry out what needs no electronics; leave the rest to ``step``."""
        for instruction in instructions:
            match instruction:
                case "quiet-worker":
                    self.generation += 1
                    self._silence(self.generation, self.reason)
                case "alarm":
                    pass  # said where it was found, with the figures
                case "confirm":
                    self._attempts = 0
                    self._alarm("")
                    log.info("parked", reason=self.reason, cause=self.cause)
                    self._confirmed(self.generation)
                case _:
                    self._pending = instruction
                    self.wanted.set()


def _told(problem: Exception) -> str:
    """A problem in words; a fault of ours is logged in full."""
    if isinstance(problem, TunnelpilotError | OSError):
        return str(problem)
    log.exception("a fault within a park")
    return repr(problem)
