"""The queue of jobs, the only way to the tip: submitting, asking, answering."""

from __future__ import annotations

import enum

from protocols.messages.base import Message
from protocols.messages.recipes import Recipe


class Priority(enum.IntEnum):
    """Order in the queue; a stop is no job and precedes all."""

    RECOVERY = 0
    OPERATOR = 1
    CAMPAIGN = 2


class JobState(enum.StrEnum):
    """Where a job is; the last six are final."""

    READY = "ready"
    RUNNING = "running"
    FINISHED = "finished"
    REFUSED = "refused"
    FAILED = "failed"
    DISCARDED = "discarded"
    INTERRUPTED = "interrupted"
    OUTCOME_UNKNOWN = "outcome unknown"


FINAL_STATES = frozenset(
    {
        JobState.FINISHED,
        JobState.REFUSED,
        JobState.FAILED,
        JobState.DISCARDED,
        JobState.INTERRUPTED,
        JobState.OUTCOME_UNKNOWN,
    }
)


CHANGED_BY_OTHERS = "somebody else changed the electronics"
"""How the reason of a job begins that failed because of it; a run holds at once and asks for a person."""


class SubmitJob(Message, frozen=True, kw_only=True):
    """Put a job into the queue.  ``job_id`` is ``run/decision/attempt``; a repeated id is answered from the
    spool and never acted on twice.  ``deadline_s`` (wall seconds from acceptance) covers waiting and acting.
    """

    job_id: str
    recipe: Recipe
    epoch: int
    deadline_s: float
    priority: Priority = Priority.CAMPAIGN


class JobAnswer(Message, frozen=True, kw_only=True):
    """Answer to SubmitJob and QueryJob: the job's state now, and why if it is refused or ended badly."""

    job_id: str
    state: JobState
    reason: str = ""
    limit: str = ""
    """Name of the limit that refused it, as in the limits file; empty otherwise."""
    retry_after_s: float | None = None
    """Set when the queue is full: submit again after this time or, better, after the next job ended."""


class QueryJob(Message, frozen=True, kw_only=True):
    """Ask for the state of a job."""

    job_id: str


class CancelJob(Message, frozen=True, kw_only=True):
    """Take a ready job out of the queue, or stop a running one at once (the tip stays engaged)."""

    job_id: str
    epoch: int
    reason: str


class AcknowledgeJob(Message, frozen=True, kw_only=True):
    """The journal has the result: the spool may let go of its data (the id is remembered)."""

    job_id: str
    epoch: int


class Acknowledged(Message, frozen=True, kw_only=True):
    """Answer to AcknowledgeJob."""

    job_id: str


class ListUnacknowledged(Message, frozen=True, kw_only=True):
    """Ask for every job of ``run`` that has a final state and was not acknowledged ("" for all runs)."""

    run: str = ""


class UnacknowledgedJobs(Message, frozen=True, kw_only=True):
    """Answer to ListUnacknowledged."""

    jobs: tuple[JobAnswer, ...]
