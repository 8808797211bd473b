"""One run's journal open for writing: all records of a commit or none, each key once."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from actors.journal.schema import job_of, open_for_writing
from protocols.errors import DiskFullError, StorageError, UsageError
from protocols.messages.codec import encode_body
from protocols.messages.records import Record

DEFAULT_RESERVE_BYTES = 64 * 1024 * 1024
ESSENTIAL_KINDS = frozenset({"RunState", "Fault", "AttemptEnded", "Conclusion"})
"""Small records that say how a run ended; they alone may use the reserve of free space."""


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that holds ``path``."""
    return shutil.disk_usage(path).free


class RunStore:
    """The writing side of one run.

    Used by one thread of one process (the writer holds a lock for that).  ``reserve_bytes`` of the disk are
    kept free for records that say how a run ended.
    """

    def __init__(
        self,
        path: Path,
        reserve_bytes: int = DEFAULT_RESERVE_BYTES,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.reserve_bytes = reserve_bytes
        self._free = free
        self._clock = clock
        self._connection: apsw.Connection | None = None

    def commit(self, records: Sequence[Record]) -> tuple[int, ...]:
        """Write ``records`` in one transaction and return their sequence numbers once it is durable.

        A key that is there already with the same body gives its first number again.

        Raises:
            UsageError: a key is there already with another body; nothing was written.
            DiskFullError: there is no room; nothing was written.
            StorageError: the disk failed; nothing was written.
        """
        encoded = [encode_body(r.body) for r in records]
        self._check_room(records, sum(map(len, encoded)))
        try:
            return self._write(records, encoded)
        except apsw.FullError as trouble:
            self.close()
            raise _disk_full(self.path, self._free(_existing(self.path)), 0) from trouble
        except (apsw.Error, OSError) as trouble:
            self.close()
            raise StorageError(
                f"{self.path} could not be written: {trouble}. Nothing of this commit was kept.",
                "Look at the disk (dmesg, df, mode of the directory), then resume the run.",
            ) from trouble

    def close(self) -> None:
        """Let go of the file; as the last connection it moves everything from the log into the database."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except apsw.Error:
                # the file stays as it is, with its log beside it: the next opening recovers it
                connection.close(force=True)

    def checkpoint(self) -> None:
        """Move the log into the database and empty it, as far as readers allow; harmless at any time."""
        if self._connection is not None:
            try:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError):
                pass  # a reader is at work or the disk is full: the log simply stays longer

    def _check_room(self, records: Sequence[Record], size: int) -> None:
        essential = all(type(r.body).__name__ in ESSENTIAL_KINDS for r in records)
        reserve = 0 if essential else self.reserve_bytes
        wanted = reserve + 2 * size  # the log and the database may both hold the pages for a while
        if self._free(_existing(self.path)) < wanted:
            self.checkpoint()  # the log may be large, and all of it already in the database
            free = self._free(_existing(self.path))
            if free < wanted:
                raise _disk_full(self.path, free, reserve)

    def _write(self, records: Sequence[Record], encoded: Sequence[bytes]) -> tuple[int, ...]:
        if self._connection is None:
            self._connection = open_for_writing(self.path)
        connection = self._connection
        wall = self._clock()
        connection.execute("BEGIN IMMEDIATE")
        try:
            seqs = tuple(self._insert(connection, wall, r, b) for r, b in zip(records, encoded, strict=True))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return seqs

    @staticmethod
    def _insert(connection: apsw.Connection, wall: float, record: Record, body: bytes) -> int:
        digest = hashlib.sha256(body).digest()
        known = connection.execute("SELECT seq, sha256 FROM records WHERE key = ?", (record.key,)).fetchone()
        if known is not None:
            if known[1] != digest:
                raise UsageError(
                    f"the key {record.key!r} is taken by record {known[0]} with another content; "
                    "nothing was written.",
                    "A record is written once and never changed: use a key of its own.",
                )
            return int(known[0])
        connection.execute(
            "INSERT INTO records (key, wall, actor, kind, job, sha256, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (record.key, wall, record.actor, type(record.body).__name__, job_of(record.body), digest, body),
        )
        return int(connection.last_insert_rowid())


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _disk_full(path: Path, free: int, reserve: int) -> DiskFullError:
    kept = f", of which {reserve / 1e6:.0f} MB are kept for the end of a run" if reserve else ""
    return DiskFullError(
        f"no room on the disk of {path}: {free / 1e6:.1f} MB free{kept}. Nothing of this commit was written.",
        "Free some space, then resume the run; what was measured waits in the gateway's spool.",
        free_bytes=free,
        reserve_bytes=reserve,
    )
