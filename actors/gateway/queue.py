"""The queue of jobs: at most one running, and one ready of each rank.

Jobs of rank "urgent" (recovery, operator) stand ready beside one of rank "campaign" and are taken
first.  What does not fit is told to come again; its id is not used up.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from protocols.messages.data import Chunk, EndOfStream
from protocols.messages.jobs import JobState, Priority
from protocols.messages.recipes import Recipe
from protocols.states.job import JOB_TABLE
from protocols.states.table import Machine

RANKS = ("urgent", "campaign")
"""In the order in which they are taken."""


def rank_of(priority: Priority) -> str:
    """Which ready place a job competes for."""
    return "campaign" if priority is Priority.CAMPAIGN else "urgent"


@dataclass
class Job:
    """A job in the worker's memory.  ``deadline_s`` is on the worker's monotonic clock."""

    job_id: str
    recipe: Recipe
    epoch: int
    priority: Priority
    deadline_s: float
    machine: Machine = field(default_factory=lambda: Machine(JOB_TABLE))
    chunks: list[Chunk] = field(default_factory=list)
    """What a reader of the stream may see now."""
    end: EndOfStream | None = None
    limit: str = ""
    cut: str = ""
    """Why it is to stop ("" while it may go on): cancelled, or past its deadline."""
    cut_kind: Literal["", "cancel", "deadline"] = ""
    began_monotonic_s: float = 0.0
    intent_written: bool = False
    """Its intent is on disk: it may be acted on."""

    @property
    def state(self) -> JobState:
        """As it is told to others."""
        name = self.machine.state
        if name == "committing":
            return JobState.RUNNING
        return JobState.READY if name == "new" else JobState(name)

    def overdue(self, now_s: float | None = None) -> bool:
        """Whether its deadline has passed."""
        return (time.monotonic() if now_s is None else now_s) > self.deadline_s


class JobQueue:
    """Shared by the worker's main thread, which puts, and its job thread, which takes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._ready: dict[str, Job] = {}
        self._held = False
        self._closed = False

    @property
    def running(self) -> Job | None:
        """The job that is acted on (or whose end is being written)."""
        return self._running

    @property
    def ready(self) -> tuple[Job, ...]:
        """Waiting jobs in the order in which they will be taken."""
        with self._changed:
            return tuple(self._ready[rank] for rank in RANKS if rank in self._ready)

    def place_for(self, priority: Priority) -> Literal["running", "ready", "full"]:
        """Where a job would go now.  Only one thread puts, so the place stays free until it does."""
        with self._changed:
            if self._running is None and not self._ready:
                return "running"
            return "full" if rank_of(priority) in self._ready else "ready"

    def put(self, job: Job) -> None:
        """Put a job where ``place_for`` said."""
        with self._changed:
            if self._running is None and not self._ready:
                self._running = job
            else:
                self._ready[rank_of(job.priority)] = job
            self._changed.notify_all()

    def wait(self) -> Job | None:
        """The job to act on next, waited for; None when the queue is closed.  For the job thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._running is not None or (self._ready and not self._held) or self._closed
            )
            if self._closed:
                return None
            if self._running is None:
                self._promote()
            return self._running

    def advance(self) -> Job | None:
        """The running job is over: the next one takes its place, or nobody.  For the job thread."""
        with self._changed:
            self._running = None
            self._promote()
            return self._running

    def hold(self) -> None:
        """Let no waiting job become the running one: the tip is being parked."""
        with self._changed:
            self._held = True

    def release(self) -> None:
        """The waiting jobs have been discarded."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def take_ready(self, job_id: str) -> Job | None:
        """Take a waiting job out."""
        with self._changed:
            for rank, job in self._ready.items():
                if job.job_id == job_id:
                    return self._ready.pop(rank)
        return None

    def take_all_ready(self) -> tuple[Job, ...]:
        """Take all waiting jobs out."""
        with self._changed:
            jobs = tuple(self._ready.values())
            self._ready.clear()
            return jobs

    def find(self, job_id: str) -> Job | None:
        """A running or waiting job."""
        with self._changed:
            if self._running is not None and self._running.job_id == job_id:
                return self._running
            return next((job for job in self._ready.values() if job.job_id == job_id), None)

    def close(self) -> None:
        """Let the job thread go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _promote(self) -> None:
        for rank in () if self._held else RANKS:
            if rank in self._ready:
                self._running = self._ready.pop(rank)
                return
