"""From raster lines, as they come, to the images of a frame.

Lines may come in any order (downward scans, resumed streams) and more than once; what is missing at the end
is NaN and said.  Images are (2, lines, pixels) float32: first axis forward/backward, row 0 at the lowest y,
col 0 at the lowest x for both directions, as the driver delivers them.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import PeerError
from protocols.messages.data import FrameLines
from protocols.messages.recipes import Frame
from protocols.messages.records import FrameImage, FrameTaken, Transform

FloatImages = npt.NDArray[np.float32]


class FrameDataError(PeerError):
    """Lines came that do not belong to the frame that was asked for."""

    code = "frame-data"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a frame is."""

    lines: int
    """Lines present, over all images."""
    expected: int
    missing: tuple[tuple[int, int], ...]
    """(image, row) of every line that is not there."""
    duplicates: int
    """Lines that came again; the first one is kept."""

    @property
    def complete(self) -> bool:
        """Every line of every image is there."""
        return not self.missing

    @property
    def share(self) -> float:
        """Lines present over lines expected, 0 to 1."""
        return self.lines / self.expected


class FrameAssembler:
    """Puts the lines of one job together.

    Args:
        recipe: The frame asked for.
        biases_v: Bias of each image; empty: one image at the recipe's bias.
    """

    def __init__(self, recipe: Frame, biases_v: tuple[float, ...] = ()) -> None:
        self.recipe = recipe
        self.biases_v = biases_v or (recipe.bias_v,)
        self._seen = np.zeros((len(self.biases_v), recipe.lines), dtype=np.bool_)
        self._channels: dict[tuple[int, str], FloatImages] = {}
        self._units: dict[str, str] = {}
        self._duplicates = 0
        self.first_s: float | None = None
        """Instrument time of the first line that came (s)."""

    def add(self, lines: FrameLines) -> None:
        """Take some lines in.  A line that is already there is counted and left as it was.

        Raises:
            FrameDataError: rows, image, channels or shapes are not those of this frame; nothing is taken.
        """
        self._check(lines)
        fresh, place = [], []
        for k, row in enumerate(lines.rows):
            if self._seen[lines.image, row] or row in place:
                self._duplicates += 1
            else:
                fresh.append(k)
                place.append(row)
        if self.first_s is None or lines.time_s < self.first_s:
            self.first_s = lines.time_s
        for channel in lines.channels:
            self._units.setdefault(channel.name, channel.unit)
            image = self._image(lines.image, channel.name)
            values = np.asarray(channel.values, dtype=np.float32)
            for k, row in zip(fresh, place, strict=True):
                image[: values.shape[1], row] = values[k]
        self._seen[lines.image, place] = True

    @property
    def progress(self) -> Progress:
        """What is there and what is missing."""
        missing = tuple((int(i), int(row)) for i, row in np.argwhere(~self._seen))
        return Progress(
            lines=int(self._seen.sum()),
            expected=int(self._seen.size),
            missing=missing,
            duplicates=self._duplicates,
        )

    def images(self) -> tuple[FrameImage, ...]:
        """The images as far as they are there, by bias, then channel in order of appearance; NaN elsewhere.

        A channel that came in one direction only has NaN in the other.
        """
        return tuple(
            FrameImage(
                channel=name,
                unit=self._units[name],
                bias_v=self.biases_v[image],
                values=values.copy(),
            )
            for (image, name), values in sorted(self._channels.items(), key=lambda item: item[0][0])
        )

    def _image(self, image: int, name: str) -> FloatImages:
        shape = (2, self.recipe.lines, self.recipe.pixels)
        key = (image, name)
        if key not in self._channels:
            self._channels[key] = np.full(shape, np.nan, dtype=np.float32)
        return self._channels[key]

    def _check(self, lines: FrameLines) -> None:
        recipe = self.recipe
        if not 0 <= lines.image < len(self.biases_v):
            raise FrameDataError(f"lines of image {lines.image} in a frame of {len(self.biases_v)} images.")
        outside = [row for row in lines.rows if not 0 <= row < recipe.lines]
        if outside:
            raise FrameDataError(f"row {outside[0]} in a frame of {recipe.lines} lines.")
        if not lines.channels:
            raise FrameDataError("lines without any channel.")
        for channel in lines.channels:
            shape = np.shape(channel.values)
            if len(shape) != 3 or shape[0] != len(lines.rows) or shape[2] != recipe.pixels:
                raise FrameDataError(
                    f"{channel.name} of shape {shape} for {len(lines.rows)} lines of {recipe.pixels} pixels."
                )
            if shape[1] not in (1, 2):
                raise FrameDataError(f"{channel.name} in {shape[1]} directions; 1 or 2 are possible.")
            known = self._units.get(channel.name, channel.unit)
            if known != channel.unit:
                raise FrameDataError(f"{channel.name} changed its unit from {known} to {channel.unit}.")


def frame_taken(
    job_id: str,
    window: int,
    recipe: Frame,
    assembler: FrameAssembler,
    transform: Transform,
    times_s: tuple[float, float],
    quality: tuple[str, str],
) -> FrameTaken:
    """The journal's record of a frame.

    Its centre in sample coordinates is where ``transform`` puts the recipe's centre in the middle of the
    frame, as the recipe was planned.

    Args:
        job_id: As "run/f0003/a1".
        window: Index of the window; -1: none.
        recipe: In piezo coordinates.
        assembler: Holds the lines.
        transform: In force when the recipe was planned.
        times_s: Instrument time of begin and end.
        quality: Verdict and note of ``check_frame``.
    """
    began, ended = times_s
    x, y = transform.to_sample(recipe.centre_x_m, recipe.centre_y_m, (began + ended) / 2)
    return FrameTaken(
        job_id=job_id,
        window=window,
        purpose=recipe.purpose,
        images=assembler.images(),
        centre_x_m=x,
        centre_y_m=y,
        width_m=recipe.width_m,
        height_m=recipe.height_m,
        angle_rad=recipe.angle_rad,
        transform=transform,
        began_s=began,
        ended_s=ended,
        quality=quality[0],
        quality_note=quality[1],
    )
