"""The spool: results are whole or absent, ids are remembered, and nothing is measured that could not be
kept."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gateway_parts import FRAME, sweep_at

from actors.gateway.spool import REMEMBERED_S, Spool, estimated_bytes
from actors.gateway.spool_reserve import SpoolReserve
from protocols.errors import DiskFullError, StorageError
from protocols.messages.codec import encode_body
from protocols.messages.data import Channel, Chunk, EndOfStream, SweepData
from protocols.messages.jobs import JobState
from protocols.messages.recipes import Move


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool."""
    opened = Spool(tmp_path / "spool.db", 1e9, 0)
    yield opened
    opened.close()


def chunk_of(job_id: str, seq: int = 0, points: int = 50) -> tuple[int, str, bytes]:
    """A stored chunk."""
    values = np.arange(points, dtype=float).reshape(1, 1, points)
    body = SweepData(
        bias_v=np.linspace(-1, 1, points),
        channels=(Channel(name="current", unit="A", values=values),),
        x_m=0,
        y_m=0,
        z_m=0,
        time_s=0,
    )
    return seq, job_id, encode_body(Chunk(job_id=job_id, seq=seq, body=body))


def end_of(job_id: str, state: JobState = JobState.FINISHED, last: int = 0) -> EndOfStream:
    """An end."""
    return EndOfStream(job_id=job_id, last_seq=last, state=state)


def finish(spool: Spool, job_id: str) -> None:
    """One finished sweep."""
    spool.accept(job_id, sweep_at(), 1, JobState.RUNNING)
    spool.finish(end_of(job_id), [chunk_of(job_id)])


def test_a_result_can_be_read_again_until_it_is_acknowledged(spool: Spool) -> None:
    """Data and end come back as they were; after the ack the data is gone and the id is still known."""
    finish(spool, "run/d0001/a1")
    found = spool.chunk("run/d0001/a1", 0)
    assert found is not None
    assert isinstance(found.body, SweepData)
    assert np.allclose(found.body.channels[0].values[0, 0], np.arange(50), rtol=0, atol=0)
    assert spool.end("run/d0001/a1") == end_of("run/d0001/a1")
    assert [a.job_id for a in spool.unacknowledged("run")] == ["run/d0001/a1"]
    assert spool.unacknowledged("ru") == ()
    assert spool.stored_bytes > 0
    assert spool.acknowledge("run/d0001/a1")
    assert spool.acknowledge("run/d0001/a1")
    assert spool.chunk("run/d0001/a1", 0) is None
    assert spool.unacknowledged() == ()
    assert spool.unacknowledged_count() == 0
    assert spool.stored_bytes == 0
    known = spool.find("run/d0001/a1")
    assert known is not None
    assert known.answer.state is JobState.FINISHED


def test_only_what_is_over_can_be_acknowledged(spool: Spool) -> None:
    """A running or an unknown job has nothing to acknowledge."""
    spool.accept("run/d0001/a1", sweep_at(), 1, JobState.RUNNING)
    assert not spool.acknowledge("run/d0001/a1")
    assert not spool.acknowledge("run/d0002/a1")


def test_an_id_is_accepted_once(spool: Spool) -> None:
    """The ledger refuses a second acceptance."""
    spool.accept("run/d0001/a1", sweep_at(), 1, JobState.READY)
    with pytest.raises(StorageError):
        spool.accept("run/d0001/a1", sweep_at(), 1, JobState.READY)
    spool.refuse("run/d0002/a1", sweep_at(), 1, "no", "x_max")
    with pytest.raises(StorageError):
        spool.accept("run/d0002/a1", sweep_at(), 1, JobState.READY)
    found = spool.answer("run/d0002/a1")
    assert found is not None
    assert (found.state, found.limit) == (JobState.REFUSED, "x_max")
    assert spool.end("run/d0002/a1") is not None


