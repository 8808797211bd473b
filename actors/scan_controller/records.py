"""From a window to a frame's order, and from raster lines to the record of a frame."""

from __future__ import annotations

from actors.scan_controller.assembly import FrameAssembler, frame_taken
from actors.scan_controller.quality import check_frame
from actors.scan_controller.survey import SpeedLimit, duration_s, plan_reference_patch, plan_survey
from protocols.errors import PeerError
from protocols.messages.data import EndOfStream
from protocols.messages.recipes import BiasFrames, Frame, Recipe, ReferencePatch
from protocols.messages.records import FrameTaken, JobIssued, RunStarted, Transform, WindowOpened

MARGIN_S = 90.0
"""Wall seconds that a frame may wait for others, above twice its own duration."""


def survey_recipe(started: RunStarted, window: WindowOpened, transform: Transform, time_s: float) -> Frame:
    """The survey of a window, expected to begin at instrument ``time_s`` (s)."""
    return plan_survey(window, started.campaign.imaging, _speed(started), transform, time_s)


def patch_recipe(
    started: RunStarted,
    patch: tuple[float, float, float, float, int],
    purpose: str,
    transform: Transform,
    time_s: float,
) -> ReferencePatch:
    """A reference patch: (centre x, centre y, width (m), angle (rad), pixels) in sample coordinates."""
    x, y, width, angle, pixels = patch
    return plan_reference_patch(
        (x, y),
        width,
        angle,
        pixels,
        started.campaign.imaging,
        _speed(started),
        transform,
        time_s,
        purpose,
    )


def issue_frame(
    job_id: str, recipe: Recipe, transform: Transform, epoch: int, window: int, by: str = "campaign"
) -> JobIssued:
    """The record written before the frame is sent; the sample place is the frame's centre as planned."""
    frame = frame_of(recipe)
    x, y = transform.to_sample(frame.centre_x_m, frame.centre_y_m, transform.time_s)
    return JobIssued(
        job_id=job_id,
        recipe=recipe,
        epoch=epoch,
        window=window,
        sample_x_m=x,
        sample_y_m=y,
        transform=transform,
        by=by,
    )


def frame_of(recipe: Recipe) -> Frame:
    """The frame in a recipe.

    Raises:
        PeerError: it scans nothing.
    """
    match recipe:
        case Frame():
            return recipe
        case ReferencePatch() | BiasFrames():
            return recipe.frame
        case _:
            raise PeerError(f"a {type(recipe).__name__} scans no frame.")


def deadline_s(recipe: Recipe, time_scale: float) -> float:
    """Wall seconds after which a frame that has not ended is a fault."""
    images = len(recipe.biases_v) if isinstance(recipe, BiasFrames) else 1
    return MARGIN_S + 2.0 * images * duration_s(frame_of(recipe)) / time_scale


def finished_frame(issued: JobIssued, assembler: FrameAssembler, end: EndOfStream) -> FrameTaken:
    """The record of a finished frame with its quality verdict."""
    frame = frame_of(issued.recipe)
    quality = check_frame(assembler.images(), frame)
    return frame_taken(
        issued.job_id,
        issued.window,
        frame,
        assembler,
        issued.transform,
        (end.began_s, end.ended_s),
        (quality.verdict, quality.note),
    )


def _speed(started: RunStarted) -> SpeedLimit:
    return SpeedLimit(tip_speed_m_s=started.limits["tip_speed"])
