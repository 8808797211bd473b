"""Checks on one spectrum: what fails, what only warns, and what is left alone."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.spectroscopy_acquirer.quality import (
    DEFAULT_SEVERITIES,
    Quality,
    QualityOptions,
    check_spectrum,
)
from protocols.messages.data import Channel, SweepData
from protocols.messages.recipes import SpectrumRecipe

RECIPE = SpectrumRecipe(
    stabilise_bias_v=1.0,
    stabilise_current_a=1e-10,
    settle_s=0.1,
    z_offset_m=0.0,
    start_v=-1.0,
    stop_v=1.0,
    points=120,
    dwell_s=1e-3,
    repeats=2,
    backward=True,
)
BIAS = np.linspace(-1.0, 1.0, 120)


def current(noise: float = 1e-13, seed: int = 0) -> npt.NDArray[np.float64]:
    """A gapped I(V) that reaches the setpoint at 1 V, (repeats, directions, points)."""
    rng = np.random.default_rng(seed)
    curve = 1e-10 * np.sign(BIAS) * np.maximum(np.abs(BIAS) - 0.3, 0.0) ** 2 / 0.49
    return np.broadcast_to(curve, (2, 2, 120)) + noise * rng.normal(size=(2, 2, 120))


def lockin(noise: float = 1e-3, seed: int = 1) -> npt.NDArray[np.float64]:
    """Its derivative in volts."""
    rng = np.random.default_rng(seed)
    curve = 4.0 * np.maximum(np.abs(BIAS) - 0.3, 0.0)
    return np.broadcast_to(curve, (2, 2, 120)) + noise * rng.normal(size=(2, 2, 120))


def check(
    i: npt.NDArray[np.float64] | None = None,
    x: npt.NDArray[np.float64] | None = None,
    options: QualityOptions | None = None,
    saturated: bool = False,
    bias: npt.NDArray[np.float64] = BIAS,
    recipe: SpectrumRecipe = RECIPE,
) -> Quality:
    """Check a spectrum of these channels."""
    channels = (
        Channel(name="current", unit="A", values=current() if i is None else i),
        Channel(name="lockin_x", unit="V", values=lockin() if x is None else x),
    )
    data = SweepData(
        bias_v=bias, channels=channels, x_m=0.0, y_m=0.0, z_m=0.0, time_s=0.0, saturated=saturated
    )
    return check_spectrum(data, recipe, options)


def test_a_good_spectrum_passes() -> None:
    """A smooth gapped spectrum with noise fails nothing."""
    quality = check()
    assert quality.valid
    assert quality.failed == ()
    assert quality.note == ""


@given(seed=st.integers(0, 10_000), noise=st.floats(0.0, 2e-12))
def test_noise_alone_fails_nothing(seed: int, noise: float) -> None:
    """White noise, however it falls, is neither a jump nor a hysteresis."""
    assert check(i=current(noise, seed), x=lockin(noise * 1e10, seed + 1)).failed == ()


def test_saturation_of_the_preamplifier_is_invalid() -> None:
    """Samples at the rail, or a sweep that was ended there, disqualify, and the rest is no second fault."""
    railed = np.clip(current() * 200, -1e-8, 1e-8)
    assert check(i=railed).invalid == ("saturated",)
    ended = current()
    ended[..., 80:] = np.nan
    cut = lockin()
    cut[..., 80:] = np.nan
    assert check(i=ended, x=cut, saturated=True).invalid == ("saturated",)


def test_a_clipped_lockin_warns_unless_told_otherwise() -> None:
    """A lock-in at its rail flags the spectrum; a campaign may make it invalid or ignore it."""
    clipped = np.clip(lockin() * 10, -10.0, 10.0)
    quality = check(x=clipped)
    assert quality.valid
    assert quality.failed == quality.warnings == ("lock-in clipped",)
    assert quality.figures["clipped samples"] > 2
    assert not check(x=clipped, options=QualityOptions(severities={"lock-in clipped": "invalid"})).valid
    assert check(x=clipped, options=QualityOptions(severities={"lock-in clipped": "ignore"})).failed == ()


def test_forward_and_backward_must_agree() -> None:
    """A backward curve that is shifted by a sixth of the range is called hysteresis."""
    i = current()
    i[:, 1] = np.roll(i[:, 1], 20, axis=-1)
    quality = check(i=i)
    assert "hysteresis" in quality.invalid
    assert quality.figures["hysteresis current"] > 0.3


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_noise_that_grows_with_the_signal_is_not_taken_for_a_fault(seed: int) -> None:
    """A lock-in whose noise is 5 % of its signal disagrees with itself most where it is largest, and that is
    neither hysteresis nor a jump; a backward curve that really runs beside the forward one at high current
    still is hysteresis."""
    rng = np.random.default_rng(seed)
    onset = 1e-3 + 4.0 * np.maximum(np.abs(BIAS) - 0.3, 0.0) ** 3
    noisy = onset * (1 + 0.05 * rng.normal(size=(2, 2, 120)))
    assert not {"hysteresis", "jump"} & set(check(x=noisy).failed)
    apart = noisy.copy()
    apart[:, 1] *= np.where(BIAS > 0.6, 0.4, 1.0)
    assert "hysteresis" in check(x=apart).invalid


def test_missing_samples_are_said() -> None:
    """NaN or infinity without saturation is invalid."""
    for value in (np.nan, np.inf):
        i = current()
        i[0, 0, 3] = value
        assert check(i=i).invalid == ("not finite",)


@pytest.mark.parametrize("at", [30, 60, 95])
def test_a_tip_change_within_the_sweep_is_a_jump(at: int) -> None:
    """A lasting step of the current in one direction of one repeat is found where it is."""
    i = current()
    i[1, 0, at:] += 0.8e-10
    quality = check(i=i)
    assert "jump" in quality.invalid
    assert f"point {at}" in quality.note or f"point {at - 1}" in quality.note


def test_a_spike_and_a_steep_onset_are_no_jump() -> None:
    """One wild sample, or a sharp but continuous onset, is not a tip change."""
    i = current()
    i[0, 0, 50] += 0.8e-10
    assert "jump" not in check(i=i).failed
    steep = 1e-10 / (1 + np.exp(-(BIAS - 0.4) / 0.02)) + current(1e-13) * 0.3
    assert "jump" not in check(i=steep).failed


def test_a_lost_surface_and_a_dead_channel_are_said() -> None:
    """No current where the setpoint should flow, and a constant channel, are invalid."""
    rng = np.random.default_rng(0)
    lost = check(i=1e-14 * rng.normal(size=(2, 2, 120)))
    assert "no current" in lost.invalid
    assert "no signal" in check(x=np.zeros((2, 2, 120))).invalid


def test_the_bias_axis_and_shapes_must_be_what_was_asked() -> None:
    """Another bias axis, too few points or missing repeats are each named."""
    assert "bias axis" in check(bias=BIAS * 1.1).invalid
    assert "channels" in check(i=current()[:1]).invalid
    few = np.linspace(-1.0, 1.0, 5)
    quality = check(i=current()[..., :5], x=lockin()[..., :5], bias=few)
    assert {"too few points", "bias axis"} <= set(quality.invalid)


@given(st.data())
def test_any_sweep_gets_a_verdict(data: st.DataObject) -> None:
    """Whatever the arrays hold, there is a verdict, and valid means that nothing invalid failed."""
    values = data.draw(
        st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=40)
    )
    bias = np.linspace(-1.0, 1.0, len(values))
    array = np.array(values, dtype=np.float64)[None, None]
    sweep = SweepData(
        bias_v=bias,
        channels=(Channel(name="current", unit="A", values=array),),
        x_m=0.0,
        y_m=0.0,
        z_m=0.0,
        time_s=0.0,
    )
    with np.errstate(all="ignore"):
        quality = check_spectrum(sweep, RECIPE)
    assert quality.valid == (not quality.invalid)
    assert set(quality.failed) == set(quality.invalid) | set(quality.warnings)
    assert set(quality.failed) <= set(DEFAULT_SEVERITIES)


def test_recorded_spectra_pass_but_for_clipped_lockins() -> None:
    """Of 900 recorded spectra only those with the lock-in at 10 V are flagged, and none is invalid."""
    root = os.environ.get("TUNNELPILOT_DATA")
    path = Path(root or "") / "sts_grid" / "NanonisReader_STS_grid_lockin.3ds"
    if not root or not path.exists():
        pytest.skip("TUNNELPILOT_DATA does not name a folder with sts_grid/NanonisReader_STS_grid_lockin.3ds")
    raw = path.read_bytes()
    start = raw.index(b":HEADER_END:\r\n") + len(b":HEADER_END:\r\n")
    points = np.frombuffer(raw[start:], ">f4").reshape(900, 810).astype(np.float64)
    bias = np.linspace(points[0, 0], points[0, 1], 200)
    recipe = SpectrumRecipe(
        stabilise_bias_v=0.2,
        stabilise_current_a=5e-11,
        settle_s=0.1,
        z_offset_m=0.0,
        start_v=float(bias[0]),
        stop_v=float(bias[-1]),
        points=200,
        dwell_s=0.01,
    )
    clipped = 0
    for row in points:
        values = row[10:].reshape(4, 1, 1, 200)
        channels = (
            Channel(name="current", unit="A", values=values[0]),
            Channel(name="lockin_x", unit="V", values=values[1]),
        )
        data = SweepData(bias_v=bias, channels=channels, x_m=0.0, y_m=0.0, z_m=0.0, time_s=0.0)
        quality = check_spectrum(data, recipe)
        assert quality.valid, quality.note
        assert quality.failed in ((), ("lock-in clipped",))
        clipped += bool(quality.failed)
    assert 1 <= clipped <= 20
