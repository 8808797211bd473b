"""The run's state machine with orders from people and events of the loop, and how a run begins anew after a
death."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import campaign

from actors.journal.schema import run_file
from actors.journal.store import RunStore
from actors.runtime.campaign_run import CampaignRun
from actors.runtime.engaging import HoldError, TryAgainError
from actors.runtime.job_desk import NEVER_ARRIVED
from actors.runtime.ledger import RunLedger
from actors.runtime.run_control import RunControl
from actors.runtime.run_starting import unfinished_runs
from actors.runtime.watch_ring import WatchRing
from protocols.errors import PeerError, RefusedError
from protocols.messages.recipes import Move
from protocols.messages.records import (
    AttemptEnded,
    Conclusion,
    JobIssued,
    Record,
    RunStarted,
    RunState,
    StoredRecord,
)
from protocols.states.run import FINAL_RUN_STATES, RUN_TABLE

ORDERS = ("pause", "pause-now", "resume", "abort")
"""What people say: ``stmctl pause``, ``pause --now``, ``resume``, ``abort``."""
LIVING = sorted(RUN_TABLE.states - FINAL_RUN_STATES)


@pytest.mark.parametrize(("state", "order"), list(itertools.product(sorted(RUN_TABLE.states), ORDERS)))
def test_an_order_does_what_the_table_says_or_is_refused(state: str, order: str) -> None:
    """Every order in every state: the table's row and its instructions, or a refusal that names state, reason
    and order and changes nothing."""
    control = RunControl(state, "because", 7)
    row = RUN_TABLE.rows[state].get(order)
    if row is None:
        with pytest.raises(RefusedError) as refused:
            control.order(order, "told")
        assert refused.value.details["refusal_code"] == "state"
        assert f"{state} (because)" in refused.value.text
        assert order in refused.value.text
        assert (control.state, control.reason, list(control.changes)) == (state, "because", [])
        return
    control.order(order, "told")
    assert control.state == row.state
    assert control.changed.is_set()
    written = row.state != state or bool(row.instructions)
    assert [c.body.state for c in control.changes] == ([row.state] if written else [])
    assert [c.instructions for c in control.changes] == ([row.instructions] if written else [])
    assert control.pending.is_set() == written
    assert control.reason == ("told" if written else "because")


@pytest.mark.parametrize("state", LIVING)
def test_a_run_that_lives_can_be_ended_and_no_order_is_lost_on_a_held_one(state: str) -> None:
    """From every state but the final ones an abort cancels, parks and concludes; ``hold`` is heard or the
    state is one that waits for a person already."""
    control = RunControl(state, "", 0)
    assert control.feed("hold", "look at it")
    assert (control.state, control.reason) == ("held", "look at it")
    control.order("abort", "enough")
    assert control.final
    assert control.changes[-1].instructions == ("cancel-jobs", "park", "conclude")


@pytest.mark.parametrize("state", sorted(FINAL_RUN_STATES))
def test_what_is_over_stays_over(state: str) -> None:
    """A final state answers no event and refuses every order."""
    control = RunControl(state, "done", 3)
    assert control.final
    assert not any(control.feed(event, "") for event in RUN_TABLE.events)
    for order in ORDERS:
        with pytest.raises(RefusedError):
            control.order(order, "")
    assert not control.changes


def test_the_reason_of_a_hold_is_the_latest() -> None:
    """A second hold is written down with its own reason although the state is the same."""
    control = RunControl("held", "first", 4)
    assert control.feed("hold", "second")
    assert control.reason == "second"
    assert [(c.number, c.body.reason, c.instructions) for c in control.changes] == [(5, "second", ("alarm",))]


def test_an_event_out_of_place_is_left_out() -> None:
    """Events of the loop may come late: they change nothing and wake nobody who journals."""
    control = RunControl("paused", "lunch", 2)
    assert not control.feed("engaged", "too late")
    assert (control.state, control.reason) == ("paused", "lunch")
    assert not control.pending.is_set()


@settings(deadline=None)
@given(
    start=st.sampled_from(LIVING),
    written=st.integers(0, 50),
    events=st.lists(st.sampled_from(sorted(RUN_TABLE.events)), max_size=30),
)
def test_changes_are_numbered_in_order(start: str, written: int, events: list[str]) -> None:
    """Whatever happens, changes are numbered without a gap from where the journal ends, tell the states in
    order, and the last one tells the present state and reason."""
    control = RunControl(start, "before", written)
    for k, event in enumerate(events):
        before = control.state
        done = control.feed(event, f"reason {k}")
        assert done == (event in RUN_TABLE.rows[before])
        assert control.state == (RUN_TABLE.rows[before][event].state if done else before)
    numbers = [c.number for c in control.changes]
    assert numbers == list(range(written + 1, written + 1 + len(numbers)))
    if control.changes:
        assert control.changes[-1].body == RunState(state=control.state, reason=control.reason)
    else:
        assert (control.state, control.reason) == (start, "before")


def taken_up(*states: str, site: Any = None) -> CampaignRun:
    """A run that a new daemon takes up, with these states in its journal."""
    ledger = RunLedger("r")
    ledger.fold(
        StoredRecord(
            seq=k, key=f"state:{k}", actor="daemon", wall_s=0.0, body=RunState(state=s, reason="why")
        )
        for k, s in enumerate(states, 1)
    )
    nothing = cast(Any, None)  # a run that was not begun yet asks nobody
    return CampaignRun(site, nothing, ledger, allowed=False)


@pytest.mark.parametrize("state", LIVING)
def test_a_run_goes_on_where_a_daemon_may_do_so_by_itself(state: str) -> None:
    """In whatever state its daemon died, a run begins anew at "starting"; what was paused or held stays so,
    with its reason, until a person says otherwise."""
    run = taken_up("starting", "engaging", state)
    expected = state if state in ("paused", "held") else "starting"
    assert run.control.state == expected
    assert run.control.reason == "why"
    assert not run.allowed
    assert not run.control.changes


@pytest.mark.parametrize("state", LIVING)
def test_numbers_of_changes_go_on_after_a_death(state: str) -> None:
    """The first change after the restart gets the number after the last one in the journal."""
    run = taken_up("starting", "engaging", state)
    run.control.order("abort", "enough")
    assert [c.number for c in run.control.changes] == [4]


def test_a_run_that_has_said_nothing_yet_begins() -> None:
    """A daemon that died right after the first record begins the run."""
    run = taken_up()
    assert run.control.state == "starting"
    assert run.control.feed("ready", "the microscope is ready")
    assert [c.number for c in run.control.changes] == [1]


@pytest.mark.parametrize(
    ("outcome", "left"),
    [
        (None, False),
        (TryAgainError("engage refused: not parked yet", not_begun=True), True),
        (TryAgainError("engage discarded: parked (stmctl withdraw)", not_begun=False), False),
        (TryAgainError("frame for registration interrupted: parked (stmctl withdraw)"), False),
        (HoldError("the tip is latched parked"), False),
    ],
)
def test_leave_to_engage_is_used_up(outcome: Exception | None, left: bool) -> None:
    """A person's leave is for one engage: whatever was parked during it or later needs another; only an
    engage that was never begun leaves it as it was.  Without leave none comes to be."""

    async def session(allowed: bool) -> tuple[bool, list[bool]]:
        run = taken_up("starting", "engaging")
        run.ledger.started = cast(Any, object())
        run.allowed = allowed
        asked: list[bool] = []

        async def engage(permitted: bool, _withdrawal_mark: str) -> None:
            asked.append(permitted)
            if outcome is not None:
                raise outcome

        async def bring_up(_started: Any) -> None:
            pass

        run.site = cast(
            Any, SimpleNamespace(ensure_world=bring_up, tip=SimpleNamespace(beat=int, status=None))
        )
        run._engaging = cast(Any, SimpleNamespace(engage=engage))
        if outcome is None:
            await run._engage()
        else:
            with pytest.raises(type(outcome)):
                await run._engage()
        return run.allowed, asked

    assert asyncio.run(session(True)) == (left, [True])
    assert asyncio.run(session(False)) == (False, [False])


class Places:
    """What a run that only has to conclude needs of a daemon."""

    def __init__(self) -> None:
        self.committed: list[Record] = []
        self.released: list[bool] = []
        self.parked = asyncio.Event()
        self.pool = SimpleNamespace(call=self._call)
        self.tip = SimpleNamespace(release=self._release, beat=int, status=None, held=False)
        self.known: set[str] = set()
        gateway = SimpleNamespace(query=self._query)
        self.desk = SimpleNamespace(journal=SimpleNamespace(commit=self._commit), gateway=gateway)
        self.ring = WatchRing()

    async def _call(self, *_words: Any, deadline_s: float) -> None:
        raise PeerError("nobody trains for a run that is over.")

    async def _release(self, park: bool) -> str:
        self.released.append(park)
        self.parked.set()
        return ""

    async def _query(self, job_id: str) -> str | None:
        return job_id if job_id in self.known else None

    async def _commit(self, run: str, records: list[Record]) -> None:
        assert run == "r"
        self.committed += records


@pytest.mark.parametrize("state", sorted(FINAL_RUN_STATES))
def test_a_run_whose_daemon_died_before_the_conclusion_is_concluded(state: str) -> None:
    """The final state is on record and the conclusion is not: the next daemon says the state again under
    the same key, parks, and concludes; nothing is measured any more."""

    async def session() -> Places:
        places = Places()
        run = taken_up("starting", "running", state, site=places)
        run.reader = cast(Any, SimpleNamespace(records=lambda _after: (), close=lambda: None))
        async with asyncio.timeout(20.0):
            await run.main()
        return places

    places = asyncio.run(session())
    assert places.released == [True]
    assert [r.key for r in places.committed] == ["state:3", "conclusion"]
    assert places.committed[0].body == RunState(state=state, reason="why")
    end = places.committed[1].body
    assert isinstance(end, Conclusion)
    assert (end.outcome, end.reason, end.spectra) == (state, "why", 0)


def test_before_the_conclusion_every_attempt_has_its_end() -> None:
    """The conclusion waits for the loop to leave its step; an order that was issued and refused because the
    lease had been given back ends as discarded, what the gateway knows is left to whoever receives it, and a
    lease that was acquired too late is given back."""

    async def session() -> Places:
        places = Places()
        run = taken_up("starting", "running", "held", site=places)
        run.reader = cast(Any, SimpleNamespace(records=lambda _after: (), close=lambda: None))
        places.known = {"r/d0001/a1"}
        stepping = asyncio.Event()

        async def step() -> None:
            stepping.set()
            await places.parked.wait()  # as a sweep that ends because the tip is parked
            places.tip.held = True
            for seq, job in enumerate(("r/d0000/a1", "r/d0001/a1"), 4):
                body = JobIssued(job_id=job, recipe=Move(x_m=0.0, y_m=0.0), epoch=1)
                run.ledger.fold(
                    [StoredRecord(seq=seq, key=f"issued:{job}", actor="t", wall_s=0.0, body=body)]
                )

        run._step = step  # type: ignore[method-assign]
        main = asyncio.ensure_future(run.main())
        async with asyncio.timeout(20.0):
            await stepping.wait()
            run.control.order("abort", "enough")
            await main
        return places

    places = asyncio.run(session())
    assert [r.key for r in places.committed] == ["state:4", "ended:r/d0000/a1", "conclusion"]
    ended = places.committed[1].body
    assert ended == AttemptEnded(job_id="r/d0000/a1", state="discarded", reason=NEVER_ARRIVED)
    assert places.released == [True, True]


def test_unfinished_runs_are_those_without_a_conclusion(tmp_path: Path) -> None:
    """In whatever state, oldest first; a journal that cannot be read is left alone."""
    for k, (name, state, concluded) in enumerate(
        [("b", "running", False), ("a", "completed", False), ("c", "completed", True), ("d", "held", False)]
    ):
        store = RunStore(run_file(tmp_path, name), reserve_bytes=0, clock=lambda k=k: 1e9 + k)  # type: ignore[misc]
        started = RunStarted(
            run=name,
            campaign=campaign(),
            campaign_text="",
            seed=1,
            versions={},
            limits={},
            simulated=True,
            time_scale=1.0,
        )
        bodies = [started, RunState(state=state, reason=""), *([conclusion(state)] if concluded else [])]
        store.commit([Record(key=f"k{n}", actor="t", body=b) for n, b in enumerate(bodies)])
        store.close()
    (tmp_path / "runs" / "e").mkdir()
    (tmp_path / "runs" / "e" / "journal.db").write_bytes(b"no journal at all")
    assert unfinished_runs(tmp_path) == ["b", "a", "d"]


def conclusion(outcome: str) -> Conclusion:
    """The last record of a run that found nothing."""
    return Conclusion(
        outcome=outcome,
        reason="",
        best_job="",
        best_x_m=0.0,
        best_y_m=0.0,
        best_scalar=0.0,
        spectra=0,
        figures={},
    )
