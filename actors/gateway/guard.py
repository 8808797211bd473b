"""The guard: stop socket, lease, its own connection to the electronics, and nothing else.
 Threads: the main thread serves the safety socket (a Stop withdraws on it before anything else); the hands
thread reads the electronics and carries out parks; one thread listens to the worker.  No job is known here.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from actors.gateway.drivers import open_driver
from actors.gateway.electronics import Electronics, open_with_patience, withdraw_unless_parked
from actors.gateway.hands import Alarms, Hands
from actors.gateway.internal import (
    AskEngage,
    AskPark,
    EngageAnswer,
    EngageDone,
    GuardBeat,
    Internal,
    LeaseNews,
    LeaseSeen,
    Leave,
    Parked,
    ParkOrder,
    WorkerReady,
)
from actors.gateway.latch import Latch
from actors.gateway.lease import LONGEST_S, SHORTEST_S, LeaseKeeper
from actors.gateway.limits_file import load_limits
from actors.gateway.watch import Watch
from actors.gateway.withdrawal import Parker
from actors.gateway.worker_process import WorkerProcess
from protocols.errors import (
    ConfigError,
    RefusedError,
    TunnelpilotError,
    UnknownMessageError,
    UsageError,
)
from protocols.files.logs import configure_logging
from protocols.files.state_directory import ProcessLock, publish_endpoints
from protocols.links.server import CommandServer, Request
from protocols.messages.control import (
    AcknowledgeLatch,
    AcquireLease,
    Done,
    GuardQuery,
    GuardStatus,
    LeaseGranted,
    ReleaseLease,
    RenewLease,
    Stop,
    StopAnswer,
)
from protocols.states.park import PARKED

log = structlog.get_logger(__name__)

TICK_S = 0.01
"""Resolution of the lease's clock."""

QUIET_S = 2.0
"""A worker that still acts so long after a park order is killed."""

RESTARTS_WITHIN_S = 60.0
"""More restarts of the worker within this time than are allowed: parked until a person acknowledges."""

OLD_WORKER_S = 5.0
"""How long a new guard waits for the worker of a dead one to go, before it kills it."""

ANSWER_WITHIN_S = 0.3
"""A new owner is told of its lease when the worker knows of it, or after this time."""

LEAVE_WITHIN_S = 30.0
LEAVE_BLIND_S = 5.0
"""A guard that is told to end waits so long for its park, or so long for electronics that do not answer."""

RELEASE_WITHIN_S = 10.0
"""A released lease is answered when the tip is parked, or after this time."""

PRIORITY = -10
"""Niceness of guard and worker where the system allows it."""


@dataclass(frozen=True)
class GuardOptions:
    """What ``stmgate`` was started with."""

    state: Path
    limits: Path | None = None
    driver: str = "sim"
    driver_endpoint: str = ""
    lease_s: float = 2.0
    """Duration of a lease whose owner asks for none (0)."""
    safety: str = "tcp://127.0.0.1:0"
    commands: str = "tcp://127.0.0.1:0"
    data: str = "tcp://127.0.0.1:0"
    worker_restarts: int = 3
    """So many within ``RESTARTS_WITHIN_S``."""
    verbose: bool = False


@dataclass
class _Waiting:
    """A request that is answered later."""

    request: Request
    ready: Callable[[], bool]
    deadline_s: float
    answer: Callable[[bool], Any]


