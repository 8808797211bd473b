"""What an export holds: every spectrum, every frame, units in the headers, nothing overwritten."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import POINTS, SyntheticRun, build

from actors.journal.export import export_run
from actors.journal.reader import JournalReader
from protocols.errors import UsageError
from protocols.messages.records import FrameTaken


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    """A finished run of 60 spectra."""
    return build(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def exported(made: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    directory = tmp_path_factory.mktemp("export") / "out"
    with JournalReader(made.path) as reader:
        written = export_run(reader, directory)
    assert sorted(written) == sorted(p for p in directory.rglob("*") if p.is_file())
    return directory


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file as dicts."""
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_points_come_back_to_the_last_bit(made: SyntheticRun, exported: Path) -> None:
    """One row per spectrum in order, with position, scalar and verdict exactly as journaled."""
    points = rows(exported / "points.csv")
    with JournalReader(made.path) as reader:
        spectra = reader.spectra(valid_only=False)
    assert [p["job_id"] for p in points] == [m.spectrum.job_id for m in spectra]
    for point, m in zip(points, spectra, strict=True):
        assert float(point["x_m"]) == m.spectrum.sample_x_m
        assert point["counts"] == str(int(m.counts))
        if math.isnan(m.spectrum.scalar):
            assert point["scalar_A_V"] == ""
        else:
            assert float(point["scalar_A_V"]) == m.spectrum.scalar


def test_each_spectrum_has_a_table_with_units(made: SyntheticRun, exported: Path) -> None:
    """The file named in the table holds bias and all channels; a saturated sample is an empty cell."""
    points = rows(exported / "points.csv")
    table = rows(exported / points[3]["file"])
    assert list(table[0]) == [
        "bias_V",
        "current_forward_A",
        "current_backward_A",
        "lockin_x_forward_A",
        "lockin_x_backward_A",
    ]
    with JournalReader(made.path) as reader:
        data = reader.spectra(valid_only=False)[3].spectrum.data
    lockin = np.array([float(r["lockin_x_backward_A"]) for r in table])
    np.testing.assert_array_equal(lockin, data.channels[1].values[0, 1])
    saturated = next(p for p in points if p["quality"] == "saturated")
    assert rows(exported / saturated["file"])[-1]["current_forward_A"] == ""


def test_arrays_agree_with_the_tables(made: SyntheticRun, exported: Path) -> None:
    """NPZ files hold the spectra, frames and maps with the documented shapes, without pickle."""
    spectra = np.load(exported / "spectra.npz", allow_pickle=False)
    assert spectra["lockin_x"].shape == (60, 1, 2, POINTS)
    assert spectra["counts"].sum() == 58
    assert list(spectra["job_id"]) == [p["job_id"] for p in rows(exported / "points.csv")]
    frames = np.load(exported / "frames.npz", allow_pickle=False)
    with JournalReader(made.path) as reader:
        frame = reader.bodies(FrameTaken)[0]
    np.testing.assert_array_equal(frames["w00-survey-a1.z_m.0.5V"], frame.images[0].values)
    np.testing.assert_array_equal(frames["w00-survey-a1.place"], [0.0, 0.0, 30e-9, 30e-9, 0.0])
    maps = np.load(exported / "maps.npz", allow_pickle=False)
    assert maps["window0.mean"].shape == (30, 30)
    assert maps["window0.y_m"][0, 0] < maps["window0.y_m"][-1, 0]


def test_readme_tells_axes_and_units(exported: Path) -> None:
    """A person who finds the folder learns what was sought, the units and the orientation."""
    words = (exported / "README.txt").read_text(encoding="utf-8")
    for fact in ("50 mV to 220 mV", "SI", 'origin="lower"', "row 0 is at the lowest y", "points.csv"):
        assert fact in words
    for name in (p.name for p in exported.iterdir()):
        assert name in words or name == "README.txt"


def test_decisions_and_events_are_tables(exported: Path) -> None:
    """Every decision with its reason, and every other event, is in a table."""
    assert len(rows(exported / "decisions.csv")) == 60
    assert rows(exported / "decisions.csv")[30]["reason"].startswith("the highest upper confidence bound")
    kinds = {r["kind"] for r in rows(exported / "events.csv")}
    assert {"RunState", "JobIssued", "Label", "Validity", "Fault", "OperatorAction"} <= kinds


def test_nothing_is_overwritten(made: SyntheticRun, exported: Path) -> None:
    """A folder that holds something is refused and stays as it is."""
    before = sorted(exported.rglob("*"))
    with JournalReader(made.path) as reader, pytest.raises(UsageError, match="not empty"):
        export_run(reader, exported)
    assert sorted(exported.rglob("*")) == before


def test_unfinished_run_can_be_exported(tmp_path: Path) -> None:
    """A run without any spectrum yet gives empty tables, not an error."""
    run = build(tmp_path, spectra=0)
    with JournalReader(run.path) as reader:
        export_run(reader, tmp_path / "out")
    assert rows(tmp_path / "out" / "points.csv") == []
