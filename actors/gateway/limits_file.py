"""Which limits the gateway obeys."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import structlog

from protocols.errors import ConfigError
from protocols.files.limits_toml import Limits, read_limits
from protocols.files.state_directory import write_durably
from protocols.instrument.driver import DriverInfo

RECORDED, SIMULATED = "recorded.toml", "simulator.toml"

log = structlog.get_logger(__name__)


def load_limits(named: Path | None, folder: Path, info: DriverInfo) -> tuple[Limits, Path]:
    """The limits and the file they came from: ``named``, else ``folder/limits.toml``.

    For a simulated microscope a missing file is made from the one we ship, and a file of ours that nobody has
    changed is replaced when the kind of sample is another one; for real electronics somebody has to write it,
    with care.

    Raises:
        ConfigError: file, key and allowed range of everything that is wrong, or no file at all.
    """
    path = named if named is not None else folder / "limits.toml"
    if named is None and (not path.exists() or (info.simulated and _is_ours(path))):
        if not info.simulated:
            raise ConfigError(
                f"there is no limits file {path} for {info.name}.",
                "Copy actors/gateway/limits/simulator.toml there and set every limit for this microscope.",
            )
        shipped = RECORDED if "recorded" in info.name else SIMULATED
        write_durably(path, _shipped(shipped))
        log.info("limits file made", path=str(path), origin=shipped)
    return read_limits(path), path


def _is_ours(path: Path) -> bool:
    """Whether the file is one of those we ship, unchanged."""
    return path.read_bytes() in (_shipped(RECORDED), _shipped(SIMULATED))


def _shipped(name: str) -> bytes:
    return resources.files("actors.gateway").joinpath("limits", name).read_bytes()
