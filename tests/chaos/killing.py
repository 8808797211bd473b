"""Carries a schedule out: waits for the phase, kills, waits until everything goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocols.errors import TunnelpilotError
from tests.chaos.laboratory import Laboratory, StuckError, await_gone
from tests.chaos.schedule import PlannedKill, wait_before
from tests.chaos.victims import find, kill

PHASE_S = 90.0
"""A phase that does not come within this time is a failure: every one comes several times per run."""

REPLACED_S = 90.0
GO_ON_S = 90.0
SLICE_S = 0.5
"""Waiting for a phase is broken off this often, to see whether the run is over or holds."""


@dataclass
class Kill:
    """What was done, and what followed."""

    plan: PlannedKill
    run: str = ""
    pid: int = 0
    monotonic_s: float = 0.0
    wall_s: float = 0.0
    tip: str = ""
    """What the tip did at the time of the kill, as far as the truth log had told by then."""
    replaced_s: float | None = None
    """Until another process had taken the victim's place."""
    went_on_s: float | None = None
    """Until the next job began after that (or the run was over)."""
    trouble: str = ""

    @property
    def done(self) -> bool:
        """Whether the victim was killed."""
        return self.pid > 0


@dataclass
class Killer:
    """Kills by schedule; ``kills`` grows."""

    lab: Laboratory
    kills: list[Kill] = field(default_factory=list)

    def carry_out(
        self, schedule: Sequence[PlannedKill], within_s: float = math.inf, most_troubles: int = 3
    ) -> None:
        """All of it, unless so many kills were not survived that the rest would tell nothing new, or the
        time is over."""
        until = time.monotonic() + within_s
        for plan in schedule:
            if time.monotonic() > until:
                self.lab.say(f"given up: not done within {within_s:g} s")
                return
            done = self.carry_out_one(plan)
            shown = "  ".join(
                f"{name} {seconds:.2f} s"
                for name, seconds in (("replaced", done.replaced_s), ("went on", done.went_on_s))
                if seconds is not None
            )
            self.lab.say(f"{plan}  {done.run} {done.tip:<10} {shown} {done.trouble}".rstrip())
            if sum(bool(k.trouble) for k in self.kills) >= most_troubles:
                self.lab.say("given up: too much trouble")
                return

    def carry_out_one(self, plan: PlannedKill) -> Kill:
        """One kill, from the wait for its phase to the next job."""
        done = Kill(plan)
        self.kills.append(done)
        try:
            self._pace(plan)
            done.pid = self._strike(plan, done)
            await_gone(done.pid)
            if plan.victim == "daemon":
                self.lab.start_daemon()
            self._await_replacement(plan, done)
            self._await_progress(plan, done)
        except (StuckError, TunnelpilotError) as stuck:
            done.trouble = str(stuck)
        return done

    def _pace(self, plan: PlannedKill) -> None:
        """Let the run go on until the victim's restart budget allows another death."""
        past = [(k.plan.victim, k.monotonic_s) for k in self.kills if k.done]
        until = time.monotonic() + wait_before(plan.victim, past, time.monotonic())
        while time.monotonic() < until:
            self.lab.keep_running()
            self.lab.tail.poll()
            time.sleep(SLICE_S)

    def _strike(self, plan: PlannedKill, done: Kill) -> int:
        """Wait for the phase and kill; the pid.

        Raises:
            StuckError: the phase or the victim does not come.
        """
        lab = self.lab
        until = time.monotonic() + PHASE_S
        while time.monotonic() < until:
            lab.keep_running()
            pid = lab.await_that(f"a living {plan.victim}", lambda: find(lab.state, plan.victim), REPLACED_S)
            if not self._reach(plan.phase):
                continue
            time.sleep(plan.delay_s)
            done.run = lab.run
            lab.tail.poll()
            done.tip = lab.tail.tip.phase
            try:
                done.monotonic_s, done.wall_s = kill(pid)
            except ProcessLookupError:
                continue  # it was just being replaced
            return pid
        raise StuckError(f"the phase {plan.phase} did not come within {PHASE_S:g} s; {lab.describe()}")

    def _reach(self, phase: str) -> bool:
        """Whether the phase began within a while; "idle" is a paused run."""
        if phase != "idle":
            return self.lab.tail.wait_for(phase, SLICE_S)
        if self.lab.pause().state not in ("pausing", "paused"):
            return False
        return self.lab.tail.wait_until(self._stands_idle, 20.0)

    def _stands_idle(self) -> bool:
        if self.lab.tail.tip.phase != "idle":
            return False
        summary = self.lab.summary()
        return summary is not None and summary.state == "paused"

    def _await_replacement(self, plan: PlannedKill, done: Kill) -> None:
        def replaced() -> bool:
            found = find(self.lab.state, plan.victim)
            return found not in (0, done.pid)

        self.lab.await_that(f"another {plan.victim}", replaced, REPLACED_S)
        done.replaced_s = time.monotonic() - done.monotonic_s

    def _await_progress(self, plan: PlannedKill, done: Kill) -> None:
        """The next job begins, or the run is over."""
        lab = self.lab
        if plan.phase == "idle":
            lab.keep_running()
        begun, looked = lab.tail.tip.jobs_begun, time.monotonic()

        def goes_on() -> bool:
            nonlocal looked
            if lab.tail.tip.jobs_begun > begun:
                return True
            if time.monotonic() - looked < SLICE_S:
                return False
            looked = time.monotonic()
            if lab.run_is_over:
                return True
            lab.keep_running()
            return False

        lab.await_that("the next job", goes_on, GO_ON_S)
        done.went_on_s = time.monotonic() - done.monotonic_s
