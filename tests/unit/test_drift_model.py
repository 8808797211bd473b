"""The drift model: velocity feed-forward, its gate, its uncertainty, and when a reference frame is due."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.analysis.registration import Registration
from actors.drift_tracker.model import VELOCITY_WALK, DriftModel, Placed
from protocols.errors import UsageError
from protocols.messages.campaign import DriftSection
from protocols.messages.records import FrameTaken, Transform

SETTINGS = DriftSection(every=10, max_velocity_m_s=1e-10, minimum_confidence=0.5)
VELOCITY = (20e-12, -12e-12)


def placed(time_s: float, transform: Transform, job: str = "r/f0000/a1", angle: float = 0.0) -> Placed:
    """A frame about sample (0, 0) at ``time_s``, placed by ``transform``."""
    x, y = transform.to_piezo(0.0, 0.0, time_s)
    return Placed(job_id=job, centre_x_m=x, centre_y_m=y, angle_rad=angle, time_s=time_s, transform=transform)


def told(x: float, y: float, confidence: float = 0.9, sigma: float = 3e-12) -> Registration:
    """A registration that knows."""
    return Registration(
        shift_x_m=x,
        shift_y_m=y,
        confidence=confidence,
        peak_sigma=20.0,
        verdict="same place",
        note="seen",
        uncertainty_m=sigma,
    )


def untold() -> Registration:
    """A registration that cannot tell."""
    return Registration(
        shift_x_m=5e-9,
        shift_y_m=5e-9,
        confidence=0.1,
        peak_sigma=3.0,
        verdict="cannot tell",
        note="a lattice",
    )


def residual(model: DriftModel, frame: Placed, reference: Placed, angle: float = 0.0) -> tuple[float, float]:
    """What a perfect registration would find under a constant drift of VELOCITY, in the frame's axes."""
    dt = frame.time_s - reference.time_s
    x = VELOCITY[0] * dt - (frame.centre_x_m - reference.centre_x_m)
    y = VELOCITY[1] * dt - (frame.centre_y_m - reference.centre_y_m)
    c, s = math.cos(-angle), math.sin(-angle)
    return c * x - s * y, s * x + c * y


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.1])
def test_a_constant_drift_is_fed_forward(angle: float) -> None:
    """After a few frames the transform follows a constant drift to a few pm, whatever the frame's angle."""
    rng = np.random.default_rng(1)
    model = DriftModel(SETTINGS)
    reference = placed(1000.0, Transform(time_s=1000.0), angle=angle)
    model.anchor(reference)
    for k in range(1, 7):
        t = 1000.0 + 120.0 * k
        frame = placed(t, model.transform(), f"r/f{k:04d}/a1", angle)
        x, y = residual(model, frame, reference, angle)
        noise = rng.normal(scale=3e-12, size=2)
        record = model.observe(told(x + noise[0], y + noise[1]), frame, reference)
        assert record.accepted, record.note
    later = 1000.0 + 120.0 * 6 + 60.0
    found = model.transform().to_piezo(0.0, 0.0, later)
    assert np.allclose(found, np.multiply(VELOCITY, later - 1000.0), atol=1e-11, rtol=0)
    assert model.transform() == record.transform
    assert model.accepted == 6


def test_the_uncertainty_is_honest() -> None:
    """Errors of the predicted offset, in units of the predicted uncertainty, have a scatter near one.

    The drift's velocity walks at random by the share that the model allows for.
    """
    pulls = []
    walk = VELOCITY_WALK * SETTINGS.max_velocity_m_s / 60.0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        steps = np.concatenate([rng.normal(scale=1e-11, size=(1, 2)), rng.normal(scale=walk, size=(240, 2))])
        path = np.concatenate([np.zeros((1, 2)), np.cumsum(np.cumsum(steps, 0), 0)])
        model = DriftModel(SETTINGS)
        reference = placed(0.0, Transform())
        model.anchor(reference)
        for k in (60, 120, 180):
            frame = placed(float(k), model.transform(), f"f{k}")
            now = path[k] - (frame.centre_x_m, frame.centre_y_m)
            model.observe(told(*(now + rng.normal(scale=5e-12, size=2)), sigma=5e-12), frame, reference)
        found = np.array(model.transform().to_piezo(0.0, 0.0, 240.0))
        pulls.extend((found - path[240]) / model.uncertainty_m(240.0))
    assert 0.8 < float(np.std(pulls)) < 1.2


def test_cannot_tell_changes_nothing_and_is_counted() -> None:
    """A registration that cannot tell, or with too little confidence, leaves the transform as it was."""
    model = DriftModel(SETTINGS, Transform(offset_x_m=1e-9, velocity_y_m_s=2e-12, time_s=5.0))
    before = model.transform()
    reference = placed(5.0, before)
    for registration in (untold(), told(1e-10, 0.0, confidence=0.4)):
        record = model.observe(registration, placed(65.0, before, "f"), reference)
        assert not record.accepted
        assert record.note.startswith("cannot tell")
        assert record.transform == before == model.transform()
    assert (model.untold, model.accepted, model.implausible) == (2, 0, 0)


