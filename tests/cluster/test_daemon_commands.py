"""A day with one daemon: what the console can do with a run, in the order in which a person does it.

The tests share one daemon and build on one another.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.console.daemon_link import DaemonLink
from actors.journal.comparison import compare
from actors.journal.integrity import check_run
from actors.journal.reader import JournalReader
from protocols.files.state_directory import ProcessLock, read_endpoints
from protocols.files.truth_log import read_truth, truth_path
from protocols.messages.base import Message
from protocols.messages.daemon import DaemonStatus, WatchEvents, WatchQuery
from protocols.messages.recipes import Engage, Frame, Move, Sweep
from protocols.messages.records import (
    AttemptEnded,
    Conclusion,
    DriftMeasured,
    FrameTaken,
    JobDone,
    JobIssued,
    OperatorAction,
    RunState,
    SpectrumTaken,
    StoredRecord,
)
from protocols.states.park import ENGAGED, PARKED
from tests.chaos.verdict import read_spool
from tests.chaos.victims import left_behind
from tests.cluster.gateway_harness import await_that

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

PATIENCE_S = 60.0

CAMPAIGN = """
name = "day"
description = "A run that is interrupted by people"
seed = 3
on_alarm = "{alarm}"

[instrument]
sample = "vacancy"
time_scale = 50.0

[imaging]
bias = "1.0V"
setpoint = "100pA"
pixels = 64
line_time = "0.2s"
reference_width = "30nm"
reference_pixels = 48

[spectrum]
stabilise_bias = "1.0V"
stabilise_current = "100pA"
settle = "50ms"
z_offset = "0pm"
start = "-0.5V"
stop = "1.0V"
points = 151
dwell = "15ms"
backward = true

[spectrum.lockin]
amplitude = "10mV"
frequency = "4.3kHz"
time_constant = "1ms"

[scalar]
kind = "ratio"
channel = "lockin_x"
window = ["0.15V", "0.45V"]
reference = ["0V", "1V"]

[planner]
kernel = "matern_xy"
acquisition = "ucb"
seed_points = 10
points = 600
candidate_step = 2
fit_steps = 10

[zoom]
widths = ["60nm"]

[drift]
every = 40
max_velocity = "0.5nm/s"

[classifier]
training = ""

