"""Frames: what the electronics are told, and reading them out line by line while they scan.

The live frame is asked for as a whole, now and then; a line is handed on when all its pixels, both ways and
in every channel, are there.  What was not scanned yet is NaN; where the electronics do not clear old data at
the start, lines of which an end looks exactly as before count as not scanned until the scan is over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.gateway.drivers.nanonis.channel import Ask
from actors.gateway.drivers.nanonis.clock import InstrumentClock, pause
from actors.gateway.drivers.nanonis.identity import Signals
from actors.gateway.drivers.nanonis.panel import Panel, Setting
from actors.gateway.foreign_changes import ForeignChangeError
from protocols.errors import DriverError, UsageError
from protocols.messages.data import Channel, FrameLines
from protocols.messages.recipes import Frame
from protocols.nanonis.conventions import (
    FrameArea,
    check_pixels,
    frame_arguments,
    frame_from_grab,
    scanned_lines,
    speed_arguments,
)

Lines = npt.NDArray[np.float64]

AREA = Setting("Scan.Frame")
BUFFER = Setting("Scan.Buffer")
SPEED = Setting("Scan.Speed")
PROPS = Setting("Scan.Props")

CHANNELS = (("z", "m", "z"), ("current", "A", "current"))
"""Our name, unit, key of ``conventions.SIGNAL_NAMES``."""

DIRECTIONS = ("forward", "backward")

LOOK_S = 0.25
"""Shortest wall time between looks at the live frame: the electronics do not like to be asked often."""
LOOK_SIMULATED_S = 0.02
LONGEST_LOOK_S = 0.5
"""A park must not wait for us: the end of a scan is noticed within this."""

GRAB_S = 10.0
BEGIN_S = 5.0
"""Wall seconds within which a scan that was started runs."""
GRACE_S = 10.0
IN_DUE_TIME = 0.5
"""A scan that is over before this share of its time did not scan everything anew."""


def configure(panel: Panel, signals: Signals, recipe: Frame, series: str) -> list[int]:
    """Tell the electronics everything about the frame; all of it is read back.  Places of the channels.

    Raises:
        DriverError: the pixels are not possible, a value was not taken, or a signal is missing.
    """
    try:
        check_pixels(recipe.pixels)
    except UsageError as impossible:
        raise DriverError(impossible.text, impossible.advice, **impossible.details) from None
    places = [signals.require(key) for _, _, key in CHANNELS]
    panel.remember(AREA, BUFFER, SPEED, PROPS)  # speed and buffer follow the area
    panel.ensure(AREA, **_where(recipe))
    panel.ensure(BUFFER, channel_indexes=places, pixels=recipe.pixels, lines=recipe.lines)
    panel.ensure(SPEED, **speed_arguments(recipe.width_m, recipe.line_time_s))
    wanted: dict[str, Any] = {"continuous_scan": False, "bouncy_scan": False}
    if panel.tells_all(PROPS):
        wanted["series_name"] = series
    panel.ensure(PROPS, **wanted)
    return places


def require_unmoved(panel: Panel, recipe: Frame) -> None:
    """The frame lies, at its end, where it was told to lie.

    Raises:
        ForeignChangeError: somebody has moved it meanwhile.
    """
    changed = panel.changed(AREA, **_where(recipe))
    if changed:
        raise ForeignChangeError.of("during the frame", changed)


def reach_s(recipe: Frame, x_m: float, y_m: float, speeds_m_s: Iterable[float]) -> float:
    """Seconds from a place to the frame's farthest corner, at the slowest of these speeds that is one."""
    away = math.hypot(recipe.centre_x_m - x_m, recipe.centre_y_m - y_m)
    away += 0.5 * math.hypot(recipe.width_m, recipe.height_m)
    return away / min([recipe.width_m / recipe.line_time_s, *(v for v in speeds_m_s if v > 0.0)])


def _where(recipe: Frame) -> dict[str, Any]:
    area = FrameArea(
        centre_x_m=recipe.centre_x_m,
        centre_y_m=recipe.centre_y_m,
        width_m=recipe.width_m,
        height_m=recipe.height_m,
        angle_rad=recipe.angle_rad,
    )
    return dict(frame_arguments(area))


