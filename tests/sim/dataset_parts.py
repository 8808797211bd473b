"""Pieces of data sets that several tests need."""

from __future__ import annotations

import numpy as np

from sim_hardware.dataset.current_map import CurrentMap
from sim_hardware.dataset.image import Way, way_of
from sim_hardware.dataset.plan import ImageRecipe, Spec, plan
from sim_hardware.dataset.scenes import current_map


def recipe_of(spec: Spec, index: int) -> ImageRecipe:
    """One image of a data set."""
    return plan(spec).recipe(index)


def way_and_map(spec: Spec, recipe: ImageRecipe) -> tuple[Way, CurrentMap]:
    """Where the tip goes in an image, and the current there."""
    way = way_of(spec, recipe, np.random.default_rng(recipe.index))
    return way, current_map(spec, recipe, way.grid)
