"""The worker: queue, job thread, spool, command and data sockets, its own connection to the electronics.

Threads: the main thread owns the sockets; the job thread acts; the link thread beats with the guard.  If the
guard vanishes, the link thread withdraws at once, the park is carried through, and the process ends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import structlog

from actors.gateway.desk import Desk
from actors.gateway.drivers import open_driver
from actors.gateway.electronics import Electronics, open_with_patience
from actors.gateway.executor import Executor
from actors.gateway.gate import Gate
from actors.gateway.internal import InternalLink, WorkerBeat, WorkerReady
from actors.gateway.job_run import Outcome
from actors.gateway.queue import Job, JobQueue
from actors.gateway.spool import Spool
from actors.gateway.withdrawal import Parker
from actors.gateway.worker_link import WorkerLink
from protocols.errors import StorageError, TunnelpilotError
from protocols.files.limits_toml import Limits
from protocols.files.logs import configure_logging
from protocols.files.state_directory import ProcessLock
from protocols.instrument.driver import Driver
from protocols.links.reactor import Reactor, Waker
from protocols.links.server import CommandServer, Request
from protocols.links.streams import StreamServer
from protocols.messages.codec import encode_body
from protocols.messages.data import Chunk, ChunkBody, EndOfStream
from protocols.messages.jobs import JobState

log = structlog.get_logger(__name__)

TICK_S = 0.02

STORE_AFTER_S = 0.5
STORE_CHUNKS = 64
"""Lines of a running frame are put on disk after this time or number."""

STALLED_S = 5.0
"""A job that is still acted on so long after its deadline has the tip parked."""

QUIET_WITHIN_S = 2.0
"""When the guard is gone and the job thread's call does not return within this time, a new connection is
opened."""

CONFIRM_WITHIN_S = 30.0
"""When the guard is gone: the worker goes on trying to park for so long before it ends without
confirmation."""


class Worker:
    """One worker process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        state = Path(options.state)
        self._lock = ProcessLock(state, "gateway/worker")
        self._lock.acquire()
        self._limits = Limits(**json.loads(options.limits))

        def connect() -> Driver:
            return open_driver(options.driver, state, options.driver_endpoint, "worker")

        self._electronics = Electronics(connect, open_with_patience(connect))
        info = self._electronics.driver().info()
        self._spool = Spool(
            state / "gateway" / "spool.db", self._limits.spool_quota_bytes, self._limits.disk_reserve_bytes
        )
        self._queue = JobQueue()
        self._link = WorkerLink(
            InternalLink(socket.socket(fileno=options.link)),
            beat=self._beat,
            parking=self._tip_parking,
            parked=self._tip_parked,
            leave=self._leave,
            guard_gone=self._guard_gone,
        )
        self._gate = Gate(self._link.quiet)
        self._executor = Executor(self._electronics.driver, info, self._limits, self._gate, self._link)
        self._desk = Desk(
            self._spool,
            self._queue,
            self._executor,
            self._limits,
            info,
            self._link,
            lambda: self._gate.closed,
        )
        self._commands = CommandServer(options.commands, "stmgate worker")
        self._streams = StreamServer(options.data, self._desk)
        self._desk.statistics = self._statistics
        self._waker = Waker()
        self._reactor = Reactor()
        self._reactor.add_commands(self._commands, self._serve)
        self._reactor.add_streams(self._streams)
        self._reactor.add_waker(self._waker, self._woken)
        self._discard_reason = ""
        self._ends: list[tuple[Job, EndOfStream]] = []
        self._ends_lock = threading.Lock()
        self._loop_s = time.monotonic()
        self._signal = ""
        self._asked_park = False
        self._going: threading.Event = threading.Event()
        self._status = 0
        self._job_thread = threading.Thread(target=self._act_on_jobs, name="jobs", daemon=True)

    # The main thread

    def run(self) -> int:
        """Serve until the guard says leave, or is gone; returns the exit status."""
        self._desk.settled = False
        try:
            self._desk.settle()
            self._spool.prune()
        except StorageError as problem:
            log.error("the spool cannot be written", problem=str(problem))
        self._job_thread.start()
        self._link.start()
        self._link.tell(WorkerReady(commands=self._commands.endpoint, data=self._streams.endpoint))
        log.info("worker serves", commands=self._commands.endpoint, data=self._streams.endpoint)
        while not self._going.is_set():
            self._reactor.run_once(TICK_S)
            self._loop_s = now = time.monotonic()
            self._desk.look_at_deadlines(now)
            self._look_for_stalled_job(now)
            if self._signal and not self._asked_park:
                self._asked_park = True
                self._link.ask_park(f"worker: {self._signal}", "signal")
        self._queue.close()
        self._commands.close()
        self._streams.close()
        return self._status

    def ask_to_leave(self, reason: str) -> None:
        """For signal handlers: have the tip parked, then end."""
        self._signal = reason
        self._waker.wake()

    def _serve(self, request: Request) -> None:
        try:
            request.reply(self._desk.answer(request.message))
        except TunnelpilotError as problem:
            kind = type(request.message).__name__
            log.info("refused", kind=kind, peer=request.peer, reason=str(problem))
            request.refuse(problem)

    def _woken(self) -> None:
        with self._ends_lock:
            ends, self._ends = self._ends, []
        for job, end in ends:
            self._desk.ended(job, end)
        reason, self._discard_reason = self._discard_reason, ""
        if reason:
            self._desk.discard_waiting(reason)
            self._queue.release()

    def _statistics(self) -> tuple[int, int]:
        commands, streams = self._commands.statistics, self._streams.statistics
        malformed = sum(
            found[k] for found in (commands, streams) for k in ("malformed", "unknown", "version")
        )
        return streams["open"], malformed

    def _look_for_stalled_job(self, now_s: float) -> None:
        job = self._queue.running
        if job is None or job.end is not None or self._gate.closed:
            return
        if now_s - job.deadline_s > STALLED_S:
            self._link.ask_park(f"job {job.job_id} does not come to an end", "job")

    # The job thread

    def _act_on_jobs(self) -> None:
        job = self._queue.wait()
        while job is not None:
            try:
                self._act_on(job)
            except Exception:
                # A fault of ours must not leave a silent worker behind: the guard parks and starts a new one.
                log.exception("the job thread failed", job=job.job_id)
                os._exit(70)
            job = self._queue.running or self._queue.wait()

    def _act_on(self, job: Job) -> None:
        if job.state is JobState.READY:
            job.machine.feed("start")
        if not job.intent_written:
            self._write_intent(job)
        job.began_monotonic_s = time.monotonic()
        structlog.contextvars.bind_contextvars(job=job.job_id)
        stored = _Lines(self._spool, job, self._waker)
        outcome = self._executor.run(job, stored.emit)
        self._end(job, outcome, stored)
        if outcome.final is None:
            self._electronics.reopen()
        structlog.contextvars.unbind_contextvars("job")

    def _write_intent(self, job: Job) -> None:
        """Nothing is acted on before its intent is on disk; a job whose intent cannot be written is cut."""
        try:
            self._spool.begin(job.job_id)
            job.intent_written = True
        except StorageError as problem:
            job.cut_kind, job.cut = "cancel", f"discarded: {problem.text}"

    def _end(self, job: Job, outcome: Outcome, stored: _Lines) -> None:
        """Write the result and the intent of the next job in one commit; then let readers see it."""
        chunks = stored.visible + [
            Chunk(job_id=job.job_id, seq=len(stored.visible) + k, body=body)
            for k, body in enumerate(outcome.chunks)
        ]
        finished = outcome.state is JobState.FINISHED
        if not finished:
            chunks = stored.visible
        end = EndOfStream(
            job_id=job.job_id,
            last_seq=len(chunks) - 1,
            state=outcome.state,
            reason=outcome.reason,
            began_s=outcome.began_s,
            ended_s=outcome.ended_s,
            final=outcome.final,
            travel_s=outcome.travel_s,
            settle_s=outcome.settle_s,
        )
        job.limit = outcome.limit
        job.machine.feed(_EVENTS[outcome.state])
        following = self._queue.advance()
        if following is not None and outcome.disturbed:
            following.cut, following.cut_kind = f"discarded: {outcome.reason}", "cancel"
        try:
            blobs = [(c.seq, c.job_id, encode_body(c)) for c in chunks[stored.stored :]]
            self._spool.finish(end, blobs, outcome.limit, following.job_id if following else None)
            if following is not None:
                following.intent_written = True
                if self._spool.reserve.missing_bytes:
                    following.cut, following.cut_kind = "discarded: the disk is full", "cancel"
            if finished:
                job.machine.feed("committed")
        except StorageError as problem:
            log.error("a result could not be written", job=job.job_id, problem=str(problem))
            if finished:
                job.machine.feed("commit-failed")
                chunks = stored.visible
                end = EndOfStream(
                    job_id=job.job_id,
                    last_seq=len(chunks) - 1,
                    state=JobState.FAILED,
                    reason=f"the result could not be written: {problem.text}",
                    began_s=outcome.began_s,
                    ended_s=outcome.ended_s,
                    final=outcome.final,
                )
            self._desk.not_saved(end, outcome.limit)
        log.info("job ended", state=end.state.value, reason=end.reason, chunks=len(chunks))
        job.chunks = chunks
        job.end = end
        with self._ends_lock:
            self._ends.append((job, end))
        self._waker.wake()

    # The link thread

    def _beat(self) -> WorkerBeat:
        running = self._queue.running
        return WorkerBeat(
            running=running.job_id if running else "", stalled_s=time.monotonic() - self._loop_s
        )

    def _tip_parking(self, generation: int, reason: str) -> None:
        self._queue.hold()
        self._executor.tip_parking()
        self._gate.close(generation, reason)
        self._discard_reason = f"parked ({reason})"
        self._waker.wake()

    def _tip_parked(self, generation: int) -> None:
        if generation >= self._gate.generation:
            self._executor.tip_parked()
            self._gate.open(generation)
        if self._signal:
            self._leave()

    def _leave(self) -> None:
        self._going.set()
        self._waker.wake()

    def _guard_gone(self, reason: str) -> None:
        """Withdraw at once; carry the park through; end."""
        if self._going.is_set():
            return
        self._queue.hold()
        self._executor.tip_parking()
        parked = threading.Event()
        waited_since_s = time.monotonic()
        parker = Parker(
            self._electronics.driver,
            self._limits,
            silence=self._gate.close,
            is_silent=lambda: self._gate.is_quiet,
            confirmed=lambda generation: parked.set(),
            alarm=lambda text: log.error("parking without a guard", problem=text) if text else None,
        )
        self._gate.close(self._gate.generation + 1, f"the guard is gone: {reason}")
        parker.generation = self._gate.generation
        parker.order(f"the guard is gone: {reason}", "guard")
        self._discard_reason = "parked (the guard is gone)"
        self._waker.wake()
        log.error("the guard is gone; parking", reason=reason)
        while not parked.is_set() and time.monotonic() - waited_since_s < CONFIRM_WITHIN_S:
            if parker.wants_reading and not self._gate.is_quiet:
                if time.monotonic() - waited_since_s < QUIET_WITHIN_S:
                    time.sleep(0.002)  # the connection belongs to the job thread until its call has returned
                    continue
                if self._electronics.reopen():  # it hangs; the old connection is its own from now on
                    self._gate.abandon()
            parker.step()
        if not parked.is_set():
            log.error("the park could not be confirmed without a guard")
            self._status = 1
        else:
            log.info("parked without a guard; ending")
        self._leave()


