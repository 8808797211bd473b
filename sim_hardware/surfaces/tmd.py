"""Monolayers of WS2 and WSe2 on graphene: a gap, chalcogen vacancies with states in it, oxygen, and dopants.

Upper and metal atoms are visible (the lower chalcogens, three decay lengths deeper, are hidden by a factor of
1000). Vacancies of either chalcogen layer, oxygen in place of a chalcogen and a foreign metal are placed at
random; the sheet follows the roughness of the substrate and runs over its steps like a carpet.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.dichalcogenide import METAL_PLACE, WS2, WSE2, Dichalcogenide
from sim_hardware.physics.ldos_tables import (
    DOPANT,
    LOWER_VACANCY,
    OXYGEN,
    VACANCY,
    ldos_table,
)
from sim_hardware.surfaces.atom_field import AtomField, Crystal, Site
from sim_hardware.surfaces.atomistic import GAP_AT_CONTACT_M, AtomisticSurface
from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.surfaces.relief import Disorder, Step, meander

Floats = npt.NDArray[np.float64]

NM, PM = 1e-9, 1e-12
EXTENT_M = 140 * NM
KEEP_APART_M = 3.4 * NM
"""Between defects: beyond this their tables do not overlap."""
PER_NM2: dict[str, float] = {VACANCY: 0.0040, LOWER_VACANCY: 0.0030, OXYGEN: 0.0035, DOPANT: 0.0025}
"""Some 10^12 per cm^2 in all, as after annealing in vacuum."""
ROUGHNESS_M = 8 * PM
"""Of the sheet on graphene on SiC, root mean square."""
SUBSTRATE_STEP_M = 0.25 * NM
"""A bilayer of SiC."""
TRANSPARENCY = 4e-3
"""States at the corner of the Brillouin zone reach less far into the vacuum than those of a metal: the tip
works two or three angstroms above contact."""
GRAPHENE_DENSITY = 2e-3
"""Of the graphene below, seen through the gap: half a per cent of the conduction band's."""
CLEAR_OF_STEPS_M = 3.5 * NM
WORK_FUNCTION_EV = 4.5
TEMPERATURE_K = 4.5
OXYGEN_LIFT_M = -45 * PM
"""Oxygen binds shorter than sulfur: it lies deeper."""
_ATOM_OF = {VACANCY: 0, LOWER_VACANCY: 0, OXYGEN: 0, DOPANT: 1}
_SIZE_M = {VACANCY: 0.45 * NM, LOWER_VACANCY: 0.7 * NM, OXYGEN: 0.45 * NM, DOPANT: 0.9 * NM}
_HEIGHT_M = {VACANCY: -40 * PM, LOWER_VACANCY: 15 * PM, OXYGEN: -40 * PM, DOPANT: 10 * PM}
_FOOTPRINT_M = {VACANCY: 1.2 * NM, LOWER_VACANCY: 1.2 * NM, OXYGEN: 0.9 * NM, DOPANT: 1.6 * NM}


class SheetSurface(AtomisticSurface):
    """A monolayer on graphene; ``seed`` places everything."""

    def __init__(self, name: str, compound: Dichalcogenide, seed: int) -> None:
        field, objects = _sheet(name, compound, seed)
        super().__init__(
            name,
            EXTENT_M,
            field,
            objects,
            transparency=TRANSPARENCY,
            work_function_ev=WORK_FUNCTION_EV,
            temperature_k=TEMPERATURE_K,
            tip_energies_v=np.linspace(-5.0, 5.0, 1001),
            background=GRAPHENE_DENSITY,
        )


class Ws2Surface(SheetSurface):
    """WS2."""

    def __init__(self, seed: int) -> None:
        super().__init__("ws2", WS2, seed)


class Wse2Surface(SheetSurface):
    """WSe2."""

    def __init__(self, seed: int) -> None:
        super().__init__("wse2", WSE2, seed)


