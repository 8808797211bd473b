"""The guard's hold on the electronics: one driver that is replaced when nothing answers any more."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from protocols.errors import ConfigError, TunnelpilotError
from protocols.instrument.driver import Driver

log = structlog.get_logger(__name__)

PATIENCE_S = 5.0
"""How long electronics that do not answer yet are waited for at start."""

REOPEN_S = 1.0
"""Shortest time between attempts to connect anew."""


def open_with_patience(connect: Callable[[], Driver], *, withdraw: bool = False) -> Driver:
    """Connect, and read once; tries again for ``PATIENCE_S``.

    ``withdraw``: whoever gives up withdraws the tip, if it can.

    Raises:
        DriverError, LinkLostError: nothing answers.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        driver: Driver | None = None
        try:
            driver = connect()
            driver.state()
        except ConfigError:
            raise
        except TunnelpilotError:
            if time.monotonic() > deadline:
                if withdraw and driver is not None:
                    _withdraw_blindly(driver)
                raise
            time.sleep(0.1)  # the ports of who was here before may be free in a moment
        else:
            return driver


def _withdraw_blindly(driver: Driver) -> None:
    """Nothing can be read, and nobody else watches the tip: stops may have a connection of their own."""
    try:
        driver.withdraw()
    except (TunnelpilotError, OSError) as problem:
        log.error("the tip could not be withdrawn either", problem=str(problem))
    else:
        log.warning("the electronics cannot be read; the tip was told to withdraw")


def withdraw_unless_parked(driver: Driver) -> None:
    """Withdraw at once unless the electronics read back as withdrawn with the controller off."""
    try:
        found = driver.state()
        if found.withdrawn and not found.feedback:
            return
        log.warning("the tip was found engaged at start", feedback=found.feedback, z_m=found.z_m)
    except TunnelpilotError as problem:
        log.warning("the electronics could not be read at start", problem=str(problem))
    driver.withdraw()


class Electronics:
    """Holds the present driver; ``driver`` may be called from any thread."""

    def __init__(self, connect: Callable[[], Driver], driver: Driver) -> None:
        self._connect = connect
        self._driver = driver
        self._tried_s = time.monotonic()

    def driver(self) -> Driver:
        """The present connection."""
        return self._driver

    def reopen(self) -> bool:
        """Connect anew, at most once a second; True if there is a new connection."""
        now = time.monotonic()
        if now - self._tried_s < REOPEN_S:
            return False
        self._tried_s = now
        try:
            fresh = self._connect()
            fresh.state()
        except (TunnelpilotError, OSError) as problem:
            log.warning("the electronics cannot be reached", problem=str(problem))
            return False
        # The old one is let go of, not closed: another thread may be inside one of its calls.
        self._driver = fresh
        log.info("connected to the electronics anew")
        return True

    def close(self) -> None:
        """Drop the connection."""
        self._driver.close()
