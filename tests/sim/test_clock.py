"""The world's clock."""

from __future__ import annotations

import threading
import time

import pytest

from protocols.errors import ConfigError
from sim_hardware.clock import ScaledClock, SteppedClock


def test_scaled_clock_runs_with_the_wall() -> None:
    """Instrument time is start plus wall time times scale, measured against the monotonic clock."""
    before = time.monotonic()
    clock = ScaledClock(1000.0, start_s=50.0)
    middle = time.monotonic()
    now = clock.now()
    after = time.monotonic()
    assert 50.0 <= now <= 50.0 + 1000.0 * (after - before)
    assert clock.wait_until(clock.now() + 5.0, threading.Event())
    assert clock.now() >= now + 5.0
    assert time.monotonic() >= middle + 5.0 / 1000.0


def test_a_wait_is_interrupted() -> None:
    """Setting the event ends a wait of an hour; so does an event that was set before."""
    for clock in (ScaledClock(1.0), SteppedClock()):
        event = threading.Event()
        event.set()
        assert not clock.wait_until(3600.0, event)
    clock, event, outcome = ScaledClock(1.0), threading.Event(), []
    waiter = threading.Thread(target=lambda: outcome.append(clock.wait_until(3600.0, event)))
    waiter.start()
    event.set()
    waiter.join(5.0)
    assert outcome == [False]


def test_stepped_clock_stands_still_between_waits() -> None:
    """Only waiting advances it, at once, and never back."""
    clock = SteppedClock(7.0)
    assert clock.now() == 7.0
    assert clock.wait_until(3600.0, threading.Event())
    assert clock.now() == 3600.0
    assert clock.wait_until(10.0, threading.Event())
    assert clock.now() == 3600.0


def test_senseless_scales_are_refused() -> None:
    """Zero, negative and huge scales name the allowed range."""
    for scale in (0.0, -1.0, 1e9):
        with pytest.raises(ConfigError, match=r"outside 0\.001 to 10000"):
            ScaledClock(scale)
