"""Measuring, window after window: choosing one, its survey, its first reference, its spectra.

Each step looks into the ledger for what is done already, so it can be left at any time and taken up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actors.runtime.engaging import HoldError
from actors.runtime.instrument_clock import instrument_time_s
from actors.runtime.ledger import RunLedger, reference_name
from actors.runtime.run_control import RunControl
from actors.runtime.run_signs import RunSigns
from actors.runtime.run_tasks import BEAT_S, watched
from actors.runtime.site import Site
from actors.runtime.window_loop import CALL_S, THINK_S, WindowLoop
from protocols.messages.jobs import CHANGED_BY_OTHERS
from protocols.messages.records import WindowOpened


class Measuring:
    """The measuring steps of one run, and what is under way in them."""

    def __init__(
        self,
        site: Site,
        ledger: RunLedger,
        control: RunControl,
        signs: RunSigns,
        refresh: Callable[[], None],
        beat: Callable[[], None],
        hold: Callable[[str], None],
    ) -> None:
        self._site, self._ledger, self._control, self._signs = site, ledger, control, signs
        self._refresh, self._beat, self._hold = refresh, beat, hold
        self._window_loop: WindowLoop | None = None
        self.frame_under_way = False
        self.found: dict[str, Any] = {}
        """What the zoom supervisor said of the search at its end; empty until then."""

    @property
    def edges(self) -> dict[str, int]:
        """What is under way in the open window, by edge."""
        return self._window_loop.waiting if self._window_loop is not None else {}

    @property
    def jobs(self) -> tuple[str, ...]:
        """Job ids of the spectra under way."""
        return self._window_loop.jobs if self._window_loop is not None else ()

    @property
    def busy(self) -> bool:
        """Whether a spectrum or frame is under way."""
        return self.frame_under_way or bool(self.edges.get("measuring"))

    async def step(self) -> None:
        """Do what comes next in the open window, or open the next one.

        Raises:
            HoldError: a frame cannot be had; a person has to look.
            TunnelpilotError: an actor did not answer, or could not do it.
        """
        if self._control.state == "pausing":
            self._control.feed("safe-point", self._control.reason)
            return
        window = self._ledger.open_window()
        if window is None:
            await self._next_window()
        elif not self._ledger.subject(_survey(window)).done_job:
            await self._take_survey(window)
        else:
            await self._measure_in(window)

    async def _measure_in(self, window: WindowOpened) -> None:
        assert self._ledger.started is not None
        every = self._ledger.started.campaign.drift.every
        if every and not self._ledger.subject(reference_name(window.index, 0)).done_job:
            await self._first_reference(window)
            return
        self._window_loop = WindowLoop(
            self._site, self._ledger, self._control, self._refresh, self._beat, self._hold
        )
        try:
            await self._window_loop.run(window.index)
        finally:
            self._window_loop = None

    async def _next_window(self) -> None:
        self._signs.activity = "choosing a window"
        answer = await self._call("zoom_supervisor", "next_window", self._ledger.run, deadline_s=THINK_S)
        self._refresh()
        if answer["over"]:
            self.found = answer
            last = max(self._ledger.closed.values(), key=lambda w: w.index, default=None)
            self._control.feed("finished", f"{answer['over']}: {last.reason}" if last else answer["over"])
            return
        opened = self._ledger.windows[answer["window"]]
        self._site.ring.say(
            "zoom_supervisor", "window", f"window {opened.index}: {opened.chosen_because}", self._ledger.run
        )

    async def _take_survey(self, window: WindowOpened) -> None:
        self._signs.activity = f"survey of window {window.index}"
        await self._frame(
            "survey",
            _survey(window),
            window,
            self._ledger.transform,
            self._time_s(),
            self._site.tip.epoch,
        )

    async def _first_reference(self, window: WindowOpened) -> None:
        self._signs.activity = f"reference patch of window {window.index}"
        patch = await self._call(
            "drift_tracker", "place_patch", self._ledger.run, window.index, deadline_s=THINK_S
        )
        await self._frame(
            "patch",
            reference_name(window.index, 0),
            patch,
            "reference",
            self._ledger.transform,
            self._time_s(),
            self._site.tip.epoch,
            window.index,
        )

    async def _frame(self, method: str, subject: str, *arguments: Any) -> None:
        """One frame; holds when it cannot be had."""
        ring, run = self._site.ring, self._ledger.run
        job = self._ledger.next_job(subject)
        self.frame_under_way = True
        try:
            outcome = await self._call("scan_controller", method, run, job, *arguments, deadline_s=CALL_S)
        finally:
            self.frame_under_way = False
        self._refresh()
        self._signs.activity = ""
        if outcome["state"] != "finished":
            text = f"{subject}: {outcome['state']}: {outcome['reason']}"
            ring.say("scan_controller", "attempt", text, run, outcome["job_id"])
            if outcome["reason"].startswith(CHANGED_BY_OTHERS):
                raise HoldError(f"{subject}: {outcome['reason']}")
            if self._ledger.subject(subject).given_up:
                raise HoldError(f"the frame {subject} cannot be taken: {outcome['reason']}")
            await asyncio.sleep(BEAT_S)  # a park is seen by then
            return
        note = f"{subject}: {outcome.get('quality', 'good')} {outcome.get('note', '')}".strip()
        ring.say("scan_controller", "frame", note, run, outcome["job_id"])

    async def _call(self, actor: str, method: str, *arguments: Any, deadline_s: float) -> Any:
        call = self._site.pool.call(actor, method, *arguments, deadline_s=deadline_s)
        return await watched(call, self._beat)

    def _time_s(self) -> float:
        """Instrument time at which a frame that is ordered now begins; in lockstep the same in every run."""
        assert self._ledger.started is not None
        if self._ledger.started.campaign.lockstep:
            return self._ledger.ended_s(self._ledger.last_seq)
        return instrument_time_s(self._site.tip, self._ledger.started.time_scale)


def _survey(window: WindowOpened) -> str:
    return f"w{window.index:02d}-survey"
