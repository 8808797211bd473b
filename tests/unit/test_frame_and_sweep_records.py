"""From a decision or a window to an order, and from its data to a record: places, times and verdicts."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import SPECTRUM, campaign

from actors.analysis.scalarizers import scalar_of
from actors.scan_controller import records as frames
from actors.scan_controller.assembly import FrameAssembler
from actors.spectroscopy_acquirer import measurement as sweeps
from protocols.errors import PeerError
from protocols.messages.data import Channel, Chunk, EndOfStream, FrameLines, SweepData
from protocols.messages.jobs import JobState
from protocols.messages.recipes import BiasFrames, Frame, Move, ReferencePatch, Sweep
from protocols.messages.records import JobIssued, RunStarted, Transform, WindowOpened

RAIL_A = 1e-8
JOB = "r/d0003/a1"
BIAS = np.linspace(SPECTRUM.start_v, SPECTRUM.stop_v, SPECTRUM.points)

places = st.floats(-1e-7, 1e-7)
seconds = st.floats(0.0, 1e5)
transforms = st.builds(
    Transform,
    offset_x_m=places,
    offset_y_m=places,
    velocity_x_m_s=st.floats(-1e-10, 1e-10),
    velocity_y_m_s=st.floats(-1e-10, 1e-10),
    time_s=seconds,
)


def started() -> RunStarted:
    """A run on a microscope whose tip goes at 1 um/s."""
    return RunStarted(
        run="r",
        campaign=campaign(),
        campaign_text="",
        seed=1,
        versions={},
        limits={"tip_speed": 1e-6},
        simulated=True,
        time_scale=20.0,
    )


def order(place: tuple[float, float] = (1e-9, 2e-9), **changes: Any) -> JobIssued:
    """An order for a sweep."""
    fields: dict[str, Any] = {
        "transform": Transform(),
        "time_s": 0.0,
        "epoch": 4,
        "window": 2,
        "decision": "d0003",
        "by": "campaign",
        **changes,
    }
    return sweeps.issue_sweep(JOB, place, campaign(), **fields)


def sweep_data(**changes: Any) -> SweepData:
    """A good spectrum: a smooth current that reaches the setpoint, and its derivative."""
    noise = np.random.default_rng(3)
    conductance = 2e-10 * (1 + 2 * np.exp(-((BIAS - 0.13) ** 2) / 0.004))
    current = np.cumsum(conductance) * (BIAS[1] - BIAS[0])
    current = current - np.interp(0.0, BIAS, current)
    channels = tuple(
        Channel(name=n, unit="A", values=np.stack([v, v])[None] + s * noise.normal(size=(1, 2, BIAS.size)))
        for n, v, s in (("current", current, 1e-13), ("lockin_x", conductance * 0.005, 1e-15))
    )
    fields: dict[str, Any] = {
        "bias_v": BIAS,
        "channels": channels,
        "x_m": 1e-9,
        "y_m": 2e-9,
        "z_m": 0.0,
        "time_s": 100.0,
        **changes,
    }
    return SweepData(**fields)


def chunk(body: Any, seq: int = 0) -> Chunk:
    """A piece of the job's data."""
    return Chunk(job_id=JOB, seq=seq, body=body)


END = EndOfStream(
    job_id=JOB,
    last_seq=0,
    state=JobState.FINISHED,
    began_s=99.0,
    ended_s=102.0,
    travel_s=0.4,
    settle_s=0.1,
)


# Sweeps


@settings(max_examples=40, deadline=None)
@given(x=places, y=places, transform=transforms, time_s=seconds)
def test_a_sweep_goes_where_the_drift_will_have_carried_its_place(
    x: float, y: float, transform: Transform, time_s: float
) -> None:
    """The recipe has piezo coordinates for the time at which it is expected to begin; what led there is kept
    with it."""
    issued = order((x, y), transform=transform, time_s=time_s)
    assert isinstance(issued.recipe, Sweep)
    assert (issued.recipe.x_m, issued.recipe.y_m) == transform.to_piezo(x, y, time_s)
    assert issued.recipe.spectrum == campaign().spectrum
    assert (issued.sample_x_m, issued.sample_y_m) == (x, y)
    assert (issued.job_id, issued.epoch, issued.window, issued.decision) == (JOB, 4, 2, "d0003")
    assert issued.transform == transform


@settings(max_examples=40, deadline=None)
@given(x=places, y=places, transform=transforms, planned_s=seconds, late_s=st.floats(-100.0, 1000.0))
def test_a_spectrum_is_recorded_where_it_was_really_taken(
    x: float, y: float, transform: Transform, planned_s: float, late_s: float
) -> None:
    """It began later than expected: the drift of that time is in its place in the sample."""
    issued = order((x, y), transform=transform, time_s=planned_s)
    assert isinstance(issued.recipe, Sweep)
    data = sweep_data(x_m=issued.recipe.x_m, y_m=issued.recipe.y_m, time_s=planned_s + late_s)
    taken = sweeps.spectrum_taken(issued, END, [chunk(data)], campaign(), RAIL_A)
    expected = (x - transform.velocity_x_m_s * late_s, y - transform.velocity_y_m_s * late_s)
    # Offsets of a micrometre or so cancel: a femtometre is what is left of the digits.
    assert np.allclose((taken.sample_x_m, taken.sample_y_m), expected, rtol=0, atol=1e-15)
    assert (taken.piezo_x_m, taken.piezo_y_m) == (issued.recipe.x_m, issued.recipe.y_m)


