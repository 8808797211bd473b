"""The search over scales, rebuilt from the journal: finished windows in, the next instruction out."""

from __future__ import annotations

import numpy as np

from actors.analysis.patches import RASTER
from actors.journal.reader import JournalReader
from actors.journal.window_candidates import window_candidates
from actors.zoom_supervisor.search import Instruction, OpenWindow, ZoomSearch
from actors.zoom_supervisor.windows import MeasuredPoint, WindowResult
from protocols.messages.records import (
    PredictedMap,
    RunStarted,
    WindowClosed,
    WindowOpened,
)


def search_so_far(reader: JournalReader) -> tuple[ZoomSearch, Instruction]:
    """The search with every closed window of the run fed to it, and what it wants next.

    An instruction to open a window may be carried out already: compare its index with the journal.
    """
    started = reader.started()
    search = ZoomSearch(started.campaign.zoom, started.seed)
    instruction: Instruction = search.start()
    for closed in sorted(reader.bodies(WindowClosed), key=lambda w: w.index):
        instruction = search.finished(window_result(reader, started, closed.index))
    return search, instruction


def window_result(reader: JournalReader, started: RunStarted, window: int) -> WindowResult:
    """What a window has shown: its points, and the map that was predicted when it closed."""
    points = measured_points(reader, window)
    record = reader.get(f"map:{window}")
    if record is None or not isinstance(record.body, PredictedMap):
        nothing = np.zeros(0)
        return WindowResult(points, nothing, nothing, nothing, nothing)
    m = record.body
    opened = reader.get(f"window:{window}")
    on_raster = None
    if opened is not None and isinstance(opened.body, WindowOpened):
        on_raster = window_candidates(reader, started, opened.body).origin == RASTER
    return WindowResult(
        points,
        np.asarray(m.x_m, dtype=float),
        np.asarray(m.y_m, dtype=float),
        np.asarray(m.mean, dtype=float),
        np.asarray(m.std, dtype=float),
        on_raster,
    )


def measured_points(reader: JournalReader, window: int, upto: int | None = None) -> tuple[MeasuredPoint, ...]:
    """Valid spectra of a window in the order of the journal (up to a number)."""
    return tuple(
        MeasuredPoint(
            m.spectrum.sample_x_m,
            m.spectrum.sample_y_m,
            m.spectrum.scalar,
            m.spectrum.job_id,
            m.label.label if m.label is not None else "",
        )
        for m in reader.spectra(window, upto)
    )


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


def best_place(reader: JournalReader, window: int) -> MeasuredPoint | None:
    """The window's valid point with the largest scalar."""
    points = measured_points(reader, window)
    return max(points, key=lambda p: p.value, default=None)
