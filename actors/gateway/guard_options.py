"""What a guard was started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.gateway.drivers import open_driver
from actors.gateway.lease import LONGEST_S, SHORTEST_S
from protocols.errors import ConfigError
from protocols.instrument.driver import Driver


@dataclass(frozen=True)
class GuardOptions:
    """What ``stmgate`` was started with.  Endpoints with port 0: the system chooses one."""

    state: Path
    """The state directory."""
    limits: Path | None = None
    """The file of limits; None: ``gateway/limits.toml`` in the state directory."""
    driver: str = "sim"
    """Name of the driver, or ``package.module:factory``."""
    driver_endpoint: str = ""
    """Where its electronics answer; "": where the driver looks by itself."""
    lease_s: float = 2.0
    """Duration of a lease whose owner asks for none (0)."""
    safety: str = "tcp://127.0.0.1:0"
    commands: str = "tcp://127.0.0.1:0"
    data: str = "tcp://127.0.0.1:0"
    worker_restarts: int = 3
    """So many within ``worker_keeper.RESTARTS_WITHIN_S``."""
    verbose: bool = False

    def require_possible_lease(self) -> None:
        """Refuse a duration that no lease may have.

        Raises:
            ConfigError: it is not between the shortest and the longest.
        """
        if not SHORTEST_S <= self.lease_s <= LONGEST_S:
            raise ConfigError(f"--lease-seconds {self.lease_s:g}: {SHORTEST_S} to {LONGEST_S} are possible.")

    def open_driver(self) -> Driver:
        """The guard's own connection to the electronics.

        Raises:
            ConfigError, DriverError, LinkLostError: there is none; the text says why.
        """
        return open_driver(self.driver, self.state, self.driver_endpoint, "guard")
