"""What the books say after the kills: journals, spool and truth log by id, parks, interrupted attempts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from actors.journal.comparison import Comparison, compare
from actors.journal.integrity import check_run
from actors.journal.reader import JournalReader
from protocols.files.truth_log import TruthEntry, job_intervals, read_truth, truth_path
from protocols.messages.jobs import JobState
from protocols.messages.records import AttemptEnded, SpectrumTaken
from tests.chaos.killing import Kill
from tests.chaos.laboratory import Intervention
from tests.chaos.phases import tip_at
from tests.chaos.schedule import PHASES, VICTIMS

LEASE_S = 2.0
"""Duration of the daemon's lease: the tip is parked within it when nobody owns it."""

PARK_MARGIN_S = 0.5
"""The guard's clock ticks, and so does a busy machine."""

OWNERS = frozenset({"daemon", "gcs", "raylet"})
"""Without them nobody owns the tip."""

PARKING = OWNERS | {"guard", "worker"}
"""Victims after whose death the tip must be parked."""

ACTED = frozenset({JobState.INTERRUPTED, JobState.FAILED, JobState.OUTCOME_UNKNOWN})
"""Ends of attempts that had begun; those that were discarded or refused never reached the tip."""

REPLAY_S = 300.0


@dataclass
class Found:
    """What was found of one kill."""

    kill: Kill
    hit: str = ""
    """The phase in which it really came."""
    park_s: float | None = None
    """Until the retraction began; None if the tip was not at the surface or did not have to be parked."""
    interrupted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """Everything; ``faults`` says in sentences what must not be."""

    seed: int
    found: list[Found]
    runs: dict[str, str]
    """Outcome by run."""
    comparison: Comparison
    interventions: list[Intervention]
    crashes: int
    replayed: dict[str, str]
    faults: list[str] = field(default_factory=list)
    interrupted_without_kill: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, every run completed, the tip always parked."""
        return not self.faults


def read_spool(state: Path) -> list[tuple[str, str]]:
    """(job id, state) of the gateway's ledger."""
    path = state / "gateway" / "spool.db"
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [(str(job), str(end)) for job, end in connection.execute("SELECT id, state FROM jobs")]
    finally:
        connection.close()


def judge(
    state: Path,
    seed: int,
    kills: Sequence[Kill],
    runs: Sequence[str],
    interventions: Sequence[Intervention] = (),
    *,
    replay: bool = True,
) -> Verdict:
    """Compare all books of ``state`` and hold every kill against them."""
    entries = read_truth(truth_path(state))
    journals = [state / "runs" / run / "journal.db" for run in runs]
    comparison = compare(journals, entries, read_spool(state))
    done = [k for k in kills if k.done]
    verdict = Verdict(
        seed=seed,
        found=[Found(k) for k in done],
        runs={run: _outcome(path) for run, path in zip(runs, journals, strict=True)},
        comparison=comparison,
        interventions=list(interventions),
        crashes=sum(e.event == "crash" for e in entries),
        replayed={run: replay_run(state, run) for run in runs} if replay else {},
    )
    commits = commit_intervals(entries, journals)
    for found in verdict.found:
        found.hit = phase_hit(entries, commits, found.kill)
        found.park_s = time_to_park(entries, found.kill)
    _attribute(verdict, entries, journals)
    verdict.faults = [
        *(f"kill {k.plan.number} ({k.plan.victim}, {k.plan.phase}): {k.trouble}" for k in kills if k.trouble),
        *_faults(verdict),
        *(f"{path}: {text}" for path in journals for text in check_run(path).problems),
    ]
    return verdict


def _outcome(journal: Path) -> str:
    with JournalReader(journal) as reader:
        found = reader.summary()
    return found.outcome or f"{found.state}: {found.reason}"