class LiveFrame:
    """One scan, from its start to its last line.  ``stop`` ends it from outside its own connection.

    ``reach_s``: instrument seconds that the tip may take to its first line.
    """

    def __init__(
        self,
        ask: Ask,
        stop: Callable[[], None],
        clock: InstrumentClock,
        recipe: Frame,
        places: list[int],
        look_s: float,
        reach_s: float = 0.0,
    ) -> None:
        self._reach_s = reach_s
        self._ask, self._stop, self._clock = ask, stop, clock
        self._recipe, self._places = recipe, places
        self._look_s = look_s
        self._old: Lines | None = None

    def lines(self) -> Iterator[FrameLines]:
        """Start it and hand out its lines; closing the iterator stops it.

        Raises:
            DriverError: it ended before its last line, or came to a standstill.
        """
        recipe = self._recipe
        before = self._grab(begun=False)
        direction = "up" if recipe.upward else "down"
        began_s = time.monotonic()
        over = False
        try:
            self._ask("Scan.Action", action="start", direction=direction)
        except DriverError as problem:
            if problem.details.get("outcome") == "unknown":
                self._stop_quietly()
            raise
        try:
            done = 0
            self._await_begin()
            first = self._grab(begun=False)
            self._old = before if self._shows_old(first, before) else None
            progress_s = time.monotonic()
            while done < recipe.lines:
                running = bool(self._ask("Scan.StatusGet")["status"])
                found = self._grab()
                now_s = time.monotonic()
                elapsed_s = (now_s - began_s) * self._clock.scale
                whole = self._whole(found, over=not running, elapsed_s=elapsed_s)
                if whole > done:
                    yield self._piece(found, done, whole, self._clock.now())
                    done, progress_s = whole, time.monotonic()
                elif not running:
                    over = True
                    raise DriverError(
                        f"the frame ended after {done} of {recipe.lines} lines.",
                        "It was stopped, or the tip was withdrawn meanwhile.",
                    )
                elif now_s - progress_s > self._patience_s(done):
                    raise DriverError(
                        f"awaited line {done} of a frame for {now_s - progress_s:.1f} s; "
                        f"the scan still runs.",
                        "Look at the electronics.",
                    )
                elif done < recipe.lines:
                    pause(self._pause_s())
            over = not self._still_runs()
        finally:
            if not over:
                self._stop_quietly()

    def _patience_s(self, done: int) -> float:
        """Wall seconds after which a scan that brings no further line stands still."""
        awaited = 4.0 * self._recipe.line_time_s + (0.0 if done else 1.5 * self._reach_s)
        return awaited / self._clock.scale + GRACE_S

    def _pause_s(self) -> float:
        """Wall seconds until it is worth looking again: a line both ways, within reason."""
        line_s = 2.0 * self._recipe.line_time_s / self._clock.scale
        return min(max(line_s, self._look_s), LONGEST_LOOK_S)

    def _await_begin(self) -> None:
        """A start is carried out a little later than it is answered."""
        until = time.monotonic() + BEGIN_S
        while not self._ask("Scan.StatusGet")["status"]:
            if self._whole(self._grab(begun=False), over=False, elapsed_s=0.0) >= self._recipe.lines:
                return  # it is over already: simulated time can be fast
            if time.monotonic() > until:
                raise DriverError(
                    f"the scan did not begin within {BEGIN_S:g} s of its start.", "Look at the electronics."
                )
            pause(self._look_s)

    def _still_runs(self) -> bool:
        """Whether the scan does not end by itself right after its last line."""
        until = time.monotonic() + GRACE_S
        while self._ask("Scan.StatusGet")["status"]:
            if time.monotonic() > until:
                return True
            pause(min(self._look_s, LOOK_SIMULATED_S))
        return False

    def _grab(self, begun: bool = True) -> Lines:
        """The live frame, (channels, directions, lines, pixels), row 0 at the lowest y.  Before it has
        ``begun`` it may still be the one before, of another size: that shows nothing of ours.

        Raises:
            DriverError: it is of another size than was asked for.
        """
        shape = (self._recipe.lines, self._recipe.pixels)
        frames = []
        for place in self._places:
            for direction in DIRECTIONS:
                answer = self._ask(
                    "Scan.FrameDataGrab", answer_s=GRAB_S, channel_index=place, direction=direction
                )
                found = frame_from_grab(answer["data"])
                if found.size == 0 or (found.shape != shape and not begun):
                    found = np.full(shape, np.nan)
                if found.shape != shape:
                    raise DriverError(
                        f"the live frame has {found.shape[0]} lines of {found.shape[1]} pixels; "
                        f"{shape[0]} of {shape[1]} were asked for.",
                        "See who else sets the scan.",
                    )
                frames.append(found)
        return np.stack(frames).reshape(len(self._places), len(DIRECTIONS), *shape)

    def _shows_old(self, found: Lines, before: Lines) -> bool:
        """Whether the frame still shows lines of the scan before, which nobody can have scanned yet."""
        known = np.isfinite(before).all(axis=(0, 1, 3))
        return bool(known.any()) and bool((found == before).all(axis=(0, 1, 3))[known].any())

    def _whole(self, found: Lines, *, over: bool, elapsed_s: float) -> int:
        """How many lines from the scan's first are whole in every channel and direction."""
        recipe = self._recipe
        unscanned = self._ends_in(found, np.zeros_like(found))
        if self._old is not None and not (
            over and elapsed_s >= self._reach_s + IN_DUE_TIME * self._expected_s
        ):
            unscanned |= self._ends_in(found, self._old)
        found = np.where(unscanned[:, None], np.nan, found)
        flat = found.transpose(2, 0, 1, 3).reshape(recipe.lines, -1)
        return scanned_lines(flat, upward=recipe.upward)

    @staticmethod
    def _ends_in(found: Lines, filler: Lines) -> npt.NDArray[np.bool_]:
        """Lines one end of which, one way, still is what was there before the scan, in every channel."""
        as_before = (found == filler)[..., [0, -1]].all(axis=0)
        ends: npt.NDArray[np.bool_] = as_before.any(axis=(0, 2))
        return ends

    @property
    def _expected_s(self) -> float:
        return 2.0 * self._recipe.lines * self._recipe.line_time_s

    def _piece(self, found: Lines, first: int, last: int, time_s: float) -> FrameLines:
        """Lines ``first`` to ``last`` in the order of the scan."""
        count = self._recipe.lines
        rows = [i if self._recipe.upward else count - 1 - i for i in range(first, last)]
        channels = tuple(
            Channel(name=name, unit=unit, values=found[k][:, rows].transpose(1, 0, 2).astype(np.float32))
            for k, (name, unit, _) in enumerate(CHANNELS)
        )
        return FrameLines(rows=tuple(rows), channels=channels, time_s=time_s)

    def _stop_quietly(self) -> None:
        try:
            self._stop()
        except DriverError:
            pass  # the iterator ends because of another error, which is the one to be told


def look_s(simulated: bool) -> float:
    """Shortest wall time between looks at a live frame."""
    return LOOK_SIMULATED_S if simulated else LOOK_S
