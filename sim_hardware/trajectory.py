"""What the tip does during a stretch of time, computed beforehand so that it can be looked at and cut at any
moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Instant:
    """Where the tip is at one moment; SI units, piezo coordinates."""

    x_m: float
    y_m: float
    z_m: float
    bias_v: float
    current_a: float


@dataclass(frozen=True)
class Trajectory:
    """Samples in order; sample i holds until ``times_s[i]`` (instrument time).  All arrays have shape (n,).

    ``end`` is the number of samples that are really played; ``ending`` says why the rest is not: "" (all
    are), "crash" or "saturated".
    """

    begin_s: float
    times_s: Floats
    x_m: Floats
    y_m: Floats
    z_m: Floats
    bias_v: Floats
    current_a: Floats
    end: int
    ending: str = ""

    @property
    def end_s(self) -> float:
        """Instrument time at which it is over."""
        return float(self.times_s[self.end - 1]) if self.end else self.begin_s

    def at(self, time_s: float) -> Instant:
        """The tip at a moment (clamped to the beginning and the end)."""
        i = min(int(np.searchsorted(self.times_s[: self.end], time_s, side="left")), max(self.end - 1, 0))
        return Instant(
            float(self.x_m[i]),
            float(self.y_m[i]),
            float(self.z_m[i]),
            float(self.bias_v[i]),
            float(self.current_a[i]),
        )
