"""Auxiliary instruments: what each model measures and how its line is set, the driver's interface, and the
band that a reading must lie in.

Line settings are those of the manuals: SR830 (Stanford Research Systems, chapter 5: on RS232 answers end with
a carriage return, commands with a carriage return or line feed; 9600 baud, no parity by default), Lake Shore
335 and 336 (chapter 6: 57600 baud, 7 bits, odd parity, answers end with CR LF; 50 ms between messages).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

from protocols.messages.auxiliary import AuxiliaryReading
from protocols.messages.campaign import AuxiliarySection, WaitSection

SR830_TIME_CONSTANTS_S = tuple(
    float(f"{digit}e{power}") for power in range(-5, 5) for digit in (1, 3)
)  # 10 us, 30 us, ... 10 ks, 30 ks
SR830_AMPLITUDE_STEP_V = 2e-3
LATEST_ANSWER = 6
"""Time-outs after a question in which its answer may still come; no instrument is later than that."""


@dataclass(frozen=True)
class Quantity:
    """One channel: SI unit, dimension as in ``protocols.files.quantities``, and what it cannot exceed."""

    name: str
    unit: str
    dimension: str
    low: float
    high: float

    def plausible(self, value: float) -> bool:
        """Whether an instrument that works can give this value; not for NaN."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Model:
    """One kind of instrument."""

    name: str
    title: str
    identity: re.Pattern[str]
    """What its answer to ``*IDN?`` looks like."""
    baud: int
    data_bits: int
    parity: str
    """"N" or "O"."""
    write_termination: str
    read_termination: str
    pace_s: float
    """Least time between two messages to it."""
    channels: tuple[Quantity, ...]
    inputs: tuple[str, ...] = ()
    """Those channels among which a campaign chooses; empty: all are read."""
    settable: tuple[str, ...] = ()

    def quantities(self, section: AuxiliarySection) -> tuple[Quantity, ...]:
        """What is read with these keys, in order."""
        return tuple(q for q in self.channels if not self.inputs or q.name in section.inputs)

    def quantity(self, name: str) -> Quantity | None:
        """The channel of that name."""
        return next((q for q in self.channels if q.name == name), None)


def _kelvin(name: str) -> Quantity:
    return Quantity(name, "K", "temperature", 1e-3, 1700.0)


def _lake_shore(number: int, inputs: tuple[str, ...]) -> Model:
    return Model(
        name=f"lakeshore{number}",
        title=f"Lake Shore {number}",
        identity=re.compile(rf"LSCI,MODEL{number},[^,]*,[^,]*"),
        baud=57600,
        data_bits=7,
        parity="O",
        write_termination="\n",
        read_termination="\r\n",
        pace_s=0.05,
        channels=tuple(_kelvin(name) for name in inputs),
        inputs=inputs,
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="sr830",
            title="SR830",
            identity=re.compile(r"Stanford_Research_Systems,SR830,[^,]*,[^,]*"),
            baud=9600,
            data_bits=8,
            parity="N",
            write_termination="\r",
            read_termination="\r",
            pace_s=0.0,
            channels=(
                Quantity("x", "V", "voltage", -1.2, 1.2),
                Quantity("y", "V", "voltage", -1.2, 1.2),
                Quantity("amplitude", "V", "voltage", 0.004, 5.0),
                Quantity("frequency", "Hz", "frequency", 1e-3, 102e3),
                Quantity("time_constant", "s", "time", 1e-5, 3e4),
            ),
            settable=("amplitude", "frequency", "time_constant"),
        ),
        _lake_shore(335, ("A", "B")),
        _lake_shore(336, ("A", "B", "C", "D")),
    )
}


class AuxiliaryInstrument(Protocol):
    """An open instrument.  All methods may take a few time-outs; none is called from two threads."""

    identity: str
    port: str
    settings: dict[str, float]
    """What the campaign has set, as read back."""

    @property
    def strays(self) -> int:
        """Bytes that came when none were expected."""

    def read(self) -> AuxiliaryReading:
        """One reading of everything that is wanted.

        Raises:
            DeadlineError: no answer, or a cut one, in time.
            DriverError: an answer that cannot be right, or settings that somebody has changed.
            LinkLostError: the port is gone.
        """

    def close(self) -> None:
        """Let go of the port; safe to repeat."""


