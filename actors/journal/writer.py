"""The journal's writer process: ``python -m actors.journal.writer --state DIR``.

It alone writes.  ``CommitRecords`` is answered with ``Committed`` when the commit has been synced; every key
is written once, so a client that heard nothing simply asks again.  On a full disk the commit is refused whole
and the writer lives on.  SIGTERM ends it after the commit under way.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType

import structlog

from actors.journal.schema import check_sqlite, run_file
from actors.journal.store import DEFAULT_RESERVE_BYTES, RunStore
from protocols.errors import DiskFullError, TunnelpilotError, UsageError
from protocols.files.logs import configure_logging
from protocols.files.state_directory import (
    ProcessLock,
    default_state_directory,
    publish_endpoints,
    read_endpoints,
)
from protocols.links.server import CommandServer, Request
from protocols.messages.records import CommitRecords, Committed, Conclusion

PROCESS = "journal"
MAXIMUM_OPEN_RUNS = 4
ANY_PORT = "tcp://127.0.0.1:0"
POLL_S = 0.25


class Writer:
    """Answers commits of any run below ``state``; keeps the most recent few files open."""

    def __init__(self, state: Path, reserve_bytes: int = DEFAULT_RESERVE_BYTES) -> None:
        self.state = state
        self.reserve_bytes = reserve_bytes
        self.commits = 0
        self.disk_full = False
        self._stores: dict[str, RunStore] = {}
        self._log = structlog.get_logger("journal")

    def commit(self, message: CommitRecords) -> Committed:
        """Write the records of one message.

        Raises:
            UsageError: no run name, or a key is taken by another content.
            StorageError: no room, or the disk failed; nothing was written.
        """
        store = self._store(message.run)
        try:
            seqs = store.commit(message.records)
        except DiskFullError as full:
            if not self.disk_full:
                self._log.error("disk full", run=message.run, reason=full.text)
            self.disk_full = True
            raise
        if self.disk_full:
            self._log.info("there is room on the disk again", run=message.run)
            self.disk_full = False
        self.commits += 1
        if any(isinstance(r.body, Conclusion) for r in message.records):
            store.checkpoint()
        return Committed(seqs=seqs)

    def answer(self, request: Request) -> None:
        """Answer one request, whatever it is."""
        message = request.message
        if not isinstance(message, CommitRecords):
            kind = type(message).__name__
            request.refuse(UsageError(f"the journal writer does not take {kind}.", "Send CommitRecords."))
            return
        try:
            reply = self.commit(message)
        except DiskFullError as refusal:
            request.refuse(refusal)  # logged once, when it began
        except TunnelpilotError as refusal:
            keys = [r.key for r in message.records[:5]]
            self._log.warning("refused", run=message.run, keys=keys, code=refusal.code, reason=str(refusal))
            request.refuse(refusal)
        else:
            request.reply(reply)

    def close(self) -> None:
        """Close all files; what is in the logs goes into the databases."""
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def _store(self, run: str) -> RunStore:
        store = self._stores.pop(run, None) or RunStore(run_file(self.state, run), self.reserve_bytes)
        self._stores[run] = store
        while len(self._stores) > MAXIMUM_OPEN_RUNS:
            self._stores.pop(next(iter(self._stores))).close()
        return store


def serve(state: Path, endpoint: str = "", reserve_bytes: int = DEFAULT_RESERVE_BYTES) -> None:
    """Run the writer in this process until SIGTERM or SIGINT.

    Raises:
        AlreadyRunningError: another writer has this state directory.
        ConfigError: SQLite is too old, or the endpoint cannot be had.
    """
    check_sqlite()
    lock = ProcessLock(state, PROCESS)
    lock.acquire()
    log = structlog.get_logger("journal")
    stopping: list[str] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.append(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    writer = Writer(state, reserve_bytes)
    server = _listen(state, endpoint)
    try:
        publish_endpoints(state, PROCESS, commands=server.endpoint)
        log.info("journal writer listens", endpoint=server.endpoint, state=str(state))
        while not stopping:
            for request in server.poll(POLL_S):
                writer.answer(request)
        log.info("journal writer ends", signal=stopping[0], commits=writer.commits)
    finally:
        server.close()
        writer.close()
        lock.release()


def main(arguments: list[str] | None = None) -> int:
    """Command line of the writer; the exit status is 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m actors.journal.writer", description=__doc__)
    parser.add_argument("--state", type=Path, default=default_state_directory(), help="state directory")
    parser.add_argument(
        "--endpoint", default="", help="where to listen; default: as last time, else any port"
    )
    parser.add_argument(
        "--reserve-bytes",
        type=int,
        default=DEFAULT_RESERVE_BYTES,
        help="free space kept for the records that end a run (default %(default)s)",
    )
    given = parser.parse_args(arguments)
    logging.raiseExceptions = False  # on a full disk the log loses lines; the refusals reach the clients
    try:
        configure_logging(PROCESS, given.state / PROCESS / "writer.log")
        serve(given.state, given.endpoint, given.reserve_bytes)
    except (TunnelpilotError, OSError) as trouble:
        sys.stderr.write(f"journal writer: {trouble}\n")
        return 1
    return 0


def _listen(state: Path, endpoint: str) -> CommandServer:
    """Where the predecessor listened, so that clients find us again; elsewhere if that port is taken."""
    if endpoint:
        return CommandServer(endpoint, PROCESS)
    try:
        before = str(read_endpoints(state, PROCESS).get("commands", ANY_PORT))
        return CommandServer(before, PROCESS)
    except TunnelpilotError as trouble:
        structlog.get_logger("journal").info("listening on a new port", reason=str(trouble))
        return CommandServer(ANY_PORT, PROCESS)


if __name__ == "__main__":
    raise SystemExit(main())
