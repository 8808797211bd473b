"""Scan: the frame, its properties, its data while and after it is taken, and its file.

A frame is an activity of the world; a thread of its own waits for its end, saves it and, in continuous mode,
begins the next.  The data of the frame under way are collected from the world's lines when they are asked
for.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from protocols.errors import DriverError, TunnelpilotError
from protocols.files.nanonis_sxm import SxmChannel, SxmFile, write_sxm
from protocols.messages.recipes import Frame
from protocols.nanonis.conventions import (
    FrameArea,
    channel_name,
    coerced_pixels,
    frame_area,
    frame_arguments,
    grab_from_frame,
)
from sim_hardware import motions, scanning
from sim_hardware.nanonis import bias, files, jobs, lock_in, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import PATIENCE_S, Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.situation import Activity

Pixels = npt.NDArray[np.float32]
REGISTRY = Registry()
log = structlog.get_logger()

MOST_PIXELS = 4096
FASTEST_LINE_S = 1e-4
SLOWEST_LINE_S = 1e4
MODULES = ("NanonisMain", "Bias", "Current", "Piezo Configuration", "Z-Controller", "Scan", "Lock-in")


@dataclass
class Picture:
    """One frame as it is being taken.  ``data``: by signal, (2, lines, pixels) in our order, NaN where not
    scanned."""

    recipe: Frame
    activity: Activity
    channels: tuple[int, ...]
    data: dict[int, Pixels]
    started: datetime
    line_time_s: tuple[float, float]
    taken: int = 0
    path: str = ""
    ended_s: float = math.nan


@dataclass
class ScanPanel:
    """What the scan window knows."""

    picture: Picture | None = None
    running: bool = False
    stopping: bool = False
    ended: int = 0
    """Frames that came to an end."""
    background: list[Picture] = field(default_factory=list)
    thread: threading.Thread | None = None
    autosave: str = "all"


# -- plain settings ------------------------------------------------------------------------------------------


def _check_frame(lab: Instrument, wanted: dict[str, Any]) -> dict[str, Any]:
    """A frame within the piezo's range, as the electronics coerce it."""
    low, high = lab.world.settings.lateral_range_m
    if not (wanted["width_m"] > 0.0 and wanted["height_m"] > 0.0):
        raise DriverError(f"a frame of {wanted['width_m']:g} m x {wanted['height_m']:g} m is none.")
    found = {name: float(value) for name, value in wanted.items()}
    found["width_m"] = min(found["width_m"], high - low)
    found["height_m"] = min(found["height_m"], high - low)
    for centre in ("centre_x_m", "centre_y_m"):
        found[centre] = min(max(found[centre], low), high)
    found["angle_deg"] = math.remainder(found["angle_deg"], 360.0)
    return found


def _frame_changed(lab: Instrument, values: Any) -> None:
    """The speeds follow the new width: what is kept constant stays."""
    kept = lab.setting("Scan.Speed")
    lab.store_setting("Scan.Speed", 0, _speeds(kept, float(values["width_m"])))


def _speeds(kept: dict[str, Any], width_m: float) -> dict[str, Any]:
    """Speeds and times of a line that belong together."""
    found = dict(kept)
    if found["keep_constant"] == "linear speed":
        found["forward_time_per_line_s"] = width_m / found["forward_linear_speed_m_s"]
        found["backward_time_per_line_s"] = width_m / found["backward_linear_speed_m_s"]
    else:
        found["forward_linear_speed_m_s"] = width_m / found["forward_time_per_line_s"]
        found["backward_linear_speed_m_s"] = width_m / found["backward_time_per_line_s"]
    found["speed_ratio"] = found["backward_linear_speed_m_s"] / found["forward_linear_speed_m_s"]
    return found


