"""Records of the journal: every kind of thing that is written down about a run.

A record is append-only and has a unique ``key`` (writing the same key twice returns the first sequence
number), so that a writer or a client that died between commit and answer can simply say it again.
Later judgements (labels, validity) point to a measurement by its job id.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from protocols.messages.auxiliary import AuxiliaryConnected, AuxiliaryReading
from protocols.messages.base import Array, Message
from protocols.messages.campaign import Campaign
from protocols.messages.data import InstrumentState, SweepData
from protocols.messages.recipes import Recipe, SpectrumRecipe


class Transform(msgspec.Struct, frozen=True, kw_only=True):
    """piezo = sample + offset + velocity * (t - time_s), all in m, m/s and instrument seconds."""

    offset_x_m: float = 0.0
    offset_y_m: float = 0.0
    velocity_x_m_s: float = 0.0
    velocity_y_m_s: float = 0.0
    time_s: float = 0.0

    def to_piezo(self, x_m: float, y_m: float, time_s: float) -> tuple[float, float]:
        """Sample coordinates to piezo coordinates at instrument time ``time_s``."""
        dt = time_s - self.time_s
        return (
            x_m + self.offset_x_m + self.velocity_x_m_s * dt,
            y_m + self.offset_y_m + self.velocity_y_m_s * dt,
        )

    def to_sample(self, x_m: float, y_m: float, time_s: float) -> tuple[float, float]:
        """Piezo coordinates at instrument time ``time_s`` to sample coordinates."""
        dt = time_s - self.time_s
        return (
            x_m - self.offset_x_m - self.velocity_x_m_s * dt,
            y_m - self.offset_y_m - self.velocity_y_m_s * dt,
        )


class RunStarted(Message, frozen=True, kw_only=True):
    """First record of every run."""

    run: str
    campaign: Campaign
    campaign_text: str
    seed: int
    versions: dict[str, str]
    limits: dict[str, float]
    simulated: bool
    time_scale: float


class RunState(Message, frozen=True, kw_only=True):
    """The run changed its state (a name of the run table in protocols.states) and why."""

    state: str
    reason: str


class WindowOpened(Message, frozen=True, kw_only=True):
    """A window in sample coordinates; ``chosen_because`` in a sentence, ``score`` of the selection."""

    index: int
    centre_x_m: float
    centre_y_m: float
    width_m: float
    height_m: float
    angle_rad: float
    chosen_because: str
    score: float = 0.0
    alternatives: tuple[tuple[float, float, float], ...] = ()
    """(x, y, score) of the next best windows."""
    handed_down: tuple[tuple[float, float], ...] = ()
    """Places (x, y) that should be measured first: what led here."""


class JobIssued(Message, frozen=True, kw_only=True):
    """Written before the command is sent."""

    job_id: str
    recipe: Recipe
    epoch: int
    decision: str = ""
    window: int = -1
    sample_x_m: float = 0.0
    sample_y_m: float = 0.0
    transform: Transform = Transform()
    by: str = "campaign"


class AttemptEnded(Message, frozen=True, kw_only=True):
    """An attempt that gave no measurement: state is a final JobState other than finished."""

    job_id: str
    state: str
    reason: str


class JobDone(Message, frozen=True, kw_only=True):
    """A job without data (move, engage, park, pulse) that finished."""

    job_id: str
    began_s: float
    ended_s: float
    final: InstrumentState | None = None


class FrameImage(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of a frame at one bias."""

    channel: str
    unit: str
    bias_v: float
    values: Array


class FrameTaken(Message, frozen=True, kw_only=True):
    """A finished frame.  ``images``: one entry per (bias, channel); values (2, lines, pixels) float32,
    first axis forward/backward, row 0 at the lowest y."""

    job_id: str
    window: int
    purpose: str
    """"survey", "reference" or "resume"."""
    images: tuple[FrameImage, ...]
    centre_x_m: float
    centre_y_m: float
    """Sample coordinates of the centre."""
    width_m: float
    height_m: float
    angle_rad: float
    transform: Transform
    began_s: float
    ended_s: float
    quality: str = "good"
    quality_note: str = ""


class SpectrumTaken(Message, frozen=True, kw_only=True):
    """A finished spectrum with its quality verdict and scalar, in one commit."""

    job_id: str
    decision: str
    window: int
    sample_x_m: float
    sample_y_m: float
    piezo_x_m: float
    piezo_y_m: float
    recipe: SpectrumRecipe
    data: SweepData
    scalar: float
    """NaN if the spectrum gives none."""
    valid: bool
    quality: tuple[str, ...] = ()
    """Names of the checks that failed: "saturated", "hysteresis", "not finite", ..."""
    began_s: float = 0.0
    ended_s: float = 0.0
    travel_s: float = 0.0
    settle_s: float = 0.0


