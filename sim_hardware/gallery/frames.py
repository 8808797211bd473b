"""Frames and spectra of any sample through the whole instrument, for pictures.

A frame is taken as in data sets (``dataset.places``, ``dataset.loop``): the tip's way with its distortions,
the controller at its rate with noise.  Spectra and maps are what a lock-in shows with the feedback open at
the height of the setpoint: the conductance averaged over the modulation, with the noise of the current in
the lock-in's band.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sim_hardware.dataset.loop import Lanes, constants, scan_lanes
from sim_hardware.dataset.pickup import flicker, mains_terms
from sim_hardware.dataset.places import lane_samples, track
from sim_hardware.junction import Junction
from sim_hardware.physics.distortions import Distortions, Raster, ScannerSettings
from sim_hardware.physics.feedback import PidSettings
from sim_hardware.physics.lockin import chebyshev_rule
from sim_hardware.physics.noise import NoiseSettings, shot_density, thermal_density

Floats = npt.NDArray[np.float64]

NM = 1e-9
RATE_HZ = 20e3
LEAD_IN, TURN_PIXELS = 24, 6
BANDWIDTH_HZ = 1.1e3
LAG_PIXELS = 0.12
"""Time constant of a well set controller over the time of a pixel."""
CORNER = 0.22
"""Its corner's largest share of the preamplifier's bandwidth."""
NODES = 7
"""Of the average over the modulation."""


@dataclass(frozen=True)
class View:
    """A frame: centre (m), edge (m), pixels, bias (V), setpoint (A), time for a line (s), angle (rad)."""

    x_m: float
    y_m: float
    width_m: float
    bias_v: float
    setpoint_a: float
    pixels: int = 192
    line_s: float = 0.4
    angle_rad: float = 0.0

    def raster(self) -> Raster:
        """As the scanner is driven."""
        pixel_s = round(self.line_s / self.pixels * RATE_HZ) / RATE_HZ
        return Raster(
            width_m=self.width_m,
            height_m=self.width_m,
            pixels=self.pixels,
            lines=self.pixels,
            angle_rad=self.angle_rad,
            line_s=pixel_s * self.pixels,
            turn_s=TURN_PIXELS * pixel_s,
            samples_per_pixel=1,
        )


@dataclass(frozen=True)
class Working:
    """How the frame is taken: distortions, noise, and the controller's gains over those of a well set one."""

    distortions: Distortions = field(default_factory=lambda: Distortions(scanner=ScannerSettings()))
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    gain: float = 1.0
    proportional: float = 0.15
    """Times 1 / 2 kappa."""
    bandwidth_hz: float = BANDWIDTH_HZ
    """Of the preamplifier and its filter."""


@dataclass(frozen=True)
class Taken:
    """A topograph (m) and |I| (A), forward and backward: (2, lines, pixels)."""

    z_m: Floats
    current_a: Floats


def controller(view: View, kappa: float, working: Working) -> PidSettings:
    """The controller for a frame: a corner well above the pixels' rate and below the preamplifier's band."""
    pixel_s = view.raster().sample_s
    corner = min(1.0 / (2.0 * np.pi * LAG_PIXELS * pixel_s), CORNER * working.bandwidth_hz)
    return PidSettings(
        setpoint_a=view.setpoint_a,
        rate_hz=RATE_HZ,
        proportional_m=working.proportional / (2.0 * kappa),
        integral_m_s=working.gain * np.pi * corner / kappa,
        bandwidth_hz=working.bandwidth_hz,
        rail_a=10e-9,
        slew_m_s=2e-6,
    )


