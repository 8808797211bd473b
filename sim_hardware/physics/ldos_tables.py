"""Tables of local densities of states: for every kind of atom of a sample one curve, ready to be tunneled
into.

An atom of the perfect lattice is one kind; near a defect every atom has its own, shared only with those that
symmetry makes equal (an orbit); farther than the table reaches it is as in the perfect lattice again.  The
calculation takes minutes, so the tables are in the package; this makes them anew (a test recomputes some
points)::

    python -m sim_hardware.physics.ldos_tables [ws2 wse2 fese]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import DataFormatError
from sim_hardware.physics import dichalcogenide as mx2
from sim_hardware.physics import iron_selenide as fese
from sim_hardware.physics.tight_binding import REMOVED, Green, LatticeGreen, Orbital, densities

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int16]

FOLDER = Path(__file__).parent / "tables"
NOT_THERE, AS_BULK = -1, -2
"""In a lookup: the atom is removed; the atom is as in the perfect lattice."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Defect:
    """A defect as tight binding sees it.

    ``shifts``: orbital -> on-site energy (eV); ``place`` is its middle in Cartesian lattice constants;
    ``gone`` the atoms of the basis that are removed in cell (0, 0).
    """

    name: str
    shifts: Mapping[Orbital, float]
    place: Point
    gone: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How the table of one sample is calculated.

    ``basis`` are the visible atoms of a cell in Cartesian lattice constants; ``orbit(dx, dy)`` names places
    about a defect that symmetry makes equal; ``seen(atom, cell)`` the orbitals of which an atom's density is
    the sum; ``cells`` the cell's vectors; ``unit`` multiplies the densities.
    """

    name: str
    green: Callable[[], Green]
    energies_v: Floats
    eta_v: Floats
    basis: tuple[Point, ...]
    cells: tuple[Point, Point]
    defects: tuple[Defect, ...]
    orbit: Callable[[float, float], tuple[int, int]]
    seen: Callable[[int, int, int, Defect | None], list[tuple[Orbital, float]]]
    radius: float
    reach: int
    unit: float = 1.0


@dataclass(frozen=True)
class LdosTable:
    """``densities`` (kinds, energies), the kinds of the perfect basis (atoms,), and for every defect a
    lookup.

    A lookup (atoms, 2 r + 1, 2 r + 1) gives the kind of an atom by its cell counted from the defect's, or
    ``NOT_THERE`` or ``AS_BULK``.
    """

    energies_v: Floats
    densities: Floats
    bulk: Ints
    lookups: Mapping[str, Ints]


@lru_cache(maxsize=8)
def ldos_table(name: str) -> LdosTable:
    """The table of a sample, from the package.

    Raises:
        DataFormatError: it is missing.
    """
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        raise DataFormatError(f"{path} is missing.", f"Make it: python -m {__name__} {name}")
    with np.load(path) as stored:
        lookups = {key[7:]: stored[key] for key in stored.files if key.startswith("lookup_")}
        found = stored["densities"].astype(np.float64)
        return LdosTable(stored["energies_v"], found, stored["bulk"], lookups)


def calculate(plan: Plan, energies_v: Floats | None = None, eta_v: Floats | None = None) -> LdosTable:
    """The table of a plan, at its own or other energies (V)."""
    energies = plan.energies_v if energies_v is None else energies_v
    eta = plan.eta_v if eta_v is None else eta_v
    green = plan.green()
    wanted: dict[Orbital, int] = {}
    curves: list[list[tuple[int, list[tuple[Orbital, float]]]]] = []
    lookups: dict[str, Ints] = {}
    home = [(-1, plan.seen(atom, 0, 0, None)) for atom in range(len(plan.basis))]
    curves.append(home)
    count = len(plan.basis)
    for defect in plan.defects:
        lookup, mine = _orbits(plan, defect, count)
        lookups[defect.name] = lookup
        curves.append(mine)
        count += len(mine)
    for group in curves:
        for _, parts in group:
            for orbital, _ in parts:
                wanted.setdefault(orbital, len(wanted))
    alternatives: Sequence[Mapping[Orbital, float]] = [{}, *(d.shifts for d in plan.defects)]
    raw = densities(green, energies, eta, list(wanted), alternatives, plan.reach)
    rows = [
        sum((share * raw[d, wanted[o]] for o, share in parts), np.zeros(len(energies)))
        for d, group in enumerate(curves)
        for _, parts in group
    ]
    bulk = np.arange(len(plan.basis), dtype=np.int16)
    return LdosTable(energies, plan.unit * np.array(rows), bulk, lookups)


def _orbits(
    plan: Plan, defect: Defect, first_kind: int
) -> tuple[Ints, list[tuple[int, list[tuple[Orbital, float]]]]]:
    """The lookup of a defect, and of every new kind the orbitals of its first member."""
    cells = round(plan.radius / min(np.hypot(*v) for v in plan.cells)) + 2
    lookup = np.full((len(plan.basis), 2 * cells + 1, 2 * cells + 1), AS_BULK, dtype=np.int16)
    known: dict[tuple[int, int, int], int] = {}
    members: list[tuple[int, list[tuple[Orbital, float]]]] = []
    (ax, ay), (bx, by) = plan.cells
    for n1 in range(-cells, cells + 1):
        for n2 in range(-cells, cells + 1):
            for atom, (x, y) in enumerate(plan.basis):
                dx = n1 * ax + n2 * bx + x - defect.place[0]
                dy = n1 * ay + n2 * by + y - defect.place[1]
                if np.hypot(dx, dy) > plan.radius:
                    continue
                if (n1, n2) == (0, 0) and atom in defect.gone:
                    lookup[atom, cells, cells] = NOT_THERE
                    continue
                key = (atom, *plan.orbit(dx, dy))
                if key not in known:
                    known[key] = first_kind + len(members)
                    members.append((atom, plan.seen(atom, n1, n2, defect)))
                lookup[atom, n1 + cells, n2 + cells] = known[key]
    return lookup, members


# -- monolayers of WS2 and WSe2 ------------------------------------------------------------------------------

VACANCY, LOWER_VACANCY, OXYGEN, DOPANT = "vacancy", "lower vacancy", "oxygen", "dopant"
RELAXED_EV = {"ws2": 0.33, "wse2": 0.0}
"""Shift of the three metal atoms beside a chalcogen vacancy.  For WS2 it puts the two bound states where B.
Schuler et al., Phys. Rev. Lett. 123, 076801 (2019), saw them (0.52 and 0.77 V); their distance is the model's
own."""
OXYGEN_EV = -1.5
"""Oxygen in place of the chalcogen: deeper p orbitals; S. Barja et al., Nat. Commun. 10, 3382 (2019)."""
DOPANT_EV = {"ws2": -2.0, "wse2": 3.0}
"""A 3d metal (chromium) in place of tungsten, with empty states below the conduction band (B. Schuler et al.,
ACS Nano 13, 10520 (2019)); in WSe2 an acceptor (vanadium)."""
_COMPOUNDS = {"ws2": mx2.WS2, "wse2": mx2.WSE2}
_ATOM_ORBITALS = (mx2.TOP, mx2.METAL)
TORUS = 160
"""Cells along an edge of the torus, 50 nm."""


def _triangle(dx: float, dy: float) -> tuple[int, int]:
    """Orbits of a triangle with a mirror through +y: distance and folded angle."""
    angle = np.mod(np.arctan2(dy, dx) - np.pi / 2.0, 2.0 * np.pi / 3.0)
    angle = min(angle, 2.0 * np.pi / 3.0 - angle)
    return round(1e4 * np.hypot(dx, dy)), round(1e3 * angle * np.hypot(dx, dy))


def dichalcogenide_plan(name: str, cells: int = TORUS) -> Plan:
    """WS2 or WSe2; visible are the upper chalcogens and the metal."""
    compound = _COMPOUNDS[name]
    steps = (
        np.arange(-2.6, compound.valence_ev - 0.3, 0.025),
        np.arange(compound.valence_ev - 0.3, compound.valence_ev + 0.2, 0.01),
        np.arange(compound.valence_ev + 0.2, 0.2, 0.03),
        np.arange(0.2, compound.conduction_ev + 0.25, 0.008),
        np.arange(compound.conduction_ev + 0.25, 2.4, 0.025),
    )
    energies = np.concatenate(steps).round(6)
    metal = mx2.METAL_PLACE
    beside = {(*cell, o): RELAXED_EV[name] for cell in ((0, 0), (-1, -1), (0, -1)) for o in mx2.METAL}
    beside = beside if RELAXED_EV[name] else {}

    def seen(atom: int, n1: int, n2: int, defect: Defect | None) -> list[tuple[Orbital, float]]:
        return [((n1, n2, o), 2.0) for o in _ATOM_ORBITALS[atom]]

    return Plan(
        name=name,
        green=lambda: LatticeGreen(mx2.model(compound), cells),
        energies_v=energies,
        eta_v=np.full(len(energies), 0.02),
        basis=((0.0, 0.0), metal),
        cells=((1.0, 0.0), (-0.5, float(np.sqrt(0.75)))),
        defects=(
            Defect(VACANCY, {(0, 0, o): REMOVED for o in mx2.TOP} | beside, (0.0, 0.0), (0,)),
            Defect(LOWER_VACANCY, {(0, 0, o): REMOVED for o in mx2.BOTTOM} | beside, (0.0, 0.0)),
            Defect(OXYGEN, {(0, 0, o): OXYGEN_EV for o in mx2.TOP}, (0.0, 0.0)),
            Defect(DOPANT, {(0, 0, o): DOPANT_EV[name] for o in mx2.METAL}, metal),
        ),
        orbit=_triangle,
        seen=seen,
        radius=4.8,
        reach=9,
    )


# -- FeSe ----------------------------------------------------------------------------------------------------

ALONG_X, ALONG_Y = "vacancy along x", "vacancy along y"
"""An iron atom missing between two selenium atoms that are neighbours along x, or along y."""
_IRON_TORUS = 1024


def _square(dx: float, dy: float) -> tuple[int, int]:
    """Orbits of a square about an iron atom; offsets in Se-Se distances along the Se-Se rows."""
    far, near = sorted((abs(dx - dy), abs(dx + dy)), reverse=True)
    return round(10 * far), round(10 * near)


def fese_plan(atoms: int = _IRON_TORUS) -> Plan:
    """FeSe; visible are the upper selenium atoms and both iron atoms of the cell."""
    energies = np.unique(
        np.round(
            np.concatenate(
                [
                    np.arange(-5e-3, 5.01e-3, 1e-4),
                    np.arange(-16e-3, 16.1e-3, 4e-4),
                    np.arange(-60e-3, 60.1e-3, 2.5e-3),
                ]
            ),
            9,
        )
    )
    basis = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
    reach = 15

    def seen(atom: int, n1: int, n2: int, defect: Defect | None) -> list[tuple[Orbital, float]]:
        # From the missing (or any) iron atom, in Fe-Fe distances along the Fe-Fe bonds.
        middle = defect.place if defect is not None else basis[1]
        dx, dy = n1 + basis[atom][0] - middle[0], n2 + basis[atom][1] - middle[1]
        px, py = dx - dy, dx + dy
        if atom != 0:
            return [((round(px), round(py), o), 1.0) for o in fese.PARTICLE]
        around = [c for c in fese.beside_selenium(px, py) if defect is None or c != (0, 0)]
        return [((*c, o), 1.0 / len(around)) for c in around for o in fese.PARTICLE]

    shifts = fese.vacancy(fese.BESIDE_VACANCY_EV)
    return Plan(
        name="fese",
        green=lambda: fese.PairedGreen(fese.FESE, atoms, reach),
        energies_v=energies,
        eta_v=2.2e-4 + 0.05 * np.maximum(np.abs(energies) - 3e-3, 0.0),
        basis=basis,
        cells=((1.0, 0.0), (0.0, 1.0)),
        defects=(Defect(ALONG_X, shifts, basis[1], (1,)), Defect(ALONG_Y, shifts, basis[2], (2,))),
        orbit=_square,
        seen=seen,
        radius=9.0,
        reach=reach,
        unit=1.0 / 15.0,
    )


def plan_of(name: str) -> Plan:
    """The plan of "ws2", "wse2" or "fese"."""
    return fese_plan() if name == "fese" else dichalcogenide_plan(name)


def main() -> None:
    """Calculate and store the tables named on the command line (default: all)."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or ["ws2", "wse2", "fese"]:
        table = calculate(plan_of(name))
        np.savez_compressed(
            FOLDER / f"{name}.npz",
            energies_v=table.energies_v,
            densities=table.densities.astype(np.float32),
            bulk=table.bulk,
            allow_pickle=False,
            **{f"lookup_{key}": value for key, value in table.lookups.items()},
        )
        sys.stdout.write(f"{name}: {len(table.densities)} kinds at {len(table.energies_v)} energies\n")


if __name__ == "__main__":
    main()
