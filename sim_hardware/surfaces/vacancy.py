"""The sample "vacancy": a cleaved layered semiconductor like EuZn2As2 (Narasimha et al., seed paper 004).

Two hundred nanometres of terraces strewn with adsorbates (protrusions with a wider gap) and substitutions
(dim or bright, with a slightly narrower gap), and exactly one triangular vacancy with states in the gap.
Its relief is neither the deepest nor the brightest; what sets it apart is its shape (a triangular hole in a
triangular rim), and within 1.5 nm of it the spectrum.  Nothing else on the surface conducts between 0 and
0.5 V.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.base import MixtureSurface, SurfaceObject
from sim_hardware.surfaces.features import (
    FWHM_PER_SIGMA,
    TENTH_RADIUS,
    Blob,
    Feature,
    FeatureMap,
    Ring,
    Shape,
    Triangle,
)
from sim_hardware.surfaces.relief import Disorder, HexagonalLattice, Step, meander
from sim_hardware.surfaces.spectra import Peak, Spectrum, gapped, with_states

Floats = npt.NDArray[np.float64]

NM = 1e-9
PM = 1e-12

LATTICE_CONSTANT_M = 0.421 * NM
STEP_HEIGHT_M = 0.718 * NM
EXTENT_M = 320 * NM
TARGET_WITHIN_M = 90 * NM
"""The vacancy lies at |x|, |y| below this."""
KEEP_CLEAR_M = 7.5 * NM
"""No other object and no step edge within this of the vacancy."""
FOOTPRINT_RADIUS_M = 0.97 * NM

PRISTINE = gapped("pristine", -0.45, 0.66)
DENSE = gapped("defect-rich", -0.47, 0.70, slope=0.8)
ADSORBATE = gapped("adsorbate", -0.58, 0.84, slope=0.85)
SUBSTITUTION = gapped("substitution", -0.40, 0.60, slope=0.95)
VACANCY = with_states(
    gapped("vacancy", -0.43, 0.64), "vacancy", Peak(0.24, 0.42, 0.075), Peak(-0.16, 0.25, 0.06)
)
BASIS: tuple[Spectrum, ...] = (PRISTINE, DENSE, ADSORBATE, SUBSTITUTION, VACANCY)
_ADSORBATE, _SUBSTITUTION, _VACANCY = 2, 3, 4

ADSORBATES_PER_M2 = 50 / (200 * NM) ** 2
SUBSTITUTIONS_PER_M2 = 50 / (200 * NM) ** 2
CERTAIN_PITS = 6


def _adsorbate(rng: np.random.Generator, _number: int) -> tuple[Shape, str, float, float]:
    """An irregular protrusion of one to four lumps: shape, form, width, height."""
    width = float(rng.choice([1.3, 1.8, 2.6, 4.2], p=[0.3, 0.35, 0.25, 0.1]) * rng.uniform(0.85, 1.15)) * NM
    height = float(rng.uniform(55, 130) + 25 * (width / NM - 1.0)) * PM
    sigma = width / FWHM_PER_SIGMA
    lumps = int(rng.integers(1, 5))
    parts = [(0.0, 0.0, sigma * (0.85 if lumps > 1 else 1.0), height)]
    for _ in range(lumps - 1):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.1) * sigma * 1.6
        part_height = height * rng.uniform(0.25, 0.7)
        parts.append(
            (radius * np.cos(angle), radius * np.sin(angle), sigma * rng.uniform(0.5, 0.8), part_height)
        )
    return Blob(tuple(parts), 0.75 * width), "cluster" if lumps > 1 else "single", width, height


def _substitution(rng: np.random.Generator, number: int) -> tuple[Shape, str, float, float]:
    """A dim or bright spot under the surface, always round: shape, form, width, height.  The first are pits:
    there is always something deeper than the vacancy."""
    form = str(rng.choice(["dimple", "dot", "ring", "pit"], p=[0.42, 0.28, 0.20, 0.10]))
    form = "pit" if number < CERTAIN_PITS else form
    if form == "dot":
        width = rng.uniform(0.9, 1.6) * NM
        height = rng.uniform(25, 55) * PM
        return Blob(((0.0, 0.0, width / FWHM_PER_SIGMA, height),), 0.7 * width), form, width, height
    if form == "ring":
        width = rng.uniform(1.0, 1.8) * NM
        depth = rng.uniform(20, 45) * PM
        ring = Ring(
            depth_m=depth,
            sigma_m=width / FWHM_PER_SIGMA,
            rim_m=rng.uniform(6, 14) * PM,
            radius_m=rng.uniform(1.1, 1.5) * width,
            rim_width_m=0.35 * NM,
            weight_radius_m=0.6 * width,
        )
        return ring, form, width, -depth
    if form == "pit":
        width = rng.uniform(3.0, 5.0) * NM
        depth = rng.uniform(95, 150) * PM
    else:
        width = rng.uniform(1.3, 3.2) * NM
        depth = rng.uniform(22, 60) * PM
    return Blob(((0.0, 0.0, width / FWHM_PER_SIGMA, -depth),), 0.6 * width), form, width, -depth


class VacancySurface(MixtureSurface):
    """See the module's text.  ``seed`` places everything."""

    name = "vacancy"
    extent_m = EXTENT_M
    basis = BASIS

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x5A11])
        self.lattice_angle_rad = float(rng.uniform(0.0, np.pi / 3.0))
        self.lattice = HexagonalLattice(LATTICE_CONSTANT_M, 9 * PM, self.lattice_angle_rad)
        self._slope = rng.normal(0.0, 4e-4, size=2)
        self._rough = Disorder(rng, (14 * NM, 45 * NM), 16)
        self._density = Disorder(rng, (120 * NM, 300 * NM), 5)
        self.steps = self._edges(rng)
        target_x, target_y = self._target(rng)
        features = [self._vacancy(target_x, target_y)]
        features += self._decoys(rng, target_x, target_y)
        self._features = FeatureMap(tuple(features), len(BASIS))
        self.objects: tuple[SurfaceObject, ...] = tuple(f.truth for f in features) + tuple(
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

    @property
    def target(self) -> SurfaceObject:
        """The one vacancy."""
        return self.objects[0]

    @staticmethod
    def _edges(rng: np.random.Generator) -> tuple[Step, ...]:
        """Two step edges, one on either side of the middle, roughly parallel."""
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        distances = (rng.uniform(62, 100) * NM, -rng.uniform(80, 125) * NM)
        return tuple(
            Step(STEP_HEIGHT_M, float(d), angle + float(rng.normal(0, 0.12)), meander(rng), 0.45 * NM)
            for d in distances
        )

    def _clear_of_steps(self, x: float, y: float, distance_m: float) -> bool:
        at = np.array([x]), np.array([y])
        return all(abs(float(s.beyond_m(*at)[0])) > distance_m for s in self.steps)

    def _target(self, rng: np.random.Generator) -> tuple[float, float]:
        while True:
            x, y = (float(v) for v in rng.uniform(-TARGET_WITHIN_M, TARGET_WITHIN_M, size=2))
            if self._clear_of_steps(x, y, KEEP_CLEAR_M + 3 * NM):
                return x, y

    def _vacancy(self, x: float, y: float) -> Feature:
        shape = Triangle(
            depth_m=85 * PM,
            inradius_m=0.42 * NM,
            edge_m=0.13 * NM,
            rim_m=36 * PM,
            rim_inradius_m=0.86 * NM,
            rim_width_m=0.27 * NM,
            angle_rad=self.lattice_angle_rad + np.pi / 6.0,
            weight_radius_m=FOOTPRINT_RADIUS_M,
        )
        truth = SurfaceObject(
            kind="vacancy",
            form="triangle",
            x_m=x,
            y_m=y,
            size_m=2.0 * float(np.sqrt(3.0)) * shape.inradius_m,
            height_m=-shape.depth_m,
            footprint_m=2.0 * TENTH_RADIUS * FOOTPRINT_RADIUS_M,
            spectrum="vacancy",
            detail={"angle_rad": shape.angle_rad},
        )
        return Feature(x, y, shape, _VACANCY, truth)

    def _decoys(self, rng: np.random.Generator, target_x: float, target_y: float) -> list[Feature]:
        """Adsorbates and substitutions at random, denser where the density field is high, never
        overlapping."""
        area = EXTENT_M**2
        placed: list[Feature] = []
        xs, ys = [target_x], [target_y]
        for kind, count, make, index in (
            ("adsorbate", int(ADSORBATES_PER_M2 * area), _adsorbate, _ADSORBATE),
            ("substitution", int(SUBSTITUTIONS_PER_M2 * area), _substitution, _SUBSTITUTION),
        ):
            made = 0
            while made < count:
                x, y = (float(v) for v in rng.uniform(-EXTENT_M / 2, EXTENT_M / 2, size=2))
                shape, form, width, height = make(rng, made)
                if rng.uniform() > 0.35 + 0.65 * self._dense_share(np.array([x]), np.array([y]))[0]:
                    continue
                gap = np.hypot(np.array(xs) - x, np.array(ys) - y)
                if gap[0] < KEEP_CLEAR_M + shape.reach_m / 2 or gap.min() < 4.5 * NM:
                    continue
                if not self._clear_of_steps(x, y, 3.5 * NM):
                    continue
                xs.append(x)
                ys.append(y)
                radius = getattr(shape, "weight_radius_m", width)
                truth = SurfaceObject(
                    kind=kind,
                    form=form,
                    x_m=x,
                    y_m=y,
                    size_m=float(width),
                    height_m=float(height),
                    footprint_m=float(2.0 * TENTH_RADIUS * radius),
                    spectrum=kind,
                )
                placed.append(Feature(x, y, shape, index, truth))
                made += 1
        return placed

    def _dense_share(self, x_m: Floats, y_m: Floats) -> Floats:
        """How far a place is toward the defect-rich regions, 0 to 1."""
        return np.asarray(1.0 / (1.0 + np.exp(-1.6 * self._density.value(x_m, y_m))))

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        height = self._slope[0] * x + self._slope[1] * y
        height += self.lattice.relief(x, y) + 4.5 * PM * self._rough.value(x, y)
        for step in self.steps:
            height += step.relief(x, y)
        height += self._features.relief(x, y)
        return np.asarray(height.reshape(np.shape(x_m)))

    def weights(self, x_m: Floats, y_m: Floats) -> Floats:
        """Weights of the basis spectra: shape (5, *coordinates)."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        weights = np.zeros((len(BASIS), x.size))
        weights[1] = self._dense_share(x, y)
        weights[0] = 1.0 - weights[1]
        self._features.add_weights(weights, x, y)
        return weights.reshape((len(BASIS), *np.shape(x_m)))
