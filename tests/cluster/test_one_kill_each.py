"""One SIGKILL of every process of a laboratory: the run goes on, and nothing is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.schedule import draw
from tests.chaos.session import kill_and_judge
from tests.chaos.verdict import table

SEED = 7


@pytest.mark.cluster
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_kill_of_each_process(tmp_path: Path) -> None:
    """Every actor, journal writer, guard, worker, daemon, GCS and raylet is killed once, in phases drawn from
    a seed: the run completes, the books agree by id, at most one attempt per kill is interrupted, the tip is
    parked within the lease, no process is left."""
    schedule = draw(SEED, 1)
    said: list[str] = []
    verdict = kill_and_judge(tmp_path, SEED, schedule, said.append, points=36, replay=False)
    assert not verdict.faults, "\n".join([*said, table(verdict), *verdict.faults])
    assert {found.kill.plan.victim for found in verdict.found} == {plan.victim for plan in schedule}
    assert verdict.comparison.measured > len(schedule)
