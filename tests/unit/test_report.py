"""The report: one self-contained page, the same every time, honest about what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import PIXELS, SyntheticRun, build, campaign

from actors.journal.reader import JournalReader
from actors.journal.report import write_report
from actors.journal.store import RunStore
from actors.journal.wording import duration, exact, scalar_words, si
from protocols.errors import DataFormatError
from protocols.messages.campaign import ScalarSection
from protocols.messages.records import PredictedMap, Record, RunStarted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    """A finished run of two windows."""
    return build(tmp_path_factory.mktemp("state"), widths_m=(60e-9, 30e-9))


@pytest.fixture(scope="module")
def html(made: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report with the truth opened."""
    return report(made, tmp_path_factory.mktemp("report") / "r.html", truth_of(made))


def report(run: SyntheticRun, path: Path, truth: dict[str, Any] | None) -> str:
    """Write a report and read it back."""
    with JournalReader(run.path) as reader:
        assert write_report(reader, path, truth) == path
    return path.read_text(encoding="utf-8")


def truth_of(run: SyntheticRun) -> dict[str, Any]:
    """What the simulator would tell after the run."""
    with JournalReader(run.path) as reader:
        found = reader.bodies(PredictedMap)[-1]
    return {
        "maps": {
            found.window: {
                "x_m": found.x_m,
                "y_m": found.y_m,
                "values": run.truth_map,
                "shape": (PIXELS, PIXELS),
            }
        },
        "space_filling": {"correlation": 0.861, "points": 60},
        "target": {"x_m": 6.2e-9, "y_m": -4.1e-9, "name": "the vacancy"},
    }


class Links(HTMLParser):
    """Collects everything a browser would fetch, and checks that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag opens."""
        self.fetched += [
            v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "poster", "action")
        ]
        self.scripts += tag in ("script", "iframe", "object", "embed")
        if tag not in ("meta", "link", "img", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """A tag closes."""
        assert self.open.pop() == tag


def test_page_needs_nothing_else(html: str) -> None:
    """No script, no request: every picture is inside the page, and the page is well formed."""
    parser = Links()
    parser.feed(html)
    assert parser.open == []
    assert parser.scripts == 0
    assert parser.fetched
    assert all(link.startswith(("data:image/png;base64,", "data:,")) for link in parser.fetched)
    assert "url(" not in html
    assert "@import" not in html
    assert len(html.encode()) < 5_000_000


def test_page_says_where_and_how_it_is_known(html: str) -> None:
    """Finding, number of spectra, correlation beside space filling, and what is recorded, in words."""
    words = re.sub(r"<[^>]+>", " ", html)
    for fact in (
        "the place where the integral of the lock-in X signal (dI/dV) from 50 mV to 220 mV is largest",
        "The most interesting structure is at x = 6.50 nm, y = -4.50 nm",
        "0.50 nm away",
        "spectra taken",
        "out of 1800 candidate places",
        "space-filling sampling with 60 points: 0.861",
        "duty cycle",
        "Window 1: 60 × 60 nm",  # noqa: RUF001
        "Window 2: 30 × 30 nm",  # noqa: RUF001
        "The highest upper confidence bound among 900 candidates",
        "spectrum_classifier: died; restarted",
        "paused at the next safe point",
        "Z within 10 % of its range end",
        "What is recorded and what is added",
        "Nothing here was measured on a real surface",
    ):
        assert fact in words, fact


def test_same_journal_gives_the_same_page(made: SyntheticRun, html: str, tmp_path: Path) -> None:
    """Nothing in the page depends on when or where it is written."""
    assert report(made, tmp_path / "again.html", truth_of(made)) == html


def test_without_truth_no_correlation_is_claimed(made: SyntheticRun, tmp_path: Path) -> None:
    """Where the truth is not handed in, the page shows no truth map and no correlation."""
    words = report(made, tmp_path / "r.html", None)
    assert "map correlation" not in words
    assert "Opened after the run" not in words
    assert "away." not in words


def test_recorded_sample_is_named_as_such(tmp_path: Path) -> None:
    """For a recorded grid the page tells recorded data and added times apart."""
    run = build(tmp_path, spectra=0, sample="recorded:demo")
    words = report(run, tmp_path / "r.html", None)
    assert "never interpolated" in words
    assert "Nothing here was measured" not in words


def test_unfinished_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    """With only its first record, a run has a page with a warning; without it, an error."""
    path = tmp_path / "runs" / "young" / "journal.db"
    store = RunStore(path, reserve_bytes=0)
    store.commit([])
    with JournalReader(path) as reader, pytest.raises(DataFormatError, match="no run yet"):
        write_report(reader, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    started = RunStarted(
        run="young",
        campaign=campaign(),
        campaign_text="<script>alert(1)</script>",
        seed=1,
        versions={},
        limits={},
        simulated=True,
        time_scale=1.0,
    )
    store.commit([Record(key="run", actor="t", body=started)])
    store.close()
    with JournalReader(path) as reader:
        write_report(reader, tmp_path / "r.html")
    words = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "This run is not finished" in words
    assert "No spectrum of this run counts as data yet" in words
    assert "<script" not in words


def test_one_spectrum_is_enough_for_a_page(tmp_path: Path) -> None:
    """A run with a single spectrum gives all its figures."""
    run = build(tmp_path, spectra=1)
    assert "Spectra of the best points" in report(run, tmp_path / "r.html", None)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1.2345e-12, "A V", "1.23 pA·V"),
        (0.05, "V", "50.0 mV"),
        (-3.2e-10, "m", "-320 pm"),
        (0.0, "V", "0 V"),
        (0.1234, "1", "0.123"),
        (2.5e-7, "1", "250 × 10^-9"),  # noqa: RUF001
        (float("nan"), "V", "no value"),
        (999.96e-12, "A", "1000 pA"),
        (12.5, "", "12.5"),
        (0.765, "V V", "0.765 V²"),
    ],
)
def test_numbers_carry_handy_units(value: float, unit: str, shown: str) -> None:
    """Three significant digits, the fitting prefix, and plain numbers for ratios."""
    assert si(value, unit) == shown


def test_set_numbers_are_shown_as_they_were_set() -> None:
    """A recipe's numbers carry no padding zeros."""
    assert exact(0.05, "V") == "50 mV"
    assert exact(0.0125, "s") == "12.5 ms"
    assert exact(971.0, "Hz") == "971 Hz"
    assert [duration(t) for t in (3.21, 81.0, 158.0, 7300.0)] == ["3.2 s", "81 s", "2 min 38 s", "2 h 01 min"]


@pytest.mark.parametrize("kind", ["integral", "ratio", "bandgap", "onset"])
def test_every_scalar_has_words(kind: Any) -> None:
    """Each kind of scalar is described, and the sign decides between largest and smallest."""
    section = ScalarSection(kind=kind, sign=-1)
    assert "smallest" in scalar_words(section)
    assert "largest" in scalar_words(ScalarSection(kind=kind))


def test_map_of_a_turned_window_and_scattered_candidates(tmp_path: Path) -> None:
    """Turned windows and candidates that form no raster are drawn too."""
    run = build(tmp_path, spectra=5, angle_rad=0.4, raster=False)
    assert "By the model, from 4 points" in report(run, tmp_path / "r.html", None)
