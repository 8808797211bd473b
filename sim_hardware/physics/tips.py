"""Tips as clusters of atoms: bcc tungsten ending in a (111) or a (001) apex, dulled, doubled, with states.

A tip's origin is its foremost atom (or, dulled, the centre of its front layer), its axis points up; what lies
more than ``keep_m`` above the front carries less than exp(-2 kappa keep_m) per atom and is left out.  The
(111) apex is the corner of a cube of 4 nm, the (001) apex a cone 3 nm high with a base of 6 nm, and dulling
removes layers from the front: V. Luzny, Synthetic STM Imaging, slides "Tight-Binding Models - Tip" and
"(111) tip apex dull layers", fig. 3.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from sim_hardware.physics.tunneling import Atoms, DensityTable

Floats = npt.NDArray[np.float64]

TUNGSTEN_LATTICE_M = 0.3165e-9
CUBE_EDGE_M = 4e-9
CONE_HEIGHT_M = 3e-9
CONE_SLOPE = 1.0
"""Radius over height: a base of 6 nm at 3 nm."""
KEEP_M = 0.55e-9
"""Layers above this are left out: 1e-5 of the front atom's current each, at 4 eV."""
_LAYER_TOLERANCE_M = 1e-12


def metallic(energies_v: Floats, slope_per_v: float = 0.0) -> DensityTable:
    """One kind with density 1 + slope E, never below 0.05: a metal whose d band leans a little."""
    return DensityTable(energies_v, np.maximum(1.0 + slope_per_v * energies_v, 0.05)[None, :])


def resonant(energies_v: Floats, centre_v: float, fwhm_v: float, height: float) -> DensityTable:
    """Kind 0 a plain metal, kind 1 a metal with a Lorentzian resonance (an adsorbate, a surface state).

    Added is ``height / (1 + (2 (E - centre) / fwhm)^2)``.
    """
    peak = height / (1.0 + (2.0 * (energies_v - centre_v) / fwhm_v) ** 2)
    flat = np.ones(len(energies_v))
    return DensityTable(energies_v, np.stack([flat, flat + peak]))


