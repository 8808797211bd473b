"""The lock-in's broadening and its output filter against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp, trapezoid

from protocols.errors import UsageError
from sim_hardware.physics.lockin import (
    OutputFilter,
    broadened,
    broadened_samples,
    chebyshev_rule,
    demodulated,
    harmonic,
    modulation_kernel,
    resolution_v,
    second_harmonic_kernel,
    swept,
    thermal_kernel,
    thermal_rule,
)
from sim_hardware.physics.tunneling import thermal_energy_v

BIAS = np.linspace(-0.3, 0.3, 61)


def width(x: np.ndarray, y: np.ndarray) -> float:
    """Full width at half maximum of a single peak."""
    above = np.nonzero(y > 0.5 * y.max())[0]
    i, j = above[0], above[-1]
    half = 0.5 * y.max()
    left = x[i] - (y[i] - half) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])
    right = x[j] + (y[j] - half) / (y[j] - y[j + 1]) * (x[j + 1] - x[j])
    return float(right - left)


def test_kernels_are_normalised_and_as_wide_as_stated() -> None:
    """Integrals 1 (1e-5); widths sqrt(3) amplitudes and 3.5255 kT (1e-4); variances a^2 / 4 and (pi kT)^2 / 3
    (1e-3), which a missing factor 2 in either would change."""
    u = np.linspace(-0.12, 0.12, 200001)
    a, temperature = 0.02, 50.0
    for kernel, variance in (
        (modulation_kernel(u, a), a**2 / 4),
        (second_harmonic_kernel(u, a), a**2 / 6),
        (thermal_kernel(u, temperature), (np.pi * thermal_energy_v(temperature)) ** 2 / 3),
    ):
        assert np.isclose(trapezoid(kernel, u), 1.0, rtol=1e-5, atol=0)
        assert np.isclose(trapezoid(kernel * u**2, u), variance, rtol=1e-3, atol=0)
    assert np.isclose(width(u, modulation_kernel(u, a)), np.sqrt(3) * a, rtol=1e-4, atol=0)
    found = width(u, thermal_kernel(u, temperature)) / thermal_energy_v(temperature)
    assert np.isclose(found, 3.5255, rtol=1e-4, atol=0)


def test_quadrature_is_exact_for_polynomials() -> None:
    """Averages of V^2 and V^4 over the half circle are a^2 / 4 and a^4 / 8, to 1e-12; weights sum to 1."""
    node, weight = chebyshev_rule(5)
    assert np.isclose(weight.sum(), 1.0, rtol=1e-12, atol=0)
    assert np.isclose(weight @ node**2, 0.25, rtol=1e-12, atol=0)
    assert np.isclose(weight @ node**4, 0.125, rtol=1e-12, atol=0)
    node, weight = thermal_rule(77.0)
    assert np.isclose(weight @ node**2, (np.pi * thermal_energy_v(77.0)) ** 2 / 3, rtol=1e-6, atol=0)


def test_broadening_is_what_demodulation_of_the_current_gives() -> None:
    """dI/dV averaged over the half circle equals X1 / a of I(V + a sin wt), to 1e-6 of its maximum, for a
    resonance sharper than the modulation; unbroadened it would be off by more than half."""
    centre, fwhm, amplitude = 0.05, 0.02, 0.03

    def current(v: np.ndarray) -> np.ndarray:
        return np.asarray(0.3 * v + np.arctan(2 * (v - centre) / fwhm))

    def conductance(v: np.ndarray) -> np.ndarray:
        return np.asarray(0.3 + 2 / fwhm / (1 + (2 * (v - centre) / fwhm) ** 2))

    found = broadened(conductance, BIAS, amplitude, nodes=200)
    direct = harmonic(current, BIAS, amplitude, 1, samples=1024) / amplitude
    assert np.allclose(found, direct, rtol=0, atol=1e-6 * direct.max())
    assert np.abs(conductance(BIAS) - found).max() > 0.5 * found.max()


def test_second_harmonic_is_the_averaged_derivative() -> None:
    """The second harmonic is a^2 / 4 times dg/dV averaged over its own kernel, to 1e-4 of its maximum."""
    amplitude = 0.03
    found = harmonic(lambda v: np.log(np.cosh(v / 0.02)), BIAS, amplitude, 2)
    u = np.linspace(-amplitude, amplitude, 20001)
    slope = 1 / np.cosh((BIAS[:, None] + u) / 0.02) ** 2 / 0.02**2
    expected = amplitude**2 / 4 * trapezoid(slope * second_harmonic_kernel(u, amplitude), u, axis=1)
    assert np.allclose(found, expected, rtol=0, atol=1e-4 * expected.max())


def test_a_thermally_broadened_edge_is_a_fermi_function() -> None:
    """A step in the LDOS at 0.1 V appears as 1 / (1 + exp(-(V - 0.1) / kT)), to 1e-3, at 300 K."""
    edge = lambda v: np.heaviside(v - 0.1, 0.5)  # noqa: E731
    offsets, weights = thermal_rule(300.0, nodes=8001)
    found = edge(BIAS[:, None] + offsets) @ weights
    expected = 1 / (1 + np.exp(-(BIAS - 0.1) / thermal_energy_v(300.0)))
    assert np.allclose(found, expected, rtol=0, atol=1e-3)


def test_both_broadenings_add_to_the_stated_resolution() -> None:
    """A sharp line appears with sqrt(3 a^2 + (3.53 kT)^2) full width, to 10 %, whichever dominates."""
    energy = np.linspace(-0.1, 0.1, 4001)
    line = np.exp(-0.5 * (energy / 1e-3) ** 2)
    bias = np.linspace(-0.06, 0.06, 601)
    for amplitude, temperature in ((0.02, 4.2), (0.005, 77.0), (0.015, 77.0)):
        shown = broadened_samples(energy, line, bias, amplitude, temperature)
        assert np.isclose(width(bias, shown), resolution_v(amplitude, temperature), rtol=0.1, atol=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("ratio", [0.01, 0.3, 2.0])
def test_filter_steps_as_the_gamma_function(order: int, ratio: float) -> None:
    """A unit step gives P(n, t / tau) at every sample, to 1e-10, for 1 to 8 stages and any sampling: for one
    stage that is 1 - exp(-t / tau), for two 1 - (1 + t / tau) exp(-t / tau)."""
    output = OutputFilter(5e-3, order)
    step_s = ratio * 5e-3
    found = output.filtered(np.ones(200), step_s, start=0.0)
    t = step_s * np.arange(1, 201)
    assert np.allclose(found, output.step_response(t), rtol=0, atol=1e-10)
    x = t / 5e-3
    if order <= 2:
        closed = 1 - np.exp(-x) * (1 if order == 1 else 1 + x)
        assert np.allclose(found, closed, rtol=0, atol=1e-10)


def test_filter_of_changing_input_equals_an_integrator() -> None:
    """Random held values through three stages agree with SciPy's integrator, to 1e-6."""
    output, values = OutputFilter(2e-3, 3), np.random.default_rng(2).normal(size=12)
    found = output.filtered(values, 1.3e-3)
    state = np.full(3, values[0])
    for n, value in enumerate(values):
        chain = lambda _, y, v=value: (np.array([v, y[0], y[1]]) - y) / 2e-3  # noqa: E731
        state = solve_ivp(chain, (0, 1.3e-3), state, rtol=1e-9, atol=1e-12).y[:, -1]
        assert np.isclose(found[n], state[2], rtol=0, atol=1e-6)


