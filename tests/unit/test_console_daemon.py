"""``stmctl`` against a daemon: what it asks, what it prints, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from console_world import answering, campaign_text, fake_daemon, make_run, point, progress, status

from actors.console import commands_run, daemon_process
from actors.console.app import COMMANDS, app
from actors.console.follow import LineView, LiveView, follow
from actors.console.output import stdout
from protocols.errors import LatchedError, LimitError, LinkLostError, RefusedError
from protocols.messages.base import Message
from protocols.messages.control import Done
from protocols.messages.daemon import (
    AbortRun,
    AcknowledgeAlarm,
    DaemonQuery,
    EngageTip,
    Event,
    GotoAt,
    MeasureAt,
    OperatorResult,
    PauseRun,
    ResumeRun,
    RunAccepted,
    RunAnswer,
    ScanNow,
    ShutDown,
    StartRun,
    WatchEvents,
    WatchQuery,
)

NAMES = [name for section in COMMANDS.values() for name in section]


def stmctl(state: Path, *words: str) -> Result:
    """Run one command."""
    return CliRunner().invoke(app, ["--state", str(state), *words])


def document(result: Result) -> dict[str, Any]:
    """The one JSON document on stdout."""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", [n for n in NAMES if n != "simulate"])
def test_every_command_explains_itself(name: str) -> None:
    """--help works without a daemon and says more than the options."""
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert "usage" in result.stdout.lower()


def test_the_help_lists_every_command_with_a_line() -> None:
    """And the exit codes."""
    result = CliRunner().invoke(app, ["--help"])
    assert all(f"  {name}" in result.stdout for name in NAMES)
    assert "Exit codes: 0 done" in result.stdout


def test_a_misspelled_command_gets_a_suggestion(tmp_path: Path) -> None:
    """Exit code 2."""
    result = stmctl(tmp_path, "statsu")
    assert result.exit_code == 2
    assert "there is no command 'statsu'. Did you mean 'status'?" in result.stderr


@pytest.mark.parametrize(
    "words",
    [["status"], ["watch"], ["pause"], ["resume"], ["abort"], ["engage"], ["ack"], ["measure", "1nm", "2nm"],
     ["goto", "1nm", "2nm"], ["scan"]],
)  # fmt: skip
def test_without_a_daemon_every_command_says_how_to_start_one(tmp_path: Path, words: list[str]) -> None:
    """Exit code 3, one sentence on stderr, nothing on stdout."""
    result = stmctl(tmp_path, *words)
    assert result.exit_code == 3
    assert "no daemon runs with the state directory" in result.stderr
    assert "stmctl up" in result.stderr
    assert result.stdout == ""


def test_an_error_is_a_json_document_too_where_json_was_asked_for(tmp_path: Path) -> None:
    """Scripts find exactly one document, also when it failed."""
    result = stmctl(tmp_path, "status", "--json")
    assert result.exit_code == 3
    assert document(result)["schema"] == "tunnelpilot/error/1"
    assert document(result)["error"] == "link-lost"


def test_status_is_shown_with_run_actors_gateway_and_queues(tmp_path: Path) -> None:
    """Everything that a person wants to know at a glance."""
    with fake_daemon(tmp_path, answering({DaemonQuery: status(progress())})):
        result = stmctl(tmp_path, "status")
    assert result.exit_code == 0
    for words in (
        "Daemon 10",
        "12 of 60 here",
        "dkl_planner",
        "killed",
        "engaged; 1 V",
        "acquirer -> planner",
        "12.50",
    ):
        assert words in result.stdout


def test_the_status_document_has_stable_keys(tmp_path: Path) -> None:
    """A key that goes or changes its name breaks somebody's script."""
    with fake_daemon(tmp_path, answering({DaemonQuery: status(progress())})):
        found = document(stmctl(tmp_path, "status", "--json"))
    assert found["schema"] == "tunnelpilot/status/1"
    assert set(found) == {
        "schema", "pid", "uptime_s", "state_directory", "stop_after_last_run", "versions", "runs", "current",
        "actors", "lease", "epoch", "lease_margin_s", "guard", "worker", "guard_fault", "worker_fault",
        "edges", "auxiliary", "alarms", "latched", "needs_person",
    }  # fmt: skip
    assert found["current"]["window"]["width_m"] == 2e-7
    assert found["current"]["latest"][0]["x_m"] == 1.25e-8
    assert "t" not in found["guard"]


