"""What must be looked at by a person before the tip may go back to the surface.

The first reason is kept until it is acknowledged; it is on disk before the park begins to be confirmed, so
that it outlives the guard.
"""

from __future__ import annotations

from protocols.states.table import Row, Table

LATCH_CAUSES = ("trip", "crash", "z-end", "no-surface")
"""Current trip, tip crash, Z at its range end, and no surface within reach: the last two need the coarse
motor."""

_SHUT = {cause: Row("latched", ("persist", "park", "alarm")) for cause in LATCH_CAUSES}
_MORE = {cause: Row("latched", ("park", "alarm")) for cause in LATCH_CAUSES}

LATCH_TABLE = Table(
    name="latch",
    initial="open",
    rows={
        "open": {**_SHUT, "engage": Row("open", ("allow",)), "acknowledge": Row("open")},
        "latched": {**_MORE, "engage": Row("latched", ("refuse",)), "acknowledge": Row("open", ("persist",))},
    },
)
