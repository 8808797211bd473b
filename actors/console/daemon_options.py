"""What ``stmd``'s command line says, for ``actors.runtime.daemon``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DaemonOptions:
    """Options of one daemon; paths are absolute."""

    state: Path
    ray_address: str | None = None
    """Cluster to join; None: an embedded one."""
    limits: Path | None = None
    """Limits file for a gateway that has to be started; None: the state directory's."""
    stop_after_last_run: bool = False
    quiet: bool = False
    """No log on the terminal."""
    log_level: str = "INFO"
