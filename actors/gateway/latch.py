"""The latch: shut by a trip, a crash or Z at its end, on disk until a person acknowledges."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from protocols.errors import LatchedError
from protocols.files.state_directory import write_durably
from protocols.states.latch import LATCH_TABLE
from protocols.states.table import Machine


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk.  ``crash_seen``: the electronics' report of a crash has been acknowledged once."""

    latched: bool = False
    reason: str = ""
    since_unix_s: float = 0.0
    crash_seen: bool = False
    acknowledged_by: str = ""


class Latch:
    """The latch table with its file; used from several threads of the guard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stored = self._read()
        self._machine = Machine(LATCH_TABLE, "latched" if self._stored.latched else "open")

    @property
    def state(self) -> str:
        """ "open" or "latched"."""
        return self._machine.state

    @property
    def reason(self) -> str:
        """Why it is shut; "" when open."""
        return self._stored.reason if self._machine.state == "latched" else ""

    @property
    def crash_seen(self) -> bool:
        """Whether a person has acknowledged the crash that the electronics still report."""
        return self._stored.crash_seen

    def shut(self, cause: str, reason: str) -> bool:
        """Shut it, in memory, for one of LATCH_CAUSES; True if it was open.  The first reason is kept."""
        with self._lock:
            first = "persist" in self._machine.feed(cause)
            if first:
                self._stored = _Stored(latched=True, reason=f"{cause}: {reason}", since_unix_s=time.time())
            return first

    def save(self) -> None:
        """Put on disk what ``shut`` did: after the withdrawal, which must not wait for a disk."""
        with self._lock:
            self._write(self._stored)

    def acknowledge(self, who: str, crashed: bool) -> bool:
        """A person has looked; True if it was shut.  ``crashed``: the electronics report a crash now."""
        with self._lock:
            was_shut = "persist" in self._machine.feed("acknowledge")
            if was_shut or crashed != self._stored.crash_seen:
                self._write(_Stored(crash_seen=crashed, acknowledged_by=who))
            return was_shut

    def require_open(self) -> None:
        """Refuse an engage while shut.

        Raises:
            LatchedError: with the reason.
        """
        with self._lock:
            if "refuse" in self._machine.feed("engage"):
                raise LatchedError(
                    f"the tip is latched parked: {self._stored.reason}.", "Look at it, then stmctl ack."
                )

    def forget_crash(self) -> None:
        """The electronics no longer report a crash: the next report is a new one."""
        with self._lock:
            if self._stored.crash_seen:
                self._write(msgspec.structs.replace(self._stored, crash_seen=False))

    def _write(self, stored: _Stored) -> None:
        self._stored = stored
        write_durably(self._path, msgspec.json.encode(stored))

    def _read(self) -> _Stored:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            return _Stored()
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            # What it said is lost; only a person can know that the tip is well.
            return _Stored(latched=True, reason=f"crash: {self._path} was damaged ({problem})")
