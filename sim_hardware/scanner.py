"""The piezo scanner in time: what it does other than what it is told.

Creep: a move goes on logarithmically after it was made; the moves of the recent past are superposed.
Hysteresis: forward and backward lines are bent against each other (Bouc-Wen).  Both from
``physics.distortions``; settings that are None leave an effect out, and by default all are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.distortions import BoucWen, CreepSettings

Floats = npt.NDArray[np.float64]

REMEMBERED = 48
"""Moves whose creep is followed; older ones have crept to nearly a standstill and stay where they are."""


@dataclass(frozen=True)
class ScannerSettings:
    """``slope``: tilt of the sample, dz/dx and dz/dy."""

    creep: CreepSettings | None = None
    hysteresis: BoucWen | None = None
    hysteresis_range_m: float = 1e-6
    """Drive that corresponds to 1 of the hysteresis model."""
    slope: tuple[float, float] = (0.0, 0.0)
    spontaneous_per_hour: float = 0.0
    """How often the tip changes by itself while it tunnels at low bias."""


USUAL = ScannerSettings(
    creep=CreepSettings(), hysteresis=BoucWen(), slope=(2e-3, -1.2e-3), spontaneous_per_hour=0.3
)
"""A microscope as it is on a working day."""
STRONG = ScannerSettings(
    creep=CreepSettings(gamma=0.02),
    hysteresis=BoucWen(beta=-0.3, alpha=1.15),
    hysteresis_range_m=0.3e-6,
    slope=(1.2e-2, 0.8e-2),
    spontaneous_per_hour=6.0,
)
"""The same on a bad day."""
IDEAL = ScannerSettings()
PRESETS = {"ideal": IDEAL, "usual": USUAL, "strong": STRONG}


@dataclass(frozen=True)
class _Move:
    time_s: float
    x_m: float
    y_m: float


class Scanner:
    """Follows the moves of the tip; coordinates in m, times in s on the instrument's clock."""

    def __init__(self, settings: ScannerSettings) -> None:
        self.settings = settings
        self._moves: deque[_Move] = deque()
        self._crept = np.zeros(2)

    def moved(self, time_s: float, dx_m: float, dy_m: float) -> None:
        """The tip was moved by so much, just now."""
        if self.settings.creep is None or (dx_m == 0.0 and dy_m == 0.0):
            return
        if len(self._moves) >= REMEMBERED:
            self._crept = self._crept + self._creep_of(self._moves.popleft(), np.array([time_s]))[0]
        self._moves.append(_Move(time_s, dx_m, dy_m))

    def creep(self, times_s: Floats) -> Floats:
        """How much farther than told the tip is (m) at times (n,): (n, 2)."""
        total = np.tile(self._crept, (len(times_s), 1))
        for move in self._moves:
            total += self._creep_of(move, times_s)
        return total

    def bent(self, width_m: float, count: int) -> Floats:
        """Along the fast axis, actual less told position (m) of the samples of a line and its return:
        (2 * count,), in the order of time."""
        model = self.settings.hysteresis
        if model is None:
            return np.zeros(2 * count)
        span = width_m / self.settings.hysteresis_range_m
        return _loop(model, span, count) * self.settings.hysteresis_range_m

    def _creep_of(self, move: _Move, times_s: Floats) -> Floats:
        creep = self.settings.creep
        if creep is None:
            return np.zeros((len(times_s), 2))
        grown = creep.gamma * np.log1p(np.maximum(times_s - move.time_s, 0.0) / creep.onset_s)
        return np.asarray(grown[:, None] * np.array([move.x_m, move.y_m]))


@lru_cache(maxsize=64)
def _loop(model: BoucWen, span: float, count: int) -> Floats:
    """The closed loop of a line and its return after three rounds, less a straight line through its ends."""
    there = (np.arange(count) + 0.5) / count - 0.5
    round_trip = span * np.concatenate([there, there[::-1]])
    drive = np.tile(round_trip, 4)
    position = model.position(np.concatenate([[0.0], drive]))[-2 * count :]
    told = round_trip
    gain = (position.max() - position.min()) / max(float(told.max() - told.min()), 1e-30)
    bent = position - position.mean() - gain * told
    return np.asarray(bent)
