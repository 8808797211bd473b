"""The drift model of a run, rebuilt from its frames: memory that can always be made again."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from actors.analysis.registration import Registration, register
from actors.drift_tracker.model import DriftModel, Placed
from protocols.errors import UsageError
from protocols.messages.campaign import DriftSection
from protocols.messages.records import DriftMeasured, FrameTaken, StoredRecord

HEIGHT = "z"
SAMPLING_SHARE = 0.2
"""Of a pixel: what a shift is uncertain by because structures are not much larger than pixels."""
LARGEST_SHIFT = 0.4
"""Of the frame's smaller side: beyond it too little of both frames overlaps."""


class DriftHistory:
    """Takes a run's frames in the order of the journal and keeps the model and each window's reference.

    The reference of a window is its first frame of purpose "reference"; until there is one, its survey.
    """

    def __init__(self, settings: DriftSection) -> None:
        self.model = DriftModel(settings)
        self.last_seq = 0
        self._surveys: dict[int, FrameTaken] = {}
        self._references: dict[int, FrameTaken] = {}
        self._anchored: dict[int, str] = {}
        self._measured: dict[str, DriftMeasured] = {}

    def take(self, records: Iterable[StoredRecord]) -> None:
        """Take in frames; those already seen are skipped."""
        for record in records:
            if record.seq > self.last_seq and isinstance(record.body, FrameTaken):
                self._frame(record.body)
            self.last_seq = max(self.last_seq, record.seq)

    def reference(self, window: int) -> FrameTaken:
        """What frames of a window are compared with.

        Raises:
            UsageError: the window has no frame yet.
        """
        found = self._references.get(window) or self._surveys.get(window)
        if found is None:
            raise UsageError(f"window {window} has no frame to compare with.")
        return found

    def survey(self, window: int) -> FrameTaken:
        """The window's survey.

        Raises:
            UsageError: there is none yet.
        """
        if window not in self._surveys:
            raise UsageError(f"window {window} has no survey.")
        return self._surveys[window]

    def measured(self, frame_job: str) -> DriftMeasured:
        """What the registration of a frame has shown.

        Raises:
            UsageError: no such frame was taken in, or it is a reference itself.
        """
        try:
            return self._measured[frame_job]
        except KeyError:
            raise UsageError(f"frame {frame_job} was not compared with any reference.") from None

    def _frame(self, frame: FrameTaken) -> None:
        if frame.purpose == "survey":
            self._surveys.setdefault(frame.window, frame)
            return
        if frame.purpose == "reference" and frame.window not in self._references:
            self._references[frame.window] = frame
            self._anchor(frame)
            return
        if frame.window not in self._surveys and frame.window not in self._references:
            return  # a frame of no window: an operator's
        if frame.window not in self._anchored:
            self._anchor(self.reference(frame.window))
        reference = self._counterpart(frame)
        there, here = Placed.of(reference), Placed.of(frame)
        found = self._register(reference, frame, there, here)
        self._measured[frame.job_id] = self.model.observe(found, here, there)

    def _counterpart(self, frame: FrameTaken) -> FrameTaken:
        """What a frame is compared with: the survey if it is as large as that, else the reference."""
        survey = self._surveys.get(frame.window)
        if survey is not None and math.isclose(frame.width_m, survey.width_m, rel_tol=1e-6):
            return survey
        return self.reference(frame.window)

    def _anchor(self, frame: FrameTaken) -> None:
        self._anchored[frame.window] = frame.job_id
        self.model.anchor(Placed.of(frame))

    def _register(
        self, reference: FrameTaken, frame: FrameTaken, there: Placed, here: Placed
    ) -> Registration:
        x, y, sigma = self.model.expected_shift(here, there)
        a, b = _heights(reference), _heights(frame)
        pixel = (reference.height_m / a.shape[0], reference.width_m / a.shape[1])
        reach = LARGEST_SHIFT * min(reference.width_m, reference.height_m)
        found = register(a, b, pixel, reach, (x, y), sigma)
        # Structures smaller than a pixel shift in steps: no noise tells of that error.
        honest = math.hypot(found.uncertainty_m, SAMPLING_SHARE * max(pixel))
        return msgspec.structs.replace(found, uncertainty_m=honest)


def _heights(frame: FrameTaken) -> npt.NDArray[np.float64]:
    """Forward topograph, shape (lines, pixels), m."""
    found = next((i for i in frame.images if i.channel == HEIGHT), None)
    if found is None:
        raise UsageError(f"frame {frame.job_id} has no topograph.")
    heights: npt.NDArray[np.float64] = np.asarray(found.values, dtype=np.float64)[0]
    return heights
