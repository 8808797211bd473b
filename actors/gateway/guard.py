"""The guard: stop socket, lease, its own connection to the electronics, and nothing else.

Threads: the main thread serves the safety socket (a Stop withdraws on it before anything else); the hands
thread reads the electronics and carries out parks; one thread listens to the worker.  No job is known here.
"""

from __future__ import annotations

import collections
import sys
import time
from pathlib import Path
from typing import Any

import structlog

from actors.gateway.delayed_answers import DelayedAnswers
from actors.gateway.electronics import Electronics, open_with_patience, withdraw_unless_parked
from actors.gateway.engage_permission import EngagePermission
from actors.gateway.guard_options import GuardOptions
from actors.gateway.guard_status import guard_status, publish_gateway
from actors.gateway.hands import Alarms, Hands
from actors.gateway.internal import AskEngage, EngageDone, GuardBeat, Internal, LeaseSeen, Parked, WorkerReady
from actors.gateway.latch import Latch
from actors.gateway.lease import LeaseKeeper
from actors.gateway.lease_desk import LeaseDesk
from actors.gateway.limits_file import load_limits
from actors.gateway.watch import Watch
from actors.gateway.withdrawal import Parker
from actors.gateway.worker_keeper import WorkerKeeper
from actors.gateway.worker_process import WorkerProcess
from protocols.errors import ConfigError, TunnelpilotError, UnknownMessageError, UsageError
from protocols.files.limits_toml import Limits
from protocols.files.logs import configure_logging
from protocols.files.state_directory import ProcessLock
from protocols.instrument.driver import DriverInfo
from protocols.links.server import CommandServer, Request
from protocols.messages.control import (
    AcknowledgeLatch,
    AcquireLease,
    Done,
    GuardQuery,
    GuardStatus,
    ReleaseLease,
    RenewLease,
    Stop,
    StopAnswer,
)
from protocols.states.park import PARKED

log = structlog.get_logger(__name__)

TICK_S = 0.01
"""Resolution of the lease's clock."""

LEAVE_WITHIN_S = 30.0
LEAVE_BLIND_S = 5.0
"""A guard that is told to end waits so long for its park, or so long for electronics that do not answer."""


