"""Starts stmsim and stmgate as processes, talks to them, and reads the truth log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from protocols.errors import RefusedError, TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.files.truth_log import TruthEntry, read_truth, truth_path
from protocols.links.client import CommandClient
from protocols.messages.base import Message
from protocols.messages.control import AcquireLease, GuardQuery, GuardStatus, LeaseGranted, RenewLease
from protocols.messages.jobs import FINAL_STATES, JobAnswer, QueryJob, SubmitJob
from protocols.messages.recipes import Engage, Recipe, SpectrumRecipe, Sweep

T = TypeVar("T")

PATIENCE_S = 20.0

SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=5e-11,
    settle_s=0.02,
    z_offset_m=0.0,
    start_v=0.5,
    stop_v=0.1,
    points=21,
    dwell_s=0.002,
)

LONG_SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=5e-11,
    settle_s=0.02,
    z_offset_m=0.0,
    start_v=0.5,
    stop_v=0.1,
    points=100,
    dwell_s=0.3,
)
"""30 s of sweep: whatever a test does happens in its middle."""


def await_that(what: str, look: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
    """Look until it is true; errors of ours count as not yet."""
    deadline = time.monotonic() + patience_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = look()
        except (TunnelpilotError, OSError) as problem:
            last = problem
        else:
            if found:
                return found
            last = found
        time.sleep(0.005)
    raise AssertionError(f"awaited {what} for {patience_s} s; last: {last!r}")


class Simulator:
    """A running stmsim."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.state = state
        self.arguments = arguments
        self.start()

    def start(self) -> None:
        """Start it (again)."""
        module = [sys.executable, "-m", "sim_hardware.stmsim"]
        self.process = subprocess.Popen([*module, "--state", str(self.state), "--seed", "3", *self.arguments])

        def serves() -> str:
            found = read_endpoints(self.state, "sim")
            return str(found["door"]) if found["pid"] == self.process.pid else ""

        self.door = await_that("stmsim", serves)

    def truth(self, *events: str) -> list[TruthEntry]:
        """Entries of these kinds (all kinds if none is named)."""
        return [e for e in read_truth(truth_path(self.state)) if not events or e.event in events]

    def mark(self) -> int:
        """Number of the next entry."""
        return self.truth()[-1].n + 1

    def since(self, mark: int, *events: str) -> list[TruthEntry]:
        """Entries from ``mark`` on."""
        return [e for e in self.truth(*events) if e.n >= mark]

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


class Gateway:
    """A running stmgate, with a client of each of its sockets."""

    def __init__(self, state: Path, door: str, *arguments: str) -> None:
        self.state = state
        self.door = door
        self._clients: dict[str, CommandClient] = {}
        self.epoch = 0
        self.start(*arguments)

    def start(self, *arguments: str) -> None:
        """Start it (again) and wait until its worker serves."""
        command = [
            *(sys.executable, "-m", "actors.console.stmgate"),
            *("--state", str(self.state), "--driver-endpoint", self.door, *arguments),
        ]
        self.process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        self._drop_clients()

        def serves() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"stmgate ended: {self.process.returncode}, {self.errors()}")
            found = read_endpoints(self.state, "gateway")
            return bool(found["pid"] == self.process.pid and found["commands"])

        await_that("stmgate", serves)

    def errors(self) -> str:
        """What it wrote to stderr, once it has ended."""
        return self.process.communicate()[1].decode()

    def ask(self, message: Message, socket: str = "") -> Any:
        """Ask the guard (``safety``) or the worker (``commands``); found by the kind of message."""
        if not socket:
            guards = {"AcquireLease", "RenewLease", "ReleaseLease", "GuardQuery", "AcknowledgeLatch", "Stop"}
            socket = "safety" if type(message).__name__ in guards else "commands"
        endpoint = str(read_endpoints(self.state, "gateway")[socket])
        client = self._clients.get(socket)
        if client is None:
            client = self._clients[socket] = CommandClient(endpoint, "test", socket)
        elif client.endpoint != endpoint:
            client.reconnect(endpoint)
        return client.request(message, 3.0)

    def guard(self) -> GuardStatus:
        """The guard's status."""
        status = self.ask(GuardQuery())
        assert isinstance(status, GuardStatus)
        return status

    def endpoint(self, socket: str) -> str:
        """Where a socket is: "safety", "commands" or "data"."""
        return str(read_endpoints(self.state, "gateway")[socket])

    def acquire(self, duration_s: float = 10.0) -> int:
        """Own the tip, as soon as that is possible; the epoch."""

        def granted() -> LeaseGranted | None:
            try:
                answer = self.ask(AcquireLease(owner="test", duration_s=duration_s))
            except RefusedError:
                return None
            assert isinstance(answer, LeaseGranted)
            return answer

        self.epoch = await_that("the lease", granted).epoch
        return self.epoch

    def submit(self, job_id: str, recipe: Recipe, **changes: Any) -> JobAnswer:
        """Submit a job once."""
        fields = {"epoch": self.epoch, "deadline_s": 60.0, **changes}
        answer = self.ask(SubmitJob(job_id=job_id, recipe=recipe, **fields))
        assert isinstance(answer, JobAnswer)
        return answer

    def state_of(self, job_id: str) -> JobAnswer:
        """The state of a job."""
        answer = self.ask(QueryJob(job_id=job_id))
        assert isinstance(answer, JobAnswer)
        return answer

    def final(self, job_id: str) -> JobAnswer:
        """Wait for a job's final state, keeping the lease alive."""

        def over() -> JobAnswer | None:
            answer = self.state_of(job_id)
            return answer if answer.state in FINAL_STATES else None

        return await_that(f"the end of {job_id}", over)

    def engage(self, job_id: str = "test/engage/a1") -> None:
        """Bring the tip to the surface."""
        self.submit(job_id, Engage(bias_v=0.5, setpoint_a=5e-11, settle_s=0.05))
        answer = self.final(job_id)
        assert answer.state == "finished", answer

    def sweep(self, job_id: str, x_m: float = 0.0, spectrum: SpectrumRecipe = SPECTRUM) -> JobAnswer:
        """Submit a sweep."""
        return self.submit(job_id, Sweep(x_m=x_m, y_m=0.0, spectrum=spectrum))

    def renew(self) -> None:
        """Renew the lease."""
        self.ask(RenewLease(epoch=self.epoch))

    def parked(self, cause: str = "") -> GuardStatus:
        """Wait until the guard says parked (for that cause)."""

        def look() -> GuardStatus | None:
            status = self.guard()
            return status if status.park == "parked" and cause in ("", status.last_park_cause) else None

        return await_that(f"a park ({cause})", look)

    def worker_pid(self) -> int:
        """Process id of the worker that serves."""
        return int(read_endpoints(self.state, "gateway")["worker_pid"])

    def close(self) -> None:
        """End it, whatever state it is in; nothing is left behind."""
        self._drop_clients()
        pids = {self.worker_pid()} if (self.state / "gateway" / "endpoints.json").exists() else set()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
        await_that("the worker's end", lambda: not any(is_alive(pid) for pid in pids), 10.0)

    def _drop_clients(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> float:
    """SIGKILL; returns the monotonic time of it."""
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return at


@contextmanager
def gateway(state: Path, door: str, *arguments: str) -> Iterator[Gateway]:
    """A gateway that is ended at the end."""
    running = Gateway(state, door, *arguments)
    try:
        yield running
    finally:
        running.close()
