"""The process of the guard: precedence over others, signals, from start to end."""

from __future__ import annotations

import os
import signal
import sys

import structlog

from actors.gateway.guard import Guard
from actors.gateway.guard_options import GuardOptions

log = structlog.get_logger(__name__)

PRIORITY = -10
"""Niceness of guard and worker where the system allows it."""


def take_precedence() -> None:
    """Go before heavy processes where the system lets us, and switch threads soon."""
    sys.setswitchinterval(0.001)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    except PermissionError:
        log.debug("no precedence over other processes: that needs a privilege")


def run_guard(options: GuardOptions) -> int:
    """Run a guard in this process until a signal ends it; returns the exit status.

    Raises:
        ConfigError, AlreadyRunningError, DriverError, LinkLostError: it cannot start; the text says why.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    guard: Guard | None = None
    early: list[str] = []

    def leave(number: int, frame: object) -> None:
        reason = signal.Signals(number).name
        if guard is None:
            early.append(reason)
        else:
            guard.ask_to_leave(reason)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    take_precedence()
    guard = Guard(options)
    for reason in early:
        guard.ask_to_leave(reason)
    try:
        return guard.run()
    finally:
        guard.close()
