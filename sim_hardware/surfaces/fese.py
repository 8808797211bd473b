"""FeSe, cleaved: a superconductor whose topmost selenium atoms make a square lattice, with iron vacancies.

A missing iron atom shows as a dumbbell over the two selenium atoms above it, along one of two directions; it
moves spectral weight across +-30 mV and into the gap (``physics.iron_selenide``), smoothly over several
nanometres. P. Maksymovych et al., Phys. Rev. Research 4, 033058 (2022); D. Huang et al., Nano Lett. 16, 4224
(2016).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.iron_selenide import LATTICE_M, SELENIUM_HEIGHT_M
from sim_hardware.physics.ldos_tables import ALONG_X, ALONG_Y, LdosTable, ldos_table
from sim_hardware.surfaces.atom_field import AtomField, Crystal, Site
from sim_hardware.surfaces.atomistic import GAP_AT_CONTACT_M, AtomisticSurface
from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.surfaces.relief import Disorder, Step, meander

Floats = npt.NDArray[np.float64]

NM, PM = 1e-9, 1e-12
EXTENT_M = 90 * NM
VACANCIES_PER_NM2 = 0.0045
KEEP_APART_M = 6.9 * NM
"""Between vacancies: beyond this their tables do not overlap."""
STEP_HEIGHT_M = 0.552 * NM
"""The c axis."""
LOBE_LIFT_M = 18 * PM
"""The two selenium atoms above a vacancy relax outward."""
WAVINESS_M = 4 * PM
TRANSPARENCY = 0.12
WORK_FUNCTION_EV = 4.3
TEMPERATURE_K = 1.2


class FeSeSurface(AtomisticSurface):
    """FeSe; ``seed`` places everything."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0xFE5E])
        table = ldos_table("fese")
        angle = float(rng.uniform(0.0, np.pi / 2.0))
        crystal = _crystal(angle, rng)
        step = Step(
            STEP_HEIGHT_M,
            float(rng.uniform(26, 38)) * NM,
            float(rng.uniform(0.0, 2.0 * np.pi)),
            meander(rng),
            0.06 * NM,
        )
        waves = Disorder(rng, (12 * NM, 40 * NM), 10)

        def relief(x_m: Floats, y_m: Floats) -> Floats:
            return np.asarray(step.relief(x_m, y_m) + WAVINESS_M * waves.value(x_m, y_m))

        sites, objects = _vacancies(crystal, step, angle, rng)
        super().__init__(
            "fese",
            EXTENT_M,
            AtomField(crystal, table, sites, relief, -GAP_AT_CONTACT_M, _lifts(table)),
            objects,
            transparency=TRANSPARENCY,
            work_function_ev=WORK_FUNCTION_EV,
            temperature_k=TEMPERATURE_K,
            tip_energies_v=np.linspace(-1.5, 1.5, 601),
        )


def _crystal(angle_rad: float, rng: np.random.Generator) -> Crystal:
    turn = np.array([[np.cos(angle_rad), np.sin(angle_rad)], [-np.sin(angle_rad), np.cos(angle_rad)]])
    vectors = LATTICE_M * turn
    basis = np.zeros((3, 3))
    basis[1, :2], basis[2, :2] = 0.5 * vectors[0], 0.5 * vectors[1]
    basis[1:, 2] = -SELENIUM_HEIGHT_M
    shift = rng.uniform(0.0, 1.0, size=2) @ vectors
    return Crystal(vectors, basis, (float(shift[0]), float(shift[1])))


def _lifts(table: LdosTable) -> Floats:
    """The selenium atoms beside a vacancy stand out: cells (0, 0) and the next one."""
    lifts = np.zeros(len(table.densities))
    for name in (ALONG_X, ALONG_Y):
        lookup = table.lookups[name][0]
        middle = lookup.shape[0] // 2
        lifts[lookup[middle, middle]] = LOBE_LIFT_M
    return lifts


def _vacancies(
    crystal: Crystal, step: Step, angle_rad: float, rng: np.random.Generator
) -> tuple[tuple[Site, ...], tuple[SurfaceObject, ...]]:
    """Vacancies in either iron sublattice, the first one near the middle."""
    sites, objects = [], []
    taken = np.zeros((0, 2))
    for number in range(round(VACANCIES_PER_NM2 * (EXTENT_M / NM) ** 2)):
        atom = int(rng.integers(1, 3))
        half = 4 * NM if number == 0 else EXTENT_M / 2
        for _ in range(200):
            x, y = (float(v) for v in rng.uniform(-half, half, size=2))
            n1, n2 = crystal.cell_at(x, y, atom)
            x, y = crystal.place(n1, n2, atom)
            clear = abs(float(step.beyond_m(np.array([x]), np.array([y]))[0])) > 3 * NM
            if clear and (not len(taken) or np.hypot(*(taken - [x, y]).T).min() > KEEP_APART_M):
                break
        else:
            continue
        taken = np.vstack([taken, [x, y]])
        along = angle_rad + (0.0 if atom == 1 else 0.5 * np.pi)
        sites.append(Site(ALONG_X if atom == 1 else ALONG_Y, n1, n2))
        objects.append(
            SurfaceObject(
                kind="vacancy",
                form="dumbbell",
                x_m=x,
                y_m=y,
                size_m=2.0 * LATTICE_M,
                height_m=LOBE_LIFT_M,
                footprint_m=2.4 * NM,
                spectrum="vacancy",
                detail={"angle_rad": float(along)},
            )
        )
    edge = SurfaceObject(
        kind="step",
        form="edge",
        x_m=step.distance_m * float(np.cos(step.angle_rad)),
        y_m=step.distance_m * float(np.sin(step.angle_rad)),
        size_m=2.354820045030949 * step.width_m,
        height_m=step.height_m,
        footprint_m=0.0,
        spectrum="",
        detail={"angle_rad": step.angle_rad, "distance_m": step.distance_m},
    )
    return tuple(sites), (*objects, edge)
