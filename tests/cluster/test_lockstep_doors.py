"""One campaign in lockstep through each door of the simulated microscope is one and the same campaign."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_lockstep import CAMPAIGN

from actors.journal.reader import JournalReader
from protocols.files.truth_log import TruthEntry, read_truth, truth_path
from protocols.messages.records import Decision, SpectrumTaken

TARGETS = 50
PIXEL_M = 40e-9 / 48
NANONIS = """[instrument]
driver = "nanonis"
simulated = true
address = "127.0.0.1:{first}-{last}"
"""
RUN_S = 240


def campaign(folder: Path, ports: tuple[int, int] | None) -> Path:
    """The campaign's file, over ZeroMQ or over Nanonis TCP at these ports."""
    text = CAMPAIGN.replace("points = 9", f"points = {TARGETS}")
    if ports is not None:
        text = text.replace("[instrument]\n", NANONIS.format(first=ports[0], last=ports[1]))
    file = folder / ("nanonis.toml" if ports else "zeromq.toml")
    file.write_text(text, encoding="utf-8")
    return file


def four_free_ports() -> tuple[int, int]:
    """First and last of four neighbouring ports that are free now."""
    for first in range(21_001, 29_000, 4):
        try:
            for port in range(first, first + 4):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first, first + 3
    raise AssertionError("no four neighbouring ports are free")


def told(state: Path) -> tuple[list[Decision], list[SpectrumTaken]]:
    """Decisions and spectra of the only run."""
    (directory,) = (state / "runs").iterdir()
    with JournalReader(directory) as reader:
        return list(reader.bodies(Decision)), list(reader.bodies(SpectrumTaken))


def entries(state: Path, event: str) -> list[TruthEntry]:
    """What the truth log says of one kind of event."""
    return [entry for entry in read_truth(truth_path(state)) if entry.event == event]


def without_run(job_id: str) -> str:
    """A measurement's id without the run's name, which holds a date."""
    return job_id.partition("/")[2]


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_both_doors_lead_to_the_same_fifty_targets(tmp_path: Path) -> None:
    """Over ZeroMQ and over Nanonis TCP the first 50 targets lie within one pixel of each other (they are the
    same candidates), the spectra were taken at the same places of the sample to 10 pm and at the same
    instrument times to 10 ms, their scalars agree to 1e-6 of the
    largest, and both truth logs tell of the same sweeps and
    frames in the same jobs and of the same moves (over TCP a move comes before the measurement is named)."""
    stmctl = str(Path(sys.executable).parent / "stmctl")
    states = {"zeromq": tmp_path / "z", "nanonis": tmp_path / "n"}
    files = {"zeromq": campaign(tmp_path, None), "nanonis": campaign(tmp_path, four_free_ports())}
    running = {
        name: subprocess.Popen([stmctl, "--state", str(states[name]), "run", str(file), "--foreground"])
        for name, file in files.items()
    }
    try:
        for name, process in running.items():
            assert process.wait(RUN_S) == 0, f"the run over {name} failed"
    finally:
        for process in running.values():
            process.terminate()
            process.wait(30)
    (decisions, spectra), (others, their_spectra) = told(states["zeromq"]), told(states["nanonis"])
    assert len(decisions) == len(others) == TARGETS
    assert [d.candidate for d in decisions] == [d.candidate for d in others]
    largest = max(abs(spectrum.scalar or 0.0) for spectrum in spectra)
    for one, other in zip(spectra, their_spectra, strict=True):
        assert np.hypot(one.piezo_x_m - other.piezo_x_m, one.piezo_y_m - other.piezo_y_m) < PIXEL_M
        assert one.scalar is not None
        assert other.scalar is not None
        assert abs(one.scalar - other.scalar) < 1e-6 * largest
    for one, other in zip(
        entries(states["zeromq"], "sweep_done"), entries(states["nanonis"], "sweep_done"), strict=True
    ):
        assert without_run(one.job_id) == without_run(other.job_id)
        for axis in ("sample_x_m", "sample_y_m"):
            assert abs(one.detail[axis] - other.detail[axis]) < 10e-12
        assert abs(one.time_s - other.time_s) < 10e-3
        assert (one.detail["completed"], one.detail["saturated"]) == (True, other.detail["saturated"])
    for event in ("frame_done", "crash", "lost_surface"):
        counts = [Counter(without_run(e.job_id) for e in entries(s, event)) for s in states.values()]
        assert counts[0] == counts[1], event
    ends = [[(e.detail["x_m"], e.detail["y_m"]) for e in entries(s, "move")] for s in states.values()]
    assert np.allclose(ends[0], ends[1], rtol=0, atol=1e-12)
