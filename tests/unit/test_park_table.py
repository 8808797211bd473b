"""The park table and its runner: every path from every state ends withdrawn and verified, in the fixed
order."""

from __future__ import annotations

import itertools
import threading

import pytest
from fake_driver import FakeDriver, FakeElectronics
from gateway_parts import shipped_limits
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway.withdrawal import Parker
from protocols.messages.data import InstrumentState
from protocols.states.park import PARK_TABLE
from protocols.states.table import Machine

CALLS = {"withdraw", "stop", "read-back", "rest"}


def run_to_the_end(machine: Machine, pending: str) -> list[str]:
    """Carry out instructions that all succeed until there is none left."""
    done = []
    while pending:
        done.append(pending)
        instructions = machine.feed("good" if pending == "read-back" else "done")
        pending = next((i for i in instructions if i in CALLS), "")
    return done


@pytest.mark.parametrize("state", sorted(PARK_TABLE.states))
def test_a_park_order_is_obeyed_in_every_state(state: str) -> None:
    """In whatever state an order finds the machine, carrying out what follows ends parked."""
    machine = Machine(PARK_TABLE, state)
    underway = {
        "withdrawing": "withdraw",
        "stopping": "stop",
        "verifying": "read-back",
        "verifying again": "read-back",
        "resting": "rest",
    }
    instructions = machine.feed("park")
    pending = next((i for i in instructions if i in CALLS), underway.get(state, ""))
    done = run_to_the_end(machine, pending)
    assert machine.state == "parked"
    if state not in underway:
        assert done == ["withdraw", "stop", "read-back", "read-back", "rest"]
        assert instructions[0] == "withdraw"


@given(st.lists(st.sampled_from(["done", "failed", "good", "bad", "park"]), max_size=40))
def test_nothing_rests_before_two_good_readings_in_a_row(events: list[str]) -> None:
    """Lock-in and bias are touched only right after two consecutive good read-backs that follow a stop."""
    machine = Machine(PARK_TABLE, "engaged")
    machine.feed("park")
    history: list[str] = []
    for event in events:
        if not machine.can(event):
            continue
        instructions = machine.feed(event)
        if event != "park":
            history.append(event)
        if "rest" in instructions:
            assert history[-2:] == ["good", "good"]
            assert history[-3] in {"done", "failed"}
        if machine.state == "parked":
            break


@given(st.lists(st.sampled_from(["failed", "bad"]), max_size=6))
def test_whatever_fails_is_tried_again_with_an_alarm(failures: list[str]) -> None:
    """No number of failures leaves the machine without a next instruction, and each raises the alarm."""
    machine = Machine(PARK_TABLE, "engaged")
    pending = machine.feed("park")[0]
    for failure in failures:
        event = failure if machine.can(failure) else "failed"
        instructions = machine.feed(event)
        assert "alarm" in instructions
        pending = next(i for i in instructions if i in CALLS)
    run_to_the_end(machine, pending)
    assert machine.state == "parked"


def test_only_a_parked_tip_is_left_alone_at_start() -> None:
    """At start two good readings lead to rest without a withdrawal; anything else withdraws first."""
    for first, second in itertools.product(["good", "bad", "failed"], repeat=2):
        machine = Machine(PARK_TABLE)
        machine.feed("start")
        instructions = machine.feed(first)
        if first == "good":
            instructions = machine.feed(second)
        if (first, second) == ("good", "good"):
            assert instructions == ("rest",)
        elif first != "good" or second != "good":
            assert instructions[0] == "withdraw"


class Runner:
    """A parker over fake electronics."""

    def __init__(self) -> None:
        self.electronics = FakeElectronics()
        self.silent = True
        self.silenced: list[int] = []
        self.confirmed: list[int] = []
        self.alarms: list[str] = []
        self.parker = Parker(
            lambda: FakeDriver(self.electronics, "guard"),
            shipped_limits(),
            silence=lambda generation, reason: self.silenced.append(generation),
            is_silent=lambda: self.silent,
            confirmed=self.confirmed.append,
            alarm=self.alarms.append,
        )

    def engaged(self) -> Runner:
        """With the tip at the surface and the machine knowing it."""
        self.parker.start()
        self.finish()
        assert self.parker.engage()
        e = self.electronics
        e.feedback, e.withdrawn, e.z_m, e.bias_v, e.lockin_on = True, False, 0.0, 0.5, True
        e.calls.clear()
        return self

    def finish(self, most: int = 200) -> None:
        """Do all steps."""
        for _ in range(most):
            if not self.parker.busy:
                return
            self.parker.step()
        raise AssertionError(f"still {self.parker.state} after {most} steps")


