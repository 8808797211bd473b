"""The world's pen: entries of the truth log, written and synced by a thread of its own.

Neither the door nor the tip ever waits for a disk, except where a result must not be handed out before its
entry is durable (``wait_durable``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from protocols.errors import DeadlineError, StorageError
from protocols.files.truth_log import TruthLogWriter

BOUND = 10_000
"""Entries that may wait for the disk; beyond it they would be lost, so writing one then is an error."""


class TruthPen:
    """Appends entries from any thread, in order."""

    def __init__(self, path: Path) -> None:
        self._writer = TruthLogWriter(path)
        self._waiting: deque[dict[str, Any]] = deque()
        self._condition = threading.Condition()
        self._given = 0
        self._written = 0
        self._durable = 0
        self._closed = False
        self._problem: str = ""
        self._thread = threading.Thread(target=self._write, name="truth", daemon=True)
        self._thread.start()

    def note(
        self,
        event: str,
        time_s: float,
        job_id: str = "",
        monotonic_s: float | None = None,
        **detail: Any,
    ) -> int:
        """Write an entry; returns a number for ``wait_durable``.

        Raises:
            StorageError: the disk has not taken entries for so long that the bound is reached.
        """
        entry = {
            "event": event,
            "time_s": time_s,
            "job_id": job_id,
            "monotonic_s": time.monotonic() if monotonic_s is None else monotonic_s,
            "detail": detail,
        }
        with self._condition:
            if len(self._waiting) >= BOUND:
                raise StorageError(f"{self._writer.path}: {BOUND} entries wait for the disk. {self._problem}")
            self._waiting.append(entry)
            self._given += 1
            self._condition.notify_all()
            return self._given

    def wait_durable(self, number: int, timeout_s: float = 5.0) -> None:
        """Wait until the entry is on the disk.

        Raises:
            DeadlineError: it is not, and why.
        """
        deadline = time.monotonic() + timeout_s
        with self._condition:
            while self._durable < number:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineError(
                        f"the truth log {self._writer.path} took no entry for {timeout_s:g} s. "
                        f"{self._problem}",
                        "Free some disk space.",
                    )
                self._condition.wait(left)

    def close(self) -> None:
        """Write what waits, sync, close."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join(5.0)
        self._writer.close()

    def _write(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and self._durable == self._written and not self._closed:
                    self._condition.wait()
                if not self._waiting and self._durable == self._written:
                    return
            problem = ""
            try:
                while self._waiting:
                    self._append(self._waiting[0])
                    self._waiting.popleft()
                    self._written += 1
                self._writer.sync()
            except (OSError, StorageError) as failed:
                problem = str(failed)
            with self._condition:
                self._problem = problem
                if not problem:
                    self._durable = self._written
                    self._condition.notify_all()
                elif self._closed:
                    return
                else:
                    self._condition.wait(0.5)  # the disk may have room again

    def _append(self, entry: dict[str, Any]) -> None:
        self._writer.append(
            entry["event"],
            time_s=entry["time_s"],
            job_id=entry["job_id"],
            monotonic_s=entry["monotonic_s"],
            detail=entry["detail"],
        )
