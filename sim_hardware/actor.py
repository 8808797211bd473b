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

import ray

from protocols.errors import TunnelpilotError
from protocols.files.state_directory import ProcessLock, read_endpoints

LOOK_S = 0.2
"""Wall seconds between looks at the process."""
STARTING_S = 20.0
"""A process that was started has so long to take its lock."""
LAUNCH = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
"""Run by an intermediate process that ends at once: Ray ends the children of its workers, but not these."""


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class SimulatedMicroscope:
    """One ``stmsim`` per state directory; one that runs already is joined.  It outlives this actor.

    ``arguments`` are those of ``stmsim`` without --state.  It is started again when it dies, at most
    ``budget`` times in ``window_s`` wall seconds; then it stays dead and ``status`` says so.
    """

    def __init__(self, state: str, arguments: list[str], budget: int = 3, window_s: float = 60.0) -> None:
        self._state = Path(state)
        self._command = [sys.executable, "-m", "sim_hardware.stmsim", "--state", state, *arguments]
        self._budget, self._window_s = budget, window_s
        self._starts: list[float] = []
        self._door_file = Path(state) / "sim" / "endpoints.json"
        self._ended = ""
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch; once is enough."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._keep_alive())

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
        """End it (SIGTERM: it withdraws first) if this actor started it; leave another's alone."""
        self._ended = "stopped"
        if self._watch is not None:
            self._watch.cancel()
        if self._starts and self._runs():
            os.kill(int(read_endpoints(self._state, "sim")["pid"]), signal.SIGTERM)

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
                launch = [sys.executable, "-c", LAUNCH, *self._command]
                await asyncio.to_thread(subprocess.run, launch, check=True, timeout=STARTING_S)
            await asyncio.sleep(LOOK_S)
