"""Pattern: an experiment at the points of a grid, a line or a cloud; its spectra go into a ``.3ds`` file."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from protocols.errors import DriverError, TunnelpilotError
from protocols.files.nanonis_3ds import GridHeader, GridWriter, grid_positions
from protocols.nanonis.conventions import FrameArea, frame_area, frame_arguments
from sim_hardware import motions
from sim_hardware.nanonis import (
    bias_spectroscopy,
    bias_spectroscopy_settings,
    files,
    follow_me,
    z_spectroscopy,
)
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import PATIENCE_S, Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.spectroscopy_panel import SpectroscopyPanel
from sim_hardware.situation import Activity

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()
log = structlog.get_logger()

PANELS = {"Bias Spectroscopy": bias_spectroscopy.PANEL, "Z Spectroscopy": z_spectroscopy.PANEL}
EXPERIMENTS = tuple(PANELS)
MOST_POINTS = 1_000_000
LOOK_S = 0.1

REGISTRY.settings["Pattern.Grid"] = Settings(
    "Pattern.Grid",
    {
        "number_of_points_in_x": 10,
        "number_of_points_in_y": 10,
        "centre_x_m": 0.0,
        "centre_y_m": 0.0,
        "width_m": 10e-9,
        "height_m": 10e-9,
        "angle_deg": 0.0,
    },
)
REGISTRY.settings["Pattern.Line"] = Settings(
    "Pattern.Line",
    {
        "number_of_points": 10,
        "line_point_1_x_m": -5e-9,
        "line_point_1_y_m": 0.0,
        "line_point_2_x_m": 5e-9,
        "line_point_2_y_m": 0.0,
    },
)
REGISTRY.settings["Pattern.Cloud"] = Settings("Pattern.Cloud", {"x_m": [0.0], "y_m": [0.0]})
REGISTRY.settings["Pattern.Props"] = Settings(
    "Pattern.Props",
    {
        "selected_experiment": EXPERIMENTS[0],
        "basename": "Grid Spectroscopy",
        "external_vi_path": "",
        "pre_measure_delay_s": 0.0,
        "save_scan_channels": False,
    },
)


@dataclass
class PatternPanel:
    """The experiment under way."""

    active: str = "grid"
    running: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    done: int = 0
    path: str = ""


# -- what is set ---------------------------------------------------------------------------------------------


def _of_frame(lab: Instrument) -> FrameArea:
    return frame_area(lab.setting("Scan.Frame"))


@REGISTRY.command("Pattern.GridSet")
def grid_set(
    call: Call,
    set_active_pattern: bool,
    number_of_points_in_x: int,
    number_of_points_in_y: int,
    grid_scan_frame: bool,
    **area: float,
) -> None:
    """A grid, of its own or over the scan frame."""
    lab = call.lab
    if min(number_of_points_in_x, number_of_points_in_y) < 1:
        raise DriverError("a grid needs at least one point in each direction.")
    if number_of_points_in_x * number_of_points_in_y > MOST_POINTS:
        raise DriverError(f"a grid of more than {MOST_POINTS} points is too large.")
    if grid_scan_frame:
        area = frame_arguments(_of_frame(lab))
    if not (area["width_m"] > 0.0 and area["height_m"] > 0.0):
        raise DriverError(f"a grid of {area['width_m']:g} m x {area['height_m']:g} m is none.")
    counts = {
        "number_of_points_in_x": number_of_points_in_x,
        "number_of_points_in_y": number_of_points_in_y,
    }
    lab.store_setting("Pattern.Grid", 0, {**counts, **area})
    if set_active_pattern:
        lab.of(PatternPanel).active = "grid"


@REGISTRY.command("Pattern.GridGet")
def grid_get(call: Call) -> dict[str, Any]:
    """The grid."""
    return call.lab.setting("Pattern.Grid")


@REGISTRY.command("Pattern.LineSet")
def line_set(
    call: Call, set_active_pattern: bool, number_of_points: int, line_scan_frame: bool, **ends: float
) -> None:
    """A line, of its own or across the scan frame."""
    lab = call.lab
    if not 1 <= number_of_points <= MOST_POINTS:
        raise DriverError(f"a line of {number_of_points} points is none.")
    if line_scan_frame:
        area = _of_frame(lab)
        half = 0.5 * area.width_m * np.array([np.cos(area.angle_rad), np.sin(area.angle_rad)])
        ends = {
            "line_point_1_x_m": area.centre_x_m - half[0],
            "line_point_1_y_m": area.centre_y_m - half[1],
            "line_point_2_x_m": area.centre_x_m + half[0],
            "line_point_2_y_m": area.centre_y_m + half[1],
        }
    lab.store_setting("Pattern.Line", 0, {"number_of_points": number_of_points, **ends})
    if set_active_pattern:
        lab.of(PatternPanel).active = "line"


@REGISTRY.command("Pattern.LineGet")
def line_get(call: Call) -> dict[str, Any]:
    """The line."""
    return call.lab.setting("Pattern.Line")


@REGISTRY.command("Pattern.CloudSet")
def cloud_set(call: Call, set_active_pattern: bool, x_coordinates_m: Any, y_coordinates_m: Any) -> None:
    """Any points."""
    points = np.array([x_coordinates_m, y_coordinates_m], np.float64)
    if not points.size or points.shape[1] > MOST_POINTS or not np.all(np.isfinite(points)):
        raise DriverError(f"a cloud of {points.shape[1]} points is none.")
    call.lab.store_setting("Pattern.Cloud", 0, {"x_m": points[0].tolist(), "y_m": points[1].tolist()})
    if set_active_pattern:
        call.lab.of(PatternPanel).active = "cloud"


@REGISTRY.command("Pattern.CloudGet")
def cloud_get(call: Call) -> dict[str, Any]:
    """The points."""
    kept = call.lab.setting("Pattern.Cloud")
    return {
        "x_coordinates_m": np.array(kept["x_m"], np.float32),
        "y_coordinates_m": np.array(kept["y_m"], np.float32),
    }


@REGISTRY.command("Pattern.PropsSet")
def props_set(
    call: Call,
    selected_experiment: str,
    basename: str,
    external_vi_path: str,
    pre_measure_delay_s: float,
    save_scan_channels: bool,
) -> None:
    """The experiment and how its files are called."""
    lab = call.lab
    kept = lab.setting("Pattern.Props")
    if selected_experiment:
        if selected_experiment not in EXPERIMENTS:
            raise DriverError(f"there is no experiment {selected_experiment!r}: {', '.join(EXPERIMENTS)}.")
        kept["selected_experiment"] = selected_experiment
    if not 0.0 <= pre_measure_delay_s <= 3600.0:
        raise DriverError(f"a delay of {pre_measure_delay_s:g} s is outside 0 to 3600 s.")
    kept["basename"] = basename or kept["basename"]
    kept["external_vi_path"] = external_vi_path
    kept["pre_measure_delay_s"] = pre_measure_delay_s
    kept["save_scan_channels"] = save_scan_channels
    lab.store_setting("Pattern.Props", 0, kept)


@REGISTRY.command("Pattern.PropsGet")
def props_get(call: Call) -> dict[str, Any]:
    """The same."""
    return {"list_of_experiments": EXPERIMENTS, **call.lab.setting("Pattern.Props")}


def points(lab: Instrument, which: str) -> Floats:
    """Piezo coordinates of a pattern's points in their order: (n, 2)."""
    if which == "grid":
        kept = lab.setting("Pattern.Grid")
        return grid_positions(kept["number_of_points_in_x"], kept["number_of_points_in_y"], frame_area(kept))
    if which == "line":
        kept = lab.setting("Pattern.Line")
        share = np.linspace(0.0, 1.0, kept["number_of_points"])[:, None]
        ends = [np.array([kept[f"line_point_{end}_x_m"], kept[f"line_point_{end}_y_m"]]) for end in (1, 2)]
        return np.asarray(ends[0] + (ends[1] - ends[0]) * share)
    kept = lab.setting("Pattern.Cloud")
    return np.column_stack([kept["x_m"], kept["y_m"]])


