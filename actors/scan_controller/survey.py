"""Recipes of frames: the survey of a window, and a reference patch.

Targets are sample coordinates; recipes are piezo coordinates at the time the frame will be under way.  The
gateway's limits refuse; here the line time is only ever made longer, so that the tip keeps to its speed.
"""

from __future__ import annotations

import math

import msgspec

from protocols.errors import UsageError
from protocols.messages.campaign import ImagingSection
from protocols.messages.recipes import Frame, ReferencePatch
from protocols.messages.records import Transform, WindowOpened

MINIMUM_LINES = 2


class SpeedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway allows the tip while it scans."""

    tip_speed_m_s: float
    """Largest lateral speed (m/s)."""
    share: float = 0.9
    """Share of it that a survey uses."""


def plan_survey(
    window: WindowOpened,
    imaging: ImagingSection,
    speed: SpeedLimit,
    transform: Transform | None = None,
    time_s: float = 0.0,
) -> Frame:
    """The survey frame of a window.

    Args:
        window: In sample coordinates.
        imaging: Bias, setpoint, pixels and least line time.
        speed: The gateway's limit.
        transform: Drift in force; None: none.
        time_s: Instrument time at which the frame starts; the frame is centred for its middle, so that half
            of the drift during the frame lies on either side.

    Raises:
        UsageError: sizes, pixels or times that are not positive.
    """
    return _plan(
        imaging,
        speed,
        (window.centre_x_m, window.centre_y_m),
        (window.width_m, window.height_m),
        window.angle_rad,
        imaging.pixels,
        "survey",
        transform,
        time_s,
    )


def plan_reference_patch(
    centre_m: tuple[float, float],
    width_m: float,
    angle_rad: float,
    pixels: int,
    imaging: ImagingSection,
    speed: SpeedLimit,
    transform: Transform | None = None,
    time_s: float = 0.0,
    purpose: str = "reference",
) -> ReferencePatch:
    """A square patch about ``centre_m`` (x, y in sample coordinates) for registration.

    ``purpose`` is "reference", or "resume" after an engage.

    Raises:
        UsageError: sizes, pixels or times that are not positive.
    """
    sides = (width_m, width_m)
    frame = _plan(imaging, speed, centre_m, sides, angle_rad, pixels, purpose, transform, time_s)
    return ReferencePatch(frame=frame)


def duration_s(frame: Frame) -> float:
    """How long a frame takes: every line forward and backward (s), without settling."""
    return 2.0 * frame.lines * frame.line_time_s


def _plan(
    imaging: ImagingSection,
    speed: SpeedLimit,
    centre: tuple[float, float],
    sides: tuple[float, float],
    angle_rad: float,
    pixels: int,
    purpose: str,
    transform: Transform | None,
    time_s: float,
) -> Frame:
    width, height = sides
    values = {"width": width, "height": height, "imaging.line_time": imaging.line_time_s}
    values["tip speed limit"] = speed.tip_speed_m_s * speed.share
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{name} of a frame must be positive, got {value}.")
    if pixels < MINIMUM_LINES:
        raise UsageError(f"a frame needs at least {MINIMUM_LINES} pixels a line, got {pixels}.")
    lines = max(MINIMUM_LINES, round(pixels * height / width))
    line_time = max(imaging.line_time_s, width / (speed.tip_speed_m_s * speed.share))
    drift = transform if transform is not None else Transform(time_s=time_s)
    x, y = drift.to_piezo(centre[0], centre[1], time_s + lines * line_time)
    return Frame(
        centre_x_m=x,
        centre_y_m=y,
        width_m=width,
        height_m=height,
        angle_rad=angle_rad,
        pixels=pixels,
        lines=lines,
        bias_v=imaging.bias_v,
        setpoint_a=imaging.setpoint_a,
        line_time_s=line_time,
        purpose=purpose,
    )
