"""A session with the daemon: its console socket and the ports of its Ray are under garbage too."""

from __future__ import annotations

import math
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from actors.console.daemon_link import DaemonLink
from actors.console.daemon_process import ensure_daemon, shut_down
from actors.journal.reader import JournalReader
from protocols.files.campaign_toml import parse_campaign
from protocols.files.state_directory import read_endpoints
from protocols.messages.daemon import AbortRun, RunAccepted, RunAnswer, StartRun
from protocols.states.run import FINAL_RUN_STATES
from tests.chaos.victims import left_behind
from tests.cluster.gateway_harness import await_that
from tests.soak.bombardment import FOREIGN, targets
from tests.soak.session import CAMPAIGN, Outcome, Siege, judge, spare_microscope
from tests.soak.subjects import CONSOLE, PORTS, SPARE, SPARE_DOOR, Watch, nanonis_endpoints

START_S = 120.0
SPECTRA_EACH_S = 4.0
"""Spectra per second of garbage that the campaign is ready for: it shall outlast the garbage."""
WIDEST_NM, NARROWER_NM = 40.0, 0.25
"""Its windows follow each other, each a little smaller."""
MORE_SPECTRA = 5
"""Taken after the garbage, before the run is ended."""
COMPLETION_S = 60.0
NANONIS_PORTS = range(20_000, 32_000)
"""Below those that the operating system gives to anybody at any time."""


def daemon_under_garbage(state: Path, seconds: float, seed: int) -> Outcome:
    """Daemon, Ray, actors, gateway, journal writer and simulator, driven over its Nanonis door, and another
    simulator; garbage on every port.

    Raises:
        TunnelpilotError: the daemon could not even be started.
    """
    ensure_daemon(state, options=("--quiet",), deadline_s=START_S)
    faults: list[str] = []
    try:
        with spare_microscope(state):
            run = _start_run(state, seconds)
            everybody = _pids(state)
            watch = Watch(state, (*PORTS, SPARE_DOOR, CONSOLE))
            watch.also("Ray's GCS", "gcs_server")
            watch.also("Ray's raylet", "raylet")
            known = {subject.pid for subject in watch.subjects.values()}
            for name, (number, _) in everybody.items():
                if number not in known:
                    watch.weigh(name, number)
            others = other_endpoints(state, watch)
            watch.speak_grpc(others.values())
            siege = Siege(state, watch, seconds, seed, targets(FOREIGN, sorted(others)))
            try:
                with watch.probing():
                    found = siege.result()
            finally:
                siege.close()
            faults += _end_run(state, run)
            subjects = watch.conclude()
            faults += _restarts(state, everybody)
        shut_down(state)
    finally:
        faults += _clear_away(state)
    outcome = judge(state, run, watch, subjects, found)
    outcome.faults = faults + outcome.faults
    return outcome


def everything(state: Path) -> dict[int, str]:
    """Every process of the laboratory, by its state directory and by descent from the daemon: pid -> what."""
    daemon = int(read_endpoints(state, "daemon")["pid"])
    family = {p.pid: p.name() for p in psutil.Process(daemon).children(recursive=True)}
    return {daemon: "daemon", **family, **left_behind(state)}


def other_endpoints(state: Path, watch: Watch) -> dict[str, int]:
    """Every TCP port of the laboratory's processes that is none of ours, with the pid: those of Ray."""
    known = set(watch.endpoints)
    for microscope in (state, state / SPARE):
        served, stream = nanonis_endpoints(microscope)
        known |= {*served, *stream}
    found: dict[str, int] = {}
    for pid in everything(state):
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue  # it has ended by itself
        found |= {
            f"tcp://127.0.0.1:{c.laddr.port}": pid for c in connections if c.status == psutil.CONN_LISTEN
        }
    return {where: pid for where, pid in found.items() if where not in known}


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment, and that nobody is given by chance."""
    found: list[int] = []
    while len(found) < count:
        number = secrets.choice(NANONIS_PORTS)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", number))
            except OSError:
                continue
        if number not in found:
            found.append(number)
    return found


def campaign_text(seconds: float, ports: Sequence[int]) -> str:
    """The soak's campaign over these Nanonis ports, with enough windows for that time."""
    text = CAMPAIGN.read_text(encoding="utf-8")
    points = parse_campaign(text, str(CAMPAIGN)).planner.points
    windows = 1 + math.ceil(SPECTRA_EACH_S * seconds / points)
    widths = [f'"{WIDEST_NM - k * NARROWER_NM:g}nm"' for k in range(windows)]
    address = f"127.0.0.1:{','.join(map(str, ports))}"
    for was, becomes in (
        ("[instrument]\n", f'[instrument]\ndriver = "nanonis"\nsimulated = true\naddress = "{address}"\n'),
        ('widths = ["40nm"]\n', f"widths = [{', '.join(widths)}]\n"),
    ):
        assert was in text
        text = text.replace(was, becomes)
    return text


def _start_run(state: Path, seconds: float) -> str:
    with DaemonLink(state) as link:
        text = campaign_text(seconds, free_ports(4))
        run = link.ask(StartRun(campaign_text=text, file_name=CAMPAIGN.name), RunAccepted, START_S).run
        await_that("a spectrum", lambda: _spectra(link) > 0, START_S)
    return run


def _spectra(link: DaemonLink) -> int:
    current = link.status(0).current
    return current.spectra_total if current is not None else 0


def _end_run(state: Path, run: str) -> list[str]:
    """A few spectra more in peace, then the end; what is wrong with that."""
    if _state(state, run) in FINAL_RUN_STATES:
        return ["the run ended before the garbage did"]
    faults: list[str] = []
    with DaemonLink(state) as link:
        before = _spectra(link)
        for what, look in (
            ("spectra after the garbage", lambda: _spectra(link) >= before + MORE_SPECTRA),
            ("the end of the run", lambda: _is_ended(state, run, link)),
        ):
            try:
                await_that(what, look, COMPLETION_S)
            except AssertionError as stuck:
                faults.append(str(stuck))
    return faults


def _is_ended(state: Path, run: str, link: DaemonLink) -> bool:
    if _state(state, run) in FINAL_RUN_STATES:
        return True
    link.ask(AbortRun(reason="the garbage is over"), RunAnswer, COMPLETION_S)
    return False


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
