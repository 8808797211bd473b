"""Whether the worker may act on the electronics.

The job thread passes the gate for each call that can move or switch something.  A park order closes it, from
another thread; from then on nothing passes, and once the call under way (if any) has returned the worker is
quiet, which the guard waits for before it believes a read-back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from protocols.errors import UsageError


class TipParkedError(UsageError):
    """The tip is being parked: nothing may act."""

    code = "parked"


class Gate:
    """Closed until the first confirmed park.  ``quiet`` is called (from any thread) with the generation of
    the park order as soon as nothing acts any more."""

    def __init__(self, quiet: Callable[[int], None]) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._acting = False
        self._generation = 0
        self.reason = "the gateway has just started"
        self._closed = True
        self._changed = threading.Condition(self._lock)

    @property
    def closed(self) -> bool:
        """Whether nothing may act."""
        return self._closed

    @property
    def generation(self) -> int:
        """Number of the last park order."""
        return self._generation

    @property
    def is_quiet(self) -> bool:
        """Closed, and no call is under way."""
        return self._closed and not self._acting

    def parked_since(self, generation: int) -> bool:
        """Whether the tip was (or is being) parked since that order."""
        return self._closed or self._generation != generation

    @contextlib.contextmanager
    def acting(self, generation: int) -> Iterator[None]:
        """Around each call that acts.  ``generation``: as it was when the job began, for a park that was
        ordered and confirmed between two calls must not be acted against either.

        Raises:
            TipParkedError: the tip was parked meanwhile.
        """
        with self._lock:
            self._require_open(generation)
            self._acting = True
        try:
            yield
        finally:
            with self._lock:
                self._acting = False
                report = self._closed
            if report:
                self._quiet(self._generation)

    def require_open(self, generation: int) -> None:
        """Refuse to go on after a park.

        Raises:
            TipParkedError: the tip was parked meanwhile.
        """
        with self._lock:
            self._require_open(generation)

    def close(self, generation: int, reason: str) -> None:
        """Let nothing pass until that order's park is confirmed."""
        with self._lock:
            self._closed = True
            self._generation, self.reason = generation, reason
            self._changed.notify_all()
            quiet_now = not self._acting
        if quiet_now:
            self._quiet(generation)

    def open(self, generation: int) -> None:
        """That order's park is confirmed; nothing happens if a newer one has come."""
        with self._lock:
            if generation >= self._generation:
                self._generation = generation
                self._closed = False
                self._changed.notify_all()

    def abandon(self) -> None:
        """The call under way hangs in a connection that was given up: it acts no more."""
        with self._lock:
            self._acting = False

    def wait_open(self, timeout_s: float) -> bool:
        """Wait until the park is confirmed."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._closed, timeout_s)

    def wait_parked(self, generation: int, timeout_s: float) -> bool:
        """Wait for the order that goes with a withdrawal already seen."""
        with self._lock:
            return self._changed.wait_for(lambda: self.parked_since(generation), timeout_s)

    def _require_open(self, generation: int) -> None:
        if self.parked_since(generation):
            raise TipParkedError(f"parked: {self.reason}")