def test_a_run_that_holds_is_an_alarm_and_exit_code_4(tmp_path: Path) -> None:
    """With the reason and what to do."""
    current = progress("held", "Z within 10 % of its range end")
    with fake_daemon(tmp_path, answering({DaemonQuery: status(current)})):
        result = stmctl(tmp_path, "status")
    assert result.exit_code == 4
    assert "the run holds: Z within 10 % of its range end. Then 'stmctl resume'" in result.stdout


def test_a_latched_tip_is_an_alarm_and_exit_code_4(tmp_path: Path) -> None:
    """With the reason and what to do."""
    with fake_daemon(tmp_path, answering({DaemonQuery: status(latch="latched")})):
        result = stmctl(tmp_path, "status")
    assert result.exit_code == 4
    assert "the tip is latched parked: current trip. Look at it, then 'stmctl ack'." in result.stdout


EVENTS = WatchEvents(
    events=(Event(number=1, wall_s=1.7e9, source="stmd", kind="state", text="running", run="test"),),
    next=1,
    dropped=0,
)


def test_watch_as_json_gives_the_events_there_are(tmp_path: Path) -> None:
    """One document, with the number to go on from."""
    with fake_daemon(tmp_path, answering({WatchQuery: EVENTS})):
        found = document(stmctl(tmp_path, "watch", "--json"))
    assert set(found) == {"schema", "next", "dropped", "events"}
    assert set(found["events"][0]) == {"number", "wall_s", "source", "kind", "text", "run", "job_id"}


def test_watch_follows_and_says_what_was_dropped(tmp_path: Path) -> None:
    """Lines appear until the daemon ends; a gap is said, not hidden."""
    answers = [EVENTS, WatchEvents(events=EVENTS.events, next=9, dropped=3)]

    def handle(message: Message) -> Message:
        if not answers:
            raise LinkLostError("the daemon ends")
        return answers.pop(0)

    with fake_daemon(tmp_path, handle):
        result = stmctl(tmp_path, "watch")
    assert result.exit_code == 3
    assert result.stdout.count("running") == 2
    assert "3 events were dropped" in result.stderr


@pytest.mark.parametrize(
    ("words", "kind", "asked"),
    [
        (["pause"], PauseRun, PauseRun()),
        (["pause", "--now"], PauseRun, PauseRun(now=True)),
        (["resume"], ResumeRun, ResumeRun()),
        (["abort", "--reason", "tea"], AbortRun, AbortRun(reason="tea")),
    ],
)
def test_the_run_is_controlled(tmp_path: Path, words: list[str], kind: type[Message], asked: Message) -> None:
    """The message is what the words say; the answer is shown."""
    answer = RunAnswer(run="test", state="paused", reason="operator")
    with fake_daemon(tmp_path, answering({kind: answer})) as heard:
        result = stmctl(tmp_path, *words)
        found = document(stmctl(tmp_path, *words, "--json"))
    assert heard[0] == asked
    assert "test is paused (operator)" in result.stdout
    assert found == {
        "schema": "tunnelpilot/run-state/1",
        "run": "test",
        "state": "paused",
        "reason": "operator",
    }


def test_a_run_that_holds_instead_of_resuming_is_exit_code_4(tmp_path: Path) -> None:
    """Somebody has to come."""
    with fake_daemon(tmp_path, answering({ResumeRun: RunAnswer(run="r", state="held", reason="latched")})):
        assert stmctl(tmp_path, "resume").exit_code == 4


