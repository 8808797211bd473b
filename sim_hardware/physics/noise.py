"""Noise of the tunneling current, from spectral densities that are stated (one-sided, A^2/Hz).

- shot noise 2 e |I| (W. Schottky, Ann. Phys. 362, 541 (1918)), following the current in time;
- thermal noise 4 k T / R of the feedback resistor (H. Nyquist, Phys. Rev. 32, 110 (1928)), and the voltage
  noise of the amplifier on the input capacitance, (2 pi f C e_n)^2;
- 1/f noise (c I)^2 / f^alpha of the junction, made in the frequency domain as J. Timmer and M. Koenig,
  Astron. Astrophys. 300, 707 (1995);
- mains pick-up: sines at the line frequency and its harmonics, with phases of their own.

All are currents at the preamplifier's input; ``Preamplifier.amplified`` then limits band and rail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import constants
from scipy.signal import lfilter

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NoiseSettings:
    """Sources of noise; ``shot_factor`` 1 is nature, 0 is for looking at one effect at a time."""

    shot_factor: float = 1.0
    resistance_ohm: float = 1e9
    temperature_k: float = 295.0
    """Of the feedback resistor; 0 leaves the thermal noise out."""
    voltage_v_per_sqrt_hz: float = 4e-9
    capacitance_f: float = 50e-12
    flicker_share: float = 2e-4
    """Flicker noise at 1 Hz over the current (1 / sqrt Hz)."""
    flicker_exponent: float = 1.0
    mains_hz: float = 50.0
    mains_a: tuple[float, ...] = (0.15e-12, 0.05e-12, 0.1e-12)
    """Peak amplitudes at the line frequency, twice, three times it, ..."""
    mains_phases_rad: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Their phases at time 0."""


QUIET = NoiseSettings(
    shot_factor=0.0,
    temperature_k=0.0,
    voltage_v_per_sqrt_hz=0.0,
    flicker_share=0.0,
    mains_a=(),
    mains_phases_rad=(),
)
"""No noise at all."""


def shot_density(current_a: Floats) -> Floats:
    """2 e |I| (A^2/Hz), any shape."""
    return np.asarray(2.0 * constants.e * np.abs(current_a))


def thermal_density(resistance_ohm: float, temperature_k: float) -> float:
    """4 k T / R (A^2/Hz)."""
    return 4.0 * constants.k * temperature_k / resistance_ohm


def density(frequency_hz: Floats, current_a: float, settings: NoiseSettings) -> Floats:
    """Expected density (A^2/Hz) of a constant current at frequencies > 0, any shape, without mains lines."""
    frequency = np.asarray(frequency_hz, dtype=np.float64)
    white = settings.shot_factor * float(shot_density(np.asarray(current_a)))
    white += thermal_density(settings.resistance_ohm, settings.temperature_k)
    flicker = (settings.flicker_share * current_a) ** 2 / frequency**settings.flicker_exponent
    return white + flicker + _capacitive(frequency, settings)


def _capacitive(frequency_hz: Floats, settings: NoiseSettings) -> Floats:
    charge = settings.capacitance_f * settings.voltage_v_per_sqrt_hz
    return np.asarray((2.0 * np.pi * frequency_hz * charge) ** 2)


def white_noise(shape: tuple[int, ...], step_s: float, rng: np.random.Generator) -> Floats:
    """Samples whose one-sided density is 1 / Hz up to the Nyquist frequency: variance 1 / 2 step."""
    return np.asarray(rng.normal(size=shape) * np.sqrt(0.5 / step_s))


def coloured_noise(
    one_sided: Floats, count: int, step_s: float, rng: np.random.Generator, shape: tuple[int, ...] = ()
) -> Floats:
    """Samples (*shape, count) with the density given at ``np.fft.rfftfreq(count, step_s)`` (units^2 / Hz).

    Gaussian amplitudes in every bin (Timmer and Koenig); periodic over the record.
    """
    spectrum = rng.normal(size=(*shape, len(one_sided), 2)) @ np.array([1.0, 1j]) / np.sqrt(2.0)
    spectrum[..., 0] = np.sqrt(2.0) * spectrum[..., 0].real
    if count % 2 == 0:
        spectrum[..., -1] = np.sqrt(2.0) * spectrum[..., -1].real
    spectrum *= np.sqrt(one_sided * count / (2.0 * step_s))
    return np.asarray(np.fft.irfft(spectrum, n=count, axis=-1))


