"""The simulated hardware actor: starts ``stmsim`` in a session of its own and watches it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from protocols.errors import TunnelpilotError
from protocols.files.logs import configure_logging
from protocols.files.state_directory import ProcessLock, read_endpoints

LOOK_S = 0.2
"""Wall seconds between looks at the process."""
STARTING_S = 20.0
"""A process that was started has so long to take its lock."""
STOPPING_S = 10.0
STARTED_BY_DAEMON = "started-by-daemon"
"""File beside the lock with the pid of the process that this actor has started."""
LAUNCH = """
import subprocess, sys
with open(sys.argv[1], "wb") as output:
    print(subprocess.Popen(
        sys.argv[2:], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    ).pid)
"""
"""Run by an intermediate process that ends at once: Ray ends the children of its workers, but not these."""


class SimulatedMicroscope:
    """Shell of one ``stmsim`` per state directory; one that runs already is joined.  It outlives this actor.

    It is started again when it dies, at most ``budget`` times in ``window_s`` wall seconds; then it stays
    dead and ``status`` says so.
    """

    name = "sim_hardware"

    def __init__(self, state: str, budget: int = 3, window_s: float = 60.0) -> None:
        self._state = Path(state)
        self._arguments: list[str] = []
        self._budget, self._window_s = budget, window_s
        self._starts: list[float] = []
        self._door_file = Path(state) / "sim" / "endpoints.json"
        self._output = Path(state) / "sim" / "start.log"
        self._ended = ""
        self._watch: asyncio.Task[None] | None = None

    async def begin(self) -> int:
        """Logging of this process; its pid."""
        configure_logging(self.name, self._state / "daemon" / f"{self.name}.log")
        return os.getpid()

    async def ping(self) -> dict[str, float]:
        """A sign of life."""
        return {"starts": float(len(self._starts))}

    async def keep(self, arguments: list[str]) -> dict[str, Any]:
        """Have a ``stmsim`` with these arguments (without --state) run from now on; its status.

        May be said again at any time; one that runs already is left as it is.
        """
        if self._watch is None or self._watch.done() or arguments != self._arguments:
            await self._forget()
            self._arguments, self._ended = list(arguments), ""
            self._watch = asyncio.get_running_loop().create_task(self._keep_alive())
        return await self.status()

    async def status(self) -> dict[str, Any]:
        """Whether it runs, its pid and door (once open), how often it was started, why it is not (if so)."""
        try:
            endpoints = read_endpoints(self._state, "sim")
        except TunnelpilotError as missing:
            endpoints = {"missing": str(missing)}
        if self._watch is not None and self._watch.done() and not self._ended:
            self._ended = repr(self._watch.exception())
        return {"running": self._runs(), "starts": len(self._starts), "ended": self._ended, **endpoints}

    async def stop(self) -> None:
        """End the one that runs (SIGTERM: it withdraws first) and start none again.

        One that somebody else started is left alone.
        """
        await self._forget()
        self._ended = "stopped"
        if not self._runs() or not self._is_ours():
            return
        os.kill(int(read_endpoints(self._state, "sim")["pid"]), signal.SIGTERM)
        until = time.monotonic() + STOPPING_S
        while self._runs() and time.monotonic() < until:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.02)

    async def _forget(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._watch = None

    def _launch(self, command: list[str]) -> None:
        mark = self._state / "sim" / STARTED_BY_DAEMON
        mark.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, check=True, timeout=STARTING_S, stdout=subprocess.PIPE, text=True)
        mark.write_text(done.stdout.strip(), encoding="ascii")

    def _is_ours(self) -> bool:
        try:
            marked = (self._state / "sim" / STARTED_BY_DAEMON).read_text(encoding="ascii")
            return int(marked) == int(read_endpoints(self._state, "sim")["pid"])
        except (OSError, TunnelpilotError, KeyError, ValueError):
            return False

    def _runs(self) -> bool:
        return ProcessLock(self._state, "sim").held_by_somebody()

    async def _keep_alive(self) -> None:
        while not self._ended:
            now = time.monotonic()
            recent = bool(self._starts) and now - self._starts[-1] < STARTING_S
            starting = recent and not self._door_file.exists()
            if not starting and not self._runs():
                if sum(now - t < self._window_s for t in self._starts) >= self._budget:
                    self._ended = f"it died {self._budget} times in {self._window_s:g} s; see sim/stmsim.log"
                    return
                self._starts.append(now)
                self._door_file.unlink(missing_ok=True)
                command = [sys.executable, "-m", "sim_hardware.stmsim", "--state", str(self._state)]
                launch = [sys.executable, "-c", LAUNCH, str(self._output), *command, *self._arguments]
                await asyncio.to_thread(self._launch, launch)
            await asyncio.sleep(LOOK_S)