FINISHED = OperatorResult(outcome="finished", job_id="test/op1/a1", point=point())


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["measure", "12.5nm", "-3 nm"], MeasureAt(x_m=1.25e-8, y_m=-3e-9)),
        (["measure", "-12.5nm", "-3nm"], MeasureAt(x_m=-1.25e-8, y_m=-3e-9)),
        (["goto", "-1Å", "0nm"], GotoAt(x_m=-1e-10, y_m=0.0)),
        (["scan"], ScanNow()),
        (["engage"], EngageTip()),
        (["engage", "--bias", "-0.5V", "--setpoint", "50pA"], EngageTip(bias_v=-0.5, setpoint_a=5e-11)),
        (["ack", "--who", "Ada"], AcknowledgeAlarm(who="Ada")),
    ],
)
def test_the_tip_is_asked_in_si_units(tmp_path: Path, words: list[str], asked: Message) -> None:
    """Quantities with units, negative ones too, become SI numbers."""
    with fake_daemon(tmp_path, answering({type(asked): FINISHED})) as heard:
        result = stmctl(tmp_path, *words)
        found = document(stmctl(tmp_path, *words, "--json"))
    assert result.exit_code == 0, result.stderr
    assert heard[0] == asked
    assert set(found) == {"schema", "outcome", "reason", "job_id", "point"}
    assert found["point"]["x_m"] == 1.25e-8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["measure", "12.5", "3nm"], "'12.5' has no unit; a length is needed, for example '12.5nm'."),
        (["goto", "50pA", "3nm"], "'50pA' is a current; a length is needed"),
        (["engage", "--bias", "1nA"], "'1nA' is a current; a voltage is needed"),
        (["measure", "1nm"], "Missing argument"),
    ],
)
def test_a_bare_number_or_a_wrong_unit_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    """Exit code 2, before anybody is asked."""
    result = stmctl(tmp_path, *words)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LatchedError("the tip is latched: current trip.", "Look, then 'stmctl ack'."), 4),
        (LimitError("x is out of range.", limit="x_max"), 1),
        (RefusedError("no run is under way."), 1),
    ],
)
def test_refusals_keep_their_words_and_have_their_exit_code(tmp_path: Path, error: Any, code: int) -> None:
    """What the daemon says is what the user reads."""
    with fake_daemon(tmp_path, answering({MeasureAt: error})):
        result = stmctl(tmp_path, "measure", "1nm", "1nm")
    assert result.exit_code == code
    assert error.text in result.stderr
    assert "Traceback" not in result.output


def test_a_job_that_came_to_nothing_is_exit_code_1(tmp_path: Path) -> None:
    """Refused by an interlock, discarded by a park: the reason is shown."""
    refused = OperatorResult(outcome="refused", reason="x_max: 2 µm is out of range")
    with fake_daemon(tmp_path, answering({GotoAt: refused})):
        result = stmctl(tmp_path, "goto", "2um", "0nm")
    assert result.exit_code == 1
    assert "goto refused: x_max: 2 µm is out of range." in result.stderr


def test_down_without_a_daemon_is_done_already(tmp_path: Path) -> None:
    """The wished state is there."""
    result = stmctl(tmp_path, "down")
    assert result.exit_code == 0
    assert "No daemon runs" in result.stdout