def test_a_good_spectrum_counts_with_its_scalar() -> None:
    """Scalar, verdict, times and where it belongs are in the record."""
    data = sweep_data()
    taken = sweeps.spectrum_taken(order(), END, [chunk(data)], campaign(), RAIL_A)
    assert taken.valid
    assert taken.quality == ()
    assert taken.scalar == scalar_of(data, campaign().scalar).value > 0
    assert (taken.job_id, taken.decision, taken.window) == (JOB, "d0003", 2)
    assert (taken.began_s, taken.ended_s, taken.travel_s, taken.settle_s) == (99.0, 102.0, 0.4, 0.1)
    assert taken.recipe == campaign().spectrum


def test_a_saturated_spectrum_does_not_count() -> None:
    """It is kept with what is wrong with it."""
    railed = sweep_data()
    current = np.clip(np.asarray(railed.channels[0].values) * 200, -RAIL_A, RAIL_A)
    railed = sweep_data(channels=(Channel(name="current", unit="A", values=current), railed.channels[1]))
    taken = sweeps.spectrum_taken(order(), END, [chunk(railed)], campaign(), RAIL_A)
    assert not taken.valid
    assert taken.quality == ("saturated",)
    higher = sweeps.spectrum_taken(order(), END, [chunk(railed)], campaign(), 100 * RAIL_A)
    assert "saturated" not in higher.quality


def test_a_spectrum_without_a_scalar_does_not_count_and_says_why() -> None:
    """The sweep was good, and gives no number for what the campaign seeks."""
    other = msgspec.structs.replace(
        campaign(), scalar=msgspec.structs.replace(campaign().scalar, channel="lockin_y")
    )
    taken = sweeps.spectrum_taken(order(), END, [chunk(sweep_data())], other, RAIL_A)
    assert not taken.valid
    assert math.isnan(taken.scalar)
    (failed,) = taken.quality
    assert failed.startswith("no scalar: ")
    assert "lockin_y" in failed


@pytest.mark.parametrize("count", [0, 2])
def test_not_exactly_one_spectrum_is_the_gateways_fault(count: int) -> None:
    """None or two: an error that counts them."""
    with pytest.raises(PeerError, match=f"gave {count} pieces, {count} of them spectra"):
        sweeps.spectrum_taken(
            order(), END, [chunk(sweep_data(), k) for k in range(count)], campaign(), RAIL_A
        )


def test_data_of_another_kind_are_the_gateways_fault() -> None:
    """Lines of a frame for a sweep, or a spectrum for a move."""
    lines = FrameLines(rows=(0,), channels=(), time_s=0.0)
    with pytest.raises(PeerError, match="gave 1 pieces, 0 of them spectra"):
        sweeps.spectrum_taken(order(), END, [chunk(lines)], campaign(), RAIL_A)
    with pytest.raises(PeerError, match=r"\(Move\)"):
        moved = msgspec.structs.replace(order(), recipe=Move(x_m=0.0, y_m=0.0))
        sweeps.spectrum_taken(moved, END, [chunk(sweep_data())], campaign(), RAIL_A)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.01, 1000.0))
def test_a_deadline_is_beyond_the_duration_at_every_time_scale(scale: float) -> None:
    """Sweeps and frames have three and two times their own wall duration, and a margin for those before."""
    wall_s = sweeps.nominal_s(SPECTRUM) / scale
    assert sweeps.nominal_s(SPECTRUM) == SPECTRUM.settle_s + 2 * SPECTRUM.points * SPECTRUM.dwell_s
    assert np.isclose(sweeps.deadline_s(SPECTRUM, scale), sweeps.MARGIN_S + 3 * wall_s, rtol=1e-12, atol=0)
    frame = survey()
    lasting_s = 2 * frame.lines * frame.line_time_s / scale
    assert np.isclose(frames.deadline_s(frame, scale), frames.MARGIN_S + 2 * lasting_s, rtol=1e-12, atol=0)
    three = BiasFrames(frame=frame, biases_v=(0.1, 0.2, 0.3))
    assert np.isclose(frames.deadline_s(three, scale), frames.MARGIN_S + 6 * lasting_s, rtol=1e-12, atol=0)


# Frames


def window(**changes: Any) -> WindowOpened:
    """A window that lies somewhere, turned."""
    fields: dict[str, Any] = {
        "index": 1,
        "centre_x_m": 5e-9,
        "centre_y_m": -3e-9,
        "width_m": 40e-9,
        "height_m": 40e-9,
        "angle_rad": 0.3,
        "chosen_because": "first",
        **changes,
    }
    return WindowOpened(**fields)


def survey(transform: Transform | None = None, time_s: float = 0.0) -> Frame:
    """Its survey."""
    return frames.survey_recipe(started(), window(), transform or Transform(), time_s)