def take(junction: Junction, view: View, working: Working, seed: int) -> Taken:
    """Scan a frame."""
    rng = np.random.default_rng([seed, 0x6A11])
    raster = view.raster()
    way = track(raster, working.distortions, rng)
    x, y = coordinates(view, way.u_m, way.v_m)
    profile = junction.profile(x, y, view.bias_v, view.setpoint_a)
    height = profile.height_m + (profile.log_current - np.log(view.setpoint_a)) / profile.decay_per_m
    ground = float(np.median(height))
    along = np.zeros((len(x), 5), dtype=np.float32)
    along[:, 0] = (height - ground + way.lift_m) / NM
    along[:, 1] = profile.decay_per_m * NM
    along[:, 4] = flicker(working.noise, len(x), raster.sample_s, rng)
    lanes = lane_samples(raster, LEAD_IN)
    path = np.ascontiguousarray(along[lanes].transpose(0, 2, 1))
    ticks = round(raster.sample_s * RATE_HZ)
    starts = way.times_s[lanes[0]]
    mains = mains_terms(working.noise, view.setpoint_a, 1.0 / RATE_HZ, len(lanes) * ticks, starts)
    noise = working.noise
    loop = constants(
        controller(view, junction.kappa, working),
        noise.shot_factor * float(shot_density(np.array(view.setpoint_a))),
        thermal_density(noise.resistance_ohm, noise.temperature_k),
        noise.capacitance_f * noise.voltage_v_per_sqrt_hz,
    )
    scan = scan_lanes(Lanes(path, *mains, key=int(rng.integers(2**32)), ticks_per_place=ticks), loop)
    first = LEAD_IN + raster.turn_samples
    back = first + view.pixels + raster.turn_samples

    def both(values: npt.NDArray[np.float32]) -> Floats:
        there, again = values[first : first + view.pixels].T, values[back : back + view.pixels][::-1].T
        return np.stack([there, again]).astype(np.float64)

    return Taken(both(scan.z) * NM + ground, both(scan.seen) * view.setpoint_a)


def coordinates(view: View, u_m: Floats, v_m: Floats) -> tuple[Floats, Floats]:
    """From the frame's axes to the sample."""
    cos, sin = np.cos(view.angle_rad), np.sin(view.angle_rad)
    return view.x_m + cos * u_m - sin * v_m, view.y_m + sin * u_m + cos * v_m


@dataclass(frozen=True)
class LockInView:
    """Spectroscopy: bias (V) and setpoint (A) at which the feedback is opened; modulation (V, peak) and time
    constant (s) of the lock-in."""

    bias_v: float
    setpoint_a: float
    modulation_v: float
    time_constant_s: float = 20e-3


def spectrum(
    junction: Junction, x_m: float, y_m: float, biases_v: Floats, lockin: LockInView, rng: np.random.Generator
) -> Floats:
    """dI/dV (S) at one place for biases (m,): (m,)."""
    at = np.array([x_m]), np.array([y_m])
    height = float(junction.profile(*at, lockin.bias_v, lockin.setpoint_a).target(lockin.setpoint_a)[0])
    node, weight = chebyshev_rule(NODES)
    offsets = (biases_v[:, None] + lockin.modulation_v * node).ravel()
    found = junction.conductance(x_m, y_m, np.full(offsets.size, height), offsets)
    ideal = found.reshape(len(biases_v), NODES) @ weight
    return ideal + _lockin_noise(ideal * np.maximum(np.abs(biases_v), 1e-3), lockin, rng)


def conductance_maps(
    junction: Junction,
    view: View,
    biases_v: Floats,
    lockin: LockInView,
    pixels: int,
    rng: np.random.Generator,
) -> Floats:
    """dI/dV (S) over a frame, one spectrum at every pixel: (biases, pixels, pixels)."""
    middle = view.width_m * ((np.arange(pixels) + 0.5) / pixels - 0.5)
    u, v = np.tile(middle, pixels), np.repeat(middle, pixels)
    x, y = coordinates(view, u, v)
    found = [spectrum(junction, float(a), float(b), biases_v, lockin, rng) for a, b in zip(x, y, strict=True)]
    return np.array(found).T.reshape(len(biases_v), pixels, pixels)


def _lockin_noise(current_a: Floats, lockin: LockInView, rng: np.random.Generator) -> Floats:
    """Noise (S) of a current (n,) in the lock-in's band, over the modulation."""
    white = shot_density(current_a) + thermal_density(1e9, 295.0)
    band_hz = 1.0 / (8.0 * lockin.time_constant_s)
    return np.asarray(np.sqrt(2.0 * white * band_hz) / lockin.modulation_v * rng.normal(size=current_a.shape))
