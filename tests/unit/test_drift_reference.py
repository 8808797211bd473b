"""Which part of a survey frame is taken as the reference patch."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from actors.drift_tracker.reference import best_patch, plan_reference
from protocols.errors import UsageError
from protocols.messages.records import FrameImage, FrameTaken, Transform

Image = npt.NDArray[np.float64]


def survey(z: Image, angle: float = 0.0) -> FrameTaken:
    """A 20 nm survey frame with this topograph (2, lines, pixels)."""
    return FrameTaken(
        job_id="run/f0001/a1",
        window=0,
        purpose="survey",
        images=(FrameImage(channel="z", unit="m", bias_v=0.5, values=z.astype(np.float32)),),
        centre_x_m=100e-9,
        centre_y_m=-50e-9,
        width_m=20e-9,
        height_m=20e-9,
        angle_rad=angle,
        transform=Transform(),
        began_s=0.0,
        ended_s=100.0,
    )


def surface(bumps: list[tuple[float, float]], seed: int = 0) -> Image:
    """A noisy tilted plane with bumps at (row, col) of 128 x 128, forward and backward (m)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128].astype(np.float64)
    z = 3e-12 * x - 2e-12 * y
    for cy, cx in bumps:
        z += 8e-11 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 10)
    return np.stack([z, z]) + 2e-12 * rng.normal(size=(2, 128, 128))


CLUSTER = [(90.0, 30.0), (95.0, 38.0), (84.0, 36.0), (100.0, 28.0), (88.0, 24.0), (80.0, 22.0)]


@pytest.mark.parametrize("angle", [0.0, 0.8])
def test_the_patch_with_the_features_is_chosen(angle: float) -> None:
    """The patch lies on the cluster of bumps, in sample coordinates, also in a turned frame."""
    plan = plan_reference(survey(surface(CLUSTER), angle), 5e-9, 64)
    u = (np.mean([c for _, c in CLUSTER]) / 128 - 0.5) * 20e-9
    v = (np.mean([r for r, _ in CLUSTER]) / 128 - 0.5) * 20e-9
    x = 100e-9 + math.cos(angle) * u - math.sin(angle) * v
    y = -50e-9 + math.sin(angle) * u + math.cos(angle) * v
    assert math.hypot(plan.centre_x_m - x, plan.centre_y_m - y) < 1.5e-9
    assert plan.confidence > 0.5
    assert (plan.width_m, plan.pixels, plan.angle_rad) == (5e-9, 64, angle)


def test_an_edge_or_a_lattice_loses_against_features() -> None:
    """A tall straight step and a lattice all over are steep, too, but fix no place."""
    z = surface(CLUSTER)
    y, x = np.mgrid[:128, :128].astype(np.float64)
    z += 2.3e-10 * np.tanh(x - 100.0)
    z += 2e-11 * (np.cos(2 * np.pi * x / 7) + np.cos(2 * np.pi * y / 7))
    top, left, found = best_patch(z[0], z[1], (40, 40), (1.6e-10, 1.6e-10))
    assert found.verdict == "same place"
    assert top <= 88 <= top + 40
    assert left <= 31 <= left + 40


def test_missing_lines_are_avoided() -> None:
    """No patch with missing lines is chosen while there is a whole one."""
    z = surface([*CLUSTER, (30.0, 90.0), (36.0, 97.0), (24.0, 84.0), (40.0, 84.0), (26.0, 99.0)])
    z[:, 70:] = np.nan
    top, _, found = best_patch(z[0], z[1], (32, 32), (1.6e-10, 1.6e-10))
    assert top + 32 <= 70
    assert found.verdict == "same place"


def test_a_flat_survey_gives_a_patch_that_says_it_cannot_be_found_again() -> None:
    """Where there is nothing, the plan has no confidence and a note."""
    plan = plan_reference(survey(surface([])), 0.0, 64)
    assert plan.confidence < 0.5
    assert plan.note
    assert math.isclose(plan.width_m, 5e-9)


def test_misuse_is_refused() -> None:
    """A patch larger than the frame, or a channel that is not there, is an error."""
    with pytest.raises(UsageError, match="does not fit"):
        plan_reference(survey(surface([])), 30e-9, 64)
    with pytest.raises(UsageError, match="no channel"):
        plan_reference(survey(surface([])), 5e-9, 64, channel="current")
