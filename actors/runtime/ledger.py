"""What a run has done so far, folded from its journal: the only memory that survives.

Of each spectrum little is kept, and what is asked in every beat is found by window: a run of weeks must go on
as fast as it began.

Everything the run loop asks ("was this frame taken?", "which attempt comes next?", "which decisions still
want their spectrum?") is answered from here, so that a daemon that was killed goes on where the journal ends.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from protocols.messages.records import (
    AttemptEnded,
    Conclusion,
    Decision,
    DriftMeasured,
    FrameTaken,
    JobDone,
    JobIssued,
    Label,
    RunStarted,
    RunState,
    SpectrumTaken,
    StoredRecord,
    Transform,
    Validity,
    WindowClosed,
    WindowOpened,
)

MAXIMUM_FAILURES = 3
"""Failed or refused attempts at one spectrum or frame before the run gives that subject up."""
MAXIMUM_ATTEMPTS = 100
"""Also attempts that a park, a cancellation or a death ended do end some day."""


@dataclass
class Subject:
    """One thing to be measured ("d0012", "w00-survey") and its attempts."""

    name: str
    attempts: int = 0
    open_job: str = ""
    """Issued and neither measured nor ended."""
    done_job: str = ""
    failures: list[str] = field(default_factory=list)
    """Why attempts failed that nobody had ended from outside."""

    @property
    def given_up(self) -> bool:
        """No measurement after the largest number of attempts."""
        worn = len(self.failures) >= MAXIMUM_FAILURES or self.attempts >= MAXIMUM_ATTEMPTS
        return worn and not self.done_job and not self.open_job


@dataclass(frozen=True)
class Point:
    """What the run loop needs to know of a measured spectrum."""

    job_id: str
    decision: str
    window: int
    seq: int
    scalar: float
    valid: bool
    x_m: float
    y_m: float
    quality: tuple[str, ...] = ()
    wall_s: float = 0.0
    ended_s: float = 0.0


def reference_name(window: int, decisions: int) -> str:
    """Subject of the reference patch of a window that comes before its decision of that index."""
    return f"w{window:02d}-ref-{decisions:04d}"


def split_job_id(job_id: str) -> tuple[str, str, int]:
    """``run/subject/aN`` into its parts."""
    run, subject, attempt = job_id.rsplit("/", 2)
    return run, subject, int(attempt.removeprefix("a"))


class RunLedger:
    """The fold over a run's journal."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.last_seq = 0
        self.started: RunStarted | None = None
        self.began_wall_s = 0.0
        self.state = "starting"
        self.state_reason = ""
        self.states_written = 0
        self.windows: dict[int, WindowOpened] = {}
        self.closed: dict[int, WindowClosed] = {}
        self.subjects: dict[str, Subject] = {}
        self.frames: dict[str, tuple[int, str]] = {}
        """Window and purpose by job id; the images stay in the journal."""
        self.decisions: dict[str, Decision] = {}
        """Without their alternatives, which stay in the journal."""
        self.points: dict[str, Point] = {}
        """In the order of their commits."""
        self._decisions_of: dict[int, list[str]] = {}
        self._points_of: dict[int, list[str]] = {}
        self._ended: list[tuple[int, float]] = []
        """By number of the record: instrument time at which the last spectrum up to it ended."""
        self.last_frame_s = 0.0
        """Instrument time at which the last frame ended."""
        self.labelled: dict[str, Label] = {}
        """Without the other classes' probabilities."""
        self.drifts: dict[str, DriftMeasured] = {}
        self.transform = Transform()
        self.conclusion: Conclusion | None = None
        self.jobs_done: set[str] = set()

    def fold(self, records: Iterable[StoredRecord]) -> None:
        """Take in records in the order of their sequence numbers; those already seen are skipped."""
        for record in records:
            if record.seq > self.last_seq:
                self._take(record)
                self.last_seq = record.seq

    def subject(self, name: str) -> Subject:
        """The subject of that name, made if it is new."""
        return self.subjects.setdefault(name, Subject(name))

    def next_job(self, name: str) -> str:
        """Job id to use now: the open attempt if there is one, else the next attempt."""
        subject = self.subject(name)
        return subject.open_job or f"{self.run}/{name}/a{subject.attempts + 1}"

    def count(self, prefix: str) -> int:
        """How many subjects have names that begin with ``prefix``."""
        return sum(name.startswith(prefix) for name in self.subjects)

    def decisions_in(self, window: int) -> list[Decision]:
        """Decisions of a window in order."""
        found = (self.decisions[name] for name in self._decisions_of.get(window, ()))
        return sorted(found, key=lambda d: d.index)

    def points_in(self, window: int) -> list[Point]:
        """Measured spectra of a window in order of their commits."""
        return [self.points[job] for job in self._points_of.get(window, ())]

    def latest_points(self, count: int) -> list[Point]:
        """The last measured spectra, oldest first."""
        return list(itertools.islice(reversed(self.points.values()), count))[::-1]

    def unlabelled(self, window: int) -> set[str]:
        """Spectra of a window without a label."""
        return {p.job_id for p in self.points_in(window)} - set(self.labelled)

    def last_reference(self, window: int) -> int:
        """Decisions of a window that came before its last reference patch (one that was given up counts).

        A patch is over when its registration is on record too: what comes after it is measured with the drift
        that it has shown.
        """
        over = [
            int(name.rpartition("-")[2])
            for name, subject in self.subjects.items()
            if name.startswith(f"w{window:02d}-ref-")
            and (subject.done_job in self.drifts or subject.given_up)
        ]
        return max(over, default=0)

    def open_window(self) -> WindowOpened | None:
        """The window that is open."""
        still = [w for i, w in self.windows.items() if i not in self.closed]
        return max(still, key=lambda w: w.index, default=None)

    def open_jobs(self) -> list[str]:
        """Jobs that were issued and have neither a result nor an end."""
        return [s.open_job for s in self.subjects.values() if s.open_job]

    def ended_s(self, upto: int) -> float:
        """Instrument time at which the last frame, or the last spectrum with seq <= ``upto``, ended."""
        before = bisect.bisect_right(self._ended, upto, key=lambda entry: entry[0])
        return max(self.last_frame_s, self._ended[before - 1][1] if before else -math.inf)

    def best_point(self) -> Point | None:
        """Valid point with the largest scalar; in the deepest window that has any."""
        for window in sorted(self._points_of, reverse=True):
            valid = [p for p in self.points_in(window) if p.valid and not math.isnan(p.scalar)]
            if valid:
                return max(valid, key=lambda p: p.scalar)
        return None

    def _take(self, record: StoredRecord) -> None:
        match record.body:
            case RunStarted():
                self.started, self.began_wall_s = record.body, record.wall_s
            case RunState():
                self.state, self.state_reason = record.body.state, record.body.reason
                self.states_written += 1
            case WindowOpened():
                self.windows[record.body.index] = record.body
            case WindowClosed():
                self.closed[record.body.index] = record.body
            case JobIssued():
                self._issue(record.body.job_id)
            case AttemptEnded():
                self._end(record.body.job_id, record.body.state, record.body.reason)
            case JobDone():
                self._finish(record.body.job_id)
            case FrameTaken():
                self._finish(record.body.job_id)
                self.frames[record.body.job_id] = (record.body.window, record.body.purpose)
                self.last_frame_s = record.body.ended_s
            case SpectrumTaken():
                self._measure(record.body, record)
            case Label():
                self.labelled[record.body.job_id] = msgspec.structs.replace(record.body, probabilities={})
            case Validity():
                self._judge(record.body)
            case Decision():
                self._decide(record.body)
            case DriftMeasured():
                self.drifts[record.body.frame_job] = record.body
                self.transform = record.body.transform
            case Conclusion():
                self.conclusion = record.body
            case _:
                pass  # records that the loop does not need (faults, maps, model states, operator actions)

    def _issue(self, job_id: str) -> None:
        _, name, attempt = split_job_id(job_id)
        subject = self.subject(name)
        subject.attempts = max(subject.attempts, attempt)
        subject.open_job = job_id

    def _end(self, job_id: str, state: str, reason: str) -> None:
        subject = self.subject(split_job_id(job_id)[1])
        if state == "failed" or (state == "refused" and not reason.startswith("parked")):
            subject.failures.append(f"{state}: {reason}")
        if subject.open_job == job_id:
            subject.open_job = ""

    def _finish(self, job_id: str) -> None:
        subject = self.subject(split_job_id(job_id)[1])
        subject.open_job, subject.done_job = "", job_id
        self.jobs_done.add(job_id)

    def _decide(self, body: Decision) -> None:
        if body.decision not in self.decisions:
            self._decisions_of.setdefault(body.window, []).append(body.decision)
        self.decisions[body.decision] = msgspec.structs.replace(body, alternatives=())
        self.subject(body.decision)

    def _measure(self, body: SpectrumTaken, record: StoredRecord) -> None:
        self._finish(body.job_id)
        if body.job_id not in self.points:
            self._points_of.setdefault(body.window, []).append(body.job_id)
        latest_s = max(self._ended[-1][1], body.ended_s) if self._ended else body.ended_s
        self._ended.append((record.seq, latest_s))
        self.points[body.job_id] = Point(
            job_id=body.job_id,
            decision=body.decision,
            window=body.window,
            seq=record.seq,
            scalar=body.scalar,
            valid=body.valid,
            x_m=body.sample_x_m,
            y_m=body.sample_y_m,
            quality=body.quality,
            wall_s=record.wall_s,
            ended_s=body.ended_s,
        )

    def _judge(self, body: Validity) -> None:
        point = self.points.get(body.job_id)
        if point is not None:
            self.points[body.job_id] = Point(**{**point.__dict__, "valid": body.valid})
