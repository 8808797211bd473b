"""``stmctl run``: validate, start, watch, and say what came out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from actors.console.app import state_of
from actors.console.options import campaign_argument, state_option
from actors.console.outcome import ExitCode
from actors.console.output import note, say
from actors.console.ready_campaigns import find_campaign
from protocols.errors import LinkLostError, TunnelpilotError
from protocols.files.campaign_toml import override, parse_campaign
from protocols.messages.daemon import AbortRun, RunAccepted, RunAnswer, StartRun

ACCEPT_S = 120.0
"""From StartRun to the journaled RunStarted: the gateway and the simulator may have to be started."""


@click.command("run")
@campaign_argument
@click.option("--seed", type=int, help="Instead of the campaign's seed.")
@click.option(
    "--time-scale", type=float, help="Instrument seconds per wall second; other than 1 in simulation only."
)
@click.option("--detach", is_flag=True, help="Start it and come back at once.")
@click.option(
    "--foreground",
    is_flag=True,
    help="Tie the run to this command: Ctrl-C aborts it, a hold ends it, and everything that this command "
    "started is ended with it.",
)
@state_option
@click.pass_context
def run_command(
    ctx: click.Context,
    campaign: str,
    seed: int | None,
    time_scale: float | None,
    detach: bool,
    foreground: bool,
) -> None:
    """Start a run of CAMPAIGN (a file, or the name of a ready campaign) and watch it.

    A daemon is started if none runs; it ends with its last run.  Ctrl-C stops watching, the run goes on:
    'stmctl watch' and 'stmctl status' come back to it.
    """
    if detach and foreground:
        raise click.UsageError("--detach and --foreground exclude each other.")
    text, file_name = find_campaign(campaign)
    override(parse_campaign(text, file_name), seed=seed, time_scale=time_scale)
    request = StartRun(
        campaign_text=text,
        file_name=file_name,
        seed=seed,
        time_scale=time_scale,
        token=os.urandom(8).hex(),
    )
    if foreground:
        ctx.exit(_in_foreground(state_of(ctx), request))
    ctx.exit(_in_daemon(state_of(ctx), request, detach))


def _in_daemon(state: Path, request: StartRun, detach: bool) -> int:
    from actors.console.daemon_link import daemon_runs
    from actors.console.daemon_process import ensure_daemon
    from actors.console.follow import follow, view_for_terminal

    if not daemon_runs(state):
        note("Starting the daemon ...")
    ensure_daemon(state, stop_after_last_run=True)
    try:
        run = _start(state, request)
    except LinkLostError:  # a daemon that was just ending with its last run; the token keeps it one run
        ensure_daemon(state, stop_after_last_run=True)
        run = _start(state, request)
    if detach:
        say(f"Started {run}.")
        note(f"Come back with 'stmctl watch' or 'stmctl status'; results with 'stmctl show {run}'.")
        return ExitCode.OK
    note(f"Started {run}. Ctrl-C stops watching, the run goes on.")
    try:
        with view_for_terminal() as view:
            ending = follow(state, run, view)
    except KeyboardInterrupt:
        note(
            f"\nStopped watching; {run} goes on. Come back with 'stmctl watch', 'stmctl status'; end it with "
            "'stmctl abort'."
        )
        return ExitCode.OK
    return _conclude(state, run, ending.state, ending.reason)


def _in_foreground(state: Path, request: StartRun) -> int:
    from actors.console.daemon_process import Started, end_everything_started, ensure_daemon, running
    from actors.console.follow import follow, view_for_terminal

    started = Started(state, False, running(state))
    run = ""
    try:
        with _terminations_as_ctrl_c():
            try:
                if "daemon" not in started.before:
                    note("Starting the daemon ...")
                    started = Started(state, True, started.before)
                ensure_daemon(state, stop_after_last_run=True)
                run = _start(state, request)
                note(f"Started {run}. Ctrl-C aborts it.")
                with view_for_terminal() as view:
                    ending = follow(state, run, view, until_held=True)
                if ending.state == "held":
                    note(f"{run} holds: {ending.reason}. Nobody is waited for here: it is aborted.")
                    _abort(state, f"held in the foreground: {ending.reason}")
                    _conclude(state, run, "aborted", ending.reason)
                    return ExitCode.HELD
                return _conclude(state, run, ending.state, ending.reason)
            except KeyboardInterrupt:
                note(f"\nInterrupted; {run or 'the start'} is aborted and the tip parked ...")
                if run:
                    _abort(state, "Ctrl-C")
                return ExitCode.INTERRUPTED
    finally:
        with _ctrl_c_ignored():
            killed = end_everything_started(started)
            if killed:
                note(f"Had to be killed: {', '.join(killed)}.")


def _start(state: Path, request: StartRun) -> str:
    from actors.console.daemon_link import DaemonLink

    with DaemonLink(state) as link:
        return link.ask(request, RunAccepted, ACCEPT_S).run


def _abort(state: Path, reason: str) -> None:
    from actors.console.daemon_link import DaemonLink

    try:
        with DaemonLink(state) as link:
            link.ask(AbortRun(reason=reason), RunAnswer, 30.0)
    except TunnelpilotError as problem:
        note(f"It could not be aborted: {problem}")


def _conclude(state: Path, run: str, ended: str, reason: str) -> int:
    """Say what came out and write the report; the exit code."""
    from actors.console.evaluation import evaluate
    from actors.console.output import pairs, stdout
    from actors.console.run_view import REPORT, figure_rows, finding_words
    from actors.journal.reader import JournalReader
    from actors.journal.report import write_report
    from actors.journal.run_data import load

    directory = state / "runs" / run
    say(f"{run} {ended}: {reason}" if reason else f"{run} {ended}.")
    try:
        with JournalReader(directory) as reader:
            data = load(reader)
            evaluation, truth = evaluate(state, reader)
            report = write_report(reader, directory / REPORT, truth)
        say(finding_words(data))
        rows = [*figure_rows(data, evaluation), ("report", str(report))]
        stdout().print(pairs("", rows))
    except TunnelpilotError as problem:
        note(f"The run's figures or report could not be made: {problem}")
        return ExitCode.FAILED
    return ExitCode.OK if ended == "completed" else ExitCode.FAILED


@contextmanager
def _terminations_as_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Impatience must not leave processes behind; every wait in here has a deadline."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, signal.SIG_IGN) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
