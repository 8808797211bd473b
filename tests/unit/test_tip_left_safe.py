"""What the executor must not do with a tip that somebody or something else has taken hold of: electronics
that tripped, a sweep or scan that still runs, a bias that a person turned while the tip travelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fake_driver import FakeDriver, FakeElectronics
from gateway_parts import ENGAGE, FRAME, SPECTRUM, Bench, sweep_at

from protocols.errors import DriverError
from protocols.messages.data import InstrumentState
from protocols.messages.jobs import CHANGED_BY_OTHERS, JobState
from protocols.messages.recipes import BiasFrames, Engage, Indentation, Move, Recipe


def engaged() -> Bench:
    """A bench with the tip tunneling."""
    bench = Bench()
    bench.engage()
    return bench


def feedback_on(electronics: FakeElectronics) -> bool:
    """Whether anybody asked for feedback on."""
    return any(name == "set_feedback" and on for _, name, on in electronics.calls)


# After a job that went wrong


def test_a_tip_that_the_electronics_withdrew_by_themselves_is_not_brought_back() -> None:
    """SafeTip ended the job and the tip is still on its way up: no feedback, the guard parks."""
    bench = engaged()
    e = bench.electronics
    tripped: list[bool] = []
    original = bench.driver.state

    def reading() -> InstrumentState:
        return msgspec.structs.replace(original(), tripped=bool(tripped))

    def trip(x_m: float, y_m: float, speed_m_s: float) -> None:
        e.feedback, e.z_m = False, 30e-9
        tripped.append(True)
        raise DriverError("the move was cut short.")

    bench.driver.state = reading  # type: ignore[method-assign]
    bench.driver.move = trip  # type: ignore[method-assign]
    outcome = bench.run(sweep_at(x_m=1e-9))
    assert outcome.state is not JobState.FINISHED
    assert not feedback_on(e)
    assert [latch for _, _, latch in bench.guard.asked] == ["trip"]


def test_a_trip_latches_also_if_only_a_job_has_seen_it() -> None:
    """The guard looks now and then; the electronics may say it for a moment only, with the tip up already."""
    bench = engaged()
    e = bench.electronics
    tripped: list[bool] = []
    original = bench.driver.state

    def trip(x_m: float, y_m: float, speed_m_s: float) -> None:
        e.feedback, e.withdrawn, e.z_m = False, True, 250e-9
        tripped.append(True)
        raise DriverError("the move was cut short.")

    bench.driver.state = lambda: msgspec.structs.replace(original(), tripped=bool(tripped))  # type: ignore[method-assign]
    bench.driver.move = trip  # type: ignore[method-assign]
    assert bench.run(sweep_at(x_m=1e-9)).state is not JobState.FINISHED
    assert [latch for _, _, latch in bench.guard.asked] == ["trip"]


def test_a_trip_that_was_there_before_a_job_latches_no_second_time() -> None:
    """The status stays until the controller is on again: a person has acknowledged it."""
    bench = Bench()
    original = bench.driver.state
    bench.driver.state = lambda: msgspec.structs.replace(original(), tripped=True)  # type: ignore[method-assign]
    bench.electronics.refuse = {"set_setpoint": 1}
    assert bench.run(ENGAGE).state is JobState.FAILED
    assert [latch for _, _, latch in bench.guard.asked if latch] == []


def test_feedback_is_not_switched_on_while_a_sweep_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that does not come back sweeps on: it is stopped, or the tip is parked; at the bias of the
    moment nothing is switched on."""
    monkeypatch.setattr("actors.gateway.tip_left_safe.STOPPED_WITHIN_S", 0.05)
    bench = engaged()
    e = bench.electronics
    switched: list[bool] = []

    def hangs(recipe: object) -> Any:
        e.feedback, e.sweeping, e.bias_v = False, True, -0.01
        raise DriverError("awaited an answer to BiasSpectr.Start.")

    def switch(on: bool) -> None:
        switched.append(e.sweeping)
        FakeDriver.set_feedback(bench.driver, on)

    bench.driver.sweep = hangs  # type: ignore[method-assign]
    bench.driver.set_feedback = switch  # type: ignore[method-assign]
    outcome = bench.run(sweep_at())
    assert outcome.state is JobState.FAILED
    assert True not in switched
    assert bench.guard.asked or not e.sweeping


