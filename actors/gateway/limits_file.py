"""Which limits the gateway obeys."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import structlog

from protocols.errors import ConfigError
from protocols.files.limits_toml import Limits, read_limits
from protocols.files.state_directory import write_durably
from protocols.instrument.driver import DriverInfo

log = structlog.get_logger(__name__)


def load_limits(named: Path | None, folder: Path, info: DriverInfo) -> tuple[Limits, Path]:
    """The limits and the file they came from: ``named``, else ``folder/limits.toml``.

    For a simulated microscope a missing file is made from the one we ship; for real electronics somebody has
    to write it, with care.

    Raises:
        ConfigError: file, key and allowed range of everything that is wrong, or no file at all.
    """
    path = named if named is not None else folder / "limits.toml"
    if named is None and not path.exists():
        if not info.simulated:
            raise ConfigError(
                f"there is no limits file {path} for {info.name}.",
                "Copy actors/gateway/limits/simulator.toml there and set every limit for this microscope.",
            )
        shipped = "recorded.toml" if "recorded" in info.name else "simulator.toml"
        content = resources.files("actors.gateway").joinpath("limits", shipped).read_bytes()
        write_durably(path, content)
        log.info("limits file made", path=str(path), origin=shipped)
    return read_limits(path), path
