"""A simulated world behind its Nanonis door, in this process; and the ledger of commands that were proven."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from protocols.files.truth_log import TruthEntry, read_truth
from sim_hardware.clock import Clock, SteppedClock
from sim_hardware.nanonis.door import NanonisDoor
from sim_hardware.surfaces.base import Surface
from sim_hardware.surfaces.vacancy import VacancySurface
from sim_hardware.truth import TruthPen
from sim_hardware.world import World, WorldSettings
from tests.sim.nanonis_client import Client

_T = TypeVar("_T", bound=Callable[..., Any])

PROVEN: dict[str, str] = {}
"""Commands whose effect some test shows in another command, the physics or a file; with that test's name."""


def proves(*commands: str) -> Callable[[_T], _T]:
    """Mark a test: it shows the effect of these commands."""

    def mark(test: _T) -> _T:
        for command in commands:
            PROVEN.setdefault(command, test.__name__)
        return test

    return mark


@dataclass
class Served:
    """A world with its door open."""

    world: World
    door: NanonisDoor
    session: Path
    truth: Path
    clients: list[Client] = field(default_factory=list)

    def client(self, place: int = 0) -> Client:
        """A client of one of the ports."""
        self.clients.append(Client(self.door.ports[place]))
        return self.clients[-1]

    def engaged(self, bias_v: float = -1.5, setpoint_a: float = 200e-12) -> Client:
        """A client of the first port, with the tip tunneling."""
        client = self.client()
        client("Bias.Set", bias_v)
        client("ZCtrl.SetpntSet", setpoint_a)
        client("ZCtrl.OnOffSet", True)
        settle(client, 0.5)
        return client

    def events(self, event: str) -> list[TruthEntry]:
        """Entries of the truth log so far."""
        self.world.pen.wait_durable(self.world.note("fault", kind="mark"))
        return [entry for entry in read_truth(self.truth) if entry.event == event]


def settle(client: Client, seconds: float) -> None:
    """Let time pass: with a stepped clock it passes for whoever waits."""
    client("Scan.WaitEndOfLine", round(1000 * seconds))


@contextlib.contextmanager
def served(
    folder: Path,
    surface: Surface | None = None,
    clock: Clock | None = None,
    ports: int = 2,
    release: int = 14718,
    **settings: object,
) -> Iterator[Served]:
    """Open a door; everything is closed when the block ends."""
    truth = folder / "truth.jsonl"
    world = World(
        surface or VacancySurface(1),
        clock or SteppedClock(),
        TruthPen(truth),
        1,
        WorldSettings(**settings),  # type: ignore[arg-type]
    )
    world.start()
    door = NanonisDoor(world, folder / "session", (0,) * ports, release, log_port=0)
    door.start()
    one = Served(world, door, folder / "session", truth)
    try:
        yield one
    finally:
        for client in one.clients:
            client.socket.close()
        door.close()
        world.close()
        world.pen.close()