def test_the_order_of_calls_of_a_park() -> None:
    """Withdraw, stop, two readings, lock-in off, bias to rest; the worker is silenced with the
    withdrawal."""
    runner = Runner().engaged()
    done = runner.parker.order("test", "operator")
    assert done.withdrawn
    assert runner.electronics.names() == ["withdraw"]
    assert runner.silenced == [1]
    runner.finish()
    names = [name for _, name, _ in runner.electronics.calls if name != "info"]
    assert names == ["withdraw", "stop", "state", "state", "set_lockin", "set_bias"]
    assert runner.parker.state == "parked"
    assert runner.confirmed[-1] == 1
    assert runner.electronics.bias_v == shipped_limits().rest_bias


def test_a_lying_withdrawal_is_repeated_until_the_readings_agree() -> None:
    """A withdrawal that the electronics acknowledge and do not carry out is found out, alarmed and
    repeated."""
    runner = Runner().engaged()
    runner.electronics.ignore_withdraw = 3
    runner.parker.order("test", "operator")
    runner.finish()
    assert runner.electronics.names().count("withdraw") == 4
    assert any("read-back" in text for text in runner.alarms)
    assert runner.alarms[-1] == ""
    assert runner.electronics.withdrawn


@given(
    failing=st.dictionaries(
        st.sampled_from(["withdraw", "stop", "state", "set_lockin", "set_bias"]),
        st.integers(1, 3),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None)
def test_a_park_survives_any_failing_call(failing: dict[str, int]) -> None:
    """Whatever call fails, however often, the tip ends withdrawn, verified and at rest."""
    runner = Runner().engaged()
    runner.electronics.refuse = dict(failing)
    runner.parker.order("test", "operator")
    runner.finish()
    assert runner.parker.state == "parked"
    assert runner.electronics.withdrawn
    assert not runner.electronics.feedback
    assert not runner.electronics.lockin_on


def test_readings_do_not_count_while_the_worker_may_act() -> None:
    """A park is not confirmed before the worker has said that it acts no more."""
    runner = Runner().engaged()
    runner.silent = False
    runner.parker.order("test", "operator")
    for _ in range(6):
        runner.parker.step()
    assert runner.parker.state == "verifying"
    assert runner.confirmed == [0]
    runner.silent = True
    runner.finish()
    assert runner.confirmed == [0, 1]


def test_a_stop_during_a_park_withdraws_again_and_changes_nothing_else() -> None:
    """Each Stop reaches the electronics at once, also while a park is under way."""
    runner = Runner().engaged()
    runner.parker.order("first", "operator")
    runner.parker.step()
    runner.parker.order("second", "operator")
    assert runner.electronics.names().count("withdraw") == 2
    assert runner.parker.reason == "first"
    runner.finish()
    assert runner.confirmed[-1] == 1


def test_a_reading_that_stalls_does_not_delay_a_stop() -> None:
    """The thread that reads hangs in the electronics; an order withdraws on its own thread all the same."""
    runner = Runner().engaged()
    stalled, go_on = threading.Event(), threading.Event()

    class Stalling(FakeDriver):
        def state(self) -> InstrumentState:
            """Hangs until it is let go."""
            stalled.set()
            assert go_on.wait(10.0)
            return super().state()

    driver = Stalling(runner.electronics, "guard")
    reading = threading.Thread(target=driver.state)
    reading.start()
    assert stalled.wait(10.0)
    assert runner.parker.order("test", "operator").withdrawn
    assert runner.electronics.withdrawn
    assert not go_on.is_set()
    go_on.set()
    reading.join(10.0)
    runner.finish()


def test_start_leaves_a_withdrawn_tip_alone_and_parks_any_other() -> None:
    """The first start does not withdraw what is withdrawn with the controller off, and parks everything
    else."""
    runner = Runner()
    runner.parker.start()
    runner.finish()
    assert "withdraw" not in runner.electronics.names()
    other = Runner()
    other.electronics.feedback, other.electronics.withdrawn = True, False
    other.parker.start()
    other.finish()
    assert other.electronics.names()[0] == "withdraw"
    assert other.electronics.withdrawn


def test_a_parked_tip_that_is_found_engaged_is_parked_again() -> None:
    """Somebody else's engage is undone, with an alarm."""
    runner = Runner()
    runner.parker.start()
    runner.finish()
    runner.electronics.feedback, runner.electronics.withdrawn = True, False
    runner.parker.found_engaged("somebody engaged")
    runner.finish()
    assert runner.electronics.withdrawn
    assert runner.parker.cause == "found-engaged"
    assert "somebody engaged" in runner.alarms[-2]
