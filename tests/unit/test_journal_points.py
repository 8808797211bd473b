"""Following a run's points: what planner and zoom supervisor are told, once each, however it is read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import SyntheticRun, build

from actors.journal.points import PointLog
from actors.journal.reader import JournalReader
from actors.journal.store import RunStore
from protocols.messages.records import Label, Record, Validity, WindowOpened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    """A finished run of 60 spectra; nobody may change it."""
    return build(tmp_path_factory.mktemp("state"))


class CountingReader(JournalReader):
    """Counts the bodies that are read."""

    read = 0

    def at(self, seq: int):  # type: ignore[no-untyped-def]
        """As ever."""
        self.read += 1
        return super().at(seq)


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_in_one_step_or_in_many(made: SyntheticRun, cuts: list[int]) -> None:
    """The same events in the same order, and the same points, wherever the reading was interrupted."""
    with JournalReader(made.path) as reader:
        at_once, in_steps = PointLog(reader, 0), PointLog(reader, 0)
        wanted = at_once.advance()
        found = [e for cut in sorted(cuts) for e in in_steps.advance(cut)]
        assert all(e.seq <= in_steps.cursor for e in found)
        assert found + in_steps.advance() == wanted
        assert list(in_steps.points()) == list(at_once.points())


def test_events_fold_to_the_valid_spectra(made: SyntheticRun) -> None:
    """Observing and revoking in order gives exactly the valid spectra, at any cursor; so do the points."""
    with JournalReader(made.path) as reader:
        log, points = PointLog(reader, 0), dict[str, float]()
        for cut in (0, 57, 170, reader.last_seq()):
            for event in log.advance(cut):
                if event.revoked:
                    del points[event.job_id]
                elif math.isfinite(event.scalar):
                    points[event.job_id] = event.scalar
            spectra = reader.spectra(0, upto=cut)
            assert points == {m.spectrum.job_id: m.spectrum.scalar for m in spectra}
            assert [(p.job_id, p.scalar, p.label) for p in log.points()] == [
                (m.spectrum.job_id, m.spectrum.scalar, m.label.label if m.label else "") for m in spectra
            ]


def test_every_record_is_read_once(made: SyntheticRun) -> None:
    """A decision costs what is new, not what the run is: a run of weeks decides as fast as one of minutes."""
    with CountingReader(made.path) as reader:
        log, most = PointLog(reader), 0
        for cut in range(1, reader.last_seq() + 1):
            before = reader.read
            log.advance(cut)
            most = max(most, reader.read - before)
        assert most <= 2  # the record itself, and the first beyond the cut
        before = reader.read
        assert log.advance() == []
        assert reader.read == before


def test_a_window_is_read_from_where_it_was_opened(made: SyntheticRun) -> None:
    """Nothing of it lies before; other windows' spectra are not among its points."""
    with JournalReader(made.path) as reader:
        opened = reader.first(WindowOpened)
        assert opened is not None
        assert PointLog(reader, 0).cursor == opened.seq
        everything, other = PointLog(reader), PointLog(reader, 7)
        assert (everything.cursor, other.cursor) == (0, 0)
        assert len(everything.advance()) > 60
        assert other.advance() == []
        assert len(list(everything.points(0))) == 58
        assert list(everything.points(1)) == []


def test_a_point_comes_back_when_it_is_judged_valid_again(tmp_path: Path) -> None:
    """Revoked and reinstated: the planner is told both, and a repeated judgement tells it nothing.  What is
    said of a spectrum that nobody took is passed over."""
    run = build(tmp_path, spectra=3)
    job = f"{run.run}/d0001/a1"
    store = RunStore(run.path / "journal.db", reserve_bytes=0)
    bodies = [Validity(job_id=job, valid=valid, reason="", by="t") for valid in (False, False, True)]
    nobodys = [
        Validity(job_id="nobody", valid=True, reason="", by="t"),
        Label(job_id="nobody", label="clean", confidence=1.0, probabilities={}, model="m"),
    ]
    for k, body in enumerate([*bodies, *nobodys]):
        store.commit([Record(key=f"v{k}", actor="t", body=body)])
    store.close()
    with JournalReader(run.path) as reader:
        log = PointLog(reader, 0)
        assert [e.revoked for e in log.advance() if e.job_id == job] == [False, True, False]
        assert job in {p.job_id for p in log.points()}
        assert "nobody" not in {p.job_id for p in log.points()}
