"""Thermal drift in x, y and z: a constant velocity plus a slow wander, a closed form of instrument time.

Being a function of time alone, the drift after a restart is the same as without one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WANDER_PERIODS_S = (900.0, 2300.0, 5200.0)
"""Periods of the wander's sinusoids: minutes to hours, as a cooling cryostat shows."""


@dataclass(frozen=True)
class DriftSettings:
    """Magnitudes (m/s).  Directions and phases come from the seed."""

    lateral_m_s: float = 1.5e-12
    vertical_m_s: float = 0.2e-12
    wander_share: float = 0.4
    """Peak velocity of the wander over the constant velocity."""


class ThermalDrift:
    """Offset of the sample against the piezo: ``piezo = sample + offset(t)`` in x, y and z.

    Tolerance of the closed form against numerical integration of ``velocity``: 1e-6 relative.
    """

    def __init__(self, settings: DriftSettings, seed: int) -> None:
        rng = np.random.default_rng([seed, 0xD41F7])
        angle = rng.uniform(0.0, 2.0 * np.pi)
        lateral = settings.lateral_m_s * rng.uniform(0.7, 1.3)
        vertical = settings.vertical_m_s * rng.uniform(0.5, 1.5) * rng.choice([-1.0, 1.0])
        self.constant_m_s = np.array([lateral * np.cos(angle), lateral * np.sin(angle), vertical])
        share = rng.dirichlet(np.ones(len(WANDER_PERIODS_S)), size=3)
        scale = np.array([lateral, lateral, abs(vertical)]) * settings.wander_share
        self._amplitude_m_s = share * scale[:, None]
        self._omega = 2.0 * np.pi / np.array(WANDER_PERIODS_S)
        self._phase = rng.uniform(0.0, 2.0 * np.pi, size=(3, len(WANDER_PERIODS_S)))

    def velocity(self, time_s: float | Floats) -> Floats:
        """Velocity (m/s) at ``time_s`` (scalar or shape (n,)): shape (3,) or (n, 3)."""
        t = np.asarray(time_s, dtype=np.float64)[..., None, None]
        wander = (self._amplitude_m_s * np.cos(self._omega * t + self._phase)).sum(-1)
        return np.asarray(self.constant_m_s + wander)

    def offset(self, time_s: float | Floats) -> Floats:
        """Offset (m) since time 0 at ``time_s`` (scalar or shape (n,)): shape (3,) or (n, 3)."""
        t = np.asarray(time_s, dtype=np.float64)
        swing = np.sin(self._omega * t[..., None, None] + self._phase) - np.sin(self._phase)
        wander = (self._amplitude_m_s / self._omega * swing).sum(-1)
        return np.asarray(self.constant_m_s * t[..., None] + wander)


NO_DRIFT = DriftSettings(lateral_m_s=0.0, vertical_m_s=0.0)
"""For recorded samples and for tests of one effect at a time."""
