"""The simulated hardware actor: starts ``stmsim`` in a session of its own and watches it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray

from protocols.errors import TunnelpilotError
from protocols.files.state_directory import ProcessLock, read_endpoints

LOOK_S = 0.2
STOP_S = 10.0
"""Wall seconds for a withdrawal and an orderly end."""


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
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = ""
        self._watch = asyncio.get_running_loop().create_task(self._keep_alive())

    async def status(self) -> dict[str, Any]:
        """Whether it runs, where its door is, how often it was started, and why it is not (if so)."""
        try:
            endpoints = read_endpoints(self._state, "sim")
        except TunnelpilotError as missing:
            endpoints = {"missing": str(missing)}
        if self._watch.done() and not self._ended:
            self._ended = repr(self._watch.exception())
        running = ProcessLock(self._state, "sim").held_by_somebody()
        return {"running": running, "starts": len(self._starts), "ended": self._ended, **endpoints}

    async def stop(self) -> None:
        """End the one that this actor started (SIGTERM: it withdraws first); leave another's alone."""
        self._ended = "stopped"
        self._watch.cancel()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, STOP_S)

    async def _keep_alive(self) -> None:
        while not self._ended:
            ours = self._process is not None and self._process.poll() is None
            if not ours and not ProcessLock(self._state, "sim").held_by_somebody():
                recent = [t for t in self._starts if time.monotonic() - t < self._window_s]
                if len(recent) >= self._budget:
                    self._ended = f"it died {len(recent)} times in {self._window_s:g} s; see sim/stmsim.log"
                    return
                self._starts.append(time.monotonic())
                self._process = await asyncio.to_thread(
                    subprocess.Popen, self._command, start_new_session=True
                )
            await asyncio.sleep(LOOK_S)
