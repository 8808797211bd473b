"""A recorded CITS grid as a surface: spectra and heights as they were measured, at grid points and nowhere
else.

Sample coordinates are the grid's own axes with the origin at its centre.  Between grid points nothing is
made up: a sweep or a frame that does not fall on them is refused.  Only the Z-controller, which has to stand
on something while the tip travels, sees the height of the nearest pixel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.files.nanonis_grid import NanonisGrid, name_and_unit
from protocols.messages.data import Channel
from protocols.messages.recipes import SpectrumRecipe
from sim_hardware.surfaces.recording import RecordedFrame, RecordedRelief, RecordedSweep

Floats = npt.NDArray[np.float64]

BIAS_TOLERANCE_V = 1e-6
LOCKIN_RAIL_V = 10.0
"""Output limit of the lock-in's analogue channels."""
_CHANNEL_NAMES = {
    "Current": "current",
    "LockinX": "lockin_x",
    "LockinY": "lockin_y",
    "LI Demod 1 X": "lockin_x",
    "LI Demod 1 Y": "lockin_y",
}


class RecordedSurface(RecordedRelief):
    """See the module's text.

    Raises:
        DriverError: the grid has no current or no Z.
    """

    def __init__(self, grid: NanonisGrid, name: str) -> None:
        self.grid = grid
        if "Z (m)" not in grid.parameters:
            raise DriverError(f"{grid.path} holds no parameter 'Z (m)', so it has no topograph.")
        self.channels: dict[str, tuple[str, npt.NDArray[np.float32]]] = {}
        for label, values in grid.channels.items():
            name_, unit = name_and_unit(label)
            if name_ in _CHANNEL_NAMES:
                self.channels[_CHANNEL_NAMES[name_]] = (unit, values)
        if "current" not in self.channels:
            raise DriverError(f"{grid.path} holds no current ({', '.join(grid.channels)}).")
        file_name, lockin = grid.path.name, "lockin_x" in self.channels
        super().__init__(
            name,
            RecordedFrame(file_name, grid.shape, grid.width_m, grid.height_m),
            RecordedSweep(file_name, grid.sweep, BIAS_TOLERANCE_V, lockin),
            grid.parameters["Z (m)"],
        )

    def nearest(self, x_m: Floats, y_m: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row and col of the grid points nearest to positions."""
        ny, nx = self.grid.shape
        dx, dy = self.pixel_m
        col = np.clip(np.rint((np.asarray(x_m) - self.grid.x_m[0]) / dx), 0, nx - 1).astype(np.intp)
        row = np.clip(np.rint((np.asarray(y_m) - self.grid.y_m[0]) / dy), 0, ny - 1).astype(np.intp)
        return row, col

    def spectrum_at(self, x_m: float, y_m: float) -> tuple[int, int]:
        """Row and col of the grid point at a position.

        Raises:
            DriverError: none is there; names the nearest one.
        """
        row, col = (int(i) for i in self.nearest(np.array(x_m), np.array(y_m)))
        there = float(self.grid.x_m[col]), float(self.grid.y_m[row])
        if self.frame.misses(there, x_m, y_m):
            raise DriverError(
                f"nothing was recorded at ({x_m * 1e9:.4f} nm, {y_m * 1e9:.4f} nm): recorded spectra are "
                f"served at grid points only.",
                f"The nearest is row {row}, col {col} at ({there[0] * 1e9:.4f} nm, {there[1] * 1e9:.4f} nm).",
                nearest_x_m=there[0],
                nearest_y_m=there[1],
            )
        return row, col

    def recorded_sweep(self, recipe: SpectrumRecipe, row: int, col: int) -> tuple[tuple[Channel, ...], bool]:
        """Channels as recorded (values (1, 1, points), float64) and whether any of them is at its rail."""
        against = self.check_recipe(recipe)
        channels, saturated = [], False
        for name, (unit, values) in self.channels.items():
            samples = values[row, col].astype(np.float64)
            if against:
                samples = samples[::-1].copy()
            if unit == "V" and float(np.abs(samples).max()) >= LOCKIN_RAIL_V:
                saturated = True
            channels.append(Channel(name=name, unit=unit, values=samples.reshape(1, 1, -1)))
        return tuple(channels), saturated
