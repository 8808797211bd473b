"""Ray shell of the drift tracker: says where reference patches lie, and what their registrations mean."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.drift_tracker.history import DriftHistory
from actors.drift_tracker.reference import plan_reference
from actors.runtime.shell import Shell
from protocols.messages.records import DriftMeasured, FrameTaken

Patch = tuple[float, float, float, float, int]


class DriftTracker(Shell):
    """Keeps the drift model of the present run; its memory is a cache of the journal."""

    name = "drift_tracker"
    _run = ""
    _history: DriftHistory | None = None

    async def place_patch(self, run: str, window: int) -> Patch:
        """Centre x, centre y (sample, m), width (m), angle (rad), pixels of a window's reference patch."""
        history = await self._caught_up(run)
        reference = history.reference(window)
        if reference.purpose == "reference":
            return _same_patch(reference)
        imaging = self.desk.started(run).campaign.imaging
        plan = await asyncio.to_thread(
            plan_reference, reference, imaging.reference_width_m, imaging.reference_pixels
        )
        return plan.centre_x_m, plan.centre_y_m, plan.width_m, plan.angle_rad, plan.pixels

    async def last_patch(self, run: str, window: int) -> Patch:
        """Where to look again after an engage: the window's reference patch, else its whole survey."""
        return _same_patch((await self._caught_up(run)).reference(window))

    async def survey_patch(self, run: str, window: int) -> Patch:
        """The whole survey as a patch: where to look when the reference patch could not be told."""
        return _same_patch((await self._caught_up(run)).survey(window))

    async def compare(self, run: str, frame_job: str) -> dict[str, Any]:
        """Register a frame against its window's reference; the drift record is committed."""
        key = f"drift:{frame_job}"
        known = self.desk.reader(run).get(key)
        history = await self._caught_up(run)
        body = known.body if known is not None else history.measured(frame_job)
        assert isinstance(body, DriftMeasured)
        (seq,) = await self.desk.commit(run, (key, body))
        return {"seq": seq, "accepted": body.accepted, "note": body.note, "transform": body.transform}

    async def _caught_up(self, run: str) -> DriftHistory:
        if self._history is None or self._run != run:
            self._run, self._history = run, DriftHistory(self.desk.started(run).campaign.drift)
        history, reader = self._history, self.desk.reader(run)
        history.take(list(reader.records(history.last_seq, (FrameTaken,))))
        return history


def _same_patch(frame: FrameTaken) -> Patch:
    pixels = frame.images[0].values.shape[-1]
    return frame.centre_x_m, frame.centre_y_m, frame.width_m, frame.angle_rad, int(pixels)
