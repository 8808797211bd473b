"""Scalarizers: exact window ends, units, signs, and a reason wherever there is no value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.analysis.scalarizers import background_of, integrate, mean_curve, scalar_of, scalarize
from protocols.errors import UsageError
from protocols.messages.campaign import ScalarSection
from protocols.messages.data import Channel, SweepData

BIAS = np.linspace(-1.5, 1.5, 151)


def gapped(valence: float, conduction: float, slope: float = 1.0) -> np.ndarray:
    """dI/dV with straight band edges."""
    return slope * (np.maximum(BIAS - conduction, 0.0) + np.maximum(valence - BIAS, 0.0))


@given(
    a=st.floats(-1.4, 1.3),
    width=st.floats(0.01, 1.4),
    slope=st.floats(-5, 5),
    offset=st.floats(-5, 5),
    flip=st.booleans(),
)
def test_integral_of_a_line_is_exact_for_any_window(
    a: float, width: float, slope: float, offset: float, flip: bool
) -> None:
    """A straight line is integrated exactly, whether or not the window ends fall on samples, in either
    sweep sense."""
    b = min(a + width, 1.5)
    y = slope * BIAS + offset
    bias, values = (BIAS[::-1], y[::-1]) if flip else (BIAS, y)
    expected = offset * (b - a) + 0.5 * slope * (b * b - a * a)
    assert math.isclose(integrate(bias, values, (a, b)), expected, rel_tol=1e-9, abs_tol=1e-9)


@given(split=st.floats(-0.9, 0.9))
def test_integrals_of_adjacent_windows_add_up(split: float) -> None:
    """The integral over [-1, 1] is that over [-1, s] plus that over [s, 1]."""
    y = np.sin(3 * BIAS) + BIAS**2
    whole = integrate(BIAS, y, (-1, 1))
    assert math.isclose(whole, integrate(BIAS, y, (-1, split)) + integrate(BIAS, y, (split, 1)), rel_tol=1e-3)


def test_ratio_is_equation_2() -> None:
    """The ratio is the integral over the window over that of the reference, without a unit, whatever the
    gain."""
    section = ScalarSection(kind="ratio", window_v=(0.0, 0.5), reference_v=(0.0, 1.5))
    got = scalarize(BIAS, np.full(BIAS.size, 7e-12), section, "A")
    assert math.isclose(got.value, 1 / 3, rel_tol=1e-9) and got.unit == "1" and got.reason == ""
    assert math.isclose(
        scalarize(BIAS, 1e3 * np.exp(BIAS), section).value, scalarize(BIAS, np.exp(BIAS), section).value
    )


def test_ratio_over_nothing_gives_a_reason() -> None:
    """A reference integral that is not positive gives no value and says so."""
    section = ScalarSection(kind="ratio", window_v=(0.0, 0.5), reference_v=(0.0, 1.5))
    for y in (np.zeros(BIAS.size), -np.ones(BIAS.size)):
        got = scalarize(BIAS, y, section)
        assert math.isnan(got.value) and "not positive" in got.reason


def test_sign_is_applied_to_the_value_alone() -> None:
    """With sign -1 the value to maximise is minus the number; the raw number stays."""
    section = ScalarSection(kind="integral", window_v=(0.0, 1.0), sign=-1)
    got = scalarize(BIAS, np.ones(BIAS.size), section, "V")
    assert math.isclose(got.raw, 1.0) and math.isclose(got.value, -1.0) and got.unit == "V V"


@given(valence=st.floats(-1.1, -0.2), conduction=st.floats(0.2, 1.1), slope=st.floats(1e-12, 1e3))
def test_bandgap_of_straight_edges(valence: float, conduction: float, slope: float) -> None:
    """For straight edges the gap is the distance of the edges, whatever the gain, within two samples."""
    got = scalarize(BIAS, gapped(valence, conduction, slope), ScalarSection(kind="bandgap"))
    assert got.unit == "V"
    assert abs(got.value - (conduction - valence)) < 0.04


def test_bandgap_with_noise() -> None:
    """Two per cent of noise moves the gap by less than 60 mV."""
    rng = np.random.default_rng(0)
    y = gapped(-0.4, 0.6) + 0.02 * rng.normal(size=BIAS.size)
    assert abs(scalarize(BIAS, y, ScalarSection(kind="bandgap")).value - 1.0) < 0.06


def test_no_band_edge_gives_a_reason() -> None:
    """A side on which nothing conducts has no edge."""
    y = np.where(BIAS > 0.5, BIAS - 0.5, 0.0)
    got = scalarize(BIAS, y, ScalarSection(kind="bandgap"))
    assert math.isnan(got.value) and "valence" in got.reason


def test_onset_in_both_directions() -> None:
    """The onset is where the threshold is crossed on the way from the window's first end to its second."""
    y = np.abs(BIAS)
    section = ScalarSection(kind="onset", window_v=(0.0, 1.5), threshold=0.513)
    assert math.isclose(scalarize(BIAS, y, section).value, 0.513, rel_tol=1e-6)
    back = ScalarSection(kind="onset", window_v=(0.0, -1.5), threshold=0.513)
    assert math.isclose(scalarize(BIAS, y, back).value, -0.513, rel_tol=1e-6)
    never = ScalarSection(kind="onset", window_v=(0.0, 1.5), threshold=9.0)
    assert math.isnan(scalarize(BIAS, y, never).value)


def test_window_beyond_the_sweep_and_missing_samples() -> None:
    """Outside the swept range, or where a saturated sweep ended, there is no integral and the reason
    says which."""
    section = ScalarSection(kind="integral", window_v=(0.0, 2.0))
    got = scalarize(BIAS, np.ones(BIAS.size), section)
    assert math.isnan(got.value) and "beyond the sweep" in got.reason
    y = np.where(BIAS > 1.0, np.nan, 1.0)
    inside = ScalarSection(kind="integral", window_v=(0.0, 1.2))
    assert "without a value" in scalarize(BIAS, y, inside).reason
    assert math.isclose(scalarize(BIAS, y, ScalarSection(kind="integral", window_v=(0.0, 0.9))).value, 0.9)


def test_scalar_of_a_measurement_averages_repeats_and_directions() -> None:
    """All repeats and both directions count; a sample missing in one of them is taken from the others."""
    values = np.ones((2, 2, BIAS.size))
    values[1] = 3.0
    values[0, 1, BIAS > 1.0] = np.nan
    channel = Channel(name="lockin_x", unit="A", values=values)
    assert np.allclose(mean_curve(channel)[BIAS < 1.0], 2.0, atol=0)
    data = SweepData(bias_v=BIAS, channels=(channel,), x_m=0.0, y_m=0.0, z_m=0.0, time_s=0.0)
    got = scalar_of(data, ScalarSection(kind="integral", window_v=(0.0, 0.5)))
    assert math.isclose(got.value, 1.0) and got.unit == "A V"
    missing = scalar_of(data, ScalarSection(kind="integral", channel="current"))
    assert math.isnan(missing.value) and "lockin_x" in missing.reason


def test_background_is_not_widened_by_finds() -> None:
    """Level and spread come from the lower half: a third of the points far above change them little."""
    rng = np.random.default_rng(1)
    ordinary = rng.normal(1.0, 0.1, 200)
    background = background_of([*ordinary, *rng.uniform(5, 9, 60)])
    assert abs(background.level - 1.0) < 0.1 and 0.05 < background.spread < 0.25
    assert background.significance(5.0) > 15
    with pytest.raises(UsageError):
        background_of([math.nan])