# -- the experiment ------------------------------------------------------------------------------------------


@REGISTRY.command("Pattern.ExpOpen")
def experiment_open(call: Call) -> None:
    """Open the experiment's window."""
    chosen = call.lab.setting("Pattern.Props")["selected_experiment"]
    call.lab.open(PANELS[chosen].stem)


@REGISTRY.command("Pattern.ExpStart")
def experiment_start(call: Call, pattern: str | None) -> None:
    """Begin at the first point; returns at once."""
    lab = call.lab
    panel = lab.of(PatternPanel)
    with lab.lock:
        if panel.running:
            raise DriverError("the pattern experiment runs already.")
        panel.active = pattern or panel.active
        places = points(lab, panel.active)
        panel.running, panel.done, panel.path = True, 0, ""
        panel.stop.clear()
        panel.go.set()
        panel.thread = threading.Thread(
            target=_carry_out, args=(lab, panel, places), name="pattern", daemon=True
        )
    panel.thread.start()


@REGISTRY.command("Pattern.ExpPause")
def experiment_pause(call: Call, pause_resume: str) -> None:
    """Pause before the next point, or go on."""
    go = call.lab.of(PatternPanel).go
    if pause_resume == "pause":
        go.clear()
    else:
        go.set()


@REGISTRY.command("Pattern.ExpStop")
def experiment_stop(call: Call) -> None:
    """End the experiment; the point under way is dropped."""
    panel = call.lab.of(PatternPanel)
    panel.stop.set()
    panel.go.set()
    running = call.lab.running("sweep", "z sweep", "move")
    if panel.running and running is not None:
        running.stop("stopped")
    if panel.thread is not None:
        panel.thread.join(PATIENCE_S)


