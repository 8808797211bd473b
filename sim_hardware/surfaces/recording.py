"""What every recorded sample offers to the world: frames and spectra as they were taken, and nothing else."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from protocols.messages.data import Channel
from protocols.messages.recipes import Frame, SpectrumRecipe

Floats = npt.NDArray[np.float64]


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
