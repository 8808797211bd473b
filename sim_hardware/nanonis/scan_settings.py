"""Scan's settings: the frame, the buffer, the speeds and the properties of scans."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from protocols.errors import DriverError
from protocols.nanonis.conventions import coerced_pixels
from sim_hardware.nanonis import files, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings

REGISTRY = Registry()

MOST_PIXELS = 4096
FASTEST_LINE_S = 1e-4
SLOWEST_LINE_S = 1e4
MODULES = ("NanonisMain", "Bias", "Current", "Piezo Configuration", "Z-Controller", "Scan", "Lock-in")


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
