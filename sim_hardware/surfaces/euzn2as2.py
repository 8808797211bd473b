"""The sample "euzn2as2": 250 nm of a cleaved EuZn2As2 crystal, from terraces down to single vacancies.

G. Narasimha et al., Multiscale structure-property discovery via active learning in scanning tunneling
microscopy.  On one side a staircase of terraces, on the other a wide plane over which the density of defects
rises from one corner to the opposite one by a factor of ten (figs. 2c and S1).  On it lie

- adsorbates: irregular protrusions with a wider gap (fig. 4), three quarters of all defects;
- substitutions: dim or bright round spots with a narrower gap and a shallower valence edge (figs. 5, S5);
- exactly three triangular vacancies with states in the gap on both sides of the Fermi level (figs. 6, S6).

Away from defects the edges wander by tens of millivolts over tens of nanometres, and where defects are dense
the gap is wider and the current at positive bias smaller (figs. 3 and S3).  Edges near -1.15 V and +0.56 V, a
gap of 1.7 V between the 5th and 95th percentile of 1.63 and 1.80 V, and 40 mV of variation are what the
published runs at 200 nm show (their dI/dV, extrapolated linearly to zero as the paper does); crystal at 77 K.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.band_edges import BandEdges, EdgeIntegral
from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.surfaces.continuum import ContinuumJunction, DensityIntegral
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
from sim_hardware.surfaces.spectra import Peak
from sim_hardware.surfaces.step_objects import step_object
from sim_hardware.tip import Tip

Floats = npt.NDArray[np.float64]

NM = 1e-9
PM = 1e-12
EXTENT_M = 300 * NM
"""Objects lie in this square, so that a frame of 250 nm is full to its edges."""
LATTICE_CONSTANT_M = 0.421 * NM
STEP_HEIGHT_M = 0.718 * NM
"""One unit cell along c."""
VACANCIES = 3
VACANCY_WITHIN_M = 100 * NM
DEFECTS_PER_M2 = (1.2e16, 1.2e15)
"""In the dense corner and in the smooth one; in between the density falls exponentially."""
SUBSTITUTION_SHARE = 0.25
KEEP_APART_M = 2.2 * NM
VACANCY_CLEAR_M = 6 * NM
STEP_CLEAR_M = 2.5 * NM

VALENCE_V, CONDUCTION_V = -1.15, 0.55
"""Edges of the defect-free surface."""
DENSE_SHIFT_V = (-0.03, 0.09)
"""What the edges move by, valence and conduction, where defects are densest."""
WANDER_V = (0.022, 0.032)
"""Rms of the edges' variation over tens of nanometres."""
SHIFTS_V: tuple[tuple[float, float], ...] = (
    (0.0, 0.0),
    (-0.09, 0.20),
    (-0.05, 0.12),
    (0.07, -0.11),
    (0.0, 0.0),
)
"""Of both edges at the centre of: nothing, adsorbate, adsorbed cluster, substitution, vacancy."""
_ADSORBATE, _CLUSTER, _SUBSTITUTION, _VACANCY = 1, 2, 3, 4
IN_GAP: tuple[Peak, ...] = (Peak(0.24, 0.075, 0.085), Peak(-0.42, 0.05, 0.10))
BANDS = BandEdges(
    valence_slope=1.0,
    conduction_slope=1.9,
    width_v=0.016,
    leak=8e-4,
    states=(IN_GAP,),
    valence_range_v=(-1.65, -0.75),
    conduction_range_v=(0.15, 1.25),
)


@dataclass(frozen=True)
class _Local:
    """Edges (V, (n,)) and share of the vacancies' states (1, n)."""

    valence_v: Floats
    conduction_v: Floats
    shares: Floats


