"""Levelling takes out what the microscope adds and leaves the surface."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.analysis.levelling import fill_missing, level, robust_scale
from protocols.errors import UsageError

PM = 1e-12


@given(sx=st.floats(-1e-9, 1e-9), sy=st.floats(-1e-9, 1e-9), z0=st.floats(-1e-6, 1e-6))
def test_any_tilt_disappears(sx: float, sy: float, z0: float) -> None:
    """A tilted plane is level afterwards, whatever its slope and height, with both methods."""
    row, col = np.mgrid[0:24, 0:32]
    image = z0 + sx * col + sy * row
    for method in ("plane", "lines"):
        assert np.abs(level(image, method)).max() < 1e-6 * max(abs(sx), abs(sy), abs(z0), PM)


def test_a_defect_does_not_tilt_the_plane() -> None:
    """The plane is fitted to the bulk: a high island in a corner leaves the rest level within a few per
    cent of it."""
    rng = np.random.default_rng(0)
    image = PM * rng.normal(size=(64, 64))
    image[:12, :12] += 200 * PM
    out = level(image, "plane")
    assert np.abs(out[20:, 20:].mean(axis=1)).max() < 2 * PM
    assert 195 * PM < out[:12, :12].mean() < 205 * PM


def test_line_jumps_disappear_and_terraces_stay() -> None:
    """Random jumps between lines are taken out while a step edge across the lines keeps its height."""
    rng = np.random.default_rng(1)
    row, col = np.mgrid[0:96, 0:96]
    surface = np.where(col > 40 + 0.1 * row, 240 * PM, 0.0)
    jumps = np.cumsum(rng.normal(0, 50 * PM, 96))[:, None]
    out = level(surface + jumps + PM * rng.normal(size=surface.shape), "lines")
    flat = out - surface
    assert np.std(flat.mean(axis=1)) < 15 * PM < np.std(jumps)
    height = out[:, 80:].mean(axis=1) - out[:, :30].mean(axis=1)
    assert np.std(height) < 2 * PM


def test_missing_pixels_are_filled_and_an_empty_frame_refused() -> None:
    """Unmeasured pixels take their row's median; a frame without any pixel is an error."""
    image = np.arange(12.0).reshape(3, 4)
    image[1, 2] = np.nan
    image[2] = np.nan
    filled = fill_missing(image)
    assert filled[1, 2] == 5.0 and np.isfinite(filled).all()
    with pytest.raises(UsageError):
        level(np.full((4, 4), np.nan))
    with pytest.raises(UsageError):
        level(np.zeros(5))


def test_robust_scale_ignores_outliers() -> None:
    """A tenth of wild values changes the scale little; constant data still allow a division."""
    rng = np.random.default_rng(2)
    data = rng.normal(size=1000)
    data[:100] = 1e6
    assert 0.9 < robust_scale(data) < 1.3
    assert robust_scale(np.ones(5)) == 1.0 and robust_scale([]) == 1.0