def _faults(verdict: Verdict) -> list[str]:
    faults = [
        f"{r.job_id}: {r.problem} ({r.truth} in the truth, {r.journaled} in the journal, spool {r.spool!r})"
        for r in verdict.comparison.problems
    ]
    faults += [f"{run} ended {outcome!r}" for run, outcome in verdict.runs.items() if outcome != "completed"]
    for found in verdict.found:
        name = f"kill {found.kill.plan.number} ({found.kill.plan.victim}, {found.hit})"
        if len(found.interrupted) > 1:
            faults.append(f"{name} interrupted {len(found.interrupted)}: {', '.join(found.interrupted)}")
        if found.park_s is not None and found.park_s > LEASE_S + PARK_MARGIN_S:
            faults.append(f"{name}: the tip was parked after {found.park_s:.2f} s")
    if verdict.interrupted_without_kill:
        faults.append(f"interrupted before any kill: {', '.join(verdict.interrupted_without_kill)}")
    if verdict.crashes:
        faults.append(f"the tip crashed {verdict.crashes} times")
    faults += [f"replay of {run}: {text}" for run, text in verdict.replayed.items() if text != "agrees"]
    return faults


def _attribute(verdict: Verdict, entries: Sequence[TruthEntry], journals: Iterable[Path]) -> None:
    """Give every interrupted, lost or doubled attempt to the last kill before its end."""
    ends = {job: end for job, _, end in job_intervals(entries)}
    by_monotonic = [f.kill.monotonic_s for f in verdict.found]
    by_wall = [f.kill.wall_s for f in verdict.found]

    def last_kill(job: str, wall_s: float) -> Found | None:
        place = bisect_right(by_monotonic, ends[job]) if job in ends else bisect_right(by_wall, wall_s)
        return verdict.found[place - 1] if place else None

    for path in journals:
        with JournalReader(path) as reader:
            for record in reader.records(kinds=(AttemptEnded,)):
                if not isinstance(record.body, AttemptEnded) or record.body.state not in ACTED:
                    continue
                job = record.body.job_id
                found = last_kill(job, record.wall_s)
                (found.interrupted if found else verdict.interrupted_without_kill).append(job)
    for row in verdict.comparison.problems:
        found = last_kill(row.job_id, -math.inf)
        if found is not None:
            (found.doubled if " times" in row.problem else found.lost).append(row.job_id)


def commit_intervals(entries: Iterable[TruthEntry], journals: Iterable[Path]) -> list[tuple[float, float]]:
    """(end of the sweep, its commit in the journal) in Unix seconds, of every journaled spectrum."""
    committed: dict[str, float] = {}
    for path in journals:
        with JournalReader(path) as reader:
            for record in reader.records(kinds=(SpectrumTaken,)):
                if isinstance(record.body, SpectrumTaken):
                    committed[record.body.job_id] = record.wall_s
    return [
        (e.wall_s, committed[e.job_id]) for e in entries if e.event == "sweep_done" and e.job_id in committed
    ]


def phase_hit(entries: Sequence[TruthEntry], commits: Iterable[tuple[float, float]], kill: Kill) -> str:
    """The planned phase if the kill came in it, else what the tip did then.

    A result may be on its way to the journal while the tip travels to the next place already.
    """
    tip = tip_at(entries, kill.monotonic_s).phase
    committing = any(done <= kill.wall_s <= committed for done, committed in commits)
    if kill.plan.phase == "committing" and committing:
        return "committing"
    return "committing" if tip == "swept" else tip


def time_to_park(entries: Sequence[TruthEntry], kill: Kill) -> float | None:
    """Seconds from the kill to the beginning of the retraction; None if there was nothing to park.

    Infinite if the tip stayed at the surface.  After the death of the owner a tip that is just being engaged
    must be parked as well.
    """
    victim = kill.plan.victim
    if victim not in PARKING:
        return None
    after = [e for e in entries if e.monotonic_s > kill.monotonic_s]
    if not tip_at(entries, kill.monotonic_s).engaged:
        engaged = any(
            e.event == "feedback" and e.detail.get("on") and e.monotonic_s < kill.monotonic_s + LEASE_S
            for e in after
        )
        if victim not in OWNERS or not engaged:
            return None
    retractions = (e.monotonic_s - kill.monotonic_s for e in after if _leaves_surface(e))
    return next(retractions, math.inf)


