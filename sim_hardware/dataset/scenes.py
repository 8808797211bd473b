"""What lies under one image: the atoms of sample and tip, or a continuum surface, ready to be summed.

Everything random is a function of the data set's seed and of the number of the arrangement or tip.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_hardware.dataset.arrangements import ATOMISTIC, Arrangement, arrangement, atoms_around, material
from sim_hardware.dataset.continuum import Area, area
from sim_hardware.dataset.current_map import CurrentMap, Grid, PairTable, map_of_pairs
from sim_hardware.dataset.plan import ImageRecipe, Spec
from sim_hardware.physics.energy_window import EnergyWindow
from sim_hardware.physics.tips import TipRecipe, random_recipe
from sim_hardware.physics.tunneling import Atoms, Barrier
from sim_hardware.surfaces.atomistic import GAP_AT_CONTACT_M
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S

Floats = npt.NDArray[np.float64]

NM = 1e-9
MARGIN_M = 1.1e-9
"""Atoms farther than this from the box around frame and tip are left out."""
FAINT = 1e-5
"""Tip atoms that carry less than this of the tip's current over a flat surface are left out."""


def tip_recipe(spec: Spec, number: int) -> TipRecipe:
    """A tip of the data set."""
    return random_recipe(np.random.default_rng([spec.seed, 0x71B5, number]))


@lru_cache(maxsize=4096)
def _tip(sample: str, recipe: TipRecipe) -> Atoms:
    """Made once for all images."""
    return recipe.make(material(sample).surface.tip_energies_v)


@lru_cache(maxsize=1024)
def defects_of(spec: Spec, number: int) -> Arrangement:
    """An arrangement of the data set (atomistic samples)."""
    return arrangement(spec.sample, np.random.default_rng([spec.seed, 0xA44A, number]))


def area_of(spec: Spec, number: int) -> Area:
    """An arrangement of the data set (continuum samples)."""
    return area(spec.sample, spec.seed, number)


def tip_atoms(spec: Spec, recipe: ImageRecipe) -> Atoms:
    """The tip's atoms that count."""
    tip = _tip(spec.sample, tip_recipe(spec, recipe.tip))
    decay = 2.0 * Barrier(recipe.work_function_ev).kappa
    share = np.exp(-decay * tip.positions_m[:, 2])
    return tip.only(np.nonzero(share > FAINT * share.sum())[0])


def sample_atoms(spec: Spec, recipe: ImageRecipe, tip: Atoms, grid: Grid) -> Atoms:
    """The sample's atoms under a frame (nodes ``grid``), in the arrangement's coordinates."""
    u, v = grid.places()
    corners_u, corners_v = u[[0, 0, -1, -1], [0, -1, 0, -1]] * NM, v[[0, 0, -1, -1], [0, -1, 0, -1]] * NM
    x, y = to_sample(recipe, corners_u, corners_v)
    low, high = tip.positions_m[:, :2].min(axis=0) - MARGIN_M, tip.positions_m[:, :2].max(axis=0) + MARGIN_M
    positions, kinds = atoms_around(
        spec.sample,
        defects_of(spec, recipe.arrangement),
        (float(x.min() + low[0]), float(y.min() + low[1])),
        (float(x.max() + high[0]), float(y.max() + high[1])),
    )
    return Atoms(positions, kinds, material(spec.sample).surface.states)


def barrier(spec: Spec, recipe: ImageRecipe) -> Barrier:
    """What lies between them."""
    temperature = material(spec.sample).surface.temperature_k
    return Barrier(recipe.work_function_ev, GAP_AT_CONTACT_M, temperature)


def pair_table(spec: Spec, recipe: ImageRecipe, grid: Grid) -> PairTable:
    """Both sets of atoms along the frame's axes, with their energy integrals at the bias."""
    tip = tip_atoms(spec, recipe)
    sample = sample_atoms(spec, recipe, tip, grid)
    between = barrier(spec, recipe)
    states = sample.states
    response = EnergyWindow(states.energies_v, tip.states, between.temperature_k)
    integral = response.responses(np.array([recipe.bias_v])).integral[0]
    # Without BLAS, whose sums depend on the number of threads.
    weights = np.abs(np.einsum("kg,gt->kt", states.densities, integral, optimize=False))
    decay = 2.0 * between.kappa * NM
    scale = CONTACT_CONDUCTANCE_S / recipe.setpoint_a * np.exp(decay * between.contact_m / NM)
    u, v = to_frame(recipe, sample.positions_m[:, 0], sample.positions_m[:, 1])
    cos, sin = np.cos(recipe.angle_rad), np.sin(recipe.angle_rad)
    tip_x, tip_y, tip_z = tip.positions_m.T
    return PairTable(
        atoms=np.stack([u, v, sample.positions_m[:, 2]]).astype(np.float32) / np.float32(NM),
        tip=(np.stack([cos * tip_x + sin * tip_y, cos * tip_y - sin * tip_x, tip_z]) / NM).astype(np.float32),
        weights=(scale * weights[sample.kinds][:, tip.kinds]).astype(np.float32),
        decay=decay,
    )


def current_map(spec: Spec, recipe: ImageRecipe, grid: Grid) -> CurrentMap:
    """The current over the frame, from atoms or from a continuum."""
    if spec.sample in ATOMISTIC:
        return map_of_pairs(pair_table(spec, recipe, grid), grid)
    u, v = grid.places()
    x, y = to_sample(recipe, u.ravel() * NM, v.ravel() * NM)
    return area_of(spec, recipe.arrangement).current_map(recipe, tip_recipe(spec, recipe.tip), grid, x, y)


def to_frame(recipe: ImageRecipe, x_m: Floats, y_m: Floats) -> tuple[Floats, Floats]:
    """From the arrangement's coordinates to the frame's axes, from its centre."""
    x, y = x_m - recipe.centre_x_m, y_m - recipe.centre_y_m
    cos, sin = np.cos(recipe.angle_rad), np.sin(recipe.angle_rad)
    return cos * x + sin * y, cos * y - sin * x


def to_sample(recipe: ImageRecipe, u_m: Floats, v_m: Floats) -> tuple[Floats, Floats]:
    """The way back."""
    cos, sin = np.cos(recipe.angle_rad), np.sin(recipe.angle_rad)
    return recipe.centre_x_m + cos * u_m - sin * v_m, recipe.centre_y_m + sin * u_m + cos * v_m
