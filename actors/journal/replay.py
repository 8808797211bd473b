"""Replay: give the planner exactly what it saw at each decision and compare what it says.

A decision's record names its journal cursor, the decisions pending then, the seed and the model state it
started from.  Points and judgements up to the cursor are told in the order of the journal, as they were told
to the live planner.  The journal knows no planner: the caller hands in a factory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.journal.points import PointEvent, PointLog
from actors.journal.reader import JournalReader
from protocols.errors import DataFormatError
from protocols.messages.records import Decision, ModelState, RunStarted, WindowOpened

RELATIVE_TOLERANCE = 1e-6
"""How closely the acquisition value must come out again."""


class Proposed(Protocol):
    """What replay reads of a planner's proposal."""

    @property
    def candidate(self) -> int:
        """Index into the window's candidates."""

    @property
    def acquisition(self) -> float:
        """Value of the acquisition function there."""


class ReplayPlanner(Protocol):
    """What replay asks of a planner."""

    def observe(self, job_id: str, x_m: float, y_m: float, value: float) -> None:
        """A spectrum gave ``value`` (NaN: nothing usable) at sample coordinates (m)."""

    def revoke(self, job_id: str) -> None:
        """The point no longer counts."""

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Go on from a model state."""

    def propose(self, pending: Sequence[tuple[float, float]], index: int) -> Proposed:
        """The next place, given positions (m) under way and the count of decisions in this window."""


class PlannerFactory(Protocol):
    """Makes a planner as it was made for this window: from the journal up to the decision's cursor."""

    def __call__(
        self, reader: JournalReader, started: RunStarted, window: WindowOpened, decision: Decision
    ) -> ReplayPlanner:
        """A planner that has observed nothing, seeded with ``decision.seed``."""


@dataclass(frozen=True)
class Replayed:
    """One decision, then and now."""

    decision: str
    window: int
    index: int
    kind: str
    candidate: int
    candidate_now: int
    acquisition: float
    acquisition_now: float

    @property
    def difference(self) -> float:
        """Relative difference of the acquisition values; 0 if they are equal, infinite if one is not a
        number."""
        if self.acquisition == self.acquisition_now:
            return 0.0
        size = max(abs(self.acquisition), abs(self.acquisition_now))
        relative = abs(self.acquisition - self.acquisition_now) / size
        return relative if math.isfinite(relative) else math.inf

    @property
    def same(self) -> bool:
        """The same candidate, and the acquisition value to 1e-6."""
        return self.candidate == self.candidate_now and self.difference <= RELATIVE_TOLERANCE


def feed(planner: ReplayPlanner, events: Iterable[PointEvent]) -> None:
    """Tell a planner what happened, in order."""
    for event in events:
        if event.revoked:
            planner.revoke(event.job_id)
        else:
            planner.observe(event.job_id, event.x_m, event.y_m, event.scalar)


class _Told:
    """What the planner of the present window has been told so far: each record is read once for all its
    decisions."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self._window = -1
        self._log = PointLog(reader, self._window)
        self._events: list[PointEvent] = []

    def upto(self, window: int, cursor: int) -> list[PointEvent]:
        """The events of a window up to and with record ``cursor``."""
        if window != self._window:
            self._window, self._log, self._events = window, PointLog(self._reader, window), []
        self._events += self._log.advance(cursor)
        return [e for e in self._events if e.seq <= cursor]


def replay(reader: JournalReader, planner_factory: PlannerFactory) -> list[Replayed]:
    """Replay every decision of a run; see :class:`Replayed`.

    Raises:
        DataFormatError: the journal lacks what a decision refers to.
    """
    return list(replay_each(reader, planner_factory))


def replay_each(reader: JournalReader, planner_factory: PlannerFactory) -> Iterator[Replayed]:
    """As :func:`replay`, one decision at a time, for showing progress.

    Raises:
        DataFormatError: the journal lacks what a decision refers to.
    """
    started = reader.started()
    windows: dict[int, WindowOpened] = {}
    made: dict[str, Decision] = {}
    told = _Told(reader)
    for record in reader.records(kinds=(WindowOpened, Decision)):
        body = record.body
        if isinstance(body, WindowOpened):
            windows[body.index] = body
        elif isinstance(body, Decision):
            made[body.decision] = body
            yield _again(reader, planner_factory, started, windows, made, body, told)


def _again(
    reader: JournalReader,
    planner_factory: PlannerFactory,
    started: RunStarted,
    windows: Mapping[int, WindowOpened],
    made: Mapping[str, Decision],
    decision: Decision,
    told: _Told,
) -> Replayed:
    missing = [name for name in decision.pending if name not in made]
    if missing or decision.window not in windows:
        raise DataFormatError(
            f"decision {decision.decision} of {reader.path} refers to what is not there before it "
            f"(pending {', '.join(missing) or 'none'}, window {decision.window}).",
            "The journal is damaged; check it with actors.journal.integrity.check_run.",
        )
    planner = planner_factory(reader, started, windows[decision.window], decision)
    if decision.model_before:
        planner.restore(_model(reader, decision).arrays)
    feed(planner, told.upto(decision.window, decision.cursor))
    pending = [(made[name].x_m, made[name].y_m) for name in decision.pending]
    now = planner.propose(pending, decision.index)
    return Replayed(
        decision=decision.decision,
        window=decision.window,
        index=decision.index,
        kind=decision.kind,
        candidate=decision.candidate,
        candidate_now=int(now.candidate),
        acquisition=decision.acquisition,
        acquisition_now=float(now.acquisition),
    )


def _model(reader: JournalReader, decision: Decision) -> ModelState:
    record = reader.at(decision.model_before)
    if record is None or not isinstance(record.body, ModelState):
        raise DataFormatError(
            f"decision {decision.decision} of {reader.path} started from the model in record "
            f"{decision.model_before}, which is none.",
            "The journal is damaged; check it with actors.journal.integrity.check_run.",
        )
    return record.body
