"""What candidates look like, in a few numbers: standardised positions, principal components of their
patches, anchors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from actors.analysis.levelling import robust_scale
from actors.analysis.patches import RASTER, Candidates
from actors.dkl_planner.kernels import DTYPE, Inputs

COMPONENTS = 8
_ANCHORS = 192
_BASIS_PATCHES = 1500
_CENTRE_WIDTH = 0.25
"""Standard deviation of the weight on a patch's pixels, as a share of its side: a spectrum is taken at
the centre, so what lies there counts most."""


class Structure:
    """Candidates as inputs of a kernel.

    ``inputs``: all candidates; ``scores``: shape (n, k) principal components on a compressed scale (the
    bulk of the surface has size 1; what stands out a hundredfold lies at about 5, not 100, so one length
    fits noise and defects alike).
    """

    def __init__(self, candidates: Candidates, seed: int) -> None:
        self.candidates = candidates
        geometry = candidates.geometry
        self._half_m = max(geometry.width_m, geometry.height_m) / 2
        rng = np.random.default_rng((seed, 1))
        weighted = candidates.patches * _centre_weight(candidates.patches.shape[1])
        raster = np.flatnonzero(candidates.origin == RASTER)
        special = np.flatnonzero(candidates.origin != RASTER)
        basis = _principal_components(weighted, raster, special, rng)
        linear = (weighted - basis[0]) @ basis[1]
        bulk = linear[raster] if raster.size else linear
        scale = np.array([robust_scale(column) for column in bulk.T])
        scale = np.maximum(scale, 0.05 * scale.max(initial=1e-12))
        self.scores = np.arcsinh(linear / scale)
        spread = robust_scale(bulk[:, 0]) if bulk.shape[1] else 1.0
        compressed = np.arcsinh(weighted / max(spread, 1e-12) * math.sqrt(weighted.shape[1]))
        anchors = np.concatenate([_sample(raster, _ANCHORS // 2, rng), _sample(special, _ANCHORS // 2, rng)])
        self.inputs = Inputs(
            torch.tensor(self.position(candidates.x_m, candidates.y_m), dtype=DTYPE),
            torch.tensor(self.scores, dtype=DTYPE),
            torch.tensor(compressed, dtype=DTYPE),
        )
        self.anchors = self.inputs.patches[torch.as_tensor(anchors, dtype=torch.long)]
        self.spacing_m = _spacing(candidates, raster if raster.size > 1 else np.arange(len(candidates)))

    def position(self, x_m: npt.ArrayLike, y_m: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Positions along the frame's axes in half window widths, shape (n, 2)."""
        u, v = self.candidates.geometry.to_frame(np.atleast_1d(x_m), np.atleast_1d(y_m))
        return np.stack([u, v], axis=1) / self._half_m

    def nearest(self, x_m: float, y_m: float) -> tuple[int, float]:
        """Index of the candidate nearest to a place and its distance (m)."""
        distance = np.hypot(self.candidates.x_m - x_m, self.candidates.y_m - y_m)
        index = int(np.argmin(distance))
        return index, float(distance[index])

    def at(self, x_m: npt.NDArray[np.float64], y_m: npt.NDArray[np.float64], index: list[int]) -> Inputs:
        """Inputs of measured places: their own position, the patch of the candidate with that index."""
        which = torch.as_tensor(index, dtype=torch.long)
        return Inputs(
            torch.tensor(self.position(x_m, y_m), dtype=DTYPE),
            self.inputs.scores[which],
            self.inputs.patches[which],
        )


def _centre_weight(size: int) -> npt.NDArray[np.float64]:
    side = math.isqrt(size)
    if side * side != size or side < 3:
        return np.ones(size)
    offset = (np.arange(side) - (side - 1) / 2) / (_CENTRE_WIDTH * side)
    profile = np.exp(-0.5 * offset**2)
    weight: npt.NDArray[np.float64] = np.outer(profile, profile).ravel()
    return weight


def _sample(index: npt.NDArray[np.intp], count: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    return index if index.size <= count else np.sort(rng.choice(index, count, replace=False))


def _principal_components(
    patches: npt.NDArray[np.float64],
    raster: npt.NDArray[np.intp],
    special: npt.NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(mean (d,), basis (d, k)).  Structures weigh as much as the plain surface, else a few hundred of
    them would be lost among thousands of background patches.  The sign of a component is fixed: its
    largest loading is positive."""
    plain = _sample(raster, max(_BASIS_PATCHES - special.size, 3 * special.size, 200), rng)
    if special.size:
        plain = _sample(plain, max(special.size, 200), rng)
    used = patches[np.sort(np.concatenate([plain, special]))]
    mean = np.median(used, axis=0)
    _, values, rows = np.linalg.svd(used - mean, full_matrices=False)
    count = min(COMPONENTS, int((values > 1e-9 * max(values[0], 1e-300)).sum()) or 1)
    basis = rows[:count].T
    sign = np.sign(basis[np.argmax(np.abs(basis), axis=0), np.arange(count)])
    return mean, basis * np.where(sign == 0, 1.0, sign)


def _spacing(candidates: Candidates, index: npt.NDArray[np.intp]) -> float:
    """Typical distance (m) between neighbouring raster candidates."""
    area = candidates.geometry.width_m * candidates.geometry.height_m
    return math.sqrt(area / max(1, index.size))
