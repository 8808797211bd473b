"""A session with the daemon: its console socket and the ports of its Ray are under garbage too."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from actors.console.daemon_link import DaemonLink
from actors.console.daemon_process import ensure_daemon, shut_down
from actors.journal.reader import JournalReader
from protocols.files.state_directory import read_endpoints
from protocols.messages.daemon import RunAccepted, StartRun
from protocols.states.run import FINAL_RUN_STATES
from tests.chaos.victims import left_behind
from tests.cluster.gateway_harness import await_that
from tests.soak.bombardment import RAW_PREFIX, Bombardment
from tests.soak.session import CAMPAIGN, Outcome, judge
from tests.soak.subjects import CONSOLE, PORTS, Watch

START_S = 120.0
SPECTRA_EACH_S = 4.0
"""Spectra per second of garbage that the campaign asks for: it shall outlast the garbage."""
COMPLETION_S = 300.0


def daemon_under_garbage(state: Path, seconds: float, seed: int) -> Outcome:
    """Daemon, Ray, actors, gateway, journal writer and simulator; garbage on every port of ours.

    Raises:
        TunnelpilotError: the daemon could not even be started.
    """
    ensure_daemon(state, options=("--quiet",), deadline_s=START_S)
    faults: list[str] = []
    try:
        run = _start_run(state, max(40, round(SPECTRA_EACH_S * seconds)))
        everybody = _pids(state)
        watch = Watch(state, (*PORTS, CONSOLE))
        watch.also("Ray's GCS", "gcs_server")
        watch.also("Ray's raylet", "raylet")
        others = raw_endpoints(state, set(watch.endpoints))
        shells = Bombardment(seconds, seed, [*watch.endpoints, *others])
        try:
            with watch.probing():
                told = shells.result()
        finally:
            shells.close()
        if _state(state, run) in FINAL_RUN_STATES:
            faults.append("the run ended before the garbage did: ask for more spectra")
        try:
            await_that(f"the end of {run}", lambda: _state(state, run) in FINAL_RUN_STATES, COMPLETION_S)
        except AssertionError as stuck:
            faults.append(str(stuck))
        subjects = watch.conclude()
        faults += _restarts(state, everybody)
        shut_down(state)
    finally:
        faults += _clear_away(state)
    outcome = judge(state, run, subjects, told)
    outcome.faults = faults + outcome.faults
    return outcome


def everything(state: Path) -> dict[int, str]:
    """Every process of the laboratory, by its state directory and by descent from the daemon: pid -> what."""
    daemon = int(read_endpoints(state, "daemon")["pid"])
    family = {p.pid: p.name() for p in psutil.Process(daemon).children(recursive=True)}
    return {daemon: "daemon", **family, **left_behind(state)}


def raw_endpoints(state: Path, known: set[str]) -> list[str]:
    """Every other TCP port that a process of the laboratory listens at: those of Ray."""
    found: set[str] = set()
    for pid in everything(state):
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue  # it has ended by itself
        found |= {f"tcp://127.0.0.1:{c.laddr.port}" for c in connections if c.status == psutil.CONN_LISTEN}
    return sorted(f"{RAW_PREFIX}{endpoint}" for endpoint in found - known)


def _start_run(state: Path, points: int) -> str:
    text = CAMPAIGN.read_text(encoding="utf-8").replace("points = 400", f"points = {points}")
    with DaemonLink(state) as link:
        request = StartRun(campaign_text=text, file_name=CAMPAIGN.name)
        run = link.ask(request, RunAccepted, START_S).run

        def spectra() -> bool:
            current = link.status(0).current
            return current is not None and current.spectra_total > 0

        await_that("a spectrum", spectra, START_S)
    return run


def _state(state: Path, run: str) -> str:
    with JournalReader(state / "runs" / run) as reader:
        return reader.summary().state


def _pids(state: Path) -> dict[str, tuple[int, int]]:
    """(pid, restarts) of every actor and process that the daemon knows, and of Ray's own."""
    with DaemonLink(state) as link:
        found = {actor.name: (actor.pid, actor.restarts) for actor in link.status(0, 15.0).actors}
    published = read_endpoints(state, "daemon")
    return {**found, **{name: (int(published[name]), 0) for name in ("gcs_server", "raylet")}}


def _restarts(state: Path, before: dict[str, tuple[int, int]]) -> list[str]:
    """Who is not who it was: nothing may have been started again."""
    after = _pids(state)
    return [
        f"{name} was pid {was[0]} ({was[1]} restarts), is {after.get(name, (0, 0))}"
        for name, was in before.items()
        if after.get(name) != was
    ]


def _clear_away(state: Path) -> list[str]:
    """Kill what is left; that is a fault."""
    until = time.monotonic() + 10.0
    while left_behind(state) and time.monotonic() < until:  # processes of Ray end a moment after their daemon
        time.sleep(0.1)
    left = left_behind(state)
    for pid in left:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    return [f"left behind: process {pid} ({what})" for pid, what in left.items()]
