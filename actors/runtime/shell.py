"""What the Ray shells of all actors share: begin, ping, the desk at which jobs are done."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from actors.runtime.job_desk import JobDesk
from protocols.files.logs import configure_logging


class Shell:
    """Base of an actor's shell.  All methods that Ray calls are coroutines; an actor's state is a cache."""

    name = "actor"

    def __init__(self, state: str) -> None:
        self.state = Path(state)
        self.began = time.monotonic()
        self._desk: JobDesk | None = None

    @property
    def desk(self) -> JobDesk:
        """Links and journals, made on the loop that uses them."""
        if self._desk is None:
            self._desk = JobDesk(self.state, self.name)
        return self._desk

    async def begin(self) -> int:
        """Logging and threads of this process; its pid."""
        # What an actor computes, it computes one after the other: every further thread of asyncio.to_thread
        # would keep a memory pool of its own (the planner's process grew by a third more with six).
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, thread_name_prefix=self.name))
        configure_logging(self.name, self.state / "daemon" / f"{self.name}.log")
        structlog.contextvars.bind_contextvars(actor=self.name)
        structlog.get_logger(__name__).info("actor begins", actor_pid=os.getpid())
        return os.getpid()

    async def ping(self) -> dict[str, float]:
        """A sign of life, with counts."""
        desk = self.desk
        return {
            "uptime_s": time.monotonic() - self.began,
            "journal_retries": float(desk.journal.retries),
            "gateway_retries": float(desk.gateway.retries),
        }


def one_torch_thread() -> None:
    """Keep torch to one thread: two cores are shared with the simulator and the gateway."""
    import torch

    torch.set_num_threads(1)
