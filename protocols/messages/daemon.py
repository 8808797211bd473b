"""Console and daemon: what ``stmctl`` asks ``stmd`` and what comes back.

Every request is answered: with the message named in its docstring, or with a ``Refusal``.  Refusal codes
are those of ``protocols.errors``.  Coordinates are in the sample's drift-corrected frame unless a name says
piezo.  ``*_wall_s`` are Unix times.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from protocols.messages.auxiliary import AuxiliaryHealth
from protocols.messages.base import Message
from protocols.messages.control import GuardStatus, WorkerStatus
from protocols.messages.records import WindowOpened


class StartRun(Message, frozen=True, kw_only=True):
    """Start a run of this campaign; answered with RunAccepted once its RunStarted is journaled."""

    campaign_text: str
    """The TOML file as it is; the daemon validates it again."""
    file_name: str
    """For error texts and for the run's name."""
    seed: int | None = None
    """Replaces the campaign's seed."""
    time_scale: float | None = None
    """Replaces the campaign's time scale; refused for real electronics unless 1."""
    token: str = ""
    """Chosen by the asker: the same token asked twice starts one run and is answered twice."""


class RunAccepted(Message, frozen=True, kw_only=True):
    """The run exists and has begun."""

    run: str
    directory: str


class DaemonQuery(Message, frozen=True, kw_only=True):
    """Ask for everything ``stmctl status`` shows; answered with DaemonStatus."""

    points: int = 10
    """How many of the latest points to send (at most 100)."""


class PointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One spectrum in a line."""

    job_id: str
    window: int
    x_m: float
    y_m: float
    scalar: float
    valid: bool
    quality: tuple[str, ...] = ()
    label: str = ""
    label_confidence: float = 0.0
    kind: str = ""
    """"seed" or the acquisition's name."""
    reason: str = ""
    wall_s: float = 0.0


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a line."""

    run: str
    name: str
    """The campaign's."""
    state: str
    """A state of ``protocols.states.run``."""
    reason: str
    spectra: int
    began_wall_s: float
    ended_wall_s: float | None = None


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How the present run stands."""

    run: str
    name: str
    state: str
    reason: str
    """Why it is in this state: for "held", what a person must look at."""
    began_wall_s: float
    seed: int
    simulated: bool
    time_scale: float
    window: WindowOpened | None
    """The open window; None before the first."""
    windows_planned: int
    spectra_taken: int
    """Valid spectra in the open window."""
    spectra_planned: int
    """Largest number in the open window; the stop rule may end it earlier."""
    spectra_total: int
    """All spectra of the run, also those that do not count."""
    frames_taken: int = 0
    frame_lines_done: int = 0
    frame_lines_planned: int = 0
    """Lines of the frame under way; 0 when there is none."""
    activity: str = ""
    """What the tip does now, in a few words: "sweep d0012 at 12.5 nm, -3.1 nm"."""
    latest: tuple[PointSummary, ...] = ()
    """Newest last."""
    best: PointSummary | None = None
    drift_x_m_s: float = 0.0
    drift_y_m_s: float = 0.0
    duty_cycle: float | None = None
    """Share of time with a job under way since the first job, as the daemon sees it."""


class ActorHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised actor or process."""

    name: str
    state: str
    """"starting", "up", "down" or "given up"."""
    pid: int = 0
    restarts: int = 0
    last_fault: str = ""


class EdgeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One bounded queue between two parts: how full it is and what it lost."""

    edge: str
    """"planner -> acquirer"."""
    bound: int
    waiting: int
    most_waiting: int = 0
    passed: int = 0
    dropped: int = 0


class DaemonStatus(Message, frozen=True, kw_only=True):
    """Answer to DaemonQuery."""

    pid: int
    uptime_s: float
    state_directory: str
    stop_after_last_run: bool
    versions: dict[str, str]
    runs: tuple[RunSummary, ...]
    """Newest first, at most 50."""
    current: RunProgress | None
    """The run under way, else the last one of this daemon's life."""
    actors: tuple[ActorHealth, ...]
    lease: str
    """"held", "lost" or "none"."""
    epoch: int
    lease_margin_s: float
    """Smallest time that was left at any renewal."""
    guard: GuardStatus | None
    """None: the guard does not answer; ``guard_fault`` says why."""
    worker: WorkerStatus | None
    guard_fault: str = ""
    worker_fault: str = ""
    edges: tuple[EdgeStatistics, ...] = ()
    auxiliary: tuple[AuxiliaryHealth, ...] = ()
    """Instruments beside the microscope, of the present run."""
    alarms: tuple[str, ...] = ()
    """The daemon's own, beside the gateway's: "Z within 10 % of its range end"."""


