"""The truth log: what it keeps whatever kills its writer, and what is read from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DataFormatError, StorageError
from protocols.files.truth_log import (
    TruthEntry,
    TruthLogWriter,
    idle_fraction,
    job_intervals,
    read_truth,
    shares,
)

WRITER = """
import sys
from pathlib import Path
from protocols.files.truth_log import TruthLogWriter
log = TruthLogWriter(Path(sys.argv[1]))
number = 0
while True:
    log.append("move", time_s=float(number), detail={"number": number, "filling": "x" * 200})
    print(number, flush=True)
    number += 1
"""


def entry(event: str, monotonic_s: float, job_id: str = "", **detail: object) -> TruthEntry:
    """An entry at a moment."""
    return TruthEntry(
        n=0, event=event, monotonic_s=monotonic_s, wall_s=0.0, time_s=0.0, job_id=job_id, detail=detail
    )


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    """What was appended is read back with its times, numbers of numpy included."""
    path = tmp_path / "sim" / "truth.jsonl"
    log = TruthLogWriter(path)
    log.append("start", time_s=1.0, detail={"seed": np.int64(3), "x": np.float64(0.5)})
    log.append("retraction", time_s=2.0, job_id="run/d1/a1", monotonic_s=123.5)
    log.close()
    first, second = read_truth(path)
    assert (first.n, first.event, first.detail) == (0, "start", {"seed": 3, "x": 0.5})
    assert (second.n, second.job_id, second.monotonic_s) == (1, "run/d1/a1", 123.5)


def test_a_restart_continues_the_count(tmp_path: Path) -> None:
    """A second writer goes on with the next number and knows the last entry."""
    path = tmp_path / "truth.jsonl"
    for number in range(3):
        log = TruthLogWriter(path)
        assert (log.last.n if log.last else -1) == number - 1
        log.append("start", time_s=float(number))
        log.close()
    assert [e.n for e in read_truth(path)] == [0, 1, 2]


def test_a_torn_last_line_is_left_out_and_closed_off(tmp_path: Path) -> None:
    """Cut anywhere in its last line the log is readable, and a restarted writer goes on behind the torn
    line."""
    path = tmp_path / "truth.jsonl"
    log = TruthLogWriter(path)
    log.append("start", time_s=1.0)
    log.append("settle", time_s=2.0, detail={"seconds": 1.0})
    log.close()
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [e.event for e in read_truth(path)] == ["start"]
        log = TruthLogWriter(path)
        log.append("exit", time_s=3.0)
        log.close()
        assert [(e.n, e.event) for e in read_truth(path)] == [(0, "start"), (1, "exit")]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    """A line that is damaged elsewhere than at the end is named by its number."""
    path = tmp_path / "truth.jsonl"
    path.write_bytes(b'{"n":0,"event":"start"\n{"n":1}\n')
    with pytest.raises(DataFormatError, match="line 1 is damaged"):
        read_truth(path)
    with pytest.raises(StorageError, match="cannot be read"):
        read_truth(tmp_path / "missing.jsonl")


def test_unknown_events_are_refused(tmp_path: Path) -> None:
    """Only events that the reader knows are written."""
    log = TruthLogWriter(tmp_path / "truth.jsonl")
    with pytest.raises(StorageError, match="no event 'tea'"):
        log.append("tea", time_s=0.0)
    log.close()


def test_a_killed_writer_loses_nothing_that_it_said(tmp_path: Path) -> None:
    """SIGKILL in mid-writing: every entry that was announced is there, whole and in order."""
    path = tmp_path / "truth.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    announced = [int(writer.stdout.readline()) for _ in range(200)]
    writer.send_signal(signal.SIGKILL)
    announced += [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
    writer.stdout.close()
    writer.wait(10.0)
    entries = read_truth(path)
    assert [e.n for e in entries] == list(range(len(entries)))
    assert len(entries) >= len(announced)
    assert [e.detail["number"] for e in entries[: len(announced)]] == announced


def test_intervals_of_jobs() -> None:
    """A job ends at its end, at the next begin, or at the last entry before the process was started anew."""
    entries = [
        entry("start", 0.0),
        entry("begin_job", 1.0, "a"),
        entry("end_job", 3.0, "a"),
        entry("begin_job", 4.0, "b"),
        entry("begin_job", 6.0, "c"),
        entry("sweep_done", 7.0, "c"),
        entry("start", 20.0),
        entry("begin_job", 21.0, "d"),
        entry("end_job", 22.0, "other"),
        entry("move", 23.0, "d"),
    ]
    assert job_intervals(entries) == [("a", 1.0, 3.0), ("b", 4.0, 6.0), ("c", 6.0, 7.0), ("d", 21.0, 23.0)]
    assert idle_fraction(entries, 0.0, 8.0) == pytest.approx(1.0 - 5.0 / 8.0)
    assert idle_fraction(entries, 2.0, 2.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.01, 5.0)), min_size=1, max_size=20))
def test_idle_is_what_jobs_leave(gaps: list[tuple[float, float]]) -> None:
    """For any sequence of jobs with pauses between, idle is the pauses' share of the whole."""
    entries, now, busy = [], 0.0, 0.0
    for number, (pause, length) in enumerate(gaps):
        entries += [
            entry("begin_job", now + pause, str(number)),
            entry("end_job", now + pause + length, str(number)),
        ]
        now, busy = now + pause + length, busy + length
    assert idle_fraction(entries, 0.0, now) == pytest.approx(1.0 - busy / now, abs=1e-9)


def test_shares_of_what_the_tip_does() -> None:
    """Sweeps, frames, travel and settling count with their instrument seconds divided by the time scale."""
    entries = [
        entry("begin_job", 0.0, "a"),
        entry("move", 1.0, "a", seconds=10.0),
        entry("settle", 2.0, "a", seconds=5.0),
        entry("sweep_done", 6.0, "a", seconds=40.0),
        entry("end_job", 6.0, "a"),
    ]
    found = shares(entries, 0.0, 10.0, time_scale=10.0)
    expected = {"travel": 0.1, "settling": 0.05, "sweeps": 0.4, "frames": 0.0, "idle": 0.4}
    assert found == pytest.approx(expected)


def test_a_full_disk_leaves_no_piece_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of which only a piece found room is refused whole; once there is room it is written once."""
    path = tmp_path / "truth.jsonl"
    log = TruthLogWriter(path)
    log.append("start", time_s=0.0)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:7]))
        with pytest.raises(StorageError, match="only 7 of"):
            log.append("move", time_s=1.0)
    log.append("move", time_s=1.0)
    log.close()
    assert [(e.n, e.event) for e in read_truth(path)] == [(0, "start"), (1, "move")]
