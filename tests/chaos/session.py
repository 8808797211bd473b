"""One session of chaos: laboratory, kills, verdict.  Used by ``python -m tests.chaos`` and by a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from protocols.errors import TunnelpilotError
from tests.chaos.killing import Killer
from tests.chaos.laboratory import Laboratory, StuckError, campaign_text, prepare_limits
from tests.chaos.schedule import PlannedKill
from tests.chaos.verdict import Verdict, judge

COMPLETION_S = 240.0


def kill_and_judge(
    state: Path,
    seed: int,
    schedule: Sequence[PlannedKill],
    say: Callable[[str], None],
    *,
    points: int | None = None,
    replay: bool = True,
    within_s: float = math.inf,
) -> Verdict:
    """Carry the schedule out in the empty directory ``state``, let the last run complete, and judge.

    ``points``: spectra per window; None: as the campaign's file says.  ``within_s``: kills that have not been
    carried out by then are left out, which is a fault.  Nothing runs any more afterwards.

    Raises:
        StuckError, TunnelpilotError: the laboratory could not even be started.
    """
    prepare_limits(state)
    lab = Laboratory(state, campaign_text(points), say)
    killer = Killer(lab)
    faults: list[str] = []
    try:
        say(f"    daemon up after {lab.start_daemon():.1f} s")
        lab.start_run()
        killer.carry_out(schedule, within_s)
        try:
            lab.await_completion(COMPLETION_S)
        except (StuckError, TunnelpilotError) as trouble:
            faults.append(f"the end: {trouble}")
    finally:
        faults += lab.shut_down()
        left = lab.clear_away()
    faults += [f"left behind: process {pid} ({what})" for pid, what in left.items()]
    verdict = judge(state, seed, killer.kills, lab.runs, lab.interventions, replay=replay)
    missing = len(schedule) - sum(k.done for k in killer.kills)
    if missing:
        faults.append(f"{missing} of {len(schedule)} kills were not carried out")
    verdict.faults = faults + verdict.faults
    return verdict
