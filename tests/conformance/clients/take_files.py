"""Takes images, spectra and grids with the official client, and keeps what the live interface gave beside the
paths of the files; runs in the client's environment and knows nothing of ours.

    python take_files.py PORT,PORT,... OUT

OUT.json lists what was done, OUT.npz holds the arrays by key.
"""

import json
import socket
import sys
import time
import traceback
from pathlib import Path

import nanonis_spm
import numpy as np

BIAS_V = 0.5
SETPOINT_A = 1e-10
IMAGE = {"centre_x_m": 4e-9, "centre_y_m": -3e-9, "width_m": 12e-9, "height_m": 6e-9}
PIXELS, LINES = 32, 16
SCAN_S, GRID_S, LOOK_S = 60.0, 120.0, 0.1
PROBES = 7


class RefusedError(Exception):
    """The server answered with an error."""


class Laboratory:
    """The official client, with its errors raised and its files found."""

    def __init__(self, ports, arrays):
        self.client, self.other = (
            nanonis_spm.Nanonis(socket.create_connection(("127.0.0.1", port), timeout=SCAN_S))
            for port in ports[:2]
        )
        self.arrays = arrays
        self.names = self.ask("Signals_NamesGet")[2]
        self.session = Path(self.ask("Util_SessionPathGet")[1])

    def ask(self, method, *arguments, client=None):
        """The values of an answer."""
        answer = getattr(client or self.client, method)(*arguments)
        if len(answer) != 3 or answer[0]:
            raise RefusedError(f"{method}: {answer[0] if answer else 'no answer'}")
        return answer[2]

    def signal(self, name):
        """The index of a signal."""
        return self.names.index(name)

    def files(self, suffix):
        """Files of the session by name."""
        return {path.name: path for path in self.session.glob(f"*{suffix}")}

    def new_file(self, before, suffix):
        """The file that came since; waits a moment for it."""
        for _ in range(50):
            new = sorted(set(self.files(suffix)) - set(before))
            if new:
                return str(self.files(suffix)[new[-1]])
            time.sleep(LOOK_S)
        raise RefusedError(f"no new {suffix} file in {self.session}")


def engage(lab):
    """Feedback on at a safe bias."""
    lab.ask("Bias_Set", BIAS_V)
    lab.ask("ZCtrl_SetpntSet", SETPOINT_A)
    lab.ask("ZCtrl_OnOffSet", 1)
    for _ in range(100):
        if abs(lab.ask("Signals_ValGet", lab.signal("Current (A)"), 1)[0]) > SETPOINT_A / 3:
            return
        time.sleep(LOOK_S)
    raise RefusedError("no tunneling current after engaging")


def image(lab, number, upward, angle_deg, aborted):
    """One frame with X, Y, Z and current: the live data and the file."""
    names = ["X (m)", "Y (m)", "Z (m)", "Current (A)"]
    indexes = [lab.signal(name) for name in names]
    lab.ask("Scan_FrameSet", *IMAGE.values(), angle_deg)
    lab.ask("Scan_BufferSet", indexes, PIXELS, LINES)
    lab.ask("Scan_SpeedSet", 0.0, 0.0, 0.1, 0.1, 2, 1.0)
    lab.ask("Scan_PropsSet", 2, 2, 1, "image_", "conformance", ["Bias", "Current"], 3)
    before = lab.files(".sxm")
    lab.ask("Scan_Action", 0, int(upward))
    if aborted:
        for _ in range(400):
            live = lab.ask("Scan_FrameDataGrab", indexes[0], 0, client=lab.other)[4]
            if np.sum(np.isfinite(live[:, 0])) >= 4:
                break
            time.sleep(LOOK_S / 4)
        lab.ask("Scan_Action", 1, 0)
    else:
        timed_out, _, path = lab.ask("Scan_WaitEndOfScan", int(1000 * SCAN_S))
        if timed_out or not path:
            raise RefusedError(f"the scan did not end: {timed_out}, {path!r}")
    for direction, way in ((1, "forward"), (0, "backward")):
        for name, index in zip(names, indexes, strict=True):
            lab.arrays[f"image{number}|{name}|{way}"] = lab.ask("Scan_FrameDataGrab", index, direction)[4]
    path = lab.new_file(before, ".sxm")
    if not aborted and Path(path).name != Path(lab.ask("Scan_WaitEndOfScan", 0)[2] or path).name:
        raise RefusedError("Scan.WaitEndOfScan told another path than that of the new file")
    return {"path": path, "upward": upward, "angle_deg": angle_deg, "aborted": aborted, "bias_v": BIAS_V}


def probes(lab):
    """Z at places on a grid of the frame, moved to one by one: where the surface really is high."""
    lab.ask("FolMe_SpeedSet", 2e-7, 1)
    places, heights = [], []
    for j in range(PROBES):
        for i in range(PROBES):
            x = IMAGE["centre_x_m"] + ((i + 0.5) / PROBES - 0.5) * IMAGE["width_m"]
            y = IMAGE["centre_y_m"] + ((j + 0.5) / PROBES - 0.5) * IMAGE["height_m"]
            lab.ask("FolMe_XYPosSet", x, y, 1)
            values = [lab.ask("Signals_ValGet", lab.signal("Z (m)"), 1)[0] for _ in range(4)]
            places.append(lab.ask("FolMe_XYPosGet", 1))
            heights.append(float(np.mean(values)))
    lab.arrays["probes|places"], lab.arrays["probes|heights"] = np.array(places), np.array(heights)
    return {"count": len(places)}


