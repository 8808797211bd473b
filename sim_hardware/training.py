"""Labelled spectra for classifiers: what the acquirer would bring home from known places.

Entry point group ``tunnelpilot.training_data``.  The spectra run through the same junction, electronics and
lock-in as those of ``stmsim``, at places drawn over several surfaces of the sample, with good and with worn
tips; SI units, nothing normalised.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError
from protocols.messages.recipes import SpectrumRecipe
from sim_hardware.acquisition import HeldSweep, measured
from sim_hardware.electronics import ElectronicsSettings
from sim_hardware.surfaces.base import MixtureSurface
from sim_hardware.surfaces.terraces import TerracesSurface
from sim_hardware.surfaces.vacancy import VacancySurface
from sim_hardware.tip import tip_after

Floats = npt.NDArray[np.float64]
Labelled = tuple[Floats, dict[str, Floats], npt.NDArray[np.int64], tuple[str, ...]]

CLASSES: dict[str, tuple[str, ...]] = {
    "vacancy": ("pristine", "adsorbate", "substitution", "vacancy"),
    "terraces": ("terrace A", "terrace B", "resonance", "adsorbate"),
}
"""Classes of each training set."""
_SURFACES: dict[str, Callable[[int], MixtureSurface]] = {
    "vacancy": VacancySurface,
    "terraces": TerracesSurface,
}
_MERGED = {"defect-rich": "pristine"}
"""Basis spectra that count as another class."""

PURE_SHARE = 0.45
"""Least weight of its own spectrum at a place that is called by a class; the rest is mixed in."""
SURFACES = 6
WORN_TIPS = 0.25
GAP_JITTER_M = 6e-12
"""Spread of the gap at the hold: setpoint, drift and noise of the loop."""


def labelled_spectra(training: str, recipe: SpectrumRecipe, count: int, seed: int) -> Labelled:
    """``count`` spectra of a training set, classes equally often, in random order.

    Returns:
        bias_v (points,), channels {"current": (count, points), "lockin_x": ...} in A (forward traces;
        "lockin_x" only if the recipe has a lock-in), labels (count,) as indices, class names.

    Raises:
        ConfigError: no such training set, or the recipe has no points.
    """
    if training not in CLASSES:
        raise ConfigError(f"there is no training set {training!r}.", f"Known: {', '.join(sorted(CLASSES))}.")
    if recipe.points < 2 or count < 1:
        raise ConfigError(f"{count} spectra of {recipe.points} points cannot be made.")
    names = CLASSES[training]
    rng = np.random.default_rng([seed, 0x7EAC4])
    surfaces = [_SURFACES[training](int(rng.integers(1 << 30))) for _ in range(SURFACES)]
    tips = [tip_after(int(rng.integers(1 << 30)), changes) for changes in (0, 1, 2, 3)]
    settings = ElectronicsSettings()
    bias = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
    labels = rng.permutation(np.arange(count) % len(names)).astype(np.int64)
    current = np.empty((count, recipe.points))
    lockin_x = np.empty((count, recipe.points))
    for i, label in enumerate(labels):
        which = int(rng.integers(SURFACES))
        tip = tips[int(rng.integers(1, 4)) if rng.uniform() < WORN_TIPS else 0]
        junction = surfaces[which].junction(tip)
        x, y = _place(surfaces[which], names[label], rng)
        under = junction.profile(
            np.array([x]), np.array([y]), recipe.stabilise_bias_v, recipe.stabilise_current_a
        )
        held = float(under.target(recipe.stabilise_current_a)[0])
        height = held + rng.normal(0.0, GAP_JITTER_M) + recipe.z_offset_m
        sweep = HeldSweep(x, y, bias, np.full(recipe.points, height), recipe.dwell_s, recipe.lockin)
        found = measured(junction, sweep, rng, settings)
        current[i] = found.current_a
        if found.lockin_x_a is not None:
            lockin_x[i] = found.lockin_x_a
    channels = {"current": current}
    if recipe.lockin is not None:
        channels["lockin_x"] = lockin_x
    return bias, channels, labels, names


def _place(surface: MixtureSurface, name: str, rng: np.random.Generator) -> tuple[float, float]:
    """A random place whose spectrum is mostly of a class."""
    kinds = [_MERGED.get(spectrum.name, spectrum.name) for spectrum in surface.basis]
    wanted = np.array([kind == name for kind in kinds])
    around = [o for o in surface.objects if o.spectrum == name]
    half = surface.extent_m / 2.0
    for _ in range(2000):
        if around:
            centre = around[int(rng.integers(len(around)))]
            spread = 0.25 * centre.footprint_m
            x, y = (float(v) for v in rng.normal((centre.x_m, centre.y_m), spread))
        else:
            x, y = (float(v) for v in rng.uniform(-half, half, size=2))
        share = float(surface.weights(np.array([x]), np.array([y]))[wanted, 0].sum())
        if share >= (PURE_SHARE if around else 0.9 if name == "pristine" else PURE_SHARE):
            return x, y
    raise ConfigError(f"no place with the spectrum {name!r} was found on the sample {surface.name!r}.")
