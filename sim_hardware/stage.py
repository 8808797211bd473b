"""The tip over the sample: which tip over which surface, and where.

``sample = piezo - offset``: the offset holds thermal drift, the coarse motor and the scanner's creep, less
what the drift compensation takes back.  The surface remembers where the tip crashed into it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sim_hardware.controls import DriftCompensation
from sim_hardware.damage import Crater, crater_at, total_relief
from sim_hardware.drift import DriftSettings, ThermalDrift
from sim_hardware.junction import Junction, RaisedJunction
from sim_hardware.scanner import Scanner, ScannerSettings
from sim_hardware.surfaces.base import Surface
from sim_hardware.tip import Tip, tip_after

Floats = npt.NDArray[np.float64]


class Stage:
    """See the module's text.  ``work_function_ev`` None: the sample's own."""

    def __init__(
        self,
        surface: Surface,
        seed: int,
        drift: DriftSettings,
        scanner: ScannerSettings,
        work_function_ev: float | None,
        tip: Tip,
        craters: tuple[Crater, ...] = (),
    ) -> None:
        self.surface = surface
        self.drift = ThermalDrift(drift, seed)
        self.scanner = Scanner(scanner)
        self.craters = craters
        self._seed = seed
        self._work_function_ev = work_function_ev
        self._coarse_m = np.zeros(3)
        self.junction = self._under(tip)

    @property
    def coarse_position_m(self) -> tuple[float, float, float]:
        """Where the coarse motor has brought the tip, from where it began."""
        x, y, z = (float(v) for v in self._coarse_m)
        return x, y, z

    def move_coarsely(self, dx_m: float, dy_m: float, dz_m: float) -> None:
        """The tip is elsewhere over the sample by so much (z positive: away from it)."""
        self._coarse_m = self._coarse_m + np.array([dx_m, dy_m, dz_m])

    def offsets(self, times_s: Floats, compensation: DriftCompensation) -> Floats:
        """Offset (m) in x, y, z at times (n,): (n, 3)."""
        offsets = self.drift.offset(times_s) - self._coarse_m
        if compensation.on or any(compensation.offset_m):
            offsets = offsets - np.array([compensation.at(float(t)) for t in times_s])
        if self.scanner.settings.creep is not None:
            offsets[:, :2] -= self.scanner.creep(times_s)
        return np.asarray(offsets)

    def rise(self, x_m: Floats, y_m: Floats, offsets_m: Floats, taken: tuple[float, float]) -> Floats:
        """Height (m) of the surface's origin in piezo coordinates under tip positions (n,).

        Vertical drift, and what the tilt compensation ``taken`` leaves of the sample's tilt.
        """
        slope = self.scanner.settings.slope
        along = (slope[0] - taken[0]) * x_m + (slope[1] - taken[1]) * y_m
        return np.asarray(offsets_m[:, 2] + along)

    def change_tip(self, cause: str) -> int:
        """The tip changes because of ``cause`` (a key of ``tip.BETTER``); returns how often it has."""
        changes = self.junction.tip.changes + 1
        self.junction = self._under(tip_after(self._seed, changes, cause))
        return changes

    def crash(self, sample_x_m: float, sample_y_m: float, leaves_crater: bool) -> int:
        """The tip hits the surface there; returns how often the tip has changed."""
        if leaves_crater:
            self.craters += (crater_at(sample_x_m, sample_y_m, self._seed, len(self.craters)),)
        return self.change_tip("crash")

    def _under(self, tip: Tip) -> Junction:
        inner = self.surface.junction(tip, self._work_function_ev)
        return RaisedJunction(inner, _relief_of(self.craters)) if self.craters else inner


def _relief_of(craters: tuple[Crater, ...]) -> Callable[[Floats, Floats], Floats]:
    return lambda x_m, y_m: total_relief(craters, x_m, y_m)
