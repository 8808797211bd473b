"""Activities that move the tip up and down with the Z-controller off, and what the current does meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.situation import Activity
from sim_hardware.trajectory import Trajectory
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]

KNOTS = 25
"""Heights at which the current is looked at along a way up or down; in between its logarithm is linear."""
FAR_M = 20e-9
"""A gap beyond which there is no current."""
STEP_M = 0.02e-9
MOST_SAMPLES = 2000
APPROACH_M_S = 1e-6
"""Speed of Z where the electronics choose it."""


@dataclass(frozen=True)
class Column:
    """The current over one place as the tip goes up and down: z in piezo coordinates (m)."""

    z_m: Floats
    log_current: Floats
    contact_m: float

    def current(self, z_m: Floats, rail_a: float) -> Floats:
        """|I| (A) at heights."""
        log_here = np.interp(z_m, self.z_m, self.log_current)
        return np.asarray(np.minimum(np.exp(np.clip(log_here, -200.0, 50.0)), rail_a))


def contact_height(world: World, time_s: float) -> float:
    """Height (m, piezo coordinates) at which the tip touches the surface where it is."""
    s = world.situation
    x, y = np.array([s.x_m]), np.array([s.y_m])
    offsets = world.offsets(np.array([time_s]))
    rise = float(world.rise(x, y, offsets)[0])
    return float(world.junction.contact(x - offsets[:, 0], y - offsets[:, 1])[0]) + rise


def column(world: World, low_m: float, high_m: float, time_s: float, bias_v: float) -> Column:
    """The current where the tip is, between two heights."""
    s = world.situation
    x, y = np.array([s.x_m]), np.array([s.y_m])
    offsets = world.offsets(np.array([time_s]))
    rise = float(world.rise(x, y, offsets)[0])
    sample_x, sample_y = x - offsets[:, 0], y - offsets[:, 1]
    contact = float(world.junction.contact(sample_x, sample_y)[0]) + rise
    z = np.unique(np.concatenate([np.linspace(low_m, high_m, KNOTS), _near(low_m, high_m, contact)]))
    found = np.full(len(z), -200.0)
    if bias_v != 0.0:
        for i, height in enumerate(z - rise):
            if height > contact - rise + FAR_M:
                continue
            at = world.junction.bias_profile(
                float(sample_x[0]), float(sample_y[0]), np.array([bias_v]), float(height)
            )
            found[i] = float(np.log(max(float(at.current(np.array([height]))[0]), 1e-80)))
    return Column(z, found, contact)


def _near(low_m: float, high_m: float, contact_m: float) -> Floats:
    """More heights close to the surface, where the current is."""
    low, high = max(low_m, contact_m), min(high_m, contact_m + FAR_M)
    return np.linspace(low, high, KNOTS) if low < high else np.empty(0)


def vertical(world: World, z_m: Floats, times_s: Floats, begin_s: float, bias_v: float) -> Trajectory:
    """The tip going through heights at times (n,); ends in a crash where it pushes into the surface."""
    s = world.situation
    rail = world.electronics.rail_a
    n = len(z_m)
    held = [np.full(n, value) for value in (s.x_m, s.y_m, bias_v)]
    sign = 1.0 if bias_v >= 0.0 else -1.0
    if s.shorted:
        return Trajectory(begin_s, times_s, held[0], held[1], z_m, held[2], np.full(n, sign * rail), n)
    here = column(world, float(z_m.min()), float(z_m.max()), begin_s, bias_v)
    current = sign * here.current(z_m, rail)
    touching = z_m <= here.contact_m
    current[touching] = sign * rail
    hit = bool(touching.any())
    end = int(np.argmax(touching)) + 1 if hit else n
    return Trajectory(begin_s, times_s, held[0], held[1], z_m, held[2], current, end, "crash" if hit else "")


def go(world: World, activity: Activity, z_m: float, duration_s: float) -> None:
    """Bring Z there with the controller off, as a part of whatever activity."""
    with world.lock:
        world.advance()
        s = world.situation
        low, high = world.settings.feedback.z_low_m, world.settings.feedback.z_high_m
        target = min(max(z_m, low), high)
        begin, start, bias = s.since_s, s.z_m, s.bias_v
        if target < high:
            s.withdrawn = False
    if target == start:
        world.wait(activity, begin + duration_s)
        return
    n = int(np.clip(np.ceil(abs(target - start) / STEP_M), 2, MOST_SAMPLES))
    share = np.arange(1, n + 1) / n
    seconds = max(duration_s, abs(target - start) / (10.0 * APPROACH_M_S))
    world.play(
        activity, vertical(world, start + (target - start) * share, begin + seconds * share, begin, bias)
    )
