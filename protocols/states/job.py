"""The life of a job in the gateway.  State names are the values of ``JobState``, and ``new`` before it has
one.

``start`` writes the intent before anything moves; ``finish`` writes the result; only ``committed`` (the
fsync has returned) makes the job finished.  A restart finds jobs on disk in ``ready`` or ``running`` only.
"""

from __future__ import annotations

from protocols.messages.jobs import JobState
from protocols.messages.recipes import Indentation, Move, Pulse, Recipe
from protocols.states.table import Row, Table

_READY = JobState.READY.value
_RUNNING = JobState.RUNNING.value
_FINISHED = JobState.FINISHED.value
_REFUSED = JobState.REFUSED.value
_FAILED = JobState.FAILED.value
_DISCARDED = JobState.DISCARDED.value
_INTERRUPTED = JobState.INTERRUPTED.value
_UNKNOWN = JobState.OUTCOME_UNKNOWN.value

JOB_TABLE = Table(
    name="job",
    initial="new",
    rows={
        "new": {
            "accept": Row(_READY, ("write-accepted", "answer")),
            "refuse": Row(_REFUSED, ("write-final", "answer")),
            "queue-full": Row("new", ("answer",)),
        },
        _READY: {
            "start": Row(_RUNNING, ("write-intent", "act")),
            "refuse": Row(_REFUSED, ("write-final",)),
            "park": Row(_DISCARDED, ("write-final",)),
            "cancel": Row(_DISCARDED, ("write-final",)),
            "deadline": Row(_DISCARDED, ("write-final",)),
            "restart": Row(_DISCARDED, ("write-final",)),
        },
        _RUNNING: {
            "finish": Row("committing", ("write-result",)),
            "refuse": Row(_REFUSED, ("write-final",)),
            "fail": Row(_FAILED, ("write-final",)),
            "interrupt": Row(_INTERRUPTED, ("write-final",)),
            "lose-track": Row(_UNKNOWN, ("write-final",)),
            "restart": Row(_INTERRUPTED, ("write-final",)),
            "restart-unrepeatable": Row(_UNKNOWN, ("write-final",)),
        },
        "committing": {
            "committed": Row(_FINISHED, ("answer",)),
            "commit-failed": Row(_FAILED, ("answer",)),
        },
        _FINISHED: {},
        _REFUSED: {},
        _FAILED: {},
        _DISCARDED: {},
        _INTERRUPTED: {},
        _UNKNOWN: {},
    },
)


def is_repeatable(recipe: Recipe) -> bool:
    """Whether an attempt that was cut short may simply be made again.

    A move, a pulse or an indentation changes the tip or the surface, or leaves it elsewhere: when its outcome
    is unknown it is said so and never repeated by itself.
    """
    return not isinstance(recipe, Move | Pulse | Indentation)


def after_restart(state: JobState, recipe: Recipe) -> JobState:
    """The final state of a job that a restarted worker finds on disk in ``state``.

    Raises:
        ImpossibleEventError: the job has a final state already.
    """
    unrepeatable = state is JobState.RUNNING and not is_repeatable(recipe)
    event = "restart-unrepeatable" if unrepeatable else "restart"
    return JobState(JOB_TABLE.step(state.value, event).state)
