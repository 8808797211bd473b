"""The processes under garbage: where they listen, what they weigh, whether they answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from protocols.errors import TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.codec import encode
from protocols.messages.control import GuardQuery, Hello, WorkerQuery
from protocols.messages.daemon import DaemonQuery
from protocols.messages.data import OpenStream
from protocols.messages.simdoor import SimQuery
from tests.soak.garbage import NOBODY, Dealer

GROWTH_MIB = 64.0
"""Memory that a process may gain while it works through garbage: less than one frame of the largest size."""

PROBE_S = 0.2


@dataclass(frozen=True)
class Port:
    """One port: process, folder and key under which it is published, and a question it answers."""

    name: str
    process: str
    folder: str
    key: str
    question: Message
    pid_key: str = "pid"


PORTS = (
    Port("safety", "guard", "gateway", "safety", GuardQuery()),
    Port("commands", "worker", "gateway", "commands", WorkerQuery(), "worker_pid"),
    Port("data", "worker", "gateway", "data", OpenStream(job_id=NOBODY), "worker_pid"),
    Port("journal", "journal writer", "journal", "commands", GuardQuery()),
    Port("stmsim's door", "stmsim", "sim", "door", SimQuery()),
)
CONSOLE = Port("console", "daemon", "daemon", "console", DaemonQuery(points=0))


def endpoint(state: Path, port: Port) -> str:
    """Where it is now."""
    return str(read_endpoints(state, port.folder)[port.key])


def pid(state: Path, port: Port) -> int:
    """Whose it is now."""
    return int(read_endpoints(state, port.folder)[port.pid_key])


def ask(where: str, question: Message) -> float:
    """Greet and ask over a connection of its own; seconds until the answer (a refusal is one).

    Raises:
        TunnelpilotError, AssertionError: no answer in time, or an unreadable one.
    """
    began = time.monotonic()
    with Dealer(where) as dealer:
        dealer.ask(encode(Hello(peer="probe", protocol=PROTOCOL_VERSION), "hello"), "hello")
        if dealer.ask(encode(question, "question"), "question") is None:
            raise AssertionError(f"{where} did not answer a {type(question).__name__}")
    return time.monotonic() - began


@dataclass
class Subject:
    """A process as it was before and is after."""

    name: str
    pid: int
    born_s: float
    before_mib: float
    after_mib: float = 0.0
    pid_after: int = 0
    asked: int = 0
    answered: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def gained_mib(self) -> float:
        """Memory gained."""
        return self.after_mib - self.before_mib


class Watch:
    """Takes the processes' measure before and after, and asks all ports meanwhile."""

    def __init__(self, state: Path, ports: Sequence[Port]) -> None:
        self.state = state
        self.ports = ports
        self.endpoints = [endpoint(state, port) for port in ports]
        self.subjects: dict[str, Subject] = {}
        self._others: dict[str, str] = {}
        for port in ports:
            self._measure(port.process, pid(state, port))
        self._over = threading.Event()
        self._rng = random.Random(0)

    def also(self, name: str, key: str) -> None:
        """Weigh a process of Ray's too, published by the daemon under ``key``; it is not asked anything."""
        self._others[name] = key
        self._measure(name, int(read_endpoints(self.state, "daemon")[key]))

    def _measure(self, name: str, number: int) -> None:
        process = psutil.Process(number)
        weight = process.memory_info().rss / 2**20
        self.subjects[name] = Subject(name, process.pid, process.create_time(), weight)

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Ask every port again and again from a thread."""
        thread = threading.Thread(target=self._probe)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(60)

    def _probe(self) -> None:
        while not self._over.wait(PROBE_S):
            for port, where in zip(self.ports, self.endpoints, strict=True):
                self._ask(port, where)

    def _ask(self, port: Port, where: str) -> None:
        subject = self.subjects[port.process]
        subject.asked += 1
        try:
            subject.slowest_s = max(subject.slowest_s, ask(where, port.question))
            subject.answered += 1
        except (TunnelpilotError, AssertionError, OSError) as fault:
            subject.faults.append(f"{port.name}: {fault}")

    def conclude(self) -> list[Subject]:
        """Once more, after everything: the same processes, at the same places, answering, not grown."""
        for port, where in zip(self.ports, self.endpoints, strict=True):
            self._ask(port, where)
            subject = self.subjects[port.process]
            if endpoint(self.state, port) != where:
                subject.faults.append(f"{port.name} moved from {where} to {endpoint(self.state, port)}")
            subject.pid_after = pid(self.state, port)
        for name, key in self._others.items():
            self.subjects[name].pid_after = int(read_endpoints(self.state, "daemon")[key])
        for subject in self.subjects.values():
            self._conclude(subject)
        return list(self.subjects.values())

    def _conclude(self, subject: Subject) -> None:
        if subject.pid_after != subject.pid:
            subject.faults.append(f"process {subject.pid} was replaced by {subject.pid_after}")
        try:
            process = psutil.Process(subject.pid)
            if process.create_time() != subject.born_s or process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.NoSuchProcess(subject.pid)
            subject.after_mib = process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            subject.faults.append(f"process {subject.pid} died")
            return
        if subject.gained_mib > GROWTH_MIB:
            subject.faults.append(f"gained {subject.gained_mib:.0f} MiB, allowed are {GROWTH_MIB:.0f}")