class Guard:
    """One guard process; ``run`` returns its exit status.

    Raises:
        ConfigError, AlreadyRunningError, DriverError, LinkLostError: it cannot start; the text says why.
    """

    def __init__(self, options: GuardOptions) -> None:
        self._options = options
        options.require_possible_lease()
        folder = options.state / "gateway"
        self._lock = ProcessLock(options.state, "gateway")
        self._lock.acquire()
        configure_logging(
            "guard",
            folder / "guard.log",
            terminal=options.verbose,
            level="DEBUG" if options.verbose else "INFO",
        )
        log.info("guard starts", state=str(options.state), driver=options.driver)
        self._electronics = Electronics(
            options.open_driver, open_with_patience(options.open_driver, withdraw=True)
        )
        # Before anything that may fail: if both halves of the gateway died, the tip may still be tunneling.
        withdraw_unless_parked(self._electronics.driver())
        info = self._electronics.driver().info()
        _require_real_time(info)
        limits, self._limits_path = load_limits(options.limits, folder, info)
        self._latch = Latch(folder / "latch.json")
        self._lease = LeaseKeeper(folder / "lease.json")
        self._server = CommandServer(options.safety, "stmgate guard")
        self._alarms = Alarms()
        self._events: collections.deque[tuple[str, Any]] = collections.deque()
        """From other threads, for the main thread: what happened, and with what."""
        self._leaving = ""
        self._leave_by_s = 0.0
        self._signals = 0
        self._parker = Parker(
            self._electronics.driver,
            limits,
            silence=lambda generation, reason: self._workers.silence(generation, reason),
            is_silent=lambda: self._workers.is_silent(),
            confirmed=lambda generation: self._events.append(("parked", generation)),
            alarm=lambda text: self._alarms.set("park", text),
        )
        self._engages = EngagePermission(self._latch, self._lease, self._parker, self._is_leaving)
        self._hands = Hands(
            self._electronics,
            self._parker,
            self._latch,
            Watch(limits, info),
            self._alarms,
            lambda: self._engages.approaching,
        )
        self._workers = self._keeper(limits, folder / "worker.stderr")
        self._answers = DelayedAnswers()
        self._lease_desk = LeaseDesk(
            self._lease,
            self._parker,
            self._workers,
            self._answers,
            usual_s=options.lease_s,
            leaving=self._is_leaving,
        )
        self._loop_s = time.monotonic()

    def _keeper(self, limits: Limits, errors: Path) -> WorkerKeeper:
        return WorkerKeeper(
            self._options,
            limits,
            errors,
            self._parker,
            self._hands,
            self._alarms,
            beat=self._beat,
            gone=lambda worker, reason: self._events.append(("gone", (worker, reason))),
            heard=lambda worker, message: self._events.append(("heard", (worker, message))),
            leaving=self._is_leaving,
        )

    def run(self) -> int:
        """Serve until told to end; the tip is parked when this returns 0."""
        self._parker.start()
        self._hands.start()
        self._workers.clear_away_old()
        self._workers.start()
        self._publish()
        log.info("guard serves", safety=self._server.endpoint, limits=str(self._limits_path))
        status = None
        while status is None:
            for request in self._server.poll(TICK_S):
                self._serve(request)
            self._loop_s = time.monotonic()
            self._take_events()
            self._lease_desk.tick(self._loop_s)
            self._answers.tick(self._loop_s)
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
                    self._engages.withdrawn_by_person()
                    done = self._parker.order(message.reason, "operator")
                    request.reply(
                        StopAnswer(withdrawn=done.withdrawn, detail=done.detail, took_s=done.took_s)
                    )
                    log.warning("stop", reason=message.reason, peer=request.peer, took_s=done.took_s)
                case AcquireLease():
                    self._lease_desk.acquire(request, message)
                case RenewLease():
                    self._lease_desk.renew(request, message)
                case ReleaseLease():
                    self._lease_desk.release(request, message)
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
            self._workers.tell(beat)  # the worker refuses engages as long as it believes in the latch
        self._workers.try_again()
        log.warning("acknowledged", who=message.who, was_shut=was_shut, reason=reason)
        request.reply(Done(note=f"acknowledged: {reason}" if was_shut else "there was nothing latched"))

    def _status(self) -> GuardStatus:
        return guard_status(
            worker=self._workers.worker,
            lease=self._lease,
            parker=self._parker,
            latch=self._latch,
            hands=self._hands,
            alarms=self._alarms,
            withdrawal_mark=self._engages.withdrawal_mark,
        )

    def _publish(self) -> None:
        publish_gateway(self._options, self._server.endpoint, self._workers.worker)

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
        self._engages.parked()
        self._lease.parked()
        self._workers.tell(Parked(generation=generation))

    def _replace_worker(self, worker: WorkerProcess, reason: str) -> None:
        self._workers.replace(worker, reason)
        if self._workers.cannot_serve:
            self._leaving = self._leaving or f"no worker can serve: {self._workers.cannot_serve}"

    def _hear(self, worker: WorkerProcess, message: Internal) -> None:
        if worker is not self._workers.worker:
            return
        match message:
            case WorkerReady():
                log.info("worker ready", pid=worker.pid)
                self._workers.served()
                self._lease_desk.tell()
                if self._parker.state == PARKED:
                    self._workers.tell(Parked(generation=self._parker.generation))
                self._publish()
            case LeaseSeen():
                self._lease_desk.seen(message)
            case AskEngage():
                self._workers.tell(self._engages.judge(message))
            case EngageDone():
                self._engages.done(message.job_id)
            case _:
                pass

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
        self._workers.dismiss()
        if not parked:
            print("stmgate: the park could not be confirmed; see gateway/guard.log.", file=sys.stderr)  # noqa: T201
            log.error("guard ends without a confirmed park", park=self._parker.state)
            return 1
        log.info("guard ends, the tip is parked")
        if self._workers.cannot_serve:
            print(f"stmgate: no worker can serve: {self._workers.cannot_serve}", file=sys.stderr)  # noqa: T201
            return 2
        return 0

    def _is_leaving(self) -> bool:
        return bool(self._leaving)

    def _beat(self) -> GuardBeat | None:
        """From the link's thread too; None: the main loop makes no progress, the worker is to notice."""
        if time.monotonic() - self._loop_s > 2.0 and self._hands.alive and not self._leaving:
            return None
        return GuardBeat(epoch=self._lease.epoch, held=self._lease.held, latch_reason=self._latch.reason)


def _require_real_time(info: DriverInfo) -> None:
    if info.time_scale != 1.0 and not info.simulated:
        raise ConfigError(
            f"the electronics {info.name} run at time scale {info.time_scale:g}.",
            "Real electronics run at 1.",
        )
