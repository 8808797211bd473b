"""Areas of continuum samples: each arrangement is a square of one of several surfaces, no two alike.

A surface of Au(111) takes a second to make, and has room for thirty-six areas: an area is one cell of a grid
over one of the surfaces.  A frame stays within its cell, so no impurity is seen in two arrangements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_hardware.dataset.current_map import CurrentMap, Grid
from sim_hardware.dataset.plan import CONTINUUM_EXTENT_M, ImageRecipe
from sim_hardware.physics.tips import TipRecipe, front_layer
from sim_hardware.surfaces.au111 import EXTENT_M, KINDS, Au111Surface
from sim_hardware.tip import Apex, Tip

Floats = npt.NDArray[np.float64]

NM = 1e-9
CELLS = int(EXTENT_M / CONTINUUM_EXTENT_M)
"""Along an edge of a surface."""
CLASSES = tuple(kind.name for kind in KINDS)


@dataclass(frozen=True)
class Area:
    """A cell of a surface, ``centre_m`` its middle; impurities in it: ``classes`` (n,), ``x_m``, ``y_m``
    (n,) from there."""

    surface: Au111Surface
    centre_m: tuple[float, float]
    classes: npt.NDArray[np.int64]
    x_m: Floats
    y_m: Floats

    def current_map(
        self, image: ImageRecipe, recipe: TipRecipe, grid: Grid, x_m: Floats, y_m: Floats
    ) -> CurrentMap:
        """The current at nodes whose coordinates from the cell's middle are ``x_m`` and ``y_m`` (n,)."""
        junction = self.surface.junction(continuum_tip(recipe), image.work_function_ev)
        profile = junction.profile(
            x_m + self.centre_m[0], y_m + self.centre_m[1], image.bias_v, image.setpoint_a
        )
        height = profile.height_m + (profile.log_current - np.log(image.setpoint_a)) / profile.decay_per_m
        out = np.zeros((grid.rows, grid.columns, 4), dtype=np.float32)
        out[..., 0] = ((height - np.median(height)) / NM).reshape(grid.rows, grid.columns)
        out[..., 1] = (profile.decay_per_m * NM).reshape(grid.rows, grid.columns)
        return CurrentMap(grid.u0, grid.v0, grid.step, out)


def area(sample: str, seed: int, number: int) -> Area:
    """Arrangement ``number`` of a data set of ``sample`` ("au111")."""
    surface = _surface(sample, seed, number // CELLS**2)
    row, column = divmod(number % CELLS**2, CELLS)
    x = CONTINUUM_EXTENT_M * (column + 0.5 - 0.5 * CELLS)
    y = CONTINUUM_EXTENT_M * (row + 0.5 - 0.5 * CELLS)
    half = 0.5 * CONTINUUM_EXTENT_M
    inside = [
        o for o in surface.objects if o.kind == "impurity" and abs(o.x_m - x) < half and abs(o.y_m - y) < half
    ]
    return Area(
        surface,
        (x, y),
        np.array([CLASSES.index(o.form) for o in inside], dtype=np.int64),
        np.array([o.x_m - x for o in inside]),
        np.array([o.y_m - y for o in inside]),
    )


@lru_cache(maxsize=160)
def _surface(sample: str, seed: int, number: int) -> Au111Surface:
    return Au111Surface(int(np.random.default_rng([seed, 0xA0, number]).integers(2**31)))


def continuum_tip(recipe: TipRecipe) -> Tip:
    """The atoms in front of a tip as apices."""
    front = front_layer(recipe.make(np.array([-1.0, 1.0])))
    apices = [Apex(float(x), float(y), float(z)) for x, y, z in front]
    if recipe.second is not None:
        apices.append(Apex(*recipe.second))
    return Tip(apices=tuple(apices), recipe=recipe)
