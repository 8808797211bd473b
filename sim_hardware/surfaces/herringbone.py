"""The 22 x sqrt 3 reconstruction of Au(111): pairs of soliton walls, zigzag domains, the atoms in it.

Twenty-three atoms of the top layer lie on twenty-two sites along [1-10], so that stacking goes from fcc over
a wall to the narrower hcp region and over a second wall back, every 22 x 0.2885 nm = 6.35 nm; the walls are
20 pm higher.  The stress is relieved by bending the lines by 120 degrees every dozen nanometres: the zigzag
of the herringbone (J. V. Barth, H. Brune, G. Ertl and R. J. Behm, Phys. Rev. B 42, 9307 (1990)).

A wall shifts the atoms by half a lattice constant across the lines and by a / (2 sqrt 3) along them (the
partial dislocation from fcc to hcp sites); the second wall completes the first shift and takes back the
other.  After a pair the lattice is shifted by one whole lattice vector, hence not at all, in either domain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.relief import Disorder, HexagonalLattice

Floats = npt.NDArray[np.float64]

NM = 1e-9
PM = 1e-12
GOLD_M = 0.2885 * NM
"""Distance of nearest neighbours in the bulk's (111) plane."""
PERIOD_M = 22 * GOLD_M
WALL_HEIGHT_M = 20 * PM
HCP_SHARE = 0.40
"""Width of the hcp region between the two walls of a pair over the period: 2.5 of 6.35 nm."""
WALL_SIGMA_M = 0.62 * NM
"""Of the wall's profile as the tip sees it."""
ATOMS_M = 7 * PM
"""Atomic corrugation, peak to peak, at tunneling distances."""
_BEND = np.pi / 6.0
"""Angle between the lines of a domain and their mean direction."""
_SHARPNESS = 0.99
"""Of the elbows: 1 has no rounding."""
_ELBOW_M = 2.2 * NM
_BULGE = (0.10, -0.05)
"""Change of the hcp share at elbows that bulge, and at those that pinch."""
_WALL_WIDTH = 0.07
"""Width of a wall's change of stacking, over the period."""


@dataclass(frozen=True)
class Stacking:
    """Where points lie in the reconstruction, all of the points' shape.

    ``height_m``: walls; ``hcp``: share of hcp stacking, 0 to 1; ``across``: fraction of a lattice constant by
    which the atoms are shifted across the lines; ``bend_rad``: how far the lines are turned clockwise from
    their mean direction.
    """

    height_m: Floats
    hcp: Floats
    across: Floats
    bend_rad: Floats


@dataclass(frozen=True)
class Herringbone:
    """One terrace's reconstruction: closed forms of the coordinates.

    ``angle_rad``: the direction across the lines, on average over the zigzag; ``phase``: in periods;
    ``segment_m``: length of a straight piece along the mean direction of the lines.
    """

    angle_rad: float
    phase: float = 0.0
    segment_m: float = 14 * NM
    elbow_phase: float = 0.0
    wander: tuple[Disorder, ...] = field(default=())
    """Two smooth fields that shift the lines and the elbows, as strain does; none: a perfect zigzag."""
    wander_m: tuple[float, float] = (0.8 * NM, 1.6 * NM)

    @property
    def lattice(self) -> HexagonalLattice:
        """The unreconstructed top layer: its rows run at 30 degrees to either side of ``angle_rad``."""
        return HexagonalLattice(GOLD_M, ATOMS_M, self.angle_rad)

    def stacking(self, x_m: Floats, y_m: Floats) -> Stacking:
        """The reconstruction at points (any one shape)."""
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        u, v = cos * x_m + sin * y_m, cos * y_m - sin * x_m
        if self.wander:
            u = u + self.wander_m[0] * self.wander[0].value(x_m, y_m)
            v = v + self.wander_m[1] * self.wander[1].value(x_m, y_m)
        turn = np.pi * v / self.segment_m + 2.0 * np.pi * self.elbow_phase
        sine, cosine = np.sin(turn), np.cos(turn)
        scale = np.tan(_BEND) * self.segment_m / np.pi
        zigzag = scale * np.arcsin(_SHARPNESS * sine)
        slope = np.tan(_BEND) * _SHARPNESS * cosine / np.sqrt(1.0 - (_SHARPNESS * sine) ** 2)
        phase = np.cos(_BEND) / PERIOD_M * (u - zigzag) + self.phase
        within = phase - np.rint(phase)
        to_elbow = self.segment_m / np.pi * np.abs(np.arctan2(np.abs(cosine), np.abs(sine)))
        bulge = np.where(sine > 0.0, _BULGE[0], _BULGE[1]) * np.exp(-((to_elbow / _ELBOW_M) ** 2))
        half = 0.5 * (HCP_SHARE + bulge)
        sigma = WALL_SIGMA_M / PERIOD_M
        walls = np.zeros(np.shape(u))
        for shift in (-1.0, 0.0, 1.0):
            for side in (-1.0, 1.0):
                walls += np.exp(-0.5 * ((within - side * half + shift) / sigma) ** 2)
        left = 0.5 + 0.5 * np.tanh((within + half) / _WALL_WIDTH)
        right = 0.5 + 0.5 * np.tanh((within - half) / _WALL_WIDTH)
        return Stacking(WALL_HEIGHT_M * walls, left - right, 0.5 * (left + right), np.arctan(slope))

    def relief(self, x_m: Floats, y_m: Floats, stacking: Stacking | None = None) -> Floats:
        """Height (m) of walls and atoms, any shape."""
        here = stacking or self.stacking(x_m, y_m)
        across = GOLD_M * here.across
        along = GOLD_M / (2.0 * np.sqrt(3.0)) * here.hcp
        direction = self.angle_rad - here.bend_rad
        cos, sin = np.cos(direction), np.sin(direction)
        shift_x, shift_y = across * cos - along * sin, across * sin + along * cos
        return np.asarray(here.height_m + self.lattice.relief(x_m + shift_x, y_m + shift_y))