def test_what_a_restart_finds(tmp_path: Path) -> None:
    """Waiting: discarded; running sweep: interrupted; running move: outcome unknown; finished: as it was."""
    first = Spool(tmp_path / "spool.db", 1e9, 0)
    finish(first, "r/done/a1")
    first.accept("r/wait/a1", sweep_at(), 1, JobState.READY)
    first.accept("r/sweep/a1", sweep_at(), 1, JobState.RUNNING)
    first.accept("r/move/a1", Move(x_m=0, y_m=0), 1, JobState.RUNNING)
    first.accept("r/frame/a1", FRAME, 1, JobState.RUNNING)
    first.store_chunks([chunk_of("r/frame/a1", 0), chunk_of("r/frame/a1", 1)])
    first.close()
    second = Spool(tmp_path / "spool.db", 1e9, 0)
    settled = {a.job_id: a.state for a in second.settle_after_restart()}
    assert settled == {
        "r/wait/a1": JobState.DISCARDED,
        "r/sweep/a1": JobState.INTERRUPTED,
        "r/move/a1": JobState.OUTCOME_UNKNOWN,
        "r/frame/a1": JobState.INTERRUPTED,
    }
    assert second.settle_after_restart() == ()
    frame = second.end("r/frame/a1")
    assert frame is not None
    assert frame.last_seq == 1
    done = second.answer("r/done/a1")
    assert done is not None
    assert done.state is JobState.FINISHED
    second.close()


def test_the_next_intent_is_in_the_same_commit(spool: Spool) -> None:
    """The end of one job and the start of the next become durable together."""
    spool.accept("r/a/a1", sweep_at(), 1, JobState.RUNNING)
    spool.accept("r/b/a1", sweep_at(), 1, JobState.READY)
    spool.finish(end_of("r/a/a1"), [chunk_of("r/a/a1")], next_job="r/b/a1")
    following = spool.answer("r/b/a1")
    assert following is not None
    assert following.state is JobState.RUNNING


def test_old_acknowledged_ids_are_forgotten(spool: Spool) -> None:
    """30 days after the acknowledgement, and never without one."""
    import time

    finish(spool, "r/a/a1")
    finish(spool, "r/b/a1")
    spool.acknowledge("r/a/a1")
    assert spool.prune() == 0
    assert spool.prune(time.time() + REMEMBERED_S + 1) == 1
    assert spool.find("r/a/a1") is None
    assert spool.find("r/b/a1") is not None


def test_room_is_required_before_measuring(spool: Spool) -> None:
    """The quota counts what is kept; the file system must keep its reserve."""
    spool.require_room(estimated_bytes(sweep_at()))
    spool.quota_bytes = 100.0
    with pytest.raises(DiskFullError, match="quota"):
        spool.require_room(101)
    spool.quota_bytes, spool.reserve_bytes = 1e18, 1e18
    with pytest.raises(DiskFullError, match="must remain"):
        spool.require_room(1)


def test_estimates_are_not_too_small() -> None:
    """A full-size result fits into what was reckoned with."""
    for points in (2, 1000, 100_000):
        job = sweep_at(points=points, repeats=2, backward=True)
        channels = tuple(
            Channel(name=name, unit="A", values=np.zeros((2, 2, points))) for name in ("i", "x", "y", "z")
        )
        body = SweepData(bias_v=np.zeros(points), channels=channels, x_m=0, y_m=0, z_m=0, time_s=0)
        assert len(encode_body(Chunk(job_id="r/a/a1", seq=0, body=body))) <= estimated_bytes(job)


def test_a_full_disk_in_a_commit_leaves_nothing_half_done(spool: Spool) -> None:
    """A commit that finds no room raises, changes nothing, and the spool goes on when there is room again."""
    spool.accept("r/a/a1", sweep_at(), 1, JobState.RUNNING)
    pages = int(spool._db.pragma("page_count"))
    spool._db.pragma("max_page_count", pages)
    before = spool.stored_bytes
    with pytest.raises(DiskFullError):
        spool.finish(end_of("r/a/a1"), [chunk_of("r/a/a1", points=100_000)])
    assert spool.stored_bytes == before
    running = spool.answer("r/a/a1")
    assert running is not None
    assert running.state is JobState.RUNNING
    assert spool.chunk("r/a/a1", 0) is None
    spool._db.pragma("max_page_count", 1_000_000)
    spool.finish(end_of("r/a/a1"), [chunk_of("r/a/a1", points=100_000)])
    assert spool.chunk("r/a/a1", 0) is not None


