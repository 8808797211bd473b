"""Spectra: the same one again and again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tests.hil.figures import text_of
from tests.hil.laboratory import Laboratory

NOISE_SIGMAS = 3.0
GAP_SHARE = 0.10
"""The tip is stabilised anew before every sweep; a gap that is off by 5 pm changes the current by 10 %."""

Floats = npt.NDArray[np.float64]


def point_noise(sweeps: Floats) -> float:
    """Rms noise (A) of a sample from within the sweeps (n, points): second differences, in which whatever is
    smooth cancels, have 6 times the variance of a sample."""
    second = sweeps[:, 2:] - 2.0 * sweeps[:, 1:-1] + sweeps[:, :-2]
    return float(np.sqrt(np.median(second**2) / 0.4549 / 6.0))  # 0.4549: median of chi^2 with one degree


def test_spectra_repeat(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """Spectra at one place repeat within 3 sigma of their own noise and 10 % of the current."""
    lab.engaged()
    sweep, repeats = lab.plan.sweep(), lab.plan.choices.repeats
    taken = [lab.gateway.spectrum(sweep, lab.expected_s(sweep)) for _ in range(repeats)]
    assert not any(data.saturated for data in taken), "the preamplifier was at its rail: choose another range"
    current = np.array([data.channels[0].values[0, 0] for data in taken])
    backward = np.array([data.channels[0].values[0, 1] for data in taken])
    assert np.isfinite(current).all()
    mean = current.mean(axis=0)
    noise = point_noise(current)
    scatter = float(np.sqrt(np.mean((current - mean) ** 2) * repeats / (repeats - 1)))
    size = float(np.sqrt(np.mean(mean**2)))
    allowed = float(np.hypot(NOISE_SIGMAS * noise, GAP_SHARE * size))
    figures(
        "scatter between sweeps",
        f"{text_of(scatter, 'A')} of {text_of(size, 'A')} rms; allowed {text_of(allowed, 'A')}: "
        f"3 x noise ({text_of(noise, 'A')} a sample) and 10 % of the current",
    )
    ways = float(np.sqrt(np.mean((mean - backward.mean(axis=0)) ** 2)))
    figures("forward against backward", f"{text_of(ways, 'A')} rms")
    assert scatter <= allowed, "the spectra do not repeat: unstable tip, drift, or noise of the gap"
    if sweep.spectrum.lockin is not None:
        x = np.array([data.channels[1].values[0, 0] for data in taken])
        noise_x, swing = point_noise(x), float(np.ptp(x.mean(axis=0)))
        figures("lock-in X", f"{text_of(swing, 'A')} from lowest to highest, {text_of(noise_x, 'A')} noise")
    standing = lab.gateway.reading()
    assert standing.feedback, "the controller was not on again after the sweep"
    assert abs(standing.bias_v - lab.plan.choices.bias_v) <= lab.limits.bias_tolerance
