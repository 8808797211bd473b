"""The sample "au111": gold's (111) face with its herringbone, its surface state, and what scatters it.

One or two monatomic steps cross a reconstructed terrace of 240 nm; about 220 impurities of three kinds lie on
and under it.  The density of states is that of the bulk, plus the surface state, times one plus the standing
waves of impurities and steps, plus the bound states of the impurities (``standing_waves``)::

    rho(r, E) = bulk(E) + D_r(E) + bound states
                + D(E) (sum_i Re[t_i H0(k |r - r_i|)^2] - sum_s r_s J0(2 k x_s))

D is the band of mass 0.26 from -0.52 eV (Wang et al., appendix); under the tip it begins 25 meV lower in hcp
than in fcc regions, and in hcp regions the lowest states are denser (W. Chen, V. Madhavan, T. Jamneala and
M. F. Crommie, Phys. Rev. Lett. 80, 1469 (1998)): D_r mixes both by the share of hcp stacking.  An
impurity's waves stay on its terrace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.surface_state import AU111, Impurity, SurfaceState
from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.surfaces.continuum import ContinuumJunction, DensityIntegral
from sim_hardware.surfaces.features import FWHM_PER_SIGMA, Blob, Feature, FeatureMap
from sim_hardware.surfaces.herringbone import Herringbone
from sim_hardware.surfaces.relief import Disorder, Step
from sim_hardware.surfaces.spectra import Peak, Ramp, Spectrum
from sim_hardware.surfaces.standing_waves import (
    REACH_M,
    PointScatterers,
    impurity_wave,
    read,
    step_wave,
    wave_energies,
    wave_table,
)
from sim_hardware.surfaces.step_objects import step_object
from sim_hardware.tip import Tip

Floats = npt.NDArray[np.float64]

NM = 1e-9
PM = 1e-12
EXTENT_M = 240 * NM
STEP_HEIGHT_M = 0.235 * NM
IMPURITIES_PER_M2 = 220 / EXTENT_M**2
KEEP_APART_M = 2.6 * NM
HCP_SHIFT_EV = -0.025
"""Onset in hcp regions less that in fcc regions."""
FCC = replace(AU111, onset_ev=AU111.onset_ev - 0.4 * HCP_SHIFT_EV)
HCP = replace(AU111, onset_ev=AU111.onset_ev + 0.6 * HCP_SHIFT_EV)
"""Their mean, 3 to 2 by area, is the band's onset."""
LOCALISED = Peak(-0.46, 0.10, 0.05)
"""What the lowest states are denser by in hcp regions, and less dense by in fcc regions times 2 / 3."""
BULK = Spectrum("bulk", 0.55, (Ramp(-1.75, 4.0, 0.09, -1), Ramp(0.0, 0.06, 0.3, 1)))
"""Flat s and p states and, from -1.75 eV downward, the d bands."""
LEAST_DENSITY = 0.02
"""Where waves of many impurities would add up to less, this is left."""


@dataclass(frozen=True)
class ImpurityKind:
    """One kind: scatterer with core, and relief (full width, height in m)."""

    name: str
    scatterer: Impurity
    width_m: float
    height_m: float
    share: float
    """Of all impurities."""


KINDS: tuple[ImpurityKind, ...] = (
    ImpurityKind(
        "adatom",
        Impurity(phase_rad=-0.5 * np.pi, core_m=0.40 * NM, bound_ev=-0.56, bound_height=0.7),
        0.85 * NM,
        85 * PM,
        0.30,
    ),
    ImpurityKind(
        "molecule",
        Impurity(
            phase_rad=-0.30 * np.pi,
            absorption=0.35,
            core_m=0.45 * NM,
            bound_ev=-0.60,
            bound_width_ev=0.12,
            bound_height=0.4,
        ),
        0.75 * NM,
        -38 * PM,
        0.35,
    ),
    ImpurityKind(
        "subsurface",
        Impurity(
            phase_rad=0.42 * np.pi,
            absorption=0.15,
            core_m=0.55 * NM,
            bound_ev=-0.54,
            bound_width_ev=0.06,
            bound_height=0.9,
        ),
        1.1 * NM,
        7 * PM,
        0.35,
    ),
)
"""Phase, loss and core of each: strong adatoms reflect all, molecules absorb a part, atoms below scatter the
other way round."""
REFLECTION = {"upper": 0.55, "lower": 0.40}
"""Of a step, for waves on the terrace above and below it."""


def _densities(energy_v: Floats) -> Floats:
    """Clean density in fcc and hcp regions, without waves: (2, e)."""
    onset = AU111.density(energy_v)
    extra = LOCALISED.density(energy_v) * onset
    bulk = BULK.density(energy_v)
    fcc = bulk + FCC.density(energy_v) - 2.0 / 3.0 * extra
    return np.stack([fcc, bulk + HCP.density(energy_v) + extra])