class RoomInReserve(SpoolReserve):
    """A reserve that gives the database the pages that a test has taken from it."""

    def __init__(self, spool: Spool, folder: Path) -> None:
        super().__init__(folder / "room", size_bytes=4096)
        self._spool = spool
        self.make()

    def give_up(self) -> bool:
        """As the file system would."""
        self._spool._db.pragma("max_page_count", 1_000_000)
        return super().give_up()


def test_a_result_on_a_full_disk_is_kept_in_the_reserve(spool: Spool, tmp_path: Path) -> None:
    """What was measured while others filled the disk is stored in the room that was kept for it; nothing more
    is measured before that room is there again."""
    spool.reserve = RoomInReserve(spool, tmp_path)
    spool.accept("r/a/a1", sweep_at(), 1, JobState.RUNNING)
    spool._db.pragma("max_page_count", int(spool._db.pragma("page_count")))
    spool.finish(end_of("r/a/a1"), [chunk_of("r/a/a1", points=100_000)])
    found = spool.answer("r/a/a1")
    assert found is not None
    assert found.state is JobState.FINISHED
    assert spool.chunk("r/a/a1", 0) is not None
    assert spool.reserve.missing_bytes == 4096
    spool.reserve_bytes = spool.free_bytes() - 4000
    with pytest.raises(DiskFullError, match="must remain"):
        spool.require_room(1)
    spool.reserve_bytes = 0
    spool.require_room(1)
    assert spool.reserve.missing_bytes == 0


def test_a_reserve_that_cannot_be_made_is_no_reserve(tmp_path: Path) -> None:
    """Half a file is none: nothing is left of it, and nothing can be given up."""
    spool = Spool(tmp_path / "spool.db", 1e9, 0)
    spool.reserve.give_up()
    spool.reserve.size_bytes = 2**60
    with pytest.raises(DiskFullError):
        spool.require_room(1)
    with pytest.raises(OSError, match=r"space|large"):
        spool.reserve.make()
    assert not spool.reserve.give_up()
    assert not list(tmp_path.glob("*.part"))
    spool.close()


def test_a_truncated_spool_is_refused_by_name(tmp_path: Path) -> None:
    """A damaged file is told, with what to do; garbage too."""
    path = tmp_path / "spool.db"
    opened = Spool(path, 1e9, 0)
    for k in range(40):
        finish(opened, f"r/d{k:04d}/a1")
    opened.close()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError, match=r"spool\.db"):
        Spool(path, 1e9, 0)
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError, match=r"spool\.db"):
        Spool(path, 1e9, 0)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_spool import chunk_of, end_of, sweep_at
from actors.gateway.spool import Spool
from protocols.messages.jobs import JobState
spool = Spool(Path({path!r}), 1e9, 0)
for k in range(100000):
    job = f"r/d{{k:06d}}/a1"
    spool.accept(job, sweep_at(), 1, JobState.RUNNING)
    spool.finish(end_of(job), [chunk_of(job)])
    print(job, flush=True)
"""


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    """After kill -9 in the middle of writing, every job that was said to be finished is there, whole."""
    path = tmp_path / "spool.db"
    code = WRITER.format(folder=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        said += [
            line.strip() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")
        ]
    spool = Spool(path, 1e9, 0)
    for job in said:
        assert spool.end(job) == end_of(job)
        assert spool.chunk(job, 0) is not None
    interrupted = spool.settle_after_restart()
    assert len(interrupted) <= 1
    spool.close()
