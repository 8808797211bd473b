"""The PID loop against its transfer function, and the idealised modes against their closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import freqz, lfilter

from protocols.errors import UsageError
from sim_hardware.physics.feedback import (
    CurrentTable,
    PidSettings,
    constant_current,
    constant_height,
    loop_filter,
    loop_response,
    newton_height,
    scan_line_plain,
    scan_lines,
)
from sim_hardware.tunneling import decay_constant

KAPPA = decay_constant(4.0)
PID = PidSettings(integral_m_s=60e-9, proportional_m=4e-12)


def over(surface_m: np.ndarray, current_a: float = 1e-6) -> CurrentTable:
    """|I| = current exp(-2 kappa (z - surface)) over a surface (lines, pixels), tabulated from 0 to 2 nm."""
    z = np.linspace(0.0, 2e-9, 41)
    table = np.log(current_a) - 2 * KAPPA * (z - surface_m[..., None])
    return CurrentTable(0.0, 5e-11, table)


def gap(setpoint_a: float = PID.setpoint_a, current_a: float = 1e-6) -> float:
    """Height above the surface at which the setpoint flows."""
    return float(np.log(current_a / setpoint_a) / (2 * KAPPA))


@pytest.mark.parametrize(
    "pid",
    [
        replace(PID, proportional_m=0.0),
        PID,
        replace(PID, derivative_m_s=2e-16),
    ],
)
def test_step_response_is_that_of_the_transfer_function(pid: PidSettings) -> None:
    """With the logarithmic error the loop is linear: z over a stepped surface is the step put through (b, a)
    of the closed loop, to 1e-9 of the step, for I, PI and PID."""
    step = 20e-12
    surface = np.concatenate([np.zeros(5), np.full(60, step)])[None, :]
    found = scan_lines(over(surface), pid, ticks_per_pixel=1).z_m[0]
    b, a = loop_filter(pid, KAPPA)
    expected = gap() + lfilter(b, a, surface[0])
    assert np.allclose(found - gap(), expected - gap(), rtol=0, atol=1e-9 * step)
    assert found[5] > gap()


def test_low_pass_of_the_preamplifier_is_in_the_loop() -> None:
    """With a bandwidth of 1 kHz and a small step, 0.1 pm, the response is that of the filter with its pole,
    to 1 % of the step, and it overshoots by more than a tenth as two poles so close do."""
    pid = replace(PID, bandwidth_hz=1e3, proportional_m=0.0, integral_m_s=300e-9)
    step = 1e-13
    surface = np.concatenate([np.zeros(5), np.full(300, step)])[None, :]
    found = scan_lines(over(surface), pid, 1).z_m[0] - gap()
    expected = lfilter(*loop_filter(pid, KAPPA), surface[0])
    assert np.allclose(found, expected, rtol=0, atol=0.01 * step)
    assert found.max() > 1.1 * step


def test_the_controller_sees_the_current_through_a_first_order_low_pass() -> None:
    """Without gain and with 10 pA more from the start on, the current it sees rises as 10 pA
    (1 - exp(-2 pi B t)), to 1e-9; no bandwidth limit lets it through at once."""
    flat = over(np.zeros((1, 40)))
    deaf = replace(PID, proportional_m=0.0, integral_m_s=0.0, bandwidth_hz=400.0)
    found = scan_lines(flat, deaf, 1, noise_a=np.full((1, 40), 10e-12)).current_a[0] - PID.setpoint_a
    t = np.arange(1, 41) / deaf.rate_hz
    assert np.allclose(found, 10e-12 * (1 - np.exp(-2 * np.pi * 400.0 * t)), rtol=1e-7, atol=1e-9 * 10e-12)
    quick = replace(deaf, bandwidth_hz=np.inf)
    found = scan_lines(flat, quick, 1, noise_a=np.full((1, 40), 10e-12)).current_a[0]
    assert np.allclose(found, 110e-12, rtol=1e-8, atol=0)


def test_integral_controller_is_a_first_order_lag() -> None:
    """At a high rate z(t) = step (1 - exp(-2 kappa Ki t)), to 1e-3 of the step; the factor 2 would show."""
    pid = replace(PID, rate_hz=5e6, proportional_m=0.0, integral_m_s=30e-9)
    step = 10e-12
    ticks = 1000
    found = scan_lines(over(np.full((1, 12), step)), pid, ticks, start_m=np.array([gap()])).z_m[0] - gap()
    t = np.arange(1, 13) * ticks / pid.rate_hz
    expected = step * (1 - np.exp(-2 * KAPPA * pid.integral_m_s * t))
    assert np.allclose(found, expected, rtol=0, atol=1e-3 * step)
    assert found[0] < 0.15 * step


def test_frequency_response_of_the_loop() -> None:
    """A sinusoidal surface is followed with |T(f)| of the continuous loop (2 %) and of the digital filter
    (0.2 %), from well below to above the bandwidth of 2 kappa Ki / 2 pi = 195 Hz."""
    pid = replace(PID, proportional_m=0.0, rate_hz=100e3)
    ticks, amplitude = 20, 2e-12
    for frequency in (20.0, 200.0, 600.0):
        t = np.arange(1500) * ticks / pid.rate_hz
        surface = amplitude * np.sin(2 * np.pi * frequency * t)
        found = scan_lines(over(surface[None, :]), pid, ticks).z_m[0] - gap()
        later = t > 0.0999  # whole periods
        wave = np.exp(-2j * np.pi * frequency * t[later])
        gain = abs((found[later] * wave).sum() / (surface[later] * wave).sum())
        # Linear interpolation between pixels passes sinc^2 of the frequency.
        gain /= np.sinc(frequency * ticks / pid.rate_hz) ** 2
        _, digital = freqz(*loop_filter(pid, KAPPA), worN=[frequency], fs=pid.rate_hz)
        assert np.isclose(gain, abs(digital[0]), rtol=2e-3, atol=0)
        assert np.isclose(gain, loop_response(np.array([frequency]), pid, KAPPA)[0], rtol=0.02, atol=0)


def test_too_much_gain_oscillates_as_the_poles_say() -> None:
    """Poles of the loop outside the unit circle and growing oscillation come together; inside, it settles."""
    step = 1e-12
    surface = np.concatenate([np.zeros(5), np.full(120, step)])[None, :]
    for proportional, stable in ((20e-12, True), (60e-12, False)):
        pid = replace(PID, proportional_m=proportional)
        _, a = loop_filter(pid, KAPPA)
        assert bool(np.abs(np.roots(a)).max() < 1.0) is stable
        tail = scan_lines(over(surface), pid, 1).z_m[0, -20:] - gap() - step
        assert bool(np.abs(tail).max() < 0.05 * step) is stable


def test_a_linear_error_behaves_alike_for_small_steps_and_differently_for_large_ones() -> None:
    """For 0.2 pm the linear loop follows the same filter to 1 %; for a step down of 200 pm it is slower than
    the logarithmic one, whose error grows with the distance: (I - Iset) / Iset cannot fall below -1."""
    linear = replace(PID, logarithmic=False, proportional_m=0.0)
    small = np.concatenate([np.zeros(5), np.full(60, 2e-13)])[None, :]
    found = scan_lines(over(small), linear, 1).z_m[0] - gap()
    assert np.allclose(found, lfilter(*loop_filter(linear, KAPPA), small[0]), rtol=0, atol=0.01 * 2e-13)
    down = np.concatenate([np.zeros(5), np.full(60, -200e-12)])[None, :]
    slow = scan_lines(over(down), linear, 1).z_m[0, 20]
    fast = scan_lines(over(down), replace(linear, logarithmic=True), 1).z_m[0, 20]
    assert slow > fast + 20e-12
    assert np.isclose(slow, gap() - 16 * linear.integral_m_s * linear.tick_s, rtol=0.02, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.integers(1, 5), st.booleans())
def test_lines_at_once_equal_the_plain_loop(seed: int, log: bool, ticks: int, limited: bool) -> None:
    """Vectorised over lines and written plainly the loop gives the same heights and currents to 1e-12."""
    rng = np.random.default_rng(seed)
    surface = np.cumsum(rng.normal(0, 5e-12, (4, 12)), axis=1)
    pid = replace(PID, logarithmic=log, bandwidth_hz=3e3, derivative_m_s=1e-16, rail_a=1e-9)
    if limited:
        pid = replace(pid, slew_m_s=50e-9, z_low_m=0.2e-9, z_high_m=gap() + 5e-12)
    noise = rng.normal(0, 5e-12, (4, 12 * ticks))
    table = over(surface)
    many = scan_lines(table, pid, ticks, noise_a=noise, slope_per_pixel_m=1e-13)
    for line in range(4):
        one = scan_line_plain(table, line, pid, ticks, noise_a=noise[line], slope_per_pixel_m=1e-13)
        assert np.allclose(one.z_m[0], many.z_m[line], rtol=1e-12, atol=0)
        assert np.allclose(one.current_a[0], many.current_a[line], rtol=1e-10, atol=0)


def test_limits_of_height_and_speed_are_kept() -> None:
    """Lost tunneling sends the tip toward the sample, at the slew limit, to the end of its range and not
    beyond; the integrator does not wind up there."""
    gone = over(np.full((1, 60), -5e-9))
    pid = replace(PID, z_low_m=0.3e-9, slew_m_s=400e-9)
    z = scan_lines(gone, pid, 1, start_m=np.array([1e-9])).z_m[0]
    assert np.isclose(-np.diff(z).min() * pid.rate_hz, 400e-9, rtol=1e-9, atol=0)
    assert np.isclose(z[-1], 0.3e-9, rtol=1e-12, atol=0)
    back = over(np.concatenate([np.full(60, -5e-9), np.full(200, 0.0)])[None, :])
    z = scan_lines(back, pid, 1, start_m=np.array([1e-9])).z_m[0]
    assert np.isclose(z[-1], gap(), rtol=1e-3, atol=0)


def test_a_slow_scan_is_the_ideal_constant_current_image_on_a_tilt() -> None:
    """Scanned slowly, z is the constant-current height plus the plane, to 0.05 pm."""
    surface = 5e-12 * np.sin(np.linspace(0, 2 * np.pi, 30))[None, :]
    found = scan_lines(over(surface), PID, 400, slope_per_pixel_m=1e-13).z_m[0]
    ideal = constant_current(over(surface), PID.setpoint_a)[0] + 1e-13 * np.arange(30)
    assert np.allclose(found[1:], ideal[1:], rtol=0, atol=5e-14)


def test_idealised_modes_have_closed_forms() -> None:
    """Constant current: s + ln(I0 / Iset) / 2 kappa (1e-8); constant height: I0 exp(-2 kappa (z - s))."""
    surface = np.random.default_rng(3).normal(0, 20e-12, (5, 7))
    assert np.allclose(constant_current(over(surface), 50e-12), surface + gap(50e-12), rtol=1e-8, atol=0)
    expected = 1e-6 * np.exp(-2 * KAPPA * (0.63e-9 - surface))
    assert np.allclose(constant_height(over(surface), 0.63e-9), expected, rtol=1e-9, atol=0)


@given(st.floats(0.05e-9, 3e-9), st.floats(1e-12, 5e-9))
def test_newton_converges_from_anywhere(start: float, setpoint: float) -> None:
    """On ln |I| of a flat surface, (z + 1 / 2 kappa) exp(-2 kappa z), Newton's method ends at the setpoint to
    1e-9 from 0.05 as from 3 nm."""

    def log_at(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reach = z + 1 / (2 * KAPPA)
        return np.log(1e4 * np.maximum(reach, 1e-12)) - 2 * KAPPA * z, 1 / reach - 2 * KAPPA

    z = newton_height(log_at, setpoint, np.array([start]))
    assert np.isclose(np.exp(log_at(z)[0][0]), setpoint, rtol=2e-9, atol=0)


def test_what_never_reaches_the_setpoint_is_said() -> None:
    """A current that does not depend on height has no such place: an error with the number of places."""
    with pytest.raises(UsageError, match="1 of 2"):
        newton_height(lambda z: (np.array([np.log(1e-10), 0.0]), np.full(2, -1e-9)), 1e-10, np.zeros(2))
    with pytest.raises(UsageError, match="fall"):
        CurrentTable(0.0, 1e-11, np.zeros((1, 1, 3)))
