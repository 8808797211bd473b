"""Where spectra may be taken in a window, from the journal: the live planner and ``replay`` both use this."""

from __future__ import annotations

import numpy as np

from actors.analysis.patches import Candidates, FrameGeometry, candidates_from_topograph
from actors.journal.reader import JournalReader
from protocols.errors import DataFormatError
from protocols.messages.records import FrameTaken, RunStarted, WindowOpened

HEIGHT = "z"


def window_candidates(reader: JournalReader, started: RunStarted, window: WindowOpened) -> Candidates:
    """Candidates of a window from its survey, and the places that were handed down to it.

    Raises:
        DataFormatError: the window has no survey, or the survey no topograph.
    """
    survey = window_survey(reader, window.index)
    section = started.campaign.planner
    heights = next((i for i in survey.images if i.channel == HEIGHT), None)
    if heights is None:
        raise DataFormatError(f"frame {survey.job_id} of {reader.path} has no topograph.")
    geometry = FrameGeometry(
        survey.centre_x_m, survey.centre_y_m, survey.width_m, survey.height_m, survey.angle_rad
    )
    return candidates_from_topograph(
        np.asarray(heights.values, dtype=float),
        geometry,
        patch_pixels=section.patch_pixels,
        step=section.candidate_step,
        inherited=list(window.handed_down),
    )


def window_survey(reader: JournalReader, window: int) -> FrameTaken:
    """The first survey of a window; later ones do not change what can be chosen.

    Raises:
        DataFormatError: there is none.
    """
    opened = reader.get(f"window:{window}")
    for record in reader.records(opened.seq if opened is not None else 0, (FrameTaken,)):
        body = record.body
        if isinstance(body, FrameTaken) and body.window == window and body.purpose == "survey":
            return body
    raise DataFormatError(f"window {window} of {reader.path} has no survey.")
