"""Where electronics answer: ``127.0.0.1:6501-6504``, and which of the ports is for what.

The vendor's server takes one client per port and works on one command after the other on each.  What may
block (sweeps, moves) and what must not wait for it (stop, withdraw) therefore go over different ports, and so
do the worker and the guard of the gateway:

=======  ===============================================================================
1st      worker: commands, which may block; readings while it is free
2nd      worker: stop and withdraw; readings while the first is busy
3rd      guard: readings, and the end of a park (lock-in off, bias to rest)
4th      guard: emergency stop (withdraw, stop); readings while the third is broken
=======  ===============================================================================

On the ports for stops a withdrawal goes before a stop, and a stop before a reading: one that is not answered
soon is given up for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import ConfigError
from protocols.nanonis.commands import RELEASE

DEFAULT = "127.0.0.1:6501-6504"
"""The ports that every public client assumes."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

PORTS_NEEDED = 4
OLDEST_RELEASE = 5000
_FORM = "Write it like 127.0.0.1:6501-6504, or 10.0.0.5:6501,6502,6503,6504?release=13742."


@dataclass(frozen=True)
class Address:
    """A host, its four ports in the order above, and the release if it is not to be asked for."""

    host: str
    ports: tuple[int, ...]
    release: int | None = None

    def __str__(self) -> str:
        return f"{self.host}:{','.join(map(str, self.ports))}"

    def pair(self, role: str) -> tuple[int, int]:
        """The ports of one half of the gateway: (commands and readings, stop and withdraw)."""
        first = 2 if role == "guard" else 0
        return self.ports[first], self.ports[first + 1]


def parse_address(text: str) -> Address:
    """Read an address; "" is the default.

    Raises:
        ConfigError: what is wrong with it, and how it is written.
    """
    place, question, options = (text.strip() or DEFAULT).partition("?")
    host, colon, ports_text = place.rpartition(":")
    if not colon or not host:
        raise ConfigError(f"the address {text!r} names no ports.", _FORM)
    ports = _ports(text, ports_text)
    release = _release(text, options) if question else None
    return Address(host.strip("[]"), ports, release)


def _ports(text: str, ports_text: str) -> tuple[int, ...]:
    ports: list[int] = []
    try:
        for part in ports_text.split(","):
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 0 < low <= high <= 65535 or high - low > 100:
                raise ValueError
            ports += range(low, high + 1)
    except ValueError:
        raise ConfigError(f"the address {text!r}: {ports_text!r} are no ports.", _FORM) from None
    if len(ports) != PORTS_NEEDED or len(set(ports)) != PORTS_NEEDED:
        raise ConfigError(
            f"the address {text!r} names {len(set(ports))} ports; {PORTS_NEEDED} different ones are needed, "
            "for a client of the electronics has a port of its own and stop commands wait for nothing.",
            _FORM,
        )
    return tuple(ports)


def _release(text: str, options: str) -> int:
    name, _, value = options.partition("=")
    if name != "release" or not value.isdecimal() or not OLDEST_RELEASE <= int(value) < 10 * RELEASE:
        raise ConfigError(f"the address {text!r}: {options!r} is no release, like release={RELEASE}.", _FORM)
    return int(value)
