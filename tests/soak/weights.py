"""What a process weighs over time: memory and open files, whether they grow, and how much is allowed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import psutil

PERIOD_S = 0.5
WARM_UP_SHARE = 1 / 3
"""Of the samples, which say nothing yet: caches and pools fill."""
FLAT_MIB = 12.0
"""What a process may gain from the end of the warm-up to the end of the garbage, by a straight line through
the samples in between: the noise of an allocator, in ten minutes as in twenty seconds."""
GROWTH_MIB = 64.0
"""What it may weigh at any moment above what it weighed before: less than one frame of the largest size."""
FILES = 32
"""Open files that it may gain in the same way as memory, and have more at the end than before."""
GREETING_S = 120.0
"""gRPC, on Ray's ports, keeps a connection whose greeting broke off for so long: of a process that listens so
the number of open files says something only after a warm-up that outlasts it."""
GREETINGS_SHARE = 0.25
"""Of the open files that such a process has on average, what it may gain: how many greetings of the last two
minutes are still open goes up and down with the attacks (by a tenth in ten minutes).  With one connection in
ten that stayed for good, 400 s would add two fifths of what 100 s of them are."""
MOST_FILES = 1000
"""What such a process may have open at any moment."""


@dataclass
class Weights:
    """Samples of one process: when (monotonic s), memory (MiB), open files."""

    process: psutil.Process
    speaks_grpc: bool = False
    times_s: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self) -> None:
        """One sample; none of a process that is gone."""
        try:
            mib, files = self.process.memory_info().rss / 2**20, self.process.num_fds()
        except psutil.NoSuchProcess:
            return
        self.times_s.append(time.monotonic())
        self.mib.append(mib)
        self.files.append(files)

    @property
    def fitted_mib(self) -> float:
        """Memory gained after the warm-up, by a straight line."""
        return _fitted_gain(self.times_s, self.mib)

    @property
    def fitted_files(self) -> float:
        """Open files gained after the warm-up, by a straight line."""
        return _fitted_gain(self.times_s, self.files)

    @property
    def peak_mib(self) -> float:
        """The most it weighed."""
        return max(self.mib)

    @property
    def files_allowed(self) -> float:
        """Open files that it may gain after the warm-up."""
        if not self.speaks_grpc:
            return FILES
        return max(
            FILES, GREETINGS_SHARE * float(np.mean(self.files[int(len(self.files) * WARM_UP_SHARE) :]))
        )

    def faults(self, before_mib: float) -> list[str]:
        """In which way it is not flat."""
        found = []
        if (more := self.peak_mib - before_mib) > GROWTH_MIB:
            found.append(f"weighed {more:.0f} MiB more for a while (allowed {GROWTH_MIB:g})")
        if self.fitted_mib > FLAT_MIB:
            found.append(f"gained {self.fitted_mib:.1f} MiB after the warm-up (allowed {FLAT_MIB:g})")
        allowed = self.files_allowed
        if self.fitted_files > allowed and self._files_are_told:
            found.append(
                f"gained {self.fitted_files:.0f} open files after the warm-up (allowed {allowed:.0f})"
            )
        if max(self.files) > MOST_FILES:
            found.append(f"had {max(self.files)} open files (allowed {MOST_FILES})")
        return found

    @property
    def _files_are_told(self) -> bool:
        warm_up_s = WARM_UP_SHARE * (self.times_s[-1] - self.times_s[0])
        return not self.speaks_grpc or warm_up_s > GREETING_S


def _fitted_gain(times_s: list[float], values: list[float] | list[int]) -> float:
    """Slope of a straight line through what came after the warm-up, times the time since then."""
    first = int(len(times_s) * WARM_UP_SHARE)
    if len(times_s) - first < 3:
        return 0.0
    t = np.array(times_s[first:]) - times_s[first]
    slope = np.polyfit(t, np.array(values[first:], dtype=float), 1)[0]
    return float(slope * t[-1])
