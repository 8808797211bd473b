"""Keeps one core busy with the planner's own fits, until its standard input closes.

Run as a process: python -m tests.bench.planner_load; writes a line when the first fit is done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
POINTS = 120


def main() -> None:
    """Fit, propose, and fit again, with one more point each time."""
    import numpy as np
    import torch

    from actors.dkl_planner.planner import Planner
    from protocols.messages.campaign import PlannerSection
    from tests.bench.bench_deciding import synthetic

    torch.set_num_threads(1)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    candidates = synthetic(48, 16, 1)
    rng = np.random.default_rng(os.getpid())
    values = candidates.patches[:, candidates.patches.shape[1] // 2] + 0.1 * rng.normal(size=len(candidates))
    fits = 0
    while not over.is_set():
        section = PlannerSection(kernel="dkl_xy", acquisition="ucb", patch_pixels=16)
        planner = Planner(section, candidates, fits)
        for k, i in enumerate(rng.choice(len(candidates), POINTS, replace=False)):
            planner.observe(f"load/d{k:04d}", candidates.x_m[i], candidates.y_m[i], float(values[i]))
        for k in range(20):
            if over.is_set():
                break
            chosen = planner.propose([], POINTS + k)
            planner.observe(
                f"load/d{POINTS + k:04d}", chosen.x_m, chosen.y_m, float(values[chosen.candidate])
            )
            fits += 1
            if fits == 1:
                print("fitting", flush=True)
    print(fits, flush=True)


@contextmanager
def planners_fitting(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes that fit, at the priority of this one; yields when each has fitted once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.planner_load"]
    loads = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        for _ in range(count)
    ]
    try:
        for load in loads:
            assert load.stdout is not None
            if load.stdout.readline().strip() != "fitting":
                raise RuntimeError("a planner of the load did not begin to fit")
        yield loads
    finally:
        for load in loads:
            try:
                load.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                load.kill()
                load.wait()


if __name__ == "__main__":
    main()
