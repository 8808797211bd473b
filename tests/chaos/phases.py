"""What the tip does, recognised from the outside: from the truth log of the simulated microscope.

Entries stand at the end of what they tell of, so a phase is known from what must come next: a sweep's job
travels until its "move" entry, settles until "settle", then sweeps until "sweep_done".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from protocols.files.truth_log import TORN_MARK, TruthEntry

POLL_S = 0.001
"""Phases last tens of milliseconds; the log is looked at this often."""

SCANS = frozenset({"frame", "bias frames", "reference patch"})
"""Kinds of jobs that scan, as the truth log names them."""

_decoder = msgspec.json.Decoder(TruthEntry)


class PhaseTracker:
    """Folds entries of the truth log into what the tip does after the last of them.

    ``phase``: "idle" (no job), "moving", "settling", "sweeping", "swept" (the sweep is done, its job not
    yet), "scanning", or the kind of another job.  ``engaged``: the Z-controller was switched on and no
    retraction has begun since.  ``sweeps_ended``: jobs of finished sweeps that have ended.
    """

    def __init__(self) -> None:
        self.phase = "idle"
        self.engaged = False
        self.job_id = ""
        self.jobs_begun = 0
        self.sweeps_ended = 0
        self._completed = False

    def feed(self, entry: TruthEntry) -> None:
        """Take the next entry."""
        match entry.event:
            case "begin_job":
                self._begin(entry)
            case "end_job" | "start" | "exit":
                self._end()
            case "move" if self.phase == "moving":
                self.phase = "settling"
            case "settle" if self.phase in ("moving", "settling"):
                self.phase = "sweeping"
            case "sweep_done":
                self.phase = "swept"
                self._completed = bool(entry.detail.get("completed"))
            case "feedback":
                self.engaged = self.engaged or bool(entry.detail.get("on"))
            case _:
                pass
        if entry.event in ("retraction", "start", "withdrawn"):
            self.engaged = False

    def _begin(self, entry: TruthEntry) -> None:
        kind = str(entry.detail.get("kind", ""))
        self.phase = "moving" if kind == "sweep" else "scanning" if kind in SCANS else kind or "other"
        self.job_id = entry.job_id
        self.jobs_begun += 1
        self._completed = False

    def _end(self) -> None:
        self.sweeps_ended += self._completed
        self._completed = False
        self.phase, self.job_id = "idle", ""


def tip_at(entries: Iterable[TruthEntry], monotonic_s: float) -> PhaseTracker:
    """How the tip stood at that time."""
    tracker = PhaseTracker()
    for entry in entries:
        if entry.monotonic_s > monotonic_s:
            break
        tracker.feed(entry)
    return tracker


class TruthTail:
    """Follows a truth log that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tip = PhaseTracker()
        self.last_s = 0.0
        """Monotonic time of the last entry."""
        self._offset = 0
        """Of the first line that has not been read whole."""

    def poll(self) -> list[TruthEntry]:
        """Entries that were written since; a line without its end waits for it (or may be taken back)."""
        try:
            with self.path.open("rb") as f:
                f.seek(self._offset)
                data = f.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        lines = whole.split(b"\n")
        found = [_decoder.decode(line) for line in lines if line and not line.endswith(TORN_MARK)]
        for entry in found:
            self.tip.feed(entry)
            self.last_s = entry.monotonic_s
        return found

    def wait_until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Follow the log until ``reached`` (which looks at ``tip``) is true; False at the deadline."""
        until = time.monotonic() + timeout_s
        while True:
            self.poll()
            if reached():
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_S)

    def wait_for(self, phase: str, timeout_s: float) -> bool:
        """Wait for the beginning of a phase ("committing": for the end of a finished sweep's job).

        A phase that is under way when the wait begins does not count, except "idle".
        """
        self.poll()
        if phase == "committing":
            ended = self.tip.sweeps_ended
            return self.wait_until(lambda: self.tip.sweeps_ended > ended, timeout_s)
        begun = self.tip.jobs_begun if self.tip.phase == phase != "idle" else -1
        return self.wait_until(
            lambda: self.tip.phase == phase and self.tip.jobs_begun != begun,
            timeout_s,
        )
