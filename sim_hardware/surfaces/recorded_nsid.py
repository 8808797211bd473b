"""A recorded autonomous run (NSID) as a surface: its topograph as a frame, its spectra where they were taken.

Sample coordinates are the frame's own axes with the origin at its centre.  A position in the file is the
lower left corner of a pixel; the spectrum counts as taken at that pixel's centre, half a pixel away, so that
it lies where a frame shows it.  Where nothing was measured nothing is made up: a sweep elsewhere is refused.
Of several spectra at one pixel the first is served.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.files.nsid import NsidRun
from protocols.messages.data import Channel
from protocols.messages.recipes import SpectrumRecipe
from sim_hardware.surfaces.recording import RecordedFrame, RecordedRelief, RecordedSweep

Floats = npt.NDArray[np.float64]

BIAS_TOLERANCE_V = 1e-4
"""Runs note their bias to seven digits, with a step that does."""
CURRENT_RAIL_A = 10e-9
"""Where the preamplifier of the published runs saturates."""


class RecordedRunSurface(RecordedRelief):
    """See the module's text."""

    def __init__(self, run: NsidRun, name: str) -> None:
        self.run = run
        file_name, lockin = run.path.name, "lockin_x" in run.channels
        super().__init__(
            name,
            RecordedFrame(file_name, run.shape, run.width_m, run.height_m),
            RecordedSweep(file_name, run.bias_v, BIAS_TOLERANCE_V, lockin, digits=".4"),
            run.topograph_m,
        )
        dx, dy = self.pixel_m
        self.x_m = run.x_m - 0.5 * run.width_m + 0.5 * dx
        self.y_m = run.y_m - 0.5 * run.height_m + 0.5 * dy
        """(n,) sample coordinates of the spectra."""
        self._spectra: dict[tuple[int, int], int] = {}
        rows, cols = self.nearest(self.x_m, self.y_m)
        for index, pixel in enumerate(zip(rows.tolist(), cols.tolist(), strict=True)):
            self._spectra.setdefault(pixel, index)

    @property
    def places(self) -> Floats:
        """Where spectra are served, in the order in which they were taken: (places, 2), m."""
        indices = list(self._spectra.values())
        return np.stack([self.x_m[indices], self.y_m[indices]], axis=1)

    def nearest(self, x_m: Floats, y_m: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row and col of the pixels nearest to positions."""
        ny, nx = self.run.shape
        dx, dy = self.pixel_m
        col = np.rint((np.asarray(x_m) + 0.5 * self.run.width_m) / dx - 0.5)
        row = np.rint((np.asarray(y_m) + 0.5 * self.run.height_m) / dy - 0.5)
        return np.clip(row, 0, ny - 1).astype(np.intp), np.clip(col, 0, nx - 1).astype(np.intp)

    def true_density(self, x_m: float, y_m: float, energy_v: Floats) -> Floats:
        """Refused: a recording has no noise-free density.

        Raises:
            DriverError: always.
        """
        raise DriverError("a recorded sample has no true density of states; take its spectra.")

    def spectrum_at(self, x_m: float, y_m: float) -> tuple[int, int]:
        """Row and col of the pixel at which a spectrum was recorded here.

        Raises:
            DriverError: none was; names the nearest place.
        """
        places = self.places
        closest = int(np.argmin(np.hypot(places[:, 0] - x_m, places[:, 1] - y_m)))
        there = float(places[closest, 0]), float(places[closest, 1])
        if self.frame.misses(there, x_m, y_m):
            raise DriverError(
                f"nothing was recorded at ({x_m * 1e9:.4f} nm, {y_m * 1e9:.4f} nm): {self.run.path.name} "
                f"holds spectra at {len(places)} places and serves no others.",
                f"The nearest is ({there[0] * 1e9:.4f} nm, {there[1] * 1e9:.4f} nm).",
                nearest_x_m=there[0],
                nearest_y_m=there[1],
            )
        row, col = self.nearest(np.array(there[0]), np.array(there[1]))
        return int(row), int(col)

    def recorded_sweep(self, recipe: SpectrumRecipe, row: int, col: int) -> tuple[tuple[Channel, ...], bool]:
        """Channels as recorded (values (1, 1, points), float64) and whether the current is at the rail.

        Raises:
            DriverError: no spectrum was recorded at this pixel, or not such a sweep.
        """
        against = self.check_recipe(recipe)
        if (row, col) not in self._spectra:
            raise DriverError(f"{self.run.path.name} holds no spectrum at row {row}, col {col}.")
        index = self._spectra[row, col]
        channels = []
        for name, values in self.run.channels.items():
            samples = values[index][::-1] if against else values[index]
            channels.append(Channel(name=name, unit="A", values=samples.reshape(1, 1, -1).copy()))
        return tuple(channels), bool(np.abs(self.run.channels["current"][index]).max() >= CURRENT_RAIL_A)
