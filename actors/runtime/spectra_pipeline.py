"""What to do next in a window: plan, measure, look for drift, or close.  Pure: facts in, wishes out.

While point k is measured and point k + 1 stands ready in the gateway's queue, the planner works on the next
one.  So at most ``LOOKAHEAD`` decisions are without a spectrum at any time, and the planner treats them as
pending.

In lockstep, decision k sees exactly the results of decisions 0 .. k-2 whatever the timing: it is planned as
soon as those are in the journal, with k-1 pending, and its cursor is the sequence number of the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOOKAHEAD = 2


@dataclass(frozen=True)
class DecisionFact:
    """One decision of the window: its id, whether its spectrum is settled (measured or given up) and, if
    measured, the sequence number of its spectrum."""

    decision: str
    settled: bool
    seq: int = 0


@dataclass(frozen=True)
class WindowFacts:
    """Everything the pipeline looks at.  ``decisions`` in order of their index."""

    decisions: Sequence[DecisionFact]
    last_seq: int
    planning: bool
    measuring: frozenset[str]
    points: int
    lockstep: bool
    stop_reason: str = ""
    reference_before: int = 0
    """Index of the first decision that waits for a reference patch; 0: none does."""


@dataclass(frozen=True)
class Plan:
    """Ask the planner for decision ``index`` on what lies up to ``cursor``, with ``pending`` under way."""

    index: int
    cursor: int
    pending: tuple[str, ...]


@dataclass(frozen=True)
class Wishes:
    """What to start now.  ``close`` is the reason why the window is finished, or empty."""

    plan: Plan | None = None
    measure: tuple[str, ...] = ()
    reference: bool = False
    close: str = ""


def next_wishes(facts: WindowFacts) -> Wishes:
    """Decide what to start, given what is under way."""
    pending = tuple(d.decision for d in facts.decisions if not d.settled)
    enough = len(facts.decisions) >= facts.points
    if not pending and not facts.planning and not facts.measuring and (enough or facts.stop_reason):
        return Wishes(close=facts.stop_reason or f"all {facts.points} points of this window are taken")
    before = facts.decisions[: facts.reference_before] if facts.reference_before else facts.decisions
    waiting = [d.decision for d in before if not d.settled and d.decision not in facts.measuring]
    room = LOOKAHEAD - len(facts.measuring)
    measure = tuple(waiting[: max(room, 0)])
    reference = _reference_due(facts) and not waiting
    plan = None if facts.planning or enough or facts.stop_reason else _plan(facts, pending)
    return Wishes(plan=plan, measure=measure, reference=reference)


def _reference_due(facts: WindowFacts) -> bool:
    """The patch is ordered while the last spectrum before it is measured, so that the tip never waits; in
    lockstep after it."""
    reached = 0 < facts.reference_before <= len(facts.decisions)
    return reached and len(facts.measuring) <= (0 if facts.lockstep else 1)


def _plan(facts: WindowFacts, pending: tuple[str, ...]) -> Plan | None:
    index = len(facts.decisions)
    if not facts.lockstep:
        return Plan(index, facts.last_seq, pending) if len(pending) < LOOKAHEAD else None
    seen, ahead = facts.decisions[: max(index - 1, 0)], facts.decisions[max(index - 1, 0) :]
    if not all(d.settled for d in seen):
        return None
    cursor = max((d.seq for d in seen), default=0)
    return Plan(index, cursor, tuple(d.decision for d in ahead))
