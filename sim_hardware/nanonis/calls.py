"""One call of a command: what its handler may use, and how it waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protocols.errors import DriverError
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.situation import Activity

LOOK_S = 0.1
"""Wall seconds between looks at what the world does not announce."""


class ClientGoneError(Exception):
    """The client that waits for the answer has left, or the door closes: nobody needs it any more."""


class Waiter(Protocol):
    """Lets a handler wait without keeping a dead client's connection."""

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait for the event; False when the time (wall s; None: as long as it takes) was over before.

        Raises:
            ClientGoneError: the client left meanwhile.
        """


class PatientWaiter:
    """Waits on the event alone: for calls without a connection."""

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """As ``Waiter`` says."""
        return event.wait(timeout_s)


@dataclass(frozen=True)
class Call:
    """A command being carried out."""

    lab: Instrument
    name: str
    waiter: Waiter

    def wait(self, event: threading.Event, timeout_ms: int = -1) -> bool:
        """Wait for an event, at most so many ms of the wall's clock; negative: as long as it takes."""
        return self.waiter.wait(event, None if timeout_ms < 0 else timeout_ms / 1000.0)

    def until(self, reached: Callable[[], bool], timeout_ms: int = -1) -> bool:
        """Wait until something holds that the world brings about; False when the time was over before."""
        deadline = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000.0
        with self.lab.changes() as changed:
            while True:
                changed.clear()
                if reached():
                    return True
                left = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
                if left <= 0.0:
                    return False
                self.waiter.wait(changed, left)

    def finish(self, activity: Activity, timeout_ms: int = -1) -> bool:
        """Wait for the end of an activity; False when the time was over before.

        Raises:
            DriverError: it failed.
        """
        if not self.wait(activity.done, timeout_ms):
            return False
        if activity.state == "failed":
            raise activity.error or DriverError(activity.reason)
        return True