class Guard:
    """One guard process; ``run`` returns its exit status.

    Raises:
        ConfigError, AlreadyRunningError, DriverError, LinkLostError: it cannot start; the text says why.
    """

    def __init__(self, options: GuardOptions) -> None:
        self._options = options
        if not SHORTEST_S <= options.lease_s <= LONGEST_S:
            raise ConfigError(
                f"--lease-seconds {options.lease_s:g}: {SHORTEST_S} to {LONGEST_S} are possible."
            )
        self._folder = options.state / "gateway"
        self._lock = ProcessLock(options.state, "gateway")
        self._lock.acquire()
        configure_logging(
            "guard",
            self._folder / "guard.log",
            terminal=options.verbose,
            level="DEBUG" if options.verbose else "INFO",
        )
        log.info("guard starts", state=str(options.state), driver=options.driver)
        self._electronics = Electronics(
            lambda: open_driver(options.driver, options.state, options.driver_endpoint, "guard"),
            open_with_patience(
                lambda: open_driver(options.driver, options.state, options.driver_endpoint, "guard"),
                withdraw=True,
            ),
        )
        # Before anything that may fail: if both halves of the gateway died, the tip may still be tunneling.
        withdraw_unless_parked(self._electronics.driver())
        self.info = self._electronics.driver().info()
        if self.info.time_scale != 1.0 and not self.info.simulated:
            raise ConfigError(
                f"the electronics {self.info.name} run at time scale {self.info.time_scale:g}.",
                "Real electronics run at 1.",
            )
        self.limits, self._limits_path = load_limits(options.limits, self._folder, self.info)
        self._latch = Latch(self._folder / "latch.json")
        self._lease = LeaseKeeper(self._folder / "lease.json")
        self._server = CommandServer(options.safety, "stmgate guard")
        self._alarms = Alarms()
        self._events: collections.deque[tuple[str, Any]] = collections.deque()
        self._worker: WorkerProcess | None = None
        self._worker_starts: collections.deque[float] = collections.deque()
        self._worker_given_up = ""
        self._has_served = False
        self._cannot_serve = ""
        """Why no worker ever served: asking again would not help."""
        self._park_order_s = 0.0
        self._parker = Parker(
            self._electronics.driver,
            self.limits,
            silence=self._silence_worker,
            is_silent=self._worker_is_silent,
            confirmed=lambda generation: self._events.append(("parked", generation)),
            alarm=lambda text: self._alarms.set("park", text),
        )
        self._hands = Hands(
            self._electronics,
            self._parker,
            self._latch,
            Watch(self.limits, self.info),
            self._alarms,
            lambda: bool(self._approaching),
        )
        self._waiting: list[_Waiting] = []
        self._approaching = ""
        self._withdrawals = 0
        """Ordered by persons, since this guard began."""
        self._seen_lease: tuple[int, bool] = (-1, False)
        self._leaving = ""
        self._leave_by_s = 0.0
        self._signals = 0
        self._loop_s = time.monotonic()

    # The main thread

    def run(self) -> int:
        """Serve until told to end; the tip is parked when this returns 0."""
        self._parker.start()
        self._hands.start()
        self._clear_away_old_worker()
        self._start_worker()
        self._publish()
        log.info("guard serves", safety=self._server.endpoint, limits=str(self._limits_path))
        status = None
        while status is None:
            for request in self._server.poll(TICK_S):
                self._serve(request)
            self._loop_s = time.monotonic()
            self._take_events()
            self._tick(self._loop_s)
            status = self._leave_when_parked()
        return status

    def ask_to_leave(self, reason: str) -> None:
        """For signal handlers: park, then end."""
        self._signals += 1
        self._leaving = self._leaving or reason

    def close(self) -> None:
        """Let go of everything."""
        self._hands.stop()
        self._server.close()
        self._electronics.close()
        self._lock.release()

    def _serve(self, request: Request) -> None:
        message = request.message
        try:
            match message:
                case Stop():
                    self._withdrawals += 1
                    done = self._parker.order(message.reason, "operator")
                    request.reply(
                        StopAnswer(withdrawn=done.withdrawn, detail=done.detail, took_s=done.took_s)
                    )
                    log.warning("stop", reason=message.reason, peer=request.peer, took_s=done.took_s)
                case AcquireLease():
                    self._acquire(request, message)
                case RenewLease():
                    self._lease.renew(message.epoch, time.monotonic())
                    request.reply(Done())
                case ReleaseLease():
                    self._release(request, message)
                case AcknowledgeLatch():
                    self._acknowledge(request, message)
                case GuardQuery():
                    request.reply(self._status())
                case _:
                    kind = type(message).__name__
                    raise UnknownMessageError(f"the guard has nothing to do with a {kind}.", kind=kind)
        except TunnelpilotError as problem:
            log.info("refused", kind=type(message).__name__, peer=request.peer, reason=str(problem))
            request.refuse(problem)

    def _acquire(self, request: Request, message: AcquireLease) -> None:
        if self._leaving:
            raise RefusedError("the gateway is ending.", "Start it again.", refusal_code="leaving")
        if self._worker_given_up:
            raise RefusedError(
                f"the gateway has no worker: {self._worker_given_up}.",
                "See gateway/worker.log, then stmctl ack.",
                refusal_code="no-worker",
            )
        worker = self._worker
        if worker is None or worker.ready is None:
            raise RefusedError(
                "the gateway's worker is starting.", "Ask again in a moment.", refusal_code="starting"
            )
        duration = message.duration_s or self._options.lease_s
        epoch = self._lease.acquire(message.owner, duration, time.monotonic())
        log.info("lease granted", owner=message.owner, epoch=epoch, duration_s=duration)
        self._tell_lease()
        granted = LeaseGranted(epoch=epoch, duration_s=duration)
        self._answer_later(
            request, lambda: self._seen_lease == (epoch, True), ANSWER_WITHIN_S, lambda _: granted
        )

    def _release(self, request: Request, message: ReleaseLease) -> None:
        instructions = self._lease.release(message.epoch, message.park, time.monotonic())
        self._tell_lease()
        log.info("lease released", epoch=message.epoch, park=message.park)
        if "park" not in instructions:
            request.reply(Done(note="the tip stays as it is; it is parked if nobody takes over"))
            return
        self._parker.order(f"lease of {self._lease.owner} given back", "released")
        self._answer_later(
            request,
            lambda: self._lease.state != "ending",
            RELEASE_WITHIN_S,
            lambda parked: Done(note="parked" if parked else "the park is not confirmed yet"),
        )

    def _acknowledge(self, request: Request, message: AcknowledgeLatch) -> None:
        if self._parker.state != PARKED:
            raise UsageError(
                f"the tip is not parked yet ({self._parker.state}).", "Wait for the park, then acknowledge."
            )
        reason = self._latch.reason
        seen = self._hands.instrument
        # A guard that has just started may not have read the electronics yet: the latch remembers the crash.
        crashed = reason.startswith("crash") if seen is None else seen.crashed
        was_shut = self._latch.acknowledge(message.who, crashed)
        self._alarms.clear()
        if (beat := self._beat()) is not None:
            self._tell(beat)  # the worker refuses engages as long as it believes in the latch
        if self._worker_given_up:
            self._worker_given_up = ""
            self._worker_starts.clear()
            self._start_worker()
        log.warning("acknowledged", who=message.who, was_shut=was_shut, reason=reason)
        request.reply(Done(note=f"acknowledged: {reason}" if was_shut else "there was nothing latched"))

    def _status(self) -> GuardStatus:
        worker = self._worker
        ready = worker.ready if worker else None
        return GuardStatus(
            pid=os.getpid(),
            worker_pid=worker.pid if worker else 0,
            worker_alive=worker is not None and worker.alive,
            epoch=self._lease.epoch,
            owner=self._lease.owner if self._lease.held else "",
            lease_left_s=self._lease.left_s(time.monotonic()),
            lease=self._lease.state,
            park=self._parker.state,
            latch=self._latch.state,
            latch_reason=self._latch.reason,
            last_park_reason=self._parker.reason,
            last_park_cause=self._parker.cause,
            instrument=self._hands.instrument,
            alarms=self._alarms.texts(),
            trips=self._hands.trips,
            commands_endpoint=ready.commands if ready else "",
            data_endpoint=ready.data if ready else "",
            withdrawal_mark=self._withdrawal_mark,
        )

    def _answer_later(
        self, request: Request, ready: Callable[[], bool], within_s: float, answer: Callable[[bool], Any]
    ) -> None:
        self._waiting.append(_Waiting(request, ready, time.monotonic() + within_s, answer))

    def _tick(self, now_s: float) -> None:
        if "park" in self._lease.tick(now_s):
            log.warning("lease expired", owner=self._lease.owner, epoch=self._lease.epoch)
            self._tell_lease()
            self._parker.order(f"lease of {self._lease.owner} ran out", "lease")
        still_waiting = []
        for waiting in self._waiting:
            ready = waiting.ready()
            if ready or now_s > waiting.deadline_s:
                waiting.request.reply(waiting.answer(ready))
            else:
                still_waiting.append(waiting)
        self._waiting = still_waiting

    def _take_events(self) -> None:
        while self._events:
            kind, content = self._events.popleft()
            match kind:
                case "parked":
                    self._park_confirmed(content)
                case "gone":
                    self._replace_worker(*content)
                case _:
                    self._hear(*content)

    def _park_confirmed(self, generation: int) -> None:
        if generation != self._parker.generation or self._parker.state != PARKED:
            return  # a newer order is under way
        self._approaching = ""
        self._lease.parked()
        self._tell(Parked(generation=generation))

    def _hear(self, worker: WorkerProcess, message: Internal) -> None:
        if worker is not self._worker:
            return
        match message:
            case WorkerReady():
                log.info("worker ready", pid=worker.pid)
                self._has_served = True
                self._tell_lease()
                if self._parker.state == PARKED:
                    self._tell(Parked(generation=self._parker.generation))
                self._publish()
            case LeaseSeen():
                self._seen_lease = (message.epoch, message.held)
            case AskEngage():
                self._tell(self._judge_engage(message))
            case EngageDone() if message.job_id == self._approaching:
                self._approaching = ""
            case _:
                pass

    @property
    def _withdrawal_mark(self) -> str:
        return f"{os.getpid()}:{self._withdrawals}"

    def _judge_engage(self, asked: AskEngage) -> EngageAnswer:
        job_id = asked.job_id
        try:
            self._latch.require_open()
            if asked.withdrawal_mark not in ("", self._withdrawal_mark):
                raise RefusedError(
                    "the tip was withdrawn by a person after this engage was decided.",
                    "'stmctl resume' engages again.",
                    refusal_code="withdrawn-since",
                )
            if not self._lease.held or self._lease.left_s(time.monotonic()) <= 0.0:
                raise RefusedError("nobody holds the lease.", refusal_code="no-lease")
            if self._leaving:
                raise RefusedError("the gateway is ending.", refusal_code="leaving")
            self._approaching = job_id
            if not self._parker.engage():
                self._approaching = ""
                raise RefusedError(
                    f"the tip is not parked yet ({self._parker.state}).", refusal_code="parking"
                )
        except TunnelpilotError as problem:
            log.warning("engage refused", job=job_id, reason=str(problem))
            return EngageAnswer(job_id=job_id, granted=False, code=problem.code, reason=problem.text)
        log.info("engage granted", job=job_id)
        return EngageAnswer(job_id=job_id, granted=True)

    def _leave_when_parked(self) -> int | None:
        """The exit status once the guard may end."""
        if not self._leaving:
            return None
        if not self._leave_by_s:
            self._leave_by_s = time.monotonic() + LEAVE_WITHIN_S
            self._parker.order(self._leaving, "signal")
        parked = self._parker.state == PARKED and not self._parker.busy
        left_s = self._leave_by_s - time.monotonic()
        blind = min(self._hands.blind_s, LEAVE_WITHIN_S - left_s) > LEAVE_BLIND_S
        if not parked and not blind and left_s > 0.0 and self._signals < 3:
            return None
        self._dismiss_worker()
        if not parked:
            print("stmgate: the park could not be confirmed; see gateway/guard.log.", file=sys.stderr)  # noqa: T201
            log.error("guard ends without a confirmed park", park=self._parker.state)
            return 1
        log.info("guard ends, the tip is parked")
        if self._cannot_serve:
            print(f"stmgate: no worker can serve: {self._cannot_serve}", file=sys.stderr)  # noqa: T201
            return 2
        return 0

    # The worker

    def _clear_away_old_worker(self) -> None:
        """A worker whose guard died parks and goes by itself; two workers must never act at once."""
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
            time.sleep(0.02)

    def _start_worker(self) -> None:
        options = self._options
        previous = self._worker.ready if self._worker else None
        arguments = [
            *("--state", str(options.state)),
            *("--limits", json.dumps(self.limits.flat())),
            *("--driver", options.driver),
            *("--driver-endpoint", options.driver_endpoint),
            *("--commands", previous.commands if previous else options.commands),
            *("--data", previous.data if previous else options.data),
            *(("--verbose",) if options.verbose else ()),
        ]
        self._worker_starts.append(time.monotonic())
        self._worker = WorkerProcess(
            arguments,
            self._folder / "worker.stderr",
            beat=self._beat,
            gone=self._worker_gone,
            ask_park=self._park_for_worker,
            heard=lambda worker, message: self._events.append(("heard", (worker, message))),
        )
        log.info("worker started", pid=self._worker.pid)
        self._worker.listen()

    def _worker_gone(self, worker: WorkerProcess, reason: str) -> None:
        """From the link's thread, at once."""
        if not worker.leaving:
            self._parker.order(f"the worker is gone: {reason}", "worker")
        self._events.append(("gone", (worker, reason)))

    def _replace_worker(self, worker: WorkerProcess, reason: str) -> None:
        if worker is not self._worker or worker.leaving:
            return
        if not worker.wait(0.2):
            worker.kill(reason)
        log.error("worker gone", pid=worker.pid, reason=reason, how=worker.last_words())
        if worker.misconfigured and not self._has_served:
            self._cannot_serve = worker.last_words()
            self._leaving = self._leaving or f"no worker can serve: {self._cannot_serve}"
            return
        now = time.monotonic()
        while self._worker_starts and now - self._worker_starts[0] > RESTARTS_WITHIN_S:
            self._worker_starts.popleft()
        if len(self._worker_starts) > self._options.worker_restarts:
            self._worker_given_up = (
                f"it ended {len(self._worker_starts)} times in {RESTARTS_WITHIN_S:g} s, "
                f"last: {worker.last_words()}"
            )
            self._alarms.set("worker", f"worker: {self._worker_given_up}")
            log.error("worker is not started again", reason=self._worker_given_up)
            return
        if not self._leaving:
            self._start_worker()

    def _dismiss_worker(self) -> None:
        worker = self._worker
        if worker is None:
            return
        worker.leaving = True
        worker.send(Leave())
        if not worker.wait(5.0):
            worker.kill("it did not leave")

    def _park_for_worker(self, message: AskPark) -> None:
        """From the link's thread, at once."""
        if message.latch:
            self._hands.shut_latch(message.latch, message.reason)
        else:
            self._parker.order(message.reason, message.cause)

    def _silence_worker(self, generation: int, reason: str) -> None:
        self._park_order_s = time.monotonic()
        self._tell(ParkOrder(generation=generation, reason=reason))

    def _worker_is_silent(self) -> bool:
        worker = self._worker
        if worker is None or worker.ready is None or worker.acts_no_more(self._parker.generation):
            return True
        if time.monotonic() - self._park_order_s > QUIET_S:
            worker.kill(f"it still acted {QUIET_S:g} s after the park order")
            return True
        return False

    def _beat(self) -> GuardBeat | None:
        if time.monotonic() - self._loop_s > 2.0 and self._hands.alive and not self._leaving:
            return None
        return GuardBeat(epoch=self._lease.epoch, held=self._lease.held, latch_reason=self._latch.reason)

    def _tell(self, message: Internal) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def _tell_lease(self) -> None:
        self._tell(LeaseNews(epoch=self._lease.epoch, held=self._lease.held))

    def _publish(self) -> None:
        worker = self._worker
        ready = worker.ready if worker else None
        publish_endpoints(
            self._options.state,
            "gateway",
            worker_pid=worker.pid if worker and ready else 0,
            safety=self._server.endpoint,
            commands=ready.commands if ready else "",
            data=ready.data if ready else "",
            driver=self._options.driver,
            electronics=self._options.driver_endpoint,
        )


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
