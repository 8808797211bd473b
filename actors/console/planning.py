"""Planners made after the run, from its journal, for replay."""

from __future__ import annotations

from actors.dkl_planner.planner import Planner
from actors.journal.reader import JournalReader
from actors.journal.window_candidates import window_candidates
from protocols.messages.records import Decision, RunStarted, WindowOpened


def replay_planner(
    reader: JournalReader, started: RunStarted, window: WindowOpened, decision: Decision
) -> Planner:
    """The planner as the live one was made for this decision (a ``PlannerFactory`` of the journal)."""
    return Planner(started.campaign.planner, window_candidates(reader, started, window), decision.seed)
