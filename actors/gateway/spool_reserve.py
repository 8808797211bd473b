"""Room that the spool keeps for the result under way.

Before a job the spool looks whether its result will find room.  Others may fill the disk while the tip
measures; then this file is given up for the result, and nothing more is measured until it is there again.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

RESERVED_BYTES = 8 * 2**20
"""More than any spectrum needs, twice (the log of the database and the database)."""


class SpoolReserve:
    """A file of ``size_bytes`` with nothing in it."""

    def __init__(self, path: Path, size_bytes: int = RESERVED_BYTES) -> None:
        self.path, self.size_bytes = path, size_bytes

    @property
    def missing_bytes(self) -> int:
        """What its making would take."""
        return 0 if self.path.exists() else self.size_bytes

    def make(self) -> None:
        """Take the room; nothing if it is there.

        Raises:
            OSError: there is none.
        """
        if not self.missing_bytes:
            return
        part = self.path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size_bytes)
            part.replace(self.path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def give_up(self) -> bool:
        """Let go of the room; whether there was any."""
        try:
            self.path.unlink()
        except OSError:
            return False
        log.warning("the disk is full: the spool's reserve is used for the result under way")
        return True
