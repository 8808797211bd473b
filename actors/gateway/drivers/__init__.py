"""Drivers: one module per kind of electronics, found by name.

Names come from the entry point group ``tunnelpilot.drivers``; each entry is a factory
``(state: Path, endpoint: str, role: str) -> Driver``.  ``role`` is "guard" or "worker": each half of the
gateway holds a connection of its own.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from protocols.errors import ConfigError
from protocols.files.state_directory import read_endpoints
from protocols.instrument.driver import Driver

GROUP = "tunnelpilot.drivers"

BUILT_IN = {
    "sim": "actors.gateway.drivers:open_simulated",
    "nanonis": "actors.gateway.drivers.nanonis.driver:open_nanonis",
}
"""Drivers of this package, known also where its entry points are not installed."""


class DriverFactory(Protocol):
    """Makes a connected driver."""

    def __call__(self, state: Path, endpoint: str, role: str) -> Driver:
        """Connect.

        Raises:
            DriverError, LinkLostError: nothing answers.
            ConfigError: the endpoint makes no sense.
        """


def driver_names() -> tuple[str, ...]:
    """Every name that ``open_driver`` knows."""
    return tuple(sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))


def open_driver(name: str, state: Path, endpoint: str, role: str) -> Driver:
    """Connect to the electronics called ``name``; ``package.module:factory`` names one that is not installed.

    Raises:
        ConfigError: there is no such driver.
        DriverError, LinkLostError: nothing answers.
    """
    return _factory(name)(state, endpoint, role)


def open_simulated(state: Path, endpoint: str, role: str) -> Driver:
    """The simulated microscope; "" as endpoint: the one that runs with this state directory."""
    from actors.gateway.drivers.sim import SimDriver

    return SimDriver(endpoint or (lambda: str(read_endpoints(state, "sim")["door"])), role)


def _factory(name: str) -> DriverFactory:
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return cast(DriverFactory, entry.load())
    target = BUILT_IN.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        raise ConfigError(
            f"there is no driver {name!r} (known: {', '.join(driver_names())}).",
            "Install the package that brings it, or name another with --driver.",
        )
    try:
        return cast(DriverFactory, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as problem:
        raise ConfigError(f"the driver {name!r} cannot be loaded: {problem}.") from problem
