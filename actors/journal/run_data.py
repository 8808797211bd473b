"""Everything that report and export need of a run, read once from its journal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.journal.auxiliary import AuxiliaryData, auxiliary_data
from actors.journal.reader import JournalReader, Measurement, RunSummary
from actors.journal.wording import scalar_unit
from protocols.messages.data import SweepData
from protocols.messages.records import (
    AttemptEnded,
    Conclusion,
    Decision,
    DriftMeasured,
    Fault,
    FrameTaken,
    JobDone,
    OperatorAction,
    PredictedMap,
    RunStarted,
    RunState,
    StoredRecord,
    WindowClosed,
    WindowOpened,
)


@dataclass(frozen=True)
class WindowData:
    """One window.  ``measurements``: in order; ``survey``: the latest frame of the window itself."""

    opened: WindowOpened
    closed: WindowClosed | None
    survey: FrameTaken | None
    predicted: PredictedMap | None
    measurements: tuple[Measurement, ...]
    decisions: tuple[Decision, ...]
    concluded: str = ""
    """Job id of the run's conclusion, if it lies in this window: the best point that others support."""

    @property
    def points(self) -> tuple[Measurement, ...]:
        """Measurements that count."""
        return tuple(m for m in self.measurements if m.counts)

    @property
    def best(self) -> Measurement | None:
        """The conclusion's point, else the one with the largest scalar."""
        return next(iter(self.ranked(1)), None)

    def ranked(self, count: int) -> list[Measurement]:
        """The best points, best first: the conclusion's, then by their scalar."""

        def rank(m: Measurement) -> tuple[bool, float]:
            return m.spectrum.job_id != self.concluded, -m.spectrum.scalar

        return sorted(self.points, key=rank)[:count]


@dataclass(frozen=True)
class RunData:
    """One run.  Scalars in records carry the campaign's sign; ``sign`` times them is the physical value."""

    summary: RunSummary
    started: RunStarted
    conclusion: Conclusion | None
    windows: tuple[WindowData, ...]
    decisions: dict[str, Decision]
    states: tuple[StoredRecord, ...]
    faults: tuple[StoredRecord, ...]
    operator_actions: tuple[StoredRecord, ...]
    ended_attempts: tuple[StoredRecord, ...]
    drift: tuple[StoredRecord, ...]
    frames: tuple[FrameTaken, ...]
    """All frames, without their images."""
    jobs_done: tuple[JobDone, ...]
    unit: str
    """SI unit of the scalar."""
    auxiliary: tuple[AuxiliaryData, ...] = ()
    """Instruments beside the microscope: who they are, and their readings in figures."""

    @property
    def sign(self) -> int:
        """1, or -1 where the smallest value was sought."""
        return self.started.campaign.scalar.sign

    @property
    def measurements(self) -> list[Measurement]:
        """All spectra of all windows."""
        return [m for w in self.windows for m in w.measurements]

    def measurement(self, job_id: str) -> Measurement | None:
        """The spectrum of a job."""
        return next((m for m in self.measurements if m.spectrum.job_id == job_id), None)

    @property
    def best(self) -> Measurement | None:
        """The conclusion's best point, or the best of the deepest window that has any."""
        if self.conclusion is not None and (named := self.measurement(self.conclusion.best_job)) is not None:
            return named
        return next((w.best for w in reversed(self.windows) if w.best is not None), None)

    def time_shares(self) -> dict[str, float]:
        """How the instrument's time between the first and the last job was spent (shares of 1).

        "duty cycle" is 1 - idle; the others are parts of it.  Empty before two jobs have ended.
        """
        spans: list[tuple[float, float]] = []
        totals = dict.fromkeys(("sweeps", "travel", "settling", "frames", "other jobs"), 0.0)
        for m in self.measurements:
            s = m.spectrum
            spans.append((s.began_s, s.ended_s))
            totals["travel"] += s.travel_s
            totals["settling"] += s.settle_s
            totals["sweeps"] += max(s.ended_s - s.began_s - s.travel_s - s.settle_s, 0.0)
        for frame in self.frames:
            spans.append((frame.began_s, frame.ended_s))
            totals["frames"] += frame.ended_s - frame.began_s
        for job in self.jobs_done:
            spans.append((job.began_s, job.ended_s))
            totals["other jobs"] += job.ended_s - job.began_s
        if len(spans) < 2:
            return {}
        wall = max(e for _, e in spans) - min(b for b, _ in spans)
        if not wall > 0:
            return {}
        busy = _covered(spans)
        return {
            "duty cycle": busy / wall,
            **{k: v / wall for k, v in totals.items()},
            "idle": 1 - busy / wall,
        }


