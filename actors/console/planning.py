"""Planners and candidates made after the run, from its journal: for replay and for comparisons."""

from __future__ import annotations

import numpy as np

from actors.analysis.patches import Candidates, FrameGeometry, candidates_from_topograph
from actors.dkl_planner.planner import Planner
from actors.journal.reader import JournalReader
from protocols.errors import DataFormatError
from protocols.messages.records import Decision, FrameTaken, RunStarted, WindowClosed, WindowOpened

HEIGHT = "z"


def replay_planner(
    reader: JournalReader, started: RunStarted, window: WindowOpened, decision: Decision
) -> Planner:
    """The planner as the live one was made for this decision (a ``PlannerFactory`` of the journal)."""
    candidates = window_candidates(reader, started, window, upto=decision.cursor)
    return Planner(started.campaign.planner, candidates, decision.seed)


def window_candidates(
    reader: JournalReader, started: RunStarted, window: WindowOpened, upto: int | None = None
) -> Candidates:
    """Candidates of a window from its survey, and the places handed down by the windows before.

    Raises:
        DataFormatError: the window has no survey.
    """
    survey = window_survey(reader, window.index, upto)
    section = started.campaign.planner
    heights = next((i for i in survey.images if i.channel == HEIGHT), None)
    if heights is None:
        raise DataFormatError(f"frame {survey.job_id} of {reader.path} has no topograph.")
    geometry = FrameGeometry(
        survey.centre_x_m, survey.centre_y_m, survey.width_m, survey.height_m, survey.angle_rad
    )
    closed = [c for c in reader.bodies(WindowClosed) if c.index < window.index and c.best_job]
    return candidates_from_topograph(
        np.asarray(heights.values, dtype=float),
        geometry,
        patch_pixels=section.patch_pixels,
        step=section.candidate_step,
        inherited=[(c.best_x_m, c.best_y_m) for c in closed],
    )


def window_survey(reader: JournalReader, window: int, upto: int | None = None) -> FrameTaken:
    """The first survey of a window.

    Raises:
        DataFormatError: there is none.
    """
    for record in reader.records(kinds=(FrameTaken,)):
        if upto is not None and record.seq > upto:
            break
        body = record.body
        if isinstance(body, FrameTaken) and body.window == window and body.purpose == "survey":
            return body
    raise DataFormatError(f"window {window} of {reader.path} has no survey.")
