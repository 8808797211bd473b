"""The processes under garbage: where they listen, what they weigh, whether they answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Iterator, Sequence
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
from tests.soak.weights import FILES, MOST_FILES, PERIOD_S, Weights

SPARE = "spare"
"""Folder of the state directory with a second simulated microscope, which nobody works with."""
PROBE_S = 0.2
CLOSING_S = 10.0


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
SPARE_DOOR = Port("the spare's door", "spare stmsim", f"{SPARE}/sim", "door", SimQuery())
CONSOLE = Port("console", "daemon", "daemon", "console", DaemonQuery(points=0))


def endpoint(state: Path, port: Port) -> str:
    """Where it is now."""
    return str(read_endpoints(state, port.folder)[port.key])


def nanonis_endpoints(state: Path) -> tuple[list[str], list[str]]:
    """Nanonis ports of the microscope with that state directory, and the port of its TCP logger."""
    found = read_endpoints(state, "sim")
    places = [f"tcp://127.0.0.1:{number}" for number in [*found["nanonis_ports"], found["nanonis_log_port"]]]
    return places[:-1], places[-1:]


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
    files_before: int
    weights: Weights
    after_mib: float = 0.0
    files_after: int = 0
    pid_after: int = 0
    asked: int = 0
    answered: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)


class Watch:
    """Takes the processes' measure before and after, and asks all ports meanwhile."""

    def __init__(self, state: Path, ports: Sequence[Port]) -> None:
        self.state = state
        self.ports = ports
        self.endpoints = [endpoint(state, port) for port in ports]
        self.subjects: dict[str, Subject] = {}
        self._others: dict[str, str] = {}
        self._held: dict[str, set[int]] = {}
        self._holding: list[str] = []
        for port in ports:
            self._measure(port.process, pid(state, port))
        self.starved_s = 0.0
        """The longest that this process, which wants next to nothing, had to wait for a processor."""
        self._over = threading.Event()
        self._rng = random.Random(0)

    def also(self, name: str, key: str) -> None:
        """Weigh a process of Ray's too, published by the daemon under ``key``; it is not asked anything."""
        self._others[name] = key
        self._measure(name, int(read_endpoints(self.state, "daemon")[key]))

    def weigh(self, name: str, number: int) -> None:
        """Weigh any other process too; it is not asked anything, and nobody publishes its pid."""
        self._measure(name, number)
        self.subjects[name].pid_after = number

    def speak_grpc(self, pids: Collection[int]) -> None:
        """These have ports of Ray."""
        for subject in self.subjects.values():
            subject.weights.speaks_grpc = subject.pid in pids

    def hold(self, name: str, ports: Sequence[str]) -> None:
        """Expect a process to keep the connections that it now has to these endpoints."""
        self._held[name] = self._connections(name, ports)
        self._holding = list(ports)
        if len(self._held[name]) == 0:
            self.subjects[name].faults.append("is not connected to the electronics")

    def _connections(self, name: str, ports: Sequence[str]) -> set[int]:
        """Own port numbers of its connections to these endpoints."""
        wanted = {int(place.rpartition(":")[2]) for place in ports}
        try:
            found = psutil.Process(self.subjects[name].pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return set()
        return {
            one.laddr.port
            for one in found
            if one.raddr and one.raddr.port in wanted and one.status == psutil.CONN_ESTABLISHED
        }

    def _measure(self, name: str, number: int) -> None:
        process = psutil.Process(number)
        weights = Weights(process)
        weights.take()
        self.subjects[name] = Subject(
            name, process.pid, process.create_time(), weights.mib[0], weights.files[0], weights
        )

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Ask every port again and again, and weigh every process, from threads."""
        threads = [threading.Thread(target=work) for work in (self._probe, self._weigh)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)
        for name, held in self._held.items():
            if lost := held - self._connections(name, self._holding):
                self.subjects[name].faults.append(
                    f"lost {len(lost)} of {len(held)} connections to the electronics"
                )

    def _weigh(self) -> None:
        due = time.monotonic() + PERIOD_S
        while not self._over.wait(max(due - time.monotonic(), 0.0)):
            self.starved_s = max(self.starved_s, time.monotonic() - due)
            due = time.monotonic() + PERIOD_S
            for subject in self.subjects.values():
                subject.weights.take()

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
            wanted = MOST_FILES if subject.weights.speaks_grpc else subject.files_before + FILES
            subject.files_after = _settled_files(process, wanted)
        except psutil.NoSuchProcess:
            subject.faults.append(f"process {subject.pid} died")
            return
        subject.faults += subject.weights.faults(subject.before_mib)
        if subject.files_after > subject.files_before + FILES and not subject.weights.speaks_grpc:
            subject.faults.append(f"has {subject.files_after} open files, had {subject.files_before}")


def _settled_files(process: psutil.Process, wanted: int) -> int:
    """Its open files, as soon as there are so few; libraries close what peers have left a moment later."""
    until = time.monotonic() + CLOSING_S
    while (found := int(process.num_fds())) > wanted and time.monotonic() < until:
        time.sleep(0.1)
    return found
