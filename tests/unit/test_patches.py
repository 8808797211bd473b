"""Candidates and patches: geometry, mirror edges, and structures found exactly where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.analysis.patches import (
    FEATURE,
    INHERITED,
    RASTER,
    Candidates,
    FrameGeometry,
    candidates_from_topograph,
    cut_patches,
    find_features,
    mean_of_directions,
)
from protocols.errors import UsageError

NM, PM = 1e-9, 1e-12
GEOMETRIES = st.builds(
    FrameGeometry,
    st.floats(-1e-6, 1e-6),
    st.floats(-1e-6, 1e-6),
    st.floats(1e-9, 3e-7),
    st.floats(1e-9, 3e-7),
    st.floats(-math.pi, math.pi),
)


@given(geometry=GEOMETRIES, row=st.floats(0, 99), col=st.floats(0, 79))
def test_pixels_and_sample_coordinates_are_inverse(geometry: FrameGeometry, row: float, col: float) -> None:
    """A pixel position turned into sample coordinates and back is the same, for any frame and rotation."""
    x, y = geometry.to_sample(row, col, (100, 80))
    back = geometry.to_pixels(x, y, (100, 80))
    assert np.allclose([float(back[0]), float(back[1])], [row, col], atol=1e-4)
    assert geometry.contains(x, y).all()


def test_rotation_is_counter_clockwise_and_row_0_lowest() -> None:
    """In an unturned frame col grows with x and row with y; turned by +90 degrees, col grows with y."""
    plain = FrameGeometry(0, 0, 10 * NM, 10 * NM)
    x, y = plain.to_sample([0, 9], [0, 9], (10, 10))
    assert np.allclose(x, [-4.5 * NM, 4.5 * NM], atol=0, rtol=1e-9)
    assert np.allclose(y, [-4.5 * NM, 4.5 * NM], atol=0, rtol=1e-9)
    turned = FrameGeometry(0, 0, 10 * NM, 10 * NM, math.pi / 2)
    x, y = turned.to_sample(4.5, 9, (10, 10))
    assert abs(float(x)) < 1e-15 and math.isclose(float(y), 4.5 * NM)


def test_every_pixel_of_a_grid_is_a_candidate() -> None:
    """Step 1: one candidate for each pixel, row by row, at its centre, and nothing besides."""
    rng = np.random.default_rng(0)
    geometry = FrameGeometry(3 * NM, -2 * NM, 5 * NM, 5 * NM, 0.7)
    c = candidates_from_topograph(
        PM * rng.normal(size=(30, 20)), geometry, patch_pixels=5, step=1, inherited=[(3 * NM, -2 * NM)]
    )
    row, col = np.mgrid[0:30, 0:20]
    x, y = geometry.to_sample(row.ravel(), col.ravel(), (30, 20))
    assert c.shape == (30, 20) and c.patches.shape == (600, 25) and (c.origin == RASTER).all()
    assert np.allclose(c.x_m, x, atol=1e-18) and np.allclose(c.y_m, y, atol=1e-18)


def test_patches_are_mirrored_at_edges_and_centred() -> None:
    """A patch's centre is its pixel; beyond the frame its mirror image; the global scale keeps
    amplitudes comparable."""
    image = np.arange(36.0).reshape(6, 6) ** 1.5
    patches = cut_patches(image, np.array([0.0, 3.0]), np.array([0.0, 2.0]), 3, remove_mean=False)
    first, second = patches.reshape(2, 3, 3)
    assert np.allclose(first[0], first[1], atol=1e-12) and np.allclose(first[:, 0], first[:, 1], atol=1e-12)
    cut = image[2:5, 1:4]
    ratio = (second - second[1, 1])[0, 0] / (cut - cut[1, 1])[0, 0]
    assert np.allclose(second - second[1, 1], ratio * (cut - cut[1, 1]), atol=1e-9)
    removed = cut_patches(image, np.array([3.0]), np.array([2.0]), 3)
    assert abs(removed.mean()) < 1e-12


def defects(places: list[tuple[float, float]], depth: float, noise: float, seed: int) -> np.ndarray:
    """A 200 nm frame of 512 pixels (2 directions) with round 1.5 nm defects at (row, col), a tilt and a
    step edge."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[0:512, 0:512]
    z = 1e-12 * col + 300 * PM * (col + 0.2 * row > 300)
    sigma = 1.5 / 2.355 / (200 / 512)
    for r, c in places:
        z = z + depth * np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * sigma**2))
    return np.stack([z + noise * rng.normal(size=z.shape) for _ in range(2)])


