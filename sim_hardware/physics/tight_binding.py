"""Local densities of states from tight binding: a periodic lattice, and the same lattice with atoms removed.

A ``BlochModel`` is a list of hopping matrices.  Its Green's function on a torus of n x n cells::

    G0(z; R) = 1/n^2 sum_k exp(i k R) [z - H(k)]^-1,        z = E + i eta

is known exactly, and an atom that is removed, or whose energy is shifted by U, changes it by Dyson's equation
on the few orbitals P that it touches (a removed orbital has U = infinity)::

    G_ii = G0_ii + G0_iP T G0_Pi,      T = (1 - U G0_PP)^-1 U,      rho_i(E) = -1/pi Im tr G_ii

E. N. Economou, Green's Functions in Quantum Physics, 3rd ed., chapter 6.  ``supercell`` builds the same torus
as a sparse matrix from which the atom really is removed, and ``supercell_density`` solves that: the two agree
to the last digits (tests).  The densities are those of V. Luzny, Synthetic STM Imaging, slides "LDOS
Calculation - Tight Binding Method" and "Tight-Binding Models - Sample": vacancies by removing an atom,
dopants by an on-site energy.

A Lorentzian's tails would fill a gap of 2 eV with states.  ``LINE`` therefore combines two of them,
2 L(eta) - L(2 eta) = 6 eta^3 / (pi (x^2 + eta^2)(x^2 + 4 eta^2)): positive, of unit area, and falling as
x^-4.
Energies in eV, which are volts of the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import splu

from protocols.errors import UsageError

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]
Orbital = tuple[int, int, int]
"""Cell along the first lattice vector, along the second, and orbital in the cell."""

LINE: tuple[tuple[float, float], ...] = ((1.0, 2.0), (2.0, -1.0))
"""The line shape as (multiple of eta, weight) of Lorentzians."""
REMOVED = np.inf
"""On-site energy of an orbital that is not there."""
_WALL_EV = 1e7
"""Stands for infinity in Dyson's equation; it errs by (band width / this)."""


@dataclass(frozen=True)
class BlochModel:
    """A periodic Hamiltonian.

    ``hoppings``: for a cell (n1, n2) the matrix <a, 0 | H | b, (n1, n2)> (orbitals, orbitals), in eV; every
    hopping has its opposite in it.  Bands from number ``scissor_from`` on are raised by ``scissor_ev``: the
    quasi-particle correction of a gap that density functional theory leaves too small.  ``zero_ev`` is the
    energy of the model at the Fermi level.
    """

    hoppings: Mapping[tuple[int, int], Complexes]
    scissor_ev: float = 0.0
    scissor_from: int = 0
    zero_ev: float = 0.0

    @property
    def orbitals(self) -> int:
        """Number of orbitals in a cell."""
        return int(next(iter(self.hoppings.values())).shape[0])

    def hamiltonian(self, k: Floats) -> Complexes:
        """H(k) at k (..., 2), in units of the reciprocal lattice vectors: shape (..., orbitals, orbitals)."""
        total = np.zeros((*k.shape[:-1], self.orbitals, self.orbitals), dtype=np.complex128)
        for (n1, n2), hopping in self.hoppings.items():
            phase = np.exp(2j * np.pi * (k[..., 0] * n1 + k[..., 1] * n2))
            total += phase[..., None, None] * hopping
        return total

    def bands(self, k: Floats) -> tuple[Floats, Complexes]:
        """Energies from the Fermi level (..., orbitals), ascending before the scissor, and eigenvectors."""
        energy, vectors = np.linalg.eigh(self.hamiltonian(k))
        energy[..., self.scissor_from :] += self.scissor_ev
        return energy - self.zero_ev, vectors


def torus(n: int) -> Floats:
    """The n x n wave vectors of a torus of n x n cells: shape (n, n, 2), in reciprocal lattice vectors."""
    steps = np.arange(n) / n
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)


class LatticeGreen:
    """The Green's function of a perfect torus of ``n`` x ``n`` cells."""

    def __init__(self, model: BlochModel, n: int) -> None:
        self.n = n
        self.orbitals = model.orbitals
        self._energy, self._vectors = model.bands(torus(n))
        self._adjoint = np.conj(np.swapaxes(self._vectors, -1, -2))

    def window(self, z: complex, reach: int) -> Window:
        """G0(z; R) between cells up to ``reach`` apart along either lattice vector."""
        if 2 * reach >= self.n:
            raise UsageError(f"a torus of {self.n} cells has no distances of {reach}.")
        resolvent = (self._vectors / (z - self._energy)[..., None, :]) @ self._adjoint
        real = np.fft.ifft2(resolvent, axes=(0, 1))
        near = np.arange(-reach, reach + 1)
        return Window(np.ascontiguousarray(real[np.ix_(near, near)]), reach)


