"""Part "files": what the server writes, read by public readers and compared with what it told live.

The truth of an image is the live data (Scan.FrameDataGrab, row 0 at the top), and for the orientation three
witnesses that do not depend on how images are stored: the channels X and Y must be the frame's own geometry,
and the heights found by moving the tip to places one by one must lie where the image says.  The truth of a
spectrum is the answer of BiasSpectr.Start; that of a grid its own geometry, the bias that was recorded with
it, and the places in the simulator's truth log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.files.nanonis_3ds import grid_positions
from protocols.files.nanonis_grid import read_grid
from protocols.files.truth_log import TruthEntry
from protocols.nanonis.conventions import FrameArea, angle_rad
from tests.conformance.environments import HERE, python_of, run_client
from tests.conformance.reading import GridTruth, ImageTruth, SpectrumTruth, Truth, compare
from tests.conformance.results import Findings
from tests.conformance.server import serving

TAKE_S = 400.0
TIME_SCALE = 4.0

DIGITS = 1.2e-7
"""Relative: the file rounds to eight digits what the live interface rounds to float32."""

Floats = npt.NDArray[np.float64]

IMAGE_CENTRE_M = (4e-9, -3e-9)
IMAGE_SIDES_M = (12e-9, 6e-9)


def run(findings: Findings, folder: Path) -> None:
    """Take files with the official client, then compare."""
    out = folder / "taken"
    with serving(time_scale=TIME_SCALE, distortions="usual") as server:
        script = HERE / "clients" / "take_files.py"
        arguments = [str(script), ",".join(map(str, server.ports)), str(out)]
        ended = run_client(python_of("clients"), arguments, deadline_s=TAKE_S, folder=folder)
        findings.add("the server outlives it", server.alive(), server.words())
        if not out.with_suffix(".json").exists():
            findings.add("files are taken", good=False, note=ended.stderr.strip()[-600:])
            return
        done: dict[str, dict[str, Any]] = json.loads(out.with_suffix(".json").read_text())
        with np.load(out.with_suffix(".npz")) as store:
            arrays = {key: store[key] for key in store.files}
        for name, what in done.items():
            last = what.get("error", "").strip().splitlines()
            findings.add(f"{name} is taken", not last, last[-1] if last else "")
        taken = {name: what for name, what in done.items() if "error" not in what}
        truths = _truths(findings, taken, arrays)
        _geometry(findings, taken, arrays)
        _heights(findings, taken, arrays)
        _places(findings, taken, server.truth())
        compare(findings, truths, folder)


def _truths(findings: Findings, taken: dict[str, dict[str, Any]], arrays: dict[str, Any]) -> list[Truth]:
    truths: list[Truth] = []
    for name, what in taken.items():
        if name.startswith("image"):
            truths.append(_image(name, what, arrays))
        elif "spectrum" in name:
            columns = dict(zip(what["names"], arrays[name], strict=True))
            x, y = what["place_m"]
            truths.append(SpectrumTruth(Path(what["path"]), columns, (x, y), DIGITS))
        elif name.startswith("grid"):
            truths.append(_grid(findings, name, what))
    return truths


def _image(name: str, what: dict[str, Any], arrays: dict[str, Any]) -> ImageTruth:
    def live(way: str) -> dict[str, Floats]:
        found = {}
        for key, data in arrays.items():
            image, _, rest = key.partition("|")
            channel, _, its_way = rest.partition("|")
            if image == name and its_way == way:
                found[channel.rpartition(" (")[0].replace(" ", "_")] = data[::-1]
        return found

    return ImageTruth(
        path=Path(what["path"]),
        upward=what["upward"],
        forward=live("forward"),
        backward=live("backward"),
        width_m=IMAGE_SIDES_M[0],
        height_m=IMAGE_SIDES_M[1],
        centre_m=IMAGE_CENTRE_M,
        bias_v=what["bias_v"],
    )


def _pixel_places(rows: int, columns: int, angle_deg: float) -> tuple[Floats, Floats]:
    """Where the pixels of the image are, in our order: two arrays (rows, columns)."""
    area = FrameArea(
        centre_x_m=IMAGE_CENTRE_M[0],
        centre_y_m=IMAGE_CENTRE_M[1],
        width_m=IMAGE_SIDES_M[0],
        height_m=IMAGE_SIDES_M[1],
        angle_rad=angle_rad(angle_deg),
    )
    places = grid_positions(columns, rows, area).reshape(rows, columns, 2)
    return places[:, :, 0], places[:, :, 1]


def _geometry(findings: Findings, taken: dict[str, dict[str, Any]], arrays: dict[str, Any]) -> None:
    """The live channels X and Y are the places of the pixels, to one pixel, in both directions."""
    for name, what in taken.items():
        for way in ("forward", "backward") if name.startswith("image") else ():
            x, y = (arrays[f"{name}|{axis} (m)|{way}"][::-1] for axis in "XY")
            x_true, y_true = _pixel_places(*x.shape, what["angle_deg"])
            pixel = IMAGE_SIDES_M[0] / x.shape[1]
            away = np.hypot(x - x_true, y - y_true)
            scanned = np.isfinite(away)
            rows = int(np.sum(np.all(scanned, axis=1)))
            good = bool(np.nanmax(away) <= pixel) if scanned.any() else False
            note = f"up to {np.nanmax(away) if scanned.any() else np.nan:.3g} m away (pixel {pixel:.3g} m)"
            findings.add(f"{name} {way}: X and Y are the pixels' places ({rows} lines)", good, note)
            if what["aborted"]:
                ordered = scanned.all(axis=1)[:: 1 if what["upward"] else -1]
                whole = 0 < rows < len(ordered) and bool(ordered[:rows].all())
                findings.add(f"{name} {way}: aborted, the lines scanned come first", whole, f"{rows} lines")


def _heights(findings: Findings, taken: dict[str, dict[str, Any]], arrays: dict[str, Any]) -> None:
    """Heights found place by place agree best with the image as we say it lies, not with one turned round."""
    if "probes" not in taken or "image0" not in taken:
        return
    places, heights = arrays["probes|places"], arrays["probes|heights"]
    image = arrays["image0|Z (m)|forward"][::-1].astype(np.float64)
    rows, columns = image.shape
    i = np.clip(
        ((places[:, 0] - IMAGE_CENTRE_M[0]) / IMAGE_SIDES_M[0] + 0.5) * columns, 0, columns - 1
    ).astype(int)
    j = np.clip(((places[:, 1] - IMAGE_CENTRE_M[1]) / IMAGE_SIDES_M[1] + 0.5) * rows, 0, rows - 1).astype(int)
    turned = {
        "as it is": image,
        "up-down": image[::-1],
        "left-right": image[:, ::-1],
        "both ways": image[::-1, ::-1],
    }
    agreement = {name: float(np.corrcoef(data[j, i], heights)[0, 1]) for name, data in turned.items()}
    best = max(agreement, key=agreement.__getitem__)
    note = ", ".join(f"{name}: {value:.3f}" for name, value in agreement.items())
    good = best == "as it is" and agreement[best] > 0.7
    findings.add("image0: heights place by place lie where the image says", good, note)


def _grid(findings: Findings, name: str, what: dict[str, Any]) -> GridTruth:
    """The truth of a grid from its geometry and the bias recorded with it; other numbers as our reader has
    them, which the readers of others must confirm."""
    path = Path(what["path"])
    ours = read_grid(path, partial=True)
    ny, nx = what["ny"], what["nx"]
    sweep = np.linspace(*what["limits_v"], what["points"])
    whole = "stopped within" if what["aborted"] else "whole"
    right = 0 < ours.measured < nx * ny if what["aborted"] else ours.measured == nx * ny
    findings.add(f"{name}: it is {whole}", right, f"{ours.measured} of {nx * ny} points")
    recorded = ours.channels["Bias (V)"].reshape(nx * ny, -1)[: ours.measured]
    away = float(np.max(np.abs(recorded - sweep)))
    findings.add(f"{name}: the recorded bias is the sweep", away < 2e-3, f"up to {away:.3g} V away")
    area = FrameArea(
        centre_x_m=what["centre_m"][0],
        centre_y_m=what["centre_m"][1],
        width_m=what["width_m"],
        height_m=what["height_m"],
        angle_rad=angle_rad(what["angle_deg"]),
    )
    places = grid_positions(nx, ny, area)[: ours.measured]
    told = np.column_stack([ours.parameters[f"{axis} (m)"].ravel()[: ours.measured] for axis in "XY"])
    away = float(np.max(np.hypot(*(told - places).T)))
    step = what["width_m"] / nx
    findings.add(f"{name}: X and Y are the points' places", away < step / 4, f"up to {away:.3g} m away")
    return GridTruth(
        path=path,
        sweep=sweep,
        channels=ours.channels,
        parameters=ours.parameters,
        measured=ours.measured,
        centre_m=tuple(what["centre_m"]),
        angle_deg=what["angle_deg"],
    )


def _places(findings: Findings, taken: dict[str, dict[str, Any]], log: list[TruthEntry]) -> None:
    """The sweeps of a grid were made where its file says, in the file's order."""
    made = np.array([[e.detail["x_m"], e.detail["y_m"]] for e in log if e.event == "sweep_done"])
    for name, what in taken.items():
        if not name.startswith("grid"):
            continue
        ours = read_grid(what["path"], partial=True)
        told = np.column_stack([ours.parameters[f"{axis} (m)"].ravel()[: ours.measured] for axis in "XY"])
        step = what["width_m"] / what["nx"]
        found = any(
            np.max(np.hypot(*(made[k : k + len(told)] - told).T)) < step / 4
            for k in range(len(made) - len(told) + 1)
        )
        findings.add(
            f"{name}: the truth log has its sweeps at these places, in this order",
            found,
            f"{len(made)} sweeps",
        )
