"""What people see of a run: what it does, what it calls for, how much of its time it measures."""

from __future__ import annotations

import time

MOST_ALARMS = 10
"""Older ones are dropped."""


class RunSigns:
    """Written by the parts of a run, read by whoever shows it."""

    def __init__(self) -> None:
        self.activity = ""
        """What the tip does now, in a few words, where no spectrum is under way."""
        self.alarms: tuple[str, ...] = ()
        """What a person is called for, oldest first."""
        self.busy_s = 0.0
        """Time in which a spectrum or frame was under way."""
        self._began_s = self._looked_s = time.monotonic()
        self._ended_s = 0.0

    @property
    def duty_cycle(self) -> float | None:
        """Share of this daemon's time with the run in which a spectrum or frame was under way."""
        measured_s = (self._ended_s or time.monotonic()) - self._began_s
        return min(self.busy_s / measured_s, 1.0) if measured_s > 1.0 and self.busy_s > 0 else None

    def count(self, measuring: bool) -> None:
        """Add the time since the last call, if something is being measured."""
        now = time.monotonic()
        if measuring:
            self.busy_s += now - self._looked_s
        self._looked_s = now

    def end(self) -> None:
        """The loop has ended: time that goes by from now on is not the run's."""
        self._ended_s = time.monotonic()

    def alarm(self, text: str) -> None:
        """Call for a person."""
        self.alarms = (*self.alarms[1 - MOST_ALARMS :], text)

    def all_clear(self, text: str) -> None:
        """What was called for has mended itself."""
        self.alarms = tuple(a for a in self.alarms if a != text)
