"""Withdraw the tip and make sure of it.

The order is fixed: ``withdraw`` at once, also in mid-sweep; then ``stop`` sweep or scan; then ``read-back``
twice that the controller is off and Z withdrawn, withdrawing again and alarming until it is true; only then
``rest`` (lock-in off, bias to its rest value).  Never the coarse motor.  A read-back counts as good only
while the worker acts no more (it has said so, or it is dead): otherwise a late command of its could follow
the second reading.

Events: ``park`` (somebody wants it parked), ``done`` and ``failed`` (the instruction's outcome), ``good``
and ``bad`` (what a read-back showed), ``engage`` (the worker is about to switch feedback on),
``found-engaged`` (the electronics say that the tip is not withdrawn although nobody of ours brought it
there).
"""

from __future__ import annotations

from protocols.states.table import Row, Table

_AGAIN = ("withdraw", "alarm")

PARK_TABLE = Table(
    name="park",
    initial="unknown",
    rows={
        "unknown": {
            "start": Row("probing", ("read-back",)),
            "park": Row("withdrawing", ("withdraw", "quiet-worker")),
        },
        "probing": {
            "good": Row("probing again", ("read-back",)),
            "bad": Row("withdrawing", ("withdraw", "quiet-worker")),
            "failed": Row("withdrawing", ("withdraw", "quiet-worker")),
            "park": Row("withdrawing", ("withdraw", "quiet-worker")),
        },
        "probing again": {
            "good": Row("resting", ("rest",)),
            "bad": Row("withdrawing", ("withdraw", "quiet-worker")),
            "failed": Row("withdrawing", ("withdraw", "quiet-worker")),
            "park": Row("withdrawing", ("withdraw", "quiet-worker")),
        },
        "withdrawing": {
            "done": Row("stopping", ("stop",)),
            "failed": Row("withdrawing", _AGAIN),
            "park": Row("withdrawing"),
        },
        "stopping": {
            "done": Row("verifying", ("read-back",)),
            "failed": Row("verifying", ("alarm", "read-back")),
            "park": Row("stopping"),
        },
        "verifying": {
            "good": Row("verifying again", ("read-back",)),
            "bad": Row("withdrawing", _AGAIN),
            "failed": Row("withdrawing", _AGAIN),
            "park": Row("verifying"),
        },
        "verifying again": {
            "good": Row("resting", ("rest",)),
            "bad": Row("withdrawing", _AGAIN),
            "failed": Row("withdrawing", _AGAIN),
            "park": Row("verifying again"),
        },
        "resting": {
            "done": Row("parked", ("confirm",)),
            "failed": Row("withdrawing", _AGAIN),
            "park": Row("resting"),
        },
        "parked": {
            "park": Row("withdrawing", ("withdraw", "quiet-worker")),
            "engage": Row("engaged"),
            "found-engaged": Row("withdrawing", ("withdraw", "quiet-worker", "alarm")),
        },
        "engaged": {
            "park": Row("withdrawing", ("withdraw", "quiet-worker")),
            "engage": Row("engaged"),
        },
    },
)

PARKED = "parked"
ENGAGED = "engaged"