class EuZn2As2Surface:
    """See the module's text.  ``seed`` places everything."""

    name = "euzn2as2"
    extent_m = EXTENT_M
    temperature_k = 77.0
    work_function_ev = 4.2
    energies_v: Floats = np.linspace(-3.0, 3.0, 1201)

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0xE022])
        self.lattice_angle_rad = float(rng.uniform(0.0, np.pi / 3.0))
        self.lattice = HexagonalLattice(LATTICE_CONSTANT_M, 11 * PM, self.lattice_angle_rad)
        self._slope = rng.normal(0.0, 3e-4, size=2)
        self._rough = Disorder(rng, (9 * NM, 40 * NM), 24)
        self._valence = Disorder(rng, (25 * NM, 90 * NM), 32)
        self._conduction = Disorder(rng, (25 * NM, 90 * NM), 32)
        self.down_rad = float(rng.uniform(0.0, 2.0 * np.pi))
        """The direction in which the staircase descends to the plane."""
        self.gradient_rad = self.down_rad + float(rng.choice([-1.0, 1.0]) * rng.uniform(1.2, 1.9))
        """The direction in which the defects become denser: roughly along the steps."""
        self.steps = _staircase(rng, self.down_rad)
        self.lines = _lines(rng, self.lattice_angle_rad)
        features = self._vacancies(rng)
        features += self._defects(rng, features)
        self._features = FeatureMap(tuple(features), len(SHIFTS_V))
        self.objects: tuple[SurfaceObject, ...] = tuple(
            replace(f.truth, detail={**f.truth.detail, **self._edges_at(f)}) for f in features
        ) + tuple(step_object(step) for step in self.steps)

    @property
    def vacancies(self) -> tuple[SurfaceObject, ...]:
        """The triangular ones: three."""
        return tuple(o for o in self.objects if o.kind == "vacancy")

    def junction(self, tip: Tip, work_function_ev: float | None = None) -> ContinuumJunction:
        """This surface under a tip."""
        return ContinuumJunction(self, tip, work_function_ev)

    def defects_per_m2(self, x_m: Floats, y_m: Floats) -> Floats:
        """Density (1/m^2) with which adsorbates and substitutions were strewn, any shape."""
        dense, smooth = DEFECTS_PER_M2
        return np.asarray(smooth * (dense / smooth) ** self._richness(x_m, y_m))

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        height = self._slope[0] * x + self._slope[1] * y
        height += self.lattice.relief(x, y) + 2.2 * PM * self._rough.value(x, y)
        for step in self.steps:
            height += step.relief(x, y)
        for angle, distance, tall, sigma in self.lines:
            away = np.cos(angle) * x + np.sin(angle) * y - distance
            height += tall * np.exp(-0.5 * (away / sigma) ** 2)
        height += self._features.relief(x, y)
        return np.asarray(height.reshape(np.shape(x_m)))

    def edges(self, x_m: Floats, y_m: Floats) -> tuple[Floats, Floats]:
        """Valence and conduction edge (V), each of the coordinates' shape."""
        here = self._local(np.ravel(x_m), np.ravel(y_m))
        return here.valence_v.reshape(np.shape(x_m)), here.conduction_v.reshape(np.shape(x_m))

    def densities(self, x_m: Floats, y_m: Floats) -> Floats:
        """Density at a few points (n,) and all of ``energies_v``: (n, e)."""
        here = self._local(x_m, y_m)
        return BANDS.density(here.valence_v, here.conduction_v, here.shares, self.energies_v)

    def integral(self, weights: Floats) -> DensityIntegral:
        """``densities @ weights`` for weights (e,), made ready for many points."""
        of_edges = EdgeIntegral(BANDS, self.energies_v, weights)

        def ready(x_m: Floats, y_m: Floats) -> Floats:
            here = self._local(x_m, y_m)
            return of_edges(here.valence_v, here.conduction_v, here.shares)

        return ready

    def true_density(self, x_m: float, y_m: float, energy_v: Floats) -> Floats:
        """The noise-free relative density of states at one point (shape of ``energy_v``)."""
        energy = np.ravel(np.asarray(energy_v, dtype=np.float64))
        here = self._local(np.array([x_m]), np.array([y_m]))
        density = BANDS.density(here.valence_v, here.conduction_v, here.shares, energy)
        return np.asarray(density[0].reshape(np.shape(energy_v)))

    def _richness(self, x_m: Floats, y_m: Floats) -> Floats:
        """0 in the smooth corner, 1 in the dense one."""
        along = np.cos(self.gradient_rad) * x_m + np.sin(self.gradient_rad) * y_m
        return np.asarray(np.clip(0.5 + along / (250 * NM), 0.0, 1.0))

    def _local(self, x: Floats, y: Floats) -> _Local:
        weights = np.zeros((len(SHIFTS_V), x.size))
        weights[0] = 1.0
        self._features.add_weights(weights, x, y)
        shift = np.array(SHIFTS_V).T @ weights
        rich = self._richness(x, y)
        valence = VALENCE_V + shift[0] + DENSE_SHIFT_V[0] * rich + WANDER_V[0] * self._valence.value(x, y)
        conduction = (
            CONDUCTION_V + shift[1] + DENSE_SHIFT_V[1] * rich + WANDER_V[1] * self._conduction.value(x, y)
        )
        low, high = BANDS.valence_range_v
        valence = np.clip(valence, low, high)
        return _Local(valence, np.clip(conduction, *BANDS.conduction_range_v), weights[_VACANCY:])

    def _edges_at(self, feature: Feature) -> dict[str, float]:
        """The truth about an object's spectrum: edges and gap at its centre."""
        here = self._local(np.array([feature.x_m]), np.array([feature.y_m]))
        valence, conduction = float(here.valence_v[0]), float(here.conduction_v[0])
        return {"valence_v": valence, "conduction_v": conduction, "gap_v": conduction - valence}

    def _clear_of_steps(self, x: float, y: float, distance_m: float) -> bool:
        at = np.array([x]), np.array([y])
        return all(abs(float(s.beyond_m(*at)[0])) > distance_m for s in self.steps)

    def _vacancies(self, rng: np.random.Generator) -> list[Feature]:
        """On the plane, away from steps and at least 40 nm from each other."""
        found: list[Feature] = []
        down = np.array([np.cos(self.down_rad), np.sin(self.down_rad)])
        while len(found) < VACANCIES:
            x, y = (float(v) for v in rng.uniform(-VACANCY_WITHIN_M, VACANCY_WITHIN_M, size=2))
            on_plane = down @ (x, y) > 0.0 and self._clear_of_steps(x, y, VACANCY_CLEAR_M + 3 * NM)
            if on_plane and all(np.hypot(x - f.x_m, y - f.y_m) > 40 * NM for f in found):
                found.append(_vacancy(self.lattice_angle_rad, x, y))
        return found

    def _defects(self, rng: np.random.Generator, vacancies: list[Feature]) -> list[Feature]:
        """Adsorbates and substitutions, thinned from a uniform rain to the stated density."""
        xs, ys = [f.x_m for f in vacancies], [f.y_m for f in vacancies]
        placed: list[Feature] = []
        rain = rng.uniform(-EXTENT_M / 2, EXTENT_M / 2, size=(round(DEFECTS_PER_M2[0] * EXTENT_M**2), 2))
        kept = rng.uniform(size=len(rain)) < self.defects_per_m2(*rain.T) / DEFECTS_PER_M2[0]
        for x, y in rain[kept].tolist():
            feature = (_substitution if rng.uniform() < SUBSTITUTION_SHARE else _adsorbate)(rng, x, y)
            gap = np.hypot(np.array(xs) - x, np.array(ys) - y)
            if gap[:VACANCIES].min() < VACANCY_CLEAR_M + feature.shape.reach_m / 2:
                continue
            if gap.min() < KEEP_APART_M or not self._clear_of_steps(x, y, STEP_CLEAR_M):
                continue
            xs.append(x)
            ys.append(y)
            placed.append(feature)
        return placed


