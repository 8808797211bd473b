"""The vendor's conventions and ours: angles, rows, frames, sweeps, times, signals.

Ours: SI units, angles counter-clockwise in rad, arrays [row, col] with row 0 at the lowest y and col 0 at the
lowest x of the frame's own axes, positive z away from the sample.  Theirs: SI units too, but angles clockwise
in degrees, row 0 of a live frame at the top, time-outs in ms.  Bias (sample against tip), the sign of z and
of the Z offset before a sweep are the same in both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import MalformedMessageError, UsageError
from protocols.nanonis.types import Value

Floats = npt.NDArray[np.float64]

PORTS = (6501, 6502, 6503, 6504)
"""The ports that every public client assumes; one client per port."""

PIXEL_STEP = 16
"""Pixels per line come in multiples of this."""

FOREVER_MS = -1

WINDOWS_NEEDED = frozenset({"BiasSpectr", "ZSpectr", "TipShaper", "AutoApproach", "TCPLog", "DataLog"})
"""Modules whose commands fail until their window is open (by ``X.Open`` where there is such a command)."""

SIGNALS = {"current": 0, "bias": 24, "z": 30, "lock-in x": 86, "lock-in y": 87}
"""Indices of signals in the list of 128 (since about release 11798).  A laboratory's options may change them:
look names up where it matters (``signal_index``)."""

SIGNAL_NAMES = {
    "current": "Current (A)",
    "bias": "Bias (V)",
    "z": "Z (m)",
    "x": "X (m)",
    "y": "Y (m)",
    "lock-in x": "LI Demod 1 X (A)",
    "lock-in y": "LI Demod 1 Y (A)",
}
"""Their usual names, as Signals.NamesGet lists them."""


# Angles and frames


def angle_rad(angle_deg: float) -> float:
    """Our angle (rad, counter-clockwise) of theirs (deg, clockwise)."""
    return -math.radians(angle_deg) + 0.0


def angle_deg(angle_rad: float) -> float:
    """Their angle (deg, clockwise) of ours (rad, counter-clockwise)."""
    return -math.degrees(angle_rad) + 0.0


class FrameArea(msgspec.Struct, frozen=True, kw_only=True):
    """Where a frame or grid lies: piezo coordinates of its centre, its sides, its rotation in our sense."""

    centre_x_m: float
    centre_y_m: float
    width_m: float
    height_m: float
    angle_rad: float = 0.0


def frame_arguments(area: FrameArea) -> dict[str, float]:
    """The area as Scan.FrameSet and Pattern.GridSet take it."""
    return {
        "centre_x_m": area.centre_x_m,
        "centre_y_m": area.centre_y_m,
        "width_m": area.width_m,
        "height_m": area.height_m,
        "angle_deg": angle_deg(area.angle_rad),
    }


def frame_area(values: Mapping[str, Any]) -> FrameArea:
    """The area from what Scan.FrameGet or Pattern.GridGet answered (or FrameSet was told)."""
    return FrameArea(
        centre_x_m=float(values["centre_x_m"]),
        centre_y_m=float(values["centre_y_m"]),
        width_m=float(values["width_m"]),
        height_m=float(values["height_m"]),
        angle_rad=angle_rad(float(values["angle_deg"])),
    )


def piezo_limits(range_m: float) -> tuple[float, float]:
    """Lowest and highest coordinate (m) of an axis of full travel ``range_m``, as Piezo.RangeGet tells it."""
    return -range_m / 2, range_m / 2


def coerced_pixels(pixels: int) -> int:
    """What the electronics make of a number of pixels per line: the closest multiple of 16, at least 16.

    Midway it is the even multiple, the rounding of the language the electronics' software is written in.
    """
    return max(PIXEL_STEP, PIXEL_STEP * round(pixels / PIXEL_STEP))


def check_pixels(pixels: int) -> None:
    """Refuse a number of pixels per line that the electronics would change.

    Raises:
        UsageError: it is no positive multiple of 16; the text names the next ones.
    """
    if pixels > 0 and pixels % PIXEL_STEP == 0:
        return
    below = PIXEL_STEP * max(1, pixels // PIXEL_STEP)
    raise UsageError(
        f"{pixels} pixels per line: the electronics take multiples of {PIXEL_STEP} only.",
        f"Take {below} or {below + PIXEL_STEP}.",
        pixels=pixels,
    )


def speed_arguments(width_m: float, line_time_s: float, ratio: float = 1.0) -> dict[str, Any]:
    """Arguments of Scan.SpeedSet (meanings, see ``codings``) for a forward line of ``line_time_s``.

    ``ratio`` is the backward speed over the forward speed.

    Raises:
        UsageError: a length, time or ratio that is not positive and finite.
    """
    for name, value in (("width_m", width_m), ("line_time_s", line_time_s), ("ratio", ratio)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} = {value}: a positive number is needed.")
    speed = width_m / line_time_s
    return {
        "forward_linear_speed_m_s": speed,
        "backward_linear_speed_m_s": speed * ratio,
        "forward_time_per_line_s": line_time_s,
        "backward_time_per_line_s": line_time_s / ratio,
        "keep_constant": "time per line",
        "speed_ratio": ratio,
    }


# Rows and columns


def frame_from_grab(data: npt.ArrayLike, *, zeros_unscanned: bool = True, mirrored: bool = False) -> Floats:
    """A frame in our order, (lines, pixels), from Scan.FrameDataGrab's data, whose row 0 is the top edge.

    NaN is what was not scanned yet.  Some servers say so by rows of zeros: these become NaN too, unless
    ``zeros_unscanned`` is off.  ``mirrored`` turns the columns round, for electronics that hand out backward
    data in the order of travel; normally both directions lie on the same x.

    Raises:
        MalformedMessageError: the data are not two-dimensional.
    """
    grabbed = np.asarray(data)
    if grabbed.ndim != 2:
        raise MalformedMessageError(f"frame data of {grabbed.ndim} dimensions instead of 2.")
    frame: Floats = grabbed[::-1, :: -1 if mirrored else 1].astype(np.float64)
    if zeros_unscanned and frame.size:
        frame[np.all(frame == 0, axis=1)] = np.nan
    return frame


def grab_from_frame(frame: npt.ArrayLike, *, mirrored: bool = False) -> npt.NDArray[np.float32]:
    """What Scan.FrameDataGrab hands out for a frame in our order; NaN where nothing was scanned yet."""
    return np.ascontiguousarray(np.asarray(frame)[::-1, :: -1 if mirrored else 1], np.float32)


def scanned_lines(frame: npt.ArrayLike, *, upward: bool) -> int:
    """How many lines of a frame in our order are whole, counted from the side where the scan began."""
    whole = np.all(np.isfinite(np.asarray(frame)), axis=1)
    ordered = whole if upward else whole[::-1]
    return len(ordered) if bool(ordered.all()) else int(np.argmin(ordered))


def frame_from_file(data: npt.ArrayLike, *, upward: bool, backward: bool) -> Floats:
    """A frame in our order from a ``.sxm`` file's data, which are stored in the order of acquisition.

    An upward scan begins with the bottom line, a downward scan with the top line; a backward line begins at
    the right.
    """
    stored = np.asarray(data, np.float64)
    return np.ascontiguousarray(stored[:: 1 if upward else -1, :: -1 if backward else 1])


def file_from_frame(frame: npt.ArrayLike, *, upward: bool, backward: bool) -> npt.NDArray[np.float32]:
    """The inverse of ``frame_from_file``: rows and columns in the order in which they were measured."""
    return np.ascontiguousarray(
        np.asarray(frame)[:: 1 if upward else -1, :: -1 if backward else 1], np.float32
    )


# Sweeps


class ChannelName(msgspec.Struct, frozen=True):
    """A channel's name in parts: "Current [bwd] (A)" is quantity "Current", tags ("bwd",), unit "A"."""

    quantity: str
    unit: str = ""
    tags: tuple[str, ...] = ()

    @property
    def backward(self) -> bool:
        """Whether these are the data of the way back."""
        return "bwd" in self.tags

    def __str__(self) -> str:
        tags = "".join(f" [{tag}]" for tag in self.tags)
        return f"{self.quantity}{tags}" + (f" ({self.unit})" if self.unit else "")


