"""The executor over fake electronics: the order of calls of every kind of job, and how each can end."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from gateway_parts import ENGAGE, FRAME, SPECTRUM, Bench, job_of, shipped_limits, sweep_at
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LatchedError
from protocols.messages.jobs import JobState
from protocols.messages.recipes import (
    BiasFrames,
    Engage,
    Indentation,
    Move,
    Park,
    Pulse,
    Recipe,
    ReferencePatch,
)


def test_a_sweep_step_by_step() -> None:
    """Move under feedback, bias, setpoint, lock-in, settle, sweep; nothing in between; then read back."""
    bench = Bench()
    bench.engage()
    outcome = bench.run(sweep_at(x_m=5e-9))
    assert outcome.state is JobState.FINISHED
    assert bench.electronics.names() == [
        "begin_job",
        "move",
        "set_bias",
        "set_setpoint",
        "set_lockin",
        "settle",
        "sweep",
        "end_job",
    ]
    assert len(outcome.chunks) == 1
    assert np.allclose(outcome.travel_s, 5e-9 / bench.limits.tip_speed, rtol=1e-9, atol=0)
    assert outcome.settle_s == SPECTRUM.settle_s
    assert outcome.ended_s > outcome.began_s
    assert outcome.final is not None
    assert outcome.final.x_m == 5e-9


def test_engage_sets_and_reads_back_before_feedback() -> None:
    """Bias and setpoint while withdrawn, read back, the guard's leave, feedback, current, settling."""
    bench = Bench()
    outcome = bench.run(ENGAGE)
    assert outcome.state is JobState.FINISHED
    names = [n for _, n, _ in bench.electronics.calls]
    feedback = names.index("set_feedback")
    assert "state" in names[names.index("set_setpoint") : feedback]
    assert names.index("set_bias") < names.index("set_setpoint") < feedback < names.index("settle")
    assert bench.executor.engage_state == "engaged"
    assert bench.guard.engaged == ["run/d0001/a1"]


@pytest.mark.parametrize("call", ["set_bias", "set_setpoint", "set_lockin", "set_feedback", "settle"])
def test_an_engage_that_fails_anywhere_ends_withdrawn(call: str) -> None:
    """Whichever call fails, the tip is withdrawn afterwards and the job says why."""
    bench = Bench()
    bench.electronics.refuse = {call: -1}
    outcome = bench.run(ENGAGE)
    bench.electronics.refuse = {}
    assert outcome.state in {JobState.FAILED, JobState.INTERRUPTED}
    assert bench.electronics.withdrawn
    assert not bench.electronics.feedback
    assert bench.executor.engage_state == "withdrawn"


def test_an_engage_whose_bias_does_not_read_back_stays_withdrawn() -> None:
    """Feedback is never switched on at a bias that is not the one that was set."""
    bench = Bench()
    original = bench.driver.set_bias

    def somebody_interferes(bias_v: float, slew_v_s: float) -> None:
        original(bias_v, slew_v_s)
        bench.electronics.bias_v = 0.2

    bench.driver.set_bias = somebody_interferes  # type: ignore[method-assign]
    outcome = bench.run(ENGAGE)
    assert outcome.state is JobState.FAILED
    assert "read back" in outcome.reason
    assert "set_feedback" not in bench.electronics.names()


def test_a_latched_guard_refuses_an_engage() -> None:
    """The job is refused with the latch's reason and nothing was switched on."""
    bench = Bench()
    bench.guard.refusal = LatchedError("the tip is latched parked: trip.")
    outcome = bench.run(ENGAGE)
    assert outcome.state is JobState.REFUSED
    assert "latched" in outcome.reason
    assert "set_feedback" not in bench.electronics.names()
    assert bench.executor.engage_state == "withdrawn"


def test_no_surface_latches() -> None:
    """When no current comes within engage_time_max the guard is asked to latch: it needs the coarse motor."""
    bench = Bench(shipped_limits(engage_time_max=1.0))
    bench.electronics.no_surface = True
    outcome = bench.run(ENGAGE)
    assert outcome.state in {JobState.FAILED, JobState.INTERRUPTED}
    assert bench.guard.asked[0][1:] == ("no-surface", "no-surface")
    assert bench.electronics.withdrawn


