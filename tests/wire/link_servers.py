"""Servers for the tests of the links, in threads or as processes that can be killed.

Run as a program: ``link_servers.py commands|stream ENDPOINT [CHUNKS [BYTES]]`` prints the real endpoint and
serves until it is killed.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from protocols.errors import UsageError
from protocols.links.reactor import Reactor, Waker
from protocols.links.server import CommandServer, Request
from protocols.links.streams import StreamServer
from protocols.messages.control import Done
from protocols.messages.data import Channel, Chunk, EndOfStream, FrameLines
from protocols.messages.jobs import JobState

DEADLINE_S = 20.0
"""For everything that must happen in a test; never part of what is asserted."""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds.

    Raises:
        AssertionError: it did not within ``DEADLINE_S``.
    """
    pause = threading.Event()
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        pause.wait(0.005)


async def eventually_on_loop(condition: Callable[[], bool]) -> None:
    """As ``eventually``, letting the loop run meanwhile."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  (the condition has no event of its own)
            await asyncio.sleep(0.002)


class CountedSource:
    """A job "run/f1/a1" of so many chunks of so many bytes; ``available`` of them are there by now."""

    job_id = "run/f1/a1"

    def __init__(self, chunks: int, size: int = 64, available: int | None = None) -> None:
        self.chunks = chunks
        self.available = chunks if available is None else available
        self.finished = available is None
        self.reads: list[int] = []
        self._values = np.zeros(size, dtype=np.uint8)

    def read(self, job_id: str, seq: int) -> Chunk | EndOfStream | None:
        """As ``StreamSource`` says; each chunk carries its own number in its ``rows``."""
        if job_id != self.job_id:
            raise UsageError(f"no such job: {job_id}.", "Submit it first.")
        if seq >= self.chunks:
            if not self.finished:
                return None
            return EndOfStream(job_id=job_id, last_seq=self.chunks - 1, state=JobState.FINISHED)
        if seq >= self.available:
            return None
        self.reads.append(seq)
        channel = Channel(name="z", unit="m", values=self._values)
        return Chunk(job_id=job_id, seq=seq, body=FrameLines(rows=(seq,), channels=(channel,), time_s=0.0))


def answer_done(request: Request) -> None:
    """Every request is answered with Done and the name of who asked."""
    request.reply(Done(note=request.peer))


@contextmanager
def reacting(reactor: Reactor) -> Iterator[Waker]:
    """Run a reactor in a thread of its own; the waker wakes it."""
    waker = Waker()
    reactor.add_waker(waker)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            reactor.run_once(DEADLINE_S)

    thread = threading.Thread(target=serve, name="reactor")
    thread.start()
    try:
        yield waker
    finally:
        stopping.set()
        waker.wake()
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "the reactor's thread did not end"
        waker.close()


@contextmanager
def serving_commands(
    handler: Callable[[Request], None] = answer_done, endpoint: str = "tcp://127.0.0.1:0", **options: int
) -> Iterator[CommandServer]:
    """A command server in a thread."""
    with CommandServer(endpoint, "server", ("frames",), **options) as server:
        reactor = Reactor()
        reactor.add_commands(server, handler)
        with reacting(reactor):
            yield server


@contextmanager
def serving_stream(
    source: CountedSource, endpoint: str = "tcp://127.0.0.1:0"
) -> Iterator[tuple[StreamServer, Waker]]:
    """A stream server in a thread, and the waker that says there is more."""
    with StreamServer(endpoint, source) as server:
        reactor = Reactor()
        reactor.add_streams(server)
        with reacting(reactor) as waker:
            yield server, waker


class ServerProcess:
    """A server in a process of its own."""

    def __init__(self, kind: str, endpoint: str = "tcp://127.0.0.1:0", *options: int) -> None:
        command = [sys.executable, __file__, kind, endpoint, *map(str, options)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        self.pid = self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


def main(kind: str, endpoint: str, chunks: str = "0", size: str = "64") -> None:
    """Serve until killed."""
    reactor = Reactor()
    server: CommandServer | StreamServer
    if kind == "commands":
        server = CommandServer(endpoint, "server")
        reactor.add_commands(server, answer_done)
    else:
        server = StreamServer(endpoint, CountedSource(int(chunks), int(size)))
        reactor.add_streams(server)
    sys.stdout.write(server.endpoint + "\n")
    sys.stdout.flush()
    while True:
        reactor.run_once(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
