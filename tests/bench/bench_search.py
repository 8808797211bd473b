"""Does the multiscale campaign find its vacancy, and does chance?  Whole runs through the daemon."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from actors.console.ready_campaigns import find_campaign
from protocols.files.campaign_toml import parse_campaign
from tests.bench.figures import Figure, Findings
from tests.bench.random_windows import found_at_random

CAMPAIGN = "multiscale_vacancy"
CONTROL_SURFACES = 200
RUN_S = 600.0
ALLOWED_S = 300.0
SHARE = 0.8


def findings(seeds: range) -> Findings:
    """One run per seed, and the random control on as many surfaces as give a figure."""
    runs = [_run(seed) for seed in seeds]
    section = msgspec.structs.replace(parse_campaign(*find_campaign(CAMPAIGN)).zoom, selection="random")
    chance = sum(found_at_random(section, seed) for seed in range(1, CONTROL_SURFACES + 1))
    found = sum(bool(r["found"]) for r in runs)
    worst = max(float(r["wall_s"]) for r in runs)
    control = f"random windows: {chance} of {CONTROL_SURFACES}"
    figures = [
        Figure(
            "search",
            f"vacancy in the last window, of {len(runs)}",
            float(found),
            "",
            control,
            "4 of 5; random at most 1 in 20",
            found >= SHARE * len(runs) and chance <= CONTROL_SURFACES / 20,
        ),
        Figure("search", "longest run", worst, "s", "", "under 300 s", worst < ALLOWED_S),
    ]
    return Findings(figures, {"runs": runs, "random_found": chance, "random_surfaces": CONTROL_SURFACES})


def _run(seed: int) -> dict[str, Any]:
    """One run from nothing, as a user starts it."""
    stmctl = str(Path(sys.executable).parent / "stmctl")
    with tempfile.TemporaryDirectory(prefix="tp") as state:
        command = [stmctl, "--state", state]
        began = time.monotonic()
        subprocess.run(
            [*command, "run", CAMPAIGN, "--seed", str(seed), "--foreground"],
            check=True,
            timeout=RUN_S,
            stdout=subprocess.DEVNULL,
        )
        wall_s = time.monotonic() - began
        shown = subprocess.run(
            [*command, "show", "last", "--json"], check=True, timeout=60.0, capture_output=True
        )
        target = json.loads(shown.stdout)["truth"]["target"]
    return {
        "seed": seed,
        "found": target["in_last_window"],
        "best_distance_m": target["best_distance_m"],
        "decoys": target["decoys"],
        "wall_s": wall_s,
    }
