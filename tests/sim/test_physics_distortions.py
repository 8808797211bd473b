"""Creep, hysteresis, drift and the scanner's dynamics against closed forms and SciPy's integrator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from protocols.errors import UsageError
from sim_hardware.physics.distortions import (
    BoucWen,
    CreepSettings,
    Distortions,
    DriftSettings,
    Raster,
    ScannerSettings,
    creep_after_step,
    creeping,
    scanned,
    tilt,
    true_places,
    wandering_drift,
)


def test_creep_after_a_step_is_logarithmic() -> None:
    """y = step (1 + gamma ln(1 + t / t0)), to 1e-9: 2.3 % per decade at gamma = 0.01, and nothing before."""
    creep = CreepSettings(gamma=0.01, onset_s=0.1)
    drive = np.concatenate([np.zeros(3), np.full(4000, 50e-9)])
    found = creeping(drive, 0.05, creep)
    t = 0.05 * (np.arange(4003) - 3)
    expected = np.where(t >= 0, 50e-9 * (1 + 0.01 * np.log(1 + np.maximum(t, 0) / 0.1)), 0.0)
    assert np.allclose(found, expected, rtol=0, atol=1e-9 * 50e-9)
    late = creep_after_step(1.0, np.array([10.0, 100.0]), creep)
    assert np.isclose(late[1] - late[0], 0.01 * np.log(10), rtol=0.01, atol=0)
    assert creep_after_step(1.0, np.array([-1.0]), creep)[0] == 0.0


def test_creep_of_any_drive_is_the_sum_over_its_steps() -> None:
    """Superposition: a random drive on two axes creeps as the sum of the closed forms of its steps, 1e-12."""
    creep = CreepSettings()
    drive = np.cumsum(np.random.default_rng(1).normal(size=(2, 60)), axis=1)
    found = creeping(drive, 0.02, creep)
    t = 0.02 * np.arange(60)
    for axis in range(2):
        steps = np.diff(drive[axis], prepend=drive[axis, 0])
        expected = drive[axis, 0] + sum(
            creep_after_step(step, t - 0.02 * n, creep) for n, step in enumerate(steps)
        )
        assert np.allclose(found[axis], expected, rtol=0, atol=1e-12 * np.abs(drive).max())


def test_hysteresis_on_one_way_has_its_closed_form() -> None:
    """From rest H = S (1 - exp(-(B + C) V)), S = A / (B + C), both ways; after the turn H first falls with
    B - C until it is zero: all to 1e-7."""
    model = BoucWen()
    up = np.linspace(0.0, 0.8, 81)
    found = model.state(up)
    assert np.allclose(found, model.saturation() * (1 - np.exp(-3.0 * up)), rtol=0, atol=1e-7)
    assert np.allclose(model.state(-up), -found, rtol=0, atol=1e-12)
    down = 0.8 - np.linspace(0.0, 0.25, 26)
    back = model.state(np.concatenate([up, down[1:]]))[80:]
    expected = model.monotone(float(found[-1]), down - 0.8)
    still = expected > 0
    assert np.count_nonzero(still) > 10
    assert np.allclose(back[still], expected[still], rtol=0, atol=1e-7)
    level = -1.0 / 5.0
    assert np.isclose(back[1], level - (level - found[-1]) * np.exp(-5.0 * 0.01), rtol=1e-6, atol=0)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 3.0), st.floats(0.5, 5.0), st.floats(-0.4, 0.4))
def test_runge_kutta_equals_scipys_integrator(a: float, b: float, share: float) -> None:
    """Along a sine of growing amplitude, with dV/dt in the equation, solve_ivp gives the same H to 1e-5."""
    model = BoucWen(a=a, b=b, c=share * b)
    t = np.linspace(0.0, 4.0, 801)
    voltage = lambda s: (0.3 + 0.2 * s) * np.sin(2 * np.pi * s)  # noqa: E731
    rate = lambda s: 0.2 * np.sin(2 * np.pi * s) + (0.3 + 0.2 * s) * 2 * np.pi * np.cos(2 * np.pi * s)  # noqa: E731

    def equation(s: float, h: np.ndarray) -> np.ndarray:
        return np.asarray(a * rate(s) - b * abs(rate(s)) * h - share * b * rate(s) * np.abs(h))

    exact = solve_ivp(equation, (0, 4), [0.0], t_eval=t, rtol=1e-9, atol=1e-11, max_step=0.01).y[0]
    found = model.state(np.asarray(voltage(t)), substeps=4)
    # The drive is linear between 200 samples a period, so its turns are cut by 1e-4 of the amplitude.
    assert np.allclose(found, exact, rtol=0, atol=2e-3 * max(1.0, a))
    fine = np.linspace(0.0, 4.0, 16001)
    found = model.state(np.asarray(voltage(fine)), substeps=1)[::20]
    assert np.allclose(found, exact, rtol=0, atol=1e-5 * max(1.0, a))


def test_runge_kutta_is_of_fourth_order() -> None:
    """Halving the step divides the error by 16 (14 to 18): a first-order scheme would divide it by two."""
    model, drive = BoucWen(b=4.0, c=-1.0), np.array([0.0, 1.0])
    exact = model.saturation() * (1 - np.exp(-3.0))
    errors = [abs(model.state(drive, substeps=n)[-1] - exact) for n in (16, 32)]
    assert 14 < errors[0] / errors[1] < 18


def test_a_piezo_lags_and_closes_its_loop() -> None:
    """After a few periods the loop repeats (1e-6); the way up runs below the way down, by |beta| times the
    width of H at zero drive."""
    model = BoucWen()
    one = np.concatenate([np.linspace(-1, 1, 101)[:-1], np.linspace(1, -1, 101)[:-1]])
    drive = np.concatenate([np.linspace(0, -1, 51)[:-1], np.tile(one, 6)])
    y = model.position(drive)
    last, before = y[-200:], y[-400:-200]
    assert np.allclose(last, before, rtol=0, atol=1e-6)
    assert last[50] < last[150] - 0.02
    h = model.state(drive)[-200:]
    assert np.isclose(last[150] - last[50], -model.beta * (h[50] - h[150]), rtol=1e-9, atol=0)


def test_hysteresis_does_not_depend_on_speed() -> None:
    """The same path in ten times as many samples ends at the same place (1e-6)."""
    path = np.concatenate([np.linspace(0, 1, 101), np.linspace(1, -0.5, 151)[1:]])
    fine = np.interp(np.linspace(0, 250, 2501), np.arange(251), path)
    assert np.allclose(BoucWen().position(path), BoucWen().position(fine, 1)[::10], rtol=0, atol=1e-6)


def test_tilt_is_a_plane() -> None:
    """z = sx x + sy y."""
    assert np.isclose(tilt(np.array(2e-9), np.array(-1e-9), 0.01, 0.03), -1e-11, rtol=1e-12, atol=0)


def test_drift_wanders_as_ornstein_and_uhlenbeck_say() -> None:
    """Over 1500 runs: velocity rms s at all times (5 %), correlation exp(-t / tau) (0.06), and variance of
    the way 2 s^2 tau^2 (t / tau - 1 + exp(-t / tau)) (10 %), at uneven times, about the mean's way."""
    drift = DriftSettings((1e-12, -2e-12, 0.0), (1e-12, 1e-12, 1e-12), correlation_s=100.0)
    times = np.array([0.0, 3.0, 40.0, 100.0, 400.0])
    runs = [wandering_drift(times, drift, np.random.default_rng(seed)) for seed in range(500)]
    mean = np.array(drift.mean_m_s)
    offset = np.stack([o - mean * times[:, None] for o, _ in runs], axis=1).transpose(0, 2, 1).reshape(5, -1)
    wander = np.stack([v - mean for _, v in runs], axis=1).transpose(0, 2, 1).reshape(5, -1) / 1e-12
    assert np.allclose(wander.std(axis=1), 1.0, rtol=0.05, atol=0)
    correlation = (wander[0] * wander).mean(axis=1)
    assert np.allclose(correlation, np.exp(-times / 100.0), rtol=0, atol=0.06)
    x = times[1:] / 100.0
    expected = 2 * (1e-12 * 100.0) ** 2 * (x - 1 + np.exp(-x))
    assert np.allclose((offset[1:] ** 2).mean(axis=1), expected, rtol=0.1, atol=0)
    assert np.allclose(offset.mean(axis=1), 0.0, rtol=0, atol=0.15 * np.sqrt(expected.max()))


