"""One image of a data set: from its recipe to topograph, current and labels.

The tip's way over the sample (``places``), the current along it (``current_map``), the controller with its
noise (``loop``); all random numbers are keyed by the data set's seed and the image's index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.dataset.arrangements import ATOMISTIC, material
from sim_hardware.dataset.continuum import CLASSES as CONTINUUM_CLASSES
from sim_hardware.dataset.current_map import SPACING_NM, CurrentMap, Grid
from sim_hardware.dataset.loop import Lanes, LaneScan, constants, scan_lanes
from sim_hardware.dataset.pickup import flicker, mains_terms
from sim_hardware.dataset.places import Track, lane_samples, track
from sim_hardware.dataset.plan import ImageRecipe, Spec
from sim_hardware.dataset.scenes import area_of, current_map, defects_of, to_frame
from sim_hardware.physics.distortions import (
    BoucWen,
    CreepSettings,
    Distortions,
    DriftSettings,
    Raster,
    ScannerSettings,
)
from sim_hardware.physics.feedback import PidSettings
from sim_hardware.physics.noise import NoiseSettings, shot_density, thermal_density

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NM = 1e-9
LEAD_IN = 16
"""Pixels of the line before in which a lane's controller finds its state."""
TURN = 4
"""Pixels' time that each turn takes."""
RAIL_V = 10.0
MAINS_HZ = 50.0
HARMONICS = (1.0, 0.4, 0.6)
RANGE_M = 250e-9
"""Of Z, either way."""
SLEW_M_S = 2e-6
BLOB_M = 0.12e-9
"""Standard deviation of a defect in the label maps (atomistic samples)."""
CONTINUUM_BLOB_M = 0.4e-9


@dataclass(frozen=True)
class Way:
    """The tip's way: the frame's raster, the whole track, which of its samples each lane follows, and the
    nodes under it.

    ``pixels`` (2, lines, pixels): samples of the pixels forward and backward, columns ascending in u.
    """

    raster: Raster
    track: Track
    lanes: npt.NDArray[np.intp]
    pixels: npt.NDArray[np.intp]
    grid: Grid


@dataclass(frozen=True)
class Image:
    """``z_m`` and ``current`` (in setpoints) as recorded, forward and backward: (2, lines, pixels).

    ``ideal_m``: the height without feedback errors, noise and distortions (lines, pixels); ``maps``
    (classes, lines, pixels): 1 on a defect of the class, falling as a Gaussian, as the forward image shows
    it.  Defects in the frame: ``classes`` (n,), ``row`` and ``column`` (n,) where the forward image shows
    them (pixels, 0 is the first pixel's middle), ``x_m`` and ``y_m`` (n,) in the arrangement.
    """

    z_m: Singles
    current: Singles
    ideal_m: Singles
    maps: Singles
    classes: Ints
    row: Singles
    column: Singles
    x_m: Floats
    y_m: Floats


def class_names(sample: str) -> tuple[str, ...]:
    """Classes of defects of a sample, in the order of the maps."""
    return material(sample).classes if sample in ATOMISTIC else CONTINUUM_CLASSES


def rng_of(spec: Spec, recipe: ImageRecipe) -> np.random.Generator:
    """All that is random in an image, beyond its recipe."""
    return np.random.default_rng([spec.seed, 0x1AA6E, recipe.index])


def simulate(spec: Spec, recipe: ImageRecipe) -> Image:
    """The image of a recipe."""
    rng = rng_of(spec, recipe)
    way = way_of(spec, recipe, rng)
    found = current_map(spec, recipe, way.grid)
    lanes = lanes_of(spec, recipe, way, found, rng)
    scan = scan_lanes(lanes, loop_constants(recipe))
    return assembled(spec, recipe, way, found, scan)


