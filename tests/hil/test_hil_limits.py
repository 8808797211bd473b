"""Limits refuse: nothing beyond them is begun, and the electronics are afterwards as they were before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocols.messages.jobs import JobState
from tests.hil.laboratory import Laboratory
from tests.hil.refusals import REFUSALS, Refusal

ACTS = (
    *("move", "bias", "setpoint", "feedback", "lockin", "sweep_done", "frame_done"),
    *("pulse", "indentation", "retraction", "z", "motor"),
)
"""Entries of the simulated microscope's log that say that something was done to the tip."""


def test_the_gateway_obeys_the_limits_file(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """The gateway obeys the limits file that was given, whole and unchanged."""
    assert lab.gateway.limits() == lab.limits
    figures("electronics", lab.info.name)
    for name, unit, (low, high) in (
        ("range of x and y", "nm", lab.info.x_range_m),
        ("range of z", "nm", lab.info.z_range_m),
    ):
        figures(name, f"{low * 1e9:g} to {high * 1e9:g} {unit}")
    figures("preamplifier's rail", f"{lab.info.preamplifier_rail_a * 1e9:g} nA")


@pytest.mark.hil("while withdrawn")
@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_limit_refuses_while_withdrawn(lab: Laboratory, refusal: Refusal) -> None:
    """With the tip withdrawn, a request beyond the limit is refused with its name and nothing is done."""
    lab.withdrawn()
    refuse(lab, refusal)
    lab.refused.add(refusal.title)


@pytest.mark.hil("while tunneling")
@pytest.mark.parametrize("refusal", [r for r in REFUSALS if not r.touching], ids=str)
def test_a_limit_refuses_while_tunneling(lab: Laboratory, refusal: Refusal) -> None:
    """The same while the tip tunnels; not tried where the limit did not hold before."""
    if refusal.title not in lab.refused:
        pytest.skip("this limit did not refuse with the tip withdrawn: not tried while tunneling")
    if lab.gateway.guard().park != "engaged":
        lab.engaged()
    refuse(lab, refusal)


def refuse(lab: Laboratory, refusal: Refusal) -> None:
    """Ask, be refused, and see that the electronics stand as before."""
    gateway = lab.gateway
    mark = lab.microscope.mark() if lab.microscope else 0
    before = gateway.reading()
    answer = gateway.outcome(refusal.ask(lab.plan))
    assert answer.state is JobState.REFUSED, f"it was not refused but {answer.state.value}: {answer.reason}"
    assert answer.limit == refusal.limit, f"refused for {answer.limit or 'no limit'}: {answer.reason}"
    assert not lab.unmoved(before, gateway.reading())
    if lab.microscope:
        done = [(entry.event, entry.detail) for entry in lab.microscope.since(mark, *ACTS)]
        assert not done, f"refused, yet the microscope did {done}"
