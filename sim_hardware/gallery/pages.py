"""Two pages for each sample: what it looks like, and the same frame with everything that can go wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim_hardware.gallery import drawing
from sim_hardware.gallery.frames import (
    LockInView,
    View,
    Working,
    conductance_maps,
    coordinates,
    spectrum,
    take,
)
from sim_hardware.gallery.samples import SHOWS, Show, named
from sim_hardware.physics.distortions import (
    BoucWen,
    CreepSettings,
    Distortions,
    DriftSettings,
    ScannerSettings,
)
from sim_hardware.physics.noise import NoiseSettings
from sim_hardware.physics.tips import TipRecipe
from sim_hardware.surfaces.base import Surface, SurfaceObject
from sim_hardware.surfaces.catalogue import make_surface
from sim_hardware.surfaces.recorded import RecordedSurface
from sim_hardware.tip import Apex, Tip

Floats = npt.NDArray[np.float64]

DPI = 130
MAP_PIXELS = 72
SWEEP_POINTS = 321
TIMES = "\N{MULTIPLICATION SIGN}"
FAST_LINE_S = 0.1
"""Of the frame with a ringing controller, behind a filter of 60 Hz."""
FLAT_M = 0.16e-9
"""More than this within the close-up is a step."""
GOOD_TIP = Tip(recipe=TipRecipe(angle_rad=0.4))


@dataclass(frozen=True)
class _Set:
    """A sample ready to be measured: its surface, both frames, and the name it was asked for by."""

    name: str
    show: Show
    surface: Surface
    wide: View
    zoom: View


def _ready(name: str, pixels: int) -> _Set:
    show = SHOWS[name]
    surface = make_surface(name, show.seed)
    first = _most_around(show, surface)
    wide_x, wide_y = _inside(show, surface, first)
    wide = View(wide_x, wide_y, show.wide_m, show.bias_v, show.setpoint_a, pixels, line_s=0.5)
    zoom = View(first.x_m, first.y_m, show.zoom_m, show.zoom_bias_v, show.zoom_setpoint_a, pixels)
    return _Set(name, show, surface, wide, zoom)


def _inside(show: Show, surface: Surface, thing: SurfaceObject) -> tuple[float, float]:
    """Centre of the survey about an object: within the part of the surface that has objects."""
    half = max(0.5 * (surface.extent_m - show.wide_m), 0.0)
    x, y = np.clip([thing.x_m, thing.y_m], -half, half)
    return float(x), float(y)


def _most_around(show: Show, surface: Surface) -> SurfaceObject:
    """The object to zoom on: with as many of the others that get spectra around it as there are."""

    junction = surface.junction(GOOD_TIP, None)

    def around(thing: SurfaceObject) -> int:
        x, y = _inside(show, surface, thing)
        if max(abs(thing.x_m - x), abs(thing.y_m - y)) > 0.5 * (show.wide_m - show.zoom_m):
            return -1000
        side = show.zoom_m * np.linspace(-0.5, 0.5, 12)
        if np.ptp(junction.contact(thing.x_m + np.tile(side, 12), thing.y_m + np.repeat(side, 12))) > FLAT_M:
            return -100
        reach = 0.42 * show.wide_m
        near = [o for o in surface.objects if max(abs(o.x_m - x), abs(o.y_m - y)) < reach]
        return len({spot.form for spot in show.spots for o in near if spot.form in (o.kind, o.form)})

    return max(named(surface, show.about)[:60], key=around)


def sample_page(name: str, folder: Path, pixels: int = 192) -> Path:
    """Topographs, dI/dV maps and spectra of one of ``SHOWS``, as PNG; its path."""
    import matplotlib.pyplot as plt

    ready = _ready(name, pixels)
    show = ready.show
    rng = np.random.default_rng([show.seed, 0x9A9E])
    junction = ready.surface.junction(GOOD_TIP, None)
    figure = plt.figure(figsize=(12.6, 8.4), layout="constrained")
    top, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1.0, 0.82)), dtype=object)
    left, middle, right = top.subplots(1, 3, width_ratios=(1.0, 1.0, 1.0))
    wide = drawing.plane_subtracted(take(junction, ready.wide, Working(), show.seed).z_m[0])
    drawing.image(left, wide, show.wide_m, "m", drawing.HEIGHTS, f"a  {_said(ready.wide)}", lit=show.lit)
    corner_x, corner_y = _within(ready.wide, ready.zoom.x_m, ready.zoom.y_m)
    drawing.square(left, corner_x - 0.5 * show.zoom_m, corner_y - 0.5 * show.zoom_m, show.zoom_m)
    zoomed = drawing.plane_subtracted(take(junction, ready.zoom, Working(), show.seed + 1).z_m[0])
    drawing.image(middle, zoomed, show.zoom_m, "m", drawing.HEIGHTS, f"b  {_said(ready.zoom)}")
    biases = np.linspace(*show.sweep_v, SWEEP_POINTS)
    places, labels = _places(ready)
    rows = [spectrum(junction, x, y, biases, show.lockin, rng) for x, y in places]
    drawing.curves(right, biases, rows, labels, 0.35)
    right.set_title(f"c  {_opened(show.lockin)}", fontsize=9, loc="left", pad=4)
    inside = [_within(ready.wide, x, y) for x, y in places]
    drawing.marks(left, inside)
    mapped = ready.zoom if show.maps == "zoom" else ready.wide
    maps = conductance_maps(junction, mapped, np.array(show.maps_v), show.lockin, MAP_PIXELS, rng)
    for n, axes in enumerate(below.subplots(1, 3)):
        title = f"{'def'[n]}  dI/dV at {drawing.bias(show.maps_v[n])}"
        drawing.image(axes, maps[n], mapped.width_m, "S", drawing.CONDUCTANCES, title)
    lit = " (a: lit from the upper left)" if show.lit else ""
    words = (
        f"{_title(show)}, simulated.  a, b: constant-current topographs, {pixels} {TIMES} {pixels} "
        f"pixels, forward, plane subtracted{lit}; the square in a is b.  c: spectra at the points in a.  "
        f"d-f: maps of the area of b, {MAP_PIXELS} {TIMES} {MAP_PIXELS} spectra as in c."
    )
    return _saved(figure, words, folder / f"{_file(name)}.png")


def distortions_page(name: str, folder: Path, pixels: int = 128) -> Path:
    """The same frame taken well, and with each distortion; its path."""
    import matplotlib.pyplot as plt

    ready = _ready(name, pixels)
    show = ready.show
    view = ready.wide if show.distorted == "wide" else ready.zoom
    figure = plt.figure(figsize=(12.6, 7.9), layout="constrained")
    ends: tuple[float, float] | None = None
    for axes, (words, working, tip, levelled) in zip(
        figure.subplots(3, 4).ravel(), _workings(view, show), strict=True
    ):
        hurried = replace(view, line_s=FAST_LINE_S) if "fast" in words else view
        taken = take(ready.surface.junction(tip, None), hurried, working, show.seed + 7)
        z = taken.z_m[1] if "backward" in words else taken.z_m[0]
        shown = drawing.plane_subtracted(z) if levelled else z - np.median(z)
        ends = ends or drawing.limits(shown)
        own = None if not levelled or "tip" in words else ends
        lit = show.lit and view is ready.wide and levelled
        drawing.image(axes, shown, view.width_m, "m", drawing.HEIGHTS, words, own, lit)
    words = (
        f"{show.title}, simulated: one frame ({_said(view)}, {pixels} {TIMES} {pixels} pixels, "
        f"{view.line_s:.2g} s for a line) as a good microscope shows it, and with one distortion each."
    )
    return _saved(figure, words, folder / f"{_file(name)}_distortions.png")


def _workings(view: View, show: Show) -> list[tuple[str, Working, Tip, bool]]:
    """What is shown: words, how the frame is taken, the tip, and whether a plane is subtracted."""
    well = Working()
    w = view.width_m
    frame_s = 2.2 * view.line_s * view.pixels
    scanner = ScannerSettings()
    creep = Distortions(scanner=scanner, creep=CreepSettings(0.02), approach_m=(-1.5 * w, -2.0 * w))
    hysteresis = Distortions(
        scanner=scanner, hysteresis=BoucWen(alpha=1.35, beta=-0.35), hysteresis_range_m=0.7 * w
    )
    drifting = DriftSettings((0.30 * w / frame_s, 0.18 * w / frame_s, 0.0), (0.0, 0.0, 0.0))
    loud = NoiseSettings(voltage_v_per_sqrt_hz=25e-9, flicker_share=0.03, mains_a=(8e-12, 3e-12, 5e-12))
    ringing = replace(well, gain=60.0, proportional=0.0, bandwidth_hz=60.0)
    good = GOOD_TIP
    double = Tip(
        apices=(Apex(), Apex(0.8 * show.apart_m, 0.5 * show.apart_m, 8e-12)),
        recipe=replace(good.recipe, second=(0.8 * show.apart_m, 0.5 * show.apart_m, 8e-12)),
    )
    worn = Tip(
        apices=(Apex(), Apex(0.25 * show.apart_m, 0.0, 0.0), Apex(0.0, 0.3 * show.apart_m, 0.0)),
        recipe=replace(good.recipe, dull_layers=1, worn_share=0.34, seed=2),
    )
    return [
        ("as it should be", well, good, True),
        ("creep after a long move", replace(well, distortions=creep), good, True),
        ("hysteresis, forward", replace(well, distortions=hysteresis), good, True),
        ("hysteresis, backward", replace(well, distortions=hysteresis), good, True),
        (
            "thermal drift",
            replace(well, distortions=Distortions(scanner=scanner, drift=drifting)),
            good,
            True,
        ),
        ("tilt, no plane subtracted", replace(well, distortions=_tilted(scanner, w)), good, False),
        ("feedback too slow, forward", replace(well, gain=0.02, proportional=0.0), good, True),
        ("feedback too slow, backward", replace(well, gain=0.02, proportional=0.0), good, True),
        (f"feedback too fast, {FAST_LINE_S:g} s a line", ringing, good, True),
        ("noise: mains, 1/f, amplifier", replace(well, noise=loud), good, True),
        ("double tip", well, double, True),
        ("dull, worn tip", well, worn, True),
    ]


def _tilted(scanner: ScannerSettings, width_m: float) -> Distortions:
    """A tilt that stands beside the corrugation: 0.3 nm over a frame of atoms, 2 nm over a wide one."""
    rise = 0.25e-9 if width_m < 10e-9 else 1.0e-9
    return Distortions(scanner=scanner, slope_x=rise / width_m, slope_y=-0.6 * rise / width_m)


def recorded_page(folder: Path) -> Path:
    """The recorded grid as it is: topograph, lock-in maps, spectra; its path."""
    import matplotlib.pyplot as plt

    surface = make_surface("recorded:demo", 0)
    assert isinstance(surface, RecordedSurface)
    grid = surface.grid
    unit, values = surface.channels.get("lockin_x", surface.channels["current"])
    sweep = grid.sweep
    figure = plt.figure(figsize=(12.6, 8.4), layout="constrained")
    top, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1.0, 0.82)), dtype=object)
    left, middle, right = top.subplots(1, 3)
    z = np.asarray(surface.topograph, dtype=np.float64)
    drawing.image(left, drawing.plane_subtracted(z), grid.width_m, "m", drawing.HEIGHTS, "a  topograph")
    current = np.asarray(surface.channels["current"][1][:, :, -1], dtype=np.float64)
    at = drawing.bias(float(sweep[-1]))
    drawing.image(middle, current, grid.width_m, "A", drawing.CONDUCTANCES, f"b  current at {at}")
    rows, columns = z.shape
    places = [(rows // 4, columns // 4), (rows // 2, columns // 2), (3 * rows // 4, 2 * columns // 3)]
    curves = [np.asarray(values[r, c], dtype=np.float64) for r, c in places]
    drawing.curves(right, sweep, curves, [f"row {r}, column {c}" for r, c in places], 0.35)
    right.set_ylabel(f"lock-in X ({unit}), shifted", fontsize=9)
    right.set_title("c  spectra at the points in a", fontsize=9, loc="left", pad=4)
    pixel_y, pixel_x = grid.height_m / rows, grid.width_m / columns
    drawing.marks(left, [((c + 0.5) * pixel_x, (r + 0.5) * pixel_y) for r, c in places])
    chosen = [len(sweep) // 8, 2 * len(sweep) // 3, 7 * len(sweep) // 8]
    for n, axes in enumerate(below.subplots(1, 3)):
        title = f"{'def'[n]}  lock-in X at {drawing.bias(float(sweep[chosen[n]]))}"
        mapped = np.asarray(values[:, :, chosen[n]], dtype=np.float64)
        drawing.image(axes, mapped, grid.width_m, unit, drawing.CONDUCTANCES, title)
    words = (
        f"Recorded, not simulated: CITS grid {grid.path.name}, {columns} {TIMES} {rows} spectra over "
        f"{drawing.quantity(grid.width_m, 'm')}, {drawing.bias(float(sweep[0]))} to "
        f"{drawing.bias(float(sweep[-1]))} "
        f"(pycroscopy/SciFiDatasets, MIT licence).  The simulator serves these spectra unchanged."
    )
    return _saved(figure, words, folder / "recorded_demo.png")


def _title(show: Show) -> str:
    return f"{show.title} ({show.temperature})" if show.temperature else show.title


def _said(view: View) -> str:
    edge = drawing.quantity(view.width_m, "m")
    return f"{edge} {TIMES} {edge}, {drawing.bias(view.bias_v)}, {drawing.quantity(view.setpoint_a, 'A')}"


def _opened(lockin: LockInView) -> str:
    return (
        f"opened at {drawing.bias(lockin.bias_v)}, {drawing.quantity(lockin.setpoint_a, 'A')}; modulation "
        f"{drawing.quantity(lockin.modulation_v, 'V')} peak"
    )


def _within(view: View, x_m: float, y_m: float) -> tuple[float, float]:
    """From the frame's lower left corner."""
    return x_m - view.x_m + 0.5 * view.width_m, y_m - view.y_m + 0.5 * view.width_m


