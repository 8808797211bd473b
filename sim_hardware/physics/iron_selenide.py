"""Tight binding of superconducting FeSe: two orbitals (xz, yz) on a square lattice of iron, and a pairing.

S. Raghu et al., Phys. Rev. B 77, 220503 (2008), eqs. 1 to 5, for the two orbitals, whose bands make hole
pockets about Gamma and electron pockets about X; here narrowed to the few tens of meV that correlations leave
of them in FeSe.  The gap has one sign on the hole and the other on the electron pockets, Delta_k = Delta cos
kx cos ky (K. Seo, B. A. Bernevig, J. Hu, Phys. Rev. Lett. 101, 206404 (2008)), so that an iron vacancy,
though not magnetic, binds states in the gap: D. Zhang, Phys. Rev. Lett. 103, 186402 (2009); seen by L. Jiao
et al., Phys. Rev. B 96, 094504
(2017).  With h the 2 x 2 normal Hamiltonian, which commutes with the pairing, the Green's function is
closed::

    G(k, z) = [[z + h, D], [D, z - h]] (z^2 - D^2 - h^2)^-1

Selenium sits above and below the middle of the squares of iron by turns.  What the tip sees of a selenium
atom is the mean of the iron atoms around it that are there, so that its density keeps its integral when one
is missing. Energies in eV; lengths in Fe-Fe distances, x and y along the Fe-Fe bonds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.tight_binding import BlochModel, Window

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

LATTICE_M = 0.3765e-9
"""Distance of selenium atoms in the topmost layer; S. Margadonna et al., Chem. Commun., 5607 (2008)."""
IRON_M = LATTICE_M / float(np.sqrt(2.0))
SELENIUM_HEIGHT_M = 0.146e-9
"""Of selenium above the plane of iron."""
PARTICLE = (0, 1)
"""Orbitals xz and yz of electrons; 2 and 3 are those of holes."""


@dataclass(frozen=True)
class PairedBands:
    """``hoppings_ev``: t1 to t4 of Raghu et al.; ``level_ev`` their chemical potential; ``pairing_ev``."""

    hoppings_ev: tuple[float, float, float, float]
    level_ev: float
    pairing_ev: float


FESE = PairedBands(
    hoppings_ev=(-0.025, 0.0325, -0.02125, -0.02125),
    level_ev=0.0425,
    pairing_ev=0.0027,
)
"""Raghu's ratios (-1, 1.3, -0.85, -0.85) times 25 meV, filled a little more (1.7 instead of 1.45), so that
the electron pockets are 12 meV deep; the pairing makes coherence peaks about 4 meV apart."""
BESIDE_VACANCY_EV = -0.035
"""Shift of the iron atoms beside a vacancy: weight moves from above +8 mV to below, into the gap too, and the
sum over +-30 mV stays (P. Maksymovych et al., Phys. Rev. Research 4, 033058 (2022), fig. 8: about +7 mV)."""


def paired_model(bands: PairedBands) -> BlochModel:
    """The whole 4 x 4 Hamiltonian in the basis (xz, yz of electrons, xz, yz of holes)."""
    t1, t2, t3, t4 = bands.hoppings_ev
    found: dict[tuple[int, int], Complexes] = {}

    def add(cell: tuple[int, int], normal: Floats, pairing: float) -> None:
        block = np.zeros((4, 4), dtype=np.complex128)
        block[:2, :2], block[2:, 2:] = normal, -normal
        block[0, 2] = block[1, 3] = block[2, 0] = block[3, 1] = pairing
        found[cell] = block

    add((0, 0), -bands.level_ev * np.eye(2), 0.0)
    for sign in (1, -1):
        add((sign, 0), np.diag([-t1, -t2]), 0.0)
        add((0, sign), np.diag([-t2, -t1]), 0.0)
        for other in (1, -1):
            # -4 t4 sin kx sin ky: the sign goes with the quadrant.
            mixed = t4 * sign * other
            add((sign, other), np.array([[-t3, mixed], [mixed, -t3]]), bands.pairing_ev / 4.0)
    return BlochModel(found)


class PairedGreen:
    """The Green's function of a torus of ``n`` x ``n`` iron atoms (``n`` even), by its closed form.

    Every element is even or odd in kx and ky, so that a quarter of the torus is summed.
    """

    def __init__(self, bands: PairedBands, n: int, reach: int) -> None:
        half = np.arange(n // 2 + 1)
        weight = np.full(half.size, 2.0)
        weight[[0, -1]] = 1.0
        k = 2.0 * np.pi / n * half
        cos, sin = np.cos(k), np.sin(k)
        t1, t2, t3, t4 = bands.hoppings_ev
        both = np.outer(cos, cos)
        self._xx = -2.0 * (t1 * cos[:, None] + t2 * cos[None, :]) - 4.0 * t3 * both - bands.level_ev
        self._yy = -2.0 * (t2 * cos[:, None] + t1 * cos[None, :]) - 4.0 * t3 * both - bands.level_ev
        self._xy = -4.0 * t4 * np.outer(sin, sin)
        self._gap = bands.pairing_ev * both
        # h^2 + gap^2
        self._a = self._xx**2 + self._xy**2 + self._gap**2
        self._b = self._yy**2 + self._xy**2 + self._gap**2
        self._c = self._xy * (self._xx + self._yy)
        distance = np.arange(reach + 1)
        self._even = weight * np.cos(np.outer(distance, k)) / n
        self._odd = weight * np.sin(np.outer(distance, k)) / n
        self.reach = reach

    def window(self, z: complex, reach: int | None = None) -> Window:
        """G0(z; R) between iron atoms up to ``reach`` apart (the one given at first), orbitals as above."""
        reach = self.reach if reach is None else reach
        a, b = z * z - self._a, z * z - self._b
        scale = 1.0 / (a * b - self._c**2)
        # (z^2 - D^2 - h^2)^-1
        xx, yy, xy = b * scale, a * scale, self._c * scale
        h_xx = self._xx * xx + self._xy * xy
        h_yy = self._xy * xy + self._yy * yy
        h_xy = self._xx * xy + self._xy * yy
        size = 2 * reach + 1
        green = np.zeros((size, size, 4, 4), dtype=np.complex128)
        even = {
            "xx": self._spread(xx, reach, True),
            "yy": self._spread(yy, reach, True),
            "hxx": self._spread(h_xx, reach, True),
            "hyy": self._spread(h_yy, reach, True),
            "dxx": self._spread(self._gap * xx, reach, True),
            "dyy": self._spread(self._gap * yy, reach, True),
        }
        odd = {
            "xy": self._spread(xy, reach, False),
            "hxy": self._spread(h_xy, reach, False),
            "dxy": self._spread(self._gap * xy, reach, False),
        }
        for o, name in enumerate(("xx", "yy")):
            green[..., o, o] = z * even[name] + even["h" + name]
            green[..., 2 + o, 2 + o] = z * even[name] - even["h" + name]
            green[..., o, 2 + o] = green[..., 2 + o, o] = even["d" + name]
        green[..., 0, 1] = green[..., 1, 0] = z * odd["xy"] + odd["hxy"]
        green[..., 2, 3] = green[..., 3, 2] = z * odd["xy"] - odd["hxy"]
        for o in (0, 1):
            green[..., o, 3 - o] = green[..., 3 - o, o] = odd["dxy"]
        return Window(green, reach)

    def _spread(self, element: Complexes, reach: int, even: bool) -> Complexes:
        """To real space: (2 reach + 1, 2 reach + 1)."""
        wave = (self._even if even else self._odd)[: reach + 1]
        quarter = wave @ element @ wave.T
        sign = 1.0 if even else -1.0
        upper = np.concatenate([sign * quarter[:0:-1], quarter])
        # An odd element is -sin sin, from exp(i k R) = (cos + i sin)(cos + i sin).
        return np.asarray(sign * np.concatenate([sign * upper[:, :0:-1], upper], axis=1))


def vacancy(shift_ev: float) -> dict[tuple[int, int, int], float]:
    """An iron atom missing in cell (0, 0), the four beside it shifted in energy: orbital -> shift (eV)."""
    shifts = {(0, 0, o): np.inf for o in range(4)}
    for cell in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        for o in range(4):
            shifts[*cell, o] = shift_ev if o in PARTICLE else -shift_ev
    return shifts


def beside_selenium(x: float, y: float) -> list[tuple[int, int]]:
    """The four iron atoms around a selenium atom at half-integer x and y."""
    return [(round(x + dx), round(y + dy)) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)]
