"""The schedule of chaos and the recognition of phases: pure, so that they can be trusted when they accuse."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.files.truth_log import TruthEntry, TruthLogWriter
from tests.chaos.phases import PhaseTracker, TruthTail, tip_at
from tests.chaos.schedule import (
    BUDGET,
    BUDGET_WINDOW_S,
    LONGEST_DELAY_S,
    PHASES,
    SHARED_BUDGET,
    VICTIMS,
    draw,
    wait_before,
)

seeds = st.integers(0, 2**31)
numbers = st.integers(0, 25)
some_victims = st.lists(st.sampled_from(VICTIMS), unique=True)


@given(seeds, numbers, some_victims)
def test_every_victim_is_killed_as_often_as_asked(seed: int, kills: int, only: list[str]) -> None:
    """Each of the victims named (all, if none is) appears exactly so often, the kills numbered from 1."""
    schedule = draw(seed, kills, only)
    expected = only or list(VICTIMS)
    assert Counter(k.victim for k in schedule) == {v: kills for v in expected if kills}
    assert [k.number for k in schedule] == list(range(1, len(schedule) + 1))


@given(seeds, numbers)
def test_phases_are_spread_evenly(seed: int, kills: int) -> None:
    """For every victim no phase comes more than once more often than another, nor over all by much."""
    schedule = draw(seed, kills)
    for victim in VICTIMS:
        counts = Counter(dict.fromkeys(PHASES, 0))
        counts.update(k.phase for k in schedule if k.victim == victim)
        assert max(counts.values()) - min(counts.values()) <= 1
    total = Counter(k.phase for k in schedule)
    if kills:
        assert set(total) == set(PHASES)
        assert max(total.values()) - min(total.values()) <= len(VICTIMS) // len(PHASES) + 1


@given(seeds, numbers)
def test_delays_stay_within_their_phase(seed: int, kills: int) -> None:
    """A kill follows the beginning of its phase within the time that the phase is given."""
    for kill in draw(seed, kills):
        assert 0.0 <= kill.delay_s <= LONGEST_DELAY_S[kill.phase]


@given(seeds, numbers, some_victims)
def test_the_same_seed_gives_the_same_schedule(seed: int, kills: int, only: list[str]) -> None:
    """A failure can be repeated from the seed alone."""
    assert draw(seed, kills, only) == draw(seed, kills, only)


@given(seeds, st.integers(2, 25))
def test_kills_of_one_victim_are_half_a_round_apart(seed: int, kills: int) -> None:
    """Between two kills of the same victim at least five others are killed."""
    places: dict[str, list[int]] = {}
    for kill in draw(seed, kills):
        places.setdefault(kill.victim, []).append(kill.number)
    assert all(b - a > len(VICTIMS) // 2 for numbers in places.values() for a, b in pairwise(numbers))


@given(st.lists(st.tuples(st.sampled_from(VICTIMS), st.floats(0.0, 20.0)), max_size=40))
def test_waiting_keeps_restart_budgets(wanted: list[tuple[str, float]]) -> None:
    """However fast kills come, with the waits no budget sees its limit of deaths within its window."""
    history: list[tuple[str, float]] = []
    now = 0.0
    for victim, pause in wanted:
        now += pause
        now += wait_before(victim, history, now)
        history.append((victim, now))
    for victim in VICTIMS:
        budget = SHARED_BUDGET.get(victim, victim)
        times = [t for v, t in history if SHARED_BUDGET.get(v, v) == budget]
        assert all(times[k + BUDGET - 1] - times[k] > BUDGET_WINDOW_S for k in range(len(times) - BUDGET + 1))


def test_unknown_victims_are_refused() -> None:
    """The text names the stranger and who is known."""
    with pytest.raises(ValueError, match=r"nobody.*zoom_supervisor"):
        draw(1, 1, ["nobody"])


def entry(n: int, event: str, job_id: str = "", **detail: Any) -> TruthEntry:
    """An entry at second ``n``."""
    return TruthEntry(
        n=n, event=event, monotonic_s=float(n), wall_s=0.0, time_s=0.0, job_id=job_id, detail=detail
    )


SPECTRUM = [
    entry(1, "feedback", on=True),
    entry(2, "begin_job", "r/d0000/a1", kind="sweep"),
    entry(3, "move", "r/d0000/a1"),
    entry(4, "settle", "r/d0000/a1"),
    entry(5, "sweep_done", "r/d0000/a1", completed=True),
    entry(6, "end_job", "r/d0000/a1", outcome="finished"),
    entry(7, "begin_job", "r/w00-survey/a1", kind="frame"),
    entry(8, "move", "r/w00-survey/a1"),
    entry(9, "retraction"),
    entry(10, "frame_done", "r/w00-survey/a1", completed=False),
    entry(11, "end_job", "r/w00-survey/a1", outcome="interrupted"),
]


def test_phases_follow_from_the_truth_log() -> None:
    """A sweep's job travels, settles, sweeps and ends; a frame's job scans, also while it moves."""
    phases = [tip_at(SPECTRUM, t + 0.5).phase for t in range(1, 12)]
    assert phases == [
        *("idle", "moving", "settling", "sweeping", "swept", "idle"),
        *("scanning", "scanning", "scanning", "scanning", "idle"),
    ]


def test_the_tip_is_engaged_between_feedback_and_retraction() -> None:
    """That is when it has to be parked if its owner dies."""
    assert [tip_at(SPECTRUM, t).engaged for t in (0.5, 1.5, 8.5, 9.5)] == [False, True, True, False]


def test_only_finished_sweeps_count_as_on_their_way() -> None:
    """A sweep that was cut short has no result that could be committed."""
    tip = PhaseTracker()
    for e in (*SPECTRUM[:6], *(entry(20 + k, e.event, "x", **e.detail) for k, e in enumerate(SPECTRUM[1:4]))):
        tip.feed(e)
    tip.feed(entry(30, "sweep_done", "x", completed=False))
    tip.feed(entry(31, "end_job", "x", outcome="interrupted"))
    assert tip.sweeps_ended == 1


def test_a_torn_line_waits_for_its_rest(tmp_path: Path) -> None:
    """The tail hands out whole entries only, each once, while the log grows."""
    path = tmp_path / "truth.jsonl"
    tail = TruthTail(path)
    assert tail.poll() == []
    writer = TruthLogWriter(path)
    writer.append("start", time_s=0.0)
    writer.append("begin_job", time_s=0.1, job_id="a", detail={"kind": "sweep"})
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert [e.event for e in tail.poll()] == ["start"]
    path.write_bytes(whole)
    assert [e.event for e in tail.poll()] == ["begin_job"]
    assert tail.tip.phase == "moving"
    assert tail.poll() == []