_CHANNEL = re.compile(r"(?P<quantity>[^\[\]]*?)(?P<tags>(?:\s*\[[^\[\]]*\])*)(?:\s*\((?P<unit>[^()]*)\))?")


def channel_name(text: str) -> ChannelName:
    """A channel's name taken apart; what does not fit the pattern is all quantity."""
    match = _CHANNEL.fullmatch(text.strip())
    if match is None or not match["quantity"]:
        return ChannelName(text.strip())
    tags = tuple(re.findall(r"\[([^\[\]]*)\]", match["tags"] or ""))
    return ChannelName(match["quantity"].strip(), match["unit"] or "", tags)


def sweep_channels(names: Sequence[str], data: npt.ArrayLike) -> dict[str, Floats]:
    """The channels of BiasSpectr.Start or ZSpectr.Start by name, each (points,); the swept one comes first.

    Raises:
        MalformedMessageError: the number of names is not the number of rows, or a name comes twice.
    """
    rows = np.asarray(data)
    if rows.ndim != 2 or len(rows) != len(names):
        raise MalformedMessageError(f"a sweep of shape {rows.shape} with {len(names)} channel names.")
    if len(set(names)) != len(names):
        raise MalformedMessageError(f"a sweep whose channel names repeat: {', '.join(names)}.")
    return {name: row.astype(np.float64) for name, row in zip(names, rows, strict=True)}


