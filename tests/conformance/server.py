"""The simulated microscope with its Nanonis door, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.files.truth_log import TruthEntry, read_truth, truth_path
from tests.conformance.environments import HERE, ROOT

USUAL_PORTS = (6501, 6502, 6503, 6504)
"""The ports that public clients have built in."""

START_S = 60.0
STOP_S = 15.0
LOOK_S = 0.05


class ServerError(RuntimeError):
    """The server did not start, or ended by itself; the text holds what it said."""


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    folder: Path
    ports: tuple[int, ...] = ()

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.folder / "state"

    @property
    def first_port(self) -> int:
        """The first of its four ports."""
        return self.ports[0]

    def truth(self) -> list[TruthEntry]:
        """What really happened at the tip."""
        return read_truth(truth_path(self.state))

    def words(self) -> str:
        """The end of what it wrote to its terminal."""
        return (self.folder / "server.txt").read_text(errors="replace")[-2000:]

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def redirection(self) -> dict[str, str]:
        """Variables that lead a client with built-in ports to this server; none where they are its own."""
        if self.ports == USUAL_PORTS:
            return {}
        return {"PYTHONPATH": str(HERE / "redirect"), "NANONIS_PORTS": ",".join(map(str, self.ports))}


@contextlib.contextmanager
def serving(
    *, sample: str | None = None, time_scale: float = 1.0, seed: int = 1, distortions: str = "ideal"
) -> Iterator[Server]:
    """A fresh server in a temporary folder; it is gone with everything it wrote when the block ends.

    Args:
        sample: default is that of the variable CONFORMANCE_SAMPLE, else au111.
        time_scale: how much faster than real time passes.
        seed: of surface, tip and noise.
        distortions: of the scanner, as the server's command line names them.

    Raises:
        ServerError: it does not listen within a minute.
    """
    with tempfile.TemporaryDirectory(prefix="tp-conf-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "sim_hardware.stmsim", "--state", str(folder / "state")]
        command += ["--sample", sample or os.environ.get("CONFORMANCE_SAMPLE", "au111")]
        command += ["--seed", str(seed), "--time-scale", f"{time_scale:g}"]
        command += ["--distortions", distortions]
        server = _start(folder, command)
        try:
            yield server
        finally:
            _stop(server)


def _start(folder: Path, command: list[str]) -> Server:
    """On the usual ports if all are free, else on any."""
    usual = f"{USUAL_PORTS[0]}-{USUAL_PORTS[-1]}"
    for ports in (usual, "0,0,0,0") if _are_free(USUAL_PORTS) else ("0,0,0,0",):
        with (folder / "server.txt").open("wb") as words:
            process = subprocess.Popen(
                [*command, "--nanonis-ports", ports],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )
        server = Server(process, folder)
        try:
            _wait_for_door(server)
        except ServerError:
            _stop(server)
            if ports == usual and "in use" in server.words():
                continue
            raise
        return server
    raise ServerError(f"no server: {server.words()}")


def _are_free(ports: tuple[int, ...]) -> bool:
    with contextlib.ExitStack() as sockets:
        try:
            for port in ports:
                probe = sockets.enter_context(socket.socket())
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_for_door(server: Server) -> None:
    """Until the server itself tells its ports."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if not server.alive():
            raise ServerError(f"the server ended with {server.process.returncode}: {server.words()}")
        try:
            told = read_endpoints(server.state, "sim")
        except TunnelpilotError:
            told = {}
        if told.get("nanonis_ports") and told.get("pid") == server.process.pid:
            server.ports = tuple(int(port) for port in told["nanonis_ports"])
            return
        time.sleep(LOOK_S)
    raise ServerError(f"the server told no ports within {START_S:g} s: {server.words()}")


def _stop(server: Server) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, number)
        try:
            server.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return
