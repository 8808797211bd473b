"""Requests that are answered later: when something has come true, or after a time if it has not.

The guard's main thread must never wait for the worker or for a park, for a stop is served by the same thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocols.links.server import Request


@dataclass
class _Waiting:
    """One of them; times are of the monotonic clock."""

    request: Request
    ready: Callable[[], bool]
    deadline_s: float
    answer: Callable[[bool], Any]


class DelayedAnswers:
    """Used by the thread that serves the requests, alone."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(
        self, request: Request, ready: Callable[[], bool], within_s: float, answer: Callable[[bool], Any]
    ) -> None:
        """Answer when ``ready`` says so, or after ``within_s`` seconds.

        ``answer`` makes the message from whether it was ready.
        """
        self._waiting.append(_Waiting(request, ready, time.monotonic() + within_s, answer))

    def tick(self, now_s: float) -> None:
        """Give the answers whose time has come; ``now_s`` is of the monotonic clock."""
        still_waiting = []
        for waiting in self._waiting:
            ready = waiting.ready()
            if ready or now_s > waiting.deadline_s:
                waiting.request.reply(waiting.answer(ready))
            else:
                still_waiting.append(waiting)
        self._waiting = still_waiting
