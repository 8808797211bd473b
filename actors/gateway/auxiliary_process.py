"""The process that reads auxiliary instruments: ``python -m actors.gateway.auxiliary_process --state DIR``.

The daemon says which instruments (SetUpAuxiliary) and asks for readings (AuxiliaryQuery).  One thread per
port; this one only answers.  It ends when told to (SIGTERM), or when nobody has asked for a while.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import structlog

from actors.gateway.auxiliary import Poller, PollerThread, ReadingRing
from protocols.errors import TunnelpilotError, UnknownMessageError
from protocols.files.logs import configure_logging
from protocols.files.state_directory import ProcessLock, default_state_directory, publish_endpoints
from protocols.instrument.auxiliary import AuxiliaryInstrument
from protocols.links.server import CommandServer, Request
from protocols.messages.auxiliary import AuxiliaryNews, AuxiliaryQuery, SetUpAuxiliary
from protocols.messages.base import Message
from protocols.messages.campaign import AuxiliarySection
from protocols.messages.control import Done

PROCESS = "auxiliary"
POLL_S = 0.2
UNASKED_S = 60.0
"""A process that nobody asks for so long has no daemon any more."""
PORT_FREE_S = 3.0
"""A thread that is told to end lets go of its port within this time, or is left alone."""
MOST = 1000
"""Readings in one answer."""

log = structlog.get_logger(__name__)

Opener = Callable[[AuxiliarySection], AuxiliaryInstrument]


class AuxiliaryReader:
    """The instruments that are read at present, and what they said."""

    def __init__(self, open_it: Opener) -> None:
        self._open_it = open_it
        self.ring = ReadingRing()
        self._threads: list[PollerThread] = []

    def answer(self, message: Message) -> Message:
        """Do what is asked.

        Raises:
            UnknownMessageError: something else was asked.
        """
        match message:
            case SetUpAuxiliary():
                self.set_up(message.instruments)
                return Done(note=f"{len(self._threads)} instruments")
            case AuxiliaryQuery():
                return self.news(message.after, min(message.limit, MOST))
            case _:
                kind = type(message).__name__
                raise UnknownMessageError(
                    f"the {PROCESS} process has nothing to do with a {kind}.", kind=kind
                )

    def set_up(self, sections: tuple[AuxiliarySection, ...]) -> None:
        """Read these and no others; those that are the same go on undisturbed."""
        kept = [t for t in self._threads if t.poller.section in sections]
        self._end([t for t in self._threads if t not in kept])
        known = [t.poller.section for t in kept]
        self._threads = kept
        for section in sections:
            if section not in known:
                log.info("instrument wanted", name=section.name, model=section.model, port=section.port)
                thread = PollerThread(Poller(section, self._open_it, self.ring))
                thread.start()
                self._threads.append(thread)

    def news(self, after: int, limit: int) -> AuxiliaryNews:
        """Readings with a higher number, and how every instrument does."""
        readings = self.ring.after(after, limit)
        return AuxiliaryNews(
            pid=os.getpid(),
            readings=readings,
            next=readings[-1].number if readings else min(after, self.ring.last),
            waiting=max(self.ring.waiting - len(readings), 0),
            bound=self.ring.bound,
            most_waiting=self.ring.most_waiting,
            dropped=self.ring.dropped,
            instruments=tuple(t.poller.health for t in self._threads),
        )

    def close(self) -> None:
        """End all threads."""
        self._end(self._threads)
        self._threads = []

    def _end(self, threads: list[PollerThread]) -> None:
        for thread in threads:
            thread.end()
        until = time.monotonic() + PORT_FREE_S
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                log.error("a port hangs; its thread is left alone", name=thread.poller.section.name)


def open_serial(state: Path, section: AuxiliarySection) -> AuxiliaryInstrument:
    """An instrument on a serial port; PyMeasure is imported with the first one."""
    from actors.gateway.drivers.serial.instruments import open_instrument

    return open_instrument(section, state)


def serve(state: Path, unasked_s: float = UNASKED_S) -> None:
    """Answer until SIGTERM or SIGINT, or until nobody has asked for ``unasked_s``.

    Raises:
        AlreadyRunningError: another one has this state directory.
    """
    lock = ProcessLock(state, PROCESS)
    lock.acquire()
    ended: list[str] = []

    def end(number: int, _frame: FrameType | None) -> None:
        ended.append(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    reader = AuxiliaryReader(partial(open_serial, state))
    server = CommandServer("tcp://127.0.0.1:0", PROCESS)
    asked_s = time.monotonic()
    try:
        publish_endpoints(state, PROCESS, commands=server.endpoint)
        log.info("auxiliary instruments", endpoint=server.endpoint)
        while not ended:
            for request in server.poll(POLL_S):
                asked_s = time.monotonic()
                _serve(reader, request)
            if time.monotonic() - asked_s > unasked_s:
                ended.append(f"nobody asked for {unasked_s:g} s")
        log.info("auxiliary instruments end", why=ended[0])
    finally:
        server.close()
        reader.close()
        lock.release()


def _serve(reader: AuxiliaryReader, request: Request) -> None:
    try:
        request.reply(reader.answer(request.message))
    except TunnelpilotError as refusal:
        request.refuse(refusal)


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit status is 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m actors.gateway.auxiliary_process", description=__doc__)
    parser.add_argument("--state", type=Path, default=default_state_directory(), help="state directory")
    given = parser.parse_args(arguments)
    try:
        configure_logging(PROCESS, given.state / PROCESS / "auxiliary.log")
        serve(given.state)
    except (TunnelpilotError, OSError) as trouble:
        sys.stderr.write(f"{PROCESS}: {trouble}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