class Au111Surface:
    """See the module's text.  ``seed`` places steps, elbows and impurities.

    ``impurities``: none of them, if False; ``steps``: how many, by the seed if None.
    """

    name = "au111"
    extent_m = EXTENT_M
    temperature_k = 5.0
    work_function_ev = 5.0
    """Gold's 5.3 eV and a tip of 4.7 eV."""
    state: SurfaceState = AU111

    def __init__(self, seed: int, impurities: bool = True, steps: int | None = None) -> None:
        rng = np.random.default_rng([seed, 0xA111])
        self.angle_rad = float(rng.uniform(0.0, np.pi / 3.0))
        self._slope = rng.normal(0.0, 1.5e-4, size=2)
        self._rough = Disorder(rng, (18 * NM, 60 * NM), 10)
        count = int(rng.integers(1, 3))
        self.steps = _edges(rng, self.angle_rad, count if steps is None else steps)
        self.terraces = tuple(_terrace(rng, self.angle_rad, n) for n in range(len(self.steps) + 1))
        self._table = wave_table(self.state)
        waves = wave_energies()
        self.energies_v = np.concatenate(
            [np.arange(-3.0, waves[0] - 1e-9, 0.02), waves, np.arange(waves[-1] + 0.02, 3.01, 0.02)]
        )
        first = int(np.searchsorted(self.energies_v, waves[0] - 1e-9))
        self._fine = slice(first, first + len(waves))
        self._clean = _densities(self.energies_v)
        self._bound = np.array([k.scatterer.bound(self.energies_v) for k in KINDS])
        placed = self._placed(rng) if impurities else []
        self.scatterers = tuple(self._scattering(placed, n) for n in range(len(self.terraces)))
        """One for each terrace."""
        features = tuple(_feature(kind, x, y) for kind, x, y in placed)
        self._features = FeatureMap(features, len(KINDS))
        self.objects: tuple[SurfaceObject, ...] = (
            *(f.truth for f in features),
            *(step_object(step) for step in self.steps),
        )

    def junction(self, tip: Tip, work_function_ev: float | None = None) -> ContinuumJunction:
        """This surface under a tip."""
        return ContinuumJunction(self, tip, work_function_ev)

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m), same shape as the coordinates."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        height = self._slope[0] * x + self._slope[1] * y + 1.2 * PM * self._rough.value(x, y)
        for step in self.steps:
            height += step.relief(x, y)
        for n, on in self._on_terraces(x, y):
            height[on] += self.terraces[n].relief(x[on], y[on])
        height += self._features.relief(x, y)
        return np.asarray(height.reshape(np.shape(x_m)))

    def hcp(self, x_m: Floats, y_m: Floats) -> Floats:
        """Share of hcp stacking, 0 to 1, same shape as the coordinates."""
        x, y = np.ravel(np.asarray(x_m, dtype=np.float64)), np.ravel(np.asarray(y_m, dtype=np.float64))
        share = np.zeros(x.size)
        for n, on in self._on_terraces(x, y):
            share[on] = self.terraces[n].stacking(x[on], y[on]).hcp
        return share.reshape(np.shape(x_m))

    def densities(self, x_m: Floats, y_m: Floats) -> Floats:
        """Density at a few points (n,) and all of ``energies_v``: (n, e), from the tables of waves."""
        share = self.hcp(x_m, y_m)[:, None]
        total = (1.0 - share) * self._clean[0] + share * self._clean[1]
        for n, on in self._on_terraces(x_m, y_m):
            for row in on:
                waves, cores = self.scatterers[n].spectrum(float(x_m[row]), float(y_m[row]))
                total[row, self._fine] += waves
                total[row] += cores @ self._bound
        for distance, reflection in self._step_distances(x_m, y_m):
            total[:, self._fine] += reflection[:, None] * read(self._table.step, distance)
        return np.asarray(np.maximum(total, LEAST_DENSITY))

    def integral(self, weights: Floats) -> DensityIntegral:
        """``densities @ weights`` for weights (e,), made ready for many points."""
        clean = self._clean @ weights
        fine = weights[self._fine]
        curves = self.scatterers[0].curves(fine, self._bound @ weights)
        at_step = self._table.step @ fine
        least = LEAST_DENSITY * float(weights.sum())

        def ready(x_m: Floats, y_m: Floats) -> Floats:
            share = self.hcp(x_m, y_m)
            total = clean[0] + share * (clean[1] - clean[0])
            for n, on in self._on_terraces(x_m, y_m):
                total[on] += self.scatterers[n].summed(curves, x_m[on], y_m[on])
            for distance, reflection in self._step_distances(x_m, y_m):
                total += reflection * read(at_step, distance)
            return np.asarray(np.maximum(total, least) if least >= 0.0 else np.minimum(total, least))

        return ready

    def true_density(self, x_m: float, y_m: float, energy_v: Floats) -> Floats:
        """The noise-free relative density of states at one point (shape of ``energy_v``), without tables."""
        energy = np.ravel(np.asarray(energy_v, dtype=np.float64))
        x, y = np.array([x_m]), np.array([y_m])
        share = float(self.hcp(x, y)[0])
        fcc, hcp = _densities(energy)
        total = (1.0 - share) * fcc + share * hcp
        scatterers = self.scatterers[self._on_terraces(x, y)[0][0]]
        for index in scatterers.near(x, y):
            away = np.hypot(x_m - scatterers.x_m[index], y_m - scatterers.y_m[index])
            if away < REACH_M:
                kind = KINDS[int(scatterers.kind[index])].scatterer
                total += impurity_wave(self.state, kind, away, energy) + kind.core(away) * kind.bound(energy)
        for distance, reflection in self._step_distances(x, y):
            total += reflection[0] * step_wave(self.state, distance[0], energy)
        return np.asarray(np.maximum(total, LEAST_DENSITY).reshape(np.shape(energy_v)))

    def _step_distances(self, x: Floats, y: Floats) -> list[tuple[Floats, Floats]]:
        """Distance (m) and reflection at points (n,) for each step."""
        beyond = [step.beyond_m(x, y) for step in self.steps]
        return [(np.abs(b), np.where(b < 0.0, REFLECTION["upper"], REFLECTION["lower"])) for b in beyond]

    def _on_terraces(self, x: Floats, y: Floats) -> list[tuple[int, npt.NDArray[np.intp]]]:
        """The terraces under points (n,), each with the indices of the points on it."""
        crossed = np.zeros(x.size, dtype=np.intp)
        for step in self.steps:
            crossed += step.beyond_m(x, y) > 0.0
        return [(int(n), np.nonzero(crossed == n)[0]) for n in np.unique(crossed)]

    def _scattering(self, placed: list[tuple[int, float, float]], terrace: int) -> PointScatterers:
        """The impurities of one terrace."""
        kind, x, y = np.array(placed, dtype=np.float64).reshape(-1, 3).T
        on = dict(self._on_terraces(x, y)).get(terrace, np.zeros(0, dtype=np.intp))
        return PointScatterers(
            self._table, tuple(k.scatterer for k in KINDS), kind[on].astype(np.intp), x[on], y[on]
        )

    def _placed(self, rng: np.random.Generator) -> list[tuple[int, float, float]]:
        """Kind and place of every impurity: apart from each other and from steps."""
        shares = np.array([k.share for k in KINDS])
        placed: list[tuple[int, float, float]] = []
        while len(placed) < round(IMPURITIES_PER_M2 * EXTENT_M**2):
            x, y = (float(v) for v in rng.uniform(-EXTENT_M / 2, EXTENT_M / 2, size=2))
            at = np.array([x]), np.array([y])
            if any(abs(float(s.beyond_m(*at)[0])) < 3 * NM for s in self.steps):
                continue
            if placed and min(np.hypot(x - p[1], y - p[2]) for p in placed) < KEEP_APART_M:
                continue
            placed.append((int(rng.choice(len(KINDS), p=shares)), x, y))
        return placed


