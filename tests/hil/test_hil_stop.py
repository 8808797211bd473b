"""The emergency stop: how soon the retraction begins."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster.gateway_harness import await_that
from tests.hil.figures import milliseconds
from tests.hil.laboratory import Laboratory

BOUND_S = 1.0
"""On a real microscope a stop that takes longer than this fails.  No promise: the table has the figures."""


def test_stop_latency(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """The emergency stop retracts the tip, every second time in the middle of a sweep."""
    answered: list[float] = []
    withdrawn: list[float] = []
    begun: list[float] = []
    for trial in range(lab.plan.choices.trials):
        lab.engaged()
        gateway = lab.gateway
        if trial % 2:
            lab.sweeping()
        mark = lab.microscope.mark() if lab.microscope else 0
        sent_s = time.monotonic()
        answer = gateway.stop(f"qualification: stop {trial + 1}")
        assert answer["withdrawn"], f"the stop did not withdraw: {answer['detail']}"
        answered.append(answer["round_trip_s"])

        def is_up() -> bool:
            state = lab.gateway.guard().instrument
            return state is not None and state.withdrawn and not state.feedback

        await_that("the tip at its withdrawn position", is_up)
        withdrawn.append(time.monotonic() - sent_s)
        status = gateway.parked("operator")
        assert status.latch == "open"
        if lab.microscope:
            retraction = lab.microscope.since(mark, "retraction")[0]
            begun.append(retraction.monotonic_s - sent_s)
    figures("retraction has begun", milliseconds(answered) + " (until the guard's answer)")
    if begun:
        figures("in the microscope's log", milliseconds(begun))
    figures("withdrawn, read back", milliseconds(withdrawn))
    if lab.microscope is None:
        assert max(answered) < BOUND_S, "the stop takes too long: see what else uses the guard's ports"