@dataclass(frozen=True)
class Band:
    """Where a reading must lie, and for how long (s) it may be, or must have been, elsewhere."""

    low: float = -math.inf
    high: float = math.inf
    hysteresis: float = 0.0
    hold_after_s: float = 5.0
    resume_after_s: float = 0.0
    stale_after_s: float = 5.0
    """A reading that is older is none."""
    fresh_s: float = math.inf
    """Readings that are further apart do not show that the band was kept between them."""

    @classmethod
    def of(cls, wait: WaitSection, section: AuxiliarySection) -> Band:
        """The band of one [[wait_on]]."""
        return cls(
            wait.low,
            wait.high,
            wait.hysteresis,
            wait.hold_after_s,
            wait.resume_after_s,
            max(wait.hold_after_s, stale_after(section)),
            stale_after(section),
        )


def stale_after(section: AuxiliarySection) -> float:
    """Age (s) of the last reading from which on an instrument counts as silent: one question may stay without
    an answer, until nothing can come to it any more, and one more reading may take its whole time-out."""
    return 3 * section.period_s + (LATEST_ANSWER + 2) * section.timeout_s


INSIDE = "inside"
LEAVING = "leaving"
OUTSIDE = "outside"
RETURNING = "returning"
SILENT = "silent"
UNKNOWN = "unknown"
HOLDING = frozenset({OUTSIDE, RETURNING, SILENT, UNKNOWN})


class BandWatch:
    """Says whether a reading is where it must be; times are any monotonic seconds.

    ``unknown`` before the first reading, which decides at once; then ``inside`` until the reading was outside
    for ``hold_after_s`` (``leaving`` meanwhile), then ``outside`` until it was inside by ``hysteresis`` for
    ``resume_after_s`` (``returning`` meanwhile).  No reading for ``stale_after_s``: ``silent``, and then it
    must have been inside for ``resume_after_s`` too, by the hysteresis only if it was outside before.
    ``must_return``: the first reading does not decide at once, as if it had been outside before.
    """

    def __init__(self, band: Band, *, must_return: bool = False) -> None:
        self.band = band
        self._must_return = must_return
        self._margin = band.hysteresis
        self.state = UNKNOWN
        self.since_s = math.nan
        """When this state began."""
        self.value = math.nan
        self.seen_s = math.nan
        """Time of the last reading."""

    @property
    def holds(self) -> bool:
        """Whether the run must not measure."""
        return self.state in HOLDING

    def feed(self, at_s: float, value: float) -> None:
        """Take in a reading; one that is older than the last, or is none, is left out."""
        if math.isnan(value) or at_s < self.seen_s:
            return
        gap_s = at_s - self.seen_s
        self.value, self.seen_s = value, at_s
        band = self.band
        within = band.low <= value <= band.high
        well_within = band.low + self._margin <= value <= band.high - self._margin
        match self.state:
            case "unknown" if not self._must_return:
                self._go(INSIDE if within else OUTSIDE, at_s)
            case "inside" if not within:
                self._go(LEAVING, at_s)
            case "leaving" if within:
                self._go(INSIDE, at_s)
            case "outside" | "silent" | "unknown":
                self._go(RETURNING if well_within else OUTSIDE, at_s)
            case "returning" if not well_within:
                self._go(OUTSIDE, at_s)
            case "returning" if gap_s > band.fresh_s:
                self.since_s = at_s
        self._grow_old(at_s)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        if self.state == UNKNOWN:
            return
        if now_s - self.seen_s > self.band.stale_after_s:
            if self.state != SILENT:
                was_inside = self.state in (INSIDE, LEAVING)
                self._go(SILENT, self.seen_s)
                self._margin = 0.0 if was_inside else self.band.hysteresis
            return
        self._grow_old(now_s)

    def _grow_old(self, now_s: float) -> None:
        if self.state == LEAVING and now_s - self.since_s >= self.band.hold_after_s:
            self._go(OUTSIDE, self.since_s)
        fresh = now_s - self.seen_s <= self.band.fresh_s
        if self.state == RETURNING and fresh and now_s - self.since_s >= self.band.resume_after_s:
            self._go(INSIDE, now_s)

    def _go(self, state: str, at_s: float) -> None:
        if state != self.state:
            self.state, self.since_s = state, at_s
        if state == OUTSIDE:
            self._margin = self.band.hysteresis
