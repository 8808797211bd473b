"""The restart budget: so many in so many seconds, then a person has to look."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime.restart_budget import RestartBudget

times = st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60)
"""Seconds between one request and the next."""


@settings(deadline=None)
@given(gaps=times, restarts=st.integers(1, 5), window_s=st.floats(0.1, 100.0))
def test_never_more_than_allowed_in_any_window(gaps: list[float], restarts: int, window_s: float) -> None:
    """Whatever the times of asking, no window of that length holds more grants than the budget, and what is
    refused would have been one too many."""
    budget = RestartBudget(restarts, window_s)
    granted: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        recent = [t for t in granted if now - t < window_s]
        assert budget.spend(now) == (len(recent) < restarts)
        if len(recent) < restarts:
            granted.append(now)
    assert budget.total == len(granted)


def test_a_person_who_has_looked_fills_it_again() -> None:
    """After a reset it grants at once; the total goes on counting."""
    budget = RestartBudget(2, 60.0)
    assert [budget.spend(t) for t in (0.0, 1.0, 2.0)] == [True, True, False]
    budget.reset()
    assert [budget.spend(t) for t in (2.0, 3.0, 4.0)] == [True, True, False]
    assert budget.total == 4


def test_it_fills_again_by_itself_when_the_window_has_passed() -> None:
    """A refusal costs nothing: the oldest grant alone decides."""
    budget = RestartBudget(3, 60.0)
    assert [budget.spend(t) for t in (0.0, 10.0, 20.0, 59.9)] == [True, True, True, False]
    assert budget.spend(60.0)
    assert not budget.spend(69.9)
    assert budget.spend(70.0)