def test_drift_is_the_integral_of_its_velocity_in_small_steps() -> None:
    """At steps of a thousandth of the correlation time the way is the trapezoid of the velocity (1e-4 of the
    way), and jitter comes on top with its rms (5 %)."""
    drift = DriftSettings(correlation_s=1000.0)
    times = np.linspace(0, 3000, 3001)
    offset, velocity = wandering_drift(times, drift, np.random.default_rng(3))
    steps = 0.5 * (velocity[1:] + velocity[:-1]) * np.diff(times)[:, None]
    assert np.allclose(offset[-1], steps.sum(axis=0), rtol=0, atol=1e-3 * np.abs(offset).max())
    shaky = DriftSettings((0.0,) * 3, (0.0,) * 3, jitter_m=(1e-12, 2e-12, 3e-12))
    noise, _ = wandering_drift(times, shaky, np.random.default_rng(4))
    assert np.allclose(noise.std(axis=0), [1e-12, 2e-12, 3e-12], rtol=0.05, atol=0)
    with pytest.raises(UsageError, match="ascend"):
        wandering_drift(times[::-1], drift, np.random.default_rng(1))


def test_scanner_follows_its_transfer_function() -> None:
    """Driven by a sine below, at and above the resonance, amplitude and phase are H(f), to 1 %."""
    scanner = ScannerSettings(1500.0, 20.0, 50e-6)
    step = 1e-5
    t = step * np.arange(20000)
    for frequency in (300.0, 1500.0, 2500.0):
        found = scanned(np.sin(2 * np.pi * frequency * t), step, scanner)
        later = t >= 0.1
        wave = 2j * np.mean(found[later] * np.exp(-2j * np.pi * frequency * t[later]))
        expected = scanner.response(np.array([frequency]))[0]
        assert abs(wave - expected) < 0.01 * abs(expected)