def test_another_polarity_goes_through_feedback_off() -> None:
    """The bias never passes zero with feedback on, and feedback comes back only at the new bias."""
    bench = Bench()
    bench.engage()
    outcome = bench.run(msgspec.structs.replace(FRAME, bias_v=-0.5))
    assert outcome.state is JobState.FINISHED, outcome
    calls = [(n, a) for _, n, a in bench.electronics.calls if n in {"set_feedback", "set_bias"}]
    assert calls == [("set_feedback", False), ("set_bias", -0.5), ("set_feedback", True)]
    assert not bench.electronics.crashed


def test_a_polarity_change_that_takes_too_long_is_refused_before_anything_moves() -> None:
    """The limit on time with feedback off holds for it too."""
    bench = Bench(shipped_limits(bias_slew=0.1, feedback_off_time_max=5.0))
    bench.engage()
    outcome = bench.run(msgspec.structs.replace(FRAME, bias_v=-0.5))
    assert outcome.state is JobState.REFUSED
    assert outcome.limit == "feedback_off_time_max"
    assert bench.electronics.names() == []


def test_frames_come_line_by_line() -> None:
    """Each line is handed on as it comes; frames at several biases carry the number of their image."""
    bench = Bench()
    bench.engage()
    outcome = bench.run(BiasFrames(frame=FRAME, biases_v=(0.5, 0.3, -0.3)))
    assert outcome.state is JobState.FINISHED
    assert [line.image for line in bench.lines] == [0] * 4 + [1] * 4 + [2] * 4
    assert [line.rows for line in bench.lines[:4]] == [(0,), (1,), (2,), (3,)]
    assert not bench.electronics.crashed
    assert not bench.electronics.lockin_on


EVERY: list[Recipe] = [
    sweep_at(x_m=5e-9),
    FRAME,
    ReferencePatch(frame=FRAME),
    BiasFrames(frame=FRAME, biases_v=(0.5, -0.4)),
    Move(x_m=1e-9, y_m=2e-9),
    Pulse(bias_v=2.0, width_s=0.01),
    Indentation(depth_m=1e-10, bias_v=0.1, dwell_s=0.01),
]


@pytest.mark.parametrize("recipe", EVERY, ids=lambda r: type(r).__name__)
def test_nothing_acts_on_a_parked_tip(recipe: Recipe) -> None:
    """Parked: engage first; nothing reaches the electronics."""
    bench = Bench()
    outcome = bench.run(recipe)
    assert outcome.state is JobState.REFUSED
    assert "engage first" in outcome.reason
    assert bench.electronics.names() == []


@pytest.mark.parametrize("recipe", EVERY, ids=lambda r: type(r).__name__)
def test_every_kind_of_job_ends_well(recipe: Recipe) -> None:
    """Each kind finishes and leaves feedback on, at a bias that is allowed."""
    bench = Bench()
    bench.engage()
    outcome = bench.run(recipe)
    assert outcome.state is JobState.FINISHED, outcome
    assert bench.electronics.feedback
    assert abs(bench.electronics.bias_v) >= bench.limits.min_feedback_bias
    assert bench.electronics.names()[-1] == "end_job"


@given(
    recipe=st.sampled_from(EVERY),
    call=st.sampled_from(
        [
            "state",
            "begin_job",
            "set_bias",
            "set_setpoint",
            "set_feedback",
            "set_lockin",
            "settle",
            "move",
            "sweep",
            "frame",
            "pulse",
            "indent",
            "end_job",
            "stop",
        ]
    ),
    times=st.sampled_from([1, 2, -1]),
)
@settings(max_examples=150, deadline=None)
def test_whatever_fails_the_tip_is_left_safe(recipe: Recipe, call: str, times: int) -> None:
    """Any failing call: a final state with a reason, and the tip under feedback at an allowed bias or
    withdrawn."""
    bench = Bench()
    bench.engage()
    bench.electronics.refuse = {call: times}
    outcome = bench.run(recipe)
    bench.electronics.refuse = {}
    e = bench.electronics
    if outcome.state is not JobState.FINISHED:
        assert outcome.reason
    under_control = e.feedback and not e.withdrawn and abs(e.bias_v) >= bench.limits.min_feedback_bias
    assert under_control or (e.withdrawn and not e.feedback)
    assert not e.crashed
    if e.withdrawn:
        assert bench.executor.engage_state == "withdrawn"


