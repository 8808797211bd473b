"""The tables of engage and job: every state in which a process can die, or a park can come, has its way
out."""

from __future__ import annotations

import pytest
from gateway_parts import ENGAGE, FRAME, sweep_at
from hypothesis import given
from hypothesis import strategies as st

from protocols.messages.jobs import FINAL_STATES, JobState
from protocols.messages.recipes import BiasFrames, Indentation, Move, Park, Pulse, Recipe, ReferencePatch
from protocols.states.engage import ENGAGE_TABLE
from protocols.states.job import JOB_TABLE, after_restart, is_repeatable
from protocols.states.table import ImpossibleEventError, Machine

UNREPEATABLE: list[Recipe] = [
    Move(x_m=0, y_m=0),
    Pulse(bias_v=1, width_s=0.01),
    Indentation(depth_m=1e-10, bias_v=0.1, dwell_s=0.1),
]
REPEATABLE: list[Recipe] = [
    sweep_at(),
    FRAME,
    ReferencePatch(frame=FRAME),
    BiasFrames(frame=FRAME, biases_v=(0.5,)),
    ENGAGE,
    Park(reason="x"),
]


@pytest.mark.parametrize("state", sorted(ENGAGE_TABLE.states))
def test_a_park_ends_every_engage(state: str) -> None:
    """A park in any state of an engage leads back to withdrawn, and never switches feedback on."""
    machine = Machine(ENGAGE_TABLE, state)
    assert "feedback-on" not in machine.feed("park")
    if machine.state != "withdrawn":
        assert machine.feed("parked") == ()
    assert machine.state == "withdrawn"


@given(st.lists(st.sampled_from(sorted(ENGAGE_TABLE.events)), max_size=40))
def test_feedback_needs_bias_readback_and_leave_in_this_engage(events: list[str]) -> None:
    """Feedback is switched on only after set, good read-back and the guard's leave, all since the last
    request."""
    machine = Machine(ENGAGE_TABLE)
    since_request: list[str] = []
    for event in events:
        if not machine.can(event):
            continue
        if event == "request" and machine.state == "withdrawn":
            since_request = []
        since_request.append(event)
        if "feedback-on" in machine.feed(event):
            assert since_request == ["request", "done", "good", "granted"]


@pytest.mark.parametrize("state", ["asking", "approaching", "settling"])
@pytest.mark.parametrize("event", ["failed", "bad", "cancelled"])
def test_whatever_goes_wrong_near_the_surface_parks(state: str, event: str) -> None:
    """From the moment the guard is asked, every failure asks for a park."""
    machine = Machine(ENGAGE_TABLE, state)
    assert machine.feed(event) == ("ask-park",)
    assert machine.state == "parking"


def test_a_missing_surface_latches() -> None:
    """No surface within reach needs the coarse motor, so a person."""
    machine = Machine(ENGAGE_TABLE, "approaching")
    assert machine.feed("no-surface") == ("latch",)


@pytest.mark.parametrize("recipe", REPEATABLE + UNREPEATABLE, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("state", [JobState.READY, JobState.RUNNING])
def test_after_a_death_every_job_has_an_end(recipe: Recipe, state: JobState) -> None:
    """Waiting jobs were never acted on; running ones were interrupted, or have an unknown outcome."""
    final = after_restart(state, recipe)
    assert final in FINAL_STATES
    if state is JobState.READY:
        assert final is JobState.DISCARDED
    else:
        assert final is (JobState.INTERRUPTED if is_repeatable(recipe) else JobState.OUTCOME_UNKNOWN)


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_a_final_state_stays(state: JobState) -> None:
    """Nothing happens to a job that is over."""
    assert dict(JOB_TABLE.rows[state.value]) == {}
    with pytest.raises(ImpossibleEventError):
        after_restart(state, sweep_at())


@given(st.lists(st.sampled_from(sorted(JOB_TABLE.events)), max_size=20))
def test_nothing_acts_without_an_intent_and_nothing_finishes_without_a_commit(events: list[str]) -> None:
    """``act`` comes with ``write-intent``; FINISHED is entered by ``committed`` alone, after
    ``write-result``."""
    machine = Machine(JOB_TABLE)
    written = False
    for event in events:
        if not machine.can(event):
            continue
        instructions = machine.feed(event)
        if "act" in instructions:
            assert instructions.index("write-intent") < instructions.index("act")
        written = written or "write-result" in instructions
        if machine.state == JobState.FINISHED.value:
            assert event == "committed"
            assert written
            break


def test_a_full_queue_leaves_the_id_unused() -> None:
    """The job is as new as before."""
    machine = Machine(JOB_TABLE)
    machine.feed("queue-full")
    assert machine.state == "new"
