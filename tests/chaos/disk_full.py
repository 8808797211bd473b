"""The disk runs full during a run: nothing is lost, the run holds, says what to do, and goes on afterwards.

The state directory lies on a small file system of its own (tmpfs) which a ballast file fills while a sweep
is under way.  Where mounting is not permitted, the gateway's reserve is set just below what is free, so that
a ballast of some megabytes has the same effect on the spool; the other stages are left out, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.journal.comparison import Comparison, compare
from actors.journal.integrity import check_run
from protocols.errors import TunnelpilotError
from protocols.files.truth_log import read_truth, truth_path
from tests.chaos.laboratory import Laboratory, StuckError, campaign_text, prepare_limits
from tests.chaos.verdict import read_spool
from tests.chaos.victims import status

MB = 1_000_000
FILE_SYSTEM = "180m"
SPOOL_RESERVE = 90 * MB
HOLD_S = 90.0
GO_ON_S = 90.0
COMPLETION_S = 180.0
ADVICE = ("room", "space")
"""Words of which a hold for a full disk names at least one: what a person has to make."""


@dataclass(frozen=True)
class Stage:
    """How full the disk gets, and who must notice first."""

    name: str
    free_bytes: int
    meaning: str


STAGES = (
    Stage("spool", 77 * MB, "the gateway refuses before measuring: its reserve is touched"),
    Stage("journal", 40 * MB, "the journal's reserve is touched while a sweep is under way"),
    Stage("nothing", 0, "not one byte is left for anybody"),
)


@dataclass
class StageResult:
    """One stage."""

    stage: Stage
    held_after_s: float | None = None
    reason: str = ""
    went_on_s: float | None = None
    """From resume to the next finished sweep."""
    trouble: str = ""


@dataclass
class DiskFull:
    """All of it.  ``skipped``: why stages were left out."""

    stages: list[StageResult] = field(default_factory=list)
    comparison: Comparison | None = None
    outcome: str = ""
    skipped: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Held, said why, went on, completed, nothing lost."""
        return not self.faults


@contextmanager
def small_file_system(folder: Path) -> Iterator[str]:
    """``folder`` as a small file system of its own; yields "" or the reason why that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={FILE_SYSTEM}", "tp-chaos", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
        refusal = done.stderr.strip() if done.returncode else ""
    except OSError as missing:
        refusal = str(missing)
    try:
        yield refusal
    finally:
        if not refusal:
            subprocess.run(["umount", "-l", str(folder)], timeout=10.0, check=False)


class Ballast:
    """A file that takes up what is free."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"

    def leave(self, free_bytes: int) -> None:
        """Fill until so much is free."""
        with self.path.open("ab") as f:
            for _ in range(20):  # others write meanwhile
                have = shutil.disk_usage(self.path.parent).free
                if have <= free_bytes:
                    return
                try:
                    os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, have - free_bytes)
                except OSError:
                    f.write(b"\0" * 4096)
                    f.flush()

    def remove(self) -> None:
        """Make room again."""
        self.path.unlink(missing_ok=True)


def run(
    folder: Path,
    say: Callable[[str], None],
    stages: Sequence[Stage] = STAGES,
    points: int | None = None,
) -> DiskFull:
    """Every stage in one run, on a file system of its own at ``folder``; nothing runs any more afterwards."""
    result = DiskFull()
    with small_file_system(folder) as refusal:
        if refusal:
            result.skipped = f"no small file system can be mounted here ({refusal}): the spool's stage only"
            say(result.skipped)
            free = shutil.disk_usage(folder).free
            stages = [Stage("spool", free - 300 * MB, STAGES[0].meaning)]
            reserve = free - 200 * MB
        else:
            reserve = SPOOL_RESERVE
        prepare_limits(folder, disk_reserve_bytes=str(reserve))
        lab = Laboratory(folder, campaign_text(points), say)
        ballast = Ballast(folder)
        try:
            lab.start_daemon()
            lab.start_run()
            for stage in stages:
                outcome = _go_through(lab, ballast, stage)
                result.stages.append(outcome)
                say(f"    {stage.name}: held after {outcome.held_after_s} s: {outcome.reason}")
            lab.await_completion(COMPLETION_S)
        except (StuckError, TunnelpilotError) as trouble:
            result.faults.append(f"the run: {trouble}")
        finally:
            ballast.remove()
            result.faults += lab.shut_down()
            left = lab.clear_away()
        result.faults += [f"left behind: process {pid} ({what})" for pid, what in left.items()]
        _judge(result, lab)
        if result.faults:
            shutil.copytree(folder, folder.parent / "full-kept", dirs_exist_ok=True)
    return result


