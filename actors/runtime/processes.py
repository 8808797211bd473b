"""Starts the processes beside the daemon (journal writer, gateway) in sessions of their own; watches them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from actors.runtime.ray_cluster import process_lives
from actors.runtime.restart_budget import RestartBudget
from protocols.errors import PeerError, TunnelpilotError
from protocols.files.state_directory import ProcessLock, read_endpoints

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 15.0
STARTED_BY_DAEMON = "started-by-daemon"
"""File beside the lock with the pid of a process that a daemon has started."""

log = structlog.get_logger(__name__)


@dataclass
class Companion:
    """One process beside the daemon.

    ``name`` is its folder in the state directory, ``arguments`` follow the Python interpreter.  Its lock
    tells whether it runs, whoever started it.
    """

    name: str
    arguments: tuple[str, ...]
    state: Path
    budget: RestartBudget
    child: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether somebody holds its lock."""
        if self.child is not None and self.child.poll() is not None:
            self.child = None
        return ProcessLock(self.state, self.name).held_by_somebody()

    async def ensure(self) -> bool:
        """Start it if it does not run and wait until it listens; True if it was started.

        Raises:
            PeerError: it does not come up (the text has the end of its output), or its budget is spent.
        """
        if self.runs:
            return False
        if not self.budget.spend(time.monotonic()):
            raise PeerError(
                f"the {self.name} process died more than {self.budget.restarts} times in "
                f"{self.budget.window_s:g} s and is not started again.",
                f"Look into {self.state / self.name}, then stmctl resume.",
            )
        await self._start()
        return True

    async def _start(self) -> None:
        folder = self.state / self.name
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / "start.log"
        began = time.time()
        with output.open("wb") as f:
            self.child = subprocess.Popen(  # noqa: ASYNC220  fork and exec take milliseconds
                [sys.executable, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=f,
                stderr=f,
                start_new_session=True,
                cwd="/",
                env=_clean_environment(),
            )
        (folder / STARTED_BY_DAEMON).write_text(str(self.child.pid), encoding="ascii")
        log.info("process started", name=self.name, child=self.child.pid)
        until = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < until:
            if self.child is not None and (code := self.child.poll()) is not None:
                self.child = None
                raise PeerError(f"the {self.name} process ended with status {code}: {_tail(output)}")
            if self._listens_since(began):
                return
            await asyncio.sleep(0.02)
        raise PeerError(
            f"the {self.name} process did not listen within {START_DEADLINE_S:g} s: {_tail(output)}",
            f"Look into {folder}.",
        )

    def _listens_since(self, began: float) -> bool:
        path = self.state / self.name / "endpoints.json"
        try:
            fresh = path.stat().st_mtime >= began - 0.01
            return fresh and bool(read_endpoints(self.state, self.name))
        except (OSError, TunnelpilotError):
            return False

    @property
    def started_by_daemon(self) -> bool:
        """Whether a daemon (this or an earlier one) started the one that runs, not a person or systemd."""
        try:
            marked = (self.state / self.name / STARTED_BY_DAEMON).read_text(encoding="ascii")
            return int(marked) == int(read_endpoints(self.state, self.name)["pid"])
        except (OSError, TunnelpilotError, KeyError, ValueError):
            return False

    async def stop(self) -> None:
        """SIGTERM (it parks, finishes its work) and wait; SIGKILL after the deadline.

        One that somebody else started is left alone.
        """
        if not self.started_by_daemon:
            return
        try:
            pid = int(read_endpoints(self.state, self.name)["pid"])
        except (TunnelpilotError, KeyError, ValueError):
            return
        if not self.runs or not process_lives(pid):
            return
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_DEADLINE_S
        while self.runs and time.monotonic() < until:  # noqa: ASYNC110  another process: nothing to wait on
            await asyncio.sleep(0.02)
        if self.runs:
            log.error("process does not end; killed", name=self.name, child=pid)
            os.kill(pid, signal.SIGKILL)


def _clean_environment() -> dict[str, str]:
    """The environment without Ray's token: the gateway and the writer have nothing to do with Ray."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}


def _tail(path: Path, characters: int = 800) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-characters:].strip() or "(no output)"
    except OSError:
        return "(no output)"
