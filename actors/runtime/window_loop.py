"""Measuring in one window: planning, sweeps, labels and reference patches side by side.

Carries out the wishes of ``spectra_pipeline``; what it knows is the ledger's, so it can be left at any time
and taken up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from actors.runtime.instrument_clock import instrument_time_s
from actors.runtime.job_desk import Outcome
from actors.runtime.ledger import RunLedger, reference_name
from actors.runtime.run_control import RunControl
from actors.runtime.run_tasks import first_of, watched
from actors.runtime.site import Site
from actors.runtime.spectra_pipeline import DecisionFact, Plan, WindowFacts, Wishes, next_wishes
from protocols.messages.campaign import Campaign
from protocols.messages.jobs import CHANGED_BY_OTHERS
from protocols.messages.records import Decision

CALL_S = 600.0
"""Longest wait for one measurement, with everything that may have to be started again meanwhile."""
THINK_S = 180.0
LABEL_S = 120.0
FAILURES_IN_A_ROW = 3
AGAIN_S = 0.3
"""Before another attempt: a park is seen by then."""

log = structlog.get_logger(__name__)


class WindowLoop:
    """One window of a run; ``run`` returns when it is closed or the run's state asks to stop."""

    def __init__(
        self,
        site: Site,
        ledger: RunLedger,
        control: RunControl,
        refresh: Callable[[], None],
        beat: Callable[[], None],
        hold: Callable[[str], None],
    ) -> None:
        self._site, self._ledger, self._control = site, ledger, control
        self._refresh, self._beat, self._hold = refresh, beat, hold
        assert ledger.started is not None
        self._campaign: Campaign = ledger.started.campaign
        self._scale = ledger.started.time_scale
        self._window = -1
        self._planning: asyncio.Task[dict[str, Any]] | None = None
        self._measuring: dict[str, asyncio.Task[Outcome]] = {}
        self._ordered = ("", "")
        """The decision that was ordered last, and its job."""
        self._labelling: set[asyncio.Task[Any]] = set()
        self._reference: asyncio.Task[None] | None = None
        self._stop_reason = ""
        self._failed: list[str] = []
        self._error: Exception | None = None

    @property
    def jobs(self) -> tuple[str, ...]:
        """Job ids of the spectra under way."""
        return tuple(self._ledger.next_job(d) for d in self._measuring)

    @property
    def waiting(self) -> dict[str, int]:
        """How full the edges are: "measuring", "labelling", "planning"."""
        return {
            "measuring": len(self._measuring),
            "labelling": len(self._labelling),
            "planning": int(self._planning is not None),
        }

    async def run(self, window: int) -> None:
        """Measure until the window is closed, or until the run shall no longer measure.

        Raises:
            TunnelpilotError: what an actor could not do; everything under way has ended then.
        """
        self._window, self._stop_reason, self._error = window, "", None
        try:
            while True:
                self._refresh()
                self._beat()
                await self._collect()
                stopping = self._control.state != "running" or self._error is not None
                wishes = Wishes() if stopping else next_wishes(self._facts())
                if wishes.close:
                    await self._close(wishes.close)
                    return
                self._start(wishes)
                if stopping and not self._busy():
                    break
                await first_of(self._tasks(), self._control.changed)
        finally:
            await self._abandon()
        if self._error is not None:
            raise self._error

    # ---- what is known ----

    def _facts(self) -> WindowFacts:
        ledger = self._ledger
        facts = []
        for decision in ledger.decisions_in(self._window):
            subject = ledger.subject(decision.decision)
            point = ledger.points.get(subject.done_job)
            settled = bool(subject.done_job) or subject.given_up
            facts.append(DecisionFact(decision.decision, settled, point.seq if point else 0))
        return WindowFacts(
            decisions=facts,
            last_seq=ledger.last_seq,
            planning=self._planning is not None,
            measuring=frozenset(self._measuring),
            points=self._campaign.planner.points,
            lockstep=self._campaign.lockstep,
            stop_reason=self._stop_reason,
            reference_before=self._reference_number() if self._campaign.drift.every else 0,
        )

    def _reference_number(self) -> int:
        """Index of the decision before which the next reference patch is taken."""
        return self._ledger.last_reference(self._window) + self._campaign.drift.every

    def _busy(self) -> bool:
        return bool(self._measuring or self._reference)

    def _tasks(self) -> set[asyncio.Task[Any]]:
        one = (self._planning, self._reference)
        return {*self._measuring.values(), *self._labelling, *(t for t in one if t is not None)}

    # ---- starting ----

    def _start(self, wishes: Wishes) -> None:
        if wishes.plan is not None:
            self._planning = asyncio.create_task(self._plan(wishes.plan))
        for decision in wishes.measure:
            self._measuring[decision] = asyncio.create_task(self._measure(decision))
        if wishes.reference and self._reference is None:
            self._reference = asyncio.create_task(self._take_reference(self._reference_number()))

    async def _plan(self, plan: Plan) -> dict[str, Any]:
        """Doubt the window on what the decision sees; if there is no doubt, decide."""
        if self._window > 0:
            doubt = await self._site.pool.call(
                "zoom_supervisor", "doubt", self._ledger.run, self._window, plan.cursor, deadline_s=THINK_S
            )
            if doubt:
                return {"decision": "", "stop": doubt}
        name = f"d{len(self._ledger.decisions):04d}"
        given_up = [
            d.decision
            for d in self._ledger.decisions_in(self._window)
            if self._ledger.subject(d.decision).given_up and d.decision not in plan.pending
        ]
        answer: dict[str, Any] = await self._site.pool.call(
            "dkl_planner",
            "decide",
            self._ledger.run,
            self._window,
            name,
            plan.index,
            plan.cursor,
            (*given_up, *plan.pending),
            deadline_s=THINK_S,
        )
        return answer

    async def _measure(self, name: str) -> Outcome:
        decision = self._ledger.decisions[name]
        job_id, after = self._ledger.next_job(name), ""
        if self._campaign.lockstep and self._ordered[0] in self._measuring:
            after = self._ordered[1]
        self._ordered = (name, job_id)
        outcome: Outcome = await self._site.pool.call(
            "spectroscopy_acquirer",
            "measure",
            self._ledger.run,
            job_id,
            (decision.x_m, decision.y_m),
            self._ledger.transform,
            self._expected_s(decision),
            self._site.tip.epoch,
            self._window,
            name,
            "campaign",
            after,
            deadline_s=CALL_S,
        )
        if outcome["state"] != "finished":
            await asyncio.sleep(AGAIN_S)
        return outcome

    def _expected_s(self, decision: Decision | None = None) -> float:
        """Instrument time at which a job that is ordered now begins; in lockstep the same in every run."""
        recipe = self._campaign.spectrum
        duration_s = recipe.settle_s + recipe.sweep_duration_s
        if self._campaign.lockstep:
            cursor = decision.cursor if decision is not None else self._ledger.last_seq
            ahead = len(decision.pending) if decision is not None else 0
            return self._ledger.ended_s(cursor) + ahead * duration_s
        ahead = len(self._measuring) - (decision is not None)
        return instrument_time_s(self._site.tip, self._scale) + max(ahead, 0) * duration_s

    async def _take_reference(self, number: int) -> None:
        """A reference patch and what it says of the drift."""
        pool, run = self._site.pool, self._ledger.run
        name = reference_name(self._window, number)
        taken = self._ledger.subject(name).done_job  # taken before a death, and not registered yet
        if not taken:
            outcome = await self._patch(name)
            if outcome["state"] != "finished":
                if outcome["reason"].startswith(CHANGED_BY_OTHERS):
                    self._hold(f"{name}: {outcome['reason']}")
                await asyncio.sleep(AGAIN_S)
                return
            taken = outcome["job_id"]
        found = await pool.call("drift_tracker", "compare", run, taken, deadline_s=THINK_S)
        self._site.ring.say("drift_tracker", "drift", found["note"], run, taken)

    async def _patch(self, name: str) -> Outcome:
        """The frame of a reference patch."""
        pool, run = self._site.pool, self._ledger.run
        patch = await pool.call("drift_tracker", "place_patch", run, self._window, deadline_s=THINK_S)
        outcome: Outcome = await pool.call(
            "scan_controller",
            "patch",
            run,
            self._ledger.next_job(name),
            patch,
            "reference",
            self._ledger.transform,
            self._expected_s(),
            self._site.tip.epoch,
            self._window,
            deadline_s=CALL_S,
        )
        return outcome

    # ---- collecting ----

    async def _collect(self) -> None:
        """Take up what has ended."""
        for name, task in list(self._measuring.items()):
            if task.done():
                del self._measuring[name]
                outcome = self._result(task)
                if outcome is not None:
                    self._refresh()
                    self._measured(name, outcome)
        if self._planning is not None and self._planning.done():
            answer = self._result(self._planning)
            self._planning = None
            if answer is not None:
                self._refresh()
                self._stop_reason = self._stop_reason or answer["stop"]
        if self._reference is not None and self._reference.done():
            self._result(self._reference)
            self._reference = None
            self._refresh()
        for label in [t for t in self._labelling if t.done()]:
            self._labelling.discard(label)
            self._result(label)

    def _result(self, task: asyncio.Task[Any]) -> Any:
        """A task's result; an error stops the loop once nothing is under way."""
        error = task.exception()
        if error is None:
            return task.result()
        if not isinstance(error, Exception):
            raise error
        log.warning("step failed", error=str(error), kind=type(error).__name__)
        self._error = self._error or error
        self._control.changed.set()
        return None

    def _measured(self, name: str, outcome: Outcome) -> None:
        if outcome["state"] != "finished":
            self._site.ring.say(
                "spectroscopy_acquirer",
                "attempt",
                f"{name}: {outcome['state']}: {outcome['reason']}",
                self._ledger.run,
                outcome["job_id"],
            )
            if outcome["reason"].startswith(CHANGED_BY_OTHERS):
                self._hold(f"{name}: {outcome['reason']}")
            if self._ledger.subject(name).given_up:
                self._failed.append(f"{name}: {outcome['reason']}")
                if len(self._failed) >= FAILURES_IN_A_ROW:
                    self._hold(f"{len(self._failed)} spectra in a row failed; the last: {outcome['reason']}")
            return
        self._failed.clear()
        job = outcome["job_id"]
        self._labelling.add(asyncio.create_task(self._label(job), name=job))

    async def _label(self, job: str) -> None:
        run = self._ledger.run
        said = await self._site.pool.call("spectrum_classifier", "label", run, job, deadline_s=LABEL_S)
        point = self._ledger.points.get(job)
        value = f"{point.scalar:.4g}{'' if point.valid else ' (does not count)'}" if point else ""
        self._site.ring.say("spectroscopy_acquirer", "spectrum", f"{value}; {said['label']}", run, job)

    # ---- ending ----

    async def _close(self, reason: str) -> None:
        """Last reference, labels, map, and the record that closes the window."""
        pool, run = self._site.pool, self._ledger.run
        taken = len(self._ledger.decisions_in(self._window))
        if self._campaign.drift.every and taken > self._ledger.last_reference(self._window):
            self._reference = asyncio.create_task(self._take_reference(taken))
        for job in self._ledger.unlabelled(self._window) - {t.get_name() for t in self._labelling}:
            self._labelling.add(asyncio.create_task(self._label(job), name=job))
        while self._tasks():
            self._beat()
            await self._collect()
            await first_of(self._tasks(), self._control.changed)
        if self._error is not None or self._control.state != "running":
            return  # taken up again later: nothing is closed yet
        self._refresh()
        await watched(
            pool.call(
                "dkl_planner", "close_window", run, self._window, self._ledger.last_seq, deadline_s=THINK_S
            ),
            self._beat,
        )
        await watched(
            pool.call("zoom_supervisor", "close_window", run, self._window, reason, deadline_s=THINK_S),
            self._beat,
        )
        self._refresh()
        self._site.ring.say("zoom_supervisor", "window", f"window {self._window} closed: {reason}", run)

    async def _abandon(self) -> None:
        """Whatever still runs is thinking, not moving: its results are in the journal or are made again."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._planning = self._reference = None
        self._measuring.clear()
        self._labelling.clear()