def _go_through(lab: Laboratory, ballast: Ballast, stage: Stage) -> StageResult:
    """Fill in the middle of a sweep, wait for the hold, make room, resume, wait for a sweep."""
    result = StageResult(stage)
    try:
        lab.await_that("a sweep", lambda: _sweeping(lab), HOLD_S)
        began = time.monotonic()
        ballast.leave(stage.free_bytes)
        result.reason = lab.await_that("a hold", lambda: _hold_reason(lab), HOLD_S)
        result.held_after_s = round(time.monotonic() - began, 2)
        ballast.remove()
        began = time.monotonic()
        lab.help(result.reason)
        swept = lab.tail.tip.sweeps_ended
        lab.await_that("the next sweep", lambda: lab.tail.tip.sweeps_ended > swept, GO_ON_S)
        result.went_on_s = round(time.monotonic() - began, 2)
    except (StuckError, TunnelpilotError) as trouble:
        result.trouble = str(trouble)
    finally:
        ballast.remove()
    return result


def _sweeping(lab: Laboratory) -> bool:
    if lab.run_is_over:
        lab.start_run()
    return lab.tail.wait_for("sweeping", 0.5)


def _hold_reason(lab: Laboratory) -> str:
    """From the daemon: the journal may be what cannot be written."""
    found = status(lab.state)
    if found is None or found.current is None or found.current.state != "held":
        return ""
    return found.current.reason or "(no reason)"


def _judge(result: DiskFull, lab: Laboratory) -> None:
    state = lab.state
    journals = [state / "runs" / run / "journal.db" for run in lab.runs]
    for stage in result.stages:
        if stage.trouble:
            result.faults.append(f"{stage.stage.name}: {stage.trouble}")
        if stage.reason and not any(word in stage.reason.lower() for word in ADVICE):
            result.faults.append(f"{stage.stage.name}: the hold does not say what to do: {stage.reason}")
    try:
        result.comparison = compare(journals, read_truth(truth_path(state)), read_spool(state))
    except TunnelpilotError as damaged:
        result.faults.append(str(damaged))
    else:
        result.faults += [f"{r.job_id}: {r.problem}" for r in result.comparison.problems]
        result.faults += [
            f"{r.job_id}: measured and not kept ({r.ended})"
            for r in result.comparison.rows
            if r.truth and not r.journaled  # nobody was killed here
        ]
    for path in journals:
        result.faults += [f"{path}: {text}" for text in check_run(path).problems]
    summary = lab.summary() if lab.runs else None
    result.outcome = summary.outcome if summary else ""
    if result.outcome != "completed":
        result.faults.append(f"{lab.runs[-1:]} ended {result.outcome!r}")


def table(result: DiskFull) -> str:
    """For people."""
    lines = [
        f"disk full, {s.stage.name} ({s.stage.free_bytes / MB:.0f} MB left): held after {s.held_after_s} s, "
        f"went on {s.went_on_s} s after resume. It said: {s.reason}"
        for s in result.stages
    ]
    if result.comparison is not None:
        c = result.comparison
        lines.append(
            f"{c.measured} measured, {c.journaled} journaled, {c.lost} lost, {c.doubled} doubled, "
            f"{len(c.problems)} disagreements; the run {result.outcome}"
        )
    if result.skipped:
        lines.append(f"left out: {result.skipped}")
    return "\n".join([*lines, *(f"FAULT {fault}" for fault in result.faults)])


def plain(result: DiskFull) -> dict[str, Any]:
    """For a JSON file."""
    return {
        "good": result.good,
        "stages": [{**vars(s), "stage": vars(s.stage)} for s in result.stages],
        "outcome": result.outcome,
        "skipped": result.skipped,
        "faults": result.faults,
    }
