"""The formulas, each against its closed form with the tolerance it claims."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import simpson, trapezoid
from simulated import Flat

from sim_hardware.drift import DriftSettings, ThermalDrift
from sim_hardware.electronics import (
    ElectronicsSettings,
    averaged_current,
    current_noise_rms,
    lockin_output,
    measurement_noise,
)
from sim_hardware.feedback import FeedbackSettings, follow, relax
from sim_hardware.junction import MixtureJunction
from sim_hardware.physics.lockin import OutputFilter
from sim_hardware.surfaces.spectra import Peak, gapped, with_states
from sim_hardware.tip import Apex, Tip, tip_after
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S, current, decay_constant, equilibrium_gap

SETTINGS = FeedbackSettings()


def test_kappa_of_a_work_function() -> None:
    """kappa = sqrt(2 m phi) / hbar: 5.123 / nm times sqrt(phi / eV), to 1e-4."""
    for phi in (1.0, 4.0, 5.3):
        assert np.isclose(decay_constant(phi), 5.1232e9 * np.sqrt(phi), rtol=1e-4, atol=0)


@given(st.floats(3.0, 6.0), st.floats(1e-12, 1e-9))
def test_current_decays_at_twice_kappa(phi: float, delta: float) -> None:
    """d ln I / dd = -2 kappa to 1e-6, for any work function; a factor 2 in kappa would show."""
    kappa = decay_constant(phi)
    slope = float(np.log(current(0.5e-9 + delta, 1.0, kappa) / current(0.5e-9, 1.0, kappa)) / delta)
    assert np.isclose(slope, -2.0 * kappa, rtol=1e-6, atol=0)


def test_junction_on_a_flat_metal_is_the_formula() -> None:
    """One apex over a flat metal: I = G0 V exp(-2 kappa z) to 1e-9, and the controller's target inverts
    it."""
    junction = MixtureJunction(Flat(), Tip())
    profile = junction.profile(np.zeros(1), np.zeros(1), -0.7)
    found = profile.current(np.array([0.6e-9]))
    expected = CONTACT_CONDUCTANCE_S * 0.7 * np.exp(-2 * junction.kappa * 0.6e-9)
    assert np.allclose(found, expected, rtol=1e-9, atol=0)
    target = profile.target(200e-12)
    assert np.allclose(target, equilibrium_gap(-0.7, 200e-12, junction.kappa), rtol=1e-9, atol=0)
    assert np.allclose(profile.current(target), 200e-12, rtol=1e-9, atol=0)


def test_apices_add_up() -> None:
    """Two equal apices carry twice the current of one, a lifted one exp(-2 kappa lift) of it (1e-9)."""
    one = MixtureJunction(Flat(), Tip())
    lifted = MixtureJunction(Flat(), Tip(apices=(Apex(), Apex(1e-9, 0.0, 30e-12))))
    z = np.array([0.5e-9])
    i_one = one.profile(np.zeros(1), np.zeros(1), 1.0).current(z)
    i_two = lifted.profile(np.zeros(1), np.zeros(1), 1.0).current(z)
    assert np.allclose(i_two / i_one, 1.0 + np.exp(-2 * one.kappa * 30e-12), rtol=1e-9, atol=0)


@given(st.floats(-2.0, 2.0))
def test_ldos_integral_is_the_integral_of_the_density(bias: float) -> None:
    """The closed form of the energy integral equals quadrature to 1e-6 and has the sign of the bias."""
    spectrum = with_states(gapped("a", -0.45, 0.65), "b", Peak(0.25, 0.3, 0.07))
    energies = np.linspace(0.0, bias, 4001)
    expected = float(simpson(spectrum.density(energies), x=energies)) if bias else 0.0
    assert np.isclose(float(spectrum.integral(bias)), expected, rtol=1e-6, atol=1e-12)
    assert float(spectrum.integral(bias)) * bias >= 0.0


def test_step_response_is_a_first_order_lag() -> None:
    """Within the slew limit z(t) = target - step exp(-t / tau), to 1e-12 of the step."""
    step = 0.1e-9
    for t in np.linspace(0, 5, 11) * SETTINGS.time_constant_s:
        found = relax(0.0, step, float(t), SETTINGS)
        assert np.isclose(
            found, step * (1 - np.exp(-t / SETTINGS.time_constant_s)), rtol=0, atol=1e-12 * step
        )


def test_large_errors_ramp_at_the_slew_limit() -> None:
    """Far from the target z moves at exactly the slew rate, then relaxes without overshoot."""
    assert np.isclose(
        relax(100e-9, 0.0, 1e-3, SETTINGS), 100e-9 - SETTINGS.slew_m_s * 1e-3, rtol=1e-9, atol=0
    )
    path = [relax(100e-9, 0.0, t, SETTINGS) for t in np.linspace(0, 0.1, 500)]
    assert np.all(np.diff(path) <= 0)
    assert path[-1] >= 0.0
    assert path[-1] < 1e-12


def test_range_end_stops_the_controller() -> None:
    """A target beyond the Z range is never reached: z ends at the range end."""
    assert np.isclose(relax(0.0, -1e-6, 10.0, SETTINGS), SETTINGS.z_low_m, rtol=1e-9, atol=0)


@given(st.integers(0, 2**31), st.floats(1e-6, 1e-2), st.booleans())
def test_following_equals_relaxing_step_by_step(seed: int, step_s: float, wild: bool) -> None:
    """The filter used for lines and the exact solution agree to 1e-9 of the span, slew limit or not."""
    rng = np.random.default_rng(seed)
    targets = np.cumsum(rng.normal(0, 5e-9 if wild else 1e-12, size=40))
    z, expected = 0.0, []
    for target in targets:
        z = relax(z, float(target), step_s, SETTINGS)
        expected.append(z)
    found = follow(0.0, targets, step_s, SETTINGS)
    assert np.allclose(found, expected, rtol=0, atol=1e-9 * max(1e-12, float(np.abs(targets).max())))


def test_drift_is_the_integral_of_its_velocity() -> None:
    """offset(t) = integral of velocity, to 1e-6 of the drift, and it is bounded by the stated magnitudes."""
    drift = ThermalDrift(DriftSettings(), seed=4)
    times = np.linspace(0.0, 4000.0, 40001)
    velocity = drift.velocity(times)
    summed = trapezoid(velocity, times, axis=0)
    assert np.allclose(drift.offset(4000.0), summed, rtol=1e-6, atol=1e-18)
    assert 0.3e-12 < np.hypot(*velocity[:, :2].T).mean() < 4e-12
    assert 0.03e-12 < np.abs(velocity[:, 2]).mean() < 0.6e-12


def test_drift_is_a_function_of_seed_and_time() -> None:
    """A restarted world finds the same drift; another seed another one."""
    a, b, c = (ThermalDrift(DriftSettings(), seed=s) for s in (1, 1, 2))
    assert np.array_equal(a.offset(1234.5), b.offset(1234.5))
    assert not np.allclose(a.offset(1234.5), c.offset(1234.5), rtol=1e-3, atol=0)


def test_current_noise_has_the_stated_rms() -> None:
    """Averaged samples scatter with sqrt((e_n^2 + 2 e I + (2 kappa dz I)^2) B), B = 1 / 2 dwell, to 5 %."""
    settings, kappa = ElectronicsSettings(), decay_constant(4.0)
    level = np.full(20000, 200e-12)
    samples = averaged_current(level, 5e-3, kappa, np.random.default_rng(1), settings)
    expected = float(current_noise_rms(np.array([200e-12]), kappa, 100.0, settings)[0])
    assert np.isclose(samples.std(), expected, rtol=0.05, atol=0)


def test_preamplifier_saturates_at_its_rail() -> None:
    """No sample is beyond 10 nA whatever flows."""
    samples = averaged_current(
        np.array([-1e-6, 1e-6, 9.99e-9]), 1e-3, 1e10, np.random.default_rng(1), ElectronicsSettings()
    )
    assert np.abs(samples).max() <= 10e-9
    assert np.allclose(samples[:2], [-10e-9, 10e-9], rtol=1e-12, atol=0)


def test_lockin_scales_and_lags() -> None:
    """X = amplitude x dI/dV; after a step it approaches with exp(-n dwell / tau), to 1e-9."""
    settings = ElectronicsSettings(noise_a_per_sqrt_hz=0.0, gap_noise_m_per_sqrt_hz=0.0)
    conductance = np.concatenate([np.zeros(1), np.full(9, 2e-10)])
    x, y = lockin_output(
        conductance, np.zeros(10), 0.02, OutputFilter(5e-3), 10e-3, 1e10, np.random.default_rng(1), settings
    )
    assert np.allclose(x[1:], 4e-12 * (1 - np.exp(-2.0 * np.arange(1, 10))), rtol=1e-9, atol=0)
    assert np.allclose(y, 0.0, atol=1e-30)


def test_noise_belongs_to_a_measurement() -> None:
    """The same seed, job and count give the same noise; anything else another."""
    draw = lambda *key: float(measurement_noise(*key).normal())  # noqa: E731
    assert draw(1, "run/d1/a1", 1) == draw(1, "run/d1/a1", 1)
    others = {draw(1, "run/d1/a2", 1), draw(2, "run/d1/a1", 1), draw(1, "run/d1/a1", 2)}
    assert draw(1, "run/d1/a1", 1) not in others
    assert len(others) == 3


def test_a_changed_tip_is_worse_and_reproducible() -> None:
    """No change: one apex. After a change: several apices and more noise; the same for the same history."""
    assert len(tip_after(3, 0).apices) == 1
    worn = tip_after(3, 1)
    assert len(worn.apices) > 1
    assert worn.noise_factor > 1.0
    assert worn == tip_after(3, 1) != tip_after(3, 2)


def test_equilibrium_gap_shrinks_by_a_decade_per_decade_of_bias() -> None:
    """At constant current over a metal the gap shrinks by ln(10) / 2 kappa = 112 pm per decade of bias (4
    eV)."""
    kappa = decay_constant(4.0)
    shrink = float(equilibrium_gap(1.0, 1e-10, kappa) - equilibrium_gap(0.1, 1e-10, kappa))
    assert np.isclose(shrink, np.log(10) / (2 * kappa), rtol=1e-9, atol=0)
    assert np.isclose(shrink, 112e-12, rtol=0.01, atol=0)