def _leaves_surface(entry: TruthEntry) -> bool:
    return entry.event == "retraction" and bool(entry.detail.get("moved", True))


def replay_run(state: Path, run: str) -> str:
    """ "agrees", or what ``stmctl replay`` says."""
    command = [sys.executable, "-m", "actors.console.stmctl", "replay", run, "--json", "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=REPLAY_S, check=False)
    if done.returncode == 0:
        return "agrees"
    try:
        body = json.loads(done.stdout)
        return f"{len(body['different'])} of {body['decisions']} decisions come out differently"
    except (ValueError, KeyError):
        return f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"


# For people and for files


def table(verdict: Verdict) -> str:
    """One line per victim, and the totals."""
    head = (
        *("victim", "kills", *PHASES, "other", "runs", "interrupted", "lost", "twice"),
        *("park s", "replaced s", "went on s", "trouble"),
    )
    victims = [v for v in VICTIMS if any(f.kill.plan.victim == v for f in verdict.found)]
    rows = [_row(v, [f for f in verdict.found if f.kill.plan.victim == v]) for v in victims]
    cells = [head, *rows, _row("all", verdict.found)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    c = verdict.comparison
    return "\n".join(
        [
            *lines,
            f"phases: hits of kills aimed at them; runs {len(verdict.runs)}, "
            f"completed {sum(o == 'completed' for o in verdict.runs.values())}; "
            f"{c.measured} measured, {c.journaled} journaled, {c.lost} lost, {c.doubled} doubled, "
            f"{len(c.problems)} disagreements; tip crashes {verdict.crashes}; "
            f"an operator was needed {len(verdict.interventions)} times; "
            f"replays that agree {sum(t == 'agrees' for t in verdict.replayed.values())} of "
            f"{len(verdict.replayed)}",
        ]
    )


def _row(name: str, found: Sequence[Found]) -> tuple[str, ...]:
    aimed = Counter(f.kill.plan.phase for f in found)
    hit = Counter(f.hit for f in found if f.hit == f.kill.plan.phase)
    return (
        name,
        str(len(found)),
        *(f"{hit[p]}/{aimed[p]}" if aimed[p] else "-" for p in PHASES),
        str(sum(f.hit != f.kill.plan.phase for f in found)),
        str(len({f.kill.run for f in found})),
        str(sum(len(f.interrupted) for f in found)),
        str(sum(len(f.lost) for f in found)),
        str(sum(len(f.doubled) for f in found)),
        _longest([f.park_s for f in found]),
        _longest([f.kill.replaced_s for f in found]),
        _longest([f.kill.went_on_s for f in found]),
        str(sum(bool(f.kill.trouble) for f in found)),
    )


def _longest(seconds: Iterable[float | None]) -> str:
    known = [s for s in seconds if s is not None]
    return f"{max(known):.2f}" if known else "-"


def plain(verdict: Verdict) -> dict[str, Any]:
    """For a JSON file."""
    return {
        "seed": verdict.seed,
        "good": verdict.good,
        "faults": verdict.faults,
        "runs": verdict.runs,
        "replayed": verdict.replayed,
        "measured": verdict.comparison.measured,
        "journaled": verdict.comparison.journaled,
        "lost": verdict.comparison.lost,
        "doubled": verdict.comparison.doubled,
        "disagreements": [vars(r) for r in verdict.comparison.problems],
        "crashes": verdict.crashes,
        "interventions": [vars(i) for i in verdict.interventions],
        "kills": [
            {
                "number": f.kill.plan.number,
                "victim": f.kill.plan.victim,
                "phase": f.kill.plan.phase,
                "delay_s": f.kill.plan.delay_s,
                "hit": f.hit,
                "run": f.kill.run,
                "monotonic_s": f.kill.monotonic_s,
                "wall_s": f.kill.wall_s,
                "park_s": f.park_s,
                "replaced_s": f.kill.replaced_s,
                "went_on_s": f.kill.went_on_s,
                "interrupted": f.interrupted,
                "lost": f.lost,
                "doubled": f.doubled,
                "trouble": f.kill.trouble,
            }
            for f in verdict.found
        ],
    }