def load(reader: JournalReader) -> RunData:
    """Read a run, finished or not.

    Raises:
        DataFormatError: there is no run in the journal yet, or it is damaged.
    """
    started = reader.started()
    spectra = reader.spectra(valid_only=False)
    decisions = reader.bodies(Decision)
    conclusion = reader.last(Conclusion)
    frames, surveys = _frames(reader)
    closed = {c.index: c for c in reader.bodies(WindowClosed)}
    maps = {p.window: p for p in reader.bodies(PredictedMap)}
    opened = {w.index: w for w in reader.bodies(WindowOpened)}
    end = conclusion.body if conclusion and isinstance(conclusion.body, Conclusion) else None
    named = end.best_job if end is not None else ""
    windows = tuple(
        WindowData(
            opened=window,
            closed=closed.get(index),
            survey=surveys.get(index),
            predicted=maps.get(index),
            measurements=tuple(m for m in spectra if m.spectrum.window == index),
            decisions=tuple(d for d in decisions if d.window == index),
            concluded=named,
        )
        for index, window in sorted(opened.items())
    )
    return RunData(
        summary=reader.summary(),
        started=started,
        conclusion=end,
        windows=windows,
        decisions={d.decision: d for d in decisions},
        states=tuple(reader.records(kinds=(RunState,))),
        faults=tuple(reader.records(kinds=(Fault,))),
        operator_actions=tuple(reader.records(kinds=(OperatorAction,))),
        ended_attempts=tuple(reader.records(kinds=(AttemptEnded,))),
        drift=tuple(reader.records(kinds=(DriftMeasured,))),
        frames=frames,
        jobs_done=tuple(reader.bodies(JobDone)),
        auxiliary=auxiliary_data(reader),
        unit=scalar_unit(started.campaign.scalar, _channel_unit(spectra, started.campaign.scalar.channel)),
    )


def curve(data: SweepData, channel: str, direction: int | None = None) -> npt.NDArray[np.float64] | None:
    """Mean over repeats (and directions, unless one is named) of a channel, shape (points,); None without
    it.  NaN where no repeat has a value."""
    values = next((c.values for c in data.channels if c.name == channel), None)
    if values is None:
        return None
    array = np.asarray(values, dtype=float)
    if direction is not None:
        if direction >= array.shape[1]:
            return None
        array = array[:, direction : direction + 1]
    flat = array.reshape(-1, array.shape[-1])
    finite = np.isfinite(flat)
    count = finite.sum(axis=0)
    total = np.where(finite, flat, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), math.nan))


def _frames(reader: JournalReader) -> tuple[tuple[FrameTaken, ...], dict[int, FrameTaken]]:
    """All frames without images, and the survey frame of each window with them."""
    frames: list[FrameTaken] = []
    surveys: dict[int, FrameTaken] = {}
    for record in reader.records(kinds=(FrameTaken,)):
        frame = record.body
        if isinstance(frame, FrameTaken):
            if frame.purpose == "survey":
                surveys[frame.window] = frame
            frames.append(_without_images(frame))
    return tuple(frames), surveys


def _without_images(frame: FrameTaken) -> FrameTaken:
    fields = {name: getattr(frame, name) for name in frame.__struct_fields__}
    return FrameTaken(**{**fields, "images": ()})


def _channel_unit(spectra: list[Measurement], channel: str) -> str:
    units = (c.unit for m in spectra for c in m.spectrum.data.channels if c.name == channel)
    return next(units, "A")


def _covered(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total
