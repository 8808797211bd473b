"""Planners made after the run, from its journal, for replay."""

from __future__ import annotations

from actors.analysis.patches import Candidates
from actors.dkl_planner.planner import Planner
from actors.journal.reader import JournalReader
from actors.journal.window_candidates import window_candidates
from protocols.messages.records import Decision, RunStarted, WindowOpened


class ReplayPlanners:
    """Makes planners as the live ones were made (a ``PlannerFactory`` of the journal), for one journal.

    A window's candidates follow from its survey alone; they are found once.
    """

    def __init__(self) -> None:
        self._candidates: dict[int, Candidates] = {}

    def __call__(
        self, reader: JournalReader, started: RunStarted, window: WindowOpened, decision: Decision
    ) -> Planner:
        """A planner that has observed nothing yet."""
        if window.index not in self._candidates:
            self._candidates[window.index] = window_candidates(reader, started, window)
        return Planner(started.campaign.planner, self._candidates[window.index], decision.seed)
