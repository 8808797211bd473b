"""The life of a run.

``starting`` brings the microscope up, ``engaging`` brings the tip to the surface and finds the place again,
``running`` measures.  ``pausing`` waits for the next safe point.  ``waiting`` waits for an auxiliary
instrument (a temperature outside its band, one that does not answer) and goes on by itself; ``held`` waits
for a person: the reason says for what.  The last three are final.  Instructions are carried out by
``actors.runtime``.
"""

from __future__ import annotations

from protocols.states.table import Row, Table

FINAL_RUN_STATES = frozenset({"completed", "aborted", "failed"})

_ENDINGS = {
    "abort": Row("aborted", ("cancel-jobs", "park", "conclude")),
    "fail": Row("failed", ("cancel-jobs", "park", "conclude")),
}

RUN_TABLE = Table(
    name="run",
    initial="starting",
    rows={
        "starting": {
            "ready": Row("engaging", ("engage",)),
            "hold": Row("held", ("alarm",)),
            "pause": Row("paused"),
            "pause-now": Row("paused"),
            "tip-parked": Row("starting"),
            **_ENDINGS,
        },
        "engaging": {
            "engaged": Row("running", ("measure",)),
            "wait": Row("waiting"),
            "wait-alarm": Row("waiting", ("alarm",)),
            "hold": Row("held", ("alarm",)),
            "tip-parked": Row("engaging", ("engage",)),
            "pause": Row("pausing"),
            "pause-now": Row("paused", ("cancel-jobs",)),
            **_ENDINGS,
        },
        "running": {
            "tip-parked": Row("engaging", ("engage",)),
            "pause": Row("pausing"),
            "pause-now": Row("paused", ("cancel-jobs",)),
            "wait": Row("waiting", ("drain",)),
            "wait-alarm": Row("waiting", ("drain", "alarm")),
            "hold": Row("held", ("drain", "alarm")),
            "finished": Row("completed", ("park", "conclude")),
            **_ENDINGS,
        },
        "waiting": {
            "wait-over": Row("engaging", ("engage",)),
            "wait-alarm": Row("waiting", ("alarm",)),
            "pause": Row("paused"),
            "pause-now": Row("paused", ("cancel-jobs",)),
            "tip-parked": Row("waiting"),
            "hold": Row("held", ("alarm",)),
            **_ENDINGS,
        },
        "pausing": {
            "safe-point": Row("paused"),
            "pause": Row("pausing"),
            "pause-now": Row("paused", ("cancel-jobs",)),
            "resume": Row("engaging", ("engage",)),
            "tip-parked": Row("paused"),
            "engaged": Row("pausing"),
            "hold": Row("held", ("alarm",)),
            "finished": Row("completed", ("park", "conclude")),
            **_ENDINGS,
        },
        "paused": {
            "resume": Row("engaging", ("engage",)),
            "pause": Row("paused"),
            "pause-now": Row("paused"),
            "tip-parked": Row("paused"),
            "safe-point": Row("paused"),
            "hold": Row("held", ("alarm",)),
            **_ENDINGS,
        },
        "held": {
            "resume": Row("engaging", ("engage",)),
            "hold": Row("held", ("alarm",)),
            "pause": Row("held"),
            "pause-now": Row("held", ("cancel-jobs",)),
            "tip-parked": Row("held"),
            "safe-point": Row("held"),
            **_ENDINGS,
        },
        "completed": {},
        "aborted": {},
        "failed": {},
    },
)
"""A daemon that starts again and finds a run in any state but a final one goes on at ``starting``;
runs that were paused or held stay so."""
