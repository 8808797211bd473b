"""The guard's lease: who owns the tip, until when, under which epoch.

Time is the guard's own monotonic clock, handed in by the caller; it is never scaled.  The epoch is on disk
before it is granted, so that no epoch is given out twice, whatever dies.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from protocols.errors import ConfigError, RefusedError, StaleEpochError, UsageError
from protocols.files.state_directory import write_durably
from protocols.states.lease import LEASE_TABLE
from protocols.states.table import Machine

SHORTEST_S = 0.5
LONGEST_S = 10.0


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk."""

    epoch: int
    owner: str = ""


class LeaseKeeper:
    """The lease table with its clock, epoch and owner.

    Methods return the instructions of ``protocols.states.lease`` that the guard carries out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._machine = Machine(LEASE_TABLE)
        self.epoch = self._read()
        self.owner = ""
        self.duration_s = 0.0
        self._deadline_s = 0.0

    @property
    def state(self) -> str:
        """State name of the lease table."""
        return self._machine.state

    @property
    def held(self) -> bool:
        """Whether somebody owns the tip."""
        return self._machine.state == "held"

    def left_s(self, now_s: float) -> float:
        """Seconds until it runs out; 0 when nobody holds it."""
        return max(0.0, self._deadline_s - now_s) if self._machine.state in {"held", "handover"} else 0.0

    def acquire(self, owner: str, duration_s: float, now_s: float) -> int:
        """Admit a new owner; returns its epoch, which is on disk.

        Raises:
            UsageError: no name, or a duration outside 0.5 to 10 s.
            RefusedError: the tip is owned, or a park is not yet confirmed.
        """
        if not owner:
            raise UsageError("a lease needs the owner's name.")
        if not SHORTEST_S <= duration_s <= LONGEST_S:
            raise UsageError(f"a lease of {duration_s:g} s is not possible ({SHORTEST_S} to {LONGEST_S} s).")
        instructions = self._machine.feed("acquire")
        if "refuse-owned" in instructions:
            raise RefusedError(
                f"the tip is owned by {self.owner} (epoch {self.epoch}), {self.left_s(now_s):.2f} s left.",
                "Ask again after it has run out and the tip is parked.",
                refusal_code="owned",
            )
        if "refuse-parking" in instructions:
            raise RefusedError(
                "the tip is being parked; nobody is admitted before that is confirmed.",
                "Ask again in a moment; stmctl status says what the park waits for.",
                refusal_code="parking",
            )
        self._write(_Stored(epoch=self.epoch + 1, owner=owner))
        self.epoch += 1
        self.owner, self.duration_s = owner, duration_s
        self._deadline_s = now_s + duration_s
        return self.epoch

    def renew(self, epoch: int, now_s: float) -> None:
        """Run anew from now.

        Raises:
            StaleEpochError: that epoch does not own the tip (any more).
        """
        self._require_owner(epoch, now_s)
        self._machine.feed("renew")
        self._deadline_s = now_s + self.duration_s

    def release(self, epoch: int, park: bool, now_s: float) -> tuple[str, ...]:
        """Give ownership back.

        Raises:
            StaleEpochError: that epoch does not own the tip (any more).
        """
        self._require_owner(epoch, now_s)
        self._deadline_s = now_s + self.duration_s
        return self._machine.feed("release-and-park" if park else "release")

    def tick(self, now_s: float) -> tuple[str, ...]:
        """Let time pass; gives the instructions of an expiry when it has come."""
        if self._machine.state in {"held", "handover"} and now_s >= self._deadline_s:
            return self._machine.feed("expire")
        return ()

    def parked(self) -> None:
        """The park is confirmed."""
        self._machine.feed("parked")

    def _require_owner(self, epoch: int, now_s: float) -> None:
        if epoch != self.epoch:
            raise StaleEpochError(
                f"epoch {epoch} does not own the tip (the present one is {self.epoch}).",
                "Acquire the lease again.",
            )
        if self._machine.state != "held" or now_s >= self._deadline_s:
            raise StaleEpochError(f"the lease of epoch {epoch} has ended.", "Acquire the lease again.")

    def _read(self) -> int:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Stored).epoch
        except FileNotFoundError:
            self._write(_Stored(epoch=0))
            return 0
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise ConfigError(
                f"{self._path} is damaged: {problem}.",
                'Write {"epoch": N} into it with an N above every epoch in the logs.',
            ) from problem

    def _write(self, stored: _Stored) -> None:
        write_durably(self._path, msgspec.json.encode(stored))