def test_a_sweep_that_ends_when_it_is_stopped_needs_no_park() -> None:
    """Stopping it is enough: feedback is back on at the bias that was set."""
    bench = engaged()
    e = bench.electronics

    def hangs(recipe: object) -> Any:
        e.feedback, e.sweeping, e.bias_v = False, True, -0.01
        raise DriverError("awaited an answer to BiasSpectr.Start.")

    def stop() -> None:
        FakeDriver.stop(bench.driver)
        e.sweeping = False

    bench.driver.sweep = hangs  # type: ignore[method-assign]
    bench.driver.stop = stop  # type: ignore[method-assign]
    assert bench.run(sweep_at()).state is JobState.FAILED
    assert (e.feedback, e.bias_v, bench.guard.asked) == (True, 0.5, [])


def test_a_scan_that_a_failed_job_left_behind_is_stopped() -> None:
    """The scan began though its start was not answered: it does not go on under the next job."""
    bench = engaged()
    e = bench.electronics

    def lost(recipe: object) -> Iterator[Any]:
        e.scanning = True
        raise DriverError("awaited an answer to Scan.Action.")
        yield

    def stop() -> None:
        FakeDriver.stop(bench.driver)
        e.scanning = False

    bench.driver.frame = lost  # type: ignore[method-assign]
    bench.driver.stop = stop  # type: ignore[method-assign]
    assert bench.run(FRAME).state is JobState.FAILED
    assert not e.scanning
    assert e.feedback


# While a job runs


def test_a_bias_that_was_turned_while_the_tip_travelled_is_no_way_through_zero() -> None:
    """A person changes polarity during the move: the job ends and says so; no ramp goes through 0 V with
    feedback on."""
    bench = engaged()
    e = bench.electronics
    original = bench.driver.move

    def somebody_turns(x_m: float, y_m: float, speed_m_s: float) -> None:
        original(x_m, y_m, speed_m_s)
        e.bias_v = -0.5

    bench.driver.move = somebody_turns  # type: ignore[method-assign]
    outcome = bench.run(sweep_at(x_m=5e-9))
    assert not e.crashed
    assert outcome.state is JobState.FAILED
    assert outcome.reason.startswith(CHANGED_BY_OTHERS)
    assert "bias is -500 mV instead of 500 mV" in outcome.reason


def test_a_change_during_the_first_of_several_images_is_told() -> None:
    """The bias was turned while the first image was scanned: its data are not what they say."""
    bench = engaged()
    e = bench.electronics
    original = bench.driver.frame

    def somebody_turns(recipe: Any) -> Iterator[Any]:
        yield from original(recipe)
        if recipe.bias_v == 0.5:
            e.bias_v = 0.61

    bench.driver.frame = somebody_turns  # type: ignore[method-assign]
    outcome = bench.run(BiasFrames(frame=FRAME, biases_v=(0.5, 0.4)))
    assert outcome.state is JobState.FAILED
    assert outcome.reason.startswith(CHANGED_BY_OTHERS)
    assert "bias is 610 mV instead of 500 mV" in outcome.reason


# Before a job


@pytest.mark.parametrize("what", ["scanning", "sweeping"])
def test_nothing_is_begun_while_somebody_elses_scan_or_sweep_runs(what: str) -> None:
    """Told once is not enough: as long as it runs, every job fails before it acts."""
    bench = engaged()
    assert bench.run(sweep_at()).state is JobState.FINISHED
    setattr(bench.electronics, what, True)
    bench.electronics.calls.clear()
    for _ in range(3):
        outcome = bench.run(Move(x_m=1e-9, y_m=0.0))
        assert outcome.state is JobState.FAILED
        assert outcome.reason.startswith(CHANGED_BY_OTHERS)
    assert bench.electronics.names() == []
    setattr(bench.electronics, what, False)
    assert bench.run(Move(x_m=1e-9, y_m=0.0)).state is JobState.FINISHED