class PauseRun(Message, frozen=True, kw_only=True):
    """Pause at the next safe point, or ``now`` (the running job is cancelled); answered with RunAnswer."""

    now: bool = False


class ResumeRun(Message, frozen=True, kw_only=True):
    """Go on with a paused or held run; engages first; answered with RunAnswer."""


class AbortRun(Message, frozen=True, kw_only=True):
    """End the present run, park; answered with RunAnswer when it is concluded."""

    reason: str = "operator"


class RunAnswer(Message, frozen=True, kw_only=True):
    """The run's state after the request was taken up."""

    run: str
    state: str
    reason: str


class EngageTip(Message, frozen=True, kw_only=True):
    """``stmctl engage``: bring the tip to the surface; answered with OperatorResult."""

    bias_v: float | None = None
    """None: the campaign's imaging bias, or the gateway's default without a run."""
    setpoint_a: float | None = None


class AcknowledgeAlarm(Message, frozen=True, kw_only=True):
    """``stmctl ack``: a person has looked; opens the gateway's latch and clears the daemon's alarms."""

    who: str


class MeasureAt(Message, frozen=True, kw_only=True):
    """One spectrum with the campaign's recipe at this place, at the next safe point."""

    x_m: float
    y_m: float


class GotoAt(Message, frozen=True, kw_only=True):
    """Move the tip there at the next safe point."""

    x_m: float
    y_m: float


class ScanNow(Message, frozen=True, kw_only=True):
    """One frame of the open window at the next safe point."""


class OperatorResult(Message, frozen=True, kw_only=True):
    """What became of an operator's action; it is journaled with the run, if there is one."""

    outcome: str
    """"finished", "refused", "failed", "discarded" or "outcome unknown" (job states), or "accepted"."""
    reason: str = ""
    job_id: str = ""
    point: PointSummary | None = None
    """For MeasureAt."""


class ShutDown(Message, frozen=True, kw_only=True):
    """``stmctl down``: park (unless not wanted), end everything; answered with Done before the daemon exits.

    A run under way stays resumable: the next daemon goes on with it.
    """

    park: bool = True
    stop_gateway: bool = True
    """Also end stmgate and a simulator that this daemon started."""


class WatchQuery(Message, frozen=True, kw_only=True):
    """Ask for events after ``since``; answered with WatchEvents at once or after ``wait_s`` (long poll)."""

    since: int = 0
    limit: int = 200
    wait_s: float = 0.0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line for people who watch: numbered in this daemon's life."""

    number: int
    wall_s: float
    source: str
    """Actor or process."""
    kind: str
    """"state", "window", "spectrum", "frame", "label", "drift", "fault", "operator", "conclusion", ..."""
    text: str
    run: str = ""
    job_id: str = ""


class WatchEvents(Message, frozen=True, kw_only=True):
    """Answer to WatchQuery: a bounded ring, so late askers may have missed some; that is counted."""

    events: tuple[Event, ...]
    next: int
    """Ask with ``since = next``."""
    dropped: int
    """Events after ``since`` that had already left the ring."""


DaemonRequest: TypeAlias = (
    StartRun
    | DaemonQuery
    | PauseRun
    | ResumeRun
    | AbortRun
    | EngageTip
    | AcknowledgeAlarm
    | MeasureAt
    | GotoAt
    | ScanNow
    | ShutDown
    | WatchQuery
)
"""Everything the console sends."""
