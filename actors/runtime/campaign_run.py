"""One run from its first journal record to its last: engaging, measuring, holding, concluding.

The loop is a sequence of small steps, each of which looks into the ledger for what is done already; a daemon
that was killed begins the loop again and goes on where the journal ends.
"""

from __future__ import annotations

import asyncio
import math
import time

import structlog

from actors.journal.reader import JournalReader
from actors.runtime.auxiliary import AuxiliaryWatch
from actors.runtime.auxiliary_wait import AuxiliaryWait
from actors.runtime.engaging import LEASE_S, Engaging, HoldError, TryAgainError
from actors.runtime.job_desk import Outcome
from actors.runtime.ledger import RunLedger, split_job_id
from actors.runtime.measuring import Measuring
from actors.runtime.restart_budget import RestartBudget
from actors.runtime.run_control import RunControl
from actors.runtime.run_signs import RunSigns
from actors.runtime.run_tasks import BEAT_S, first_of, watched
from actors.runtime.site import Site
from actors.runtime.state_changes import StateChanges
from protocols.errors import StaleEpochError, TunnelpilotError
from protocols.messages.recipes import Recipe
from protocols.messages.records import OperatorAction
from protocols.states.park import ENGAGED
from protocols.states.run import FINAL_RUN_STATES

READY_S = 60.0
"""The classifier is trained within this time, or the run goes on without waiting for it."""
AGAIN = 10
"""Engages that may be undone again within a minute."""
RANGE_ALARMS = ("z-range:", "x-range:", "y-range:")
STAYS = frozenset({"paused", "held"}) | FINAL_RUN_STATES
"""What a run that is taken up again remains; in any other state it begins with "starting"."""

log = structlog.get_logger(__name__)