def _staircase(rng: np.random.Generator, down_rad: float) -> tuple[Step, ...]:
    """Six steps that descend to the plane, which takes a little more than half of the field."""
    distance, steps = float(rng.uniform(-18, -6)) * NM, []
    for number in range(6):
        waves = tuple((0.35 * a, k, p) for a, k, p in meander(rng))
        height = STEP_HEIGHT_M * (2.0 if number == 0 else 1.0)
        steps.append(Step(height, distance, down_rad + float(rng.normal(0.0, 0.025)), waves, 0.5 * NM))
        distance -= float(rng.uniform(11, 27)) * NM
    return tuple(steps)


def _lines(rng: np.random.Generator, lattice_rad: float) -> tuple[tuple[float, float, float, float], ...]:
    """Straight faint lines along the lattice across the whole field, as the topographs show: angle across,
    distance, height, width (standard deviation)."""
    return tuple(
        (
            lattice_rad + np.pi / 3.0 * float(rng.integers(3)),
            float(rng.uniform(-110, 110)) * NM,
            float(rng.choice([-6.0, 9.0, 14.0])) * PM,
            float(rng.uniform(0.35, 0.6)) * NM,
        )
        for _ in range(int(rng.integers(2, 5)))
    )


def _vacancy(lattice_rad: float, x_m: float, y_m: float) -> Feature:
    """A triangular hole in a bright triangular rim, turned as the lattice is."""
    shape = Triangle(
        depth_m=58 * PM,
        inradius_m=0.36 * NM,
        edge_m=0.16 * NM,
        rim_m=46 * PM,
        rim_inradius_m=0.80 * NM,
        rim_width_m=0.36 * NM,
        angle_rad=lattice_rad + np.pi / 6.0,
        weight_radius_m=0.95 * NM,
    )
    detail = {
        "angle_rad": shape.angle_rad,
        "state_v": IN_GAP[0].centre_v,
        "lower_state_v": IN_GAP[1].centre_v,
    }
    size = 2.0 * float(np.sqrt(3.0)) * shape.inradius_m
    return _feature("vacancy", "triangle", _VACANCY, shape, (x_m, y_m), size, -shape.depth_m, detail)


