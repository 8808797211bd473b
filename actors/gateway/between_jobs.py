"""How a job left the electronics, and whether the next one finds them so.

Others use the instrument too: what they changed between two of our jobs ends the next one once, with words
that say what it was; then what is found counts.
"""

from __future__ import annotations

from actors.gateway.approach import EngageProgress
from actors.gateway.foreign_changes import ForeignChangeError, changes_since, running_in
from actors.gateway.job_run import JobRun
from protocols.errors import RefusedError
from protocols.instrument.driver import FastTrip, SharedPanel
from protocols.messages.data import InstrumentState
from protocols.messages.jobs import CHANGED_BY_OTHERS, JobState
from protocols.messages.recipes import Engage, Park


def check_ready(run: JobRun, state: InstrumentState, progress: EngageProgress) -> None:
    """Whether the tip is where this kind of job needs it.

    Raises:
        TipParkedError: the tip was parked meanwhile.
        RefusedError: the tip is not where it must be.
        ForeignChangeError: somebody else's scan or sweep runs, or somebody switched feedback off.
    """
    recipe = run.job.recipe
    if isinstance(recipe, Park):
        return
    run.require_open()
    if state.scanning or state.sweeping:
        # What was ours has been stopped: somebody else's would move the tip, or turn its bias, under us.
        raise ForeignChangeError.of("since the last job", running_in(state))
    if isinstance(recipe, Engage):
        if not state.withdrawn and not state.feedback:
            raise RefusedError("feedback is off but the tip is not withdrawn: park first.")
        return
    if state.withdrawn or progress.state != "engaged":
        raise RefusedError("parked: engage first.")
    if not state.feedback:
        raise ForeignChangeError(
            f"{CHANGED_BY_OTHERS}: feedback was found off though nobody of ours switched it off.",
            "Park, then engage.",
        )


class LeftByLastJob:
    """What is remembered from one job to the next; used by the job thread alone."""

    def __init__(self) -> None:
        self._left: InstrumentState | None = None
        self._generation = -1
        """Of the gate: after a park nothing is compared."""
        self._disturbed = False

    def check_undisturbed(self, run: JobRun, state: InstrumentState, progress: EngageProgress) -> None:
        """Whether everything is as the job before left it; told once, then what is found counts.

        Raises:
            ForeignChangeError: says what changed, from what to what.
        """
        if isinstance(run.job.recipe, Park) or state.withdrawn or progress.state != "engaged":
            return
        apparatus = run.apparatus
        driver, changed = apparatus.driver(), []
        if self._left is not None and self._generation == run.generation:
            changed += changes_since(self._left, state, apparatus.limits)
        if isinstance(driver, SharedPanel) and not self._disturbed:
            changed += driver.foreign_changes()
        if changed:
            self._left, self._disturbed = None, True
            raise ForeignChangeError.of("since the last job", changed)
        if isinstance(driver, FastTrip) and (self._disturbed or driver is not apparatus.armed):
            with run.acting():
                apparatus.arm(driver)
        self._disturbed = False

    def remember(self, run: JobRun) -> None:
        """The next job compares with it; after one that went wrong the electronics may still be at it."""
        finished = run.outcome.state is JobState.FINISHED and not isinstance(run.job.recipe, Park)
        self._left = run.outcome.final if finished else None
        self._generation = run.generation
