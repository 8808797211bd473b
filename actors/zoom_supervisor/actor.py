"""Ray shell of the zoom supervisor: opens windows, doubts them, and ends the campaign."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from actors.journal.points import PointLog
from actors.runtime.shell import Shell
from actors.zoom_supervisor.history import best_place, measured_points, search_so_far, window_opened
from actors.zoom_supervisor.search import Conclude, Instruction, ZoomSearch
from protocols.messages.records import WindowClosed


class ZoomSupervisor(Shell):
    """Goes from the largest window to the smallest; its memory is a cache of points and closed windows."""

    name = "zoom_supervisor"
    _known: tuple[ZoomSearch, Instruction] | None = None
    _of: tuple[str, int] = ("", -1)
    _log: PointLog | None = None

    async def begin(self) -> int:
        """As every shell; one question at a time, because all read on in the same log."""
        self._asking = asyncio.Lock()
        return await super().begin()

    async def next_window(self, run: str) -> dict[str, Any]:
        """Open the next window (committed), or say that the campaign is over and what was found."""
        async with self._asking:
            return await self._next_window(run)

    async def _next_window(self, run: str) -> dict[str, Any]:
        search, instruction = await self._so_far(run)
        if isinstance(instruction, Conclude):
            best = instruction.best
            return {
                "over": instruction.reason,
                "confirmed": instruction.confirmed,
                "best_job": best.job_id if best else "",
                "best_x_m": best.x_m if best else math.nan,
                "best_y_m": best.y_m if best else math.nan,
                "best_scalar": best.value if best else math.nan,
                "returns": search.returns,
            }
        body = window_opened(instruction)
        (seq,) = await self.desk.commit(run, (f"window:{body.index}", body))
        return {"over": "", "window": body.index, "seq": seq}

    async def doubt(self, run: str, window: int, upto: int) -> str:
        """Why the open window cannot hold what led to it, as of journal number ``upto``; or ""."""
        async with self._asking:
            search, _ = await self._so_far(run)
            return search.should_revisit(measured_points(await self._points(run, upto), window))

    async def close_window(self, run: str, window: int, reason: str) -> int:
        """Commit why no more spectra are taken in a window, and its best point."""
        async with self._asking:
            best = best_place(await self._points(run), window)
        body = WindowClosed(
            index=window,
            reason=reason,
            best_job=best.job_id if best else "",
            best_x_m=best.x_m if best else math.nan,
            best_y_m=best.y_m if best else math.nan,
            best_scalar=best.value if best else math.nan,
        )
        key = f"window-closed:{window}"
        known = self.desk.reader(run).get(key)
        (seq,) = (known.seq,) if known is not None else await self.desk.commit(run, (key, body))
        return seq

    async def _so_far(self, run: str) -> tuple[ZoomSearch, Instruction]:
        """The search fed with all closed windows; made anew only when another window was closed."""
        reader = self.desk.reader(run)
        of = (run, reader.count(WindowClosed))
        if self._known is None or of != self._of:
            points = await self._points(run)
            self._known, self._of = await asyncio.to_thread(search_so_far, points), of
        return self._known

    async def _points(self, run: str, upto: int | None = None) -> PointLog:
        """All points of the run up to a number (the end, if None); each record is read once."""
        reader = self.desk.reader(run)
        log = self._log
        if log is None or log.reader is not reader or (upto is not None and upto < log.cursor):
            log = self._log = PointLog(reader)
        await asyncio.to_thread(log.advance, upto)
        return log
