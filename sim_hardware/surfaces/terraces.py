"""The sample "terraces": a few wide terraces whose local density of states varies smoothly.

For maps steered by a Gaussian process: each terrace is one of two terminations, and across all of it an
anisotropic gradient moves spectral weight from a band onset to a resonance near 0.3 V.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.base import MixtureSurface, SurfaceObject
from sim_hardware.surfaces.features import FWHM_PER_SIGMA, Blob, Feature, FeatureMap
from sim_hardware.surfaces.relief import Disorder, HexagonalLattice, Step, meander
from sim_hardware.surfaces.spectra import Peak, Ramp, Spectrum

Floats = npt.NDArray[np.float64]

NM = 1e-9
PM = 1e-12
STEP_HEIGHT_M = 0.236 * NM
"""A step of Au(111)."""
EXTENT_M = 320 * NM

BASIS: tuple[Spectrum, ...] = (
    Spectrum("terrace A", 0.35, (Ramp(-0.5, 0.5, 0.03, +1),)),
    Spectrum("terrace B", 0.55, (Ramp(-0.35, 0.25, 0.03, -1),)),
    Spectrum("resonance", 0.30, (Peak(0.3, 1.6, 0.11),)),
    Spectrum("adsorbate", 0.15, (Ramp(0.6, 0.8, 0.04, +1), Ramp(-0.6, 0.8, 0.04, -1))),
)


class TerracesSurface(MixtureSurface):
    """See the module's text.  ``seed`` places steps, gradient and a few adsorbates."""

    name = "terraces"
    extent_m = EXTENT_M
    basis = BASIS

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x7E88])
        self.lattice = HexagonalLattice(0.288 * NM, 8 * PM, float(rng.uniform(0, np.pi / 3)))
        self._slope = rng.normal(0.0, 5e-4, size=2)
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        self.steps = tuple(
            Step(
                STEP_HEIGHT_M,
                float(d + rng.uniform(-8, 8) * NM),
                angle + float(rng.normal(0, 0.06)),
                meander(rng),
                0.5 * NM,
            )
            for d in np.array([-75.0, -20.0, 35.0, 90.0]) * NM
        )
        self._gradient = Disorder(rng, (70 * NM, 190 * NM), 6)
        features = []
        for _ in range(14):
            x, y = (float(v) for v in rng.uniform(-EXTENT_M / 2, EXTENT_M / 2, size=2))
            width, height = float(rng.uniform(1.5, 3.0) * NM), float(rng.uniform(60, 140) * PM)
            truth = SurfaceObject(
                kind="adsorbate",
                form="single",
                x_m=x,
                y_m=y,
                size_m=width,
                height_m=height,
                footprint_m=2.2 * width,
                spectrum="adsorbate",
            )
            shape = Blob(((0.0, 0.0, width / FWHM_PER_SIGMA, height),), 0.72 * width)
            features.append(Feature(x, y, shape, 3, truth))
        self._features = FeatureMap(tuple(features), len(BASIS))
        edges = tuple(
            SurfaceObject(
                kind="step",
                form="edge",
                x_m=s.distance_m * float(np.cos(s.angle_rad)),
                y_m=s.distance_m * float(np.sin(s.angle_rad)),
                size_m=s.width_m * FWHM_PER_SIGMA,
                height_m=s.height_m,
                footprint_m=0.0,
                spectrum="",
                detail={"angle_rad": s.angle_rad, "distance_m": s.distance_m},
            )
            for s in self.steps
        )
        self.objects: tuple[SurfaceObject, ...] = tuple(f.truth for f in features) + edges

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        height = self._slope[0] * x + self._slope[1] * y + self.lattice.relief(x, y)
        for step in self.steps:
            height += step.relief(x, y)
        height += self._features.relief(x, y)
        return np.asarray(height.reshape(np.shape(x_m)))

    def weights(self, x_m: Floats, y_m: Floats) -> Floats:
        """Weights of the basis spectra: shape (4, *coordinates)."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        crossed = sum(
            (1.0 / (1.0 + np.exp(-s.beyond_m(x, y) / (1.5 * NM))) for s in self.steps), np.zeros(x.size)
        )
        other = 0.5 - 0.5 * np.cos(np.pi * crossed)
        share = 0.75 / (1.0 + np.exp(-1.8 * self._gradient.value(x, y)))
        weights = np.zeros((len(BASIS), x.size))
        weights[0] = (1.0 - share) * (1.0 - other)
        weights[1] = (1.0 - share) * other
        weights[2] = share
        self._features.add_weights(weights, x, y)
        return weights.reshape((len(BASIS), *np.shape(x_m)))
