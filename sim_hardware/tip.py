"""The tip: where its conducting atoms are, what states it has, and how it changes.

The current is the sum over the tip's apices; a good tip has one, a damaged one several at different heights,
which broadens and doubles everything.  Surfaces made of atoms take the tip as atoms too (``recipe``).  A tip
is a function of the seed, of how often it has changed and of what changed it last, so that a restarted world
finds the tip as it left it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sim_hardware.physics.tips import TipRecipe

PM = 1e-12
NM = 1e-9

BETTER: dict[str, float] = {"pulse": 0.45, "indentation": 0.6, "spontaneous": 0.25, "crash": 0.0}
"""Chance that a change leaves a sharp and quiet tip, by what caused it."""
RESONANCE_SHARE = 0.35
"""Share of the bad tips that carry a resonance: something stuck to them."""


@dataclass(frozen=True)
class Apex:
    """One conducting atom: lateral offset (m) and how much higher than the foremost one it sits (m)."""

    dx_m: float = 0.0
    dy_m: float = 0.0
    lift_m: float = 0.0


@dataclass(frozen=True)
class Tip:
    """Apices, the same as atoms, factor on all noise, an offset of the current (A), and its history."""

    apices: tuple[Apex, ...] = (Apex(),)
    noise_factor: float = 1.0
    current_offset_a: float = 0.0
    changes: int = 0
    recipe: TipRecipe = field(default_factory=TipRecipe)
    cause: str = ""
    """What changed it last."""


def tip_after(seed: int, changes: int, cause: str = "crash") -> Tip:
    """The tip after so many changes, the last of them by ``cause`` (a key of ``BETTER``).

    With none it is sharp and quiet.
    """
    offset = float(np.random.default_rng([seed, 0x0FF5E7]).normal(0.0, 5e-14))
    angle = float(np.random.default_rng([seed, 0xA17]).uniform(0.0, 2.0 * np.pi))
    if changes == 0:
        return Tip(current_offset_a=offset, recipe=TipRecipe(angle_rad=angle))
    luck = np.random.default_rng([seed, 0xB3773, changes]).uniform()
    if luck < BETTER.get(cause, 0.0):
        recipe = TipRecipe(angle_rad=angle, slope_per_v=float(0.1 * (luck - 0.2)))
        return Tip(current_offset_a=offset, changes=changes, recipe=recipe, cause=cause)
    rng = np.random.default_rng([seed, 0x71B, changes])
    apices = [Apex()]
    for _ in range(int(rng.integers(2, 5))):
        around, radius = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.25, 1.4) * NM
        apices.append(
            Apex(
                float(radius * np.cos(around)), float(radius * np.sin(around)), float(rng.uniform(5, 60) * PM)
            )
        )
    return Tip(
        apices=tuple(apices),
        noise_factor=float(rng.uniform(1.5, 3.5)),
        current_offset_a=offset + float(rng.normal(0.0, 5e-13)),
        changes=changes,
        recipe=_worn_recipe(apices[1], angle, changes, rng),
        cause=cause,
    )


def _worn_recipe(second: Apex, angle_rad: float, changes: int, rng: np.random.Generator) -> TipRecipe:
    """A dull, lopsided or double tip, some with a resonance."""
    resonance = None
    if rng.uniform() < RESONANCE_SHARE:
        resonance = (
            float(rng.uniform(-0.8, 0.8)),
            float(rng.uniform(0.1, 0.4)),
            float(rng.uniform(0.5, 2.0)),
        )
    return TipRecipe(
        dull_layers=int(rng.integers(0, 3)),
        worn_share=float(rng.uniform(0.0, 0.5)),
        angle_rad=angle_rad,
        slope_per_v=float(rng.normal(0.0, 0.2)),
        resonance=resonance,
        second=(second.dx_m, second.dy_m, second.lift_m),
        seed=changes,
    )
