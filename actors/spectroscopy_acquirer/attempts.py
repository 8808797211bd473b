"""The attempts of one decision: from a target to a measurement, or to giving up, as a pure state machine.

Events in (what happened), instructions out (what to do next).  A job's id is ``run/dNNNN/aK``; an id that was
ever submitted is never used for another measurement, so that a repeated submission is answered from the
spool.  An attempt with an unknown outcome is not repeated by itself if its job changes something (a move, a
pulse); a sweep or a frame only looks and may be tried again under a new id.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from protocols.errors import UsageError
from protocols.messages.jobs import FINAL_STATES, JobAnswer, JobState

MAXIMUM_ATTEMPTS = 3
"""Attempts of one decision before it is given up."""
MAXIMUM_DISCARDS = 20
"""Attempts that were discarded (parked, cancelled) do not count as attempts, but they do end."""
_JOB_ID = re.compile(r"(?P<run>[^/]+)/(?P<target>[df]\d{4,})/a(?P<attempt>[1-9]\d*)")


class Issue(msgspec.Struct, frozen=True):
    """Commit JobIssued for ``job_id``, then submit it."""

    job_id: str


class Resubmit(msgspec.Struct, frozen=True):
    """Submit the same id again after ``after_s`` (queue full, or no answer): it is never acted on twice."""

    job_id: str
    after_s: float


class CommitFailure(msgspec.Struct, frozen=True):
    """Commit AttemptEnded for ``job_id`` with this state and reason, then AcknowledgeJob."""

    job_id: str
    state: str
    reason: str


class CommitResult(msgspec.Struct, frozen=True):
    """Check the data, commit the measurement of ``job_id``, then AcknowledgeJob."""

    job_id: str


class WaitForRun(msgspec.Struct, frozen=True):
    """The tip was parked or the run held: wait until the run goes on, then feed ``resumed``."""

    reason: str


class GiveUp(msgspec.Struct, frozen=True):
    """No more attempts; tell the planner that the target gives no measurement."""

    reason: str


class Completed(msgspec.Struct, frozen=True):
    """The decision has its measurement."""

    job_id: str


Instruction: TypeAlias = Issue | Resubmit | CommitFailure | CommitResult | WaitForRun | GiveUp | Completed


def job_id(run: str, target: str, attempt: int) -> str:
    """``run/d0012/a1``; ``target`` is "d0012" for decisions, "f0003" for frames.

    Raises:
        UsageError: a part that would make another id of it.
    """
    made = f"{run}/{target}/a{attempt}"
    if _JOB_ID.fullmatch(made) is None:
        raise UsageError(f"{made!r} is no job id; it looks like run/d0012/a1.")
    return made


def split_job_id(text: str) -> tuple[str, str, int]:
    """(run, target, attempt) of a job id.

    Raises:
        UsageError: not a job id.
    """
    found = _JOB_ID.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no job id; it looks like run/d0012/a1.")
    return found["run"], found["target"], int(found["attempt"])


class Attempts:
    """Attempts at one target.

    Args:
        run: The run's name.
        target: "d0012" or "f0003".
        repeatable: Whether a job of unknown outcome may be tried again (sweeps and frames: yes; moves,
            pulses, indentations: no).
        maximum: Attempts that may fail before giving up.
    """

    def __init__(
        self, run: str, target: str, *, repeatable: bool = True, maximum: int = MAXIMUM_ATTEMPTS
    ) -> None:
        if maximum < 1:
            raise UsageError(f"at least one attempt is needed, got {maximum}.")
        self.run, self.target = run, target
        self.repeatable, self.maximum = repeatable, maximum
        self.attempt = 0
        self.failures = 0
        self.discards = 0
        self.state = "new"
        """"new", "issued" (submitted, no final state yet), "waiting", "checking", "completed", "given up"."""

    @property
    def job_id(self) -> str:
        """Id of the present attempt."""
        return job_id(self.run, self.target, self.attempt)

    def start(self) -> tuple[Instruction, ...]:
        """Begin with the first attempt."""
        self._expect("new")
        return self._next()

    def recover(self, attempt: int, failures: int, discards: int, final: bool) -> tuple[Instruction, ...]:
        """Take up where the journal ends, after a restart.

        Args:
            attempt: Number of the last JobIssued (0: none).
            failures: AttemptEnded records that count (not discarded).
            discards: AttemptEnded records of discarded attempts.
            final: Whether the last attempt has an AttemptEnded record.
        """
        self._expect("new")
        self.attempt, self.failures, self.discards = attempt, failures, discards
        if attempt and not final:
            # Issued, perhaps never submitted: the same id again is safe and answers with what happened.
            self.state = "issued"
            return (Resubmit(self.job_id, 0.0),)
        return self._next()

    def answered(self, answer: JobAnswer) -> tuple[Instruction, ...]:
        """The gateway's answer to SubmitJob or QueryJob."""
        if self.state != "issued" or answer.job_id != self.job_id:
            return ()
        if answer.retry_after_s is not None and answer.state not in (JobState.READY, JobState.RUNNING):
            return (Resubmit(self.job_id, answer.retry_after_s),)
        if answer.state in FINAL_STATES:
            return self.ended(answer.job_id, answer.state, answer.reason)
        return ()

    def unanswered(self, after_s: float = 0.5) -> tuple[Instruction, ...]:
        """No answer came to a submission, or the gateway was started anew: say it again, same id."""
        if self.state != "issued":
            return ()
        return (Resubmit(self.job_id, after_s),)

    def ended(self, which: str, state: JobState, reason: str) -> tuple[Instruction, ...]:
        """The job has a final state (from its stream's end or from an answer); late repeats are ignored."""
        if self.state != "issued" or which != self.job_id:
            return ()
        if state not in FINAL_STATES:
            raise UsageError(f"{state!r} of {which} is not final.")
        if state == JobState.FINISHED:
            self.state = "checking"
            return (CommitResult(which),)
        said = CommitFailure(which, str(state), reason)
        if state == JobState.DISCARDED:
            self.discards += 1
            if self.discards >= MAXIMUM_DISCARDS:
                return (said, self._give_up(f"discarded {self.discards} times, last: {reason}"))
            self.state = "waiting"
            return (said, WaitForRun(reason))
        self.failures += 1
        if state == JobState.REFUSED:
            # A limit refuses the same recipe for ever; another attempt would only ask again.
            return (said, self._give_up(f"refused: {reason}"))
        if state == JobState.OUTCOME_UNKNOWN and not self.repeatable:
            return (said, self._give_up(f"outcome unknown, and not to be repeated by itself: {reason}"))
        return (said, *self._next(reason))

    def resumed(self) -> tuple[Instruction, ...]:
        """The run goes on after WaitForRun."""
        self._expect("waiting")
        return self._next()

    def committed(self, valid: bool) -> tuple[Instruction, ...]:
        """The measurement is in the journal; an invalid one counts as a failed attempt and is tried again."""
        self._expect("checking")
        if valid:
            self.state = "completed"
            return (Completed(self.job_id),)
        self.failures += 1
        return self._next("the spectrum is not valid")

    def _next(self, reason: str = "") -> tuple[Instruction, ...]:
        if self.failures >= self.maximum:
            return (self._give_up(f"{self.failures} attempts failed, last: {reason or 'see the journal'}"),)
        if self.discards >= MAXIMUM_DISCARDS:
            return (self._give_up(f"discarded {self.discards} times"),)
        self.attempt += 1
        self.state = "issued"
        return (Issue(self.job_id),)

    def _give_up(self, reason: str) -> GiveUp:
        self.state = "given up"
        return GiveUp(reason)

    def _expect(self, state: str) -> None:
        if self.state != state:
            raise UsageError(f"{self.run}/{self.target} is {self.state}, expected {state}.")
