"""The worker's end of the link to its guard: a thread of its own that beats, listens, and parks when the
guard is gone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import structlog

from actors.gateway.internal import (
    BEAT_S,
    SILENCE_S,
    AskEngage,
    AskPark,
    EngageAnswer,
    EngageDone,
    GuardBeat,
    Internal,
    InternalLink,
    LeaseNews,
    LeaseSeen,
    Leave,
    Parked,
    ParkOrder,
    Quiet,
    WorkerBeat,
)
from actors.gateway.job_run import GuardLink
from protocols.errors import ERROR_CLASSES, DeadlineError, LinkLostError, RefusedError

log = structlog.get_logger(__name__)


class WorkerLink(GuardLink):
    """``parking`` and ``parked`` are called from the link's thread with the generation and the reason;
    ``leave`` when the guard says so; ``guard_gone`` once, when it has died or fallen silent.  ``beat`` gives
    the next heartbeat."""

    def __init__(
        self,
        link: InternalLink,
        *,
        beat: Callable[[], WorkerBeat],
        parking: Callable[[int, str], None],
        parked: Callable[[int], None],
        leave: Callable[[], None],
        guard_gone: Callable[[str], None],
    ) -> None:
        self._link = link
        self._beat, self._parking, self._parked = beat, parking, parked
        self._leave, self._guard_gone = leave, guard_gone
        self._answers: queue.SimpleQueue[EngageAnswer] = queue.SimpleQueue()
        self.epoch = -1
        """Epoch of the present or last owner; -1 until the guard has said so."""
        self.held = False
        """Whether somebody owns the tip."""
        self.latch_reason = ""
        self._thread = threading.Thread(target=self._listen, name="guard-link", daemon=True)

    def start(self) -> None:
        """Begin to beat and to listen."""
        self._thread.start()

    def tell(self, message: Internal) -> None:
        """Tell the guard; its absence is noticed by the listening thread."""
        try:
            self._link.send(message)
        except LinkLostError as lost:
            log.warning("the guard was not told", kind=type(message).__name__, problem=str(lost))

    def quiet(self, generation: int) -> None:
        """Nothing of ours acts since that park order."""
        self.tell(Quiet(generation=generation))

    def ask_park(self, reason: str, cause: str, latch: str = "") -> None:
        """Ask for a park, or a latch."""
        self.tell(AskPark(reason=reason, cause=cause, latch=latch))

    def ask_engage(self, job_id: str, withdrawal_mark: str, timeout_s: float) -> None:
        """Ask whether feedback may be switched on, unless a person has withdrawn the tip since the mark.

        Raises:
            LatchedError, RefusedError: it may not.
            DeadlineError: the guard did not answer.
        """
        deadline = time.monotonic() + timeout_s
        self.tell(AskEngage(job_id=job_id, withdrawal_mark=withdrawal_mark))
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._answers.get(timeout=left)
            except queue.Empty:
                break
            if answer.job_id != job_id:
                continue
            if answer.granted:
                return
            raise ERROR_CLASSES.get(answer.code, RefusedError)(answer.reason)
        raise DeadlineError(f"the guard did not answer within {timeout_s:g} s whether {job_id} may engage.")

    def engage_done(self, job_id: str) -> None:
        """The approach is over."""
        self.tell(EngageDone(job_id=job_id))

    def _listen(self) -> None:
        next_beat_s = 0.0
        try:
            while True:
                now = time.monotonic()
                if now >= next_beat_s:
                    next_beat_s = now + BEAT_S
                    self._link.send(self._beat())
                message = self._link.receive(max(0.0, next_beat_s - now))
                if message is not None:
                    self._take(message)
                silent_s = self._link.silent_for_s()
                if silent_s > SILENCE_S:
                    raise LinkLostError(f"the guard was silent for {silent_s:.2f} s")
        except LinkLostError as lost:
            self.held = False
            self._guard_gone(str(lost))

    def _take(self, message: Internal) -> None:
        match message:
            case GuardBeat():
                self.epoch, self.held, self.latch_reason = message.epoch, message.held, message.latch_reason
            case LeaseNews():
                self.epoch, self.held = message.epoch, message.held
                self._link.send(LeaseSeen(epoch=message.epoch, held=message.held))
            case ParkOrder():
                self._parking(message.generation, message.reason)
            case Parked():
                self._parked(message.generation)
            case EngageAnswer():
                self._answers.put(message)
            case Leave():
                self._leave()
            case _:
                pass
