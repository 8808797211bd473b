"""The writing side of the journal: all or nothing, each key once, full disks."""

from __future__ import annotations

from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.journal import schema
from actors.journal.integrity import check_run
from actors.journal.reader import JournalReader
from actors.journal.store import RunStore
from protocols.errors import ConfigError, DataFormatError, DiskFullError, StorageError, UsageError
from protocols.messages.records import (
    Fault,
    FrameImage,
    FrameTaken,
    OperatorAction,
    Record,
    RunState,
    Transform,
)


def note(key: str, text: str = "x") -> Record:
    """A small record."""
    return Record(key=key, actor="test", body=OperatorAction(command=text, arguments={}, outcome=""))


def frame(key: str, megabytes: float) -> Record:
    """A frame of so many megabytes."""
    rows = int(megabytes * 1e6 / 4 / 2 / 512)
    values = np.arange(2 * rows * 512, dtype=np.float32).reshape(2, rows, 512)
    return Record(
        key=key,
        actor="test",
        body=FrameTaken(
            job_id=key,
            window=0,
            purpose="survey",
            images=(FrameImage(channel="z", unit="m", bias_v=1.0, values=values),),
            centre_x_m=0.0,
            centre_y_m=0.0,
            width_m=1e-8,
            height_m=1e-8,
            angle_rad=0.0,
            transform=Transform(),
            began_s=0.0,
            ended_s=1.0,
        ),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a run's journal goes."""
    return tmp_path / "runs" / "r1" / "journal.db"


@given(
    commits=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=4), max_size=12
    )
)
@settings(max_examples=12, deadline=None)
def test_each_key_is_written_once_and_never_changed(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[tuple[int, int]]]
) -> None:
    """Same key and content give the first number again; another content refuses the whole commit."""
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    store = RunStore(path, reserve_bytes=0)
    expected: dict[str, tuple[int, str]] = {}
    for commit in commits:
        records = [note(f"k{key}", f"content {content}") for key, content in commit]
        after = dict(expected)
        good = True
        for key, content in commit:
            _, known = after.setdefault(f"k{key}", (len(after) + 1, f"content {content}"))
            good = good and known == f"content {content}"
        if good:
            assert store.commit(records) == tuple(after[r.key][0] for r in records)
            expected = after
        else:
            with pytest.raises(UsageError, match="another content"):
                store.commit(records)
    store.commit([note("end")])
    store.close()
    with JournalReader(path) as reader:
        found = {
            r.key: (r.seq, r.body.command) for r in reader.records() if isinstance(r.body, OperatorAction)
        }
    assert found == {**expected, "end": (len(expected) + 1, "x")}


def test_commit_is_all_or_nothing(path: Path) -> None:
    """If one record of a commit cannot be written, none of them is, and the numbers stay dense."""
    store = RunStore(path, reserve_bytes=0)
    store.commit([note("a", "1")])
    with pytest.raises(UsageError):
        store.commit([note("b"), note("a", "2"), note("c")])
    assert store.commit([note("d")]) == (2,)
    store.close()
    with JournalReader(path) as reader:
        assert [r.key for r in reader.records()] == ["a", "d"]


def test_frames_of_many_megabytes_are_one_record(path: Path) -> None:
    """A frame larger than a megabyte is written in one transaction and comes back bit for bit."""
    store = RunStore(path, reserve_bytes=0)
    big = frame("big", 5.0)
    assert store.commit([note("a"), big]) == (1, 2)
    store.close()
    with JournalReader(path) as reader:
        stored = reader.get("big")
        assert stored is not None
        assert isinstance(stored.body, FrameTaken)
        assert isinstance(big.body, FrameTaken)
        np.testing.assert_array_equal(stored.body.images[0].values, big.body.images[0].values)


def test_full_disk_is_refused_whole_and_the_reserve_is_for_endings(path: Path) -> None:
    """Below the reserve only records that end a run are taken; below their size, nothing is."""
    room = [100_000_000]
    store = RunStore(path, reserve_bytes=64_000_000, free=lambda _: room[0])
    store.commit([note("a")])
    room[0] = 10_000_000
    with pytest.raises(DiskFullError, match="no room") as refusal:
        store.commit([note("b")])
    assert "resume" in refusal.value.advice
    ending = [
        Record(key="s", actor="t", body=RunState(state="held", reason="disk full")),
        Record(key="f", actor="t", body=Fault(actor="t", what="disk full", action="held")),
    ]
    assert store.commit(ending) == (2, 3)
    room[0] = 10
    with pytest.raises(DiskFullError):
        store.commit([Record(key="s2", actor="t", body=RunState(state="failed", reason=""))])
    room[0] = 100_000_000
    assert store.commit([note("b")]) == (4,)
    store.close()


