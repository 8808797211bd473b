"""What goes wrong at microscopes, on the simulated one: the gateway's outcome and the truth log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocols.files.truth_log import TruthEntry
from protocols.messages.data import SweepData
from tests.cluster.gateway_harness import await_that
from tests.hil.electronics import SimulatedMicroscope
from tests.hil.laboratory import Laboratory
from tests.hil.scenarios import SCENARIOS, End, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(
    lab: Laboratory,
    microscope: SimulatedMicroscope,
    scenario: Scenario,
    figures: Callable[[str, str], None],
) -> None:
    """What must follow does follow, and what must never happen does not."""
    lab.withdrawn() if scenario.withdrawn_first else lab.engaged()
    figures("must end", scenario.end.value)
    gateway = lab.gateway
    mark = microscope.mark()
    try:
        scenario.break_(microscope, lab.plan)
        if scenario.ask is not None:
            require_answer(lab, scenario)
        if scenario.alarm:
            await_that(
                f"the alarm {scenario.alarm}",
                lambda: [alarm for alarm in gateway.guard().alarms if alarm.startswith(scenario.alarm)],
            )
        if scenario.end is End.LATCHED:
            require_latched(lab, scenario, figures)
        else:
            require_engaged(lab)
        require_truth(microscope.since(mark), scenario)
    finally:
        gateway.stop("the scenario is over")
        gateway.parked()
        scenario.mend(microscope)
        lab.recover()


def require_answer(lab: Laboratory, scenario: Scenario) -> None:
    """The job that was asked for ended as it must."""
    assert scenario.ask is not None
    recipe = scenario.ask(lab.plan)
    if scenario.saturated:
        bodies, _ = lab.carry_out(recipe)
        assert [body.saturated for body in bodies if isinstance(body, SweepData)] == [True]
        return
    answer = lab.gateway.outcome(recipe, lab.expected_s(recipe))
    assert answer.state in scenario.jobs, f"{answer.state.value}: {answer.reason}"
    assert answer.limit == scenario.limit, answer.reason
    assert scenario.reason in answer.reason


def require_latched(lab: Laboratory, scenario: Scenario, figures: Callable[[str, str], None]) -> None:
    """Parked and latched for the right reason; an engage is refused until a person has acknowledged."""
    status = lab.gateway.latched()
    figures("latched", status.latch_reason)
    cause = status.latch_reason.partition(":")[0]
    assert cause in scenario.causes, status.latch_reason
    found = lab.gateway.reading()
    assert found.withdrawn
    assert not found.feedback
    lab.gateway.hold_lease()
    refused = lab.gateway.outcome(lab.plan.engage())
    assert refused.state.value == "refused"
    assert "latched" in refused.reason


def require_engaged(lab: Laboratory) -> None:
    """Tunneling, nothing latched."""
    status = lab.gateway.guard()
    assert (status.park, status.latch) == ("engaged", "open"), status.latch_reason
    found = lab.gateway.reading()
    assert found.feedback
    assert not found.withdrawn


def require_truth(entries: list[TruthEntry], scenario: Scenario) -> None:
    """The microscope's own log: what happened, in this order, and what never did."""
    events = iter([entry.event for entry in entries])
    missing = [wanted for wanted in scenario.happened if wanted not in events]
    assert not missing, f"the microscope's log lacks {missing}"
    wrong = [(entry.event, entry.detail) for entry in entries if entry.event in scenario.never]
    assert not wrong, f"this must never happen, and did: {wrong}"
