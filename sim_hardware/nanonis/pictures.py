"""Pictures: the data of a frame while it is taken, and its ``.sxm`` file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.files.nanonis_sxm import SxmChannel, SxmFile, write_sxm
from protocols.messages.recipes import Frame
from protocols.nanonis.conventions import FrameArea, channel_name, frame_arguments
from sim_hardware.nanonis import bias, files, lock_in, signals
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.situation import Activity

Pixels = npt.NDArray[np.float32]


@dataclass
class Picture:
    """One frame as it is being taken.  ``data``: by signal, (2, lines, pixels) in our order, NaN where not
    scanned."""

    recipe: Frame
    activity: Activity
    channels: tuple[int, ...]
    data: dict[int, Pixels]
    started: datetime
    line_time_s: tuple[float, float]
    job: str = ""
    """Measurement id, if it has one."""
    taken: int = 0
    path: str = ""


def collect(lab: Instrument, picture: Picture) -> None:
    """Take over the lines that were finished since the last time."""
    with lab.lock:
        lines = picture.activity.lines
        for line in lines[picture.taken : len(lines)]:
            row = line.rows[0]
            found = {channel.name: np.asarray(channel.values[0]) for channel in line.channels}
            for index in picture.channels:
                picture.data[index][:, row, :] = _pixels(lab, picture, index, row, found)
            picture.taken += 1


def _pixels(lab: Instrument, picture: Picture, index: int, row: int, found: dict[str, Any]) -> Any:
    """One line of one signal, forward and backward: (2, pixels)."""
    shape = (2, picture.recipe.pixels)
    if index == signals.CURRENT:
        measured = found.get("current")
        return np.zeros(shape) if measured is None else measured
    if index == signals.Z:
        return found["z"]
    if index in (signals.X, signals.Y):
        r = picture.recipe
        along = (np.arange(r.pixels) + 0.5) * r.width_m / r.pixels - r.width_m / 2
        across = (row + 0.5) * r.height_m / r.lines - r.height_m / 2
        cos, sin = math.cos(r.angle_rad), math.sin(r.angle_rad)
        at = (
            r.centre_x_m + along * cos - across * sin
            if index == signals.X
            else r.centre_y_m + along * sin + across * cos
        )
        return np.broadcast_to(at, shape)
    if signals.FIRST_DEMODULATOR <= index < signals.FIRST_DEMODULATOR + 2 * lock_in.DEMODULATORS:
        number, part = divmod(index - signals.FIRST_DEMODULATOR, 2)
        return lock_in.demodulated(lab, number + 1, part, found, shape)
    return np.full(shape, signals.value(lab, index))


def save(lab: Instrument, picture: Picture) -> Path:
    """Write the frame as it is."""
    collect(lab, picture)
    kept = lab.setting("Scan.Props")
    state = lab.world.state()
    path = files.next_path(lab, kept["series_name"], ".sxm")
    area = _area(picture.recipe)
    settings = {
        key: value
        for key, value in files.module_settings(lab, state).items()
        if key.partition(">")[0] in kept["modules"]
    }
    settings |= {
        "Scan>Scanfield": tuple(float(value) for value in frame_arguments(area).values()),
        "Scan>series name": kept["series_name"],
        "Scan>channels": ";".join(signals.NAMES[index] for index in picture.channels),
        "Scan>pixels/line": picture.recipe.pixels,
        "Scan>lines": picture.recipe.lines,
        "Scan>speed forw. (m/s)": area.width_m / picture.line_time_s[0],
        "Scan>speed backw. (m/s)": area.width_m / picture.line_time_s[1],
    }
    with lab.lock:
        channels = tuple(_channel(lab, picture, index) for index in picture.channels)
    write_sxm(
        path,
        SxmFile(
            channels=channels,
            area=area,
            upward=picture.recipe.upward,
            bias_v=float(bias.shown(lab, picture.recipe.bias_v)),
            started=picture.started,
            acquisition_s=sum(picture.line_time_s) * picture.taken,
            line_time_s=picture.line_time_s,
            controllers=(files.controller(lab, state),),
            comment=kept["comment"],
            scan_file=str(path),
            settings=settings,
        ),
    )
    picture.path = str(path)
    return path


def _area(of: Frame) -> FrameArea:
    return FrameArea(
        centre_x_m=of.centre_x_m,
        centre_y_m=of.centre_y_m,
        width_m=of.width_m,
        height_m=of.height_m,
        angle_rad=of.angle_rad,
    )


def _channel(lab: Instrument, picture: Picture, index: int) -> SxmChannel:
    label = channel_name(signals.NAMES[index])
    per_volt, offset = signals.calibration(lab, index)
    forward, backward = picture.data[index].copy()
    return SxmChannel(
        name=label.quantity,
        unit=label.unit,
        index=index,
        forward=forward,
        backward=backward,
        calibration=per_volt,
        offset=offset,
    )
