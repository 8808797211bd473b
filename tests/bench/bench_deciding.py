"""Deciding: seconds per decision, map correlation against the number of points, held-out prediction on
published runs.

    python tests/bench/bench_deciding.py [--quick]

Peers' figures stand in the README; they were measured on other days, so compare orders of magnitude, or
run the peer beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.analysis.levelling import level
from actors.analysis.patches import Candidates, FrameGeometry, candidates_from_topograph, cut_patches
from actors.analysis.scalarizers import integrate
from actors.dkl_planner.control import correlation, space_filling_control
from actors.dkl_planner.planner import Planner
from protocols.files.nanonis_grid import read_grid
from protocols.messages.campaign import PlannerSection

KERNELS = ("matern_xy", "dkl", "dkl_xy", "pca_xy")
GRID = Path(__file__).parents[2] / "sim_hardware" / "recorded" / "NanonisReader_STS_grid_lockin.3ds"
PUBLISHED = (
    "Figure3_large_area_250nm",
    "Figure6_Vacancy_defect_4nm",
    "Figure7_DKL1_200nm",
    "Figure7_DKL2_100nm",
    "Figure7_DKL3_20nm",
)


def synthetic(side: int, patch_pixels: int, seed: int) -> Candidates:
    """``side`` x ``side`` candidates on a smooth random surface with a few defects."""
    rng = np.random.default_rng(seed)
    step = 4
    pixels = side * step
    row, col = np.mgrid[0:pixels, 0:pixels]
    z = 2e-12 * rng.normal(size=(pixels, pixels))
    for r, c in rng.uniform(0, pixels, (60, 2)):
        z += rng.choice([-1, 1]) * 60e-12 * np.exp(-((row - r) ** 2 + (col - c) ** 2) / 18.0)
    geometry = FrameGeometry(0.0, 0.0, 200e-9, 200e-9)
    return candidates_from_topograph(z, geometry, patch_pixels=patch_pixels, step=step, features=False)


def decision_seconds(
    kernel: str, acquisition: str, side: int, n: int, repeats: int, patch_pixels: int = 30
) -> dict[str, float]:
    """Median and worst seconds of a decision (fit + predict + acquisition) at ``n`` points; one more
    point each time."""
    candidates = synthetic(side, patch_pixels, 1)
    section = PlannerSection(kernel=kernel, acquisition=acquisition, patch_pixels=patch_pixels)  # type: ignore[arg-type]
    planner = Planner(section, candidates, 0)
    rng = np.random.default_rng(0)
    picks = rng.choice(len(candidates), n, replace=False)
    values = candidates.patches[:, candidates.patches.shape[1] // 2] + 0.1 * rng.normal(size=len(candidates))
    for k, i in enumerate(picks):
        planner.observe(f"b/d{k:04d}", candidates.x_m[i], candidates.y_m[i], values[i])
    first = planner.propose([], n).seconds
    seconds = []
    for k in range(repeats):
        proposal = planner.propose([], n + k)
        seconds.append(proposal.seconds)
        planner.observe(f"b/d{n + k:04d}", proposal.x_m, proposal.y_m, float(values[proposal.candidate]))
    return {"median_s": statistics.median(seconds), "worst_s": max(seconds), "first_fit_s": first}


def recorded_grid() -> tuple[Candidates, np.ndarray[Any, Any]]:
    """Candidates of the recorded CITS grid and the lock-in X integral from 0.05 to 0.22 V at each."""
    grid = read_grid(GRID)
    name = next(c for c in grid.channels if c.startswith("LockinX"))
    spectra = grid.channels[name].reshape(-1, grid.sweep.size)
    full = np.array([integrate(grid.sweep, s, (0.05, 0.22)) for s in spectra])
    geometry = FrameGeometry(0.0, 0.0, grid.width_m, grid.height_m)
    return candidates_from_topograph(grid.parameters["Z (m)"], geometry, patch_pixels=7, step=1), full


def map_run(
    section: PlannerSection,
    candidates: Candidates,
    full: np.ndarray[Any, Any],
    marks: tuple[int, ...],
    seed: int,
) -> dict[int, float]:
    """Correlation of predicted and full map after so many points."""
    planner = Planner(section, candidates, seed)
    out = {}
    for k in range(max(marks)):
        p = planner.propose([], k)
        planner.observe(f"b/d{k:04d}", p.x_m, p.y_m, float(full[p.candidate]))
        if k + 1 in marks:
            out[k + 1] = correlation(planner.predicted()[0], full)
    return out


def map_table(quick: bool) -> dict[str, Any]:
    """r against points: space-filling with a plain GP, and steering, by kernel and acquisition."""
    candidates, full = recorded_grid()
    marks = (60, 90) if quick else (60, 90, 120, 150)
    seeds = range(2 if quick else 5)
    table: dict[str, Any] = {}

    def row(name: str, runs: list[dict[int, float]]) -> None:
        table[name] = {
            str(m): {"mean": float(np.mean([r[m] for r in runs])), "least": float(min(r[m] for r in runs))}
            for m in marks
        }

    base = PlannerSection()
    row(
        "space-filling, matern_xy",
        [{m: space_filling_control(base, candidates, full, m, s).correlation for m in marks} for s in seeds],
    )
    pairs = [("matern_xy", "variance"), ("pca_xy", "covariance")]
    if not quick:
        pairs += [
            ("matern_xy", "covariance"),
            ("matern_xy", "ucb"),
            ("dkl_xy", "covariance"),
            ("pca_xy", "variance"),
            ("pca_xy", "ucb"),
        ]
    for kernel, acquisition in pairs:
        section = PlannerSection(
            kernel=kernel,  # type: ignore[arg-type]
            acquisition=acquisition,  # type: ignore[arg-type]
            patch_pixels=7,
            points=max(marks),
        )
        row(f"{kernel}, {acquisition}", [map_run(section, candidates, full, marks, s) for s in seeds])
    return table


def stopped_runs(quick: bool) -> list[dict[str, float]]:
    """The demo's setting, ended by its own stop rule: spectra taken and r, beside the control with as
    many."""
    candidates, full = recorded_grid()
    section = PlannerSection(
        kernel="pca_xy", acquisition="covariance", patch_pixels=7, points=150, stop_uncertainty=0.30
    )
    out = []
    for seed in range(2 if quick else 10):
        planner, k = Planner(section, candidates, seed), 0
        while not planner.stop_reason(k):
            p = planner.propose([], k)
            planner.observe(f"b/d{k:04d}", p.x_m, p.y_m, float(full[p.candidate]))
            k += 1
        control = space_filling_control(section, candidates, full, k, seed)
        out.append(
            {
                "seed": seed,
                "spectra": k,
                "r": correlation(planner.predicted()[0], full),
                "control_r": control.correlation,
            }
        )
    return out


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.argsort(np.argsort(values))


def held_out(folder: Path, seeds: int) -> dict[str, Any]:
    """Spearman / R2 on the published EuZn2As2 runs, random 50/50 split, by kernel."""
    import h5py

    table: dict[str, Any] = {}
    for name in PUBLISHED:
        candidates, where, values = _published(h5py, folder / f"{name}.hf5")
        for kernel in KERNELS:
            scores = []
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(values.size)
                train, test = order[: values.size // 2], order[values.size // 2 :]
                planner = Planner(PlannerSection(kernel=kernel, patch_pixels=30), candidates, seed)  # type: ignore[arg-type]
                for i in train:
                    planner.observe(
                        f"b/d{i:04d}", candidates.x_m[where[i]], candidates.y_m[where[i]], float(values[i])
                    )
                for _ in range(3):
                    planner.fit()
                predicted = planner.predicted()[0][where[test]]
                truth = values[test]
                rho = correlation(_ranks(predicted), _ranks(truth))
                r2 = 1.0 - float(((predicted - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
                scores.append((rho, r2))
            table.setdefault(name, {})[kernel] = [float(v) for v in np.mean(scores, axis=0)]
    return table


def _published(h5py: Any, path: Path) -> tuple[Candidates, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Candidates at the measured places of one published run, which candidate each point is, and its
    scalar.

    The stored image must be flipped up-down before its pixels match the positions (nm, from the frame's
    corner).
    """
    with h5py.File(path) as file:
        image = np.asarray(file["Measurement_001/STM Image/Image/Image"], dtype=float)[::-1]
        position = 1e-9 * np.asarray(file["Metadata_000/DKL Position/Position/Position"], dtype=float)
        values = np.asarray(file["Metadata_001/DKL Scalar/Scalar/Scalar"], dtype=float)
    width = 1e-9 * float(path.stem.rsplit("_", 1)[1].removesuffix("nm"))
    corner = width / 2 if position.min() >= 0.0 else 0.0
    geometry = FrameGeometry(corner, corner, width, width)
    image = level(image)
    good = np.isfinite(values)
    position, values = position[good], values[good]
    row, col = geometry.to_pixels(position[:, 0], position[:, 1], image.shape)
    patches = cut_patches(image, row, col, 30)
    candidates = Candidates(position[:, 0], position[:, 1], patches, geometry)
    return candidates, np.arange(values.size), values


