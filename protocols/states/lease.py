"""Who owns the tip.

Only the guard runs this table, on its own monotonic clock.  ``free``: nobody owns the tip and it is parked.
``held``: one owner, under the epoch that was written to disk before it was granted.  ``handover``: the owner
let go without parking; somebody must take over before the lease would have run out.  ``ending``: the lease
ran out, was taken away or given back, and the park is not yet confirmed; nobody is admitted.

The guard's own start counts as ``ending``: whoever owned the tip before, it is parked before anybody is
admitted.
"""

from __future__ import annotations

from protocols.states.table import Row, Table

LEASE_TABLE = Table(
    name="lease",
    initial="ending",
    rows={
        "free": {
            "acquire": Row("held", ("raise-epoch", "persist", "tell-worker", "grant")),
            "parked": Row("free"),
        },
        "held": {
            "acquire": Row("held", ("refuse-owned",)),
            "renew": Row("held", ("extend",)),
            "release-and-park": Row("ending", ("tell-worker", "park")),
            "release": Row("handover", ("tell-worker",)),
            "expire": Row("ending", ("tell-worker", "park")),
            "parked": Row("held"),
        },
        "handover": {
            "acquire": Row("held", ("raise-epoch", "persist", "tell-worker", "grant")),
            "expire": Row("ending", ("tell-worker", "park")),
            "parked": Row("free"),
        },
        "ending": {
            "acquire": Row("ending", ("refuse-parking",)),
            "parked": Row("free"),
        },
    },
)
"""Renewals and releases with an epoch that is not the present owner's never reach the table: they are
refused."""