def test_a_new_connection_is_armed_before_it_acts() -> None:
    """The driver was replaced while the tip tunnels: the new one knows of no fast trip, and is told."""
    bench = engaged()
    armed: list[str] = []
    for name in ("old", "new"):
        driver = FakeDriver(bench.electronics)
        driver.arm_trip = lambda trip_a, name=name: armed.append(name)  # type: ignore[attr-defined]
        driver.foreign_changes = lambda: ()  # type: ignore[attr-defined]
        bench.driver = driver
        assert bench.run(Move(x_m=1e-9, y_m=0.0)).state is JobState.FINISHED
        assert bench.run(Move(x_m=0.0, y_m=0.0)).state is JobState.FINISHED
    assert armed == ["old", "new"]


# Feedback, bias, modulation


def test_feedback_is_not_restored_into_an_indentation() -> None:
    """Whether the tip shaper still runs does not show: the tip goes up."""
    bench = engaged()
    e = bench.electronics

    def lost(depth_m: float, bias_v: float, dwell_s: float) -> None:
        e.feedback, e.bias_v = False, bias_v
        raise DriverError("the connection was lost while an answer to TipShaper.Start was awaited.")

    bench.driver.indent = lost  # type: ignore[method-assign]
    outcome = bench.run(Indentation(depth_m=0.3e-9, bias_v=0.1, dwell_s=0.1))
    assert outcome.state is JobState.OUTCOME_UNKNOWN
    assert not feedback_on(e)
    assert e.withdrawn


def test_feedback_is_not_restored_at_a_bias_that_was_merely_found() -> None:
    """Somebody has left 1 mV: a move may go on with it, but nothing is switched on at it."""
    bench = engaged()
    e = bench.electronics
    e.bias_v = 0.001
    assert bench.run(Move(x_m=1e-9, y_m=0.0)).state is JobState.FAILED

    def lost(x_m: float, y_m: float, speed_m_s: float) -> None:
        e.feedback = False
        raise DriverError("the move was cut short.")

    bench.driver.move = lost  # type: ignore[method-assign]
    e.calls.clear()
    assert bench.run(Move(x_m=2e-9, y_m=0.0)).state is not JobState.FINISHED
    assert not feedback_on(e)
    assert e.withdrawn


@pytest.mark.parametrize("recipe", [sweep_at(lockin=None), Engage(bias_v=0.3, setpoint_a=1e-10)])
def test_a_modulation_that_a_job_does_not_reckon_with_is_off_before_its_bias(recipe: Recipe) -> None:
    """The sweep before has left it on: bias less amplitude would come nearer to zero than allowed."""
    bench = engaged()
    e = bench.electronics
    assert bench.run(sweep_at()).state is JobState.FINISHED
    assert e.lockin_on
    at_bias: list[bool] = []
    original = bench.driver.set_bias

    def look(bias_v: float, slew_v_s: float) -> None:
        at_bias.append(e.lockin_on)
        original(bias_v, slew_v_s)

    bench.driver.set_bias = look  # type: ignore[method-assign]
    assert bench.run(recipe).state is JobState.FINISHED
    assert at_bias == [False]


def test_the_same_modulation_stays_from_sweep_to_sweep() -> None:
    """Another one is switched off before the bias goes where it was not checked."""
    bench = engaged()
    assert SPECTRUM.lockin is not None
    smaller = msgspec.structs.replace(SPECTRUM.lockin, amplitude_v=0.001)
    told: list[list[Any]] = []
    for lockin in (SPECTRUM.lockin, SPECTRUM.lockin, smaller):
        bench.electronics.calls.clear()
        assert bench.run(sweep_at(lockin=lockin)).state is JobState.FINISHED
        told.append([argument for _, name, argument in bench.electronics.calls if name == "set_lockin"])
    assert told == [[SPECTRUM.lockin], [SPECTRUM.lockin], [None, smaller]]