def test_disk_that_fills_up_within_a_commit_leaves_nothing_behind(path: Path) -> None:
    """SQLite itself finds no room in the middle of a commit: nothing of it is kept and writing goes on."""
    store = RunStore(path, reserve_bytes=0)
    store.commit([note("a")])
    connection = store._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 100")
    with pytest.raises(DiskFullError):
        store.commit([note("b"), frame("big", 3.0)])
    assert store.commit([note("c")]) == (2,)
    store.close()
    with JournalReader(path) as reader:
        assert [r.key for r in reader.records()] == ["a", "c"]


def test_new_journal_is_whole_or_absent(path: Path) -> None:
    """What a writer killed during creation left behind is removed, and the journal is made anew."""
    path.parent.mkdir(parents=True)
    (path.parent / ".journal.db.new").write_bytes(b"half a database")
    (path.parent / ".journal.db.new-wal").write_bytes(b"half a log")
    store = RunStore(path, reserve_bytes=0)
    store.commit([note("a")])
    store.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["journal.db"]


def test_foreign_and_newer_files_are_refused(tmp_path: Path, path: Path) -> None:
    """Neither reader nor writer touches a file that is no journal of ours or of a newer version."""
    text = tmp_path / "journal.db"
    text.write_bytes(b"this is no database at all" * 100)
    other = tmp_path / "other.db"
    foreign = apsw.Connection(str(other))
    foreign.execute("CREATE TABLE t (x)")
    foreign.close()
    for file, words in ((text, "no journal"), (other, "no journal")):
        with pytest.raises(DataFormatError, match=words):
            JournalReader(file)
        with pytest.raises(DataFormatError, match=words):
            RunStore(file, reserve_bytes=0).commit([note("a")])
    store = RunStore(path, reserve_bytes=0)
    store.commit([note("a")])
    store.close()
    newer = apsw.Connection(str(path))
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(DataFormatError, match="version 99"):
        JournalReader(path)


def test_missing_journal_says_so(tmp_path: Path) -> None:
    """Reading a run that does not exist makes no file and names the path."""
    with pytest.raises(StorageError, match="there is no journal"):
        JournalReader(tmp_path / "runs" / "none" / "journal.db")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/etc", "a\\b", "a b", "a\n", "x" * 101, "-x"])
def test_run_names_that_could_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    """A run's name is a plain word; nothing in it can lead out of the state directory."""
    with pytest.raises(UsageError, match="no run name"):
        schema.run_file(tmp_path, name)


def test_run_directory_must_not_be_a_link(tmp_path: Path) -> None:
    """A symbolic link in place of a run's directory is refused."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="symbolic link"):
        schema.run_file(tmp_path, "r")
    assert schema.run_file(tmp_path, "demo-2026.01") == tmp_path / "runs" / "demo-2026.01" / "journal.db"


def test_old_sqlite_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the WAL-reset race is not used, and the text says what to install."""
    schema.check_sqlite()
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.40.1")
    with pytest.raises(ConfigError, match="WAL-reset") as refusal:
        schema.check_sqlite()
    assert "pip install" in refusal.value.advice


def test_every_commit_is_synced(path: Path) -> None:
    """The writing connection runs with a write-ahead log and full synchronisation."""
    store = RunStore(path, reserve_bytes=0)
    store.commit([note("a")])
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").get == 2
    assert connection.execute("PRAGMA journal_mode").get == "wal"
    store.close()


def test_reader_cannot_write_and_does_not_touch_the_log(path: Path) -> None:
    """A reader's connection refuses writes, and closing it leaves the write-ahead log as it was."""
    store = RunStore(path, reserve_bytes=0)
    store.commit([note("a")])
    log = path.with_name("journal.db-wal")
    before = log.read_bytes()
    reader = JournalReader(path)
    with pytest.raises(apsw.ReadOnlyError):
        reader._connection.execute("DELETE FROM records")
    assert reader.last_seq() == 1
    reader.close()
    assert log.read_bytes() == before
    store.close()
    assert check_run(path).records == 1