def test_scanner_equals_scipys_integrator() -> None:
    """Through a turn of a triangle the ringing is that of the differential equations, to 1e-6 of the path."""
    scanner, step = ScannerSettings(1000.0, 15.0, 80e-6), 5e-5
    drive = np.concatenate([np.linspace(0, 1, 41), np.linspace(1, 0.2, 33)[1:]])
    t = step * np.arange(len(drive))
    w0 = 2 * np.pi * 1000.0

    def equation(s: float, y: np.ndarray) -> list[float]:
        return [
            y[1],
            w0**2 * (y[2] - y[0]) - w0 / 15.0 * y[1],
            (float(np.interp(s, t, drive)) - y[2]) / 80e-6,
        ]

    exact = solve_ivp(equation, (0, t[-1]), [0, 0, 0], t_eval=t, rtol=1e-9, atol=1e-12, max_step=step)
    assert np.allclose(scanned(drive, step, scanner), exact.y[0], rtol=0, atol=1e-6)


def test_a_steady_line_is_late_by_the_lag() -> None:
    """On a ramp the position is behind by speed x (1 / (Q w0) + tau), to 1e-6 of the path, once the ringing
    is over; twice the speed shifts the image twice as far."""
    scanner, step = ScannerSettings(), 1e-5
    t = step * np.arange(6000)
    for speed in (1e-7, 2e-7):
        behind = speed * t[-1] - scanned(speed * t, step, scanner)[-1]
        assert np.isclose(behind, speed * scanner.lag_s(), rtol=1e-3, atol=0)


