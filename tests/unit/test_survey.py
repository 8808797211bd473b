"""Recipes of frames and the verdict on a frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.scan_controller.quality import FrameQuality, check_frame
from actors.scan_controller.survey import SpeedLimit, duration_s, plan_reference_patch, plan_survey
from protocols.errors import UsageError
from protocols.messages.campaign import ImagingSection
from protocols.messages.records import FrameImage, Transform, WindowOpened

IMAGING = ImagingSection(bias_v=0.5, setpoint_a=5e-11, pixels=64, line_time_s=0.1)
SPEED = SpeedLimit(tip_speed_m_s=1e-6)


def window(width: float = 20e-9, height: float = 20e-9, angle: float = 0.3) -> WindowOpened:
    """A window in sample coordinates."""
    return WindowOpened(
        index=0,
        centre_x_m=5e-9,
        centre_y_m=-2e-9,
        width_m=width,
        height_m=height,
        angle_rad=angle,
        chosen_because="test",
    )


@given(width=st.floats(1e-9, 1e-6), ratio=st.floats(0.1, 4.0), line_time=st.floats(1e-3, 10.0))
def test_a_survey_covers_its_window_at_an_allowed_speed(width: float, ratio: float, line_time: float) -> None:
    """Sides and angle are the window's, pixels are square to rounding, and the tip keeps to its speed."""
    imaging = ImagingSection(bias_v=0.5, setpoint_a=5e-11, pixels=64, line_time_s=line_time)
    frame = plan_survey(window(width, width * ratio), imaging, SPEED)
    assert (frame.width_m, frame.height_m, frame.angle_rad) == (width, width * ratio, 0.3)
    assert abs(frame.lines - 64 * ratio) <= 1 or frame.lines == 2
    assert frame.width_m / frame.line_time_s <= SPEED.tip_speed_m_s * (1 + 1e-9)
    assert frame.line_time_s >= line_time
    assert frame.purpose == "survey"


def test_drift_is_met_in_the_middle_of_the_frame() -> None:
    """The piezo centre is the window's, carried forward by the drift to half of the frame's duration."""
    drift = Transform(offset_x_m=1e-9, velocity_x_m_s=2e-12, time_s=100.0)
    frame = plan_survey(window(), IMAGING, SPEED, drift, 200.0)
    middle = 200.0 + duration_s(frame) / 2
    expected = drift.to_piezo(5e-9, -2e-9, middle)
    assert np.allclose((frame.centre_x_m, frame.centre_y_m), expected, rtol=1e-12, atol=0)


def test_a_reference_patch_is_square_and_says_its_purpose() -> None:
    """Pixels, width and purpose are those asked for."""
    patch = plan_reference_patch((1e-9, 2e-9), 5e-9, 0.2, 32, IMAGING, SPEED, purpose="resume")
    assert (patch.frame.pixels, patch.frame.lines, patch.frame.width_m) == (32, 32, 5e-9)
    assert patch.frame.purpose == "resume"


@pytest.mark.parametrize("bad", [{"width": 0.0}, {"width": float("nan")}, {"height": -1e-9}])
def test_nonsense_is_refused(bad: dict[str, float]) -> None:
    """Sides that are not positive are refused by name."""
    with pytest.raises(UsageError, match=next(iter(bad))):
        plan_survey(window(**bad), IMAGING, SPEED)


def frame_images(z: np.ndarray, current: np.ndarray | None = None) -> tuple[FrameImage, ...]:
    """Images as a frame brings them."""
    current = np.full(z.shape, 5e-11) if current is None else current
    return (
        FrameImage(channel="z", unit="m", bias_v=0.5, values=z.astype(np.float32)),
        FrameImage(channel="current", unit="A", bias_v=0.5, values=current.astype(np.float32)),
    )


def surface(noise: float = 2e-12, seed: int = 0) -> np.ndarray:
    """Two terraces with bumps and a tilt, forward and backward, (2, 64, 64), m."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64] / 64.0
    z = 2.3e-10 * (y > 0.6) + 1e-9 * x - 5e-10 * y
    for _ in range(12):
        cy, cx = rng.uniform(0, 1, 2)
        z += 8e-11 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.002)
    return np.stack([z, z]) + noise * rng.normal(size=(2, 64, 64))


def verdict(z: np.ndarray, current: np.ndarray | None = None) -> FrameQuality:
    """Judge these images."""
    frame = plan_survey(window(), IMAGING, SPEED)
    return check_frame(frame_images(z, current), frame)


def test_a_terraced_surface_is_good() -> None:
    """Features, a tilt, and a terrace edge along the lines are no faults."""
    found = verdict(surface())
    assert found.verdict == "good", found.note
    assert found.note == ""


def test_a_flat_surface_is_good_but_said() -> None:
    """Nothing but noise of 2 pm is good, with a note that there is nothing to register."""
    rng = np.random.default_rng(0)
    found = verdict(2e-12 * rng.normal(size=(2, 64, 64)))
    assert found.verdict == "good"
    assert "flat" in found.note


def test_lost_lines_and_contact_are_bad() -> None:
    """A fifth of the lines without current, or with ten times too much, is named."""
    for value, said in ((1e-13, "surface lost"), (1e-9, "in contact")):
        current = np.full((2, 64, 64), 5e-11)
        current[:, 10:24] = value
        found = verdict(surface(), current)
        assert found.verdict == "bad"
        assert said in found.note


def test_streaks_missing_lines_and_crashes_are_bad() -> None:
    """Lines that leave both neighbours, NaN lines, and nanometre steps between lines are each named."""
    streaked = surface()
    streaked[:, 5:60:4] += 1e-9
    assert "streaked" in verdict(streaked).note
    missing = surface()
    missing[:, 40:] = np.nan
    assert "missing" in verdict(missing).note
    crashed = surface()
    crashed[:, 30:] += 20e-9
    assert "like a crash" in verdict(crashed).note


def test_directions_that_disagree_are_bad() -> None:
    """Rough forward and backward images of different places do not pass; a delay of two pixels does."""
    z = np.stack([surface(seed=1)[0], surface(seed=2)[1]]) * 1.0
    y, x = np.mgrid[0:64, 0:64] / 64.0
    z -= 1e-9 * x - 5e-10 * y + 2.3e-10 * (y > 0.6)
    assert "correlate" in verdict(z).note
    delayed = surface() - 1e-9 * x
    delayed[1] = np.roll(delayed[1], 2, axis=1)
    assert verdict(delayed).verdict == "good"


def test_a_frame_without_topography_is_bad() -> None:
    """Without a z image there is nothing to judge."""
    frame = plan_survey(window(), IMAGING, SPEED)
    assert check_frame((), frame).verdict == "bad"
