"""The truth log of a simulated microscope: JSON lines, one entry per thing that really happened to the tip.

The world writes it, tests and reports read it; actors never do.  Entries of a process that was killed are
whole up to the last line, which may be torn: the reader leaves a torn last line out, and the writer closes
it off before it goes on.  Entries are never rewritten.  Times: ``monotonic_s`` is the system-wide monotonic
clock, ``wall_s`` Unix time, ``time_s`` the instrument's clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from protocols.errors import DataFormatError, StorageError

EVENTS = frozenset(
    {
        "start",  # the world came to life: pid, sample, seed, time scale; ends whatever ran before
        "ground_truth",  # positions, kinds and spectra of everything
        "begin_job",
        "end_job",  # detail: outcome
        "move",  # detail: from, to, seconds, completed
        "settle",
        "bias",  # the bias arrived at a new value
        "setpoint",
        "feedback",  # detail: on
        "lockin",
        "sweep_done",  # detail: x, y (piezo), sample_x, sample_y, saturated, completed, seconds
        "frame_done",  # detail: lines, completed, seconds
        "pulse",
        "indentation",
        "retraction",  # the retraction begins: monotonic_s is that instant
        "withdrawn",  # the tip has arrived at the withdrawn position
        "crash",
        "lost_surface",
        "tip_change",  # by itself: detail: cause, tip_changes
        "safe_tip",  # SafeTip withdrew: detail: threshold
        "z",  # Z arrived where it was told to go, with the controller off
        "motor",  # steps of the coarse motor: detail: axis, steps, of
        "approached",  # the automatic approach found the surface: detail: cycles
        "client_lost",
        "fault",
        "exit",
    }
)
"""Every kind of entry there is."""


class TruthEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log."""

    n: int
    """Counts from 0 over all restarts."""
    event: str
    monotonic_s: float
    wall_s: float
    time_s: float
    job_id: str = ""
    detail: dict[str, Any] = {}


def _plain(value: Any) -> Any:
    """Numbers of numpy as plain ones."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no place in the truth log")


_decoder = msgspec.json.Decoder(TruthEntry)
_encoder = msgspec.json.Encoder(enc_hook=_plain)


def truth_path(state: Path) -> Path:
    """Where the log lies in a state directory."""
    return state / "sim" / "truth.jsonl"


def read_truth(path: Path) -> list[TruthEntry]:
    """All entries in order; a torn last line, or one that a restart closed off, is left out.

    Raises:
        DataFormatError: a line elsewhere is damaged; names file and line.
        StorageError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise StorageError(f"{path} cannot be read: {problem.strerror}.") from problem
    complete, torn = lines[:-1], lines[-1]
    del torn
    entries: list[TruthEntry] = []
    for number, line in enumerate(complete, start=1):
        if not line or line.endswith(TORN_MARK):
            continue
        try:
            entries.append(_decoder.decode(line))
        except msgspec.MsgspecError as broken:
            raise DataFormatError(f"{path}: line {number} is damaged: {broken}.") from broken
    return entries


TORN_MARK = b"#torn"
"""Appended by the writer to a line that a killed predecessor left unfinished."""


class TruthLogWriter:
    """Appends entries.  ``append`` hands each line to the system at once, whole; ``sync`` makes all durable.

    A line that was written survives the death of the process, a line that was synced that of the machine.
    One thread at a time.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.last = self._last_entry()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._next = 0 if self.last is None else self.last.n + 1

    def _last_entry(self) -> TruthEntry | None:
        """The last whole entry; closes off a torn line after it."""
        if not self.path.exists():
            return None
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with self.path.open("ab") as f:
                f.write(TORN_MARK + b"\n")
        entries = read_truth(self.path)
        return entries[-1] if entries else None

    def append(
        self,
        event: str,
        *,
        time_s: float,
        job_id: str = "",
        monotonic_s: float | None = None,
        detail: dict[str, Any] | None = None,
    ) -> TruthEntry:
        """Write one entry; ``monotonic_s`` defaults to now.

        Raises:
            StorageError: no room, or an event that is not in ``EVENTS``.
        """
        if event not in EVENTS:
            raise StorageError(f"the truth log has no event {event!r}.")
        now = time.monotonic()
        stamp = now if monotonic_s is None else monotonic_s
        entry = TruthEntry(
            n=self._next,
            event=event,
            monotonic_s=stamp,
            wall_s=time.time() - (now - stamp),
            time_s=time_s,
            job_id=job_id,
            detail=detail or {},
        )
        line = _encoder.encode(entry) + b"\n"
        written = os.write(self._file, line)
        if written != len(line):
            # Taking the piece back needs no room; left there, the next line would be glued to it.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise StorageError(f"{self.path}: only {written} of {len(line)} bytes were written (disk full?).")
        self._next += 1
        return entry

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Sync and close."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1


def job_intervals(entries: Iterable[TruthEntry]) -> list[tuple[str, float, float]]:
    """(job_id, begin, end) in monotonic seconds; a job that a death or an exit cut off ends at the last
    entry before."""
    intervals: list[tuple[str, float, float]] = []
    running: tuple[str, float] | None = None
    last = 0.0
    for entry in entries:
        if running is not None and entry.event in ("begin_job", "start", "exit"):
            cut = entry.monotonic_s if entry.event == "begin_job" else last
            intervals.append((running[0], running[1], max(cut, running[1])))
            running = None
        if entry.event == "begin_job":
            running = (entry.job_id, entry.monotonic_s)
        elif entry.event == "end_job" and running is not None and entry.job_id == running[0]:
            intervals.append((running[0], running[1], entry.monotonic_s))
            running = None
        last = entry.monotonic_s
    if running is not None:
        intervals.append((running[0], running[1], max(last, running[1])))
    return intervals


def idle_fraction(entries: Iterable[TruthEntry], t0: float, t1: float) -> float:
    """Share of [t0, t1] (monotonic s) in which no job ran.  The duty cycle is one minus this."""
    if t1 <= t0:
        return 0.0
    busy = sum(max(0.0, min(end, t1) - max(begin, t0)) for _, begin, end in job_intervals(entries))
    return 1.0 - min(1.0, busy / (t1 - t0))


_SHARES = {
    "sweep_done": "sweeps",
    "frame_done": "frames",
    "move": "travel",
    "settle": "settling",
}


def shares(entries: Iterable[TruthEntry], t0: float, t1: float, time_scale: float = 1.0) -> dict[str, float]:
    """Shares of [t0, t1] (monotonic s) spent in sweeps, frames, travel and settling, plus "idle".

    Each activity's entry stands at its end and holds its length in instrument seconds.
    """
    kept = list(entries)
    total = dict.fromkeys(_SHARES.values(), 0.0)
    if t1 <= t0:
        return {**total, "idle": 0.0}
    for entry in kept:
        if (name := _SHARES.get(entry.event)) is not None:
            begin = entry.monotonic_s - float(entry.detail.get("seconds", 0.0)) / time_scale
            total[name] += max(0.0, min(entry.monotonic_s, t1) - max(begin, t0))
    found = {name: seconds / (t1 - t0) for name, seconds in total.items()}
    return {**found, "idle": idle_fraction(kept, t0, t1)}
