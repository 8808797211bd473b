"""Marks: points and lines drawn into the scan area."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.registry import Registry

REGISTRY = Registry()
MOST_MARKS = 10_000
_POINT = ("x_coordinate_m", "y_coordinate_m")
_LINE = (
    "start_point_x_coordinate_m",
    "start_point_y_coordinate_m",
    "end_point_x_coordinate_m",
    "end_point_y_coordinate_m",
)


@dataclass
class Mark:
    """One point or line; ``at``: its coordinates (m)."""

    at: tuple[float, ...]
    colour: int
    text: str = ""
    visible: bool = True


@dataclass
class MarksPanel:
    """Everything that was drawn."""

    points: list[Mark] = field(default_factory=list)
    lines: list[Mark] = field(default_factory=list)


def _draw(marks: list[Mark], more: list[Mark]) -> None:
    if len(marks) + len(more) > MOST_MARKS:
        raise DriverError(f"{len(marks) + len(more)} marks are more than {MOST_MARKS}.")
    marks += more


def _chosen(marks: list[Mark], index: int) -> list[Mark]:
    """The mark of an index, or all for -1."""
    if index == -1:
        return list(marks)
    if not 0 <= index < len(marks):
        raise DriverError(f"there is no mark {index}; there are {len(marks)}.")
    return [marks[index]]


def _columns(names: tuple[str, ...], marks: list[Mark]) -> dict[str, Any]:
    coordinates = {
        name: np.array([mark.at[place] for mark in marks], np.float32) for place, name in enumerate(names)
    }
    return {
        **coordinates,
        "colour": np.array([mark.colour for mark in marks], np.uint32),
        "visible": np.array([mark.visible for mark in marks], np.uint32),
    }


@REGISTRY.command("Marks.PointDraw")
def point_draw(call: Call, x_coordinate_m: float, y_coordinate_m: float, text: str, colour: int) -> None:
    """One point with a text."""
    with call.lab.lock:
        _draw(call.lab.of(MarksPanel).points, [Mark((x_coordinate_m, y_coordinate_m), colour, text)])


@REGISTRY.command("Marks.PointsDraw")
def points_draw(call: Call, x_coordinate_m: Any, y_coordinate_m: Any, text: Any, colour: Any) -> None:
    """Several points."""
    found = zip(x_coordinate_m, y_coordinate_m, text, colour, strict=True)
    with call.lab.lock:
        marks = [Mark((float(x), float(y)), int(c), label) for x, y, label, c in found]
        _draw(call.lab.of(MarksPanel).points, marks)


@REGISTRY.command("Marks.LineDraw")
def line_draw(call: Call, colour: int, **at: float) -> None:
    """One line."""
    with call.lab.lock:
        _draw(call.lab.of(MarksPanel).lines, [Mark(tuple(at[name] for name in _LINE), colour)])


@REGISTRY.command("Marks.LinesDraw")
def lines_draw(call: Call, colour: Any, **at: Any) -> None:
    """Several lines."""
    ends = zip(*(at[name] for name in _LINE), strict=True)
    with call.lab.lock:
        marks = [Mark(tuple(map(float, end)), int(c)) for end, c in zip(ends, colour, strict=True)]
        _draw(call.lab.of(MarksPanel).lines, marks)


@REGISTRY.command("Marks.PointsErase")
def points_erase(call: Call, point_index: int) -> None:
    """One point, or all with -1."""
    with call.lab.lock:
        points = call.lab.of(MarksPanel).points
        for mark in _chosen(points, point_index):
            points.remove(mark)


@REGISTRY.command("Marks.LinesErase")
def lines_erase(call: Call, line_index: int) -> None:
    """One line, or all with -1."""
    with call.lab.lock:
        lines = call.lab.of(MarksPanel).lines
        for mark in _chosen(lines, line_index):
            lines.remove(mark)


@REGISTRY.command("Marks.PointsVisibleSet")
def points_visible(call: Call, point_index: int, show_hide: bool) -> None:
    """Show or hide one point or all."""
    with call.lab.lock:
        for mark in _chosen(call.lab.of(MarksPanel).points, point_index):
            mark.visible = show_hide


@REGISTRY.command("Marks.LinesVisibleSet")
def lines_visible(call: Call, line_index: int, show_hide: bool) -> None:
    """Show or hide one line or all."""
    with call.lab.lock:
        for mark in _chosen(call.lab.of(MarksPanel).lines, line_index):
            mark.visible = show_hide


@REGISTRY.command("Marks.PointsGet")
def points_get(call: Call) -> dict[str, Any]:
    """All points."""
    with call.lab.lock:
        points = call.lab.of(MarksPanel).points
        return {**_columns(_POINT, points), "text": tuple(mark.text for mark in points)}


@REGISTRY.command("Marks.LinesGet")
def lines_get(call: Call) -> dict[str, Any]:
    """All lines."""
    with call.lab.lock:
        return _columns(_LINE, call.lab.of(MarksPanel).lines)
