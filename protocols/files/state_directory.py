"""The state directory: where each process keeps what must outlive it, and how the others find it.

Layout (all below one directory, one microscope each)::

    daemon/    lock, endpoints.json, daemon.log
    gateway/   lock, endpoints.json, limits.toml, lease.json, spool.db, *.log
    journal/   lock, endpoints.json, writer.log
    sim/       lock, endpoints.json, truth.jsonl, stmsim.log
    auxiliary/ lock, endpoints.json, auxiliary.log
    serial/    lock, endpoints.json (simulated instruments)
    ports.toml which serial port each auxiliary instrument has
    runs/RUN/  journal.db, report.html
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from protocols.errors import ConfigError, LinkLostError, UsageError

ENVIRONMENT_VARIABLE = "TUNNELPILOT_STATE"


def default_state_directory() -> Path:
    """``$TUNNELPILOT_STATE``, else ``$XDG_STATE_HOME/tunnelpilot``, else ``~/.local/state/tunnelpilot``."""
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "tunnelpilot"


def write_durably(path: Path, data: bytes) -> None:
    """Write a small file so that it is whole or absent after a crash: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish_endpoints(state: Path, process: str, **entries: Any) -> None:
    """Tell the other processes where ``process`` listens; adds its pid."""
    body = {"pid": os.getpid(), **entries}
    write_durably(state / process / "endpoints.json", json.dumps(body, indent=1).encode())


def read_endpoints(state: Path, process: str) -> dict[str, Any]:
    """Where ``process`` listens.

    Raises:
        LinkLostError: it never ran with this state directory.
        ConfigError: the file is damaged.
    """
    path = state / process / "endpoints.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LinkLostError(
            f"no {process} has run with the state directory {state} ({path} is missing).",
            "Start it, or name another directory with --state.",
        ) from None
    except ValueError as broken:
        raise ConfigError(
            f"{path} is damaged: {broken}.", "Remove it and start the process again."
        ) from broken
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: not a table.", "Remove it and start the process again.")
    return found


class AlreadyRunningError(UsageError):
    """Another process holds the lock."""

    code = "already-running"


class ProcessLock:
    """An advisory lock that the kernel lets go of when its owner dies, whatever way it dies."""

    def __init__(self, state: Path, process: str) -> None:
        self.path = state / process / "lock"
        self.process = process
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyRunningError: another process has it; the text names its pid.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        f = self.path.open("a+", encoding="ascii")
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            f.seek(0)
            owner = f.read().strip() or "unknown"
            f.close()
            raise AlreadyRunningError(
                f"a {self.process} (pid {owner}) already runs with {self.path.parent}.",
                "Use that one, stop it first, or name another directory with --state.",
            ) from None
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        self._file = f

    def release(self) -> None:
        """Let go; done by the kernel too when the process ends."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def held_by_somebody(self) -> bool:
        """Whether any process (this one included) holds it now."""
        if self._file is not None:
            return True
        if not self.path.exists():
            return False
        with self.path.open("a+", encoding="ascii") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False
