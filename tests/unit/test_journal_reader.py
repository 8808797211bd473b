"""Reading a journal: queries, judgements known at a cursor, and reading while somebody writes."""

from __future__ import annotations

import math
import re
import threading
from pathlib import Path

import apsw
import pytest
from synthetic_run import SyntheticRun, build

from actors.journal.comparison import compare
from actors.journal.integrity import check_run
from actors.journal.reader import JournalReader, runs
from actors.journal.store import RunStore
from protocols.errors import DataFormatError, TunnelpilotError
from protocols.messages.records import (
    AttemptEnded,
    Decision,
    JobIssued,
    Label,
    OperatorAction,
    Record,
    RunStarted,
    SpectrumTaken,
    Validity,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    """A finished run of 60 spectra; nobody may change it."""
    return build(tmp_path_factory.mktemp("state"))


def test_records_come_in_order_by_kind_and_limit(made: SyntheticRun) -> None:
    """``records`` gives every record once, in order, and honours after, kinds and limit."""
    with JournalReader(made.path) as reader:
        everything = list(reader.records())
        assert [r.seq for r in everything] == list(range(1, len(made.records) + 1))
        assert [r.key for r in everything] == [r.key for r in made.records]
        assert len(everything) == reader.last_seq() == reader.count()
        later = list(reader.records(after=100, kinds=(Label, Validity), limit=7))
        wanted = [r for r in everything if r.seq > 100 and isinstance(r.body, Label | Validity)][:7]
        assert [r.seq for r in later] == [r.seq for r in wanted]
        assert list(reader.records(after=reader.last_seq())) == []


def test_one_record_by_key_number_and_kind(made: SyntheticRun) -> None:
    """``get``, ``at``, ``first`` and ``last`` find one record or say None."""
    with JournalReader(made.path / "journal.db") as reader:
        record = reader.get("run")
        assert record is not None
        assert record.seq == 1
        assert record == reader.at(1) == reader.first(RunStarted) == reader.last(RunStarted)
        assert reader.get("no such key") is None
        assert reader.at(10**6) is None
        assert reader.started().run == made.run


def test_spectra_with_the_judgements_known_at_a_cursor(made: SyntheticRun) -> None:
    """A later judgement counts from its own sequence number on; labels likewise."""
    with JournalReader(made.path) as reader:
        everything = reader.spectra(valid_only=False)
        assert len(everything) == 60
        valid = reader.spectra()
        assert len(valid) == 58
        judgement = reader.last(Validity)
        assert judgement is not None
        assert isinstance(judgement.body, Validity)
        job = judgement.body.job_id
        assert job not in {m.spectrum.job_id for m in valid}
        before = reader.spectra(upto=judgement.seq - 1)
        assert job in {m.spectrum.job_id for m in before}
        revoked = next(m for m in everything if m.spectrum.job_id == job)
        assert not revoked.valid
        assert revoked.validity == judgement.body
        assert all(m.label is not None for m in everything)
        taken = everything[5]
        unlabelled = reader.spectra(upto=taken.seq, valid_only=False)[-1]
        assert unlabelled.seq == taken.seq
        assert unlabelled.label is None
        assert reader.spectra(window=1) == []


def test_spectrum_without_a_scalar_is_no_point(made: SyntheticRun) -> None:
    """A saturated spectrum is kept on record but is not data for the planner."""
    with JournalReader(made.path) as reader:
        bad = [m for m in reader.spectra(valid_only=False) if math.isnan(m.spectrum.scalar)]
        assert [m.spectrum.quality for m in bad] == [("saturated",)]
        assert not bad[0].counts


def test_history_of_a_job(made: SyntheticRun) -> None:
    """A job's history holds why it was decided, its command, its result and what was said of it later."""
    with JournalReader(made.path) as reader:
        history = reader.job(f"{made.run}/d0020/a2")
        assert [type(r.body) for r in history.records] == [Decision, JobIssued, SpectrumTaken, Label]
        assert isinstance(history.result, SpectrumTaken)
        assert history.decision is not None
        assert history.decision.decision == "d0020"
        first = reader.job(f"{made.run}/d0020/a1")
        assert isinstance(first.result, AttemptEnded)
        assert reader.job("nobody/d0001/a1").records == ()


def test_runs_are_listed_newest_first_and_damage_is_named(tmp_path: Path) -> None:
    """The list shows state and counts of each run; an unreadable journal does not spoil it."""
    build(tmp_path, run="one", spectra=2)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "journal.db").write_bytes(b"garbage" * 1000)
    found = runs(tmp_path)
    assert [s.run for s in found] == ["one", "broken"]
    assert (found[0].state, found[0].campaign, found[0].spectra) == ("completed", "made-up vacancies", 2)
    assert found[1].state == "unreadable"
    assert "no journal" in found[1].trouble
    assert runs(tmp_path / "nowhere") == []


