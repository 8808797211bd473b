"""The console's link to the daemon of a state directory."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from protocols.errors import DeadlineError, LinkLostError, PeerError
from protocols.files.state_directory import ProcessLock, read_endpoints
from protocols.links.client import CommandClient
from protocols.messages.base import Message
from protocols.messages.daemon import DaemonQuery, DaemonStatus

PROCESS = "daemon"
ENDPOINT_KEY = "console"
"""Key of ``STATE/daemon/endpoints.json`` under which the daemon publishes its console socket."""

ANSWER_S = 5.0
"""Deadline of questions that the daemon answers at once."""

M = TypeVar("M", bound=Message)


def daemon_runs(state: Path) -> bool:
    """Whether a daemon holds the lock of the state directory."""
    return ProcessLock(state, PROCESS).held_by_somebody()


class DaemonLink:
    """A command client of the daemon; for one thread.

    Raises:
        LinkLostError: no daemon runs with this state directory.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        if not daemon_runs(state):
            raise LinkLostError(
                f"no daemon runs with the state directory {state}.",
                "Start one with 'stmctl up' or a run with 'stmctl run CAMPAIGN', or name another --state.",
            )
        self._client = CommandClient(self._endpoint(), "stmctl", "stmd")

    def _endpoint(self) -> str:
        try:
            return str(read_endpoints(self.state, PROCESS)[ENDPOINT_KEY])
        except KeyError:
            raise LinkLostError(
                f"{self.state / PROCESS / 'endpoints.json'} names no console socket.",
                "The daemon is still starting or of another version; try again.",
            ) from None

    def ask(self, message: Message, expected: type[M], timeout_s: float = ANSWER_S) -> M:
        """Send and wait for the answer.

        Raises:
            DeadlineError: no answer in time.
            PeerError: another kind of answer than expected.
            TunnelpilotError: the daemon refused.
        """
        try:
            answer = self._client.request(message, timeout_s)
        except DeadlineError as late:
            if not daemon_runs(self.state):
                raise LinkLostError(
                    "the daemon ended while its answer was awaited.",
                    f"Its log is {self.state / PROCESS / 'daemon.log'}.",
                ) from late
            raise
        if not isinstance(answer, expected):
            raise PeerError(
                f"the daemon answered {type(answer).__name__} where {expected.__name__} was expected.",
                "stmctl and stmd are of different versions.",
            )
        return answer

    def status(self, points: int = 10, timeout_s: float = ANSWER_S) -> DaemonStatus:
        """The daemon's status."""
        return self.ask(DaemonQuery(points=points), DaemonStatus, timeout_s)

    def close(self) -> None:
        """Close the socket."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_until_gone(state: Path, process: str, timeout_s: float) -> bool:
    """Wait until nobody holds the lock of ``process``; False if somebody still does at the deadline."""
    lock = ProcessLock(state, process)
    until = time.monotonic() + timeout_s
    while lock.held_by_somebody():
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)  # a file's lock cannot be waited for with a deadline
    return True
