"""The drift of a run, rebuilt from its frames: what is compared with what, always with the same result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.drift_tracker.history import DriftHistory
from protocols.errors import UsageError
from protocols.messages.campaign import DriftSection
from protocols.messages.records import DriftMeasured, Fault, FrameImage, FrameTaken, StoredRecord, Transform

SETTINGS = DriftSection(every=5, max_velocity_m_s=1e-9, minimum_confidence=0.5)
VELOCITY = (15e-12, -8e-12)
"""Of the surface under the tip (m/s)."""
PIXELS = 48
DURATION_S = 40.0
SPOTS = np.random.default_rng(5).uniform(-40e-9, 40e-9, (260, 2))


def height(x: Any, y: Any) -> Any:
    """The surface: spots of 1.2 nm that repeat nowhere (m)."""
    near = np.exp(
        -((x[..., None] - SPOTS[:, 0]) ** 2 + (y[..., None] - SPOTS[:, 1]) ** 2) / (2 * (1.2e-9) ** 2)
    )
    return 8e-11 * near.sum(axis=-1)


@dataclass
class Laboratory:
    """Takes frames of a surface that drifts, each placed by the transform that is in force."""

    history: DriftHistory = field(default_factory=lambda: DriftHistory(SETTINGS))
    records: list[StoredRecord] = field(default_factory=list)
    time_s: float = 0.0
    broken: bool = False
    """Frames show noise alone."""

    def frame(self, job: str, purpose: str, window: int = 0, width_m: float = 20e-9) -> FrameTaken:
        """The next frame about sample (2, -1) nm, 100 s after the one before; taken in by the history."""
        transform = self.history.model.transform()
        middle = self.time_s + DURATION_S / 2
        x, y = transform.to_piezo(2e-9, -1e-9, middle)
        axis = ((np.arange(PIXELS) + 0.5) / PIXELS - 0.5) * width_m
        u, v = np.meshgrid(x + axis, y + axis)
        z = height(u - VELOCITY[0] * middle, v - VELOCITY[1] * middle)
        noise = np.random.default_rng(len(self.records)).normal(scale=2e-12, size=(2, PIXELS, PIXELS))
        image = np.stack([z, z]) * (0.0 if self.broken else 1.0) + noise
        frame = FrameTaken(
            job_id=job,
            window=window,
            purpose=purpose,
            images=(FrameImage(channel="z", unit="m", bias_v=0.5, values=image.astype(np.float32)),),
            centre_x_m=2e-9,
            centre_y_m=-1e-9,
            width_m=width_m,
            height_m=width_m,
            angle_rad=0.0,
            transform=transform,
            began_s=self.time_s,
            ended_s=self.time_s + DURATION_S,
        )
        self.time_s += 100.0
        self.add(frame)
        return frame

    def add(self, body: Any) -> None:
        """A record that the history takes in."""
        seq = len(self.records) + 1
        self.records.append(StoredRecord(seq=seq, key=f"k{seq}", actor="t", wall_s=0.0, body=body))
        self.history.take(self.records[-1:])

    def found(self, frame: FrameTaken) -> DriftMeasured:
        """What a frame has shown."""
        return self.history.measured(frame.job_id)


def whole_run() -> tuple[Laboratory, list[FrameTaken]]:
    """Survey, a resume before any reference, references, a resume, and the same in a second window; the
    frames that were compared with one."""
    lab = Laboratory()
    lab.frame("r/w00-survey/a1", "survey")
    compared = [lab.frame("r/resume-1/a1", "resume")]
    lab.frame("r/w00-ref-0000/a1", "reference", width_m=12e-9)
    compared += [lab.frame(f"r/w00-ref-{n:04d}/a1", "reference", width_m=12e-9) for n in (5, 10)]
    compared.append(lab.frame("r/resume-2/a1", "resume", width_m=12e-9))
    lab.frame("r/w01-survey/a1", "survey", 1)
    lab.frame("r/w01-ref-0000/a1", "reference", 1, width_m=12e-9)
    compared.append(lab.frame("r/w01-ref-0005/a1", "reference", 1, width_m=12e-9))
    return lab, compared


@pytest.fixture(scope="module")
def run() -> tuple[Laboratory, list[FrameTaken]]:
    """One whole run."""
    return whole_run()


def test_what_is_compared_with_what(run: tuple[Laboratory, list[FrameTaken]]) -> None:
    """Before there is a reference, a resume frame is compared with the survey; afterwards every patch of the
    window is compared with its first reference."""
    lab, compared = run
    found = [lab.found(f) for f in compared]
    assert [d.reference_job for d in found] == [
        "r/w00-survey/a1",
        *["r/w00-ref-0000/a1"] * 3,
        "r/w01-ref-0000/a1",
    ]
    assert [d.frame_job for d in found] == [f.job_id for f in compared]
    assert all(d.accepted for d in found), [d.note for d in found]


def test_the_drift_is_found_and_fed_forward(run: tuple[Laboratory, list[FrameTaken]]) -> None:
    """What the registrations say is the surface's drift: later shifts are smaller than the first, and the
    transform in force meets the surface to a quarter of a pixel."""
    lab, compared = run
    first, *_, last = (lab.found(f) for f in compared)
    drifted = math.hypot(*VELOCITY) * 100.0
    assert np.isclose(math.hypot(first.shift_x_m, first.shift_y_m), drifted, rtol=0.2, atol=0)
    assert math.hypot(last.shift_x_m, last.shift_y_m) < 0.1 * drifted
    anchored = next(f for f in lab.records if f.body.job_id == "r/w01-ref-0000/a1").body  # type: ignore[union-attr]
    middle = anchored.began_s + DURATION_S / 2
    x, y = anchored.transform.to_piezo(0.0, 0.0, middle)  # where sample (0, 0) was taken to be
    now = lab.history.model.transform().to_piezo(0.0, 0.0, lab.time_s)
    true = (x + VELOCITY[0] * (lab.time_s - middle), y + VELOCITY[1] * (lab.time_s - middle))
    assert math.hypot(now[0] - true[0], now[1] - true[1]) < 12e-9 / PIXELS / 4


def test_surveys_and_first_references_are_compared_with_nothing(
    run: tuple[Laboratory, list[FrameTaken]],
) -> None:
    """Asking what they have shown is an error that names the frame."""
    lab, _ = run
    for job in ("r/w00-survey/a1", "r/w00-ref-0000/a1", "r/w01-ref-0000/a1", "r/nobody/a1"):
        with pytest.raises(UsageError, match=job):
            lab.history.measured(job)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_made_anew_from_the_journal_it_says_the_same(
    run: tuple[Laboratory, list[FrameTaken]], data: st.DataObject
) -> None:
    """However the frames are divided, and told again in part, every DriftMeasured is the same and so is the
    transform in force."""
    lab, compared = run
    cut = data.draw(st.integers(0, len(lab.records)))
    back = data.draw(st.integers(0, cut))
    anew = DriftHistory(SETTINGS)
    anew.take(lab.records[:cut])
    anew.take(lab.records[back:])
    assert [anew.measured(f.job_id) for f in compared] == [lab.found(f) for f in compared]
    assert anew.model.transform() == lab.history.model.transform()
    assert anew.last_seq == lab.history.last_seq


def test_the_first_reference_anchors() -> None:
    """Sample coordinates are those of the first reference from then on: at its time the offset is exactly the
    one that it was taken with, whatever the frames before have said."""
    lab = Laboratory()
    lab.frame("r/w00-survey/a1", "survey")
    lab.frame("r/resume-1/a1", "resume")
    before = lab.history.model.transform()
    reference = lab.frame("r/w00-ref-0000/a1", "reference", width_m=12e-9)
    middle = reference.began_s + DURATION_S / 2
    after = lab.history.model.transform()
    assert after.time_s == middle
    assert np.allclose(after.to_piezo(0, 0, middle), before.to_piezo(0, 0, middle), rtol=0, atol=1e-15)
    assert (after.velocity_x_m_s, after.velocity_y_m_s) == (before.velocity_x_m_s, before.velocity_y_m_s)
    assert lab.history.reference(0).job_id == reference.job_id


def test_an_unreadable_frame_changes_nothing_in_force() -> None:
    """Noise alone cannot tell: not accepted, it says so, and the transform stays."""
    lab = Laboratory()
    lab.frame("r/w00-survey/a1", "survey")
    lab.frame("r/w00-ref-0000/a1", "reference", width_m=12e-9)
    lab.frame("r/w00-ref-0005/a1", "reference", width_m=12e-9)
    before = lab.history.model.transform()
    lab.broken = True
    found = lab.found(lab.frame("r/resume-1/a1", "resume", width_m=12e-9))
    assert not found.accepted
    assert "cannot tell" in found.note
    assert found.transform == before


def test_other_records_and_frames_of_no_window_are_left_out() -> None:
    """An operator's frame outside all windows is compared with nothing, a second survey replaces none, and
    other records only move the number on."""
    lab = Laboratory()
    with pytest.raises(UsageError, match="window 0 has no frame"):
        lab.history.reference(0)
    first = lab.frame("r/w00-survey/a1", "survey")
    lab.frame("r/operator-0001/a1", "survey")
    stray = lab.frame("r/resume-9/a1", "resume", window=-1)
    lab.add(Fault(actor="a", what="died", action="started again"))
    assert lab.history.reference(0) == first
    assert lab.history.last_seq == 4
    with pytest.raises(UsageError, match="resume-9"):
        lab.found(stray)
    with pytest.raises(UsageError, match="window -1 has no frame"):
        lab.history.reference(-1)


def test_a_frame_without_a_topograph_is_named() -> None:
    """What cannot be registered at all is an error, not a guess."""
    lab = Laboratory()
    lab.frame("r/w00-survey/a1", "survey")
    image = FrameImage(channel="current", unit="A", bias_v=0.5, values=np.zeros((2, 8, 8), dtype=np.float32))
    blind = FrameTaken(
        job_id="r/resume-1/a1",
        window=0,
        purpose="resume",
        images=(image,),
        centre_x_m=0.0,
        centre_y_m=0.0,
        width_m=20e-9,
        height_m=20e-9,
        angle_rad=0.0,
        transform=Transform(),
        began_s=100.0,
        ended_s=140.0,
    )
    with pytest.raises(UsageError, match="resume-1/a1 has no topograph"):
        lab.add(blind)
