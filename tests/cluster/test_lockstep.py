"""Two runs in lockstep, through daemon, gateway and simulator, are the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.journal.reader import JournalReader
from protocols.messages.records import Decision, SpectrumTaken

CAMPAIGN = """
name = "lockstep"
seed = 5
lockstep = true
[instrument]
sample = "vacancy"
time_scale = 10.0
[imaging]
bias = "1.0V"
setpoint = "100pA"
pixels = 48
line_time = "0.1s"
reference_pixels = 32
[spectrum]
stabilise_bias = "1.0V"
stabilise_current = "100pA"
settle = "50ms"
z_offset = "0pm"
start = "0V"
stop = "1.5V"
points = 51
dwell = "3ms"
backward = true
[spectrum.lockin]
amplitude = "10mV"
frequency = "4.3kHz"
time_constant = "1ms"
[scalar]
kind = "ratio"
channel = "lockin_x"
window = ["0V", "0.5V"]
reference = ["0V", "1.5V"]
[planner]
kernel = "pca_xy"
acquisition = "ucb"
seed_points = 5
points = 9
patch_pixels = 8
candidate_step = 6
[zoom]
widths = ["40nm"]
[drift]
every = 6
"""


def told(state: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Decisions and spectra of the only run, without its name and wall times."""
    (directory,) = (state / "runs").iterdir()
    with JournalReader(directory) as reader:
        decisions = [
            (d.decision, d.candidate, d.acquisition, d.mean, d.pending) for d in reader.bodies(Decision)
        ]
        spectra = [
            (s.job_id.split("/")[1], s.scalar, s.began_s, s.piezo_x_m) for s in reader.bodies(SpectrumTaken)
        ]
    return decisions, spectra


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_two_runs_in_lockstep_are_the_same(tmp_path: Path) -> None:
    """Same seed, same decisions, same spectra at the same instrument times, to the last bit."""
    file = tmp_path / "lockstep.toml"
    file.write_text(CAMPAIGN, encoding="utf-8")
    stmctl = str(Path(sys.executable).parent / "stmctl")
    for name in ("one", "two"):
        state = tmp_path / name
        run = [stmctl, "--state", str(state), "run", str(file), "--foreground"]
        subprocess.run(run, check=True, timeout=110)
    one, two = told(tmp_path / "one"), told(tmp_path / "two")
    assert len(one[0]) == 9
    assert one == two
