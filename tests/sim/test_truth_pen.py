"""The pen of the truth log when the disk does not want to."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import DeadlineError
from protocols.files.truth_log import TruthLogWriter, read_truth
from sim_hardware.truth import TruthPen


def test_a_full_disk_delays_entries_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full nobody is told that an entry is durable, and the reason is named; when there is
    room again all entries follow in order."""
    full, genuine = [True], TruthLogWriter.append

    def append(self: TruthLogWriter, *arguments: Any, **named: Any) -> object:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return genuine(self, *arguments, **named)

    monkeypatch.setattr(TruthLogWriter, "append", append)
    pen = TruthPen(tmp_path / "truth.jsonl")
    numbers = [pen.note("settle", float(i), seconds=float(i)) for i in range(5)]
    with pytest.raises(DeadlineError, match="No space left"):
        pen.wait_durable(numbers[-1], timeout_s=0.2)
    full[0] = False
    pen.wait_durable(numbers[-1], timeout_s=5.0)
    pen.close()
    assert [entry.time_s for entry in read_truth(tmp_path / "truth.jsonl")] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    """Entries noted just before the end are in the log."""
    pen = TruthPen(tmp_path / "truth.jsonl")
    for i in range(500):
        pen.note("move", float(i))
    pen.close()
    assert len(read_truth(tmp_path / "truth.jsonl")) == 500


def test_a_failed_sync_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry counts as durable only after a sync that succeeded."""
    failures, genuine = [2], TruthLogWriter.sync

    def sync(self: TruthLogWriter) -> None:
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        genuine(self)

    monkeypatch.setattr(TruthLogWriter, "sync", sync)
    pen = TruthPen(tmp_path / "truth.jsonl")
    pen.wait_durable(pen.note("exit", 1.0), timeout_s=10.0)
    assert failures == [0]
    pen.close()