def _adsorbate(rng: np.random.Generator, x_m: float, y_m: float) -> Feature:
    """A single lump, an irregular cluster of them, or a wide and low one."""
    form = str(rng.choice(["single", "cluster", "mound"], p=[0.62, 0.23, 0.15]))
    if form == "mound":
        width, height = float(rng.uniform(4.0, 8.0)) * NM, float(rng.uniform(18, 40)) * PM
    else:
        width, height = float(rng.uniform(0.9, 1.7)) * NM, float(rng.uniform(60, 115)) * PM
    sigma = width / FWHM_PER_SIGMA
    parts = [(0.0, 0.0, sigma, height)]
    for _ in range(int(rng.integers(2, 5)) if form == "cluster" else 0):
        angle, radius = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.8, 1.5) * width
        lump = float(radius * np.cos(angle)), float(radius * np.sin(angle))
        parts.append((*lump, float(sigma * rng.uniform(0.6, 1.0)), float(height * rng.uniform(0.3, 0.9))))
    kind = _ADSORBATE if form == "single" else _CLUSTER
    return _feature("adsorbate", form, kind, Blob(tuple(parts), 0.75 * width), (x_m, y_m), width, height)


def _substitution(rng: np.random.Generator, x_m: float, y_m: float) -> Feature:
    """A dimple, a weak bright dot, or a dimple in a ring: always round."""
    form = str(rng.choice(["dimple", "dot", "ring"], p=[0.55, 0.2, 0.25]))
    width = float(rng.uniform(1.0, 2.2)) * NM
    shape: Shape
    if form == "ring":
        height = -float(rng.uniform(25, 45)) * PM
        shape = Ring(-height, width / FWHM_PER_SIGMA, 9 * PM, 1.25 * width, 0.35 * NM, 0.6 * width)
    else:
        height = float(rng.uniform(15, 35)) * PM if form == "dot" else -float(rng.uniform(30, 75)) * PM
        shape = Blob(((0.0, 0.0, width / FWHM_PER_SIGMA, height),), 0.65 * width)
    return _feature("substitution", form, _SUBSTITUTION, shape, (x_m, y_m), width, height)


def _feature(
    kind: str,
    form: str,
    index: int,
    shape: Blob | Ring | Triangle,
    place_m: tuple[float, float],
    size_m: float,
    height_m: float,
    detail: dict[str, float] | None = None,
) -> Feature:
    truth = SurfaceObject(
        kind=kind,
        form=form,
        x_m=place_m[0],
        y_m=place_m[1],
        size_m=size_m,
        height_m=height_m,
        footprint_m=2.0 * TENTH_RADIUS * shape.weight_radius_m,
        spectrum=kind,
        detail=detail or {},
    )
    return Feature(*place_m, shape, index, truth)
