"""Duty cycle at one second per spectrum in real time: a campaign by the daemon, a blocking loop beside it.

Both are read from the truth log of the simulated microscope by the same evaluation: one less the share of
the time, from the first job to the end of the last measurement, in which no job ran.

Run: python -m tests.bench duty
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.console.evaluation import evaluate
from actors.journal.reader import JournalReader
from actors.journal.schema import run_file
from protocols.files.campaign_toml import read_campaign
from protocols.messages.records import Decision, SpectrumTaken
from tests.bench.blocking_loop import RUN, run_blocking
from tests.bench.figures import Figure, Findings

CAMPAIGN = Path(__file__).parent / "duty.toml"
STMCTL = Path(sys.executable).parent / "stmctl"
TARGET = 0.95
DEADLINE_S = 300.0


def read_run(state: Path, run: str) -> dict[str, Any]:
    """Figures of one run by its journal and truth log."""
    with JournalReader(run_file(state, run)) as reader:
        found, _ = evaluate(state, reader)
        spectra = [r.body for r in reader.records(kinds=(SpectrumTaken,))]
        decisions = [
            r.body.seconds for r in reader.records(kinds=(Decision,)) if isinstance(r.body, Decision)
        ]
    if found.duty_cycle is None:
        raise RuntimeError(f"the truth log says nothing of {run}: {', '.join(found.notes)}")
    return {
        "duty_cycle": found.duty_cycle,
        "shares": found.shares,
        "spectra": len(spectra),
        "decision_p50_s": float(np.median(decisions)) if decisions else float("nan"),
        "decision_worst_s": max(decisions, default=float("nan")),
    }


def blocking() -> dict[str, Any]:
    """The blocking loop."""
    campaign = read_campaign(CAMPAIGN)
    with tempfile.TemporaryDirectory(prefix="bench-blocking-") as folder:
        state = Path(folder)
        seconds = run_blocking(state, campaign, CAMPAIGN.read_text(encoding="utf-8"))
        return {**read_run(state, RUN), "seconds": seconds}


def overlapping() -> dict[str, Any]:
    """The same campaign by the daemon and its actors."""
    with tempfile.TemporaryDirectory(prefix="bench-duty-") as folder:
        state = Path(folder)
        command = [str(STMCTL), "run", str(CAMPAIGN), "--state", folder]
        began = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        finally:
            down = [str(STMCTL), "down", "--state", folder]
            subprocess.run(down, capture_output=True, timeout=120, check=False)
        seconds = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(
                f"stmctl run: status {done.returncode}, {(done.stderr or done.stdout)[-2000:]}"
            )
        listed = subprocess.run(
            [str(STMCTL), "runs", "--state", folder, "--json"], capture_output=True, text=True, check=True
        )
        (run,) = json.loads(listed.stdout)["runs"]
        return {**read_run(state, run["run"]), "seconds": seconds}


def findings() -> Findings:
    """For the table."""
    naive = blocking()
    ours = overlapping()
    share = ours["shares"]
    parts = ", ".join(
        f"{name} {share[name]:.1%}" for name in ("sweeps", "travel", "settling", "frames", "idle")
    )
    worst = 1e3 * ours["decision_worst_s"]
    figures = [
        Figure(
            "duty",
            "duty cycle at 1 s per spectrum, time scale 1",
            100 * ours["duty_cycle"],
            "%",
            f"blocking loop, same parts: {naive['duty_cycle']:.1%}",
            f">= {TARGET:.0%}",
            ours["duty_cycle"] >= TARGET,
        ),
        Figure("duty", "spectra taken", ours["spectra"], "", parts),
        Figure(
            "duty",
            "one decision, median",
            1e3 * ours["decision_p50_s"],
            "ms",
            f"worst {worst:.0f} ms; in the blocking loop {1e3 * naive['decision_p50_s']:.0f} ms",
        ),
    ]
    return Findings(figures, {"overlapping": ours, "blocking": naive})