REGISTRY.keep(
    Settings(
        "Scan.Frame",
        {"centre_x_m": 0.0, "centre_y_m": 0.0, "width_m": 20e-9, "height_m": 20e-9, "angle_deg": 0.0},
        check=_check_frame,
        changed=_frame_changed,
    ),
)
REGISTRY.settings["Scan.Speed"] = Settings(
    "Scan.Speed",
    {
        "forward_linear_speed_m_s": 100e-9,
        "backward_linear_speed_m_s": 100e-9,
        "forward_time_per_line_s": 0.2,
        "backward_time_per_line_s": 0.2,
        "keep_constant": "time per line",
        "speed_ratio": 1.0,
    },
)
REGISTRY.settings["Scan.Buffer"] = Settings(
    "Scan.Buffer", {"channel_indexes": [0, 30], "pixels": 128, "lines": 128}
)
REGISTRY.settings["Scan.Props"] = Settings(
    "Scan.Props",
    {
        "continuous_scan": False,
        "bouncy_scan": False,
        "autosave": "all",
        "series_name": "Image_",
        "comment": "",
        "modules": MODULES,
        "autopaste": "off",
    },
)


@REGISTRY.command("Scan.SpeedSet")
def speed_set(
    call: Call,
    forward_linear_speed_m_s: float,
    backward_linear_speed_m_s: float,
    forward_time_per_line_s: float,
    backward_time_per_line_s: float,
    keep_constant: str | None,
    speed_ratio: float,
) -> None:
    """Speeds: those of the kind that is kept constant count, the others follow; 0 leaves a value as it is.

    A ratio (backward over forward speed) other than 0 determines the backward values.
    """
    lab = call.lab
    with lab.lock:
        kept = lab.setting("Scan.Speed")
        kept["keep_constant"] = keep_constant or kept["keep_constant"]
        by_speed = kept["keep_constant"] == "linear speed"
        names = ("linear_speed_m_s", "time_per_line_s")
        given = (
            (forward_linear_speed_m_s, backward_linear_speed_m_s)
            if by_speed
            else (forward_time_per_line_s, backward_time_per_line_s)
        )
        name = names[0 if by_speed else 1]
        for way, value in zip(("forward", "backward"), given, strict=True):
            if math.isfinite(value) and value > 0.0:
                kept[f"{way}_{name}"] = value
        if math.isfinite(speed_ratio) and speed_ratio > 0.0:
            forward = kept[f"forward_{name}"]
            kept[f"backward_{name}"] = forward * speed_ratio if by_speed else forward / speed_ratio
        width = lab.setting("Scan.Frame")["width_m"]
        found = _speeds(kept, width)
        for way in ("forward", "backward"):
            seconds = found[f"{way}_time_per_line_s"]
            if not FASTEST_LINE_S <= seconds <= SLOWEST_LINE_S:
                raise DriverError(
                    f"{seconds:g} s per line is outside {FASTEST_LINE_S:g} to {SLOWEST_LINE_S:g} s."
                )
        lab.store_setting("Scan.Speed", 0, found)


@REGISTRY.command("Scan.SpeedGet")
def speed_get(call: Call) -> dict[str, Any]:
    """Speeds and times of a line."""
    return call.lab.setting("Scan.Speed")


@REGISTRY.command("Scan.BufferSet")
def buffer_set(call: Call, channel_indexes: Any, pixels: int, lines: int) -> None:
    """Channels, pixels per line (coerced to a multiple of 16) and lines; no channels, 0 pixels or 0 lines
    leave them as they are."""
    lab = call.lab
    with lab.lock:
        kept = lab.setting("Scan.Buffer")
        chosen = [signals.check_index(int(index)) for index in channel_indexes]
        if chosen:
            kept["channel_indexes"] = list(dict.fromkeys(chosen))
        if pixels > 0:
            kept["pixels"] = min(coerced_pixels(pixels), MOST_PIXELS)
        if lines > 0:
            kept["lines"] = min(lines, MOST_PIXELS)
        lab.store_setting("Scan.Buffer", 0, kept)