def test_small_defects_are_candidates_to_a_fraction_of_a_pixel() -> None:
    """Every 1.5 nm defect, protrusion or depression, in a 200 nm frame is a candidate within 0.2 nm; few
    others are."""
    places = [(100.3, 80.6), (250.0, 120.4), (400.7, 60.2), (60.5, 400.1), (333.3, 440.8)]
    geometry = FrameGeometry(50 * NM, 20 * NM, 200 * NM, 200 * NM, 0.3)
    for depth in (60 * PM, -60 * PM):
        z = defects(places, depth, 4 * PM, 1)
        c = candidates_from_topograph(z, geometry, patch_pixels=16, step=8)
        assert c.shape is None and 5 <= (c.origin == FEATURE).sum() < 40
        for r, col in places:
            x, y = geometry.to_sample(r, col, (512, 512))
            distance = np.hypot(c.x_m - x, c.y_m - y)[c.origin == FEATURE]
            assert distance.min() < 0.2 * NM


def test_a_step_edge_and_noise_are_no_structures() -> None:
    """Without defects, noise and a step edge give next to nothing; a spike in one direction only gives
    nothing."""
    z = defects([], 0.0, 4 * PM, 2)
    z[0, 200, 200] += 500 * PM
    found = find_features(z)
    assert found.row.size < 12
    assert not (np.hypot(found.row - 200, found.col - 200) < 3).any()


def test_handed_down_places_are_candidates_if_inside() -> None:
    """A place of the parent window is a candidate exactly there; one outside the frame is left out."""
    geometry = FrameGeometry(0, 0, 20 * NM, 20 * NM)
    z = PM * np.random.default_rng(3).normal(size=(64, 64))
    c = candidates_from_topograph(
        z, geometry, patch_pixels=8, step=8, inherited=[(1.234 * NM, -5.678 * NM), (11 * NM, 0.0)]
    )
    (which,) = np.flatnonzero(c.origin == INHERITED)
    assert np.allclose([c.x_m[which], c.y_m[which]], [1.234 * NM, -5.678 * NM], atol=0, rtol=1e-9)


@settings(max_examples=25)
@given(lines=st.integers(1, 40), pixels=st.integers(1, 40), step=st.integers(1, 12), patch=st.integers(1, 9))
def test_any_frame_gives_candidates_within_it(lines: int, pixels: int, step: int, patch: int) -> None:
    """For any size, step and patch there is at least one candidate, all lie inside, all patches are
    finite."""
    geometry = FrameGeometry(0, 0, 7 * NM, 5 * NM, 1.0)
    z = PM * np.random.default_rng(0).normal(size=(lines, pixels))
    c = candidates_from_topograph(z, geometry, patch_pixels=patch, step=step)
    assert len(c) >= 1 and geometry.contains(c.x_m, c.y_m).all()
    assert c.patches.shape == (len(c), patch * patch) and np.isfinite(c.patches).all()


def test_bad_arguments_are_refused() -> None:
    """A step of zero, an array of wrong shape and candidates that do not fit together are errors."""
    geometry = FrameGeometry(0, 0, NM, NM)
    with pytest.raises(UsageError):
        candidates_from_topograph(np.zeros((4, 4)), geometry, patch_pixels=3, step=0)
    with pytest.raises(UsageError):
        mean_of_directions(np.zeros(4))
    with pytest.raises(UsageError):
        Candidates(np.zeros(2), np.zeros(3), np.zeros((2, 4)), geometry)


def test_a_direction_without_data_does_not_spoil_the_mean() -> None:
    """Where one direction is missing the other one counts alone."""
    z = np.ones((2, 3, 3))
    z[1] = np.nan
    assert (mean_of_directions(z) == 1.0).all()
