"""Keeps one worker running for the guard: starts it, replaces it, silences it for a park, sends it home."""

from __future__ import annotations

import collections
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from actors.gateway.guard_options import GuardOptions
from actors.gateway.hands import Alarms, Hands
from actors.gateway.internal import AskPark, GuardBeat, Internal, Leave, ParkOrder, WorkerReady
from actors.gateway.withdrawal import Parker
from actors.gateway.worker_process import WorkerProcess
from protocols.errors import ConfigError
from protocols.files.limits_toml import Limits
from protocols.files.state_directory import ProcessLock

log = structlog.get_logger(__name__)

QUIET_S = 2.0
"""A worker that still acts so long after a park order is killed."""

RESTARTS_WITHIN_S = 60.0
"""More restarts of the worker within this time than are allowed: parked until a person acknowledges."""

OLD_WORKER_S = 5.0
"""How long a new guard waits for the worker of a dead one to go, before it kills it."""

LEAVES_WITHIN_S = 5.0
"""A worker that was told to leave and has not by then is killed."""


class WorkerKeeper:
    """The worker as the guard sees it.

    ``beat``, ``gone`` and ``heard`` are called from the link's thread: the next heartbeat (None: the guard's
    own loop makes no progress), a worker that has died or fallen silent, a message that is not a wish to
    park.  ``leaving`` says whether the guard is about to end.  A worker that dies, or that wishes it, has the
    tip parked at once, from the link's thread.
    """

    def __init__(
        self,
        options: GuardOptions,
        limits: Limits,
        errors: Path,
        parker: Parker,
        hands: Hands,
        alarms: Alarms,
        *,
        beat: Callable[[], GuardBeat | None],
        gone: Callable[[WorkerProcess, str], None],
        heard: Callable[[WorkerProcess, Internal], None],
        leaving: Callable[[], bool],
    ) -> None:
        self._options, self._limits, self._errors = options, limits, errors
        self._parker, self._hands, self._alarms = parker, hands, alarms
        self._beat, self._gone, self._heard, self._leaving = beat, gone, heard, leaving
        self._starts: collections.deque[float] = collections.deque()
        self._park_order_s = 0.0
        self._has_served = False
        self.worker: WorkerProcess | None = None
        """The present one, alive or not."""
        self.given_up = ""
        """Why no worker is started any more, until a person acknowledges."""
        self.cannot_serve = ""
        """Why no worker ever served: asking again would not help."""

    @property
    def ready(self) -> WorkerReady | None:
        """What the worker said when it was ready; None before."""
        return self.worker.ready if self.worker else None

    def clear_away_old(self) -> None:
        """A worker whose guard died parks and goes by itself; two workers must never act at once.

        Raises:
            ConfigError: it does not end, even killed.
        """
        old = ProcessLock(self._options.state, "gateway/worker")
        deadline = time.monotonic() + OLD_WORKER_S
        killed = False
        while old.held_by_somebody():
            if time.monotonic() > deadline:
                pid = int(old.path.read_text("ascii").strip() or 0)
                if killed or pid <= 1:
                    raise ConfigError(f"the worker (pid {pid}) of an earlier guard does not end.", "End it.")
                log.error("worker of an earlier guard killed", pid=pid)
                os.kill(pid, signal.SIGKILL)
                killed, deadline = True, time.monotonic() + OLD_WORKER_S
            # It is no child of ours: that it has ended shows in its lock only.
            time.sleep(0.02)

    def start(self) -> None:
        """Start a worker and listen to it; it takes over the endpoints of the one before."""
        options, previous = self._options, self.ready
        arguments = [
            *("--state", str(options.state)),
            *("--limits", json.dumps(self._limits.flat())),
            *("--driver", options.driver),
            *("--driver-endpoint", options.driver_endpoint),
            *("--commands", previous.commands if previous else options.commands),
            *("--data", previous.data if previous else options.data),
            *(("--verbose",) if options.verbose else ()),
        ]
        self._starts.append(time.monotonic())
        self.worker = WorkerProcess(
            arguments,
            self._errors,
            beat=self._beat,
            gone=self._park_as_gone,
            ask_park=self._park_for_worker,
            heard=self._heard,
        )
        log.info("worker started", pid=self.worker.pid)
        self.worker.listen()

    def served(self) -> None:
        """A worker was ready: that a later one cannot be what it was told to be is worth another try."""
        self._has_served = True

    def replace(self, worker: WorkerProcess, reason: str) -> None:
        """After ``gone``: start another, unless none can serve, too many have ended, or the guard ends."""
        if worker is not self.worker or worker.leaving:
            return
        if not worker.wait(0.2):
            worker.kill(reason)
        log.error("worker gone", pid=worker.pid, reason=reason, how=worker.last_words())
        if worker.misconfigured and not self._has_served:
            self.cannot_serve = worker.last_words()
            return
        now = time.monotonic()
        while self._starts and now - self._starts[0] > RESTARTS_WITHIN_S:
            self._starts.popleft()
        if len(self._starts) > self._options.worker_restarts:
            self.given_up = (
                f"it ended {len(self._starts)} times in {RESTARTS_WITHIN_S:g} s, last: {worker.last_words()}"
            )
            self._alarms.set("worker", f"worker: {self.given_up}")
            log.error("worker is not started again", reason=self.given_up)
            return
        if not self._leaving():
            self.start()

    def try_again(self) -> None:
        """A person has acknowledged: if workers were given up, start one."""
        if self.given_up:
            self.given_up = ""
            self._starts.clear()
            self.start()

    def dismiss(self) -> None:
        """Have it leave, and wait until it is gone."""
        worker = self.worker
        if worker is None:
            return
        worker.leaving = True
        worker.send(Leave())
        if not worker.wait(LEAVES_WITHIN_S):
            worker.kill("it did not leave")

    def tell(self, message: Internal) -> None:
        """Send it a message; nothing happens if it is gone."""
        if self.worker is not None:
            self.worker.send(message)

    def silence(self, generation: int, reason: str) -> None:
        """Nothing of it may act from now on; from any thread."""
        self._park_order_s = time.monotonic()
        self.tell(ParkOrder(generation=generation, reason=reason))

    def is_silent(self) -> bool:
        """Whether nothing of it acts any more since the last park order; one that goes on is killed."""
        worker = self.worker
        if worker is None or worker.ready is None or worker.acts_no_more(self._parker.generation):
            return True
        if time.monotonic() - self._park_order_s > QUIET_S:
            worker.kill(f"it still acted {QUIET_S:g} s after the park order")
            return True
        return False

    def _park_as_gone(self, worker: WorkerProcess, reason: str) -> None:
        """From the link's thread, at once."""
        if not worker.leaving:
            self._parker.order(f"the worker is gone: {reason}", "worker")
        self._gone(worker, reason)

    def _park_for_worker(self, message: AskPark) -> None:
        """From the link's thread, at once."""
        if message.latch:
            self._hands.shut_latch(message.latch, message.reason)
        else:
            self._parker.order(message.reason, message.cause)