def _edges(rng: np.random.Generator, angle_rad: float, count: int) -> tuple[Step, ...]:
    """Steps on either side of the middle that run, nearly straight, along rows of atoms."""
    row = angle_rad + np.pi / 6.0 + np.pi / 3.0 * float(rng.integers(6))
    across = row + 0.5 * np.pi
    places = [float(rng.uniform(28, 60)) * NM, -float(rng.uniform(45, 90)) * NM]
    edges = []
    for distance in places[:count]:
        waves = tuple(
            (float(rng.uniform(0.2, 0.5) * NM), float(2 * np.pi / rng.uniform(25 * NM, 140 * NM)), float(p))
            for p in rng.uniform(0.0, 2.0 * np.pi, size=4)
        )
        edges.append(Step(STEP_HEIGHT_M, distance, across + float(rng.normal(0.0, 0.03)), waves, 0.22 * NM))
    return tuple(edges)


def _terrace(rng: np.random.Generator, angle_rad: float, number: int) -> Herringbone:
    """One terrace's reconstruction: any of the three orientations, its own phase, wandering lines."""
    turned = 0.0 if number == 0 else np.pi / 3.0 * float(rng.integers(3))
    return Herringbone(
        angle_rad=angle_rad + turned,
        phase=float(rng.uniform()),
        segment_m=float(rng.uniform(12.0, 16.0)) * NM,
        elbow_phase=float(rng.uniform()),
        wander=(Disorder(rng, (70 * NM, 200 * NM), 6), Disorder(rng, (30 * NM, 90 * NM), 8)),
    )


def _feature(kind: int, x_m: float, y_m: float) -> Feature:
    """Relief and truth of one impurity."""
    what = KINDS[kind]
    s = what.scatterer
    truth = SurfaceObject(
        kind="impurity",
        form=what.name,
        x_m=x_m,
        y_m=y_m,
        size_m=what.width_m,
        height_m=what.height_m,
        footprint_m=float(2.0 * np.sqrt(np.log(10.0)) * s.core_m),
        spectrum=what.name,
        detail={
            "phase_rad": s.phase_rad,
            "absorption": s.absorption,
            "core_m": s.core_m,
            "bound_ev": s.bound_ev,
            "bound_width_ev": s.bound_width_ev,
        },
    )
    blob = Blob(((0.0, 0.0, what.width_m / FWHM_PER_SIGMA, what.height_m),), s.core_m)
    return Feature(x_m, y_m, blob, kind, truth)
