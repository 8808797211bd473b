"""Samples by name, as on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from protocols.errors import ConfigError
from protocols.files.nanonis_grid import read_grid
from sim_hardware.surfaces.au111 import Au111Surface
from sim_hardware.surfaces.base import Surface
from sim_hardware.surfaces.euzn2as2 import EuZn2As2Surface
from sim_hardware.surfaces.recorded import RecordedSurface
from sim_hardware.surfaces.terraces import TerracesSurface
from sim_hardware.surfaces.vacancy import VacancySurface


def _ws2(seed: int) -> Surface:
    # Compiled kernels take a second to load: only samples that need them do.
    from sim_hardware.surfaces.tmd import Ws2Surface

    return Ws2Surface(seed)


def _wse2(seed: int) -> Surface:
    from sim_hardware.surfaces.tmd import Wse2Surface

    return Wse2Surface(seed)


def _fese(seed: int) -> Surface:
    from sim_hardware.surfaces.fese import FeSeSurface

    return FeSeSurface(seed)


def _nsid(path: Path, name: str) -> Surface:
    # So does the HDF5 library.
    from protocols.files.nsid import read_nsid
    from sim_hardware.surfaces.recorded_nsid import RecordedRunSurface

    return RecordedRunSurface(read_nsid(path), name)


SAMPLES: dict[str, Callable[[int], Surface]] = {
    "vacancy": VacancySurface,
    "terraces": TerracesSurface,
    "au111": Au111Surface,
    "euzn2as2": EuZn2As2Surface,
    "ws2": _ws2,
    "wse2": _wse2,
    "fese": _fese,
}
NSID_ENDINGS = (".hf5", ".h5", ".hdf5")
RECORDED_PREFIX = "recorded:"
DEMO_GRID = Path(__file__).parent.parent / "recorded" / "NanonisReader_STS_grid_lockin.3ds"
"""A 30 x 30 CITS grid of 5 nm from pycroscopy/SciFiDatasets (MIT, LICENSE.txt beside it)."""


def make_surface(name: str, seed: int) -> Surface:
    """The surface of a sample: a name of ``SAMPLES``, "recorded:demo", or "recorded:PATH" of a .3ds grid or
    of an autonomous run as NSID (.hf5).

    Raises:
        ConfigError: no such sample.
        DataFormatError: the recorded file is missing, truncated or not what its name says.
    """
    if name.startswith(RECORDED_PREFIX):
        what = name.removeprefix(RECORDED_PREFIX)
        if what.lower().endswith(NSID_ENDINGS):
            return _nsid(Path(what).expanduser(), name)
        return RecordedSurface(read_grid(DEMO_GRID if what == "demo" else Path(what).expanduser()), name)
    if name not in SAMPLES:
        raise ConfigError(
            f"there is no sample {name!r}.",
            f"Known: {', '.join(sorted(SAMPLES))}, recorded:demo, recorded:PATH (a .3ds or .hf5 file).",
        )
    return SAMPLES[name](seed)
