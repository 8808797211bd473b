"""The lease: one owner at a time, epochs that only rise, and nobody admitted before a confirmed park."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.gateway.lease import LeaseKeeper
from protocols.errors import ConfigError, RefusedError, StaleEpochError, UsageError
from protocols.states.lease import LEASE_TABLE
from protocols.states.table import Machine


def fresh(path: Path) -> LeaseKeeper:
    """A keeper whose start-up park is confirmed."""
    keeper = LeaseKeeper(path)
    keeper.parked()
    return keeper


def test_nobody_is_admitted_before_the_first_park(tmp_path: Path) -> None:
    """A guard that has just started has not parked yet."""
    keeper = LeaseKeeper(tmp_path / "lease.json")
    with pytest.raises(RefusedError, match="parked"):
        keeper.acquire("a", 2.0, 0.0)
    keeper.parked()
    assert keeper.acquire("a", 2.0, 0.0) == 1


def test_the_epoch_rises_over_restarts(tmp_path: Path) -> None:
    """The epoch is on disk before it is granted: a restart after any grant gives a higher one."""
    path = tmp_path / "lease.json"
    assert fresh(path).acquire("a", 2.0, 0.0) == 1
    assert fresh(path).acquire("a", 2.0, 0.0) == 2
    assert LeaseKeeper(path).epoch == 2


@pytest.mark.parametrize("duration", [0.49, 10.01, float("nan"), -1.0])
def test_durations_outside_are_refused(tmp_path: Path, duration: float) -> None:
    """0.5 to 10 s are possible; a refusal does not use up an epoch."""
    keeper = fresh(tmp_path / "lease.json")
    with pytest.raises(UsageError):
        keeper.acquire("a", duration, 0.0)
    with pytest.raises(UsageError):
        keeper.acquire("", 2.0, 0.0)
    assert keeper.acquire("a", 2.0, 0.0) == 1


def test_a_late_renewal_is_refused_even_before_the_expiry_was_noticed(tmp_path: Path) -> None:
    """The clock decides, not who comes first."""
    keeper = fresh(tmp_path / "lease.json")
    epoch = keeper.acquire("a", 2.0, 0.0)
    keeper.renew(epoch, 1.9)
    keeper.renew(epoch, 3.8)
    with pytest.raises(StaleEpochError):
        keeper.renew(epoch, 5.9)
    assert "park" in keeper.tick(5.9)
    assert keeper.tick(6.0) == ()


def test_a_released_lease_that_nobody_takes_over_ends_parked(tmp_path: Path) -> None:
    """Released without a park, it runs on for its duration, then parks."""
    keeper = fresh(tmp_path / "lease.json")
    epoch = keeper.acquire("a", 2.0, 0.0)
    assert "park" not in keeper.release(epoch, False, 1.0)
    assert keeper.tick(2.9) == ()
    assert "park" in keeper.tick(3.0)
    with pytest.raises(RefusedError):
        keeper.acquire("b", 2.0, 3.0)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A lease file that is no lease file stops the guard: an epoch must never be given twice."""
    path = tmp_path / "lease.json"
    path.write_text('{"epoch": ')
    with pytest.raises(ConfigError, match=r"lease\.json"):
        LeaseKeeper(path)


@pytest.mark.parametrize("state", sorted(LEASE_TABLE.states))
def test_a_guard_that_dies_in_any_state_starts_by_parking(state: str) -> None:
    """Whatever the lease was, after a restart nobody is admitted before the park."""
    assert state in LEASE_TABLE.states
    restarted = Machine(LEASE_TABLE)
    assert restarted.feed("acquire") == ("refuse-parking",)
    restarted.feed("parked")
    assert "grant" in restarted.feed("acquire")


class LeaseLife(RuleBasedStateMachine):
    """Owners, time, parks and restarts in any order."""

    @initialize(folder=st.uuids())
    def begin(self, folder: object) -> None:
        """A guard that has just started."""
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "lease.json"
        self.keeper = LeaseKeeper(self.path)
        self.now = 0.0
        self.granted: list[int] = []
        self.engaged = False

    @rule(owner=st.sampled_from("ab"))
    def acquire(self, owner: str) -> None:
        """Somebody asks for the tip."""
        was_free = self.keeper.state in {"free", "handover"}
        if self.keeper.state == "free":
            assert not self.engaged
        try:
            epoch = self.keeper.acquire(owner, 2.0, self.now)
        except RefusedError:
            assert not was_free
            return
        assert was_free
        assert all(epoch > earlier for earlier in self.granted)
        self.granted.append(epoch)
        self.engaged = True

    @rule(back=st.integers(0, 3))
    def renew(self, back: int) -> None:
        """Somebody renews, perhaps long out of date."""
        if not self.granted:
            return
        epoch = self.granted[max(0, len(self.granted) - 1 - back)]
        mine = epoch == self.granted[-1] and self.keeper.held and self.keeper.left_s(self.now) > 0
        try:
            self.keeper.renew(epoch, self.now)
        except StaleEpochError:
            assert not mine
        else:
            assert mine

    @rule(park=st.booleans())
    def release(self, park: bool) -> None:
        """The owner gives it back."""
        if self.keeper.held and self.keeper.left_s(self.now) > 0:
            self.keeper.release(self.granted[-1], park, self.now)

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        """Time."""
        self.now += seconds
        self.keeper.tick(self.now)

    @rule()
    def park_confirmed(self) -> None:
        """The tip is parked."""
        self.engaged = False
        self.keeper.parked()

    @rule()
    def guard_dies(self) -> None:
        """A new guard on the same disk."""
        self.keeper = LeaseKeeper(self.path)

    @invariant()
    def nobody_owns_without_time(self) -> None:
        """A free tip has no time left."""
        if hasattr(self, "keeper") and self.keeper.state in {"free", "ending"}:
            assert self.keeper.left_s(self.now) == 0.0

    def teardown(self) -> None:
        """Remove the folder."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


LeaseLife.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLeaseLife = LeaseLife.TestCase
