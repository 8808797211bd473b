"""The pipeline that overlaps planning and measuring."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.spectra_pipeline import LOOKAHEAD, DecisionFact, WindowFacts, next_wishes


def facts(settled: list[bool], **more: object) -> WindowFacts:
    """Facts with one decision per entry; settled ones got consecutive sequence numbers."""
    decisions = [DecisionFact(f"d{i:04d}", s, 10 + i if s else 0) for i, s in enumerate(settled)]
    base: dict[str, object] = {
        "last_seq": 99,
        "planning": False,
        "measuring": frozenset(),
        "points": 10,
        "lockstep": False,
    }
    return WindowFacts(decisions=decisions, **{**base, **more})  # type: ignore[arg-type]


def test_plans_the_next_point_while_one_is_measured() -> None:
    """With one point under way the planner is asked for the next, told of the pending one."""
    wishes = next_wishes(facts([True, False], measuring=frozenset({"d0001"})))
    assert wishes.plan is not None
    assert wishes.plan.pending == ("d0001",)
    assert wishes.plan.cursor == 99


def test_keeps_one_running_and_one_ready() -> None:
    """Two decisions without spectra go to the gateway together; no third is planned."""
    wishes = next_wishes(facts([True, False, False]))
    assert wishes.measure == ("d0001", "d0002")
    assert wishes.plan is None


def test_lockstep_fixes_what_a_decision_sees() -> None:
    """In lockstep decision k sees results 0 .. k-2, whether or not k-1 has already come in."""
    late = next_wishes(facts([True, True, False], lockstep=True)).plan
    early = next_wishes(facts([True, True, True], lockstep=True)).plan
    assert late == early
    assert late is not None
    assert (late.index, late.cursor, late.pending) == (3, 11, ("d0002",))


def test_lockstep_waits_for_what_it_must_see() -> None:
    """In lockstep nothing is planned while an earlier result than k-1 is missing."""
    assert next_wishes(facts([True, False, False], lockstep=True)).plan is None


def test_a_reference_is_ordered_behind_the_last_spectrum_before_it() -> None:
    """Spectra after a due drift frame wait for it; it is ordered while the last one before it is measured."""
    early = next_wishes(facts([True, False, False], reference_before=2))
    assert not early.reference
    assert early.measure == ("d0001",)
    busy = facts([True, False, False], measuring=frozenset({"d0001"}), reference_before=2)
    wishes = next_wishes(busy)
    assert wishes.reference
    assert wishes.measure == ()


def test_in_lockstep_a_reference_waits_until_nothing_is_measured() -> None:
    """The same spectra come before it in every run, whatever the timing."""
    busy = facts([True, False], measuring=frozenset({"d0001"}), reference_before=2, lockstep=True)
    assert not next_wishes(busy).reference
    assert next_wishes(facts([True, True], reference_before=2, lockstep=True)).reference
    assert not next_wishes(facts([True], reference_before=2, lockstep=True)).reference


def test_closes_with_the_reason() -> None:
    """When all points are settled, or the stop rule fired and nothing is pending, the window closes."""
    assert "10 points" in next_wishes(facts([True] * 10)).close
    assert next_wishes(facts([True] * 3, stop_reason="certain enough")).close == "certain enough"


@given(
    st.lists(st.booleans(), max_size=12),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
def test_never_more_under_way_than_the_gateway_takes(
    settled: list[bool], planning: bool, lockstep: bool, running: int
) -> None:
    """Whatever the facts, at most LOOKAHEAD spectra are under way and only unsettled ones are started."""
    unsettled = [f"d{i:04d}" for i, s in enumerate(settled) if not s]
    measuring = frozenset(unsettled[: min(running, LOOKAHEAD)])
    wishes = next_wishes(facts(settled, planning=planning, lockstep=lockstep, measuring=measuring))
    assert len(wishes.measure) + len(measuring) <= LOOKAHEAD
    assert set(wishes.measure) <= set(unsettled) - measuring
    assert not (planning and wishes.plan)
