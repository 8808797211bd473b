"""Which electronics the tests run against: what ``--electronics`` says, and the simulated microscope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import ConfigError, TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.files.truth_log import TruthEntry
from protocols.links.client import CommandClient
from protocols.messages import simdoor
from protocols.messages.base import Message
from protocols.nanonis.address import parse_address
from tests.cluster.gateway_harness import Simulator

SIM, SIM_NANONIS = "sim", "sim-nanonis"
SIMULATED = (SIM, SIM_NANONIS)
_FORM = (
    "Write sim (simulated microscope, ZeroMQ), sim-nanonis (the same through its Nanonis TCP ports), or "
    "DRIVER://ADDRESS, for example nanonis://127.0.0.1:6501-6504."
)


@dataclass(frozen=True)
class Electronics:
    """Where the electronics are.  ``driver`` and ``endpoint`` as ``stmgate`` takes them."""

    address: str
    driver: str
    endpoint: str
    simulated: bool
    """Whether we start them and may break them.  A simulated microscope that somebody else has started
    counts as real: it is his."""

    def at(self, endpoint: str) -> Electronics:
        """The same, found elsewhere."""
        return Electronics(self.address, self.driver, endpoint, self.simulated)


def parse_electronics(text: str) -> Electronics:
    """Read ``--electronics``.

    Raises:
        ConfigError: what is wrong with it, and how it is written.
    """
    if text in SIMULATED:
        return Electronics(text, "nanonis" if text == SIM_NANONIS else "sim", "", True)
    driver, separator, endpoint = text.partition("://")
    if not separator or not driver or not endpoint:
        raise ConfigError(f"--electronics {text!r} is no address.", _FORM)
    if driver == "nanonis":
        parse_address(endpoint)
    return Electronics(text, driver, endpoint, False)


class SimulatedMicroscope:
    """``stmsim`` with both doors open, and the hands that break and mend it."""

    def __init__(self, state: Path, arguments: Sequence[str] = ()) -> None:
        self._simulator = Simulator(state, "--nanonis-ports", "0,0,0,0", *arguments)
        self._door = CommandClient(self._simulator.door, "laboratory", "stmsim")
        ports = read_endpoints(state, "sim")["nanonis_ports"]
        self.endpoints = {
            SIM: self._simulator.door,
            SIM_NANONIS: "127.0.0.1:" + ",".join(str(port) for port in ports),
        }
        self.pid = self._simulator.process.pid

    def ask(self, message: Message) -> Message:
        """Something that only the simulated microscope answers.

        Raises:
            TunnelpilotError: it refuses.
        """
        return self._door.request(message, 5.0)

    def break_(self, kind: str, **how: float) -> None:
        """One of ``SimFault``'s kinds."""
        self.ask(simdoor.SimFault(kind=kind, **how))  # type: ignore[arg-type]

    def status(self) -> simdoor.SimStatus:
        """How it is."""
        status = self.ask(simdoor.SimQuery())
        assert isinstance(status, simdoor.SimStatus)
        return status

    def mark(self) -> int:
        """Number of the next entry of the truth log."""
        return self._simulator.mark()

    def since(self, mark: int, *events: str) -> list[TruthEntry]:
        """Entries of the truth log from ``mark`` on."""
        return self._simulator.since(mark, *events)

    def close(self) -> None:
        """End it."""
        self._door.close()
        self._simulator.close()


def is_answered(microscope: SimulatedMicroscope) -> bool:
    """Whether it still lives."""
    try:
        microscope.status()
    except TunnelpilotError:
        return False
    return True