@REGISTRY.command("Pattern.ExpStatusGet")
def experiment_status(call: Call) -> bool:
    """Whether it runs."""
    return call.lab.of(PatternPanel).running


def _carry_out(lab: Instrument, panel: PatternPanel, places: Floats) -> None:
    """Go from point to point; in a thread of its own."""
    writer: GridWriter | None = None
    started = files.now()
    try:
        for x, y in places:
            while not panel.go.wait(LOOK_S):
                pass
            if panel.stop.is_set():
                break
            found = _at_point(lab, float(x), float(y))
            if panel.stop.is_set():
                break
            if writer is None:
                writer = _writer(lab, panel, found, len(places), started)
            writer.append(found.parameters, np.array(list(found.columns.values())[1:]))
            with lab.lock:
                panel.done += 1
    except (TunnelpilotError, OSError) as failed:
        log.warning("pattern ended", text=str(failed))
    finally:
        if writer is not None:
            writer.close(files.now())
        with lab.lock:
            panel.running = False
        lab.world_changed()


def _at_point(lab: Instrument, x_m: float, y_m: float) -> Any:
    """Move there and take the spectrum."""
    speed = follow_me.speed(lab)
    seconds = motions.move_duration(lab.world, x_m, y_m, speed)
    _finish(lab.begin("move", seconds, follow_me.recorded_move(lab, x_m, y_m, speed)))
    kept = lab.setting("Pattern.Props")
    if kept["pre_measure_delay_s"] > 0.0:
        _finish(lab.begin("settle", kept["pre_measure_delay_s"], motions.settle(kept["pre_measure_delay_s"])))
    panel = PANELS[kept["selected_experiment"]]
    activity = panel.begin(lab)
    _finish(activity)
    return panel.spectrum(lab, activity)


def _finish(activity: Activity) -> None:
    activity.done.wait()
    if activity.state == "failed":
        raise activity.error or DriverError(activity.reason)


def _writer(lab: Instrument, panel: PatternPanel, first: Any, count: int, started: datetime) -> GridWriter:
    """The file, once the first point has told what its columns are."""
    kept = lab.setting("Pattern.Grid")
    nx, ny, area = count, 1, frame_area(kept)
    if panel.active == "grid":
        nx, ny = kept["number_of_points_in_x"], kept["number_of_points_in_y"]
    names = list(first.columns)
    over_bias = names[0] == bias_spectroscopy.SWEEP
    module = bias_spectroscopy_settings if over_bias else z_spectroscopy
    swept = files.bias_sweep_settings if over_bias else files.z_sweep_settings
    points = len(first.columns[names[0]])
    path = files.next_path(lab, lab.setting("Pattern.Props")["basename"], ".3ds")
    panel.path = str(path)
    return GridWriter(
        path,
        GridHeader(
            nx=nx,
            ny=ny,
            area=area,
            points=points,
            channels=tuple(names[1:]),
            started=started,
            sweep_signal="Bias (V)" if over_bias else names[0],
            fixed_parameters=module.FIXED_PARAMETERS,
            experiment_parameters=module.PARAMETERS,
            delay_s=lab.setting("Pattern.Props")["pre_measure_delay_s"],
            settings={**files.module_settings(lab, lab.world.state()), **swept(lab, points)},
        ),
    )


def _shoot(panel: SpectroscopyPanel, call: Call, basename: str) -> None:
    """The spectrum of point-and-shoot: taken and saved."""
    activity = panel.begin(call.lab)
    call.finish(activity)
    if basename:
        panel.name_files(call.lab, basename)
    panel.save(call.lab, panel.spectrum(call.lab, activity))


SHOTS = {name: partial(_shoot, panel) for name, panel in PANELS.items()}
"""What point-and-shoot can carry out."""
