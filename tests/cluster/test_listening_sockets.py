"""Nobody listens beyond this computer: every listening socket of every process is on the loopback
interface."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from actors.console.daemon_link import DaemonLink
from actors.console.daemon_process import ensure_daemon, shut_down
from actors.runtime.actor_pool import CAMPAIGN_ACTORS
from protocols.errors import TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.messages.daemon import RunAccepted, StartRun
from tests.chaos.victims import is_alive, left_behind
from tests.cluster.gateway_harness import await_that
from tests.soak.session import CAMPAIGN, processes
from tests.soak.subjects import PORTS, endpoint, nanonis_endpoints, pid
from tests.soak.with_daemon import everything

START_S = 120.0


def listeners(pids: Iterable[int]) -> dict[tuple[int, str, int], str]:
    """Listening TCP sockets, and UDP sockets bound to more than loopback: (pid, address, port) -> process."""
    found: dict[tuple[int, str, int], str] = {}
    for number in pids:
        try:
            process = psutil.Process(number)
            for connection in process.net_connections("inet"):
                if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and not connection.raddr:
                    name = " ".join(process.cmdline())[:100]
                    found[number, connection.laddr.ip, connection.laddr.port] = name
        except psutil.NoSuchProcess:
            continue  # it has ended by itself
    return found


def beyond_loopback(found: dict[tuple[int, str, int], str]) -> list[str]:
    """Those that others could reach."""
    return [
        f"{address}:{port} of process {number}: {name}"
        for (number, address, port), name in found.items()
        if not is_loopback(address)
    ]


def is_loopback(address: str) -> bool:
    """Also of IPv4 addresses in the clothes of IPv6."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback


def test_gateway_simulator_and_journal_listen_on_loopback(tmp_path: Path) -> None:
    """stmgate (guard and worker), stmsim and the journal writer: their published ports are all there is."""
    with processes(tmp_path) as gate:
        found = listeners({pid(gate.state, port) for port in PORTS})
        served, stream = nanonis_endpoints(gate.state)
        published = {*(endpoint(gate.state, port) for port in PORTS), *served, *stream}
    assert not beyond_loopback(found)
    assert {f"tcp://{address}:{port}" for _, address, port in found} == published


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state directory of a daemon with a campaign under way, so that every process exists."""
    state = tmp_path_factory.mktemp("lab")
    ensure_daemon(state, options=("--quiet",), deadline_s=START_S)
    try:
        with DaemonLink(state) as link:
            text = CAMPAIGN.read_text(encoding="utf-8")
            link.ask(StartRun(campaign_text=text, file_name=CAMPAIGN.name), RunAccepted, START_S)
            await_that("a spectrum", lambda: _spectra(link) > 0, START_S)
        yield state
        shut_down(state)
    finally:
        for number in left_behind(state):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended in between


def _spectra(link: DaemonLink) -> int:
    current = link.status(0).current
    return current.spectra_total if current is not None else 0


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_laboratory_listens_on_loopback(laboratory: Path) -> None:
    """Daemon, its Ray (GCS, raylet, every worker), the actors, gateway, simulator and journal writer."""
    alive = everything(laboratory)
    with DaemonLink(laboratory) as link:
        health = {actor.name: actor.pid for actor in link.status(0).actors}
    assert {spec.name for spec in CAMPAIGN_ACTORS} <= set(health)
    missing = {name: number for name, number in health.items() if number and number not in alive}
    assert not missing
    found = listeners(alive)
    assert not beyond_loopback(found)
    serving = {number for number, _, _ in found}
    published = read_endpoints(laboratory, "daemon")
    assert {published["pid"], published["gcs_server"], published["raylet"]} <= serving


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_daemon_is_told_who_runs(laboratory: Path) -> None:
    """Exit status 2, the pid of the first and what to do; the first one and its run go on."""
    first = int(read_endpoints(laboratory, "daemon")["pid"])
    done = subprocess.run(
        [sys.executable, "-m", "actors.console.stmd", "--state", str(laboratory)],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 2
    assert f"(pid {first}) already runs" in done.stderr
    assert "stop it first" in done.stderr
    assert "Traceback" not in done.stderr
    assert is_alive(first)
    assert int(read_endpoints(laboratory, "daemon")["pid"]) == first
    with DaemonLink(laboratory) as link:
        before = _spectra(link)
        await_that("the next spectrum", lambda: _spectra(link) > before, START_S)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_daemon_ends_and_leaves_nothing(laboratory: Path) -> None:
    """After ``down`` no process of the laboratory is left, and nobody listens."""
    alive = everything(laboratory)
    shut_down(laboratory)
    await_that("the end of every process", lambda: not any(map(is_alive, alive)), START_S)
    with pytest.raises(TunnelpilotError):
        DaemonLink(laboratory)