def test_noise_bandwidth_of_one_to_four_stages() -> None:
    """1/4, 1/8, 3/32 and 5/64 over tau, as manuals list; and it is the integral of |H|^2 (1e-3)."""
    for order, factor in ((1, 1 / 4), (2, 1 / 8), (3, 3 / 32), (4, 5 / 64)):
        output = OutputFilter(0.01, order)
        assert np.isclose(output.noise_bandwidth_hz, factor / 0.01, rtol=1e-12, atol=0)
        f = np.linspace(0, 60e3, 600001)
        assert np.isclose(trapezoid(output.response(f) ** 2, f), output.noise_bandwidth_hz, rtol=1e-3, atol=0)


@given(st.floats(-np.pi, np.pi))
def test_demodulation_finds_amplitude_and_phase(phase: float) -> None:
    """X = a cos(p) and Y = a sin(p) of a sin(wt + p), to 1 %, once settled; a line at another frequency is
    suppressed by |H| at the difference."""
    output = OutputFilter(0.02, 4)
    step_s, f = 1 / 20e3, 977.0
    t = step_s * np.arange(6000)
    x, y = demodulated(3e-12 * np.sin(2 * np.pi * f * t + phase), step_s, f, 0.0, output)
    assert np.isclose(x[-1], 3e-12 * np.cos(phase), rtol=0, atol=3e-14)
    assert np.isclose(y[-1], 3e-12 * np.sin(phase), rtol=0, atol=3e-14)
    x, _ = demodulated(3e-12 * np.sin(2 * np.pi * (f - 50) * t), step_s, f, 0.0, output)
    assert np.abs(x[-1000:]).max() < 1.2 * 3e-12 * output.response(np.array([50.0]))[0]


def test_a_fast_sweep_shifts_and_smears_a_peak() -> None:
    """X is the amplitude times the broadened conductance, late by the filter: a ramp of the conductance is
    late by order x tau (1e-6), so forward and backward sweeps differ by twice that."""
    output = OutputFilter(4e-3, 2)
    bias, dwell, slope = np.linspace(-0.5, 0.5, 501), 1e-3, 2e-9
    x = swept(lambda v: slope * v, bias, dwell, 0.01, output)
    # A held sample stands for the whole dwell: the end of it is half a step behind the mean.
    lag_v = (output.order * output.time_constant_s - dwell) * (bias[1] - bias[0]) / dwell
    late = lag_v + (bias[1] - bias[0]) * 0.5
    assert np.allclose(x[200:], 0.01 * slope * (bias[200:] - late), rtol=0, atol=1e-6 * 0.01 * slope)


def test_impossible_filters_are_refused() -> None:
    """No stages, too many, or no time constant: said at construction."""
    for order, tau in ((0, 1e-3), (9, 1e-3), (1, 0.0)):
        with pytest.raises(UsageError, match="stages"):
            OutputFilter(tau, order)
