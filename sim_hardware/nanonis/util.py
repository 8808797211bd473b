"""Util and File: session, settings files, real-time engine, version; and reading a ``.dat`` file back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocols.errors import DriverError
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings

REGISTRY = Registry()

VERSION = "5.0"
SETTINGS_FILE = "settings.json"
LAYOUT_FILE = "layout.json"
LARGEST_DAT = 64 * 2**20

REGISTRY.keep(
    Settings("Util.RTFreq", {"rt_frequency": 20e3}, {"rt_frequency": (1e3, 20e3)}),
    Settings("Util.AcqPeriod", {"acquisition_period_s": 0.02}, {"acquisition_period_s": (1e-4, 10.0)}),
    Settings("Util.RTOversampl", {"rt_oversampling": 10}, {"rt_oversampling": (1, 100)}),
)


@dataclass
class UtilPanel:
    """Whether the user interface is locked by a modal window."""

    locked: bool = False


@REGISTRY.command("Util.SessionPathGet")
def session_get(call: Call) -> str:
    """Where files are saved."""
    return str(call.lab.session)


@REGISTRY.command("Util.SessionPathSet")
def session_set(call: Call, session_path: str, save_settings_to_previous: int = 0) -> None:
    """Save files elsewhere from now on."""
    path = Path(session_path)
    if not session_path or not path.is_absolute():
        raise DriverError("Session Path not valid.")
    if save_settings_to_previous:
        save_settings(call.lab, call.lab.session / SETTINGS_FILE)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise DriverError(f"Session Path not valid. {refused.strerror}") from None
    call.lab.session = path


def save_settings(lab: Instrument, path: Path) -> None:
    """Write everything that was set to a file."""
    rows = [
        {"stem": stem, "place": place, "values": _plain(values)}
        for (stem, place), values in sorted(lab.all_settings().items())
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    except OSError as refused:
        raise DriverError(f"Not a valid path: {path} ({refused.strerror})") from None


def load_settings(lab: Instrument, path: Path) -> None:
    """Set everything as a file says."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(row["stem"]), int(row["place"]), dict(row["values"])) for row in rows]
    except OSError:
        raise DriverError(f"The specified settings file does not exist ({path})") from None
    except (ValueError, KeyError, TypeError) as damaged:
        raise DriverError(f"{path} is no settings file: {damaged}") from None
    for stem, place, values in found:
        lab.apply_setting(stem, place, values)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()
    }


def _path(call: Call, text: str, of_session: int, name: str) -> Path:
    if of_session or not text:
        return call.lab.session / name
    path = Path(text)
    if not path.is_absolute():
        raise DriverError(f"Not a valid path: {text}")
    return path


@REGISTRY.command("Util.SettingsSave")
def settings_save(call: Call, settings_file_path: str, save_session_settings: int) -> None:
    """Save all settings."""
    save_settings(call.lab, _path(call, settings_file_path, save_session_settings, SETTINGS_FILE))


@REGISTRY.command("Util.SettingsLoad")
def settings_load(call: Call, settings_file_path: str, load_session_settings: int) -> None:
    """Set everything as it was saved."""
    load_settings(call.lab, _path(call, settings_file_path, load_session_settings, SETTINGS_FILE))


@REGISTRY.command("Util.LayoutSave")
def layout_save(call: Call, layout_file_path: str, save_session_layout: int) -> None:
    """Save which windows are open."""
    path = _path(call, layout_file_path, save_session_layout, LAYOUT_FILE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(call.lab.windows()), encoding="utf-8")
    except OSError as refused:
        raise DriverError(f"Not a valid path: {path} ({refused.strerror})") from None


@REGISTRY.command("Util.LayoutLoad")
def layout_load(call: Call, layout_file_path: str, load_session_layout: int) -> None:
    """Open the windows that were open."""
    path = _path(call, layout_file_path, load_session_layout, LAYOUT_FILE)
    try:
        opened = [str(module) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        raise DriverError(f"The specified layout file does not exist ({path})") from None
    for module in opened:
        call.lab.open(module)


@REGISTRY.command("Util.Lock")
def lock(call: Call) -> None:
    """Lock the user interface; programs are not affected."""
    call.lab.of(UtilPanel).locked = True


@REGISTRY.command("Util.UnLock")
def unlock(call: Call) -> None:
    """Unlock it."""
    call.lab.of(UtilPanel).locked = False


@REGISTRY.command("Util.Quit")
def leave(
    call: Call, use_the_stored_values: int, settings_name: str, layout_name: str, save_signals: int
) -> None:
    """Refused: others use the instrument too."""
    raise DriverError("the simulated electronics are ended where they were started, not by a client.")


def product(lab: Instrument) -> str:
    """What the microscope says of itself: that it is simulated, and how its time runs."""
    world = lab.world
    clock = f"time scale {world.clock.scale:g}; stepped {int(world.clock.stepped)}"
    return f"Tunnelpilot simulated microscope {world.surface.name[:60]}; {clock}"


@REGISTRY.command("Util.VersionGet")
def version(call: Call) -> dict[str, Any]:
    """What this is; the release says which layouts it speaks."""
    return {
        "product_line": product(call.lab),
        "version": VERSION,
        "host_release": call.lab.release,
        "rt_release": call.lab.release,
    }


@REGISTRY.command("File.datLoad")
def dat_load(call: Call, file_path: str, read_only_header: int) -> dict[str, Any]:
    """Header and data of a ``.dat`` file."""
    path = Path(file_path)
    try:
        if path.stat().st_size > LARGEST_DAT:
            raise DriverError(f"{path} is larger than {LARGEST_DAT} bytes.")
        text = path.read_bytes().decode("latin-1")
    except OSError as missing:
        raise DriverError(f"Not a valid path: {file_path} ({missing.strerror})") from None
    head, found, body = text.partition("[DATA]\r\n")
    if not found:
        raise DriverError(f"{path} has no [DATA].")
    header = tuple(
        (key, value.rstrip("\t"))
        for key, _, value in (line.partition("\t") for line in head.splitlines())
        if key
    )
    rows = body.splitlines()
    channels = tuple(rows[0].split("\t")) if rows else ()
    data = np.zeros((0, len(channels)), np.float32)
    if not read_only_header:
        data = _numbers(path, rows[1:], len(channels))
    return {"channels": channels, "data": data, "header": header}


def _numbers(path: Path, rows: list[str], columns: int) -> Any:
    try:
        found = [[float(cell) for cell in row.split("\t") if cell] for row in rows if row]
    except ValueError as damaged:
        raise DriverError(f"{path}: {damaged}") from None
    if any(len(row) != columns for row in found):
        raise DriverError(f"{path}: a row has not {columns} columns.")
    return np.array(found, np.float32).reshape(len(found), columns)
