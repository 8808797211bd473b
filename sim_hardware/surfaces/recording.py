"""What every recorded sample offers to the world: frames and spectra as they were taken, and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.messages.data import Channel
from protocols.messages.recipes import Frame, SpectrumRecipe
from sim_hardware.surfaces.base import MixtureSurface, SurfaceObject
from sim_hardware.surfaces.spectra import Spectrum

Floats = npt.NDArray[np.float64]

TOLERANCE = 0.1
"""How far from a recorded place a sweep, and from the recorded frame a frame, may be, in pixels: the piezo's
own reproducibility."""


@runtime_checkable
class Recorded(Protocol):
    """A recorded sample.  Its frame lies about the origin of the sample's coordinates, unturned."""

    topograph: Floats
    """(ny, nx) heights (m), row 0 at the lowest y."""

    def check_frame(self, recipe: Frame) -> None:
        """Refuse a frame whose pixels are not the recorded ones.

        Raises:
            DriverError: says what was recorded.
        """

    def check_recipe(self, recipe: SpectrumRecipe) -> bool:
        """Whether the sweep runs against the recorded direction.

        Raises:
            DriverError: the recording does not hold what the recipe asks for; says what it holds.
        """

    def spectrum_at(self, x_m: float, y_m: float) -> tuple[int, int]:
        """Row and col of the topograph's pixel at which a spectrum was recorded here.

        Raises:
            DriverError: none was; names the nearest place.
        """

    def recorded_sweep(self, recipe: SpectrumRecipe, row: int, col: int) -> tuple[tuple[Channel, ...], bool]:
        """Channels as recorded (values (1, 1, points), float64) and whether any of them is at its rail."""


@dataclass(frozen=True)
class RecordedFrame:
    """The one frame that a file holds, about the origin, unturned; ``shape`` is (ny, nx)."""

    file_name: str
    shape: tuple[int, int]
    width_m: float
    height_m: float

    @property
    def pixel_m(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        ny, nx = self.shape
        return self.width_m / nx, self.height_m / ny

    def misses(self, place: tuple[float, float], x_m: float, y_m: float) -> bool:
        """Whether a position is too far from a recorded place (m) to be meant for it."""
        dx, dy = self.pixel_m
        return abs(x_m - place[0]) > TOLERANCE * dx or abs(y_m - place[1]) > TOLERANCE * dy

    def check(self, recipe: Frame) -> None:
        """Refuse a frame whose pixels are not the recorded ones.

        Raises:
            DriverError: says what was recorded.
        """
        ny, nx = self.shape
        dx, dy = self.pixel_m
        fits = (
            recipe.pixels == nx
            and recipe.lines == ny
            and abs(recipe.width_m - self.width_m) < TOLERANCE * dx
            and abs(recipe.height_m - self.height_m) < TOLERANCE * dy
            and abs(recipe.centre_x_m) < TOLERANCE * dx
            and abs(recipe.centre_y_m) < TOLERANCE * dy
            and abs(recipe.angle_rad) < 1e-6
        )
        if not fits:
            raise DriverError(
                f"the frame ({recipe.pixels} x {recipe.lines} pixels, {recipe.width_m * 1e9:g} x "
                f"{recipe.height_m * 1e9:g} nm about ({recipe.centre_x_m * 1e9:g}, "
                f"{recipe.centre_y_m * 1e9:g}) nm, {recipe.angle_rad:g} rad) is not what was recorded.",
                f"{self.file_name} holds {nx} x {ny} pixels, {self.width_m * 1e9:g} x "
                f"{self.height_m * 1e9:g} nm about (0, 0), 0 rad.",
            )


@dataclass(frozen=True)
class RecordedSweep:
    """The one sweep that all spectra of a file were taken with: forward, once."""

    file_name: str
    bias_v: Floats
    """(points,)."""
    tolerance_v: float
    """How far the ends of a recipe may be from the recorded ones."""
    lockin: bool
    """Whether the lock-in was recorded."""
    digits: str = ""
    """How biases are written in texts, as the precision of a format: for example ".4"."""

    def check(self, recipe: SpectrumRecipe) -> bool:
        """Whether the sweep runs against the recorded direction.

        Raises:
            DriverError: the file does not hold what the recipe asks for; says what it holds.
        """
        start, stop, points = float(self.bias_v[0]), float(self.bias_v[-1]), len(self.bias_v)
        form = f"{self.digits}g"
        held = f"{self.file_name} holds {start:{form}} V to {stop:{form}} V in {points} points, forward, once"
        asked = [recipe.start_v, recipe.stop_v]
        same = np.allclose(asked, [start, stop], rtol=0, atol=self.tolerance_v)
        turned = np.allclose(asked, [stop, start], rtol=0, atol=self.tolerance_v)
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
        if recipe.lockin is not None and not self.lockin:
            raise DriverError(f"the recipe asks for the lock-in, but {self.file_name} has no such channel.")
        return bool(turned and not same)


class RecordedRelief(MixtureSurface):
    """A surface that the world's controller can stand on: the height of the nearest recorded pixel.

    Subclasses say which pixel that is, and where there are spectra.
    """

    def __init__(self, name: str, frame: RecordedFrame, sweep: RecordedSweep, topograph: Floats) -> None:
        self.name = name
        self.frame, self.sweep = frame, sweep
        self.extent_m = max(frame.width_m, frame.height_m)
        self.basis: tuple[Spectrum, ...] = (Spectrum("ohmic", 1.0),)
        self.objects: tuple[SurfaceObject, ...] = ()
        self.topograph = topograph
        """(ny, nx), m."""

    @property
    def pixel_m(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        return self.frame.pixel_m

    @abstractmethod
    def nearest(self, x_m: Floats, y_m: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row and col of the pixels nearest to positions."""

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) of the nearest pixel; for the Z-controller only."""
        return np.asarray(self.topograph[self.nearest(x_m, y_m)])

    def weights(self, x_m: Floats, y_m: Floats) -> Floats:
        """One everywhere: shape (1, *coordinates)."""
        return np.ones((1, *np.shape(x_m)))

    def check_frame(self, recipe: Frame) -> None:
        """Refuse a frame whose pixels are not the recorded ones.

        Raises:
            DriverError: says what was recorded.
        """
        self.frame.check(recipe)

    def check_recipe(self, recipe: SpectrumRecipe) -> bool:
        """Whether the sweep runs against the recorded direction.

        Raises:
            DriverError: the file does not hold what the recipe asks for; says what it holds.
        """
        return self.sweep.check(recipe)
