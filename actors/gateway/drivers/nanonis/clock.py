"""Instrument time: the computer's monotonic clock on real electronics, a multiple of it on simulated ones."""

from __future__ import annotations

import threading
import time


class InstrumentClock:
    """``scale``: instrument seconds per wall second."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._ended = threading.Event()

    def now(self) -> float:
        """Instrument seconds; comparable between processes of one computer."""
        return time.monotonic() * self.scale

    def wall_s(self, seconds: float) -> float:
        """How long instrument seconds last on the wall."""
        return seconds / self.scale

    def wait(self, seconds: float) -> None:
        """Let instrument time pass; ``end`` cuts it short."""
        self._ended.wait(self.wall_s(seconds))

    def end(self) -> None:
        """Nobody waits any more."""
        self._ended.set()