def signal_index(names: Sequence[str], name: str) -> int:
    """The index of a signal in Signals.NamesGet's list; the unit may be left out of ``name``.

    Raises:
        UsageError: there is none of that name; the text lists what there is.
    """
    for candidate in (lambda text: text == name, lambda text: channel_name(text).quantity == name):
        for index, text in enumerate(names):
            if candidate(text):
                return index
    raise UsageError(f"no signal {name!r} among: {', '.join(text for text in names if text)}.", name=name)


# Times


def timeout_ms(timeout_s: float | None) -> int:
    """A time-out as the electronics take it; None waits for ever.

    Raises:
        UsageError: negative, not a number, or beyond 24 days (int32).
    """
    if timeout_s is None:
        return FOREVER_MS
    if not 0 <= timeout_s * 1000 <= 2**31 - 1:
        raise UsageError(f"a time-out of {timeout_s} s: 0 to {(2**31 - 1) // 1000} s are possible.")
    return math.ceil(round(timeout_s * 1000, 6))


def timeout_s(timeout_ms: int) -> float | None:
    """Seconds of a time-out in ms; None if it waits for ever."""
    return None if timeout_ms < 0 else timeout_ms / 1000


_ALWAYS_WAIT = frozenset({"biasspectr.start", "zspectr.start", "biasswp.start", "genswp.start"})


def longest_wait_s(command: str, arguments: Mapping[str, Value]) -> float | None:
    """How long a command may keep its connection busy by design: 0, seconds, or None (as long as it takes).

    A sweep is waited for even when its data are not asked for.  Others wait if their argument ``wait`` says
    so, for their ``timeout_ms`` where they have one.  What must be possible meanwhile (stop, withdraw)
    belongs on another connection.
    """
    if command.lower() in _ALWAYS_WAIT:
        return None
    waits = bool(arguments["wait"]) if "wait" in arguments else command.lower().startswith("scan.waitend")
    if not waits:
        return 0.0
    limit = arguments.get("timeout_ms")
    return timeout_s(limit) if isinstance(limit, int) else None