@dataclass(frozen=True)
class Window:
    """G0 around a cell: ``green`` (2 reach + 1, 2 reach + 1, orbitals, orbitals) is <a, R | G | b, 0>."""

    green: Complexes
    reach: int

    def between(self, rows: Sequence[Orbital], columns: Sequence[Orbital]) -> Complexes:
        """G0 from orbitals ``columns`` to orbitals ``rows``: shape (rows, columns)."""
        to, start = np.array(rows).reshape(-1, 3), np.array(columns).reshape(-1, 3)
        apart = to[:, None, :2] - start[None, :, :2] + self.reach
        if apart.size and (apart.min() < 0 or apart.max() > 2 * self.reach):
            raise UsageError(f"these orbitals are more than {self.reach} cells apart.")
        return np.asarray(self.green[apart[..., 0], apart[..., 1], to[:, None, 2], start[None, :, 2]])

    def density(self, orbitals: Sequence[Orbital], shifts: Mapping[Orbital, float]) -> Floats:
        """-Im G_ii / pi of ``orbitals`` (1/eV each) where ``shifts`` says what was done to the lattice.

        ``shifts`` gives the on-site energy (eV) added to an orbital, ``REMOVED`` for one that is not there;
        the density on a removed orbital is zero.
        """
        bare = np.array([self.green[self.reach, self.reach, o, o] for _, _, o in orbitals])
        touched = list(shifts)
        if not touched:
            return np.asarray(-bare.imag / np.pi)
        wall = np.array([_WALL_EV if np.isinf(u) else u for u in shifts.values()])
        inner = self.between(touched, touched)
        scattering = np.linalg.solve(np.eye(len(touched)) - wall[:, None] * inner, np.diag(wall))
        out, back = self.between(orbitals, touched), self.between(touched, orbitals)
        dressed = bare + np.einsum("ip,pq,qi->i", out, scattering, back)
        gone = np.array([np.isinf(shifts.get(o, 0.0)) for o in orbitals])
        return np.where(gone, 0.0, -dressed.imag / np.pi)


class Green(Protocol):
    """The Green's function of a perfect lattice."""

    def window(self, z: complex, reach: int) -> Window:
        """G0(z; R) between cells up to ``reach`` apart along either lattice vector."""


def densities(
    green: Green,
    energies_v: Floats,
    eta_v: float | Floats,
    orbitals: Sequence[Orbital],
    defects: Sequence[Mapping[Orbital, float]],
    reach: int,
) -> Floats:
    """Densities (1/eV) of orbitals with the line shape ``LINE``: shape (defects, orbitals, energies).

    ``eta_v`` is one width for all energies or one for each; ``defects`` are alternatives, each of them alone
    on the lattice.
    """
    widths = np.broadcast_to(eta_v, np.shape(energies_v))
    found = np.zeros((len(defects), len(orbitals), len(energies_v)))
    for n, (energy, eta) in enumerate(zip(energies_v, widths, strict=True)):
        for multiple, weight in LINE:
            window = green.window(complex(energy, multiple * eta), reach)
            for d, shifts in enumerate(defects):
                found[d, :, n] += weight * window.density(orbitals, shifts)
    return found


def line_shape(energy_v: Floats, eta_v: float) -> Floats:
    """What one eigenvalue becomes (1/eV) at ``energy_v`` from it."""
    return sum(
        (w * m * eta_v / (np.pi * (energy_v**2 + (m * eta_v) ** 2)) for m, w in LINE),
        np.zeros(np.shape(energy_v)),
    )


def supercell(
    model: BlochModel, n: int, shifts: Mapping[Orbital, float]
) -> tuple[sparse.csc_matrix, list[Orbital]]:
    """The Hamiltonian (eV from the Fermi level) of a torus of n x n cells without the removed orbitals.

    Returns it with the orbitals of its rows.

    Raises:
        UsageError: the model has a scissor, which no sparse matrix holds.
    """
    if model.scissor_ev:
        raise UsageError("a scissor acts on bands: a supercell has to do without.")
    m = model.orbitals
    cells = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    blocks: Any = sparse.csc_matrix((n * n * m, n * n * m), dtype=np.complex128)
    for (n1, n2), hopping in model.hoppings.items():
        ends = (cells[:, 0] + n1) % n * n + (cells[:, 1] + n2) % n
        links = sparse.csc_matrix((np.ones(n * n), (np.arange(n * n), ends)), shape=(n * n, n * n))
        blocks = blocks + sparse.kron(links, hopping, format="csc")
    onsite = np.full(n * n * m, -model.zero_ev)
    kept = np.ones(n * n * m, dtype=np.bool_)
    for (n1, n2, o), shift in shifts.items():
        row = ((n1 % n) * n + n2 % n) * m + o
        if np.isinf(shift):
            kept[row] = False
        else:
            onsite[row] += shift
    rows = np.nonzero(kept)[0]
    whole = (blocks + sparse.diags(onsite)).tocsc()
    return whole[rows][:, rows], [(int(r // m // n), int(r // m % n), int(r % m)) for r in rows]


def supercell_density(hamiltonian: sparse.csc_matrix, z: complex, rows: Sequence[int]) -> Floats:
    """-Im G_ii(z) / pi (1/eV) of some rows of a sparse Hamiltonian, by solving (z - H) x = e_i."""
    size = hamiltonian.shape[0]
    unity: Any = sparse.identity(size, dtype=np.complex128, format="csc")
    solver = splu((z * unity - hamiltonian).tocsc())
    found = []
    for row in rows:
        unit = np.zeros(size, dtype=np.complex128)
        unit[row] = 1.0
        found.append(-solver.solve(unit)[row].imag / np.pi)
    return np.array(found)
