"""Where the tip really is along a frame: ``physics.distortions.true_places`` for one sample a pixel,
compiled.

The drive passes hysteresis (classical Runge-Kutta), creep (superposition by Fourier transform) and the
scanner's dynamics (matrix exponential), all from ``physics.distortions`` or as there; the sample drifts away
below.  What is coarser than there: the wandering drift is drawn at the beginning of every line and linear in
between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.linalg import expm

from sim_hardware.physics.distortions import (
    BoucWen,
    Distortions,
    Raster,
    ScannerSettings,
    creeping,
    wandering_drift,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Track:
    """The tip along a whole frame, sample by sample as the electronics clock them, turns included: (n,) each.

    ``u_m``, ``v_m``: over the sample, along the frame's own axes from its centre; ``lift_m``: what tilt and
    drift add to the height; ``times_s`` from the frame's start.
    """

    u_m: Floats
    v_m: Floats
    lift_m: Floats
    times_s: Floats


def track(raster: Raster, distortions: Distortions, rng: np.random.Generator) -> Track:
    """Follow the tip through a frame; ``raster.samples_per_pixel`` is 1."""
    times, fast, slow = raster.drive()
    cos, sin = np.cos(raster.angle_rad), np.sin(raster.angle_rad)
    moved = np.stack([cos * fast - sin * slow, sin * fast + cos * slow])
    if distortions.hysteresis is not None:
        moved = _hysteretic(moved, distortions.hysteresis, distortions.hysteresis_range_m)
    if distortions.creep is not None:
        padded = np.concatenate([np.array(distortions.approach_m)[:, None], moved], axis=1)
        moved = creeping(padded, raster.sample_s, distortions.creep)[:, 1:]
    if distortions.scanner is not None:
        moved = _swinging(moved, raster.sample_s, distortions.scanner)
    x, y = moved
    lift = distortions.slope_x * x + distortions.slope_y * y
    if distortions.drift is not None:
        per_line = len(times) // raster.lines
        knots = np.append(times[::per_line], times[-1])
        offsets, _ = wandering_drift(knots, distortions.drift, rng)
        dx, dy, dz = (np.interp(times, knots, offsets[:, k]) for k in range(3))
        x, y, lift = x - dx, y - dy, lift + dz
    return Track(cos * x + sin * y, -sin * x + cos * y, lift, times)


def lane_samples(raster: Raster, lead_in: int) -> Ints:
    """Which samples of the track a line's lane follows: (places, lines).

    The end of the line before (``lead_in`` pixels and the turn), the line forward, the turn, the line
    backward. Before the first line the tip waits at its first sample.
    """
    run, turn = raster.pixels, raster.turn_samples
    along = np.arange(-(lead_in + turn), 2 * run + turn)
    starts = np.arange(raster.lines) * 2 * (run + turn)
    return np.asarray(np.maximum(along[:, None] + starts, 0), dtype=np.intp)


def _hysteretic(drive_m: Floats, model: BoucWen, range_m: float) -> Floats:
    """alpha V + beta H of both axes (2, n), where ``range_m`` of drive counts as 1."""
    scaled = drive_m / range_m
    states = np.empty_like(scaled)
    _bouc_wen(scaled, model.a, model.b, model.c, states)
    return np.asarray(range_m * (model.alpha * scaled + model.beta * states))


@njit(cache=True, nogil=True)
def _bouc_wen(drive, a, b, c, states):  # type: ignore[no-untyped-def]
    for axis in range(drive.shape[0]):
        h = 0.0
        states[axis, 0] = h
        for n in range(1, drive.shape[1]):
            dv = drive[axis, n] - drive[axis, n - 1]
            length = abs(dv)
            k1 = a * dv - b * length * h - c * dv * abs(h)
            h2 = h + 0.5 * k1
            k2 = a * dv - b * length * h2 - c * dv * abs(h2)
            h3 = h + 0.5 * k2
            k3 = a * dv - b * length * h3 - c * dv * abs(h3)
            h4 = h + k3
            k4 = a * dv - b * length * h4 - c * dv * abs(h4)
            h += (k1 + 2.0 * k2 + 2.0 * k3 + k4) / 6.0
            states[axis, n] = h


def _swinging(drive_m: Floats, step_s: float, settings: ScannerSettings) -> Floats:
    """``distortions.scanned`` of both axes (2, n)."""
    w0, tau = 2.0 * np.pi * settings.resonance_hz, settings.amplifier_s
    flow = np.zeros((5, 5))
    flow[0, 1] = w0
    flow[1, :3] = -w0, -w0 / settings.quality, w0
    flow[2, 2:4] = -1.0 / tau, 1.0 / tau
    flow[3, 4] = 1.0 / step_s
    out = np.empty_like(drive_m)
    _oscillate(drive_m, expm(flow * step_s)[:3], out)
    return out


@njit(cache=True, nogil=True)
def _oscillate(drive, step, out):  # type: ignore[no-untyped-def]
    for axis in range(drive.shape[0]):
        x, speed, amplifier = drive[axis, 0], 0.0, drive[axis, 0]
        out[axis, 0] = x
        for n in range(drive.shape[1] - 1):
            here, ramp = drive[axis, n], drive[axis, n + 1] - drive[axis, n]
            new_x = (
                step[0, 0] * x
                + step[0, 1] * speed
                + step[0, 2] * amplifier
                + step[0, 3] * here
                + step[0, 4] * ramp
            )
            new_speed = (
                step[1, 0] * x
                + step[1, 1] * speed
                + step[1, 2] * amplifier
                + step[1, 3] * here
                + step[1, 4] * ramp
            )
            amplifier = (
                step[2, 0] * x
                + step[2, 1] * speed
                + step[2, 2] * amplifier
                + step[2, 3] * here
                + step[2, 4] * ramp
            )
            x, speed = new_x, new_speed
            out[axis, n + 1] = x
