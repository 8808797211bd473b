"""Noise densities by Welch's method against the densities stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import constants
from scipy.signal import welch

from sim_hardware.physics.noise import (
    GAIN_RANGES,
    QUIET,
    NoiseSettings,
    Preamplifier,
    coloured_noise,
    density,
    mains,
    noisy,
    shot_density,
    thermal_density,
    white_noise,
)

STEP_S = 1 / 20e3
ROWS, COUNT = 24, 2**15


def measured(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided density averaged over rows by Welch's method."""
    f, p = welch(signal, fs=1 / STEP_S, nperseg=4096, axis=-1)
    return f, p.mean(axis=0)


def in_band(f: np.ndarray, low: float, high: float) -> np.ndarray:
    """Mask of frequencies."""
    return np.asarray((f > low) & (f < high))


def test_shot_noise_is_2_e_i() -> None:
    """Welch's density of 1 nA is 2 e I = 3.2e-28 A^2/Hz to 2 %, of a quarter of it a quarter; a density of
    e I or 4 e I is out."""
    settings = replace(QUIET, shot_factor=1.0)
    for current in (1e-9, -0.25e-9):
        signal = noisy(np.full((ROWS, COUNT), current), STEP_S, settings, np.random.default_rng(1))
        f, p = measured(signal - current)
        assert np.isclose(p[in_band(f, 50, 9900)].mean(), 2 * constants.e * abs(current), rtol=0.02, atol=0)
    assert np.isclose(shot_density(np.array(1e-9)), 3.204e-28, rtol=1e-3, atol=0)


def test_thermal_noise_is_4_k_t_over_r() -> None:
    """1 GOhm at 295 K: 4.04 fA per sqrt Hz, by Welch to 2 % in the square."""
    settings = replace(QUIET, temperature_k=295.0)
    signal = noisy(np.zeros((ROWS, COUNT)), STEP_S, settings, np.random.default_rng(2))
    f, p = measured(signal)
    assert np.isclose(p[in_band(f, 50, 9900)].mean(), thermal_density(1e9, 295.0), rtol=0.02, atol=0)
    assert np.isclose(np.sqrt(thermal_density(1e9, 295.0)), 4.036e-15, rtol=1e-3, atol=0)


def test_flicker_noise_falls_as_its_exponent_says() -> None:
    """(c I)^2 / f^alpha: level and slope by Welch over two decades, to 5 % and 0.05, for alpha 1 and 1.5; it
    grows with the square of the current."""
    for exponent in (1.0, 1.5):
        settings = replace(QUIET, flicker_share=1e-3, flicker_exponent=exponent)
        signal = noisy(np.full((ROWS, COUNT), 2e-10), STEP_S, settings, np.random.default_rng(3))
        f, p = measured(signal)
        band = in_band(f, 40, 4000)
        expected = density(f[band], 2e-10, settings)
        assert np.isclose((p[band] / expected).mean(), 1.0, rtol=0.05, atol=0)
        slope = np.polyfit(np.log(f[band]), np.log(p[band]), 1)[0]
        assert np.isclose(slope, -exponent, rtol=0, atol=0.05)


def test_voltage_noise_rises_with_frequency() -> None:
    """The amplifier's voltage noise on 50 pF: (2 pi f C e)^2 by Welch to 5 %."""
    settings = replace(QUIET, voltage_v_per_sqrt_hz=4e-9)
    signal = noisy(np.zeros((ROWS, COUNT)), STEP_S, settings, np.random.default_rng(4))
    f, p = measured(signal)
    band = in_band(f, 1000, 9500)
    assert np.isclose((p[band] / (2 * np.pi * f[band] * 50e-12 * 4e-9) ** 2).mean(), 1.0, rtol=0.05, atol=0)


def test_all_sources_together_have_the_stated_density() -> None:
    """The sum of all sources by Welch equals ``density`` to 5 % between the mains lines."""
    settings = NoiseSettings()
    signal = noisy(np.full((ROWS, COUNT), 5e-10), STEP_S, settings, np.random.default_rng(5))
    f, p = measured(signal)
    band = in_band(f, 200, 9500)
    ratio = p[band] / density(f[band], 5e-10, settings)
    assert np.isclose(ratio.mean(), 1.0, rtol=0.05, atol=0)