@REGISTRY.command("Scan.BufferGet")
def buffer_get(call: Call) -> dict[str, Any]:
    """The same."""
    kept = call.lab.setting("Scan.Buffer")
    return {**kept, "channel_indexes": np.array(kept["channel_indexes"], np.int32)}


@REGISTRY.command("Scan.PropsSet")
def props_set(
    call: Call,
    continuous_scan: bool | None,
    bouncy_scan: bool | None,
    autosave: str | None,
    series_name: str,
    comment: str,
    modules: tuple[str, ...] = (),
    autopaste: str | None = None,
) -> None:
    """What a scan does at its end, and how its files are called."""
    lab = call.lab
    with lab.lock:
        kept = lab.setting("Scan.Props")
        for name, value in (
            ("continuous_scan", continuous_scan),
            ("bouncy_scan", bouncy_scan),
            ("autosave", autosave),
            ("series_name", series_name or None),
            ("comment", comment),
            ("modules", tuple(modules) or None),
            ("autopaste", autopaste),
        ):
            if value is not None:
                kept[name] = value
        lab.store_setting("Scan.Props", 0, kept)


@REGISTRY.command("Scan.PropsGet")
def props_get(call: Call) -> dict[str, Any]:
    """The same, with the parameters of the modules whose values go into the header."""
    lab = call.lab
    kept = lab.setting("Scan.Props")
    listed = list(files.module_settings(lab, lab.world.state()))
    by_module = [
        [key.partition(">")[2] for key in listed if key.partition(">")[0] == module]
        for module in kept["modules"]
    ]
    most = max((len(names) for names in by_module), default=0)
    return {
        **kept,
        "parameters_per_module": np.array([len(names) for names in by_module], np.int32),
        "parameters": tuple(tuple(names + [""] * (most - len(names))) for names in by_module),
    }


# -- taking frames -------------------------------------------------------------------------------------------


@REGISTRY.command("Scan.Action")
def action(call: Call, action: str, direction: str) -> None:
    """Start, stop, pause, resume, freeze, unfreeze, or go to the frame's centre."""
    lab = call.lab
    frame = lab.running("frame")
    if action == "start":
        start(lab, upward=direction == "up")
    elif action == "stop":
        stop(lab)
    elif action in ("pause", "freeze"):
        if frame is not None:
            frame.paused.set()
    elif action in ("resume", "unfreeze"):
        if frame is not None:
            frame.paused.clear()
    else:
        area = frame_area(lab.setting("Scan.Frame"))
        speed = lab.setting("Scan.Speed")["forward_linear_speed_m_s"]
        if frame is not None:
            raise DriverError("a scan is under way; stop it first.")
        seconds = motions.move_duration(lab.world, area.centre_x_m, area.centre_y_m, speed)
        lab.begin("move", seconds, motions.move(area.centre_x_m, area.centre_y_m, speed))


def start(lab: Instrument, upward: bool) -> None:
    """Begin a scan; one under way ends first."""
    stop(lab)
    panel = lab.of(ScanPanel)
    picture = _begin(lab, upward)
    with lab.lock:
        panel.running, panel.stopping = True, False
        thread = threading.Thread(target=_attend, args=(lab, panel, picture), name="scan", daemon=True)
        panel.thread = thread
    thread.start()


def stop(lab: Instrument) -> None:
    """End a scan, and wait until it is saved."""
    panel = lab.of(ScanPanel)
    with lab.lock:
        panel.stopping = True
        thread, picture = panel.thread, panel.picture
    if picture is not None and not picture.activity.done.is_set():
        picture.activity.stop("stopped")
    if thread is not None:
        thread.join(PATIENCE_S)


