"""The journal's database: one SQLite file per run directory, and how it is opened for writing and reading.

Write-ahead log and ``synchronous=FULL``: a commit that was answered has been synced.  Exactly one connection
writes, and it alone checkpoints; readers are opened read-only, never checkpoint and are never blocked.  Older
versions of SQLite (3.7.0 to 3.51.2) have a race between two connections that checkpoint and write at the same
instant which can damage the file, so they are refused (https://sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import apsw

from protocols.errors import ConfigError, DataFormatError, StorageError, UsageError
from protocols.messages.base import Message
from protocols.messages.records import DriftMeasured

OLDEST_SQLITE = (3, 51, 3)
APPLICATION_ID = 0x74706A72
"""ASCII "tpjr": tells our files from other SQLite files."""
SCHEMA_VERSION = 1
FILE_NAME = "journal.db"

_SCHEMA = f"""
PRAGMA page_size = 8192;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT UNIQUE NOT NULL,
    wall REAL NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    job TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX records_by_kind ON records (kind);
CREATE INDEX records_by_job ON records (job) WHERE job <> '';
"""

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_sqlite() -> None:
    """Refuse an SQLite with the WAL-reset race.

    Raises:
        ConfigError: the library is older than 3.51.3.
    """
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        raise ConfigError(
            f"SQLite {version} is too old for the journal: before 3.51.3 two connections that write and "
            "checkpoint at the same instant can damage the file (WAL-reset race).",
            "Install the apsw wheel, which brings its own SQLite: pip install 'apsw>=3.51.3'.",
        )


def check_run_name(run: str) -> str:
    """Return ``run`` if it can safely name a directory: 1 to 100 letters, digits and ``. _ -``, no dot first.

    Raises:
        UsageError: it cannot.
    """
    if not _RUN_NAME.fullmatch(run):
        raise UsageError(
            f"{run!r} is no run name.",
            "Use 1 to 100 letters, digits, dots, dashes or underscores, the first a letter or digit.",
        )
    return run


def run_file(state: Path, run: str) -> Path:
    """Path of the journal of ``run``: ``STATE/runs/RUN/journal.db``.

    Raises:
        UsageError: the name is no run name, or its directory is a link that leads elsewhere.
    """
    directory = state / "runs" / check_run_name(run)
    if directory.is_symlink():
        raise UsageError(f"{directory} is a symbolic link.", "A run's directory must be a real one.")
    return directory / FILE_NAME


def job_of(body: Message) -> str:
    """What a record is filed under: its job id, else its decision id, else "" (a whole-run record)."""
    if isinstance(body, DriftMeasured):
        return body.frame_job
    return str(getattr(body, "job_id", "") or getattr(body, "decision", ""))


def create(path: Path) -> None:
    """Make an empty journal at ``path``: whole or absent after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.new")
    for leftover in path.parent.glob(f".{path.name}.new*"):
        leftover.unlink()
    connection = apsw.Connection(str(unfinished))
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_SCHEMA)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    _sync(unfinished)
    unfinished.replace(path)
    for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
        _sync(directory)


def open_for_writing(path: Path) -> apsw.Connection:
    """The one writing connection to the journal at ``path``, which is created where it is missing.

    What a predecessor had written but not yet synced when it was killed is synced first: a record that
    can be read here is durable.

    Raises:
        DataFormatError: the file is no journal, or of a newer version.
    """
    if not path.exists():
        create(path)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        _sync(log)
        _sync(path.parent)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        check_file(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.set_busy_timeout(5000)
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> apsw.Connection:
    """A connection that cannot write, never checkpoints, and sees whole commits only.

    Raises:
        StorageError: there is no journal, or it cannot be opened.
        DataFormatError: the file is no journal, or of a newer version.
    """
    if not path.exists():
        raise StorageError(f"there is no journal at {path}.", "List the runs with: stmctl runs")
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as trouble:
        raise StorageError(f"{path} cannot be opened: {trouble}.", "Check its owner and mode.") from trouble
    try:
        connection.set_busy_timeout(5000)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        check_file(connection, path)
        connection.execute("PRAGMA query_only = 1; PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def check_file(connection: apsw.Connection, path: Path) -> None:
    """Raise DataFormatError unless ``connection`` leads to a journal that this version can read."""
    try:
        application = connection.execute("PRAGMA application_id").get
        version = connection.execute("PRAGMA user_version").get
    except apsw.NotADBError as trouble:
        raise DataFormatError(f"{path} is no journal: {trouble}.", "Restore it from a copy.") from trouble
    except apsw.Error as trouble:
        raise StorageError(
            f"{path} cannot be read: {trouble}.",
            "A journal needs its -wal file beside it and a directory in which -shm can be made; "
            "on read-only media copy the whole run directory first.",
        ) from trouble
    if application != APPLICATION_ID:
        raise DataFormatError(f"{path} is an SQLite file but no journal.", "Name another file.")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise DataFormatError(
            f"{path} has journal version {version}; this program knows {SCHEMA_VERSION} and older.",
            "Use a newer Tunnelpilot.",
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