def distortions(recipe: ImageRecipe) -> Distortions:
    """What bends it."""
    r = recipe
    mean = (r.drift_x_m_s, r.drift_y_m_s, r.drift_z_m_s)
    speed = float(np.hypot(r.drift_x_m_s, r.drift_y_m_s))
    return Distortions(
        creep=CreepSettings(r.creep_gamma) if r.creep_gamma > 0.0 else None,
        hysteresis=BoucWen(alpha=1.0 - r.hysteresis_beta, beta=r.hysteresis_beta)
        if r.hysteresis_beta
        else None,
        hysteresis_range_m=r.hysteresis_range_m,
        scanner=ScannerSettings(resonance_hz=r.resonance_hz),
        drift=DriftSettings(mean, (0.3 * speed, 0.3 * speed, 0.06 * speed)) if speed > 0.0 else None,
        slope_x=r.slope_x,
        slope_y=r.slope_y,
        approach_m=(r.approach_x_m, r.approach_y_m),
    )


def raster_of(spec: Spec, recipe: ImageRecipe) -> Raster:
    """The frame about its own centre."""
    pixel_s = recipe.ticks_per_pixel / recipe.rate_hz
    return Raster(
        width_m=recipe.width_m,
        height_m=recipe.width_m,
        pixels=spec.size,
        lines=spec.size,
        angle_rad=recipe.angle_rad,
        line_s=spec.size * pixel_s,
        turn_s=TURN * pixel_s,
        samples_per_pixel=1,
    )


def way_of(spec: Spec, recipe: ImageRecipe, rng: np.random.Generator) -> Way:
    """Where the tip goes."""
    raster = raster_of(spec, recipe)
    walked = track(raster, distortions(recipe), rng)
    step = SPACING_NM if spec.sample in ATOMISTIC else max(SPACING_NM, recipe.width_m / spec.size / NM)
    half = 0.5 * recipe.width_m
    # The ideal image's places are in it, too.
    u, v = np.append(walked.u_m, [-half, half]) / NM, np.append(walked.v_m, [-half, half]) / NM
    return Way(raster, walked, lane_samples(raster, LEAD_IN), raster.pixel_samples(), Grid.over(u, v, step))


def noise_settings(recipe: ImageRecipe) -> NoiseSettings:
    """Sources of noise."""
    return NoiseSettings(
        resistance_ohm=recipe.gain_v_a,
        voltage_v_per_sqrt_hz=recipe.voltage_noise_v,
        flicker_share=recipe.flicker_share,
        mains_hz=MAINS_HZ,
        mains_a=tuple(recipe.mains_a * share for share in HARMONICS),
        mains_phases_rad=tuple(recipe.mains_phase_rad * (n + 1) for n in range(len(HARMONICS))),
    )


def pid_settings(recipe: ImageRecipe) -> PidSettings:
    """The controller."""
    return PidSettings(
        setpoint_a=recipe.setpoint_a,
        rate_hz=recipe.rate_hz,
        proportional_m=recipe.proportional_m,
        integral_m_s=recipe.integral_m_s,
        derivative_m_s=recipe.derivative_m_s,
        logarithmic=bool(recipe.logarithmic),
        bandwidth_hz=recipe.bandwidth_hz,
        rail_a=RAIL_V / recipe.gain_v_a,
        z_low_m=-RANGE_M,
        z_high_m=RANGE_M,
        slew_m_s=SLEW_M_S,
    )


def loop_constants(recipe: ImageRecipe) -> Singles:
    """The same with the white noise, in the loop's units."""
    noise = noise_settings(recipe)
    shot = noise.shot_factor * float(shot_density(np.array(recipe.setpoint_a)))
    thermal = thermal_density(noise.resistance_ohm, noise.temperature_k)
    charge = noise.capacitance_f * noise.voltage_v_per_sqrt_hz
    return constants(pid_settings(recipe), shot, thermal, charge)


def lanes_of(spec: Spec, recipe: ImageRecipe, way: Way, found: CurrentMap, rng: np.random.Generator) -> Lanes:
    """The current along the way, and its noise."""
    t, ticks = way.track, recipe.ticks_per_pixel
    along = np.empty((len(t.u_m), 5), dtype=np.float32)
    along[:, :4] = found.at(t.u_m / NM, t.v_m / NM)
    along[:, 0] += (t.lift_m / NM).astype(np.float32)
    noise = noise_settings(recipe)
    along[:, 4] = flicker(noise, len(t.u_m), way.raster.sample_s, rng)
    path = np.ascontiguousarray(along[way.lanes].transpose(0, 2, 1))
    count, starts = len(way.lanes) * ticks, t.times_s[way.lanes[0]]
    mains = mains_terms(noise, recipe.setpoint_a, 1.0 / recipe.rate_hz, count, starts)
    return Lanes(path, *mains, key=int(rng.integers(2**32)), ticks_per_place=ticks)