class Label(Message, frozen=True, kw_only=True):
    """What the classifier said of a measurement."""

    job_id: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    model: str
    note: str = ""


class Validity(Message, frozen=True, kw_only=True):
    """A later judgement: the point counts (or no longer counts) as data."""

    job_id: str
    valid: bool
    reason: str
    by: str


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was not chosen."""

    x_m: float
    y_m: float
    acquisition: float
    mean: float
    std: float


class Decision(Message, frozen=True, kw_only=True):
    """Where the next spectrum goes, what the model saw, and why; all that ``replay`` needs."""

    decision: str
    window: int
    index: int
    """Count of decisions in this window, from 0."""
    cursor: int
    """The planner saw every journal record with seq <= cursor."""
    observed: int
    """Number of valid points it was fitted on."""
    pending: tuple[str, ...]
    """Decision ids that were under way and treated as pending."""
    seed: int
    model_before: int
    """Sequence number of the ModelState it started from; 0: from scratch."""
    candidate: int
    """Index into the window's candidate list."""
    x_m: float
    y_m: float
    """Sample coordinates."""
    kind: str
    """"seed" (space filling) or the acquisition's name."""
    acquisition: float
    mean: float
    std: float
    beta: float
    reason: str
    alternatives: tuple[Alternative, ...] = ()
    seconds: float = 0.0
    """Wall seconds spent on this decision."""


class ModelState(Message, frozen=True, kw_only=True):
    """The planner's model after a fit: an opaque, portable block of named arrays (never pickle)."""

    decision: str
    window: int
    arrays: dict[str, Array]


class PredictedMap(Message, frozen=True, kw_only=True):
    """Mean and standard deviation at every candidate of a window, written when the window closes."""

    window: int
    x_m: Array
    y_m: Array
    mean: Array
    std: Array
    observed: int
    shape: tuple[int, ...] = ()
    """Raster shape of the candidates if they form one."""


class WindowClosed(Message, frozen=True, kw_only=True):
    """Why no more spectra are taken in this window, and its best point."""

    index: int
    reason: str
    best_job: str
    best_x_m: float
    best_y_m: float
    best_scalar: float


class DriftMeasured(Message, frozen=True, kw_only=True):
    """A registration of two frames and the transform in force from here on."""

    frame_job: str
    reference_job: str
    shift_x_m: float
    shift_y_m: float
    confidence: float
    accepted: bool
    note: str
    transform: Transform


class Fault(Message, frozen=True, kw_only=True):
    """Something broke: who, what, and what was done about it."""

    actor: str
    what: str
    action: str


class OperatorAction(Message, frozen=True, kw_only=True):
    """A person did something."""

    command: str
    arguments: dict[str, str]
    outcome: str


class Conclusion(Message, frozen=True, kw_only=True):
    """Last record of a run: outcome, the most interesting place, figures."""

    outcome: str
    """"completed", "aborted" or "failed"."""
    reason: str
    best_job: str
    best_x_m: float
    best_y_m: float
    best_scalar: float
    spectra: int
    figures: dict[str, float]


RecordBody: TypeAlias = (
    RunStarted
    | RunState
    | WindowOpened
    | JobIssued
    | AttemptEnded
    | JobDone
    | FrameTaken
    | SpectrumTaken
    | Label
    | Validity
    | Decision
    | ModelState
    | PredictedMap
    | WindowClosed
    | DriftMeasured
    | Fault
    | OperatorAction
    | AuxiliaryConnected
    | AuxiliaryReading
    | Conclusion
)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is handed to the writer."""

    key: str
    """Unique in its run, for example "spectrum:run/d0003/a1"."""
    actor: str
    body: RecordBody


class StoredRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is read back."""

    seq: int
    key: str
    actor: str
    wall_s: float
    """Unix time of the commit."""
    body: RecordBody


class CommitRecords(Message, frozen=True, kw_only=True):
    """Write these records in one transaction (all or none)."""

    run: str
    records: tuple[Record, ...]


class Committed(Message, frozen=True, kw_only=True):
    """Sequence numbers of the records, in the order given; durable when this message is sent."""

    seqs: tuple[int, ...]