def recipe(lab: Instrument, upward: bool) -> tuple[Frame, tuple[float, float]]:
    """The frame as the panel says, and the times of a line forward and backward."""
    area, buffer, speed = (
        frame_area(lab.setting("Scan.Frame")),
        lab.setting("Scan.Buffer"),
        lab.setting("Scan.Speed"),
    )
    state = lab.world.state()
    times = (float(speed["forward_time_per_line_s"]), float(speed["backward_time_per_line_s"]))
    line_time = times[0] if times[0] == times[1] else 0.5 * (times[0] + times[1])
    found = Frame(
        centre_x_m=area.centre_x_m,
        centre_y_m=area.centre_y_m,
        width_m=area.width_m,
        height_m=area.height_m,
        angle_rad=area.angle_rad,
        pixels=buffer["pixels"],
        lines=buffer["lines"],
        bias_v=state.bias_v,
        setpoint_a=state.setpoint_a,
        line_time_s=line_time,
        upward=upward,
    )
    return found, times


def _begin(lab: Instrument, upward: bool) -> Picture:
    wanted, times = recipe(lab, upward)
    scanning.check(lab.world, wanted)
    channels = tuple(lab.setting("Scan.Buffer")["channel_indexes"])
    more = any(index >= signals.FIRST_DEMODULATOR for index in channels)
    run = scanning.frame(wanted, more_channels=more, needs_feedback=False)
    job = jobs.begin(lab.world, lab.setting("Scan.Props")["series_name"], "frame")
    try:
        activity = lab.begin("frame", scanning.frame_duration(wanted), run)
    except TunnelpilotError:
        if job:
            lab.world.end_job(job, "refused")
        raise
    shape = (2, wanted.lines, wanted.pixels)
    picture = Picture(
        recipe=wanted,
        activity=activity,
        channels=channels,
        data={index: np.full(shape, np.nan, np.float32) for index in channels},
        started=files.now(),
        line_time_s=times,
    )
    panel = lab.of(ScanPanel)
    with lab.lock:
        panel.picture = picture
    return picture


def _attend(lab: Instrument, panel: ScanPanel, picture: Picture) -> None:
    """Wait for the end of each frame, save it, and begin the next while the scan is continuous."""
    while True:
        picture.activity.done.wait()
        try:
            _finish(lab, panel, picture)
        except (TunnelpilotError, OSError) as failed:
            log.warning("scan not saved", text=str(failed))
        kept = lab.setting("Scan.Props")
        following: Picture | None = None
        if kept["continuous_scan"] and not panel.stopping and picture.activity.state == "finished":
            try:
                following = _begin(lab, picture.recipe.upward != bool(kept["bouncy_scan"]))
            except TunnelpilotError as refused:
                log.warning("scan not continued", text=str(refused))
        with lab.lock:
            panel.running = following is not None
            panel.ended += 1
        lab.world_changed()
        if following is None:
            return
        picture = following


def _finish(lab: Instrument, panel: ScanPanel, picture: Picture) -> None:
    kept = lab.setting("Scan.Props")
    collect(lab, picture)
    picture.ended_s = lab.world.clock.now()
    job = jobs.id_of(kept["series_name"])
    jobs.end(lab.world, job, picture.activity)
    if kept["autopaste"] in ("all", "next"):
        panel.background.append(picture)
        del panel.background[:-20]
    if picture.taken and kept["autosave"] in ("all", "next"):
        save(lab, picture)
    for name in ("autosave", "autopaste"):
        if kept[name] == "next":
            lab.change_setting("Scan.Props", 0, **{name: "off"})


# -- data ----------------------------------------------------------------------------------------------------


def collect(lab: Instrument, picture: Picture) -> None:
    """Take over the lines that were finished since the last time."""
    with lab.lock:
        lines = picture.activity.lines
        for line in lines[picture.taken : len(lines)]:
            row = line.rows[0]
            found = {channel.name: np.asarray(channel.values[0]) for channel in line.channels}
            for index in picture.channels:
                picture.data[index][:, row, :] = _pixels(lab, picture, index, row, found)
            picture.taken += 1