def _sheet(name: str, compound: Dichalcogenide, seed: int) -> tuple[AtomField, tuple[SurfaceObject, ...]]:
    rng = np.random.default_rng([seed, 0x3D, len(name)])
    table = ldos_table(name)
    crystal = _crystal(compound, rng)
    steps = _steps(rng)
    sites, objects = _defects(crystal, steps, rng)
    roughness = Disorder(rng, (12 * NM, 50 * NM), 14)

    def relief(x_m: Floats, y_m: Floats) -> Floats:
        height = ROUGHNESS_M * roughness.value(x_m, y_m)
        for step in steps:
            height = height + step.relief(x_m, y_m)
        return np.asarray(height)

    lifts = np.zeros(len(table.densities))
    oxygen = table.lookups[OXYGEN][0]
    lifts[oxygen[oxygen.shape[0] // 2, oxygen.shape[1] // 2]] = OXYGEN_LIFT_M
    field = AtomField(crystal, table, sites, relief, -GAP_AT_CONTACT_M, lifts)
    return field, objects + _step_objects(steps)


def _crystal(compound: Dichalcogenide, rng: np.random.Generator) -> Crystal:
    a = compound.lattice_m
    angle = float(rng.uniform(0.0, 2.0 * np.pi / 3.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    vectors = a * np.array([[1.0, 0.0], [-0.5, np.sqrt(0.75)]]) @ turn
    metal = a * np.array(METAL_PLACE) @ turn
    basis = np.array([[0.0, 0.0, 0.0], [metal[0], metal[1], -compound.layer_m]])
    shift = rng.uniform(0.0, 1.0, size=2) @ vectors
    return Crystal(vectors, basis, (float(shift[0]), float(shift[1])))


def _defects(
    crystal: Crystal, steps: tuple[Step, ...], rng: np.random.Generator
) -> tuple[tuple[Site, ...], tuple[SurfaceObject, ...]]:
    """Defects of every kind at random, none near another; one vacancy lies near the middle."""
    sites, objects = [], []
    taken = np.zeros((0, 2))
    wanted = [name for name, share in PER_NM2.items() for _ in range(round(share * (EXTENT_M / NM) ** 2))]
    for number, name in enumerate(wanted):
        while True:
            half = 4 * NM if number == 0 else EXTENT_M / 2
            x, y = (float(v) for v in rng.uniform(-half, half, size=2))
            n1, n2 = crystal.cell_at(x, y, _ATOM_OF[name])
            x, y = crystal.place(n1, n2, _ATOM_OF[name])
            place = np.array([x]), np.array([y])
            clear = all(abs(float(step.beyond_m(*place)[0])) > CLEAR_OF_STEPS_M for step in steps)
            if clear and (not len(taken) or np.hypot(*(taken - [x, y]).T).min() > KEEP_APART_M):
                break
        taken = np.vstack([taken, [x, y]])
        sites.append(Site(name, n1, n2))
        objects.append(
            SurfaceObject(
                kind=name,
                form="point",
                x_m=x,
                y_m=y,
                size_m=_SIZE_M[name],
                height_m=_HEIGHT_M[name],
                footprint_m=_FOOTPRINT_M[name],
                spectrum=name,
            )
        )
    return tuple(sites), tuple(objects)


def _steps(rng: np.random.Generator) -> tuple[Step, ...]:
    """One or two steps of the substrate, away from the middle."""
    angle = float(rng.uniform(0.0, 2.0 * np.pi))
    places = [float(rng.uniform(28, 60)), -float(rng.uniform(30, 66))][: int(rng.integers(1, 3))]
    return tuple(
        Step(SUBSTRATE_STEP_M, d * NM, angle + float(rng.normal(0, 0.1)), meander(rng), 0.9 * NM)
        for d in places
    )


def _step_objects(steps: tuple[Step, ...]) -> tuple[SurfaceObject, ...]:
    return tuple(
        SurfaceObject(
            kind="step",
            form="edge",
            x_m=s.distance_m * float(np.cos(s.angle_rad)),
            y_m=s.distance_m * float(np.sin(s.angle_rad)),
            size_m=2.354820045030949 * s.width_m,
            height_m=s.height_m,
            footprint_m=0.0,
            spectrum="",
            detail={"angle_rad": s.angle_rad, "distance_m": s.distance_m},
        )
        for s in steps
    )
