"""The lock-in: broadening by the modulation, thermal broadening, and the output's low pass.

With V(t) = V + a sin(wt) the first harmonic of the current is ``a`` times the conductance averaged over a
half circle, the second is ``a^2 / 4`` times its derivative averaged over a rounder one::

    X1 / a = integral g(V + u) (2 / pi a^2) sqrt(a^2 - u^2) du
    -4 Y2 / a^2 = integral g'(V + u) (8 / 3 pi a^4) (a^2 - u^2)^(3/2) du

(X sine part, Y cosine part): the instrumental functions of J. Klein et al., Phys. Rev. B 7, 2336 (1973).  The
first integral is exactly what Gauss-Chebyshev quadrature of the second kind computes.  The Fermi edge of a
metallic tip averages the conductance over -df/dE, 3.53 kT wide: differentiate the current of ``tunneling``
with a constant tip density.  Amplitudes are peak values in V.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter
from scipy.special import gamma, gammainc

from protocols.errors import UsageError
from sim_hardware.physics.tunneling import thermal_energy_v

Floats = npt.NDArray[np.float64]
Function = Callable[[Floats], Floats]

HALF_CIRCLE_FWHM = float(np.sqrt(3.0))
"""Full width of the modulation's kernel in peak amplitudes."""
THERMAL_FWHM = float(4.0 * np.arccosh(np.sqrt(2.0)))
"""Full width of -df/dE in kT: 3.53."""
HIGHEST_ORDER = 8


def modulation_kernel(offset_v: Floats, amplitude_v: float) -> Floats:
    """The half circle (1/V) at offsets from the bias, any shape; its integral is 1."""
    inside = np.maximum(amplitude_v**2 - offset_v**2, 0.0)
    return np.asarray(2.0 / (np.pi * amplitude_v**2) * np.sqrt(inside))


def second_harmonic_kernel(offset_v: Floats, amplitude_v: float) -> Floats:
    """The kernel (1/V) of the second harmonic, any shape; its integral is 1."""
    inside = np.maximum(amplitude_v**2 - offset_v**2, 0.0)
    return np.asarray(8.0 / (3.0 * np.pi * amplitude_v**4) * inside**1.5)


def thermal_kernel(offset_v: Floats, temperature_k: float) -> Floats:
    """-df/dE (1/V) = sech^2(E / 2 kT) / 4 kT at offsets from the Fermi level, any shape; integral 1."""
    scale = thermal_energy_v(temperature_k)
    half = np.exp(-np.abs(offset_v) / scale)
    return np.asarray(half / (1.0 + half) ** 2 / scale)


def resolution_v(amplitude_v: float, temperature_k: float) -> float:
    """Full width (V) with which a sharp line appears, both broadenings added in quadrature.

    Up to 10 % above the true width: neither kernel is Gaussian.
    """
    return float(np.hypot(HALF_CIRCLE_FWHM * amplitude_v, THERMAL_FWHM * thermal_energy_v(temperature_k)))


def chebyshev_rule(nodes: int) -> tuple[Floats, Floats]:
    """Nodes in (-1, 1) and weights of the average over the half circle, shapes (nodes,).

    Gauss-Chebyshev of the second kind, exact for polynomials up to degree 2 nodes - 1: M. Abramowitz and
    I. Stegun, 25.4.40.
    """
    angle = np.pi * np.arange(1, nodes + 1) / (nodes + 1)
    return np.cos(angle), 2.0 / (nodes + 1) * np.sin(angle) ** 2


def thermal_rule(temperature_k: float, nodes: int = 81) -> tuple[Floats, Floats]:
    """Offsets (V) and weights of the average over -df/dE out to 20 kT, shapes (nodes,).

    The trapezoidal rule, which converges exponentially for smooth functions on the whole axis.
    """
    offset = thermal_energy_v(temperature_k) * np.linspace(-20.0, 20.0, nodes)
    weight = thermal_kernel(offset, temperature_k)
    return offset, weight / weight.sum()


def broadened(
    conductance: Function,
    bias_v: Floats,
    amplitude_v: float = 0.0,
    temperature_k: float = 0.0,
    nodes: int = 65,
) -> Floats:
    """A conductance as the lock-in shows it at biases (n,), broadened by modulation and temperature: (n,).

    ``conductance`` takes biases of any shape.  Zero amplitude or temperature leave that broadening out.
    """
    offsets, weights = np.zeros(1), np.ones(1)
    if amplitude_v > 0.0:
        node, weight = chebyshev_rule(nodes)
        offsets, weights = amplitude_v * node, weight
    if temperature_k > 0.0:
        node, weight = thermal_rule(temperature_k)
        offsets = (offsets[:, None] + node).ravel()
        weights = (weights[:, None] * weight).ravel()
    return np.asarray(conductance(bias_v[:, None] + offsets) @ weights)


