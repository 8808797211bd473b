"""Instrument time: the computer's monotonic clock on real electronics, a multiple of it on simulated ones.

A simulated microscope whose time stands still unless somebody waits (a stepped clock, for repeatable runs) is
asked for the time, and is told to let it pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class InstrumentClock(Protocol):
    """Instrument seconds."""

    scale: float
    """Instrument seconds per wall second, for deadlines; 1 on a stepped clock."""

    def now(self) -> float:
        """The present time; comparable between the processes of one computer."""

    def wait(self, seconds: float) -> None:
        """Let time pass; ``end`` cuts it short."""

    def end(self) -> None:
        """Nobody waits any more."""


class RunningClock:
    """Time that runs by itself: ``scale`` times the computer's, ``offset_s`` ahead of it."""

    def __init__(self, scale: float = 1.0, offset_s: float = 0.0) -> None:
        self.scale, self.offset_s = scale, offset_s
        self._ended = threading.Event()

    def now(self) -> float:
        """Instrument seconds."""
        return time.monotonic() * self.scale + self.offset_s

    def wait(self, seconds: float) -> None:
        """Sleep for as long as it takes on the wall."""
        if seconds > 0.0:
            self._ended.wait(seconds / self.scale)

    def end(self) -> None:
        """Wake whoever sleeps."""
        self._ended.set()


class SteppedClock:
    """Time that the electronics keep: ``ask`` tells it, ``pass_on`` lets so many seconds pass."""

    scale = 1.0

    def __init__(self, ask: Callable[[], float], pass_on: Callable[[float], None]) -> None:
        self._ask, self._pass_on = ask, pass_on

    def now(self) -> float:
        """Instrument seconds, asked for."""
        return self._ask()

    def wait(self, seconds: float) -> None:
        """Have the electronics let it pass."""
        if seconds > 0.0:
            self._pass_on(seconds)

    def end(self) -> None:
        """Nothing waits here."""


def pause(wall_s: float) -> None:
    """Wait before asking again."""
    time.sleep(max(0.0, wall_s))  # the electronics tell nothing unasked