def assembled(spec: Spec, recipe: ImageRecipe, way: Way, found: CurrentMap, scan: LaneScan) -> Image:
    """Pixels and labels."""
    size, turn = spec.size, way.raster.turn_samples
    first = LEAD_IN + turn
    back = first + size + turn

    def both(values: Singles) -> Singles:
        forward, backward = values[first : first + size].T, values[back : back + size][::-1].T
        return np.stack([forward, backward])

    half = 0.5 * recipe.width_m / NM
    middle = half * ((2.0 * np.arange(size) + 1.0) / size - 1.0)
    u, v = np.tile(middle, size), np.repeat(middle, size)
    ideal = found.at(u, v)[:, 0].reshape(size, size)
    maps, kinds, row, column, x, y = _labels(spec, recipe, way)
    unit = np.float32(NM)
    return Image(both(scan.z) * unit, both(scan.seen), ideal * unit, maps, kinds, row, column, x, y)


def _labels(
    spec: Spec, recipe: ImageRecipe, way: Way
) -> tuple[Singles, Ints, Singles, Singles, Floats, Floats]:
    """Maps, and classes, rows, columns and places of the defects in the frame."""
    atomistic = spec.sample in ATOMISTIC
    where = defects_of(spec, recipe.arrangement) if atomistic else area_of(spec, recipe.arrangement)
    blob = BLOB_M if atomistic else CONTINUUM_BLOB_M
    u, v = to_frame(recipe, where.x_m, where.y_m)
    pixels_u, pixels_v = way.track.u_m[way.pixels[0]], way.track.v_m[way.pixels[0]]
    maps = np.zeros((len(class_names(spec.sample)), spec.size, spec.size), dtype=np.float32)
    kept, rows, columns = [], [], []
    pixel = recipe.width_m / spec.size
    reach = 4.0 * blob
    low, high = (
        (pixels_u.min() - reach, pixels_v.min() - reach),
        (pixels_u.max() + reach, pixels_v.max() + reach),
    )
    near = (u > low[0]) & (u < high[0]) & (v > low[1]) & (v < high[1])
    for n in np.nonzero(near)[0]:
        du, dv = (pixels_u - u[n]).astype(np.float32), (pixels_v - v[n]).astype(np.float32)
        apart = du * du + dv * dv
        own = maps[where.classes[n]]
        np.maximum(own, np.exp(apart * np.float32(-0.5 / blob**2)), out=own)
        if apart.min() > pixel * pixel:
            continue
        row, column = _seen_at(du, dv, apart)
        if -0.5 <= row < spec.size - 0.5 and -0.5 <= column < spec.size - 0.5:
            kept.append(int(n))
            rows.append(row)
            columns.append(column)
    return (
        maps,
        where.classes[kept],
        np.array(rows, dtype=np.float32),
        np.array(columns, dtype=np.float32),
        where.x_m[kept],
        where.y_m[kept],
    )


def _seen_at(du: Singles, dv: Singles, apart: Singles) -> tuple[float, float]:
    """Row and column at which ``du`` = ``dv`` = 0: from the nearest pixel by the local slopes."""
    row, column = (int(i) for i in np.unravel_index(int(apart.argmin()), apart.shape))
    last = len(du) - 1
    r, c = min(max(row, 1), last - 1), min(max(column, 1), last - 1)
    slope = 0.5 * np.array(
        [
            [du[r, c + 1] - du[r, c - 1], du[r + 1, c] - du[r - 1, c]],
            [dv[r, c + 1] - dv[r, c - 1], dv[r + 1, c] - dv[r - 1, c]],
        ],
        dtype=np.float64,
    )
    if abs(np.linalg.det(slope)) < 1e-30:
        return float(row), float(column)
    step_column, step_row = np.linalg.solve(
        slope, -np.array([du[row, column], dv[row, column]], dtype=np.float64)
    )
    return row + float(np.clip(step_row, -1.0, 1.0)), column + float(np.clip(step_column, -1.0, 1.0))