def run(quick: bool = False) -> dict[str, Any]:
    """All figures; ``quick`` takes under a minute."""
    torch.set_num_threads(1)
    repeats = 3 if quick else 6
    cases = [(48, 60), (48, 250)] if quick else [(48, 60), (48, 250), (121, 250)]
    decisions = {
        f"{kernel}, {side * side} candidates, n = {n}": decision_seconds(kernel, "ucb", side, n, repeats)
        for kernel in (("pca_xy",) if quick else KERNELS)
        for side, n in cases
    }
    side, n = cases[-1]
    decisions[f"pca_xy with covariance, {side * side} candidates, n = {n}"] = decision_seconds(
        "pca_xy", "covariance", side, n, repeats
    )
    out: dict[str, Any] = {
        "decision": decisions,
        "correlation": map_table(quick),
        "stopped": stopped_runs(quick),
    }
    data = os.environ.get("TUNNELPILOT_DATA", "")
    folder = Path(data) / "dkl_on_stm" if data else None
    if folder is None or not folder.is_dir():
        out["held_out"] = "skipped: $TUNNELPILOT_DATA names no folder with dkl_on_stm"
        return out
    try:
        import h5py  # noqa: F401
    except ImportError:
        out["held_out"] = "skipped: h5py is not installed"
        return out
    out["held_out"] = held_out(folder, 1 if quick else 3)
    return out


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{'one decision':60s} {'median':>8s} {'worst':>8s} {'first fit':>9s}")
    for name, d in figures["decision"].items():
        print(f"{name:60s} {d['median_s']:7.3f}s {d['worst_s']:7.3f}s {d['first_fit_s']:8.3f}s")
    print("\nrecorded grid, Pearson r with the full map (mean, least over seeds) after so many spectra")
    for name, row in figures["correlation"].items():
        print(f"{name:30s} " + "  ".join(f"{m}: {v['mean']:.3f} ({v['least']:.3f})" for m, v in row.items()))
    print("\nended by its own rule (pca_xy, covariance, stop_uncertainty 0.30)")
    for r in figures["stopped"]:
        print(
            f"seed {r['seed']}: {r['spectra']} spectra, r = {r['r']:.3f}, space-filling {r['control_r']:.3f}"
        )
    print("\npublished runs, held-out half, Spearman / R2")
    if isinstance(figures["held_out"], str):
        print(figures["held_out"])
    else:
        for name, row in figures["held_out"].items():
            print(f"{name:30s} " + "  ".join(f"{k}: {v[0]:.2f} / {v[1]:.2f}" for k, v in row.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Benchmark of deciding.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    began = time.perf_counter()
    result = run(arguments.quick)
    show(result)
    print(f"\n{time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
