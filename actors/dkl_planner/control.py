"""The control of a mapping campaign: what the same number of spectra would have given without steering."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from actors.analysis.patches import Candidates
from actors.dkl_planner.planner import Planner
from actors.dkl_planner.seeding import space_filling
from protocols.errors import UsageError
from protocols.messages.campaign import PlannerSection


@dataclass(frozen=True)
class Control:
    """``chosen``: indices of the candidates that were used; ``mean``, ``std``: shape (n,), prediction at
    every candidate; ``correlation``: Pearson's with the full map."""

    chosen: tuple[int, ...]
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    correlation: float


def correlation(predicted: npt.ArrayLike, full: npt.ArrayLike) -> float:
    """Pearson's correlation of two maps over the places where both are finite; NaN where one of them is
    constant."""
    a, b = np.ravel(np.asarray(predicted, dtype=float)), np.ravel(np.asarray(full, dtype=float))
    use = np.isfinite(a) & np.isfinite(b)
    if use.sum() < 2 or np.ptp(a[use]) == 0.0 or np.ptp(b[use]) == 0.0:
        return float("nan")
    return float(np.corrcoef(a[use], b[use])[0, 1])


def space_filling_control(
    section: PlannerSection, candidates: Candidates, full: npt.ArrayLike, count: int, seed: int
) -> Control:
    """Predict the map from ``count`` points along a Sobol sequence, with a plain Gaussian process on
    position.

    Args:
        section: the campaign's; its kernel is replaced by "matern_xy", fit steps and rate are used.
        candidates: the campaign's candidates.
        full: the scalar at every candidate, shape (n,), as opened after the run.
        count: number of spectra the campaign took.
        seed: of the sequence.

    Raises:
        UsageError: ``full`` does not fit the candidates.
    """
    truth = np.ravel(np.asarray(full, dtype=float))
    if truth.shape != (len(candidates),):
        raise UsageError(f"{truth.shape[0]} values do not fit {len(candidates)} candidates")
    plain = msgspec.structs.replace(section, kernel="matern_xy", acquisition="variance", seed_points=0)
    planner = Planner(plain, candidates, seed)
    position = np.stack([candidates.x_m, candidates.y_m], axis=1) / candidates.geometry.width_m
    chosen = space_filling(position, count, seed)
    for k, i in enumerate(chosen):
        planner.observe(f"control/d{k:04d}", candidates.x_m[i], candidates.y_m[i], truth[i])
    planner.fit()
    mean, std = planner.predicted()
    return Control(tuple(chosen), mean, std, correlation(mean, truth))