[limits]
{limits}
"""


@dataclass
class Done:
    """What a command said."""

    status: int
    out: str
    errors: str

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass
class Lab:
    """The daemon's state directory and the run under way."""

    state: Path
    folder: Path
    run: str = ""

    def stmctl(self, *words: str, module: str = "actors.console.stmctl") -> Done:
        """A command as a person types it."""
        done = subprocess.run(
            [sys.executable, "-m", module, *words, "--state", str(self.state)],
            capture_output=True,
            text=True,
            timeout=120.0,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str) -> Done:
        """A command that must do what it says."""
        done = self.stmctl(*words)
        assert done.status == 0, (words, done)
        return done

    def campaign(self, name: str, limits: str = "") -> str:
        """A campaign's file."""
        path = self.folder / f"{name}.toml"
        path.write_text(CAMPAIGN.format(alarm=self.alarm, limits=limits), encoding="utf-8")
        return str(path)

    @property
    def alarm(self) -> Path:
        """The user's command: it appends the reason to ``alarms``."""
        return self.folder / "alarm.sh"

    @property
    def alarms(self) -> list[str]:
        """Reasons that the user's command was given."""
        path = self.folder / "alarms"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def status(self) -> DaemonStatus:
        """The daemon's status."""
        with DaemonLink(self.state) as link:
            return link.status(3)

    def await_status(self, what: str, condition: Callable[[DaemonStatus], object]) -> DaemonStatus:
        """Look whenever something was said (and now and then) until it holds."""
        until = time.monotonic() + PATIENCE_S
        since = 0
        with DaemonLink(self.state) as link:
            while True:
                found = link.status(3)
                if condition(found):
                    return found
                run = found.current
                stands = f"{run.state} ({run.reason}), {run.spectra_total} spectra" if run else "no run"
                assert time.monotonic() < until, f"awaited {what}; {stands}; {found.guard}"
                since = link.ask(WatchQuery(since=since, limit=1000, wait_s=0.25), WatchEvents).next

    def await_state(self, *states: str) -> DaemonStatus:
        """Until the run is in one of these states."""
        return self.await_status(" or ".join(states), lambda s: s.current and s.current.state in states)

    def spectra(self) -> int:
        """How many the run has."""
        current = self.status().current
        return current.spectra_total if current else 0

    def await_spectra(self, more: int) -> None:
        """Until so many more are there."""
        wanted = self.spectra() + more
        self.await_status(
            f"{wanted} spectra", lambda s: s.current is not None and s.current.spectra_total >= wanted
        )

    @property
    def journal(self) -> Path:
        """The run's directory."""
        return self.state / "runs" / self.run

    def records(self, *kinds: type[Message], after: int = 0) -> list[StoredRecord]:
        """Records of the run so far."""
        with JournalReader(self.journal) as reader:
            return list(reader.records(after, kinds))

    def last_seq(self) -> int:
        """Where its journal ends now."""
        with JournalReader(self.journal) as reader:
            return reader.last_seq()

    def open_jobs(self) -> set[str]:
        """Jobs that were issued and have neither a result nor an end."""
        issued = {r.body.job_id for r in self.records(JobIssued)}  # type: ignore[union-attr]
        over = self.records(SpectrumTaken, FrameTaken, JobDone, AttemptEnded)
        return issued - {r.body.job_id for r in over}  # type: ignore[union-attr]

    def last_action(self, command: str) -> OperatorAction:
        """What the journal says of the last action of that name."""
        found = [
            r.body
            for r in self.records(OperatorAction)
            if isinstance(r.body, OperatorAction) and r.body.command == command
        ]
        assert found, command
        return found[-1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A daemon that was started with ``stmctl up``; whatever is left at the end is ended."""
    folder = tmp_path_factory.mktemp("day")
    made = Lab(folder / "state", folder)
    made.alarm.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> "{folder}/alarms"\n', encoding="utf-8")
    made.alarm.chmod(0o755)
    try:
        made.good("up")
        yield made
        made.stmctl("down")
    finally:
        for number in left_behind(made.state):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended in between


@pytest.fixture(scope="module")
def failures_before(request: pytest.FixtureRequest) -> int:
    """How many tests had failed when this file began."""
    return request.session.testsfailed


@pytest.fixture(autouse=True)
def as_told_so_far(request: pytest.FixtureRequest, failures_before: int) -> None:
    """The tests build on one another: after a failure the rest say nothing."""
    if request.session.testsfailed > failures_before:
        pytest.skip("an earlier test of this day failed")


def test_a_campaign_may_not_widen_a_limit(lab: Lab) -> None:
    """The run is refused with file, limit, value and what is allowed; no run comes to be."""
    done = lab.stmctl("run", lab.campaign("wide", 'setpoint_max = "6nA"'), "--detach")
    assert done.status == 2, done
    assert "wide.toml, limits" in done.errors
    assert "setpoint_max: 6nA would widen the limit (at most 5nA)" in done.errors.replace(" nA", "nA")
    assert "may only narrow" in done.errors
    assert not list((lab.state / "runs").glob("*"))
    assert lab.status().current is None


def test_a_run_is_started_and_left_alone(lab: Lab) -> None:
    """``run --detach`` comes back with the run's name; the daemon brings everything up and measures."""
    done = lab.good("run", lab.campaign("day", 'setpoint_max = "1nA"'), "--detach")
    assert "Started day-" in done.out
    current = lab.status().current
    assert current is not None
    lab.run = current.run
    assert lab.run in done.out
    lab.await_spectra(5)
    with JournalReader(lab.journal) as reader:
        started = reader.started()
    assert started.limits["setpoint_max"] == 1e-9
    assert (started.simulated, started.time_scale) == (True, 50.0)


def test_status_tells_programs_everything(lab: Lab) -> None:
    """``status --json``: run, progress, actors, guard, worker, queues with what they dropped."""
    found = lab.good("status", "--json").document
    assert found["schema"] == "tunnelpilot/status/1"
    current = found["current"]
    assert (current["run"], current["state"], current["time_scale"]) == (lab.run, "running", 50.0)
    assert current["spectra_total"] >= 5
    assert current["window"]["width_m"] == 60e-9
    assert current["latest"][-1]["job_id"].startswith(f"{lab.run}/d")
    assert (found["lease"], found["latched"], found["needs_person"]) == ("held", False, False)
    assert found["guard"]["park"] == ENGAGED
    assert {a["state"] for a in found["actors"]} == {"up"}
    assert {e["dropped"] for e in found["edges"]} == {0}
    assert found["epoch"] == found["guard"]["epoch"] > 0


def test_watch_tells_what_happened_and_goes_on_from_there(lab: Lab) -> None:
    """``watch --json`` gives numbered events; asked again with ``--since`` only what came later."""
    first = lab.good("watch", "--json").document
    numbers = [e["number"] for e in first["events"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {"run", "state", "window", "frame", "spectrum"} <= {e["kind"] for e in first["events"]}
    assert all(e["run"] in ("", lab.run) for e in first["events"])
    lab.await_spectra(1)
    second = lab.good("watch", "--json", "--since", str(first["next"])).document
    assert second["events"][0]["number"] == first["next"] + 1
    assert second["dropped"] == 0


def test_a_second_run_is_refused(lab: Lab) -> None:
    """While one is under way: which one, and what to do; it goes on."""
    done = lab.stmctl("run", lab.campaign("other"), "--detach")
    assert done.status == 1, done
    assert f"the run {lab.run} is under way (running)" in done.errors
    assert "stmctl abort" in done.errors
    assert [p.name for p in (lab.state / "runs").iterdir()] == [lab.run]
    lab.await_spectra(1)


def test_a_second_daemon_is_refused(lab: Lab) -> None:
    """Exit status 2, the pid of the first, and what to do."""
    first = int(read_endpoints(lab.state, "daemon")["pid"])
    done = lab.stmctl(module="actors.console.stmd")
    assert done.status == 2, done
    assert f"(pid {first}) already runs" in done.errors
    assert "stop it first, or name another directory with --state" in done.errors
    assert lab.status().pid == first


def test_a_pause_comes_at_a_safe_point(lab: Lab) -> None:
    """What is under way is finished, nothing else begins, the tip stays at the surface under our lease."""
    assert lab.good("pause", "--json").document["state"] in ("pausing", "paused")
    found = lab.await_state("paused")
    assert found.worker is not None
    assert (found.worker.running, found.worker.ready) == ("", "")
    assert lab.open_jobs() == set()
    assert found.guard is not None
    assert (found.guard.park, found.lease) == (ENGAGED, "held")
    assert lab.last_action("pause").outcome in ("pausing", "paused")
    assert not any(r.body.state == "interrupted" for r in lab.records(AttemptEnded))  # type: ignore[union-attr]


def test_a_person_measures_while_the_run_is_paused(lab: Lab) -> None:
    """A spectrum at a place: its result is told and is in the journal under an operator's id."""
    found = lab.good("measure", "5nm", "-3nm", "--json").document
    assert found["outcome"] == "finished"
    point = found["point"]
    assert found["job_id"] == point["job_id"] == f"{lab.run}/operator-0001/a1"
    with JournalReader(lab.journal) as reader:
        history = reader.job(found["job_id"])
    assert history.issued is not None
    assert isinstance(history.issued.recipe, Sweep)
    assert history.issued.by == "operator"
    assert isinstance(history.result, SpectrumTaken)
    assert history.result.scalar == point["scalar"]
    assert abs(history.result.sample_x_m - 5e-9) < 1e-9
    assert abs(history.result.sample_y_m + 3e-9) < 1e-9
    action = lab.last_action("measure")
    assert action.outcome == "finished"
    assert (float(action.arguments["x_m"]), float(action.arguments["y_m"])) == (5e-9, -3e-9)


def test_a_person_moves_the_tip_while_the_run_is_paused(lab: Lab) -> None:
    """The move is a job like any other; the journal has where the tip was at its end."""
    found = lab.good("goto", "-4nm", "2nm", "--json").document
    assert found["outcome"] == "finished"
    with JournalReader(lab.journal) as reader:
        history = reader.job(found["job_id"])
    assert history.issued is not None
    recipe = history.issued.recipe
    assert isinstance(recipe, Move)
    assert isinstance(history.result, JobDone)
    assert history.result.final is not None
    final = history.result.final
    assert abs(final.x_m - recipe.x_m) + abs(final.y_m - recipe.y_m) < 1e-10
    assert final.feedback
    assert lab.last_action("goto").outcome == "finished"


def test_a_person_scans_while_the_run_is_paused(lab: Lab) -> None:
    """One frame of the open window is in the journal; nothing else was done, and the run is still paused."""
    before = lab.spectra()
    found = lab.good("scan", "--json").document
    assert found["outcome"] == "finished"
    with JournalReader(lab.journal) as reader:
        history = reader.job(found["job_id"])
    assert history.issued is not None
    assert isinstance(history.issued.recipe, Frame)
    assert isinstance(history.result, FrameTaken)
    assert history.result.width_m == 60e-9
    assert lab.last_action("scan").outcome == "finished"
    status = lab.status()
    assert status.current is not None
    assert (status.current.state, status.current.spectra_total) == ("paused", before)


def test_a_measurement_outside_the_limits_is_refused(lab: Lab) -> None:
    """The gateway refuses, with the limit; the refusal is in the journal and the run is still paused."""
    done = lab.stmctl("measure", "2mm", "0nm", "--json")
    assert done.status == 1, done
    assert done.document["outcome"] == "refused"
    assert "x_max" in done.document["reason"]
    assert lab.last_action("measure").outcome.startswith("refused")
    found = lab.status().current
    assert found is not None
    assert found.state == "paused"


def test_a_paused_run_is_resumed(lab: Lab) -> None:
    """It measures on, without engaging anew: the tip never left the surface."""
    end = lab.last_seq()
    lab.good("resume")
    lab.await_state("running")
    lab.await_spectra(3)
    issued = [r.body for r in lab.records(JobIssued, after=end)]
    assert not any(isinstance(b, JobIssued) and isinstance(b.recipe, Engage) for b in issued)
    done = lab.stmctl("resume")
    assert done.status == 1, done
    assert "resume makes no sense now" in done.errors


def test_a_person_measures_while_the_run_goes_on(lab: Lab) -> None:
    """The spectrum is taken between two of the run's, and the run goes on as if nothing had been."""
    found = lab.good("measure", "0nm", "7nm", "--json").document
    assert (found["outcome"], found["point"]["job_id"]) == ("finished", found["job_id"])
    assert lab.last_action("measure").outcome == "finished"
    lab.await_spectra(3)
    assert lab.await_state("running").alarms == ()


def test_a_pause_now_cancels_what_is_under_way(lab: Lab) -> None:
    """Paused at once; every job that was under way gets its end, measured or not, and the tip stays; after
    ``resume`` each decision that lost its attempt is measured by another one."""
    assert lab.good("pause", "--now", "--json").document["state"] == "paused"
    await_that("the end of every job", lambda: not lab.open_jobs())
    found = lab.await_state("paused")
    assert found.guard is not None
    assert found.guard.park == ENGAGED
    cut = [
        b
        for r in lab.records(AttemptEnded)
        if isinstance(b := r.body, AttemptEnded) and "pause-now" in b.reason
    ]
    assert {b.state for b in cut} <= {"interrupted", "discarded"}
    lab.good("resume")
    lab.await_spectra(4)
    measured = {r.body.decision for r in lab.records(SpectrumTaken)}  # type: ignore[union-attr]
    assert {b.job_id.split("/")[1] for b in cut if "/d" in b.job_id} <= measured


def test_a_withdrawal_holds_the_run(lab: Lab) -> None:
    """``withdraw`` goes past the daemon: the tip is parked, the run holds with the reason, the user's command
    is run with it, and exit codes say that a person is needed.  A ``resume`` that was refused before is no
    leave to engage again."""
    lab.await_state("running")
    done = lab.good("withdraw", "--reason", "smoke in the room")
    assert "the retraction has begun" in done.out
    found = lab.await_state("held")
    assert found.current is not None
    assert "smoke in the room" in found.current.reason
    assert found.guard is not None
    assert (found.guard.park, found.guard.last_park_cause) == (PARKED, "operator")
    await_that("the user's command", lambda: lab.alarms)
    assert lab.alarms == [found.current.reason]
    status = lab.stmctl("status", "--json")
    assert status.status == 4
    assert status.document["needs_person"]
    assert found.current.reason in status.document["alarms"]


def test_a_held_run_engages_only_when_told_and_finds_its_place(lab: Lab) -> None:
    """Between withdrawal and ``resume`` nothing was engaged; afterwards it engages, registers a "resume"
    frame against its reference, and measures on."""
    held = lab.last_seq()
    answer = lab.good("resume", "--json").document
    assert answer["state"] == "engaging"
    lab.await_state("running")
    lab.await_spectra(3)
    later = lab.records(after=held)
    engages = [r for r in later if isinstance(r.body, JobIssued) and isinstance(r.body.recipe, Engage)]
    orders = [r for r in later if isinstance(r.body, OperatorAction) and r.body.command == "resume"]
    states = [r.body.state for r in later if isinstance(r.body, RunState)]
    assert len(engages) == len(orders) == 1
    assert states[:2] == ["engaging", "running"]
    truth = read_truth(truth_path(lab.state))
    withdrawn = next(e for e in truth if e.event == "retraction" and e.detail.get("moved", True))
    on = [e for e in truth if e.event == "feedback" and e.detail.get("on") and e.n > withdrawn.n]
    engage = next(e for e in truth if e.job_id == engages[0].body.job_id)  # type: ignore[union-attr]
    assert on[0].n > engage.n
    frames = [r.body for r in later if isinstance(r.body, FrameTaken) and r.body.purpose == "resume"]
    drifts = {r.body.frame_job: r.body for r in later if isinstance(r.body, DriftMeasured)}
    assert frames
    assert drifts[frames[-1].job_id].accepted
    assert drifts[frames[-1].job_id].reference_job == f"{lab.run}/w00-ref-0000/a1"
    assert len(lab.alarms) == 1


def test_a_withdrawal_right_after_the_engage_holds_again(lab: Lab) -> None:
    """Leave to engage is for one engage: a withdrawal while the run looks for its place, or just after, is
    not undone by it."""
    lab.good("withdraw")
    lab.await_state("held")
    end = lab.last_seq()
    lab.good("resume")
    await_that("the end of the engage", lambda: lab.records(JobDone, after=end))
    lab.good("withdraw", "--reason", "smoke again")
    found = lab.await_state("held")
    assert found.current is not None
    assert "smoke again" in found.current.reason
    assert found.guard is not None
    assert found.guard.park == PARKED
    await_that("the user's command", lambda: len(lab.alarms) == 3)
    assert lab.alarms[-1] == found.current.reason


def test_a_person_may_engage_before_the_run_goes_on(lab: Lab) -> None:
    """``ack`` and ``engage`` are journaled and bring the tip to the surface; the run still holds until
    ``resume``, which then looks for the place without engaging once more."""
    assert lab.good("ack", "--who", "ada", "--json").document["outcome"] == "accepted"
    assert lab.last_action("ack").arguments == {"who": "ada"}
    found = lab.good("engage", "--json").document
    assert found["outcome"] == "finished"
    assert lab.last_action("engage").outcome == "finished"
    status = lab.await_status("the tip", lambda s: s.guard is not None and s.guard.park == ENGAGED)
    assert status.current is not None
    assert status.current.state == "held"
    end = lab.last_seq()
    lab.good("resume")
    lab.await_state("running")
    lab.await_spectra(3)
    issued = [r.body for r in lab.records(JobIssued, after=end)]
    assert not any(isinstance(b, JobIssued) and isinstance(b.recipe, Engage) for b in issued)
    later = [r.body for r in lab.records(FrameTaken, after=end)]
    assert any(isinstance(b, FrameTaken) and b.purpose == "resume" for b in later)


def test_an_abort_parks_and_concludes(lab: Lab) -> None:
    """The answer comes when the run is concluded: parked, lease given back, everything measured is kept."""
    answer = lab.good("abort", "--reason", "home time", "--json").document
    assert (answer["state"], answer["reason"]) == ("aborted", "aborted: home time")
    (end,) = (r.body for r in lab.records(Conclusion))
    assert isinstance(end, Conclusion)
    assert end.outcome == "aborted"
    assert end.spectra == len(lab.records(SpectrumTaken)) > 10
    found = lab.await_status("the park", lambda s: s.guard is not None and s.guard.park == PARKED)
    assert found.lease == "none"
    assert lab.open_jobs() == set()
    done = lab.stmctl("pause")
    assert done.status == 1
    assert "no run is under way" in done.errors


def test_the_run_can_be_replayed(lab: Lab) -> None:
    """Every decision comes out the same, also those after the pause and the withdrawal."""
    found = lab.good("replay", lab.run, "--json").document
    assert found["decisions"] == found["same"] > 10
    assert found["different"] == []


def test_down_leaves_no_process(lab: Lab) -> None:
    """Daemon, Ray, actors, gateway, simulator and journal writer end; nobody holds a lock."""
    lab.good("down")
    for process in ("daemon", "gateway", "gateway/worker", "journal", "sim"):
        assert not ProcessLock(lab.state, process).held_by_somebody(), process
    await_that("the end of every process", lambda: not left_behind(lab.state))
    done = lab.stmctl("status")
    assert done.status == 3
    assert "stmctl up" in done.errors


def test_all_books_agree_at_the_end(lab: Lab) -> None:
    """Journal, spool and truth log by id: everything measured is journaled once, nothing is lost or open; the
    tip never crashed and is withdrawn.  A sweep that was through when its abort came is recorded as ended."""
    truth = read_truth(truth_path(lab.state))
    comparison = compare([lab.journal / "journal.db"], truth, read_spool(lab.state))
    assert comparison.problems == (), comparison.table(only_problems=True)
    cut_at_its_end = sum(bool(row.truth and row.ended) for row in comparison.rows)
    assert comparison.measured - cut_at_its_end == comparison.journaled > 20
    assert cut_at_its_end <= comparison.interrupted
    assert comparison.lost == comparison.doubled == 0
    assert check_run(lab.journal / "journal.db").problems == ()
    assert not [e for e in truth if e.event == "crash"]


def test_a_daemon_that_was_started_for_a_refused_run_ends(lab: Lab) -> None:
    """``stmctl run`` had to start one, and the run is refused: it ends by itself, with all it started."""
    done = lab.stmctl("run", str(lab.folder / "wide.toml"), "--detach")
    assert done.status == 2, done
    assert "would widen the limit" in done.errors
    await_that("the end of every process", lambda: not left_behind(lab.state), PATIENCE_S)
    assert [p.name for p in (lab.state / "runs").iterdir()] == [lab.run]
