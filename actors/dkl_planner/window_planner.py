"""The planner of one window, fed from the journal; what it decides can be replayed from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.dkl_planner.planner import Planner, Proposal
from actors.journal.points import PointLog
from actors.journal.reader import JournalReader
from actors.journal.replay import feed
from actors.journal.window_candidates import window_candidates
from protocols.errors import UsageError
from protocols.messages.records import Decision, ModelState, PredictedMap, WindowOpened

WINDOW_SEEDS = 1000
"""Seed of window i: the campaign's times this, plus i."""
UNKEPT = -1
"""The planner's model is not the one in the journal."""


@dataclass(frozen=True)
class Decided:
    """A decision and the model's state after it."""

    decision: Decision
    model: ModelState


class WindowPlanner:
    """A planner with its cursor in the journal.

    Raises:
        DataFormatError: the window has no survey.
    """

    def __init__(self, reader: JournalReader, window: WindowOpened) -> None:
        self._reader = reader
        self.window = window
        self._started = reader.started()
        self._candidates = window_candidates(reader, self._started, window)
        self.seed = self._started.seed * WINDOW_SEEDS + window.index
        self._planner = Planner(self._started.campaign.planner, self._candidates, self.seed)
        self._points = PointLog(reader, window.index)
        self._model_seq = 0

    def decide(self, name: str, index: int, cursor: int, pending: tuple[str, ...]) -> Decided | str:
        """Decision ``index`` of this window on what lies up to ``cursor``; a text if none is left to make.

        The planner starts from the last model state in the journal, whatever it did before: so a planner that
        was started anew decides as the one that died would have.
        """
        planner = self._at(cursor)
        places = [self._place(d) for d in pending]
        before, self._model_seq = self._model_seq, UNKEPT
        proposal = planner.propose(places, index)
        if proposal.candidate < 0:
            return proposal.reason
        decision = self._record(name, index, cursor, pending, proposal, before)
        model = ModelState(decision=name, window=self.window.index, arrays=planner.state())
        return Decided(decision, model)

    def kept(self, model_seq: int) -> None:
        """The decision's model state is in the journal under this number: the next decision starts there."""
        self._model_seq = model_seq

    def stop_reason(self, index: int) -> str:
        """Why no further spectrum is needed, or ""; as of the last decision."""
        return self._planner.stop_reason(index)

    def predicted_map(self, cursor: int) -> PredictedMap:
        """Prediction at every candidate from all points up to ``cursor``."""
        planner = self._at(cursor)
        self._model_seq = UNKEPT  # should the window go on, the next decision begins from the journal
        planner.fit()
        mean, std = planner.predicted()
        shape = self._candidates.shape
        return PredictedMap(
            window=self.window.index,
            x_m=self._candidates.x_m,
            y_m=self._candidates.y_m,
            mean=mean,
            std=np.where(np.isfinite(std), std, np.nan),
            observed=planner.observed,
            shape=tuple(shape) if shape is not None else (),
        )

    def _at(self, cursor: int) -> Planner:
        """The planner with all points up to the cursor and the last model state on record."""
        last = self._last_model()
        if cursor < self._points.cursor or last != self._model_seq:
            # Also after a decision that could not be committed: its fit must not be the next one's start.
            self._planner = Planner(self._started.campaign.planner, self._candidates, self.seed)
            self._points = PointLog(self._reader, self.window.index)
            if last:
                record = self._reader.at(last)
                assert record is not None and isinstance(record.body, ModelState)
                self._planner.restore(record.body.arrays)
            self._model_seq = last
        feed(self._planner, self._points.advance(cursor))
        return self._planner

    def _last_model(self) -> int:
        """Number of this window's last model state, 0 if there is none."""
        record = self._reader.last(ModelState)
        if record is None or not isinstance(record.body, ModelState):
            return 0
        return record.seq if record.body.window == self.window.index else 0

    def _place(self, decision: str) -> tuple[float, float]:
        record = self._reader.get(f"decision:{decision}")
        if record is None or not isinstance(record.body, Decision):
            raise UsageError(f"there is no decision {decision} in {self._reader.path}.")
        return record.body.x_m, record.body.y_m

    def _record(
        self,
        name: str,
        index: int,
        cursor: int,
        pending: tuple[str, ...],
        proposal: Proposal,
        model_before: int,
    ) -> Decision:
        return Decision(
            decision=name,
            window=self.window.index,
            index=index,
            cursor=cursor,
            observed=self._planner.observed,
            pending=pending,
            seed=self.seed,
            model_before=model_before,
            candidate=proposal.candidate,
            x_m=proposal.x_m,
            y_m=proposal.y_m,
            kind=proposal.kind,
            acquisition=proposal.acquisition,
            mean=proposal.mean,
            std=proposal.std,
            beta=proposal.beta,
            reason=proposal.reason,
            alternatives=proposal.alternatives,
            seconds=proposal.seconds,
        )
