"""The queue holds one running job and one ready of each rank; the gate lets nothing act while the tip is
parked."""

from __future__ import annotations

import threading

import pytest
from gateway_parts import sweep_at
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.gate import Gate, TipParkedError
from actors.gateway.queue import Job, JobQueue, rank_of
from protocols.messages.jobs import Priority


def job(name: str, priority: Priority = Priority.CAMPAIGN, deadline_s: float = 1e9) -> Job:
    """A job that was accepted."""
    made = Job(job_id=name, recipe=sweep_at(), epoch=1, priority=priority, deadline_s=deadline_s)
    made.machine.feed("accept")
    return made


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "end", "take", "park"]), st.sampled_from(list(Priority))),
        max_size=40,
    )
)
def test_the_queue_stays_within_its_bounds(steps: list[tuple[str, Priority]]) -> None:
    """Never more than one running and one ready of each rank; urgent jobs go first; none is lost or
    doubled."""
    queue = JobQueue()
    known: set[str] = set()
    for number, (step, priority) in enumerate(steps):
        name = f"r/d{number}/a1"
        if step == "put":
            place = queue.place_for(priority)
            if place != "full":
                queue.put(job(name, priority))
                known.add(name)
        elif step == "end" and queue.running is not None:
            known.remove(queue.running.job_id)
            waiting = queue.ready
            following = queue.advance()
            assert following is (waiting[0] if waiting else None)
        elif step == "take" and queue.ready:
            taken = queue.take_ready(queue.ready[-1].job_id)
            assert taken is not None
            known.remove(taken.job_id)
        elif step == "park":
            for taken in queue.take_all_ready():
                known.remove(taken.job_id)
        ready = queue.ready
        assert len(ready) <= 2
        assert len({rank_of(j.priority) for j in ready}) == len(ready)
        present = {j.job_id for j in ready} | ({queue.running.job_id} if queue.running else set())
        assert present == known
        assert all(queue.find(name) is not None for name in known)


def test_an_urgent_job_overtakes_a_waiting_campaign_job() -> None:
    """Running stays running; of the waiting ones the operator's goes first."""
    queue = JobQueue()
    queue.put(job("a"))
    queue.put(job("b"))
    assert queue.place_for(Priority.CAMPAIGN) == "full"
    assert queue.place_for(Priority.OPERATOR) == "ready"
    queue.put(job("op", Priority.OPERATOR))
    assert queue.place_for(Priority.RECOVERY) == "full"
    assert [j.job_id for j in queue.ready] == ["op", "b"]
    following = queue.advance()
    assert following is not None
    assert following.job_id == "op"


def test_a_held_queue_promotes_nothing_until_released() -> None:
    """While the tip is being parked no waiting job becomes the running one."""
    queue = JobQueue()
    queue.put(job("a"))
    queue.put(job("b"))
    queue.hold()
    assert queue.advance() is None
    assert [j.job_id for j in queue.take_all_ready()] == ["b"]
    queue.release()
    queue.put(job("c"))
    waited = queue.wait()
    assert waited is not None
    assert waited.job_id == "c"
    queue.close()
    queue.advance()
    assert queue.wait() is None


def test_the_gate_is_shut_until_a_park_is_confirmed() -> None:
    """A new worker may not act before the guard has said that the tip is parked."""
    gate = Gate(lambda generation: None)
    with pytest.raises(TipParkedError), gate.acting(0):
        raise AssertionError
    gate.open(3)
    with gate.acting(3):
        pass
    with pytest.raises(TipParkedError), gate.acting(2):
        raise AssertionError


def test_quiet_is_said_when_the_call_under_way_has_returned() -> None:
    """Closing in the middle of a call: quiet follows its return; nothing passes after the closing."""
    said: list[int] = []
    gate = Gate(said.append)
    gate.open(0)
    inside, go = threading.Event(), threading.Event()

    def act() -> None:
        with gate.acting(0):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=act)
    thread.start()
    assert inside.wait(10)
    gate.close(1, "test")
    assert said == []
    assert not gate.is_quiet
    with pytest.raises(TipParkedError, match="test"):
        gate.require_open(0)
    go.set()
    thread.join(10)
    assert said == [1]
    assert gate.is_quiet


def test_an_idle_gate_is_quiet_at_once_and_old_confirmations_do_not_open_it() -> None:
    """The confirmation of an earlier park does not undo a newer order."""
    said: list[int] = []
    gate = Gate(said.append)
    gate.open(0)
    gate.close(1, "first")
    gate.close(2, "second")
    assert said == [1, 2]
    gate.open(1)
    assert gate.closed
    gate.open(2)
    assert not gate.closed


def test_overdue() -> None:
    """The deadline counts from acceptance, waiting included."""
    late = job("a", deadline_s=5.0)
    assert not late.overdue(5.0)
    assert late.overdue(5.1)
