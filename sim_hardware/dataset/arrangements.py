"""Arrangements of defects on a crystal's surface: where they are, and the atoms that the tip sees of it.

The crystal, the densities of states of its atoms and of those around every defect come from the samples
(``surfaces.tmd``, ``surfaces.fese``).  There, defects are kept so far apart that their surroundings do not
meet; a data set has crowded places too, where an atom belongs to the nearest defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.ldos_tables import AS_BULK, NOT_THERE, plan_of
from sim_hardware.surfaces.atomistic import GAP_AT_CONTACT_M, AtomisticSurface
from sim_hardware.surfaces.fese import FeSeSurface
from sim_hardware.surfaces.tmd import Ws2Surface, Wse2Surface

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EXTENT_M = 12e-9
"""Edge of the square that holds one arrangement."""
APART_M = 0.6e-9
"""Least distance of two defects."""
DENSITY_PER_NM2 = (0.05, 0.45)
"""Least and greatest number of defects by area; one arrangement has one density, logarithmically uniform."""
_SURFACES: dict[str, Callable[[int], AtomisticSurface]] = {
    "ws2": Ws2Surface,
    "wse2": Wse2Surface,
    "fese": FeSeSurface,
}
ATOMISTIC = tuple(_SURFACES)


@dataclass(frozen=True)
class Material:
    """A sample without its defects: ``surface`` for its crystal and densities of states, names of the
    ``classes`` of defects, and for each class the atom of the basis whose place it takes."""

    surface: AtomisticSurface
    classes: tuple[str, ...]
    replaced: tuple[int, ...]


@dataclass(frozen=True)
class Arrangement:
    """Defects: ``classes`` (n,), ``cells`` (n, 2) and places ``x_m``, ``y_m`` (n,) from the square's
    centre."""

    classes: Ints
    cells: Ints
    x_m: Floats
    y_m: Floats


@lru_cache(maxsize=4)
def material(sample: str) -> Material:
    """One of ``ATOMISTIC``."""
    surface = _SURFACES[sample](0)
    plan = plan_of(sample)
    basis = np.array(plan.basis)
    replaced = tuple(int(np.hypot(*(basis - d.place).T).argmin()) for d in plan.defects)
    return Material(surface, tuple(d.name for d in plan.defects), replaced)


def class_shares(sample: str) -> Floats:
    """How often each class occurs, summing to 1: all alike."""
    count = len(material(sample).classes)
    return np.full(count, 1.0 / count)


def arrangement(sample: str, rng: np.random.Generator) -> Arrangement:
    """Defects at random, no two nearer than ``APART_M``; at least one."""
    what = material(sample)
    crystal = what.surface.field.crystal
    low, high = np.log(DENSITY_PER_NM2)
    density = np.exp(rng.uniform(low, high)) * 1e18
    wanted = max(1, int(rng.poisson(density * EXTENT_M**2)))
    chosen = rng.choice(len(what.classes), size=wanted, p=class_shares(sample))
    raw = rng.uniform(-0.5 * EXTENT_M, 0.5 * EXTENT_M, size=(wanted, 2))
    atoms = np.array(what.replaced)[chosen]
    vectors, origin = crystal.vectors_m, np.array(crystal.origin_m)
    offsets = crystal.basis_m[atoms, :2] + origin
    cells = np.round((raw - offsets) @ np.linalg.inv(vectors)).astype(np.int64)
    places = cells @ vectors + offsets
    kept = _apart(places)
    return Arrangement(chosen[kept].astype(np.int64), cells[kept], places[kept, 0], places[kept, 1])


def _apart(places: Floats) -> Ints:
    """Those that are far enough from all earlier ones."""
    kept: list[int] = []
    for n, place in enumerate(places):
        if not kept or np.hypot(*(places[kept] - place).T).min() >= APART_M:
            kept.append(n)
    return np.array(kept, dtype=np.int64)


def atoms_around(
    sample: str, defects: Arrangement, low: tuple[float, float], high: tuple[float, float]
) -> tuple[Floats, Ints]:
    """Positions (n, 3) in m and kinds (n,) in a rectangle (x, y in m) of the flat sample with these defects.

    Heights are those of the lobes, as in ``AtomisticSurface.atoms`` where its relief is zero.
    """
    field = material(sample).surface.field
    crystal, table, lifts = field.crystal, field.table, field._lifts
    origin = np.array(crystal.origin_m)
    corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])]) - origin
    inside = corners @ np.linalg.inv(crystal.vectors_m)
    first, last = np.floor(inside.min(axis=0)).astype(int) - 2, np.ceil(inside.max(axis=0)).astype(int) + 2
    n1, n2 = np.meshgrid(np.arange(first[0], last[0]), np.arange(first[1], last[1]), indexing="ij")
    cells = np.stack([n1.ravel(), n2.ravel()], axis=1)
    corner = cells @ crystal.vectors_m + origin
    names = material(sample).classes
    places, kinds = [], []
    for atom, basis in enumerate(crystal.basis_m):
        across = corner + basis[:2]
        within = np.all((across >= np.array(low)) & (across < np.array(high)), axis=1)
        across, own = across[within], cells[within]
        kind = np.full(len(own), table.bulk[atom], dtype=np.int64)
        nearest = np.full(len(own), np.inf)
        for number, name in enumerate(names):
            _paint(kind, nearest, across, own, defects, number, table.lookups[name][atom])
        there = kind != NOT_THERE
        place = np.empty((int(there.sum()), 3))
        place[:, :2] = across[there]
        place[:, 2] = -GAP_AT_CONTACT_M + basis[2] + lifts[kind[there]]
        places.append(place)
        kinds.append(kind[there])
    return np.concatenate(places), np.concatenate(kinds)


def _paint(
    kind: Ints,
    nearest: Floats,
    across: Floats,
    cells: Ints,
    defects: Arrangement,
    number: int,
    lookup: npt.NDArray[np.int16],
) -> None:
    """Give atoms the kinds that the defects of one class make of them, where these are the nearest."""
    reach = lookup.shape[0] // 2
    for n in np.nonzero(defects.classes == number)[0]:
        apart = cells - defects.cells[n] + reach
        mine = np.nonzero(np.all((apart >= 0) & (apart <= 2 * reach), axis=1))[0]
        if not len(mine):
            continue
        away = np.hypot(across[mine, 0] - defects.x_m[n], across[mine, 1] - defects.y_m[n])
        told = lookup[apart[mine, 0], apart[mine, 1]].astype(np.int64)
        better = (told != AS_BULK) & (away < nearest[mine])
        kind[mine[better]] = told[better]
        nearest[mine[better]] = away[better]