def test_reading_while_writing_sees_whole_commits(tmp_path: Path) -> None:
    """A reader beside a busy writer sees a prefix of the records that ends between two commits."""
    path = tmp_path / "runs" / "r" / "journal.db"
    store = RunStore(path, reserve_bytes=0)

    def pair(k: int) -> list[Record]:
        body = OperatorAction(command="x" * 5000, arguments={}, outcome="")
        return [Record(key=f"{k}{half}", actor="t", body=body) for half in "ab"]

    store.commit(pair(0))
    stop = threading.Event()
    troubles: list[str] = []
    looked: list[int] = []

    def look() -> None:
        with JournalReader(path) as reader:
            while not stop.is_set():
                last = reader.last_seq()
                looked.append(last)
                if last % 2:
                    troubles.append(f"half a commit at {last}")
                if [r.seq for r in reader.records(limit=last)] != list(range(1, last + 1)):
                    troubles.append(f"gap below {last}")

    thread = threading.Thread(target=look)
    thread.start()
    for k in range(1, 150):
        store.commit(pair(k))
    stop.set()
    thread.join(20)
    store.close()
    assert troubles == []
    assert looked
    assert check_file_count(path) == 300


def check_file_count(path: Path) -> int:
    """Records in a journal."""
    with JournalReader(path) as reader:
        return reader.count()


def test_whole_run_passes_the_integrity_check(made: SyntheticRun) -> None:
    """A run written by the rules has no problems, and the check counts what is there."""
    report = check_run(made.path)
    assert report.problems == ()
    assert report.whole
    assert report.records == len(made.records)
    assert report.kinds["SpectrumTaken"] == 60


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE records SET body = zeroblob(40) WHERE seq = 9", "checksum"),
        ("DELETE FROM records WHERE kind = 'JobIssued' AND seq = 6", "never issued|missing"),
        ("DELETE FROM records WHERE seq = (SELECT max(seq) FROM records)", "the last one here"),
        ("UPDATE records SET kind = 'Label' WHERE kind = 'Fault'", "filed as"),
    ],
)
def test_tampering_is_found(tmp_path: Path, change: str, words: str) -> None:
    """A changed, removed or misfiled record is named."""
    run = build(tmp_path, spectra=3)
    connection = apsw.Connection(str(run.path / "journal.db"))
    connection.execute(change)
    assert connection.total_changes() == 1
    connection.close()
    report = check_run(run.path)
    assert not report.whole
    assert any(re.search(words, p) for p in report.problems)


def test_damaged_pages_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    """Overwritten pages are reported, by the check as a problem and by the reader as an error."""
    run = build(tmp_path, spectra=3)
    file = run.path / "journal.db"
    data = bytearray(file.read_bytes())
    data[8192:] = b"\xa5" * (len(data) - 8192)
    file.write_bytes(data)
    assert not check_run(run.path).whole
    with pytest.raises(DataFormatError, match=r"journal\.db"), JournalReader(run.path) as reader:
        list(reader.records())


def test_the_three_books_agree(made: SyntheticRun) -> None:
    """Journal, truth log and spool of a clean run agree about every job."""
    spool = [(e["job_id"], "finished") for e in made.truth]
    found = compare([made.path], [*made.truth, {"event": "idle"}], spool)
    assert found.problems == ()
    assert found.measured == found.journaled == 62
    assert found.interrupted == 1
    assert (found.lost, found.doubled) == (0, 0)
    assert "0 disagreements" in found.table()


def test_every_disagreement_is_named(made: SyntheticRun) -> None:
    """Lost, doubled, invented and forgotten measurements each get their own verdict."""
    job = f"{made.run}/d0003/a1"
    without = [e for e in made.truth if e["job_id"] != job]
    assert [r.problem for r in compare([made.path], without).problems] == ["journaled but never measured"]
    doubled = compare([made.path], [*made.truth, {"event": "sweep_done", "job_id": job}])
    assert [r.problem for r in doubled.problems] == ["measured 2 times"]
    assert doubled.doubled == 1
    strange = compare([made.path], [*made.truth, {"event": "sweep_done", "job_id": "made-up-1/d0099/a1"}])
    assert [r.problem for r in strange.problems] == ["measured but lost"]
    assert strange.lost == 1
    spool = compare([made.path], made.truth, [("made-up-1/d0098/a1", "finished")])
    assert [r.problem for r in spool.problems] == ["finished in the spool, unknown to the journal"]
    cut = {"event": "sweep_done", "job_id": "made-up-1/d0099/a1", "detail": {"completed": False}}
    assert compare([made.path], [*made.truth, cut]).lost == 0
    again = {**cut, "job_id": job}
    assert [r.problem for r in compare([made.path], [*made.truth, again]).problems] == ["measured 2 times"]
    interrupted = {"event": "sweep_done", "job_id": f"{made.run}/d0020/a1"}
    assert compare([made.path], [*made.truth, interrupted]).problems == ()


def test_errors_of_reading_are_ours(tmp_path: Path) -> None:
    """Whatever is wrong with a file, the error is one of our families and names it."""
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(TunnelpilotError):
        JournalReader(tmp_path / "journal.db")
