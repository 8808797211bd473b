"""The search over scales as a state machine: a window's results go in, what to do next comes out.

It goes down through the campaign's widths.  When what led into a smaller window is not found again there
(false convergence, which Narasimha et al. warn of), it goes back and takes the next alternative, a
bounded number of times, with the reason.  Rebuilt after a restart by feeding it the finished windows
again: it is deterministic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from actors.analysis.scalarizers import STANDS_OUT, Background, background_of
from actors.zoom_supervisor.windows import (
    MeasuredPoint,
    Window,
    WindowChoice,
    WindowResult,
    best_supported,
    choose_window,
)
from protocols.errors import UsageError
from protocols.messages.campaign import ZoomSection

MAX_RETURNS = 3
"""How often the search goes back before it concludes that nothing was confirmed."""
CONFIRMED_SHARE = 0.4
"""A find is confirmed when a spectrum in the smaller window reaches this share of its height above the
background."""
DOUBT_AFTER = 15
"""Valid spectra in a window before what led there may be called a false find."""


@dataclass(frozen=True)
class OpenWindow:
    """Take a frame here and plan in it.  ``handed_down``: places (m) that should be measured first."""

    window: Window
    reason: str
    score: float
    alternatives: tuple[tuple[float, float, float], ...] = ()
    handed_down: tuple[tuple[float, float], ...] = ()
    going_back: bool = False


@dataclass(frozen=True)
class Conclude:
    """The campaign is over.  ``confirmed``: the best point was found again at the smallest scale (or
    there was but one window)."""

    reason: str
    best: MeasuredPoint | None
    confirmed: bool
    window: int


Instruction: TypeAlias = OpenWindow | Conclude


@dataclass(frozen=True)
class _Lead:
    """What sent the search into a window, and what else it could follow from the parent."""

    expected: float
    background: Background | None
    untried: tuple[tuple[float, float, float], ...]
    parent: Window
    choice: WindowChoice


class ZoomSearch:
    """Events: :meth:`start`, :meth:`finished`; :meth:`should_revisit` may be asked in between.

    Args:
        section: the campaign's windows.
        seed: of the random choice of windows (control).
        max_returns: how often it may go back.

    Raises:
        UsageError: no width is given, or they do not decrease.
    """

    def __init__(self, section: ZoomSection, seed: int, max_returns: int = MAX_RETURNS) -> None:
        widths = section.widths_m
        if not widths or any(w <= 0 for w in widths):
            raise UsageError(f"zoom.widths_m needs at least one positive width, it is {widths}")
        if any(b >= a for a, b in itertools.pairwise(widths)):
            raise UsageError(f"zoom.widths_m must decrease, it is {widths}")
        self.section = section
        self.seed = seed
        self.max_returns = max_returns
        self.returns = 0
        self.window: Window | None = None
        self.concluded: Conclude | None = None
        self._lead: _Lead | None = None
        self._points: list[tuple[MeasuredPoint, Window]] = []
        self._opened = 0

    def start(self) -> OpenWindow:
        """The first window.

        Raises:
            UsageError: it is open already.
        """
        if self.window is not None:
            raise UsageError("the search has begun already")
        s = self.section
        self.window = Window(0, 0, s.centre_x_m, s.centre_y_m, s.widths_m[0], s.angle_rad)
        self._opened = 1
        return OpenWindow(self.window, "the campaign's first window", 0.0)

    def should_revisit(self, points: Sequence[MeasuredPoint], final: bool = False) -> str:
        """Why what led into the present window is not there after all; "" while it is there, or cannot be
        told yet.

        May be asked after every spectrum with the window's points so far: a window that cannot hold what
        was promised need not be measured to its end.  Nothing is said before ``DOUBT_AFTER`` valid
        points (the handed-down places and their surroundings come first), unless these are ``final``.
        """
        lead = self._lead
        if lead is None or lead.background is None or not math.isfinite(lead.expected):
            return ""
        values = [p.value for p in points if math.isfinite(p.value)]
        if not values or (len(values) < DOUBT_AFTER and not final):
            return ""
        needed = lead.background.level + CONFIRMED_SHARE * (lead.expected - lead.background.level)
        if max(values) >= needed:
            return ""
        return (
            f"the scalar {lead.expected:.3g} that led here was not found again: the largest of {len(values)} "
            f"spectra is {max(values):.3g}, {needed:.3g} would confirm it "
            f"(background {lead.background.level:.3g})"
        )

    def finished(self, result: WindowResult) -> Instruction:
        """The present window is done: what next.

        Raises:
            UsageError: no window is open, or the search is over.
        """
        if self.window is None or self.concluded is not None:
            raise UsageError("no window is open" if self.window is None else "the search is over")
        window = self.window
        self._points += [(p, window) for p in result.points if math.isfinite(p.value)]
        doubt = self.should_revisit(result.points, final=True)
        if doubt:
            return self._go_back(doubt)
        if window.level + 1 == len(self.section.widths_m):
            best = best_supported(result)
            return self._conclude("the smallest window is done", [best] if best else [], True)
        if not any(math.isfinite(p.value) for p in result.points) and self.section.selection != "random":
            if self._lead is not None:
                return self._go_back("no spectrum of this window is valid")
            return self._conclude("no spectrum of the first window is valid", [], False)
        width = self.section.widths_m[window.level + 1]
        choice = choose_window(result, window, width, self.section, self.seed)
        values = [p.value for p in result.points if math.isfinite(p.value)]
        background = background_of(values) if values else None
        if background is not None and self._lead is not None and self._lead.background is not None:
            background = self._lead.background  # the widest window knows best what is ordinary
        self._lead = _Lead(choice.expected, background, choice.alternatives, window, choice)
        return self._open(
            choice.centre_x_m,
            choice.centre_y_m,
            window,
            choice.reason,
            choice.score,
            choice.alternatives,
            choice.handed_down,
            False,
        )

    def _go_back(self, doubt: str) -> Instruction:
        lead = self._lead
        assert lead is not None  # only a lead can be doubted
        if self.returns >= self.max_returns:
            return self._conclude(f"{doubt}; gone back {self.returns} times already", None, False)
        if not lead.untried:
            return self._conclude(f"{doubt}; there is no other place to try", None, False)
        self.returns += 1
        (x, y, score), rest = lead.untried[0], lead.untried[1:]
        by_peak = self.section.selection == "peak" and math.isfinite(lead.expected)
        expected = math.nan
        if by_peak and lead.background is not None and score >= STANDS_OUT:
            expected = lead.background.level + score * lead.background.spread
        self._lead = _Lead(expected, lead.background, rest, lead.parent, lead.choice)
        centre = lead.parent.place_inside(x, y, self.section.widths_m[lead.parent.level + 1])
        return self._open(
            *centre,
            lead.parent,
            f"going back ({self.returns} of {self.max_returns}): {doubt}; next best place, score {score:.3g}",
            score,
            rest,
            ((x, y),) if by_peak else (),
            True,
        )

    def _open(
        self,
        x_m: float,
        y_m: float,
        parent: Window,
        reason: str,
        score: float,
        alternatives: tuple[tuple[float, float, float], ...],
        handed_down: tuple[tuple[float, float], ...],
        going_back: bool,
    ) -> OpenWindow:
        width = self.section.widths_m[parent.level + 1]
        self.window = Window(
            self._opened, parent.level + 1, x_m, y_m, width, self.section.angle_rad, parent.index
        )
        self._opened += 1
        return OpenWindow(self.window, reason, score, alternatives, handed_down, going_back)

    def _conclude(self, reason: str, points: Sequence[MeasuredPoint] | None, confirmed: bool) -> Conclude:
        """``points``: among which the best is sought; None: all windows'."""
        assert self.window is not None
        among = points if points is not None else [p for p, _ in self._points]
        finite = [p for p in among if math.isfinite(p.value)]
        best = max(finite, key=lambda p: (p.value, p.job_id)) if finite else None
        self.concluded = Conclude(reason, best, confirmed and best is not None, self.window.index)
        return self.concluded