class _Lines:
    """The lines of a running frame: visible at once, on disk every now and then."""

    def __init__(self, spool: Spool, job: Job, waker: Waker) -> None:
        self._spool, self._job, self._waker = spool, job, waker
        self._stored_s = time.monotonic()
        self.visible = job.chunks
        self.stored = 0

    def emit(self, body: ChunkBody) -> None:
        """Take lines.

        Raises:
            DiskFullError, StorageError: they cannot be kept; the frame ends.
        """
        self.visible.append(Chunk(job_id=self._job.job_id, seq=len(self.visible), body=body))
        self._waker.wake()
        now = time.monotonic()
        waiting = len(self.visible) - self.stored
        if waiting >= STORE_CHUNKS or now - self._stored_s > STORE_AFTER_S:
            blobs = [(c.seq, c.job_id, encode_body(c)) for c in self.visible[self.stored :]]
            self._spool.store_chunks(blobs)
            self.stored, self._stored_s = len(self.visible), now


_EVENTS = {
    JobState.FINISHED: "finish",
    JobState.REFUSED: "refuse",
    JobState.FAILED: "fail",
    JobState.INTERRUPTED: "interrupt",
    JobState.OUTCOME_UNKNOWN: "lose-track",
}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m actors.gateway.worker", description="Started by stmgate.")
    for name in ("--state", "--limits", "--driver", "--driver-endpoint", "--commands", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until its guard lets it go; returns the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    options = _parse(arguments)
    configure_logging(
        "worker",
        Path(options.state) / "gateway" / "worker.log",
        terminal=options.verbose,
        level="DEBUG" if options.verbose else "INFO",
    )
    sys.setswitchinterval(0.001)
    try:
        worker = Worker(options)
    except TunnelpilotError as problem:
        log.error("the worker cannot start", problem=str(problem))
        sys.stderr.write(f"{problem}\n")
        return 2

    def leave(number: int, frame: object) -> None:
        worker.ask_to_leave(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    status = worker.run()
    os._exit(status)  # the job thread may hang in the electronics; nothing is left to be saved


if __name__ == "__main__":
    sys.exit(main())
