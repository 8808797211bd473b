"""Scan: taking frames, their data while they are taken, and the end of a scan.

A frame is an activity of the world; a thread of its own waits for its end, saves it and, in continuous mode,
begins the next.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from protocols.errors import DriverError, TunnelpilotError
from protocols.messages.recipes import Frame
from protocols.nanonis.conventions import frame_area, grab_from_frame
from sim_hardware import motions, scanning
from sim_hardware.nanonis import files, jobs, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import PATIENCE_S, Instrument
from sim_hardware.nanonis.pictures import Picture, collect, save
from sim_hardware.nanonis.registry import Registry

REGISTRY = Registry()
log = structlog.get_logger()

KEPT_BACKGROUNDS = 20


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
        job=job,
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
    jobs.end(lab.world, picture.job, picture.activity)
    if kept["autopaste"] in ("all", "next"):
        panel.background.append(picture)
        del panel.background[:-KEPT_BACKGROUNDS]
    if picture.taken and kept["autosave"] in ("all", "next"):
        save(lab, picture)
    for name in ("autosave", "autopaste"):
        if kept[name] == "next":
            lab.change_setting("Scan.Props", 0, **{name: "off"})


# -- data ----------------------------------------------------------------------------------------------------


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
        latched = panel.ended > 0 and not panel.running
        seen = panel.ended - 1 if latched else panel.ended
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
    return call.lab.place_m()


# -- files and background ------------------------------------------------------------------------------------


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
        del pasted[:-KEPT_BACKGROUNDS]
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