def _pixels(lab: Instrument, picture: Picture, index: int, row: int, found: dict[str, Any]) -> Any:
    """One line of one signal, forward and backward: (2, pixels)."""
    shape = (2, picture.recipe.pixels)
    if index == signals.CURRENT:
        measured = found.get("current")
        return np.zeros(shape) if measured is None else measured
    if index == signals.Z:
        return found["z"]
    if index in (signals.X, signals.Y):
        r = picture.recipe
        along = (np.arange(r.pixels) + 0.5) * r.width_m / r.pixels - r.width_m / 2
        across = (row + 0.5) * r.height_m / r.lines - r.height_m / 2
        cos, sin = math.cos(r.angle_rad), math.sin(r.angle_rad)
        at = (
            r.centre_x_m + along * cos - across * sin
            if index == signals.X
            else r.centre_y_m + along * sin + across * cos
        )
        return np.broadcast_to(at, shape)
    if signals.FIRST_DEMODULATOR <= index < signals.FIRST_DEMODULATOR + 2 * lock_in.DEMODULATORS:
        number, part = divmod(index - signals.FIRST_DEMODULATOR, 2)
        return lock_in.demodulated(lab, number + 1, part, found, shape)
    return np.full(shape, signals.value(lab, index))


def picture_of(lab: Instrument) -> Picture:
    """The last frame, with everything that was scanned until now.

    Raises:
        DriverError: there is none.
    """
    picture = lab.of(ScanPanel).picture
    if picture is None:
        raise DriverError("there is no scan data yet.")
    collect(lab, picture)
    return picture


@REGISTRY.command("Scan.FrameDataGrab")
def grab(call: Call, channel_index: int, direction: str) -> dict[str, Any]:
    """One channel of the present frame: row 0 is the top edge, NaN where nothing was scanned."""
    lab = call.lab
    buffer = lab.setting("Scan.Buffer")
    picture = lab.of(ScanPanel).picture
    channels = buffer["channel_indexes"] if picture is None else picture.channels
    if channel_index not in channels:
        raise DriverError(f"channel {channel_index} is not in the scan buffer ({list(channels)}).")
    name = signals.NAMES[channel_index]
    if picture is None:
        data = np.full((buffer["lines"], buffer["pixels"]), np.nan, np.float32)
        return {"channel_name": name, "data": data, "direction": "up"}
    collect(lab, picture)
    way = 0 if direction == "forward" else 1
    with lab.lock:
        data = grab_from_frame(picture.data[channel_index][way])
    return {"channel_name": name, "data": data, "direction": "up" if picture.recipe.upward else "down"}


@REGISTRY.command("Scan.StatusGet")
def status_get(call: Call) -> bool:
    """Whether a scan is under way."""
    return call.lab.of(ScanPanel).running


@REGISTRY.command("Scan.WaitEndOfScan")
def wait_end(call: Call, timeout_ms: int) -> dict[str, Any]:
    """Wait for the end of the frame under way; after it, the last end counts until the next start."""
    panel = call.lab.of(ScanPanel)
    with call.lab.lock:
        seen = panel.ended if panel.running else min(panel.ended, 1) - 1
    ended = call.until(lambda: panel.ended > seen, timeout_ms)
    picture = panel.picture
    return {"timed_out": not ended, "file_path": picture.path if ended and picture is not None else ""}


@REGISTRY.command("Scan.WaitEndOfLine")
def wait_line(call: Call, timeout_ms: int) -> dict[str, Any]:
    """Wait for the end of the next line (forward and backward are finished together).

    Who waits while there is no scan lets time pass: on a stepped clock it passes only so.
    """
    panel = call.lab.of(ScanPanel)
    if call.lab.world.clock.stepped and not panel.running and timeout_ms > 0:
        seconds = timeout_ms / 1000.0
        call.finish(call.lab.begin("settle", seconds, motions.settle(seconds)))
        return {"timed_out": True, "line_number": -1, "movement": "to start", "pass_number": 1}
    picture = panel.picture
    before = len(picture.activity.lines) if picture is not None and panel.running else -1

    def reached() -> bool:
        now = panel.picture
        return now is not None and (
            now is not picture
            or len(now.activity.lines) > before >= 0
            or (before < 0 and bool(now.activity.lines) and panel.running)
        )

    ended = call.until(reached, timeout_ms)
    number = len(panel.picture.activity.lines) if ended and panel.picture is not None else -1
    return {
        "timed_out": not ended,
        "line_number": number,
        "movement": "backward" if ended else "to start",
        "pass_number": 1,
    }


