"""The world's clock: instrument seconds, either tied to wall time by a scale or stepped by the world itself.

Everything the world does ends at an instrument time that was planned; ``wait_until`` lets time pass until
then unless it is woken.  A scaled clock runs by itself, so that computing takes instrument time as well; a
stepped clock stands still unless somebody waits, so that results do not depend on how fast this computer is.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from protocols.errors import ConfigError


class Clock(Protocol):
    """Instrument time in seconds."""

    @property
    def scale(self) -> float:
        """Instrument seconds per wall second (a stepped clock says 1)."""

    @property
    def stepped(self) -> bool:
        """Whether time passes only while somebody waits."""

    def now(self) -> float:
        """Instrument time (s)."""

    def wait_until(self, time_s: float, interrupt: threading.Event) -> bool:
        """Let time pass until ``time_s``.  True when it came, False when ``interrupt`` was set before."""


class ScaledClock:
    """Instrument time = start + wall time x scale, on the system's monotonic clock."""

    stepped = False

    def __init__(self, scale: float = 1.0, start_s: float = 0.0) -> None:
        if not 1e-3 <= scale <= 1e4:
            raise ConfigError(
                f"time scale {scale:g} is outside 0.001 to 10000.", "1 is real time; 100 is usual for trials."
            )
        self.scale = scale
        self._start_s = start_s
        self._origin_s = time.monotonic()

    def now(self) -> float:
        """Instrument time (s)."""
        return self._start_s + (time.monotonic() - self._origin_s) * self.scale

    def wait_until(self, time_s: float, interrupt: threading.Event) -> bool:
        """Sleep on ``interrupt`` for as long as it takes on the wall."""
        while True:
            if interrupt.is_set():
                return False
            left_s = (time_s - self.now()) / self.scale
            if left_s <= 0.0:
                return True
            interrupt.wait(min(left_s, 60.0))


class SteppedClock:
    """Time advances only by waiting, and then at once."""

    stepped = True
    scale = 1.0

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._lock = threading.Lock()

    def now(self) -> float:
        """Instrument time (s)."""
        return self._now_s

    def wait_until(self, time_s: float, interrupt: threading.Event) -> bool:
        """Advance to ``time_s``; never back."""
        if interrupt.is_set():
            return False
        with self._lock:
            self._now_s = max(self._now_s, time_s)
        return True