def lines(frame: Frame, rows: range, seed: int = 0) -> FrameLines:
    """Lines of a surface with one bump, forward and backward."""
    y, x = np.mgrid[: frame.lines, : frame.pixels] / frame.pixels - 0.5
    z = 1e-10 * np.exp(-((x - 0.1) ** 2 + (y + 0.2) ** 2) / 0.02)
    noise = np.random.default_rng(seed).normal(scale=1e-13, size=(len(rows), 2, frame.pixels))
    values = np.stack([z, z], axis=1)[rows.start : rows.stop] + noise
    current = np.full_like(values, frame.setpoint_a)
    channels = (
        Channel(name="z", unit="m", values=values.astype(np.float32)),
        Channel(name="current", unit="A", values=current.astype(np.float32)),
    )
    return FrameLines(rows=tuple(rows), channels=channels, time_s=1.0)


@settings(max_examples=40, deadline=None)
@given(transform=transforms, time_s=seconds)
def test_a_frame_lies_where_its_window_will_be_in_its_middle(transform: Transform, time_s: float) -> None:
    """The centre of survey and patch in piezo coordinates is that of the window (or patch) half of the
    frame's duration after it begins, and the record of the frame says the window's own centre again."""
    for recipe, centre in (
        (survey(transform, time_s), (5e-9, -3e-9)),
        (
            frames.patch_recipe(started(), (1e-9, 2e-9, 8e-9, 0.3, 32), "resume", transform, time_s),
            (1e-9, 2e-9),
        ),
    ):
        frame = frames.frame_of(recipe)
        half_s = frame.lines * frame.line_time_s
        issued = frames.issue_frame("r/w01-survey/a1", recipe, transform, 4, 1)
        assembler = FrameAssembler(frame)
        assembler.add(lines(frame, range(frame.lines)))
        end = EndOfStream(
            job_id=issued.job_id,
            last_seq=0,
            state=JobState.FINISHED,
            began_s=time_s,
            ended_s=time_s + 2 * half_s,
        )
        taken = frames.finished_frame(issued, assembler, end)
        assert np.allclose((taken.centre_x_m, taken.centre_y_m), centre, rtol=0, atol=1e-15)
        assert (taken.began_s, taken.ended_s, taken.window) == (time_s, end.ended_s, 1)
        assert (taken.width_m, taken.angle_rad, taken.purpose) == (frame.width_m, 0.3, frame.purpose)
        assert taken.transform == transform


def test_the_tip_keeps_to_its_speed() -> None:
    """A campaign's line time holds where the tip can follow; a wide window is scanned more slowly."""
    assert survey().line_time_s == campaign().imaging.line_time_s
    wide = frames.survey_recipe(started(), window(width_m=1e-6, height_m=1e-6), Transform(), 0.0)
    assert wide.width_m / wide.line_time_s < started().limits["tip_speed"]


def test_a_patch_says_what_it_is_for() -> None:
    """Size, pixels, angle and purpose as asked; the campaign's imaging conditions."""
    patch = frames.patch_recipe(started(), (1e-9, 2e-9, 8e-9, 0.3, 32), "reference", Transform(), 0.0)
    assert isinstance(patch, ReferencePatch)
    frame = patch.frame
    assert (frame.width_m, frame.height_m, frame.pixels, frame.lines) == (8e-9, 8e-9, 32, 32)
    assert (frame.purpose, frame.bias_v, frame.setpoint_a) == ("reference", 0.5, 1e-10)


def test_a_frame_is_found_in_every_recipe_that_scans() -> None:
    """And in no other."""
    frame = survey()
    assert frames.frame_of(frame) is frame
    assert frames.frame_of(ReferencePatch(frame=frame)) is frame
    assert frames.frame_of(BiasFrames(frame=frame, biases_v=(0.1,))) is frame
    with pytest.raises(PeerError, match="a Move scans no frame"):
        frames.frame_of(Move(x_m=0.0, y_m=0.0))


@pytest.mark.parametrize(("missing", "verdict"), [(0, "good"), (1, "good"), (15, "bad")])
def test_a_finished_frame_carries_its_verdict(missing: int, verdict: str) -> None:
    """A whole frame is good, a line lost is borne, half of it is not; what is missing is NaN."""
    frame = survey()
    issued = frames.issue_frame("r/w01-survey/a1", frame, Transform(), 4, 1, "operator")
    assembler = FrameAssembler(frame)
    assembler.add(lines(frame, range(missing, frame.lines)))
    end = EndOfStream(job_id=issued.job_id, last_seq=0, state=JobState.FINISHED, began_s=0.0, ended_s=9.0)
    taken = frames.finished_frame(issued, assembler, end)
    assert taken.quality == verdict
    assert ("missing" in taken.quality_note) == (verdict == "bad")
    z = next(i for i in taken.images if i.channel == "z")
    assert z.values.shape == (2, frame.lines, frame.pixels)
    assert int(np.isnan(np.asarray(z.values)[0]).all(axis=1).sum()) == missing
    assert (issued.by, issued.window, issued.epoch) == ("operator", 1, 4)
