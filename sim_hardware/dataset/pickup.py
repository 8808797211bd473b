"""Slow noise along a frame: flicker by samples, and the mains as terms of a product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.noise import NoiseSettings, coloured_noise

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


def flicker(noise: NoiseSettings, count: int, step_s: float, rng: np.random.Generator) -> Floats:
    """Noise of the current over the current at ``count`` samples ``step_s`` apart."""
    frequency = np.arange(count // 2 + 1) / (count * step_s)
    one_sided = np.zeros(len(frequency))
    one_sided[1:] = noise.flicker_share**2 / frequency[1:] ** noise.flicker_exponent
    return coloured_noise(one_sided, count, step_s, rng)


def mains_terms(
    noise: NoiseSettings, setpoint_a: float, tick_s: float, ticks: int, starts_s: Floats
) -> tuple[Singles, Singles]:
    """Pick-up in setpoints as a product over ticks and lanes, sin(a + b) = sin a cos b + cos a sin b.

    (ticks, terms) and (terms, lanes), for lanes that begin at ``starts_s``.
    """
    times = tick_s * np.arange(ticks)
    along, across = [], []
    lines = zip(noise.mains_a, noise.mains_phases_rad, strict=True)
    for n, (amplitude, phase) in enumerate(lines, start=1):
        pulse, size = 2.0 * np.pi * n * noise.mains_hz, amplitude / setpoint_a
        along += [np.sin(pulse * times), np.cos(pulse * times)]
        across += [size * np.cos(pulse * starts_s + phase), size * np.sin(pulse * starts_s + phase)]
    return np.stack(along, axis=1).astype(np.float32), np.stack(across).astype(np.float32)
