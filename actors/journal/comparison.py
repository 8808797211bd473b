"""Exactly once, checked by id: the journal against the instrument's truth log and the gateway's spool.

Every finished measurement in the truth log is in the journal once, or the journal marks that attempt as ended
without one; every journaled measurement has exactly one entry in the truth log; the spool holds nothing
finished that the journal does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from actors.journal.reader import JournalReader
from protocols.files.truth_log import TruthEntry
from protocols.messages.jobs import JobState
from protocols.messages.recipes import BiasFrames
from protocols.messages.records import AttemptEnded, FrameTaken, JobDone, JobIssued, SpectrumTaken

MEASURED = {"sweep_done": "spectrum", "frame_done": "frame"}
"""Truth entries that are finished measurements, and what each is."""

Truth: TypeAlias = Mapping[str, Any] | TruthEntry
"""An entry of the truth log, as it is read or as plain data."""

_KINDS = {"Sweep": "spectrum", "Frame": "frame", "ReferencePatch": "frame", "BiasFrames": "frame"}


@dataclass(frozen=True)
class ComparisonRow:
    """One job in the three books.  ``problem`` is empty if they agree."""

    job_id: str
    kind: str
    """"spectrum", "frame", "job" (without data) or ""."""
    truth: int
    """Finished measurements of this id in the truth log."""
    journaled: int
    """Measurements of this id in the journal."""
    ended: str
    """State of the journal's AttemptEnded, or empty."""
    spool: str
    """State in the spool's ledger, or empty."""
    problem: str


@dataclass(frozen=True)
class Comparison:
    """The table, and its totals."""

    rows: tuple[ComparisonRow, ...]

    @property
    def problems(self) -> tuple[ComparisonRow, ...]:
        """Rows in which the books disagree."""
        return tuple(r for r in self.rows if r.problem)

    @property
    def measured(self) -> int:
        """Finished measurements in the truth log."""
        return sum(r.truth for r in self.rows)

    @property
    def journaled(self) -> int:
        """Measurements in the journals."""
        return sum(r.journaled for r in self.rows)

    @property
    def interrupted(self) -> int:
        """Attempts that the journal marks as ended without a measurement."""
        return sum(bool(r.ended) for r in self.rows)

    @property
    def lost(self) -> int:
        """Finished measurements that the journal neither has nor marks as interrupted."""
        return sum(r.truth > 0 and not r.journaled and not r.ended for r in self.rows)

    @property
    def doubled(self) -> int:
        """Ids that were measured or journaled more than once."""
        return sum(" times" in r.problem for r in self.rows)

    def table(self, only_problems: bool = False) -> str:
        """The rows as aligned text with a line of totals."""
        head = ("job", "kind", "truth", "journal", "attempt ended", "spool", "verdict")
        shown = self.problems if only_problems else self.rows
        cells = [head, *map(_cells, shown)]
        widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        return "\n".join(
            [
                *lines,
                f"{len(self.rows)} jobs: {self.measured} measured, {self.journaled} journaled, "
                f"{self.interrupted} ended without result, {self.lost} lost, {self.doubled} doubled, "
                f"{len(self.problems)} disagreements",
            ]
        )


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    counts = (str(row.truth), str(row.journaled))
    return (row.job_id, row.kind, *counts, row.ended or "-", row.spool or "-", row.problem or "ok")


@dataclass
class _Book:
    kind: str = ""
    issued: bool = False
    expected: int = 1
    """Truth entries that one finished job makes: a frame at several biases makes one for each."""
    acts: int = 0
    """Sweeps or frames that the tip began for it."""
    measurements: int = 0
    done: int = 0
    ended: str = ""


def compare(
    journals: Sequence[Path],
    truth: Iterable[Truth],
    spool: Iterable[tuple[str, str]] = (),
) -> Comparison:
    """Compare the three books by job id.

    ``truth``: entries of the simulator's truth log (mappings or structs), of which only ``event``, ``job_id``
    and ``detail["completed"]`` are read; a sweep or frame that was cut short is no finished measurement.
    ``spool``: (job_id, state) of the gateway's ledger.  Jobs of runs whose journal is not given are compared
    too, and are missing from the journal then; entries without a job id are nobody's and are left out.
    """
    books: dict[str, _Book] = {}
    for path in journals:
        with JournalReader(path) as reader:
            _read(reader, books)
    acts, measured, kinds = _read_truth(truth)
    states = dict(spool)
    rows = []
    for job in sorted({*books, *acts, *states}):
        book = books.get(job) or _Book(kind=MEASURED.get(kinds.get(job, ""), ""))
        book.acts = acts[job]
        rows.append(
            ComparisonRow(
                job_id=job,
                kind=book.kind,
                truth=measured[job],
                journaled=book.measurements,
                ended=book.ended,
                spool=states.get(job, ""),
                problem=_problem(book, measured[job], states.get(job, "")),
            )
        )
    return Comparison(tuple(rows))


def _read_truth(entries: Iterable[Truth]) -> tuple[Counter[str], Counter[str], dict[str, str]]:
    """By job id: sweeps and frames that were begun, those that were completed, and the kind of entry."""
    acts: Counter[str] = Counter()
    measured: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    for entry in entries:
        event, job, detail = (_field(entry, name) for name in ("event", "job_id", "detail"))
        if event in MEASURED and job:
            acts[job] += 1
            measured[job] += bool((detail or {}).get("completed", True))
            kinds[job] = event
    return acts, measured, kinds


def _field(entry: Truth, name: str) -> Any:
    return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)


def _read(reader: JournalReader, books: dict[str, _Book]) -> None:
    for record in reader.records(kinds=(JobIssued, SpectrumTaken, FrameTaken, JobDone, AttemptEnded)):
        body = record.body
        if not isinstance(body, JobIssued | SpectrumTaken | FrameTaken | JobDone | AttemptEnded):
            continue
        book = books.setdefault(body.job_id, _Book())
        match body:
            case JobIssued():
                book.issued = True
                book.kind = _KINDS.get(type(body.recipe).__name__, "job")
                if isinstance(body.recipe, BiasFrames):
                    book.expected = len(body.recipe.biases_v)
            case SpectrumTaken():
                book.kind, book.measurements = "spectrum", book.measurements + 1
            case FrameTaken():
                book.kind, book.measurements = "frame", book.measurements + 1
            case JobDone():
                book.done += 1
            case AttemptEnded():
                book.ended = body.state


def _problem(book: _Book, truth: int, spool: str) -> str:
    if book.acts > book.expected:
        return f"measured {book.acts} times"
    if book.measurements > 1 or book.done > 1:
        return f"journaled {max(book.measurements, book.done)} times"
    if book.measurements and book.ended:
        return "journaled as measured and as ended without result"
    if book.measurements and not truth:
        return "journaled but never measured"
    if (book.measurements or book.done or book.ended) and not book.issued:
        return "never issued in the journal"
    if truth and not book.measurements and not book.ended:
        return "measured but lost"
    if spool == JobState.FINISHED and not (book.measurements or book.done or book.ended):
        return "finished in the spool, unknown to the journal"
    if book.issued and not (book.measurements or book.done or book.ended):
        return "issued, without an end"
    return ""