def _places(ready: _Set) -> tuple[list[tuple[float, float]], list[str]]:
    """Where spectra are taken within the wide frame, and what stands there."""
    places, labels = [], []
    half = 0.47 * ready.wide.width_m
    taken: list[tuple[float, float]] = []
    for spot in ready.show.spots:
        if not spot.form:
            places.append(_clear(ready))
            labels.append(spot.label)
            continue
        for thing in named(ready.surface, spot.form):
            near = abs(thing.x_m - ready.wide.x_m) < half and abs(thing.y_m - ready.wide.y_m) < half
            if near and (thing.x_m, thing.y_m) not in taken:
                places.append((thing.x_m, thing.y_m))
                labels.append(spot.label)
                taken.append((thing.x_m, thing.y_m))
                break
    return places, labels


def _clear(ready: _Set) -> tuple[float, float]:
    """The place in the wide frame that is farthest from everything (within its inner part)."""
    u = 0.4 * ready.wide.width_m * np.linspace(-1.0, 1.0, 41)
    x, y = (a.ravel() for a in np.meshgrid(*coordinates(ready.wide, u, u)))
    points = [o for o in ready.surface.objects if o.form != "edge"]
    away = np.min([np.hypot(x - o.x_m, y - o.y_m) for o in points], axis=0)
    best = int(np.argmax(away))
    return float(x[best]), float(y[best])


def _file(name: str) -> str:
    return name.replace(":", "_")


def _saved(figure: object, words: str, path: Path) -> Path:
    import textwrap

    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    figure.suptitle("\n".join(textwrap.wrap(words, 185)), fontsize=9, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path
