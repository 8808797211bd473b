"""The control of the multiscale search: windows chosen at random, against the truth of the surface.

A random choice does not look at what was measured, so the search can be run on made-up results; where its
last window lies is all that counts.
"""

from __future__ import annotations

import numpy as np

from actors.zoom_supervisor.search import Conclude, Instruction, ZoomSearch
from actors.zoom_supervisor.windows import MeasuredPoint, Window, WindowResult
from protocols.messages.campaign import ZoomSection
from sim_hardware.surfaces.catalogue import make_surface

TARGET = "vacancy"


def last_window(section: ZoomSection, seed: int) -> Window:
    """Where a random search ends."""
    search = ZoomSearch(section, seed)
    instruction: Instruction = search.start()
    window = None
    while not isinstance(instruction, Conclude):
        window = instruction.window
        instruction = search.finished(_result(window))
    assert window is not None
    return window


def found_at_random(section: ZoomSection, seed: int) -> bool:
    """Whether the vacancy of the surface with this seed lies in the last of a random search's windows."""
    (target,) = (o for o in make_surface(TARGET, seed).objects if o.kind == TARGET)
    return bool(last_window(section, seed).contains(target.x_m, target.y_m))


def _result(window: Window) -> WindowResult:
    """A window with one point and a flat map: all that a random choice needs."""
    point = MeasuredPoint(window.centre_x_m, window.centre_y_m, 1.0, "made up")
    one = np.ones(1)
    return WindowResult((point,), one * window.centre_x_m, one * window.centre_y_m, one, one)
