"""Tight binding of a monolayer MX2: eleven orbitals (five d of the metal, three p of either chalcogen), one
spin.

S. Fang et al., Phys. Rev. B 92, 205108 (2015): the Hamiltonian with on-site, nearest and part of the second
neighbours (eqs. 4 to 10), its parameters (tables III to VI) from Wannier functions, and the spin-orbit
coupling lambda L S.  Of that the part that conserves the spin, lambda L_z S_z, is kept: it splits the valence
band at K and the bound states of a chalcogen vacancy.  The other spin is the time-reversed one and has the
same local density of states.

The gap of density functional theory is opened by a scissor to that seen in tunneling.  Lengths are in units
of the lattice constant; the first lattice vector is (1, 0), the second (-1/2, sqrt(3)/2); chalcogens sit in
the cell's corner, one above the other, the metal 1/sqrt(3) along +y from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.tight_binding import BlochModel

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

METAL = (0, 1, 2, 3, 4)
"""Orbitals z2, xy, x2-y2, xz, yz."""
TOP = (5, 6, 7)
"""Orbitals x, y, z of the upper chalcogen."""
BOTTOM = (8, 9, 10)
VALENCE_BANDS = 7
"""Two d and twelve p electrons, two in each band."""
METAL_PLACE = (0.0, 1.0 / np.sqrt(3.0))
"""Of the metal, from the chalcogens, in lattice constants."""


@dataclass(frozen=True)
class Dichalcogenide:
    """Parameters of one compound, energies in eV, in the notation of Fang et al.

    Orbitals 1 to 11: xz, yz | z, x, y of the odd combination | z2, xy, x2-y2 | z, x, y of the even one.
    """

    name: str
    lattice_m: float
    """Lattice constant as measured."""
    layer_m: float
    """Height of the upper chalcogens above the metal."""
    onsite: tuple[float, float, float, float, float, float, float]
    """e1, e3, e4, e6, e7, e9, e10."""
    along: tuple[float, ...]
    """t1 along the first lattice vector: (1,1) (2,2) ... (11,11), (3,5) (6,8) (9,11), (1,2) (3,4) (4,5) (6,7)
    (7,8) (9,10) (10,11)."""
    bond: tuple[float, ...]
    """t5 from chalcogen to metal: (4,1) (3,2) (5,2) (9,6) (11,6) (10,7) (9,8) (11,8)."""
    far: tuple[float, float, float, float]
    """t6: (9,6) (11,6) (9,8) (11,8)."""
    spin_orbit: tuple[float, float]
    """lambda of metal and chalcogen."""
    valence_ev: float
    """Upper edge of the valence band from the Fermi level, as measured on graphene."""
    conduction_ev: float
    """Lower edge of the conduction band."""


WS2 = Dichalcogenide(
    name="WS2",
    lattice_m=0.3153e-9,
    layer_m=0.1571e-9,
    onsite=(1.3754, -1.1278, -1.5534, -0.039259, 0.19844, -3.3706, -2.3461),
    along=(
        *(
            -0.20109,
            0.026255,
            -0.17491,
            0.87261,
            -0.21869,
            -0.37161,
            0.35371,
            -0.68916,
            -0.2112,
            0.96733,
            0.014269,
        ),
        *(-0.081777, 0.48965, -0.031484),
        *(-0.31058, -0.11054, -0.098891, -0.14665, -0.30304, 0.16454, -0.10178),
    ),
    bond=(-0.88549, -1.4376, 2.3121, -1.013, -0.98778, 1.5629, -0.94906, 0.67181),
    far=(-0.065943, -0.15333, -0.26184, -0.27364),
    spin_orbit=(0.2874, 0.0556),
    valence_ev=-1.45,
    conduction_ev=0.95,
)
"""Edges: a gap of 2.4 eV, B. Schuler et al., Phys. Rev. Lett. 123, 076801 (2019), on graphene on SiC."""

WSE2 = Dichalcogenide(
    name="WSe2",
    lattice_m=0.3282e-9,
    layer_m=0.1679e-9,
    onsite=(1.0349, -0.95728, -1.3937, -0.16674, 0.098437, -3.3642, -2.182),
    along=(
        *(
            -0.13951,
            0.012861,
            -0.21706,
            0.97629,
            -0.19847,
            -0.33299,
            0.31903,
            -0.58366,
            -0.23985,
            1.047,
            0.0029342,
        ),
        *(-0.091183, 0.42334, -0.037681),
        *(-0.2321, -0.079716, -0.09203, -0.12498, -0.24558, 0.18574, -0.10266),
    ),
    bond=(-0.77438, -1.4014, 2.0858, -0.8998, -0.90437, 1.403, -0.8548, 0.57113),
    far=(-0.067618, -0.16076, -0.26179, -0.24244),
    spin_orbit=(0.2874, 0.2470),
    valence_ev=-1.10,
    conduction_ev=1.00,
)
"""Edges: a gap of 2.1 eV, C. Zhang et al., Nano Lett. 15, 6494 (2015), on graphite."""

_NEXT = ((1, 0), (0, 1), (-1, -1))
"""The first lattice vector, turned by 0, 120 and 240 degrees."""
_SYMMETRIC = ((3, 5), (6, 8), (9, 11))
_SKEW = ((1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11))
_BOND = ((4, 1), (3, 2), (5, 2), (9, 6), (11, 6), (10, 7), (9, 8), (11, 8))
_BOND_CELLS = ((0, 0), (-1, -1), (0, -1))
"""Cells of the metal atoms bound to a chalcogen: along +y, and that turned by 120 and 240 degrees."""
_FAR = ((9, 6), (11, 6), (9, 8), (11, 8))
_FAR_CELLS = ((-1, -2), (1, 0), (-1, 0))
"""The next metal atoms, twice as far: along -y, and that turned."""


def model(compound: Dichalcogenide) -> BlochModel:
    """The Hamiltonian of a compound, from its Fermi level."""
    bare = BlochModel(_hoppings(compound))
    valence, conduction = edges(bare)
    gap = compound.conduction_ev - compound.valence_ev
    return BlochModel(
        bare.hoppings,
        scissor_ev=gap - (conduction - valence),
        scissor_from=VALENCE_BANDS,
        zero_ev=valence - compound.valence_ev,
    )


def edges(bloch: BlochModel, points: int = 90) -> tuple[float, float]:
    """Highest energy of the valence and lowest of the conduction bands (eV), on a mesh that holds Gamma and
    K."""
    steps = np.arange(points) / points
    mesh = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)
    energy, _ = bloch.bands(mesh)
    return float(energy[..., VALENCE_BANDS - 1].max()), float(energy[..., VALENCE_BANDS].min())


def _hoppings(compound: Dichalcogenide) -> dict[tuple[int, int], Complexes]:
    """In the basis of atoms: z2, xy, x2-y2, xz, yz, and x, y, z above and below."""
    e1, e3, e4, e6, e7, e9, e10 = compound.onsite
    home = np.diag([e1, e1, e3, e4, e4, e6, e7, e7, e9, e10, e10]).astype(np.complex128)
    found: dict[tuple[int, int], Complexes] = {(0, 0): home}
    first, bond, far = np.zeros((11, 11)), np.zeros((11, 11)), np.zeros((11, 11))
    np.fill_diagonal(first, compound.along[:11])
    for (a, b), t in zip(_SYMMETRIC, compound.along[11:14], strict=True):
        first[a - 1, b - 1] = first[b - 1, a - 1] = t
    for (a, b), t in zip(_SKEW, compound.along[14:], strict=True):
        first[a - 1, b - 1], first[b - 1, a - 1] = -t, t
    for (a, b), t in zip(_BOND, compound.bond, strict=True):
        bond[a - 1, b - 1] = t
    for (a, b), t in zip(_FAR, compound.far, strict=True):
        far[a - 1, b - 1] = t
    for turns in range(3):
        turn = _turned(turns)
        for matrix, cell in ((first, _NEXT[turns]), (bond, _BOND_CELLS[turns]), (far, _FAR_CELLS[turns])):
            _add(found, cell, turn @ matrix @ turn.T)
    to_atoms = _to_atoms()
    atoms = {cell: to_atoms @ matrix @ to_atoms.T for cell, matrix in found.items()}
    atoms[0, 0] += _spin_orbit(*compound.spin_orbit)
    return atoms


def _add(hoppings: dict[tuple[int, int], Complexes], cell: tuple[int, int], matrix: Floats) -> None:
    """Add a hopping and its opposite."""
    opposite = (-cell[0], -cell[1])
    zero = np.zeros((11, 11), dtype=np.complex128)
    hoppings[cell] = hoppings.get(cell, zero) + matrix
    hoppings[opposite] = hoppings.get(opposite, zero) + matrix.T


def _turned(turns: int) -> Floats:
    """Rotation of the eleven orbitals, in the basis of the paper, by so many thirds of a turn ccw."""
    angle = 2.0 * np.pi / 3.0 * turns
    cos, sin = np.cos(angle), np.sin(angle)
    vector = np.array([[cos, -sin], [sin, cos]])
    turn = np.eye(11)
    turn[0:2, 0:2] = turn[3:5, 3:5] = turn[9:11, 9:11] = vector
    double_cos, double_sin = np.cos(2.0 * angle), np.sin(2.0 * angle)
    # (x2-y2, xy) turns as a vector by twice the angle; they stand here as xy, x2-y2.
    turn[6:8, 6:8] = np.array([[double_cos, double_sin], [-double_sin, double_cos]])
    return turn


def _to_atoms() -> Floats:
    """From the paper's basis to that of atoms: rows atoms."""
    matrix = np.zeros((11, 11))
    for row, column in enumerate((5, 6, 7, 0, 1)):
        matrix[row, column] = 1.0
    half = np.sqrt(0.5)
    for axis, odd, even in ((0, 3, 9), (1, 4, 10)):
        matrix[5 + axis, odd] = matrix[5 + axis, even] = matrix[8 + axis, even] = half
        matrix[8 + axis, odd] = -half
    matrix[7, 2] = matrix[10, 2] = matrix[7, 8] = half
    matrix[10, 8] = -half
    return matrix


def _spin_orbit(metal_ev: float, chalcogen_ev: float) -> Complexes:
    """lambda / 2 L_z for spin up."""
    found = np.zeros((11, 11), dtype=np.complex128)
    for cosine, sine, m, strength in (
        (2, 1, 2, metal_ev),
        (3, 4, 1, metal_ev),
        (5, 6, 1, chalcogen_ev),
        (8, 9, 1, chalcogen_ev),
    ):
        found[sine, cosine] = 0.5j * m * strength
        found[cosine, sine] = -0.5j * m * strength
    return found