def test_down_asks_for_a_parked_tip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And waits until the daemon is gone."""
    monkeypatch.setattr(daemon_process, "wait_until_gone", lambda *_: True)
    with fake_daemon(tmp_path, answering({ShutDown: Done()})) as heard:
        result = stmctl(tmp_path, "down", "--keep-gateway")
    assert result.exit_code == 0, result.stderr
    assert heard == [ShutDown(park=True, stop_gateway=False)]


def test_up_says_when_one_runs_already(tmp_path: Path) -> None:
    """No second daemon is started."""
    with fake_daemon(tmp_path, answering({})):
        result = stmctl(tmp_path, "up")
    assert result.exit_code == 0
    assert "Already running: daemon 10" in result.stdout


def test_a_daemon_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    """The end of its log, and where the rest is; exit code 3."""
    with pytest.raises(LinkLostError) as error:
        daemon_process.ensure_daemon(tmp_path, options=("--log-level", "nonsense"))
    assert "the daemon did not start (status 2)" in error.value.text
    assert "'nonsense' is not one of" in error.value.text
    assert f"Its logs are in {tmp_path / 'daemon'}" in error.value.advice


def test_validate_shows_everything_and_estimates(tmp_path: Path) -> None:
    """Defaults included, with units; then how long it will take."""
    file = tmp_path / "c.toml"
    file.write_text(campaign_text())
    result = stmctl(tmp_path, "validate", str(file))
    assert result.exit_code == 0, result.stderr
    assert '"50pA"' in result.stdout
    assert "is valid: 1 window (5 nm), at most 9 spectra each, one in 185 ms" in result.stdout
    found = document(stmctl(tmp_path, "validate", str(file), "--json"))
    assert set(found) == {"schema", "file", "campaign", "estimate"}
    assert set(found["estimate"]) == {"spectrum_s", "frame_s", "instrument_s", "wall_s"}


def test_validate_lists_every_mistake(tmp_path: Path) -> None:
    """Exit code 2."""
    file = tmp_path / "c.toml"
    file.write_text(campaign_text().replace('"50pA"', '"50nm"').replace("pixels", "pixles"))
    result = stmctl(tmp_path, "validate", str(file))
    assert result.exit_code == 2
    assert "did you mean 'pixels'?" in result.stderr
    assert "'50nm' is a length" in result.stderr


def test_init_writes_a_campaign_and_never_over_another(tmp_path: Path) -> None:
    """The file is valid; --force overwrites."""
    file = tmp_path / "new.toml"
    assert stmctl(tmp_path, "init", str(file)).exit_code == 0
    assert stmctl(tmp_path, "validate", str(file)).exit_code == 0
    result = stmctl(tmp_path, "init", str(file))
    assert result.exit_code == 2
    assert "exists." in result.stderr
    assert stmctl(tmp_path, "init", str(file), "--force", "--from", "terrace_map").exit_code == 0
    assert "terrace_map" in file.read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(tmp_path: Path, shell: str) -> None:
    """For the three shells."""
    result = stmctl(tmp_path, "completion", shell)
    assert result.exit_code == 0
    assert "_STMCTL_COMPLETE" in result.stdout


def test_completion_knows_runs_and_campaigns(tmp_path: Path) -> None:
    """Names, not just files."""
    (tmp_path / "runs" / "vac-1").mkdir(parents=True)
    asked = {"_STMCTL_COMPLETE": "bash_complete", "TUNNELPILOT_STATE": str(tmp_path)}
    runner = CliRunner()
    runs = runner.invoke(
        app, [], prog_name="stmctl", env={**asked, "COMP_WORDS": "stmctl show va", "COMP_CWORD": "2"}
    )
    ready = runner.invoke(
        app, [], prog_name="stmctl", env={**asked, "COMP_WORDS": "stmctl run mul", "COMP_CWORD": "2"}
    )
    assert "vac-1" in runs.output
    assert "multiscale_vacancy" in ready.output


def test_simulate_lists_entry_points(tmp_path: Path) -> None:
    """Nothing is installed for it yet, and that is no error."""
    assert CliRunner().invoke(app, ["simulate", "--help"]).exit_code == 0


# ---- run ---------------------------------------------------------------------------------------------------


def test_run_refuses_a_bad_campaign_before_anything_starts(tmp_path: Path) -> None:
    """Exit code 2; a typo in the name gets a suggestion; no daemon was started."""
    result = stmctl(tmp_path, "run", "multiscale_vacany")
    assert result.exit_code == 2
    assert "Did you mean multiscale_vacancy?" in result.stderr
    assert stmctl(tmp_path, "run", "terrace_map", "--time-scale", "0").exit_code == 2
    assert stmctl(tmp_path, "run", "terrace_map", "--detach", "--foreground").exit_code == 2
    assert not (tmp_path / "daemon").exists()


def test_run_detached_starts_and_says_how_to_come_back(tmp_path: Path) -> None:
    """The daemon gets the file as it is, with seed and time scale."""
    with fake_daemon(tmp_path, answering({StartRun: RunAccepted(run="t-1", directory="/d")})) as heard:
        result = stmctl(tmp_path, "run", "terrace_map", "--seed", "5", "--time-scale", "40", "--detach")
    assert result.exit_code == 0, result.stderr
    assert "Started t-1." in result.stdout
    assert "stmctl show t-1" in result.stderr
    request = next(m for m in heard if isinstance(m, StartRun))
    assert (request.seed, request.time_scale, request.file_name) == (5, 40.0, "terrace_map.toml")
    assert 'name = "terrace_map"' in request.campaign_text


def test_run_follows_to_the_end_and_says_what_came_out(tmp_path: Path) -> None:
    """State lines, then the place, the figures and the report's path."""
    directory = make_run(tmp_path, "test-1")
    states = [progress("running", run="test-1"), progress("completed", "all windows are done", run="test-1")]

    def handle(message: Message) -> Message:
        if isinstance(message, StartRun):
            return RunAccepted(run="test-1", directory=str(directory))
        if isinstance(message, DaemonQuery):
            return status(states[0] if len(states) == 1 else states.pop(0))
        return EVENTS

    with fake_daemon(tmp_path, handle):
        result = stmctl(tmp_path, "run", "terrace_map")
    assert result.exit_code == 0, result.output
    assert "test-1 completed: all windows are done" in result.stdout
    assert "The most interesting structure is at" in result.stdout
    assert "9 of 900 possible places" in result.stdout
    assert (directory / "report.html").is_file()


