"""The simulated microscope's own door: what its driver asks of it, and what tests may do to it.

Long actions are started (``SimStarted``) and then awaited with bounded waits, so that the door is never busy
for longer than a message takes and a withdrawal acts during anything.  All positions are piezo coordinates
unless the field says "sample".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocols.messages.base import Array, Message
from protocols.messages.data import FrameLines, SweepData
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe


class SimQuery(Message, frozen=True, kw_only=True):
    """Who are you, and how are you?"""


class SimStatus(Message, frozen=True, kw_only=True):
    """Answer to SimQuery; ranges are (low, high) in SI units."""

    pid: int
    sample: str
    seed: int
    time_scale: float
    stepped: bool
    time_s: float
    x_range_m: tuple[float, float]
    y_range_m: tuple[float, float]
    z_range_m: tuple[float, float]
    bias_range_v: tuple[float, float]
    preamplifier_rail_a: float
    vertical_drift_m_s: float
    job_id: str
    activity: str
    """Kind of what it is doing; empty: nothing."""
    crashed: bool
    tip_changes: int
    lost_surface: bool
    truth: str
    """Path of the truth log."""
    requests: int
    malformed: int
    faults: tuple[str, ...] = ()
    """Kinds of faults that are still to come."""


class SimReadState(Message, frozen=True, kw_only=True):
    """Read everything back; answered with InstrumentState."""


class SimBeginJob(Message, frozen=True, kw_only=True):
    """A job starts."""

    job_id: str
    kind: str


class SimEndJob(Message, frozen=True, kw_only=True):
    """The job is over."""

    job_id: str
    outcome: str


class SimSetSetpoint(Message, frozen=True, kw_only=True):
    """Setpoint of |I|."""

    setpoint_a: float


class SimSetFeedback(Message, frozen=True, kw_only=True):
    """Z-controller on or off."""

    on: bool


class SimSetLockIn(Message, frozen=True, kw_only=True):
    """Modulation with these settings, or off."""

    settings: LockIn | None


class SimWithdraw(Message, frozen=True, kw_only=True):
    """Retract now; answered when the retraction has begun."""

    reason: str


class SimStop(Message, frozen=True, kw_only=True):
    """Stop the running activity."""


class SimStartRamp(Message, frozen=True, kw_only=True):
    """Bring the bias to a value."""

    bias_v: float
    slew_v_s: float


class SimStartSettle(Message, frozen=True, kw_only=True):
    """Let instrument time pass."""

    seconds: float


class SimStartMove(Message, frozen=True, kw_only=True):
    """Move laterally."""

    x_m: float
    y_m: float
    speed_m_s: float


class SimStartSweep(Message, frozen=True, kw_only=True):
    """One spectrum at the present position."""

    recipe: SpectrumRecipe


class SimStartFrame(Message, frozen=True, kw_only=True):
    """One frame."""

    recipe: Frame


class SimStartPulse(Message, frozen=True, kw_only=True):
    """One bias pulse."""

    bias_v: float
    width_s: float
    hold_z: bool


class SimStartIndent(Message, frozen=True, kw_only=True):
    """Controlled contact."""

    depth_m: float
    bias_v: float
    dwell_s: float


class SimStarted(Message, frozen=True, kw_only=True):
    """It has begun; ``expected_s`` is how long it will take in instrument seconds."""

    activity: int
    expected_s: float


class SimAwait(Message, frozen=True, kw_only=True):
    """Answer when the activity is over, or after ``wait_s`` wall seconds."""

    activity: int
    wait_s: float


class SimProgress(Message, frozen=True, kw_only=True):
    """Answer to SimAwait.  A failed activity is answered with a Refusal instead."""

    activity: int
    state: Literal["running", "finished", "stopped", "failed"]
    reason: str = ""
    sweep: SweepData | None = None


class SimReadLines(Message, frozen=True, kw_only=True):
    """Answer with the lines of a frame from number ``after`` on (at most ``limit``), when there are any,
    when the frame is over, or after ``wait_s`` wall seconds."""

    activity: int
    after: int
    wait_s: float
    limit: int = 16


class SimLines(Message, frozen=True, kw_only=True):
    """Answer to SimReadLines; ``over`` when the frame has ended and these are its last lines."""

    activity: int
    lines: FrameLines | None
    following: int
    """Number to ask for next."""
    over: bool
    state: Literal["running", "finished", "stopped", "failed"]
    reason: str = ""


class SimFault(Message, frozen=True, kw_only=True):
    """Break something on purpose.

    delay: each of the next ``count`` answers comes ``seconds`` late.  drop: the next ``count`` requests get
    none.
    garbage: they get random bytes.  stall: nothing is answered for ``seconds``.  tip_crash: now.
    lose_surface: the surface recedes by ``metres``.  exit: the process ends at once, without a word.

    bring_sample: the sample comes nearer by ``metres`` (negative: goes away), evenly within ``seconds`` of
    the instrument's time.  rail: the preamplifier sits at its rail.  wrong_sign: the Z-controller acts with
    the wrong sign.  The last two until the same fault comes with ``count`` 0, which mends it.
    """

    kind: Literal[
        "delay",
        "drop",
        "garbage",
        "stall",
        "tip_crash",
        "lose_surface",
        "exit",
        "bring_sample",
        "rail",
        "wrong_sign",
    ]
    count: int = 1
    seconds: float = 0.0
    metres: float = 0.0


class SimTruthQuery(Message, frozen=True, kw_only=True):
    """Ask for the ground truth."""


class SimObject(msgspec.Struct, frozen=True, kw_only=True):
    """One thing on the surface, in sample coordinates."""

    kind: str
    form: str
    x_m: float
    y_m: float
    size_m: float
    height_m: float
    footprint_m: float
    spectrum: str


class SimTruth(Message, frozen=True, kw_only=True):
    """Answer to SimTruthQuery: everything on the surface, and the drift at this moment (sample = piezo -
    offset)."""

    sample: str
    seed: int
    extent_m: float
    objects: tuple[SimObject, ...]
    time_s: float
    drift_m: tuple[float, float, float]
    drift_m_s: tuple[float, float, float]


class SimSpectrumQuery(Message, frozen=True, kw_only=True):
    """Ask for the true density of states at a place, in sample coordinates, at these energies (V)."""

    sample_x_m: float
    sample_y_m: float
    energy_v: Array


class SimSpectrum(Message, frozen=True, kw_only=True):
    """Answer to SimSpectrumQuery: relative density, shape of the energies."""

    density: Array
