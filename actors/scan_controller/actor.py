"""Ray shell of the scan controller: one frame, line by line, from its order to its acknowledged record."""

from __future__ import annotations

from typing import Any

from actors.runtime.job_desk import Order, Outcome
from actors.runtime.shell import Shell
from actors.scan_controller.assembly import FrameAssembler
from actors.scan_controller.records import (
    deadline_s,
    finished_frame,
    frame_of,
    issue_frame,
    patch_recipe,
    survey_recipe,
)
from protocols.errors import UsageError
from protocols.messages.data import FrameLines
from protocols.messages.jobs import Priority
from protocols.messages.recipes import Recipe
from protocols.messages.records import JobIssued, Transform, WindowOpened


class ScanController(Shell):
    """Takes frames: surveys of windows, and patches for registration."""

    name = "scan_controller"
    _lines: tuple[int, int] = (0, 0)

    async def progress(self) -> tuple[int, int]:
        """Lines there and lines planned of the frame under way; (0, 0) without one."""
        return self._lines

    async def survey(
        self,
        run: str,
        job_id: str,
        window: WindowOpened,
        transform: Transform,
        time_s: float,
        epoch: int,
        by: str = "campaign",
    ) -> Outcome:
        """The survey of a window."""
        started = self.desk.started(run)
        recipe = survey_recipe(started, window, transform, time_s)
        return await self._frame(run, job_id, recipe, transform, epoch, window.index, by)

    async def patch(
        self,
        run: str,
        job_id: str,
        patch: tuple[float, float, float, float, int],
        purpose: str,
        transform: Transform,
        time_s: float,
        epoch: int,
        window: int,
    ) -> Outcome:
        """A reference patch (centre x, centre y, width, angle, pixels) in sample coordinates."""
        recipe = patch_recipe(self.desk.started(run), patch, purpose, transform, time_s)
        return await self._frame(run, job_id, recipe, transform, epoch, window, "campaign")

    async def settle(self, run: str, job_id: str, epoch: int) -> Outcome:
        """Fetch what became of a frame that an earlier owner of the tip had ordered."""
        known = self.desk.reader(run).get(f"issued:{job_id}")
        if known is None or not isinstance(known.body, JobIssued):
            raise UsageError(f"no frame {job_id} was ever ordered.")
        body = known.body
        return await self._frame(run, job_id, body.recipe, body.transform, epoch, body.window, body.by)

    async def _frame(
        self, run: str, job_id: str, recipe: Recipe, transform: Transform, epoch: int, window: int, by: str
    ) -> Outcome:
        scale = self.desk.started(run).time_scale
        priority = Priority.CAMPAIGN if by == "campaign" else Priority.OPERATOR
        order = Order(run, job_id, epoch, deadline_s(recipe, scale), priority)
        # What was issued before a death is on record with its own recipe: the same lines are expected.
        known = self.desk.reader(run).get(f"issued:{job_id}")
        issued = (
            known.body if known is not None else issue_frame(job_id, recipe, transform, epoch, window, by)
        )
        assert isinstance(issued, JobIssued)
        frame = frame_of(issued.recipe)
        assembler = FrameAssembler(frame)

        def hear(chunk: Any) -> None:
            if isinstance(chunk.body, FrameLines):
                assembler.add(chunk.body)
                self._lines = (assembler.progress.lines, frame.lines)

        def result(_issued: JobIssued, job: Any) -> Any:
            taken = finished_frame(issued, assembler, job.end)
            facts = {"quality": taken.quality, "note": taken.quality_note}
            return [(f"frame:{job_id}", taken)], facts

        try:
            return await self.desk.perform(order, lambda: issued, result, hear)
        finally:
            self._lines = (0, 0)
