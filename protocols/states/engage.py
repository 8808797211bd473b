"""From withdrawn to tunneling.

Bias and setpoint are set while withdrawn and read back in this very engage; only then, and only with the
guard's leave (no latch, tip parked, lease held), feedback is switched on.  Nothing turns feedback on at a
bias it merely found.  Whatever goes wrong, or dies, from ``asking`` on ends in ``parking``; before that the
tip was never out of its withdrawn position.
"""

from __future__ import annotations

from protocols.states.table import Row, Table

_PARK = {event: Row("parking", ("ask-park",)) for event in ("failed", "bad", "cancelled")}
_PARKED_BY_GUARD = {"park": Row("parking")}
_STAY = {event: Row("withdrawn", ("give-up",)) for event in ("failed", "bad", "cancelled", "park")}

ENGAGE_TABLE = Table(
    name="engage",
    initial="withdrawn",
    rows={
        "withdrawn": {
            "request": Row("biasing", ("set-bias", "set-setpoint")),
            "park": Row("withdrawn"),
            "parked": Row("withdrawn"),
        },
        "biasing": {"done": Row("reading", ("read-back",)), **_STAY},
        "reading": {"good": Row("asking", ("ask-guard",)), **_STAY},
        "asking": {
            "granted": Row("approaching", ("feedback-on",)),
            "refused": Row("withdrawn", ("give-up",)),
            **_PARK,
            **_PARKED_BY_GUARD,
        },
        "approaching": {
            "current": Row("settling", ("settle",)),
            "no-surface": Row("parking", ("latch",)),
            **_PARK,
            **_PARKED_BY_GUARD,
        },
        "settling": {"good": Row("engaged"), **_PARK, **_PARKED_BY_GUARD},
        "engaged": {"park": Row("parking"), "request": Row("engaged")},
        "parking": {"parked": Row("withdrawn"), "park": Row("parking")},
    },
)
