"""Until keys exist, no socket of ours reaches beyond this computer."""

from __future__ import annotations

import ipaddress
import re

from protocols.errors import ConfigError

_ENDPOINT = re.compile(r"tcp://(?P<host>[A-Za-z0-9.\-]+):(?P<port>\d{1,5}|\*)")


def check_endpoint(endpoint: str) -> None:
    """Accept ``tcp://127.x.y.z:PORT`` and ``tcp://localhost:PORT``; port 0 or * means "any free one".

    Raises:
        ConfigError: it is no such endpoint.
    """
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None:
        raise ConfigError(f"{endpoint!r} is no endpoint.", "Write tcp://127.0.0.1:PORT.")
    if found["port"] != "*" and int(found["port"]) > 65535:
        raise ConfigError(f"{endpoint!r}: ports go from 0 to 65535.")
    if not _is_loopback(found["host"]):
        raise ConfigError(
            f"{endpoint!r} reaches beyond this computer, which is refused while links carry no keys.",
            "Use 127.0.0.1, and a tunnel of your own (for example ssh -L) between computers.",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
