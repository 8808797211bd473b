"""The tip: where its conducting atoms are, and how it changes.

The current is the sum over the tip's apices; a good tip has one, a damaged one several at different heights,
which broadens and doubles everything.  A tip is a function of the seed and of how often it has changed, so
that a restarted world finds the tip as it left it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PM = 1e-12
NM = 1e-9


@dataclass(frozen=True)
class Apex:
    """One conducting atom: lateral offset (m) and how much higher than the foremost one it sits (m)."""

    dx_m: float = 0.0
    dy_m: float = 0.0
    lift_m: float = 0.0


@dataclass(frozen=True)
class Tip:
    """Apices, factor on all noise, and an offset of the current."""

    apices: tuple[Apex, ...] = (Apex(),)
    noise_factor: float = 1.0
    current_offset_a: float = 0.0
    changes: int = 0


def tip_after(seed: int, changes: int) -> Tip:
    """The tip after so many changes (crashes, pulses, indentations).  With none it is sharp and quiet."""
    offset = float(np.random.default_rng([seed, 0x0FF5E7]).normal(0.0, 5e-14))
    if changes == 0:
        return Tip(current_offset_a=offset)
    rng = np.random.default_rng([seed, 0x71B, changes])
    apices = [Apex()]
    for _ in range(int(rng.integers(2, 5))):
        angle, radius = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.25, 1.4) * NM
        apices.append(
            Apex(float(radius * np.cos(angle)), float(radius * np.sin(angle)), float(rng.uniform(5, 60) * PM))
        )
    return Tip(
        apices=tuple(apices),
        noise_factor=float(rng.uniform(1.5, 3.5)),
        current_offset_a=offset + float(rng.normal(0.0, 5e-13)),
        changes=changes,
    )