def mains(times_s: Floats, settings: NoiseSettings) -> Floats:
    """Pick-up (A) at times of any shape."""
    lines = zip(settings.mains_a, settings.mains_phases_rad, strict=True)
    total = np.zeros(np.shape(times_s))
    for n, (amplitude, phase) in enumerate(lines, start=1):
        total += amplitude * np.sin(2.0 * np.pi * n * settings.mains_hz * times_s + phase)
    return total


def noisy(
    current_a: Floats, step_s: float, settings: NoiseSettings, rng: np.random.Generator, start_s: float = 0.0
) -> Floats:
    """A current (..., n) sampled every ``step_s`` with all its noise, same shape.

    Shot and flicker noise follow the current sample by sample.  All rows begin at ``start_s`` on the clock of
    the mains.
    """
    count = current_a.shape[-1]
    white = settings.shot_factor * shot_density(current_a)
    white = white + thermal_density(settings.resistance_ohm, settings.temperature_k)
    total = current_a + np.sqrt(white) * white_noise(current_a.shape, step_s, rng)
    frequency = np.arange(count // 2 + 1) / (count * step_s)
    lead = current_a.shape[:-1]
    if settings.flicker_share > 0.0:
        shape = np.zeros(len(frequency))
        shape[1:] = frequency[1:] ** -settings.flicker_exponent
        total += settings.flicker_share * current_a * coloured_noise(shape, count, step_s, rng, lead)
    if settings.voltage_v_per_sqrt_hz > 0.0:
        total += coloured_noise(_capacitive(frequency, settings), count, step_s, rng, lead)
    times = start_s + step_s * np.arange(count, dtype=np.float64)
    return np.asarray(total + mains(np.asarray(times), settings))


@dataclass(frozen=True)
class Preamplifier:
    """A transimpedance amplifier: gain (V/A), first-order bandwidth (Hz), output limit (V), offset (A)."""

    gain_v_per_a: float = 1e9
    bandwidth_hz: float = 1.1e3
    output_limit_v: float = 10.0
    offset_a: float = 0.0

    @property
    def rail_a(self) -> float:
        """Largest current that it shows."""
        return self.output_limit_v / self.gain_v_per_a

    @property
    def noise_bandwidth_hz(self) -> float:
        """pi / 2 times the bandwidth."""
        return 0.5 * np.pi * self.bandwidth_hz

    def response(self, frequency_hz: Floats) -> Floats:
        """|H(f)| = 1 / sqrt(1 + (f / B)^2), any shape."""
        return np.asarray(1.0 / np.sqrt(1.0 + (np.asarray(frequency_hz) / self.bandwidth_hz) ** 2))

    def amplified(self, current_a: Floats, step_s: float) -> Floats:
        """What it shows (A) of a current (..., n), at the end of each step; settled at the first sample.

        The band is limited first and the rail last, so a spike that the amplifier cannot follow does not
        saturate it.
        """
        decay = np.exp(-2.0 * np.pi * self.bandwidth_hz * step_s)
        shown, _ = lfilter([1.0 - decay], [1.0, -decay], current_a, axis=-1, zi=decay * current_a[..., :1])
        return np.asarray(np.clip(shown + self.offset_a, -self.rail_a, self.rail_a))


GAIN_RANGES: tuple[Preamplifier, ...] = tuple(
    Preamplifier(gain, bandwidth)
    for gain, bandwidth in (
        (1e3, 500e3),
        (1e4, 500e3),
        (1e5, 400e3),
        (1e6, 200e3),
        (1e7, 50e3),
        (1e8, 7e3),
        (1e9, 1.1e3),
    )
)
"""Gains (V/A) and bandwidths (Hz) of a common variable-gain amplifier (Femto DLPCA-200, low-noise ranges)."""
