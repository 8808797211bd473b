"""How a job ends that did not go well: refused, interrupted, failed, or with an outcome nobody knows."""

from __future__ import annotations

import structlog

from actors.gateway.approach import EngageProgress
from actors.gateway.foreign_changes import ForeignChangeError
from actors.gateway.gate import TipParkedError
from actors.gateway.job_run import JobRun
from protocols.errors import DriverError, LatchedError, LimitError, RefusedError, TunnelpilotError
from protocols.messages.jobs import JobState
from protocols.messages.recipes import Park
from protocols.states.job import is_repeatable

log = structlog.get_logger(__name__)

ORDER_WITHIN_S = 0.2
"""An order to park follows the withdrawal within this time, if it was the guard's."""


def judge(run: JobRun, problem: TunnelpilotError, progress: EngageProgress) -> None:
    """Write the final state of a job that did not go well, its reason and its limit into the outcome."""
    job, outcome = run.job, run.outcome
    if isinstance(problem, DriverError):
        _await_order_of_withdrawal(run, progress)
    if run.parked and not isinstance(job.recipe, Park):
        reason = f"parked: {run.apparatus.gate.reason}"
        outcome.state = JobState.INTERRUPTED
    elif job.cut:
        reason = job.cut
        outcome.state = JobState.FAILED if job.cut_kind == "deadline" else JobState.INTERRUPTED
    elif isinstance(problem, LimitError | RefusedError | LatchedError) and not run.acted:
        reason = str(problem)
        outcome.state = JobState.REFUSED
        outcome.limit = str(problem.details.get("limit", ""))
    elif isinstance(problem, TipParkedError):
        reason = str(problem)
        outcome.state = JobState.INTERRUPTED
    else:
        reason = str(problem)
        outcome.state = JobState.FAILED
        outcome.limit = str(problem.details.get("limit", ""))
    outcome.disturbed = isinstance(problem, ForeignChangeError) and outcome.state is JobState.FAILED
    if run.acted and not is_repeatable(job.recipe) and outcome.state is not JobState.REFUSED:
        outcome.state = JobState.OUTCOME_UNKNOWN
    outcome.reason = reason
    log.warning("job ended badly", job=job.job_id, state=outcome.state.value, reason=reason)


def _await_order_of_withdrawal(run: JobRun, progress: EngageProgress) -> None:
    """A withdrawal reaches the electronics before its order reaches us: see whether it made the call
    fail."""
    try:
        state = run.apparatus.read()
    except (TunnelpilotError, OSError):
        return
    if (state.withdrawn or not state.feedback) and progress.state != "withdrawn":
        run.apparatus.gate.wait_parked(run.generation, ORDER_WITHIN_S)
