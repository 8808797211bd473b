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

from protocols.files.truth_log import TruthEntry, read_truth, truth_path
from tests.conformance.environments import HERE, ROOT

USUAL_PORT = 6501
"""The first of the four ports that public clients have built in."""
OTHER_PORTS = range(16501, 17000, 4)

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
    first_port: int

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.folder / "state"

    @property
    def ports(self) -> str:
        """As its command line has them."""
        return f"{self.first_port}-{self.first_port + 3}"

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
        if self.first_port == USUAL_PORT:
            return {}
        return {"PYTHONPATH": str(HERE / "redirect"), "NANONIS_FIRST_PORT": str(self.first_port)}


@contextlib.contextmanager
def serving(sample: str = "au111", *, time_scale: float = 1.0, seed: int = 1) -> Iterator[Server]:
    """A fresh server in a temporary folder; gone with everything it wrote when the block ends.

    Raises:
        ServerError: it does not listen within a minute.
    """
    with tempfile.TemporaryDirectory(prefix="tp-conf-") as name:
        folder = Path(name)
        server = _start(folder, sample, time_scale, seed)
        try:
            _wait_for_door(server)
            yield server
        finally:
            _stop(server)


def _start(folder: Path, sample: str, time_scale: float, seed: int) -> Server:
    first = _free_ports()
    command = [sys.executable, "-m", "sim_hardware.stmsim", "--state", str(folder / "state")]
    command += ["--sample", sample, "--seed", str(seed), "--time-scale", f"{time_scale:g}"]
    command += ["--nanonis-ports", f"{first}-{first + 3}"]
    with (folder / "server.txt").open("wb") as words:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
        )
    return Server(process, folder, first)


def _free_ports() -> int:
    """The usual ports if all four are free, else others."""
    for first in (USUAL_PORT, *OTHER_PORTS):
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + 4):
                    probe = sockets.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise ServerError("no four ports in a row are free.")


def _wait_for_door(server: Server) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if not server.alive():
            raise ServerError(f"the server ended with {server.process.returncode}:\n{server.words()}")
        try:
            with socket.create_connection(("127.0.0.1", server.first_port), timeout=1.0):
                return
        except OSError:
            time.sleep(LOOK_S)
    raise ServerError(f"nobody listens on port {server.first_port} after {START_S:g} s:\n{server.words()}")


def _stop(server: Server) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, number)
        try:
            server.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return