def spectrum(lab, number, start_v, end_v):
    """One bias spectrum there and back: the live data and the file."""
    lab.ask("FolMe_XYPosSet", 2e-9, 1e-9 * number, 1)
    place = lab.ask("FolMe_XYPosGet", 1)
    lab.ask("BiasSpectr_Open")
    lab.ask("BiasSpectr_ChsSet", [lab.signal(n) for n in ("Current (A)", "Bias (V)", "LI Demod 1 X (A)")])
    lab.ask("BiasSpectr_PropsSet", 2, 1, 1, 41, 0.0, 1, 2)
    lab.ask("BiasSpectr_LimitsSet", start_v, end_v)
    lab.ask("BiasSpectr_TimingSet", 0.0, 0.0, 0.01, float("inf"), 0.002, 0.002, 0.01, 0.05)
    before = lab.files(".dat")
    values = lab.ask("BiasSpectr_Start", 1, "spectrum_")
    lab.arrays[f"spectrum{number}"] = values[5]
    return {
        "path": lab.new_file(before, ".dat"),
        "names": values[2],
        "limits_v": [start_v, end_v],
        "place_m": place,
    }


def z_spectrum(lab):
    """One spectrum over the distance."""
    lab.ask("ZSpectr_Open")
    lab.ask("ZSpectr_ChsSet", [lab.signal(n) for n in ("Current (A)", "Z (m)")])
    lab.ask("ZSpectr_PropsSet", 1, 32, 1, 1, 2, 2)
    lab.ask("ZSpectr_RangeSet", 0.0, 3e-10)
    place = lab.ask("FolMe_XYPosGet", 1)
    before = lab.files(".dat")
    values = lab.ask("ZSpectr_Start", 1, "z_spectrum_")
    lab.arrays["z_spectrum"] = values[5]
    return {"path": lab.new_file(before, ".dat"), "names": values[2], "place_m": place}


def grid(lab, number, angle_deg, aborted):
    """A grid of bias spectra, whole or stopped."""
    nx, ny, width, height = 4, 3, 4e-9, 2e-9
    lab.ask("BiasSpectr_Open")
    lab.ask("BiasSpectr_PropsSet", 2, 1, 2, 17, 0.0, 2, 2)
    lab.ask("BiasSpectr_LimitsSet", -0.4, 0.4)
    lab.ask("BiasSpectr_ChsSet", [lab.signal(n) for n in ("Current (A)", "Bias (V)", "LI Demod 1 X (A)")])
    lab.ask("Pattern_GridSet", 1, nx, ny, 0, 1e-9, -2e-9, width, height, angle_deg)
    lab.ask("Pattern_ExpOpen")
    listed = lab.ask("Pattern_PropsGet")[2]
    chosen = next(name for name in listed if "bias" in name.lower())
    lab.ask("Pattern_PropsSet", chosen, "grid_", "", 0.0, 0)
    before = lab.files(".3ds")
    lab.ask("Pattern_ExpStart", 1)
    path = lab.new_file(before, ".3ds")
    header = Path(path).read_bytes().index(b":HEADER_END:")
    end = time.monotonic() + GRID_S
    while lab.ask("Pattern_ExpStatusGet")[0] and time.monotonic() < end:
        if aborted and Path(path).stat().st_size > header + 14 + 5 * 4 * (10 + 3 * 17):
            lab.ask("Pattern_ExpStop", client=lab.other)
        time.sleep(LOOK_S)
    if lab.ask("Pattern_ExpStatusGet")[0]:
        raise RefusedError("the grid did not end")
    area = {"centre_m": [1e-9, -2e-9], "width_m": width, "height_m": height, "angle_deg": angle_deg}
    return {
        "path": path,
        "nx": nx,
        "ny": ny,
        "points": 17,
        "limits_v": [-0.4, 0.4],
        "aborted": aborted,
        **area,
    }


STEPS = [
    ("engage", lambda lab: engage(lab)),
    ("image0", lambda lab: image(lab, 0, True, 0.0, False)),
    ("probes", lambda lab: probes(lab)),
    ("image1", lambda lab: image(lab, 1, False, 0.0, False)),
    ("image2", lambda lab: image(lab, 2, True, 30.0, False)),
    ("image3", lambda lab: image(lab, 3, False, -20.0, True)),
    ("spectrum0", lambda lab: spectrum(lab, 0, -0.4, 0.6)),
    ("spectrum1", lambda lab: spectrum(lab, 1, 0.6, -0.4)),
    ("z_spectrum", lambda lab: z_spectrum(lab)),
    ("grid0", lambda lab: grid(lab, 0, 30.0, False)),
    ("grid1", lambda lab: grid(lab, 1, 0.0, True)),
]


def main(ports, out):
    """Take them all; what fails is told and the rest is taken."""
    arrays, done = {}, {}
    lab = Laboratory(ports, arrays)
    for name, step in STEPS:
        try:
            done[name] = step(lab) or {}
        except Exception:  # noqa: BLE001  (it is told, and the rest is taken)
            done[name] = {"error": traceback.format_exc(limit=-3)}
    Path(f"{out}.json").write_text(json.dumps(done, default=float))
    np.savez(f"{out}.npz", **{key.replace("/", "~"): values for key, values in arrays.items()})


if __name__ == "__main__":
    main([int(port) for port in sys.argv[1].split(",")], sys.argv[2])
