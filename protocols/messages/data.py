"""Measured data and the credit-based stream that carries it from the gateway to the actors.

A stream belongs to one job.  The receiver grants credits (chunks it has room for), the sender numbers its
chunks from 0, ends explicitly with the last number, and sends nothing it has no credit for.  After a broken
connection the receiver opens the stream again at the next number it needs.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from protocols.messages.base import Array, Message
from protocols.messages.jobs import JobState


class InstrumentState(Message, frozen=True, kw_only=True):
    """One reading of the electronics.  ``time_s`` is the instrument's own clock (the simulator's clock, or
    the gateway's monotonic clock on real electronics)."""

    time_s: float
    bias_v: float
    setpoint_a: float
    current_a: float
    feedback: bool
    withdrawn: bool
    x_m: float
    y_m: float
    z_m: float
    scanning: bool
    sweeping: bool
    lockin_on: bool
    crashed: bool = False
    """Only a simulator knows; real electronics always say False here."""
    tripped: bool = False
    """The electronics have withdrawn the tip by themselves because the current was too high."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One measured channel: name ("current", "lockin_x", "lockin_y", "z"), SI unit, values."""

    name: str
    unit: str
    values: Array


class SweepData(Message, frozen=True, kw_only=True):
    """One finished spectrum.

    ``bias_v``: shape (points,), from start to stop.  Each channel's values: shape (repeats, directions,
    points), direction 0 forward, 1 backward; backward samples are stored in the order of ``bias_v``.
    """

    bias_v: Array
    channels: tuple[Channel, ...]
    x_m: float
    y_m: float
    z_m: float
    time_s: float
    """Instrument time at the first sample."""
    saturated: bool = False
    """The preamplifier was at its rail and the sweep was ended; later samples are NaN."""


class FrameLines(Message, frozen=True, kw_only=True):
    """Some raster lines of a frame in order of acquisition.

    ``rows``: row index of each line (row 0 at the lowest y whatever the scan sense).  Each channel's values:
    shape (n_lines, directions, pixels), col 0 at the lowest x for both directions, float32.
    ``image``: index of the bias for frames at several biases, else 0.
    """

    rows: tuple[int, ...]
    channels: tuple[Channel, ...]
    time_s: float
    image: int = 0


ChunkBody: TypeAlias = SweepData | FrameLines


class OpenStream(Message, frozen=True, kw_only=True):
    """Begin (or resume at ``from_seq``) the stream of a job with so many credits."""

    job_id: str
    from_seq: int = 0
    credits: int = 8


class GrantCredit(Message, frozen=True, kw_only=True):
    """Room for so many more chunks."""

    job_id: str
    credits: int


class CloseStream(Message, frozen=True, kw_only=True):
    """The receiver wants no more of this stream."""

    job_id: str


class Chunk(Message, frozen=True, kw_only=True):
    """One numbered piece of a job's data."""

    job_id: str
    seq: int
    body: ChunkBody


class EndOfStream(Message, frozen=True, kw_only=True):
    """The job is over.  ``last_seq`` is the number of the last chunk (-1: none).

    ``state`` is final.  FINISHED means the spool's fsync has returned.  ``began_s``/``ended_s`` are
    instrument times.
    """

    job_id: str
    last_seq: int
    state: JobState
    reason: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    final: InstrumentState | None = None
    travel_s: float = 0.0
    settle_s: float = 0.0


StreamMessage: TypeAlias = Chunk | EndOfStream