def test_an_implausible_velocity_is_refused_and_said() -> None:
    """A shift that needs more than the largest velocity is refused with both figures and counted."""
    model = DriftModel(SETTINGS)
    reference = placed(0.0, Transform())
    model.anchor(reference)
    record = model.observe(told(20e-9, 0.0), placed(60.0, Transform(), "f"), reference)
    assert not record.accepted
    assert "implausible" in record.note and "nm/s" in record.note
    assert model.implausible == 1
    assert model.transform().velocity_x_m_s == 0.0


def test_a_jump_is_taken_over_after_it_is_confirmed() -> None:
    """Three implausible shifts in a row that agree with one another move the offset, not the velocity."""
    model = DriftModel(SETTINGS)
    reference = placed(0.0, Transform())
    model.anchor(reference)
    outcomes = []
    for k in range(1, 4):
        frame = placed(10.0 * k, model.transform(), f"f{k}")
        outcomes.append(model.observe(told(20e-9, -5e-9), frame, reference))
    assert [o.accepted for o in outcomes] == [False, False, True]
    assert "jump" in outcomes[-1].note
    assert np.allclose(model.transform().to_piezo(0.0, 0.0, 30.0), (20e-9, -5e-9), rtol=1e-9, atol=0)
    assert model.transform().velocity_x_m_s == 0.0
    assert model.jumps == 1


def test_shifts_that_disagree_are_never_a_jump() -> None:
    """Implausible shifts that contradict one another stay refused, however many there are."""
    model = DriftModel(SETTINGS)
    reference = placed(0.0, Transform())
    model.anchor(reference)
    for k in range(1, 9):
        x = 20e-9 * (-1) ** k
        assert not model.observe(told(x, 0.0), placed(10.0 * k, Transform(), f"f{k}"), reference).accepted
    assert model.transform().offset_x_m == 0.0


@given(
    x=st.floats(-5e-8, 5e-8),
    y=st.floats(-5e-8, 5e-8),
    dt=st.floats(1.0, 5000.0),
    confidence=st.floats(0.0, 1.0),
    sigma=st.floats(1e-13, 1e-10),
)
def test_the_velocity_stays_plausible(x: float, y: float, dt: float, confidence: float, sigma: float) -> None:
    """Whatever is observed, the velocity fed forward is plausible and a refusal changes nothing."""
    model = DriftModel(SETTINGS)
    reference = placed(0.0, Transform())
    before = model.anchor(reference)
    record = model.observe(told(x, y, confidence, sigma), placed(dt, before, "f"), reference)
    after = model.transform()
    assert math.hypot(after.velocity_x_m_s, after.velocity_y_m_s) <= SETTINGS.max_velocity_m_s * 1.000001
    assert model.uncertainty_m(dt) > 0
    if not record.accepted:
        assert after == before


def test_the_expected_shift_is_what_registration_should_find() -> None:
    """The model's expectation, in the frame's own axes, is the residual of a drift it knows."""
    known = Transform(velocity_x_m_s=VELOCITY[0], velocity_y_m_s=VELOCITY[1], time_s=0.0)
    model = DriftModel(SETTINGS, known)
    reference = placed(0.0, known, angle=0.5)
    still = Placed(job_id="f", centre_x_m=0.0, centre_y_m=0.0, angle_rad=0.5, time_s=100.0, transform=known)
    x, y, sigma = model.expected_shift(still, reference)
    assert np.allclose((x, y), residual(model, still, reference, 0.5), rtol=1e-9, atol=0)
    assert sigma > 0


def test_when_a_reference_frame_is_due() -> None:
    """Every so many spectra, or earlier when the position has become uncertain; never with every = 0."""
    model = DriftModel(SETTINGS, velocity_sigma_m_s=1e-12)
    model.anchor(placed(0.0, Transform()))
    assert model.due(3, 10.0, 5e-9) == ""
    assert "10 spectra" in model.due(10, 10.0, 5e-9)
    assert "uncertain" in model.due(3, 3600.0, 5e-9)
    assert model.due(0, 3600.0, 5e-9) == ""
    never = DriftModel(DriftSection(every=0))
    assert never.due(100, 1e6, 1e-9) == ""


def test_a_frame_record_is_placed_in_piezo_coordinates() -> None:
    """The journal's frame, in sample coordinates, is placed where the piezo was in its middle."""
    transform = Transform(offset_x_m=2e-9, velocity_x_m_s=1e-12, time_s=100.0)
    frame = FrameTaken(
        job_id="run/f0001/a1",
        window=0,
        purpose="reference",
        images=(),
        centre_x_m=10e-9,
        centre_y_m=-3e-9,
        width_m=5e-9,
        height_m=5e-9,
        angle_rad=0.1,
        transform=transform,
        began_s=200.0,
        ended_s=300.0,
    )
    place = Placed.of(frame)
    assert np.allclose((place.centre_x_m, place.centre_y_m), (12.15e-9, -3e-9), rtol=1e-12, atol=0)
    assert place.time_s == 250.0


def test_misuse_is_refused() -> None:
    """Frames at different angles and settings without a velocity are errors, not guesses."""
    model = DriftModel(SETTINGS)
    with pytest.raises(UsageError, match="cannot be compared"):
        model.observe(told(0, 0), placed(1.0, Transform(), angle=0.3), placed(0.0, Transform()))
    with pytest.raises(UsageError, match="max_velocity"):
        DriftModel(DriftSection(max_velocity_m_s=0.0))