def broadened_samples(
    energies_v: Floats, values: Floats, bias_v: Floats, amplitude_v: float, temperature_k: float = 0.0
) -> Floats:
    """``broadened`` for one tabulated curve, linear in between and constant beyond the ends: (n,)."""
    return broadened(lambda v: np.interp(v, energies_v, values), bias_v, amplitude_v, temperature_k)


def harmonic(
    current: Function, bias_v: Floats, amplitude_v: float, number: int, samples: int = 256
) -> Floats:
    """Amplitude (A) of a harmonic of I(V + a sin wt) at biases (n,): (n,), signed as the kernels above say.

    Odd harmonics are the sine part, even ones minus the cosine part: a direct Fourier sum over one period,
    for curves whose conductance is not at hand.
    """
    phase = 2.0 * np.pi * (np.arange(samples) + 0.5) / samples
    wave = np.sin(number * phase) if number % 2 else -np.cos(number * phase)
    swing = current(bias_v[:, None] + amplitude_v * np.sin(phase))
    return np.asarray(2.0 / samples * swing @ wave)


@dataclass(frozen=True)
class OutputFilter:
    """``order`` equal RC stages of ``time_constant_s`` behind the mixer."""

    time_constant_s: float
    order: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.order <= HIGHEST_ORDER or self.time_constant_s <= 0.0:
            raise UsageError(
                f"a lock-in filter has 1 to {HIGHEST_ORDER} stages and a positive time constant, "
                f"not {self.order} and {self.time_constant_s:g} s."
            )

    @property
    def noise_bandwidth_hz(self) -> float:
        """Width of the rectangle that passes as much white noise: 1 / 4 tau, 1 / 8 tau, 3 / 32 tau, ..."""
        n = self.order
        return float(gamma(n - 0.5) / (4.0 * np.sqrt(np.pi) * gamma(n) * self.time_constant_s))

    def step_response(self, time_s: Floats) -> Floats:
        """Answer to a unit step at time 0, any shape: the regularised gamma function P(n, t / tau)."""
        return np.asarray(gammainc(self.order, np.maximum(time_s, 0.0) / self.time_constant_s))

    def response(self, frequency_hz: Floats) -> Floats:
        """|H(f)| = (1 + (2 pi f tau)^2)^(-n/2), any shape."""
        return np.asarray(
            (1.0 + (2.0 * np.pi * frequency_hz * self.time_constant_s) ** 2) ** (-0.5 * self.order)
        )

    def filtered(self, values: Floats, step_s: float, start: Floats | float | None = None) -> Floats:
        """The output at the end of each step during which the input held its value: shape (..., n).

        Exact for the chain: stage k over one step is a first-order filter driven by the stages before it,
        with the factors exp(-h) h^j / j! of the matrix exponential, h = step / tau.  ``start``: the settled
        value before (default: the first input).
        """
        h = step_s / self.time_constant_s
        decay = np.exp(-h)
        first = values[..., :1] if start is None else np.broadcast_to(start, (*values.shape[:-1], 1))
        stages: list[Floats] = []
        for k in range(1, self.order + 1):
            drive = float(gammainc(k, h)) * values
            factor = decay
            for back, earlier in enumerate(reversed(stages), start=1):
                factor = factor * h / back
                drive = drive + factor * np.concatenate([first, earlier[..., :-1]], axis=-1)
            out, _ = lfilter([1.0], [1.0, -decay], drive, axis=-1, zi=decay * first)
            stages.append(np.asarray(out))
        return stages[-1]


def demodulated(
    signal: Floats, step_s: float, frequency_hz: float, phase_rad: float, output: OutputFilter
) -> tuple[Floats, Floats]:
    """X and Y of a sampled signal (..., n), as peak amplitudes: X of a sin(wt + phase) is a, Y is 0.

    Settled at zero before.  The ripple at twice the frequency is there, as in an instrument.
    """
    angle = 2.0 * np.pi * frequency_hz * step_s * np.arange(signal.shape[-1]) + phase_rad
    x = output.filtered(2.0 * signal * np.sin(angle), step_s, start=0.0)
    return x, output.filtered(2.0 * signal * np.cos(angle), step_s, start=0.0)


def swept(
    conductance: Function,
    biases_v: Floats,
    dwell_s: float,
    amplitude_v: float,
    output: OutputFilter,
    temperature_k: float = 0.0,
) -> Floats:
    """X (A, peak) at the end of each bias step (n,) of a sweep, without noise: broadened, then lagging.

    The lock-in is settled at the first bias.
    """
    ideal = amplitude_v * broadened(conductance, biases_v, amplitude_v, temperature_k)
    return output.filtered(ideal, dwell_s)
