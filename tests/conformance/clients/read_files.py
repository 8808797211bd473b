"""Reads Nanonis files with public readers; runs in their environment and knows nothing of ours.

    python read_files.py READER,READER OUT.npz FILE...

Every array of every file by every reader is stored as ``NUMBER|READER|NAME``, where NUMBER is the place
of the file on the command line; what a reader could not read is stored as text under ``NUMBER|READER|error``.

Conventions, unchanged: nanonispy2 hands out the numbers in the order of the file (of acquisition).
xarray-nanonis turns images so that row 0 is the lowest y and column 0 the lowest x, and sorts spectra by
bias.  SciFiReaders turns images so that row 0 is the highest y and column 0 the lowest x.
"""

import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")


def with_nanonispy2(path):
    """Raw numbers by channel."""
    import nanonispy2

    if path.suffix == ".sxm":
        scan = nanonispy2.read.Scan(str(path))
        header = scan.header
        found = {
            f"{name}/{direction}": data
            for name, both in scan.signals.items()
            for direction, data in both.items()
        }
        found["range"] = np.asarray(header["scan_range"], float)
        found["offset"] = np.asarray(header["scan_offset"], float)
        found["bias"] = np.asarray(header["bias"], float)
        found["upward"] = np.asarray(header["scan_dir"] == "up")
        return found
    if path.suffix == ".dat":
        spectrum = nanonispy2.read.Spec(str(path))
        found = dict(spectrum.signals)
        found["position"] = np.asarray([spectrum.header["X (m)"], spectrum.header["Y (m)"]], float)
        return found
    grid = nanonispy2.read.Grid(str(path))
    found = dict(grid.signals)
    found["centre"] = np.asarray(grid.header["pos_xy"], float)
    found["angle"] = np.asarray(grid.header["angle"], float)
    return found


def with_xarray_nanonis(path):
    """Numbers turned to our conventions by the reader itself."""
    import xarray

    data = xarray.open_dataset(str(path), engine="nanonis")
    found = {}
    for name, values in data.variables.items():
        if values.dtype.kind == "U" or name == "dir":
            continue
        if "dir" in values.dims:
            for i, direction in enumerate(("forward", "backward")):
                found[f"{name}/{direction}"] = values.transpose("dir", "y", "x").values[i]
        elif values.dims == ("bias", "y", "x"):
            found[str(name)] = values.transpose("y", "x", "bias").values
        else:
            found[str(name)] = values.values
    return found


def with_scifireaders(path):
    """Images with row 0 at the highest y; of spectra and grids the raw numbers."""
    import SciFiReaders

    reader = {
        ".sxm": SciFiReaders.NanonisSXMReader,
        ".dat": SciFiReaders.NanonisDatReader,
        ".3ds": SciFiReaders.Nanonis3dsReader,
    }[path.suffix]
    found = {}
    for data in reader(str(path)).read():
        name = str(data.quantity)
        if path.suffix == ".sxm":
            name = f"{name}/{data.original_metadata['Direction']}"
        found[name] = np.asarray(data.compute() if hasattr(data, "compute") else data)
    return found


READERS = {
    "nanonispy2": with_nanonispy2,
    "xarray-nanonis": with_xarray_nanonis,
    "SciFiReaders": with_scifireaders,
}


def main(readers, out, names):
    """Read all files with all readers."""
    store = {}
    for number, name in enumerate(names):
        for reader in readers.split(","):
            try:
                found = READERS[reader](Path(name))
            except Exception:  # noqa: BLE001  (whatever a reader raises is what is looked for)
                store[f"{number}|{reader}|error"] = np.asarray(traceback.format_exc())
                continue
            for key, values in found.items():
                store[f"{number}|{reader}|{key}"] = np.asarray(values)
    np.savez(out, **{key.replace("/", "~"): values for key, values in store.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
