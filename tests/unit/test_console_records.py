"""``stmctl`` on journals: runs, show, explain, report, export, replay; and the evaluation behind them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from console_world import bump, campaign_text, make_run, make_truth

from actors.console.app import app
from actors.console.evaluation import evaluate, recorded_file, true_scalars
from actors.console.run_names import find_run
from actors.journal.reader import JournalReader
from actors.journal.run_data import load
from protocols.errors import ConfigError
from protocols.files.nanonis_grid import read_grid
from protocols.messages.data import Channel, SweepData


def stmctl(state: Path, *words: str) -> Result:
    """Run one command."""
    return CliRunner().invoke(app, ["--state", str(state), *words])


def document(result: Result) -> dict[str, Any]:
    """The one JSON document on stdout."""
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with one finished run and its truth: the target 0.2 nm beside the bump, the run's
    frame 0.3 nm off in x."""
    state = tmp_path_factory.mktemp("state")
    directory = make_run(state, "test-1")
    make_truth(state, directory, target=(1.2e-9, -0.5e-9), offset=(0.3e-9, 0.0))
    return state


def test_runs_are_listed(world: Path) -> None:
    """For people and with stable keys."""
    assert "completed" in stmctl(world, "runs").stdout
    found = document(stmctl(world, "runs", "--json"))
    assert set(found) == {"schema", "state_directory", "runs"}
    assert set(found["runs"][0]) == {
        "run", "campaign", "state", "reason", "outcome", "spectra", "started_wall_s", "updated_wall_s",
        "trouble",
    }  # fmt: skip


def test_no_runs_is_said(tmp_path: Path) -> None:
    """An empty state directory is no error for the list, and one for the rest."""
    assert "No runs in" in stmctl(tmp_path, "runs").stdout
    assert document(stmctl(tmp_path, "runs", "--json"))["runs"] == []
    result = stmctl(tmp_path, "show", "last")
    assert result.exit_code == 2
    assert "there are no runs" in result.stderr


