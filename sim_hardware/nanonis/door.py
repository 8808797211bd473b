"""The Nanonis door as a whole: ports, dispatcher, instrument, over one world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protocols.nanonis.commands import RELEASE
from sim_hardware.nanonis.dispatcher import Dispatcher
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.loggers import open_tcp_logger
from sim_hardware.nanonis.modules import all_commands
from sim_hardware.nanonis.pattern import SHOTS
from sim_hardware.nanonis.server import NanonisServer
from sim_hardware.world import World


def session_path(state: Path) -> Path:
    """Where the simulated electronics save their files."""
    return state / "sim" / "session"


class NanonisDoor:
    """Serves one world on several ports.

    ``session``: the folder for files; ``log_port``: where the TCP logger streams (0: any free port).
    """

    def __init__(
        self,
        world: World,
        session: Path,
        ports: Sequence[int],
        release: int = RELEASE,
        log_port: int | None = None,
    ) -> None:
        self.registry = all_commands()
        session.mkdir(parents=True, exist_ok=True)
        self.instrument = Instrument(world, session.absolute(), self.registry.settings, release)
        self.dispatcher = Dispatcher(self.instrument, self.registry, release)
        self.instrument.experiments.update(SHOTS)
        self.server = NanonisServer(ports, self.dispatcher.answer)
        self.log_port = 0
        try:
            if log_port is not None:
                self.log_port = open_tcp_logger(self.instrument, log_port)
        except BaseException:
            self.server.close()
            raise

    @property
    def ports(self) -> tuple[int, ...]:
        """Where it listens."""
        return self.server.ports

    def start(self) -> None:
        """Open the ports."""
        self.server.start()

    def close(self) -> None:
        """Close the ports and what the instrument has opened."""
        self.server.close()
        self.instrument.close()