@pytest.mark.parametrize("recipe", [sweep_at(), FRAME], ids=["sweep", "frame"])
def test_a_park_in_the_middle_interrupts(recipe: Recipe) -> None:
    """The running job is interrupted with the park's reason; nothing acts on the withdrawn tip."""
    bench = Bench()
    bench.engage()
    bench.electronics.hold_sweeps = True
    thread, outcomes, _ = bench.start(recipe)
    bench.electronics.await_call("sweep" if recipe is not FRAME else "frame")
    bench.park("hands off", await_quiet=True)
    thread.join(10)
    assert outcomes[0].state is JobState.INTERRUPTED
    assert outcomes[0].reason == "parked: hands off"
    assert bench.electronics.withdrawn
    assert not bench.electronics.feedback
    assert bench.quiet[-1] == 1


def test_a_park_in_an_unrepeatable_job_leaves_its_outcome_unknown() -> None:
    """A move that a park cuts short is never repeated by itself."""
    bench = Bench()
    bench.engage()
    original = bench.driver.move

    def parked_meanwhile(x_m: float, y_m: float, speed_m_s: float) -> None:
        original(x_m, y_m, speed_m_s)
        bench.park("hands off")

    bench.driver.move = parked_meanwhile  # type: ignore[method-assign]
    outcome = bench.run(Move(x_m=1e-9, y_m=0.0))
    assert outcome.state is JobState.OUTCOME_UNKNOWN


def test_a_cancelled_sweep_leaves_the_tip_engaged() -> None:
    """Cancelling stops the sweep at once; feedback is back on at the bias that was set."""
    bench = Bench()
    bench.engage()
    bench.electronics.hold_sweeps = True
    thread, outcomes, job = bench.start(sweep_at())
    bench.electronics.await_call("sweep")
    job.cut, job.cut_kind = "cancelled: enough", "cancel"
    bench.executor.interrupt()
    thread.join(10)
    assert (outcomes[0].state, outcomes[0].reason) == (JobState.INTERRUPTED, "cancelled: enough")
    assert bench.electronics.feedback
    assert not bench.electronics.withdrawn


def test_a_foreign_change_fails_the_job_and_says_what_changed() -> None:
    """Somebody turned the bias during the sweep: the job fails with both values."""
    bench = Bench()
    bench.engage()
    original = bench.driver.sweep

    def somebody_turns(recipe: object) -> object:
        data = original(recipe)  # type: ignore[arg-type]
        bench.electronics.bias_v = 0.7
        return data

    bench.driver.sweep = somebody_turns  # type: ignore[method-assign,assignment]
    outcome = bench.run(sweep_at())
    assert outcome.state is JobState.FAILED
    assert "bias is 700 mV instead of 500 mV" in outcome.reason


def test_feedback_found_off_fails_before_anything_moves() -> None:
    """Somebody switched feedback off between jobs."""
    bench = Bench()
    bench.engage()
    bench.electronics.feedback = False
    outcome = bench.run(sweep_at())
    assert outcome.state is JobState.FAILED
    assert "found off" in outcome.reason
    assert "move" not in bench.electronics.names()


def test_an_engaged_tip_takes_bias_and_setpoint_from_an_engage() -> None:
    """Engage while tunneling changes bias and setpoint and does nothing else."""
    bench = Bench()
    bench.engage()
    outcome = bench.run(Engage(bias_v=0.3, setpoint_a=2e-10, settle_s=0.1))
    assert outcome.state is JobState.FINISHED
    assert "set_feedback" not in bench.electronics.names()
    assert (bench.electronics.bias_v, bench.electronics.setpoint_a) == (0.3, 2e-10)


def test_a_park_job_is_the_guards_work() -> None:
    """The worker asks, the guard parks; the job finishes when the park is confirmed."""
    bench = Bench()
    bench.engage()
    outcome = bench.run(Park(reason="good night"))
    assert outcome.state is JobState.FINISHED
    assert bench.guard.asked == [("good night", "job", "")]
    assert bench.electronics.withdrawn
    again = bench.run(Park(reason="again"))
    assert again.state is JobState.FINISHED


def test_long_settling_is_cut_into_slices() -> None:
    """A park or a cancellation is noticed within a slice."""
    bench = Bench()
    bench.engage()
    job = job_of(sweep_at(settle_s=10.0))
    original = bench.driver.settle

    def cancelled_meanwhile(seconds: float) -> None:
        original(seconds)
        job.cut, job.cut_kind = "cancelled: enough", "cancel"

    bench.driver.settle = cancelled_meanwhile  # type: ignore[method-assign]
    outcome = bench.executor.run(job, bench.lines.append)
    assert outcome.state is JobState.INTERRUPTED
    assert bench.electronics.names().count("settle") == 1
    assert "sweep" not in bench.electronics.names()
