"""What the guard sees and remembers: trips, crashes, Z at its ends, and the latch that only a person
opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_driver import FakeElectronics
from gateway_parts import shipped_limits
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.latch import Latch
from actors.gateway.watch import Watch
from protocols.errors import LatchedError
from protocols.messages.data import InstrumentState
from protocols.states.latch import LATCH_CAUSES, LATCH_TABLE
from protocols.states.table import Machine

LIMITS = shipped_limits(trip_time=0.05, trip_current=5e-9)
INFO = FakeElectronics().info


def reading(time_s: float = 0.0, **changes: Any) -> InstrumentState:
    """A tip that tunnels well, changed."""
    good = msgspec.structs.replace(
        FakeElectronics().state(),
        time_s=time_s,
        feedback=True,
        withdrawn=False,
        bias_v=0.5,
        setpoint_a=1e-10,
        current_a=1e-10,
        z_m=0.0,
    )
    return msgspec.structs.replace(good, **changes)


def look(*readings: InstrumentState, approaching: bool = False) -> list[str]:
    """Causes found in readings one after the other."""
    watch = Watch(LIMITS, INFO)
    found = [watch.look(r, approaching=approaching, crash_seen=False) for r in readings]
    return [f.cause for f in found if f is not None]


def test_a_trip_needs_the_current_to_stay_for_the_trip_time() -> None:
    """One reading, or a short excess, is no trip; the excess must last trip_time on the instrument's
    clock."""
    high = {"current_a": -6e-9}
    assert look(reading(0.0, **high)) == []
    assert look(reading(0.0, **high), reading(0.04, **high)) == []
    assert look(reading(0.0, **high), reading(0.03), reading(0.06, **high)) == []
    assert look(reading(0.0, **high), reading(0.03, **high), reading(0.06, **high)) == ["trip"]
    assert look(reading(0.0, **high), reading(0.0, **high)) == []


@pytest.mark.parametrize(
    ("changes", "trips"),
    [
        ({"current_a": 4.9e-9}, False),
        ({"current_a": 6e-9}, True),
        ({"current_a": 6e-9, "setpoint_a": 7e-10}, False),
        ({"current_a": 7.1e-9, "setpoint_a": 7e-10}, True),
        ({"current_a": 10e-9, "setpoint_a": 5e-9}, True),
        ({"current_a": 6e-9, "feedback": False}, False),
        ({"current_a": 6e-9, "sweeping": True}, False),
        ({"current_a": 6e-9, "withdrawn": True, "feedback": False}, False),
    ],
)
def test_what_trips(changes: dict[str, Any], trips: bool) -> None:
    """Above the larger of ten setpoints and trip_current, or at the rail, with feedback on, not within a
    sweep."""
    found = look(reading(0.0, **changes), reading(0.1, **changes))
    assert found == (["trip"] if trips else [])


@given(z=st.floats(-250e-9, 250e-9))
def test_z_near_its_ends(z: float) -> None:
    """Within the park margin it latches, within the hold margin it alarms, elsewhere nothing; not on the
    approach."""
    span = 500e-9
    distance = min(z + 250e-9, 250e-9 - z) / span
    state = reading(z_m=z)
    watch = Watch(LIMITS, INFO)
    finding = watch.look(state, approaching=False, crash_seen=False)
    alarms = watch.range_alarms(state, approaching=False)
    if abs(distance - LIMITS.z_park_margin) > 1e-6:
        assert (finding is not None) == (distance < LIMITS.z_park_margin)
    if abs(distance - LIMITS.z_hold_margin) > 1e-6:
        assert ("z-range" in alarms) == (distance < LIMITS.z_hold_margin)
    assert watch.look(state, approaching=True, crash_seen=False) is None
    assert watch.range_alarms(state, approaching=True) == {}


def test_a_crash_is_news_once() -> None:
    """A crash that a person has acknowledged is not found again while the electronics still report it."""
    watch = Watch(LIMITS, INFO)
    state = reading(crashed=True)
    finding = watch.look(state, approaching=False, crash_seen=False)
    assert finding is not None
    assert finding.cause == "crash"
    assert watch.look(state, approaching=False, crash_seen=True) is None


def test_the_latch_outlives_the_guard(tmp_path: Path) -> None:
    """Shut and saved, it is shut for the next guard, with the first reason; ack opens it for good."""
    path = tmp_path / "latch.json"
    latch = Latch(path)
    latch.require_open()
    assert latch.shut("trip", "first")
    assert not latch.shut("z-end", "second")
    latch.save()
    again = Latch(path)
    assert again.state == "latched"
    assert again.reason == "trip: first"
    with pytest.raises(LatchedError, match="first"):
        again.require_open()
    assert again.acknowledge("operator", crashed=False)
    Latch(path).require_open()
    assert not Latch(path).acknowledge("operator", crashed=False)


def test_an_acknowledged_crash_is_remembered_until_it_is_gone(tmp_path: Path) -> None:
    """The electronics may go on reporting the crash that was acknowledged."""
    path = tmp_path / "latch.json"
    latch = Latch(path)
    latch.shut("crash", "boom")
    latch.save()
    latch.acknowledge("operator", crashed=True)
    assert Latch(path).crash_seen
    latch.forget_crash()
    assert not Latch(path).crash_seen


def test_a_damaged_latch_file_counts_as_shut(tmp_path: Path) -> None:
    """What cannot be read might have said latched."""
    path = tmp_path / "latch.json"
    path.write_bytes(b"\x00garbage")
    assert Latch(path).state == "latched"


@given(st.lists(st.sampled_from([*LATCH_CAUSES, "engage", "acknowledge"]), max_size=30))
def test_only_an_acknowledgement_opens(events: list[str]) -> None:
    """Between a cause and the next acknowledgement every engage is refused and the tip parked for each
    cause."""
    machine = Machine(LATCH_TABLE)
    shut = False
    for event in events:
        instructions = machine.feed(event)
        if event in LATCH_CAUSES:
            assert "park" in instructions
            assert ("persist" in instructions) == (not shut)
            shut = True
        elif event == "acknowledge":
            shut = False
        else:
            assert instructions == (("refuse",) if shut else ("allow",))
