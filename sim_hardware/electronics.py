"""Preamplifier and lock-in: rail, noise, smoothing.

Noise comes from a generator that belongs to one measurement (``measurement_noise``), so that a measurement's
noise depends on the seed and on the measurement's id and on nothing else.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import constants
from scipy.signal import lfilter

from sim_hardware.physics.lockin import OutputFilter
from sim_hardware.physics.noise import coloured_noise

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ElectronicsSettings:
    """Preamplifier and mechanical noise."""

    rail_a: float = 10e-9
    noise_a_per_sqrt_hz: float = 4.3e-15
    shot_noise: float = 1.0
    """Factor on the shot noise's power: 1 is nature; 0 is for looking at one effect at a time."""
    bandwidth_hz: float = 1500.0
    flicker_share: float = 2e-4
    """1/f noise of the junction: this share of the current per root Hz at 1 Hz."""
    mains_a: float = 0.15e-12
    """Peak pick-up of the mains."""
    mains_hz: float = 50.0
    gap_noise_m_per_sqrt_hz: float = 1.5e-14
    """Vibration of the gap, white: 0.4 pm in 700 Hz."""
    image_noise_m: float = 2.0e-12
    """Rms noise of a topograph's pixel."""
    bias_slew_v_s: float = 4.0
    """Ramp of the bias where the caller does not say otherwise."""


def measurement_noise(seed: int, measurement: str, count: int) -> np.random.Generator:
    """The generator of the ``count``-th measurement of a job."""
    return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(measurement.encode()), count])


def current_noise_rms(
    current_a: Floats, kappa: float, bandwidth_hz: float, settings: ElectronicsSettings
) -> Floats:
    """Rms noise (A) of a current in a noise bandwidth: amplifier, shot noise 2 e I, and vibration of the
    gap."""
    density = settings.noise_a_per_sqrt_hz**2 + settings.shot_noise * 2.0 * constants.e * np.abs(current_a)
    vibration = (2.0 * kappa * settings.gap_noise_m_per_sqrt_hz * current_a) ** 2
    return np.sqrt((density + vibration) * bandwidth_hz)


def averaged_current(
    current_a: Floats,
    dwell_s: float,
    kappa: float,
    rng: np.random.Generator,
    settings: ElectronicsSettings,
) -> Floats:
    """Samples averaged over ``dwell_s`` (noise bandwidth 1 / 2 dwell, at most the amplifier's), at most the
    rail; the samples follow one another along the last axis."""
    bandwidth = min(0.5 / dwell_s, settings.bandwidth_hz)
    noisy = current_a + rng.normal(size=current_a.shape) * current_noise_rms(
        current_a, kappa, bandwidth, settings
    )
    noisy = noisy + slow_noise(current_a, dwell_s, rng, settings)
    return np.clip(noisy, -settings.rail_a, settings.rail_a)


def slow_noise(
    current_a: Floats, dwell_s: float, rng: np.random.Generator, settings: ElectronicsSettings
) -> Floats:
    """1/f noise of the junction and the mains' pick-up (A) averaged over each sample, same shape.

    A sinusoid averaged over ``dwell_s`` keeps the share sinc(f dwell).
    """
    count = current_a.shape[-1]
    total = np.zeros(current_a.shape)
    if settings.flicker_share > 0.0 and count > 1:
        frequency = np.arange(count // 2 + 1) / (count * dwell_s)
        density = np.zeros(len(frequency))
        density[1:] = 1.0 / frequency[1:]
        total += (
            settings.flicker_share
            * np.clip(current_a, -settings.rail_a, settings.rail_a)
            * coloured_noise(density, count, dwell_s, rng, current_a.shape[:-1])
        )
    if settings.mains_a > 0.0:
        kept = settings.mains_a * np.sinc(settings.mains_hz * dwell_s)
        phase = rng.uniform(0.0, 2.0 * np.pi)
        times = dwell_s * np.arange(count)
        total += kept * np.sin(2.0 * np.pi * settings.mains_hz * times + phase)
    return total


def lockin_output(
    conductance_s: Floats,
    current_a: Floats,
    amplitude_v: float,
    output: OutputFilter,
    dwell_s: float,
    kappa: float,
    rng: np.random.Generator,
    settings: ElectronicsSettings,
) -> tuple[Floats, Floats]:
    """X and Y (A, peak amplitude of the modulated current) behind a low pass, shape (points,).

    X follows ``amplitude x dI/dV`` through the low pass, settled at the first sample; Y is the quadrature,
    noise only.  The noise has the low pass's bandwidth and the correlation of its first stage.
    """
    smooth = output.filtered(amplitude_v * conductance_s, dwell_s)
    decay = np.exp(-dwell_s / output.time_constant_s)
    rms = np.sqrt(2.0) * current_noise_rms(current_a, kappa, output.noise_bandwidth_hz, settings)
    mixing = np.sqrt(max(1.0 - decay**2, 0.0))
    white = rng.normal(size=(2, len(smooth)))
    noise, _ = lfilter([mixing], [1.0, -decay], white, axis=1, zi=decay * rng.normal(size=(2, 1)))
    return smooth + noise[0] * rms, noise[1] * rms