def apex_111(
    states: DensityTable,
    dull_layers: int = 0,
    lattice_m: float = TUNGSTEN_LATTICE_M,
    keep_m: float = KEEP_M,
) -> Atoms:
    """The corner of a bcc cube pointing down: layers of 1, 3, 1, 6, 3, ... atoms (corner, body centres, ...).

    Layers are ``lattice_m / (2 sqrt 3)`` or a multiple apart.
    """
    count = round(CUBE_EDGE_M / lattice_m)
    cells = np.stack(np.meshgrid(*[np.arange(count + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    inner = cells[np.all(cells < count, axis=1)] + 0.5
    cube = lattice_m * np.concatenate([cells.astype(np.float64), inner])
    axis = np.ones(3) / np.sqrt(3.0)
    across = np.array([1.0, -1.0, 0.0]) / np.sqrt(2.0)
    turn = np.stack([across, np.cross(axis, across), axis])
    return _finished(cube @ turn.T, states, dull_layers, keep_m)


def apex_001(
    states: DensityTable,
    dull_layers: int = 0,
    lattice_m: float = TUNGSTEN_LATTICE_M,
    keep_m: float = KEEP_M,
) -> Atoms:
    """A cone of bcc along its axis: layers of 1, 4, 5, ... atoms half a lattice constant apart.

    The cone is widened by a quarter of a lattice constant, so that the four atoms which hold the front atom
    are there.
    """
    count = int(CONE_HEIGHT_M * max(1.0, CONE_SLOPE) / lattice_m) + 1
    sides = np.arange(-count, count + 1)
    cells = np.stack(np.meshgrid(sides, sides, np.arange(count), indexing="ij"), axis=-1).reshape(-1, 3)
    block = lattice_m * np.concatenate([cells.astype(np.float64), cells + 0.5])
    radius = np.hypot(block[:, 0], block[:, 1])
    inside = (radius <= CONE_SLOPE * block[:, 2] + 0.25 * lattice_m) & (block[:, 2] <= CONE_HEIGHT_M)
    return _finished(block[inside], states, dull_layers, keep_m)


def _finished(positions_m: Floats, states: DensityTable, dull_layers: int, keep_m: float) -> Atoms:
    """Without the first layers, front at z = 0, nothing far above, kind 1 (if there is one) in the front."""
    heights = np.sort(positions_m[:, 2])
    layers = heights[np.concatenate([[True], np.diff(heights) > _LAYER_TOLERANCE_M])]
    if not 0 <= dull_layers < len(layers):
        raise UsageError(f"a tip of {len(layers)} layers cannot lose {dull_layers} of them.")
    front = layers[dull_layers]
    height = positions_m[:, 2] - front
    kept = (height > -_LAYER_TOLERANCE_M) & (height <= keep_m)
    shifted = positions_m[kept] - np.array([0.0, 0.0, front])
    kinds = np.zeros(len(shifted), dtype=np.intp)
    kinds[shifted[:, 2] < _LAYER_TOLERANCE_M] = states.kinds - 1
    order = np.argsort(shifted[:, 2], kind="stable")
    return Atoms(shifted[order], kinds[order], states)


def front_layer(tip: Atoms) -> Floats:
    """Positions (m, 3) of the atoms that reach lowest."""
    z = tip.positions_m[:, 2]
    return np.asarray(tip.positions_m[z < z.min() + _LAYER_TOLERANCE_M])


def worn(tip: Atoms, share: float, rng: np.random.Generator) -> Atoms:
    """A tip that lost ``share`` of the atoms of its front layer at random, but keeps at least one: blunt and
    lopsided.  Its origin stays."""
    z = tip.positions_m[:, 2]
    front = np.nonzero(z < z.min() + _LAYER_TOLERANCE_M)[0]
    lost = min(round(share * len(front)), len(front) - 1)
    chosen = np.ones(len(tip), dtype=np.bool_)
    chosen[rng.choice(front, size=lost, replace=False)] = False
    return tip.only(chosen)


def rotated(tip: Atoms, angle_rad: float) -> Atoms:
    """Turned counter-clockwise about its axis."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return Atoms(tip.positions_m @ turn.T, tip.kinds, tip.states)


def doubled(tip: Atoms, second: Atoms, dx_m: float, dy_m: float, lift_m: float) -> Atoms:
    """Both tips in one: the second one beside the first and ``lift_m`` higher.

    Raises:
        UsageError: their states are tabulated at different energies.
    """
    if not np.array_equal(tip.states.energies_v, second.states.energies_v):
        raise UsageError("both tips need densities of states at the same energies.")
    states = DensityTable(
        tip.states.energies_v, np.concatenate([tip.states.densities, second.states.densities])
    )
    positions = np.concatenate([tip.positions_m, second.positions_m + np.array([dx_m, dy_m, lift_m])])
    return Atoms(positions, np.concatenate([tip.kinds, second.kinds + tip.states.kinds]), states)


@dataclass(frozen=True)
class TipRecipe:
    """One tip as numbers, for labels: ``make`` builds the same tip every time."""

    orientation: str = "111"
    """"111" or "001"."""
    dull_layers: int = 0
    worn_share: float = 0.0
    angle_rad: float = 0.0
    slope_per_v: float = 0.0
    resonance: tuple[float, float, float] | None = None
    """Centre (V), full width (V), height; none: metallic."""
    second: tuple[float, float, float] | None = None
    """A second apex at dx, dy and lift (m)."""
    seed: int = 0
    """Which atoms are missing from a worn front."""

    def make(self, energies_v: Floats) -> Atoms:
        """The tip with states at these energies (V)."""
        states = resonant(energies_v, *self.resonance) if self.resonance else metallic(energies_v)
        leaning = metallic(energies_v, self.slope_per_v).densities
        states = DensityTable(energies_v, states.densities - 1.0 + leaning)
        apex = {"111": apex_111, "001": apex_001}[self.orientation]
        tip = rotated(apex(states, self.dull_layers), self.angle_rad)
        tip = worn(tip, self.worn_share, np.random.default_rng([self.seed, 0x3012]))
        if self.second is None:
            return tip
        beside = apex(DensityTable(energies_v, leaning), 0)
        return doubled(tip, beside, *self.second)


def random_recipe(rng: np.random.Generator) -> TipRecipe:
    """A tip as data sets need them: mostly sharp and metallic, some dull, double or with a resonance."""
    resonance = (float(rng.uniform(-1.0, 1.0)), float(rng.uniform(0.08, 0.4)), float(rng.uniform(0.5, 3.0)))
    angle, apart = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.3e-9, 1.5e-9)
    second = (float(apart * np.cos(angle)), float(apart * np.sin(angle)), float(rng.uniform(0.0, 80e-12)))
    return TipRecipe(
        orientation=str(rng.choice(["111", "001"], p=[0.7, 0.3])),
        dull_layers=int(rng.choice(4, p=[0.55, 0.2, 0.15, 0.1])),
        worn_share=float(rng.choice([0.0, rng.uniform(0.2, 0.7)], p=[0.7, 0.3])),
        angle_rad=float(rng.uniform(0.0, 2.0 * np.pi)),
        slope_per_v=float(rng.normal(0.0, 0.15)),
        resonance=resonance if rng.uniform() < 0.25 else None,
        second=second if rng.uniform() < 0.15 else None,
        seed=int(rng.integers(2**31)),
    )
