"""Between which bounds the parameters of a data set's images lie, sample by sample.

A number is drawn uniformly between its bounds, or uniformly in its logarithm where said so.
"""

from __future__ import annotations

from dataclasses import dataclass

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """Bounds of one sample's images."""

    width_m: Bounds = (1e-9, 4e-9)
    """Edge of the square frame."""
    biases_v: tuple[Bounds, ...] = ((-2.0, -1.6), (1.1, 2.0))
    """Where the perfect surface conducts; each interval as often as the others."""
    setpoint_a: Bounds = (20e-12, 500e-12)
    """Logarithmic."""
    work_function_ev: Bounds = (3.8, 5.2)
    rate_hz: tuple[float, ...] = (10e3, 20e3)
    """Of the controller."""
    ticks_per_pixel: tuple[int, int] = (12, 48)
    """How slowly is scanned: 0.6 to 4.8 ms a pixel."""
    logarithmic_share: float = 0.7
    """So many images with the controller on the logarithm of the current, the rest on the current."""
    lag_pixels: Bounds = (0.05, 2.5)
    """Time constant of the closed loop over the time of a pixel, logarithmic: from tight to far too slow."""
    tightest: float = 3.0
    """The loop's corner is never above this multiple of the preamplifier's bandwidth: at 0.25 it begins to
    ring, with the square root of the multiple as its quality."""
    proportional: Bounds = (0.0, 0.4)
    """Times 1 / 2 kappa; half of the images have none."""
    derivative: Bounds = (0.0, 0.3)
    """Times a tick / 2 kappa; a fifth of the images have it."""
    bandwidths_hz: tuple[float, ...] = (1.1e3, 7e3, 0.2e3)
    """Of the preamplifier at 1e9 and 1e8 V/A, and with a filter behind it; its rail is 10 V over the gain."""
    gains_v_a: tuple[float, ...] = (1e9, 1e8, 1e9)
    flicker_share: Bounds = (2e-5, 6e-3)
    """Flicker noise at 1 Hz over the current (1 / sqrt Hz), logarithmic."""
    mains_a: Bounds = (0.02e-12, 3e-12)
    """Peak amplitude of the first line, logarithmic; its harmonics have 0.4 and 0.6 of it."""
    noise_factor: Bounds = (0.7, 4.0)
    """On the amplifier's voltage noise, logarithmic."""
    creep_gamma: Bounds = (0.001, 0.010)
    creep_onset_s: float = 0.1
    approach_m: float = 12e-9
    """The tip came from within so far, along either axis."""
    hysteresis_beta: Bounds = (-0.20, -0.04)
    hysteresis_range_m: Bounds = (6e-9, 60e-9)
    """Logarithmic."""
    resonance_hz: Bounds = (900.0, 4000.0)
    drift_m_s: float = 15e-12
    """Largest lateral mean velocity; its vertical one is a fifth of it at most."""
    wander_share: float = 0.3
    """Rms of the wandering velocity over the largest mean one."""
    slope: float = 0.035
    """Largest tilt along either axis: 2 degrees."""
    without: float = 0.15
    """Each distortion is left out of so many images."""


RANGES: dict[str, Ranges] = {
    "ws2": Ranges(biases_v=((-2.2, -1.6), (1.1, 2.1))),
    "wse2": Ranges(biases_v=((-2.0, -1.25), (1.15, 2.0))),
    "fese": Ranges(biases_v=((-40e-3, -4e-3), (4e-3, 40e-3)), setpoint_a=(50e-12, 1e-9)),
    "au111": Ranges(
        width_m=(5e-9, 18e-9),
        biases_v=((-0.9, -0.02), (0.02, 0.9)),
        approach_m=60e-9,
        hysteresis_range_m=(30e-9, 300e-9),
        drift_m_s=80e-12,
        slope=0.02,
        work_function_ev=(4.5, 5.5),
    ),
}
