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
from protocols.messages.recipes import Frame, SpectrumRecipe
from sim_hardware.surfaces.base import MixtureSurface, SurfaceObject
from sim_hardware.surfaces.spectra import Spectrum

Floats = npt.NDArray[np.float64]

TOLERANCE = 0.1
"""How far from a grid point a sweep may be, in pixels: the piezo's own reproducibility."""
LOCKIN_RAIL_V = 10.0
"""Output limit of the lock-in's analogue channels."""
_CHANNEL_NAMES = {
    "Current": "current",
    "LockinX": "lockin_x",
    "LockinY": "lockin_y",
    "LI Demod 1 X": "lockin_x",
    "LI Demod 1 Y": "lockin_y",
}


class RecordedSurface(MixtureSurface):
    """See the module's text.

    Raises:
        DriverError: the grid has no current or no Z.
    """

    def __init__(self, grid: NanonisGrid, name: str) -> None:
        self.grid = grid
        self.name = name
        self.extent_m = max(grid.width_m, grid.height_m)
        self.basis: tuple[Spectrum, ...] = (Spectrum("ohmic", 1.0),)
        self.objects: tuple[SurfaceObject, ...] = ()
        if "Z (m)" not in grid.parameters:
            raise DriverError(f"{grid.path} holds no parameter 'Z (m)', so it has no topograph.")
        self.topograph = grid.parameters["Z (m)"]
        """(ny, nx), m."""
        self.channels: dict[str, tuple[str, npt.NDArray[np.float32]]] = {}
        for label, values in grid.channels.items():
            name_, unit = name_and_unit(label)
            if name_ in _CHANNEL_NAMES:
                self.channels[_CHANNEL_NAMES[name_]] = (unit, values)
        if "current" not in self.channels:
            raise DriverError(f"{grid.path} holds no current ({', '.join(grid.channels)}).")

    @property
    def pixel_m(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        ny, nx = self.grid.shape
        return self.grid.width_m / nx, self.grid.height_m / ny

    def nearest(self, x_m: Floats, y_m: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row and col of the grid points nearest to positions."""
        ny, nx = self.grid.shape
        dx, dy = self.pixel_m
        col = np.clip(np.rint((np.asarray(x_m) - self.grid.x_m[0]) / dx), 0, nx - 1).astype(np.intp)
        row = np.clip(np.rint((np.asarray(y_m) - self.grid.y_m[0]) / dy), 0, ny - 1).astype(np.intp)
        return row, col

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) of the nearest pixel; for the Z-controller only."""
        return np.asarray(self.topograph[self.nearest(x_m, y_m)])

    def weights(self, x_m: Floats, y_m: Floats) -> Floats:
        """One everywhere: shape (1, *coordinates)."""
        return np.ones((1, *np.shape(x_m)))

    def spectrum_at(self, x_m: float, y_m: float) -> tuple[int, int]:
        """Row and col of the grid point at a position.

        Raises:
            DriverError: none is there; names the nearest one.
        """
        row, col = (int(i) for i in self.nearest(np.array(x_m), np.array(y_m)))
        there = float(self.grid.x_m[col]), float(self.grid.y_m[row])
        dx, dy = self.pixel_m
        if abs(x_m - there[0]) > TOLERANCE * dx or abs(y_m - there[1]) > TOLERANCE * dy:
            raise DriverError(
                f"nothing was recorded at ({x_m * 1e9:.4f} nm, {y_m * 1e9:.4f} nm): recorded spectra are "
                f"served at grid points only.",
                f"The nearest is row {row}, col {col} at ({there[0] * 1e9:.4f} nm, {there[1] * 1e9:.4f} nm).",
                nearest_x_m=there[0],
                nearest_y_m=there[1],
            )
        return row, col

    def check_recipe(self, recipe: SpectrumRecipe) -> bool:
        """Whether the sweep runs against the recorded direction.

        Raises:
            DriverError: the file does not hold what the recipe asks for; says what it holds.
        """
        start, stop, points = float(self.grid.sweep[0]), float(self.grid.sweep[-1]), len(self.grid.sweep)
        held = f"{self.grid.path.name} holds {start:g} V to {stop:g} V in {points} points, forward, once"
        same = np.allclose([recipe.start_v, recipe.stop_v], [start, stop], rtol=0, atol=1e-6)
        turned = np.allclose([recipe.start_v, recipe.stop_v], [stop, start], rtol=0, atol=1e-6)
        if not (same or turned) or recipe.points != points:
            raise DriverError(
                f"the recipe asks for {recipe.start_v:g} V to {recipe.stop_v:g} V in {recipe.points} points, "
                f"but {held}.",
                "Write the recorded values into the campaign's [spectrum].",
            )
        if recipe.backward or recipe.repeats != 1:
            raise DriverError(
                f"the recipe asks for {recipe.repeats} repeats, backward = {str(recipe.backward).lower()}, "
                f"but {held}.",
                "Set repeats = 1 and backward = false.",
            )
        if recipe.lockin is not None and "lockin_x" not in self.channels:
            raise DriverError(
                f"the recipe asks for the lock-in, but {self.grid.path.name} has no such channel."
            )
        return bool(turned and not same)

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

    def check_frame(self, recipe: Frame) -> None:
        """Refuse a frame whose pixels are not the grid's.

        Raises:
            DriverError: says what the grid is.
        """
        ny, nx = self.grid.shape
        dx, dy = self.pixel_m
        fits = (
            recipe.pixels == nx
            and recipe.lines == ny
            and abs(recipe.width_m - self.grid.width_m) < TOLERANCE * dx
            and abs(recipe.height_m - self.grid.height_m) < TOLERANCE * dy
            and abs(recipe.centre_x_m) < TOLERANCE * dx
            and abs(recipe.centre_y_m) < TOLERANCE * dy
            and abs(recipe.angle_rad) < 1e-6
        )
        if not fits:
            raise DriverError(
                f"the frame ({recipe.pixels} x {recipe.lines} pixels, {recipe.width_m * 1e9:g} x "
                f"{recipe.height_m * 1e9:g} nm about ({recipe.centre_x_m * 1e9:g}, "
                f"{recipe.centre_y_m * 1e9:g}) nm, {recipe.angle_rad:g} rad) is not what was recorded.",
                f"{self.grid.path.name} holds {nx} x {ny} pixels, {self.grid.width_m * 1e9:g} x "
                f"{self.grid.height_m * 1e9:g} nm about (0, 0), 0 rad.",
            )
