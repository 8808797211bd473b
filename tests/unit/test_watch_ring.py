"""The ring of events: numbered, bounded, and honest about what a late asker has missed."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime.watch_ring import WatchRing
from protocols.messages.daemon import WatchEvents

PATIENCE_S = 20.0


def told(ring: WatchRing, since: int = 0, limit: int = 1000, wait_s: float = 0.0) -> WatchEvents:
    """What the ring answers."""

    async def ask() -> WatchEvents:
        async with asyncio.timeout(PATIENCE_S):
            return await ring.after(since, limit, wait_s)

    return asyncio.run(ask())


def full(count: int, bound: int) -> WatchRing:
    """A ring in which so many events were said."""
    ring = WatchRing(bound)
    for k in range(1, count + 1):
        ring.say("run", "state", f"event {k}", "r", f"r/d{k:04d}/a1")
    return ring


def test_an_event_carries_what_was_said() -> None:
    """Source, kind, text, run and job, with a number and the time."""
    ring = full(1, 10)
    (event,) = told(ring).events
    assert (event.number, event.source, event.kind, event.text) == (1, "run", "state", "event 1")
    assert (event.run, event.job_id) == ("r", "r/d0001/a1")
    assert event.wall_s > 0
    assert ring.said == 1


@settings(deadline=None)
@given(
    count=st.integers(0, 60),
    bound=st.integers(1, 20),
    since=st.integers(-3, 60),
    limit=st.integers(1, 15),
)
def test_an_asker_gets_all_or_is_told_how_many_he_missed(
    count: int, bound: int, since: int, limit: int
) -> None:
    """Asking on with ``next`` until nothing comes: events are consecutive, and those heard and those dropped
    are together all that were said after ``since``."""
    ring = full(count, bound)
    heard: list[int] = []
    dropped, asked = 0, since
    while True:
        answer = told(ring, asked, limit)
        assert len(answer.events) <= limit
        dropped += answer.dropped
        heard += [e.number for e in answer.events]
        if not answer.events:
            assert answer.next == max(asked, 0)
            break
        assert answer.next == answer.events[-1].number
        asked = answer.next
    assert heard == list(range(count - len(heard) + 1, count + 1))
    assert len(heard) <= bound
    assert len(heard) + dropped == max(count - max(since, 0), 0)


def test_an_asker_who_waits_is_woken_by_the_next_event() -> None:
    """All who wait get the event that comes, each once."""

    async def session() -> list[WatchEvents]:
        ring = full(3, 10)
        waiting = [asyncio.ensure_future(ring.after(3, 10, PATIENCE_S)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(w.done() for w in waiting)
        ring.say("run", "state", "at last")
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*waiting)

    for answer in asyncio.run(session()):
        assert [e.text for e in answer.events] == ["at last"]
        assert answer.next == 4


def test_waiting_for_nothing_ends_with_an_empty_answer() -> None:
    """Where nothing happens the answer comes all the same, and says to ask on from the same number."""
    answer = told(full(3, 10), since=3, wait_s=0.01)
    assert (answer.events, answer.next, answer.dropped) == ((), 3, 0)


def test_an_asker_who_is_behind_does_not_wait() -> None:
    """What is there already is answered at once, however long the asker would wait."""
    answer = told(full(3, 10), since=1, wait_s=1000.0)
    assert [e.number for e in answer.events] == [2, 3]