def test_mains_lines_have_their_amplitudes_and_phases() -> None:
    """Peak amplitudes and phases at 50, 100 and 150 Hz by Fourier sum, to 1e-9, and the next record goes on
    where the last one ended."""
    settings = replace(QUIET, mains_a=(2e-12, 0.0, 1e-12), mains_phases_rad=(0.3, 0.0, -1.0))
    t = STEP_S * np.arange(4000)
    found = noisy(np.zeros(4000), STEP_S, settings, np.random.default_rng(6))
    for n, (amplitude, phase) in enumerate(zip((2e-12, 0.0, 1e-12), (0.3, 0.0, -1.0), strict=True), start=1):
        part = 2j * np.mean(found * np.exp(-2j * np.pi * 50 * n * t))
        assert np.isclose(part, amplitude * np.exp(1j * phase), rtol=0, atol=1e-21)
    later = noisy(np.zeros(100), STEP_S, settings, np.random.default_rng(7), start_s=0.0123)
    assert np.allclose(later, mains(0.0123 + t[:100], settings), rtol=1e-9, atol=1e-25)


def test_shot_noise_follows_the_current_in_time() -> None:
    """Where the current steps from 10 pA to 1 nA the variance rises a hundredfold (10 %)."""
    current = np.concatenate([np.full((200, 500), 1e-11), np.full((200, 500), 1e-9)], axis=1)
    noise = noisy(current, STEP_S, replace(QUIET, shot_factor=1.0), np.random.default_rng(8)) - current
    assert np.isclose(noise[:, 500:].var() / noise[:, :500].var(), 100.0, rtol=0.1, atol=0)


def test_synthesised_noise_has_the_power_of_its_density() -> None:
    """Variance = integral of the one-sided density, for odd and even lengths, white as coloured (2 %)."""
    for count in (4096, 4097):
        flat = coloured_noise(np.full(count // 2 + 1, 3.0), count, STEP_S, np.random.default_rng(9), (50,))
        assert np.isclose(flat.var(), 3.0 / (2 * STEP_S), rtol=0.02, atol=0)
    white = white_noise((200000,), STEP_S, np.random.default_rng(10))
    assert np.isclose(white.var(), 1 / (2 * STEP_S), rtol=0.02, atol=0)


def test_no_noise_is_no_noise() -> None:
    """With every source off the current comes out as it went in."""
    current = np.linspace(-1e-9, 1e-9, 50)
    assert np.array_equal(noisy(current, STEP_S, QUIET, np.random.default_rng(1)), current)


def test_preamplifier_limits_the_band() -> None:
    """White noise through it has |H|^2 = 1 / (1 + (f / B)^2) by Welch to 5 % up to 3 B; a step rises as
    1 - exp(-2 pi B t) to 1e-12."""
    amplifier = Preamplifier(bandwidth_hz=500.0)
    white = white_noise((ROWS, COUNT), STEP_S, np.random.default_rng(11)) * 1e-15
    f, p = measured(amplifier.amplified(white, STEP_S))
    band = in_band(f, 20, 1500)
    assert np.allclose((p[band] / (1e-30 * amplifier.response(f[band]) ** 2)).mean(), 1.0, rtol=0.05, atol=0)
    step = amplifier.amplified(np.concatenate([[0.0], np.full(50, 1e-10)]), STEP_S)[1:]
    expected = 1e-10 * (1 - np.exp(-2 * np.pi * 500.0 * STEP_S * np.arange(1, 51)))
    assert np.allclose(step, expected, rtol=1e-12, atol=0)
    assert np.isclose(amplifier.noise_bandwidth_hz, np.pi / 2 * 500.0, rtol=1e-12, atol=0)


def test_preamplifier_shows_no_more_than_its_rail() -> None:
    """10 V at 1 GV/A is 10 nA, either sign; a short spike that the band smooths away stays below it."""
    amplifier = Preamplifier()
    shown = amplifier.amplified(np.concatenate([np.full(200, 1e-6), np.full(200, -1e-6)]), STEP_S)
    assert np.isclose(shown.max(), 10e-9, rtol=1e-12, atol=0)
    assert np.isclose(shown.min(), -10e-9, rtol=1e-12, atol=0)
    spike = np.zeros(50)
    spike[10] = 20e-9
    assert amplifier.amplified(spike, STEP_S).max() < 7e-9


@pytest.mark.parametrize("amplifier", GAIN_RANGES)
def test_gain_ranges_trade_rail_for_noise(amplifier: Preamplifier) -> None:
    """Every range: rail = 10 V / gain, and no range is faster than one with less gain."""
    assert np.isclose(amplifier.rail_a * amplifier.gain_v_per_a, 10.0, rtol=1e-12, atol=0)
    faster = [g.bandwidth_hz for g in GAIN_RANGES if g.gain_v_per_a < amplifier.gain_v_per_a]
    assert all(b >= amplifier.bandwidth_hz for b in faster)