def test_runs_are_found_by_name_beginning_or_last(world: Path, tmp_path: Path) -> None:
    """A typo gets a suggestion; an ambiguous beginning is refused."""
    assert find_run(world, "test-1") == find_run(world, "te") == find_run(world, "last")
    with pytest.raises(ConfigError, match="Did you mean test-1"):
        find_run(world, "tset-1")
    for name in ("a-1", "a-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "journal.db").touch()
    with pytest.raises(ConfigError, match="'a' could be a-1, a-2"):
        find_run(tmp_path, "a")


def test_show_opens_the_truth_of_a_simulated_run(world: Path) -> None:
    """Distance to the target is true, whatever the run believes of its frame; the duty cycle is the log's."""
    found = document(stmctl(world, "show", "test-1", "--json"))
    assert set(found) == {
        "schema", "run", "campaign", "state", "reason", "outcome", "spectra", "started_wall_s",
        "updated_wall_s",
        "trouble", "description", "directory", "report", "seed", "simulated", "sample", "time_scale",
        "scalar_unit", "windows", "spectra_counted", "frames", "decisions", "interrupted_attempts", "faults",
        "operator_actions", "best", "figures", "time_shares", "auxiliary", "waited_s", "truth",
    }  # fmt: skip
    best, truth = found["best"], found["truth"]
    assert set(truth) == {"sample", "target", "correlation", "duty_cycle", "shares", "last_seq", "notes"}
    target = truth["target"]
    away = math.hypot(best["x_m"] + 0.3e-9 - 1.2e-9, best["y_m"] + 0.5e-9)
    assert np.isclose(target["best_distance_m"], away, rtol=1e-9, atol=0)
    assert np.allclose([target["run_x_m"], target["run_y_m"]], [0.9e-9, -0.5e-9], rtol=1e-9, atol=0)
    assert target["in_last_window"] is True
    assert target["decoys"] == 1
    assert np.isclose(truth["duty_cycle"], 9 * 0.9 / 8.9, rtol=1e-9, atol=0)
    assert found["windows"][0]["candidates"] == 900


def test_show_is_readable(world: Path) -> None:
    """The finding, the figures, the windows."""
    text = stmctl(world, "show", "last").stdout
    for words in ("The most interesting structure is at", "lies in the last window", "duty cycle", "Windows"):
        assert words in text


def test_a_target_outside_the_last_window_is_said_to_be_there(tmp_path: Path) -> None:
    """The window is judged in the run's own frame."""
    directory = make_run(tmp_path)
    make_truth(tmp_path, directory, target=(2.6e-9, 0.0), offset=(0.0, 0.0))
    with JournalReader(directory) as reader:
        evaluation, _ = evaluate(tmp_path, reader)
    assert evaluation.target is not None
    assert evaluation.target.in_last_window is False
    assert "is NOT in the last window" in stmctl(tmp_path, "show", "last").stdout


def test_without_a_truth_log_show_says_so(tmp_path: Path) -> None:
    """No figure is made up."""
    make_run(tmp_path)
    truth = document(stmctl(tmp_path, "show", "last", "--json"))["truth"]
    assert truth["target"] is None
    assert truth["duty_cycle"] is None
    assert "no truth log" in truth["notes"][0]


@pytest.mark.parametrize("k", ["3", "d0003", "test-1/d0003/a1", "best", "last"])
def test_explain_says_why(world: Path, k: str) -> None:
    """By number, id, job, or in words."""
    result = stmctl(world, "explain", "test-1", k)
    assert result.exit_code == 0, result.stderr
    assert "Measured:" in result.stdout


def test_explain_as_json(world: Path) -> None:
    """The decision as it is in the journal, and what came out."""
    found = document(stmctl(world, "explain", "test-1", "7", "--json"))
    assert found["schema"] == "tunnelpilot/decision/1"
    assert {
        "decision",
        "reason",
        "acquisition",
        "alternatives",
        "explanation",
        "scalar",
        "valid",
        "label",
    } <= set(found)
    assert found["kind"] == "variance"


def test_explain_of_a_decision_that_is_not_there(world: Path) -> None:
    """Says what there is."""
    result = stmctl(world, "explain", "test-1", "99")
    assert result.exit_code == 2
    assert "There are d0000 to d0008" in result.stderr


def test_replay_decides_the_same_again(world: Path) -> None:
    """Every candidate and every acquisition value."""
    result = stmctl(world, "replay", "test-1")
    assert result.exit_code == 0, result.output
    assert "All 9 decisions of test-1 come out the same." in result.stdout
    found = document(stmctl(world, "replay", "test-1", "--json"))
    assert set(found) == {"schema", "run", "decisions", "same", "largest_difference", "different"}
    assert found["same"] == 9


def test_report_and_export_write_files(world: Path, tmp_path: Path) -> None:
    """One HTML file; a folder of tables; never into a folder with something in it."""
    found = document(stmctl(world, "report", "test-1", "--output", str(tmp_path / "r.html"), "--json"))
    assert Path(found["report"]).read_text().startswith("<!")
    folder = tmp_path / "out"
    exported = document(stmctl(world, "export", "test-1", "--to", str(folder), "--json"))
    assert any(name.endswith(".csv") for name in exported["files"])
    result = stmctl(world, "export", "test-1", "--to", str(folder))
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    """No traceback."""
    (tmp_path / "runs" / "bad").mkdir(parents=True)
    (tmp_path / "runs" / "bad" / "journal.db").write_bytes(b"no journal" * 100)
    result = stmctl(tmp_path, "show", "bad")
    assert result.exit_code in (1, 2)
    assert "journal.db" in result.stderr
    assert "unreadable" in stmctl(tmp_path, "runs").stdout


def test_a_recorded_run_is_compared_with_all_that_was_recorded(tmp_path: Path) -> None:
    """Pearson r over the whole grid, with as many space-filling points beside it."""
    grid = read_grid(recorded_file("recorded:demo"))

    def served(x: float, y: float) -> SweepData:
        row, col = int(np.abs(grid.y_m - y).argmin()), int(np.abs(grid.x_m - x).argmin())
        values = grid.channels["LockinX (V)"][row, col].astype(float).reshape(1, 1, -1)
        return SweepData(
            bias_v=grid.sweep,
            channels=(Channel(name="lockin_x", unit="V", values=values),),
            x_m=x,
            y_m=y,
            z_m=0.0,
            time_s=0.0,
        )

    text = campaign_text("recorded:demo", points=200, seeds=20, spectra=30)
    directory = make_run(tmp_path, text=text, spectrum=served)
    with JournalReader(directory) as reader:
        run = load(reader)
        _, _, truth = true_scalars(recorded_file("recorded:demo"), run)
        evaluation, for_report = evaluate(tmp_path, reader)
    assert truth.shape == (30, 30)
    best = run.best
    assert best is not None
    row = int(np.abs(grid.y_m - best.spectrum.sample_y_m).argmin())
    col = int(np.abs(grid.x_m - best.spectrum.sample_x_m).argmin())
    assert np.isclose(truth[row, col], best.spectrum.scalar, rtol=1e-6, atol=0)
    correlation = evaluation.correlation
    assert correlation is not None
    assert (correlation.places, correlation.spectra) == (900, 30)
    assert correlation.map_correlation > 0.5
    assert correlation.space_filling_correlation is not None
    assert for_report["maps"][0]["values"].shape == (900,)
    assert "map correlation" in stmctl(tmp_path, "show", "last").stdout


def test_bump_is_where_the_tests_say() -> None:
    """The made-up surface."""
    here, there = bump(1e-9, -0.5e-9, 3), bump(2e-9, -0.5e-9, 3)
    assert here.channels[0].values.max() > there.channels[0].values.max()
