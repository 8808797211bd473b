"""Starting the daemon in a session of its own, and ending everything that a command started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from actors.console.daemon_link import ENDPOINT_KEY, PROCESS, DaemonLink, daemon_runs, wait_until_gone
from protocols.errors import DeadlineError, LinkLostError, TunnelpilotError
from protocols.files.state_directory import ProcessLock, read_endpoints
from protocols.messages.control import Done
from protocols.messages.daemon import ShutDown

START_S = 90.0
"""Ray takes seconds, on a busy machine many."""
STOP_S = 60.0
ASK_S = 2.0
"""For one answer to the order to end, before it is said again."""
COMPANIONS = ("gateway", "journal", "sim")
"""Processes beside the daemon, in the order in which they may be ended: the gateway parks first."""


@dataclass
class Started:
    """What ran already before this command, and what it started."""

    state: Path
    daemon: bool
    before: frozenset[str]


def running(state: Path) -> frozenset[str]:
    """Names of the processes whose lock is held."""
    return frozenset(p for p in (PROCESS, *COMPANIONS) if ProcessLock(state, p).held_by_somebody())


def ensure_daemon(
    state: Path,
    *,
    stop_after_last_run: bool = False,
    options: tuple[str, ...] = (),
    deadline_s: float = START_S,
) -> Started:
    """Start ``stmd`` unless one runs, and wait until it answers.

    Raises:
        LinkLostError: it does not come up; the text has the end of its output.
    """
    before = running(state)
    if daemon_runs(state) and _wait_for_answer(state, None, deadline_s, 0.0):
        return Started(state, False, before)
    folder = state / PROCESS
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "actors.console.stmd", "--state", str(state), *options]
    if stop_after_last_run:
        command.append("--stop-after-last-run")
    began = time.time()
    with (folder / "start.log").open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    try:
        if not _wait_for_answer(state, child, deadline_s, began):
            raise LinkLostError(f"the daemon ended as soon as it had started:\n{_tail(state)}", _look(state))
    except BaseException:  # also Ctrl-C: nobody else knows of it yet
        if child.poll() is None:
            child.terminate()
            _reap(child, STOP_S)
        raise
    return Started(state, True, before)


def _reap(child: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_for_answer(
    state: Path, child: subprocess.Popen[bytes] | None, deadline_s: float, began: float
) -> bool:
    """Wait for the daemon: our ``child``, or one that runs.  False: that one was just dying and is gone."""
    until = time.monotonic() + deadline_s
    while True:
        if child is None and not daemon_runs(state):
            return False
        if child is not None and (code := child.poll()) is not None:
            if daemon_runs(state):  # another one was faster, or began anew
                child, began = None, 0.0
                continue
            raise LinkLostError(f"the daemon did not start (status {code}):\n{_tail(state)}", _look(state))
        if _answers(state, began):
            return True
        if time.monotonic() >= until:
            raise LinkLostError(
                f"the daemon did not answer within {deadline_s:g} s:\n{_tail(state)}", _look(state)
            )
        time.sleep(0.05)  # it says that it is there by a file


def _answers(state: Path, began: float) -> bool:
    path = state / PROCESS / "endpoints.json"
    try:
        if path.stat().st_mtime < began - 0.01 or ENDPOINT_KEY not in read_endpoints(state, PROCESS):
            return False
        with DaemonLink(state) as link:
            link.status(0, 2.0)
    except (OSError, TunnelpilotError):
        return False
    return True


def shut_down(state: Path, *, park: bool = True, gateway: bool = True, deadline_s: float = STOP_S) -> None:
    """Ask the daemon to park and end, and wait for it.

    Raises:
        LinkLostError: it still runs at the deadline.
    """
    until = time.monotonic() + deadline_s
    while True:
        try:
            with DaemonLink(state) as link:
                link.ask(ShutDown(park=park, stop_gateway=gateway), Done, ASK_S)
            break
        except (LinkLostError, DeadlineError):
            # It may be ending by itself, and then answers nobody any more: ask again for as long as it runs.
            if not daemon_runs(state):
                break
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)  # it may be starting: ask again
    if not wait_until_gone(state, PROCESS, deadline_s):
        raise LinkLostError(
            f"the daemon took the order and still runs after {deadline_s:g} s.",
            f"{_look(state)} 'stmctl withdraw' parks the tip past it.",
        )


def end_everything_started(started: Started, deadline_s: float = STOP_S) -> list[str]:
    """End what this command started and leave what ran before; names of what had to be killed."""
    killed: list[str] = []
    if started.daemon and daemon_runs(started.state):
        try:
            shut_down(started.state, deadline_s=deadline_s)
        except TunnelpilotError:
            killed += _end(started.state, PROCESS, deadline_s)
    if PROCESS not in started.before:
        for process in COMPANIONS:
            if process not in started.before:
                killed += _end(started.state, process, deadline_s)
    return killed


def _end(state: Path, process: str, deadline_s: float) -> list[str]:
    """SIGTERM, wait, SIGKILL; the name if it had to be killed."""
    if not ProcessLock(state, process).held_by_somebody():
        return []
    try:
        pid = int(read_endpoints(state, process)["pid"])
    except (TunnelpilotError, KeyError, ValueError):
        return []
    _signal(pid, signal.SIGTERM)
    if wait_until_gone(state, process, min(deadline_s, 15.0)):
        return []
    _signal(pid, signal.SIGKILL)
    wait_until_gone(state, process, 5.0)
    return [process]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended in between


def _tail(state: Path, lines: int = 15) -> str:
    try:
        text = (state / PROCESS / "start.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "  (no output)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (no output)"


def _look(state: Path) -> str:
    return f"Its logs are in {state / PROCESS}."
