"""The guard's hands when something is wrong that nobody foresaw: the tip goes up all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from fake_driver import FakeDriver, FakeElectronics
from gateway_parts import shipped_limits

from actors.gateway.electronics import Electronics, open_with_patience
from actors.gateway.hands import Alarms, Hands
from actors.gateway.latch import Latch
from actors.gateway.watch import Watch
from actors.gateway.withdrawal import Parker
from protocols.errors import DriverError
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import LockIn
from protocols.states.park import PARKED

PATIENCE_S = 10.0


class Guarded:
    """Hands and a parker over fake electronics."""

    def __init__(self, folder: Path) -> None:
        self.electronics = FakeElectronics()
        self.driver = FakeDriver(self.electronics, "guard")
        self.parked = threading.Event()
        self.alarms = Alarms()
        self.told: list[str] = []
        held = Electronics(lambda: self.driver, self.driver)
        self.parker = Parker(
            held.driver,
            shipped_limits(),
            silence=lambda generation, reason: self.told.append("silence"),
            is_silent=lambda: True,
            confirmed=lambda generation: self.parked.set(),
            alarm=lambda text: self.alarms.set("park", text),
        )
        watch = Watch(shipped_limits(), self.electronics.info)
        self.hands = Hands(held, self.parker, Latch(folder / "latch.json"), watch, self.alarms, lambda: False)

    def engage(self) -> None:
        """Parked at start, then tunneling."""
        self.parker.start()
        self.hands.start()
        self.await_park()
        e = self.electronics
        with e.changed:
            assert self.parker.engage()
            e.feedback, e.withdrawn, e.z_m, e.bias_v = True, False, 0.0, 0.5

    def await_park(self) -> None:
        """Wait until it is confirmed."""
        assert self.parked.wait(PATIENCE_S)
        self.parked.clear()


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """Hands whose thread is ended at the end."""
    monkeypatch.setattr("actors.gateway.hands.BLIND_S", 0.05)
    found = Guarded(tmp_path)
    yield found
    found.hands.stop()


def failing(times: int, original: Callable[[], InstrumentState]) -> Callable[[], InstrumentState]:
    """A call that fails with what no driver should raise."""
    left = [times]

    def call() -> InstrumentState:
        if left[0]:
            left[0] -= 1
            raise ValueError("nobody foresaw this")
        return original()

    return call


def test_a_guard_that_cannot_read_for_whatever_reason_parks(guarded: Guarded) -> None:
    """Whether the electronics are silent or the driver is at fault: an engaged tip that is not watched goes
    up, and it is told."""
    guarded.engage()
    guarded.driver.state = failing(20, guarded.driver.state)  # type: ignore[method-assign]
    guarded.await_park()
    assert guarded.electronics.withdrawn
    assert guarded.parker.cause == "driver"
    assert "nobody foresaw this" in guarded.parker.reason


def test_a_fault_within_a_park_is_told_and_the_park_goes_on(guarded: Guarded) -> None:
    """Lock-in, restoring, stop, read-back, withdrawal itself: each is tried again with an alarm."""
    guarded.engage()
    broken: list[str] = []
    original = guarded.driver.set_lockin

    def once(settings: LockIn | None) -> None:
        if not broken:
            broken.append("set_lockin")
            raise KeyError("nobody foresaw this")
        original(settings)

    def withdraw_once() -> None:
        guarded.driver.withdraw = FakeDriver.withdraw.__get__(guarded.driver)  # type: ignore[method-assign]
        raise ZeroDivisionError("nobody foresaw this")

    guarded.driver.set_lockin = once  # type: ignore[method-assign]
    guarded.driver.withdraw = withdraw_once  # type: ignore[method-assign]
    assert not guarded.parker.order("test", "operator").withdrawn
    guarded.await_park()
    assert guarded.parker.state == PARKED
    assert guarded.electronics.withdrawn
    assert broken


def test_the_worker_is_told_before_the_withdrawal_is_answered(guarded: Guarded) -> None:
    """Electronics that answer slowly: the worker begins nothing against the withdrawal meanwhile."""
    guarded.engage()
    guarded.told.clear()
    told: list[list[str]] = []
    original = guarded.driver.withdraw

    def slow() -> None:
        told.append(list(guarded.told))
        original()

    guarded.driver.withdraw = slow  # type: ignore[method-assign]
    guarded.parker.order("test", "operator")
    assert told[0] == ["silence"]
    guarded.await_park()


def test_a_withdrawal_waits_for_no_lock(guarded: Guarded) -> None:
    """Whoever holds the park's state (a log on a slow disk) delays the words to the worker, not the tip."""
    guarded.engage()
    free, held = threading.Event(), threading.Event()

    def hold() -> None:
        with guarded.parker._lock:
            held.set()
            assert free.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE_S)
    ordering = threading.Thread(target=lambda: guarded.parker.order("test", "operator"))
    ordering.start()
    guarded.electronics.await_call("withdraw")
    free.set()
    holder.join(PATIENCE_S)
    ordering.join(PATIENCE_S)
    guarded.await_park()
    assert guarded.electronics.withdrawn


def test_electronics_that_cannot_be_read_at_start_are_told_to_withdraw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both halves had died and the port for readings does not serve: the port for stops may."""
    monkeypatch.setattr("actors.gateway.electronics.PATIENCE_S", 0.0)
    e = FakeElectronics()
    e.feedback, e.withdrawn = True, False
    e.refuse = {"state": -1}
    with pytest.raises(DriverError):
        open_with_patience(lambda: FakeDriver(e, "guard"), withdraw=True)
    assert e.withdrawn


def test_the_guard_reckons_with_the_rail_as_it_is_now(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody chose another gain: a current at the new rail trips, however far below the old one."""
    monkeypatch.setattr("actors.gateway.hands.INFO_S", 0.0)
    guarded.engage()
    e = guarded.electronics
    e.info = msgspec.structs.replace(e.info, preamplifier_rail_a=1e-9)
    original = guarded.driver.state

    def at_the_rail() -> InstrumentState:
        e.time_s += 1.0
        e.current_a = 1e-9
        return original()

    guarded.driver.state = at_the_rail  # type: ignore[method-assign]
    guarded.await_park()
    assert guarded.parker.cause == "trip"
