"""Others use the instrument too: what they change between two of our jobs is told before anything is done."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from fake_driver import FakeElectronics
from gateway_parts import FRAME, Bench, sweep_at
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.foreign_changes import changes_since
from protocols.messages.jobs import CHANGED_BY_OTHERS, JobState
from protocols.messages.recipes import Park


def turn_bias(e: FakeElectronics) -> None:
    """Somebody sets another bias."""
    e.bias_v = 0.7


def turn_setpoint(e: FakeElectronics) -> None:
    """Somebody sets another setpoint."""
    e.setpoint_a = 3e-10


def start_scan(e: FakeElectronics) -> None:
    """Somebody starts a scan."""
    e.scanning = True


def start_sweep(e: FakeElectronics) -> None:
    """Somebody starts a sweep."""
    e.sweeping = True


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (turn_bias, "bias is 700 mV instead of 500 mV"),
        (turn_setpoint, "setpoint is 300 pA instead of 100 pA"),
        (start_scan, "a scan runs"),
        (start_sweep, "a sweep runs"),
    ],
)
def test_a_change_between_two_jobs_fails_the_next_before_it_acts(
    act: Callable[[FakeElectronics], None], told: str
) -> None:
    """The reason begins as the run expects it and says what changed; nothing was moved or set."""
    bench = Bench()
    bench.engage()
    assert bench.run(sweep_at()).state is JobState.FINISHED
    bench.electronics.calls.clear()
    act(bench.electronics)
    outcome = bench.run(sweep_at(x_m=1e-9))
    assert outcome.state is JobState.FAILED
    assert outcome.reason.startswith(CHANGED_BY_OTHERS)
    assert told in outcome.reason
    assert outcome.disturbed
    assert bench.electronics.names() == []


def test_a_change_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on after it accepts what is there: the next job sets bias and setpoint anyway."""
    bench = Bench()
    bench.engage()
    bench.run(sweep_at())
    bench.electronics.bias_v = 0.7
    assert bench.run(sweep_at()).state is JobState.FAILED
    assert bench.run(sweep_at()).state is JobState.FINISHED
    assert bench.electronics.bias_v == 0.5


def test_switching_feedback_off_is_such_a_change() -> None:
    """As before, with the words by which a run holds."""
    bench = Bench()
    bench.engage()
    bench.electronics.feedback = False
    outcome = bench.run(sweep_at())
    assert outcome.reason.startswith(CHANGED_BY_OTHERS)
    assert outcome.disturbed


def test_a_park_goes_through_whatever_was_changed() -> None:
    """Nobody else's changes keep the tip from being parked, and after a park nothing is compared."""
    bench = Bench()
    bench.engage()
    bench.run(sweep_at())
    turn_bias(bench.electronics)
    assert bench.run(Park(reason="enough")).state is JobState.FINISHED
    bench.engage()
    assert bench.run(FRAME).state is JobState.FINISHED


def test_after_a_job_that_went_wrong_nothing_is_compared() -> None:
    """The electronics may still be at what was cut short."""
    bench = Bench()
    bench.engage()
    bench.electronics.refuse = {"sweep": 1}
    assert bench.run(sweep_at()).state is JobState.FAILED
    bench.electronics.bias_v = 0.499 + 0.1
    assert bench.run(sweep_at()).state is JobState.FINISHED


def test_what_a_panel_tells_holds_too_and_the_fast_trip_is_armed_again() -> None:
    """SafeTip off is such a change; when work goes on afterwards it is armed before anything else."""
    bench = Bench()
    armed: list[float] = []
    found: list[tuple[str, ...]] = [()]
    bench.driver.arm_trip = armed.append  # type: ignore[attr-defined]
    bench.driver.foreign_changes = lambda: found[0]  # type: ignore[attr-defined]
    bench.engage()
    assert armed == [bench.limits.trip_current]
    found[0] = ("SafeTip is off",)
    assert "SafeTip is off" in bench.run(sweep_at()).reason
    assert len(armed) == 1
    found[0] = ()
    assert bench.run(sweep_at()).state is JobState.FINISHED
    assert len(armed) == 2


@given(
    bias=st.floats(-4, 4),
    setpoint=st.floats(1e-12, 5e-9),
    shift=st.floats(-0.9, 0.9),
    share=st.floats(-0.9, 0.9),
)
def test_differences_within_the_tolerances_are_none(
    bias: float, setpoint: float, shift: float, share: float
) -> None:
    """What the limits file allows for read-back is no change by anybody."""
    bench = Bench()
    limits = bench.limits
    left = msgspec.structs.replace(
        bench.electronics.state(), bias_v=bias, setpoint_a=setpoint, feedback=True, withdrawn=False
    )
    found = msgspec.structs.replace(
        left,
        bias_v=bias + shift * limits.bias_tolerance,
        setpoint_a=setpoint * (1 + share * limits.setpoint_tolerance),
    )
    assert changes_since(left, found, limits) == []
