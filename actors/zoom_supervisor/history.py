"""The search over scales, rebuilt from the journal: finished windows in, the next instruction out."""

from __future__ import annotations

import numpy as np

from actors.analysis.patches import RASTER
from actors.journal.points import PointLog
from actors.journal.window_candidates import window_candidates
from actors.zoom_supervisor.search import Instruction, OpenWindow, ZoomSearch
from actors.zoom_supervisor.windows import MeasuredPoint, WindowResult
from protocols.messages.records import (
    PredictedMap,
    RunStarted,
    WindowClosed,
    WindowOpened,
)


def search_so_far(points: PointLog) -> tuple[ZoomSearch, Instruction]:
    """The search with every closed window of the run fed to it, and what it wants next.

    Args:
        points: of all windows, read to the end of the journal.

    An instruction to open a window may be carried out already: compare its index with the journal.
    """
    reader = points.reader
    started = reader.started()
    search = ZoomSearch(started.campaign.zoom, started.seed)
    instruction: Instruction = search.start()
    for closed in sorted(reader.bodies(WindowClosed), key=lambda w: w.index):
        instruction = search.finished(window_result(points, started, closed.index))
    return search, instruction


def window_result(points: PointLog, started: RunStarted, window: int) -> WindowResult:
    """What a window has shown: its points, and the map that was predicted when it closed."""
    reader, measured = points.reader, measured_points(points, window)
    record = reader.get(f"map:{window}")
    if record is None or not isinstance(record.body, PredictedMap):
        nothing = np.zeros(0)
        return WindowResult(measured, nothing, nothing, nothing, nothing)
    m = record.body
    opened = reader.get(f"window:{window}")
    on_raster = None
    if opened is not None and isinstance(opened.body, WindowOpened):
        on_raster = window_candidates(reader, started, opened.body).origin == RASTER
    return WindowResult(
        measured,
        np.asarray(m.x_m, dtype=float),
        np.asarray(m.y_m, dtype=float),
        np.asarray(m.mean, dtype=float),
        np.asarray(m.std, dtype=float),
        on_raster,
    )


def measured_points(points: PointLog, window: int) -> tuple[MeasuredPoint, ...]:
    """Valid spectra of a window in the order of the journal, as far as it has been read."""
    return tuple(MeasuredPoint(p.x_m, p.y_m, p.scalar, p.job_id, p.label) for p in points.points(window))


def window_opened(instruction: OpenWindow) -> WindowOpened:
    """The record of a window that is opened."""
    w = instruction.window
    return WindowOpened(
        index=w.index,
        centre_x_m=w.centre_x_m,
        centre_y_m=w.centre_y_m,
        width_m=w.width_m,
        height_m=w.width_m,
        angle_rad=w.angle_rad,
        chosen_because=instruction.reason,
        score=instruction.score,
        alternatives=instruction.alternatives,
        handed_down=instruction.handed_down,
    )


def best_place(points: PointLog, window: int) -> MeasuredPoint | None:
    """The window's valid point with the largest scalar."""
    return max(measured_points(points, window), key=lambda p: p.value, default=None)