def test_ctrl_c_detaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, and the way back is said."""
    monkeypatch.setattr("actors.console.follow.follow", _interrupted)
    with fake_daemon(tmp_path, answering({StartRun: RunAccepted(run="t-1", directory="/d")})) as heard:
        result = stmctl(tmp_path, "run", "terrace_map")
    assert result.exit_code == 0
    assert "t-1 goes on. Come back with 'stmctl watch'" in result.stderr
    assert not any(isinstance(m, AbortRun) for m in heard)


def test_ctrl_c_in_the_foreground_aborts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is aborted; a daemon that ran before is left alone."""
    monkeypatch.setattr("actors.console.follow.follow", _interrupted)
    answers: dict[type[Message], Any] = {
        StartRun: RunAccepted(run="t-1", directory="/d"),
        AbortRun: RunAnswer(run="t-1", state="aborted", reason="Ctrl-C"),
    }
    with fake_daemon(tmp_path, answering(answers)) as heard:
        result = stmctl(tmp_path, "run", "terrace_map", "--foreground")
    assert result.exit_code == 130
    assert AbortRun(reason="Ctrl-C") in heard
    assert not any(isinstance(m, ShutDown) for m in heard)


def test_a_hold_in_the_foreground_ends_the_run_with_exit_code_4(tmp_path: Path) -> None:
    """A demonstration must end although nobody comes."""
    make_run(tmp_path, "test-1")
    held = status(progress("held", "tip crash", run="test-1"))
    answers: dict[type[Message], Any] = {
        StartRun: RunAccepted(run="test-1", directory="/d"),
        AbortRun: RunAnswer(run="test-1", state="aborted", reason="held"),
        DaemonQuery: held,
        WatchQuery: EVENTS,
    }
    with fake_daemon(tmp_path, answering(answers)) as heard:
        result = stmctl(tmp_path, "run", "terrace_map", "--foreground")
    assert result.exit_code == 4
    assert AbortRun(reason="held in the foreground: tip crash") in heard


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_daemon_that_ends_with_its_last_run_is_no_error(tmp_path: Path) -> None:
    """The journal has the conclusion."""
    make_run(tmp_path, "test-1")
    ending = follow(tmp_path, "test-1", LineView())
    assert (ending.state, ending.reason) == ("completed", "all windows are done")


def test_a_daemon_that_died_with_the_run_open_says_how_to_go_on(tmp_path: Path) -> None:
    """Nothing measured is lost, and 'stmctl up' resumes."""
    with pytest.raises(LinkLostError, match="'stmctl up' goes on with it"):
        follow(tmp_path, "test-1", LineView())


def test_the_live_view_renders_progress_points_and_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal: a table, bars, the latest points, alarms."""
    del tmp_path
    monkeypatch.setenv("COLUMNS", "120")
    console = stdout()
    console.record = True
    with LiveView(console) as view:
        view.show(status(progress(), latch="latched"), progress())
        view.events(EVENTS)
    text = console.export_text()
    assert "12 of 60 here" in text
    assert "latched parked" in text


def test_what_a_command_started_is_ended_and_what_ran_before_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only processes that were not there before are touched."""
    ended: list[str] = []
    monkeypatch.setattr(
        daemon_process, "_end", lambda _state, process, _deadline: ended.append(process) or []
    )
    before = daemon_process.Started(tmp_path, True, frozenset({"sim"}))
    assert daemon_process.end_everything_started(before) == []
    assert ended == ["gateway", "journal"]
    ended.clear()
    daemon_process.end_everything_started(daemon_process.Started(tmp_path, False, frozenset({"daemon"})))
    assert ended == []


def test_signals_of_the_foreground_are_those_of_ctrl_c() -> None:
    """SIGTERM ends a demonstration as Ctrl-C does."""
    import os
    import signal

    with pytest.raises(KeyboardInterrupt), commands_run._terminations_as_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5.0)