def test_a_raster_without_distortions_is_its_grid() -> None:
    """Pixel centres, rows ascending in y, columns in x for both directions, turned counter-clockwise (1e-11
    of the frame); backward pixels come later, in reverse."""
    raster = Raster((3e-9, -1e-9), 8e-9, 4e-9, 16, 8, 0.0, samples_per_pixel=5)
    places = true_places(raster, Distortions(), np.random.default_rng(1))
    x = 3e-9 + 8e-9 * ((np.arange(16) + 0.5) / 16 - 0.5)
    y = -1e-9 + 4e-9 * ((np.arange(8) + 0.5) / 8 - 0.5)
    assert np.allclose(places.x_m, np.broadcast_to(x, (2, 8, 16)), rtol=0, atol=1e-20)
    assert np.allclose(places.y_m, np.broadcast_to(y[:, None], (2, 8, 16)), rtol=0, atol=1e-20)
    assert np.all(places.lift_m == 0.0)
    assert np.all(np.diff(places.times_s[0], axis=1) > 0)
    assert np.all(np.diff(places.times_s[1], axis=1) < 0)
    assert np.all(places.times_s[1] > places.times_s[0])
    turned = true_places(
        Raster((0.0, 0.0), 8e-9, 4e-9, 16, 8, np.pi / 2, samples_per_pixel=5),
        Distortions(),
        np.random.default_rng(1),
    )
    assert np.allclose(turned.y_m, places.x_m - 3e-9, rtol=0, atol=1e-20)
    assert np.allclose(turned.x_m, -(places.y_m + 1e-9), rtol=0, atol=1e-20)


def test_each_distortion_leaves_its_mark_on_a_frame() -> None:
    """Tilt lifts by slope x place; a lag shifts forward and backward apart by twice speed x lag (2 %); drift
    moves the sample away under the tip; hysteresis separates the directions; creep fades along the frame."""
    rng = np.random.default_rng
    raster = Raster(width_m=20e-9, height_m=20e-9, pixels=32, lines=16, line_s=0.05)
    plain = true_places(raster, Distortions(), rng(1))
    tilted = true_places(raster, Distortions(slope_x=0.01, slope_y=-0.02), rng(1))
    assert np.allclose(tilted.lift_m, 0.01 * plain.x_m - 0.02 * plain.y_m, rtol=1e-9, atol=1e-22)
    scanner = ScannerSettings(amplifier_s=500e-6)
    late = true_places(raster, Distortions(scanner=scanner), rng(1))
    apart = (late.x_m[1] - late.x_m[0])[4:, 8:24].mean()
    assert np.isclose(apart, 2 * scanner.lag_s() * 20e-9 / 0.05, rtol=0.02, atol=0)
    still = DriftSettings((1e-10, -2e-10, 5e-12), (0.0,) * 3)
    drifted = true_places(raster, Distortions(drift=still), rng(1))
    since = plain.times_s - plain.times_s.min()
    assert np.allclose(drifted.x_m, plain.x_m - 1e-10 * since, rtol=0, atol=1e-18)
    assert np.allclose(drifted.y_m, plain.y_m + 2e-10 * since, rtol=0, atol=1e-18)
    assert np.allclose(drifted.lift_m, 5e-12 * since, rtol=0, atol=1e-20)
    bent = true_places(raster, Distortions(hysteresis=BoucWen(), hysteresis_range_m=40e-9), rng(1))
    assert (bent.x_m[0] - bent.x_m[1])[4:, 16].mean() < -0.1e-9
    crept = true_places(raster, Distortions(creep=CreepSettings(), approach_m=(0.0, -200e-9)), rng(1))
    change = (crept.y_m - plain.y_m)[0].mean(axis=1)
    assert change[0] > 0.1e-9
    assert np.diff(change)[0] > 3 * np.diff(change)[-1] > 0
