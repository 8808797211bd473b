"""The guard's view of one worker process: start it, listen to it, know when it acts no more, end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from actors.gateway.internal import (
    BEAT_S,
    SILENCE_S,
    AskPark,
    GuardBeat,
    Internal,
    InternalLink,
    Quiet,
    WorkerBeat,
    WorkerReady,
)
from protocols.errors import LinkLostError

log = structlog.get_logger(__name__)

MISCONFIGURED = 2
"""Exit status of a worker that cannot be what it was told to be."""

START_S = 30.0
"""A worker that is not ready by then counts as dead."""

STUCK_S = 20.0
"""A worker whose main loop made no progress for so long counts as dead."""


class WorkerProcess:
    """One worker, from its start to its death.

    ``gone`` is called once, from the link's thread, as soon as the worker is dead or silent; ``ask_park`` at
    once when the worker asks for a park; every other message goes to ``heard``.  ``beat`` gives what the next
    heartbeat says, or None when the guard's own loop makes no progress.
    """

    def __init__(
        self,
        arguments: list[str],
        errors: Path,
        *,
        beat: Callable[[], GuardBeat | None],
        gone: Callable[[WorkerProcess, str], None],
        ask_park: Callable[[AskPark], None],
        heard: Callable[[WorkerProcess, Internal], None],
    ) -> None:
        self._beat, self._gone, self._ask_park, self._heard = beat, gone, ask_park, heard
        ours, theirs = InternalLink.pair()
        command = [sys.executable, "-m", "actors.gateway.worker", *arguments, "--link", str(theirs.fileno())]
        with errors.open("wb") as stream:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        theirs.close()
        self._errors = errors
        self._link = InternalLink(ours)
        self._started_s = time.monotonic()
        self._stalled_s = 0.0
        self.ready: WorkerReady | None = None
        self.running = ""
        self.leaving = False
        """The guard has told it to go: its end is no fault."""
        self.quiet_generation = 0
        self._thread = threading.Thread(target=self._listen, name="worker-link", daemon=True)

    def listen(self) -> None:
        """Begin to listen; callbacks come from now on."""
        self._thread.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process exists."""
        return self._process.poll() is None

    def send(self, message: Internal) -> bool:
        """Tell the worker; False if it is gone."""
        try:
            self._link.send(message)
        except LinkLostError:
            return False
        return True

    def acts_no_more(self, generation: int) -> bool:
        """Whether nothing of it acts on the electronics since that park order."""
        return self.quiet_generation >= generation or not self.alive

    def kill(self, reason: str) -> None:
        """End it at once and wait until it is gone."""
        if self.alive:
            log.error("worker killed", pid=self.pid, reason=reason)
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def misconfigured(self) -> bool:
        """Whether it ended because an option is wrong or a port taken: it says so with status 2."""
        return self._process.poll() == MISCONFIGURED

    def last_words(self) -> str:
        """How it ended: exit status or signal, and the end of what it wrote to stderr."""
        code = self._process.poll()
        how = (
            "still running"
            if code is None
            else (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}")
        )
        try:
            with self._errors.open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - 500))
                lines = stream.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{how}; {lines[-1]}" if lines else how

    def _listen(self) -> None:
        next_beat_s = 0.0
        try:
            while True:
                now = time.monotonic()
                if now >= next_beat_s:
                    next_beat_s = now + BEAT_S
                    beat = self._beat()
                    if beat is not None:
                        self._link.send(beat)
                message = self._link.receive(max(0.0, next_beat_s - now))
                if message is not None:
                    self._take(message)
                self._require_life()
        except LinkLostError as lost:
            reason = str(lost)
        self._gone(self, reason)
        self._link.close()

    def _take(self, message: Internal) -> None:
        match message:
            case WorkerReady():
                self.ready = message
                self._heard(self, message)
            case WorkerBeat():
                self.running, self._stalled_s = message.running, message.stalled_s
            case Quiet():
                self.quiet_generation = max(self.quiet_generation, message.generation)
            case AskPark():
                self._ask_park(message)
            case _:
                self._heard(self, message)

    def _require_life(self) -> None:
        silent_s = self._link.silent_for_s()
        if self.ready is None:
            if time.monotonic() - self._started_s > START_S:
                raise LinkLostError(f"the worker was not ready after {START_S:g} s")
        elif silent_s > SILENCE_S:
            raise LinkLostError(f"the worker was silent for {silent_s:.2f} s")
        elif self._stalled_s > STUCK_S:
            raise LinkLostError(f"the worker's main loop stood still for {self._stalled_s:.1f} s")