class CampaignRun:
    """One run; ``main`` returns when it is in a final state and concluded.

    ``allowed``: a person has just asked for this (a new run, or ``resume``), so the tip may be engaged
    whatever it was parked for, unless it is latched.  ``allowed_at``: the guard's withdrawal mark when this
    was said; a withdrawal since then takes the permission back.
    """

    def __init__(
        self, site: Site, reader: JournalReader, ledger: RunLedger, allowed: bool, allowed_at: str = ""
    ) -> None:
        self.site, self.ledger, self.reader = site, ledger, reader
        self.allowed = allowed
        self.allowed_at = allowed_at
        state = ledger.state if ledger.state in STAYS else "starting"
        self.control = control = RunControl(state, ledger.state_reason, ledger.states_written)
        if control.final:  # its daemon died before the conclusion: the last change is carried out again
            control.again(("park", "conclude"))
        self.signs = signs = RunSigns()
        self._engaging = Engaging(site, ledger, self.refresh, self.beat)
        self._measuring = Measuring(site, ledger, control, signs, self.refresh, self.beat, self.hold)
        self._changes = StateChanges(site, ledger, control, signs, self._measuring, self.refresh)
        self.waiting = AuxiliaryWait(site, ledger, control, signs, self._withdraw)
        self._engaged_s = math.inf
        self._again = RestartBudget(AGAIN)
        self._changing: asyncio.Task[None] | None = None

    @property
    def run(self) -> str:
        """Its name."""
        return self.ledger.run

    @property
    def auxiliary(self) -> AuxiliaryWatch | None:
        """Instruments beside the microscope, if the campaign has any."""
        return self.waiting.watch

    @property
    def edges(self) -> dict[str, int]:
        """What is under way in the open window, by edge."""
        return self._measuring.edges

    @property
    def scanning(self) -> bool:
        """Whether a frame may be under way."""
        return self._measuring.frame_under_way or self.control.state == "engaging"

    @property
    def edge_bound(self) -> int:
        """Most labels that can be waited for: one for every spectrum of a window."""
        assert self.ledger.started is not None
        return self.ledger.started.campaign.planner.points

    def activity_text(self) -> str:
        """What the tip does now, in a few words."""
        if jobs := self._measuring.jobs:
            decision = self.ledger.decisions.get(split_job_id(jobs[0])[1])
            if decision is not None:
                place = f"{decision.x_m * 1e9:.1f} nm, {decision.y_m * 1e9:.1f} nm"
                return f"sweep {decision.decision} at {place}"
        return self.signs.activity

    # ---- what people order ----

    async def job(self, name: str, recipe: Recipe) -> Outcome:
        """An operator's job without data, in this run's journal."""
        return await self._engaging.job(name, recipe, "operator")

    async def engage_by_hand(self, name: str, recipe: Recipe) -> Outcome:
        """Engage because a person says so; owns the tip first."""
        await self._bring_up()
        await self.site.tip.acquire(LEASE_S)
        return await self.job(name, recipe)

    async def note_operator(self, command: str, arguments: dict[str, str], outcome: str) -> None:
        """Journal what a person did."""
        body = OperatorAction(command=command, arguments=arguments, outcome=outcome)
        await self._changes.write(f"operator:{time.time_ns()}", body)
        self.site.ring.say("operator", "operator", f"{command}: {outcome}", self.run)

    # ---- the loop ----

    async def main(self) -> None:
        """Go on until the run is over.

        Raises:
            TunnelpilotError: the journal cannot be written; nothing more can be done here.
        """
        structlog.contextvars.bind_contextvars(run=self.run)
        self._changing = asyncio.create_task(self._changes.main(), name="changes of state")
        training = asyncio.create_task(self._train(), name="train")
        watching = self.waiting.begin()
        try:
            while not self.control.final:
                await self._step()
            self._changes.loop_over.set()
            await self._changing
        finally:
            self.signs.end()
            tasks = [training, self._changing, *([watching] if watching is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.reader.close()

    async def _step(self) -> None:
        if self._changing is not None and self._changing.done():
            self._changing.result()  # raises: changes can no longer be journaled
        self.refresh()
        self.beat()
        try:
            match self.control.state:
                case "starting":
                    await self._start()
                case "engaging":
                    await self._engage()
                case "running" | "pausing":
                    await self._measuring.step()
                case "waiting":
                    await self.waiting.step()
                case _:
                    await first_of(set(), self.control.changed)
        except TryAgainError as again:
            log.info("again", why=str(again))
            if not self._again.spend(time.monotonic()):
                self.hold(f"{self._again.restarts} tries within a minute did not help; the last: {again}")
            await asyncio.sleep(BEAT_S)
        except HoldError as hold:
            self.hold(str(hold))
        except StaleEpochError:
            self._lost("the lease is lost")
            await asyncio.sleep(BEAT_S)
        except TunnelpilotError as trouble:
            self.site.ring.say("run", "fault", str(trouble), self.run)
            log.error("trouble", error=str(trouble), kind=type(trouble).__name__)
            self.hold(str(trouble))
        except Exception as mistake:
            log.exception("mistake of ours")
            self.hold(
                f"a mistake of ours: {mistake!r}; the daemon's log has the details.",
            )

    async def _start(self) -> None:
        await watched(self._bring_up(), self.beat)
        if self.auxiliary is not None:
            await watched(self.auxiliary.first_look(), self.beat)
        self.control.feed("ready", "the microscope is ready")

    async def _bring_up(self) -> None:
        assert self.ledger.started is not None
        await self.site.ensure_world(self.ledger.started)

    async def _engage(self) -> None:
        if self.waiting.must_wait():
            return
        self.signs.activity = "engaging"
        await watched(self._bring_up(), self.beat)
        allowed, again = self.allowed, False
        try:
            await self._engaging.engage(allowed, self.allowed_at)
        except TryAgainError as trouble:
            again = bool(trouble.details.get("not_begun"))
            raise
        finally:
            self.allowed = allowed and again  # used up: it is no leave to undo a park that came afterwards
        self._engaged_s = time.monotonic()
        self.signs.activity = ""
        self.control.feed("engaged", "the tip is at the surface")

    async def _train(self) -> None:
        try:
            await self.site.pool.call("spectrum_classifier", "prepare", self.run, deadline_s=READY_S)
        except TunnelpilotError as late:
            log.warning("classifier not ready in time; it labels later", why=str(late))

    # ---- looking at the world ----

    def refresh(self) -> None:
        """Take in what the journal has got meanwhile."""
        self.ledger.fold(self.reader.records(self.ledger.last_seq))

    def beat(self) -> None:
        """Progress for the lease, and a look at the tip; called at least every 0.2 s."""
        self.site.tip.beat()
        status = self.site.tip.status
        self.signs.count(self._measuring.busy)
        if self.control.state == "running":
            self.waiting.must_wait()
        if status is None:
            return
        ranges = tuple(a for a in status.alarms if a.startswith(RANGE_ALARMS))
        if ranges and self.control.state in ("running", "pausing"):
            self.hold(f"near the end of a range: {'; '.join(ranges)}")
        if self.control.state in ("running", "pausing", "paused", "held", "waiting"):
            parked = status.park != ENGAGED and self.site.tip.asked_s > self._engaged_s
            if parked:
                self._lost(f"the tip was parked: {status.last_park_reason}")
            elif not self.site.tip.held and self._engaged_s != math.inf:
                self._lost("the lease is lost")

    def _lost(self, why: str) -> None:
        self._away()
        self.control.feed("tip-parked", why)

    async def _withdraw(self) -> None:
        """Park while an auxiliary instrument is not content; this park is ours, nothing is lost by it."""
        self._away()
        await watched(self._changes.park(), self.beat)

    def _away(self) -> None:
        """The tip is not where the last engage has brought it."""
        self._engaged_s = math.inf
        self._engaging.place_lost = True

    def hold(self, reason: str) -> None:
        """Wait for a person, and call for one."""
        if self.control.state != "held" or self.control.reason != reason:
            self.signs.alarm(reason)
            self.control.feed("hold", reason)