@REGISTRY.command("Scan.XYPosGet")
def position_get(call: Call, wait_for_newest_data: int) -> tuple[float, float]:
    """Where the tip is."""
    signals.settle_newest(call, wait_for_newest_data)
    state = call.lab.world.state()
    return state.x_m, state.y_m


# -- files and background ------------------------------------------------------------------------------------


def save(lab: Instrument, picture: Picture) -> Path:
    """Write the frame as it is."""
    collect(lab, picture)
    kept = lab.setting("Scan.Props")
    state = lab.world.state()
    path = files.next_path(lab, kept["series_name"], ".sxm")
    area = _area(picture.recipe)
    settings = {
        key: value
        for key, value in files.module_settings(lab, state).items()
        if key.partition(">")[0] in kept["modules"]
    }
    settings |= {
        "Scan>Scanfield": ";".join(f"{value:.6E}" for value in frame_arguments(area).values()),
        "Scan>series name": kept["series_name"],
        "Scan>channels": ";".join(signals.NAMES[index] for index in picture.channels),
        "Scan>pixels/line": picture.recipe.pixels,
        "Scan>lines": picture.recipe.lines,
        "Scan>speed forw. (m/s)": area.width_m / picture.line_time_s[0],
        "Scan>speed backw. (m/s)": area.width_m / picture.line_time_s[1],
    }
    with lab.lock:
        channels = tuple(_channel(lab, picture, index) for index in picture.channels)
    write_sxm(
        path,
        SxmFile(
            channels=channels,
            area=area,
            upward=picture.recipe.upward,
            bias_v=float(bias.shown(lab, picture.recipe.bias_v)),
            started=picture.started,
            acquisition_s=sum(picture.line_time_s) * picture.taken,
            line_time_s=picture.line_time_s,
            controllers=(files.controller(lab, state),),
            comment=kept["comment"],
            scan_file=str(path),
            settings=settings,
        ),
    )
    picture.path = str(path)
    return path


def _area(of: Frame) -> FrameArea:
    return FrameArea(
        centre_x_m=of.centre_x_m,
        centre_y_m=of.centre_y_m,
        width_m=of.width_m,
        height_m=of.height_m,
        angle_rad=of.angle_rad,
    )


def _channel(lab: Instrument, picture: Picture, index: int) -> SxmChannel:
    label = channel_name(signals.NAMES[index])
    per_volt, offset = signals.calibration(lab, index)
    forward, backward = picture.data[index].copy()
    return SxmChannel(
        name=label.quantity,
        unit=label.unit,
        index=index,
        forward=forward,
        backward=backward,
        calibration=per_volt,
        offset=offset,
    )


@REGISTRY.command("Scan.Save")
def save_now(call: Call, wait: int, timeout_ms: int) -> bool:
    """Save the data as they are."""
    save(call.lab, picture_of(call.lab))
    return False


@REGISTRY.command("Scan.BackgroundPaste")
def background_paste(call: Call, wait: int, timeout_ms: int) -> bool:
    """Paste the frame into the background of the scan area."""
    picture = picture_of(call.lab)
    with call.lab.lock:
        pasted = call.lab.of(ScanPanel).background
        pasted.append(picture)
        del pasted[:-20]
    return False


@REGISTRY.command("Scan.BackgroundDelete")
def background_delete(call: Call, wait: int, timeout_ms: int, which_background_to_delete: int) -> bool:
    """Delete the latest (0) or all (1) pictures of the background."""
    with call.lab.lock:
        pasted = call.lab.of(ScanPanel).background
        if not pasted:
            raise DriverError("the background is empty.")
        del pasted[0 if which_background_to_delete else -1 :]
    return False
