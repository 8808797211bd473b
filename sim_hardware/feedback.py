"""The Z-controller: an integral controller on the logarithm of the current.

With an exponential current the logarithmic error is proportional to the distance from the setpoint's gap, so
the closed loop is a first-order lag ``dz/dt = (z_set - z) / tau`` whose speed is limited by the slew rate of
the Z amplifier.  Both have closed forms, which are used instead of small time steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FeedbackSettings:
    """Time constant (s), slew limit (m/s), Z range (m, low is toward the sample), retraction speed (m/s)."""

    time_constant_s: float = 0.3e-3
    slew_m_s: float = 2.0e-6
    z_low_m: float = -250e-9
    z_high_m: float = 250e-9
    retract_m_s: float = 10e-6


def relax(z_m: float, target_m: float, duration_s: float, settings: FeedbackSettings) -> float:
    """Z after ``duration_s`` with a constant target: a ramp at the slew limit, then an exponential.

    The target is first brought into the Z range (the integrator is clamped there).  Exact.
    """
    target = min(max(target_m, settings.z_low_m), settings.z_high_m)
    error = target - z_m
    tau, slew = settings.time_constant_s, settings.slew_m_s
    linear = slew * tau
    if abs(error) > linear:
        ramp_s = (abs(error) - linear) / slew
        if ramp_s >= duration_s:
            return float(z_m + np.copysign(slew * duration_s, error))
        duration_s -= ramp_s
        error = np.copysign(linear, error)
    return float(target - error * np.exp(-duration_s / tau))


def follow(z_m: float, targets_m: Floats, step_s: float, settings: FeedbackSettings) -> Floats:
    """Z at the end of each step while the target takes the values ``targets_m`` (each held for ``step_s``).

    Shape (n,) in and out.  Where the slew limit never acts this is the exact discretisation of the lag;
    otherwise each step is taken with ``relax``.
    """
    targets = np.clip(targets_m, settings.z_low_m, settings.z_high_m)
    decay = np.exp(-step_s / settings.time_constant_s)
    z, _ = lfilter([1.0 - decay], [1.0, -decay], targets, zi=[decay * z_m])
    lag = np.abs(targets - np.concatenate(([z_m], z[:-1])))
    limit = settings.slew_m_s * settings.time_constant_s
    if float(lag.max(initial=0.0)) <= limit:
        return np.asarray(z)
    first = int(np.argmax(lag > limit))
    out = np.array(z)
    at = float(out[first - 1]) if first else z_m
    for i in range(first, len(targets)):
        at = relax(at, float(targets[i]), step_s, settings)
        out[i] = at
    return out
