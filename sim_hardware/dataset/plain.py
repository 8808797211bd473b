"""One line of an image as a plain loop of the formulas: what the benchmark and the tests hold the fast way
against.

At every tick of the controller the current is summed anew over all pairs of sample and tip atoms, where the
tip then is; nothing is tabulated, left out or interpolated but the tip's way between two samples.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sim_hardware.dataset.image import Way, pid_settings
from sim_hardware.dataset.plan import ImageRecipe, Spec
from sim_hardware.dataset.scenes import barrier, sample_atoms, tip_atoms, to_sample
from sim_hardware.physics.feedback import LEAST_SHARE
from sim_hardware.physics.tunneling import energy_weights
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S

Floats = npt.NDArray[np.float64]


def plain_lane(
    spec: Spec,
    recipe: ImageRecipe,
    way: Way,
    lane: int,
    places: int,
    z_m: float,
    noise_a: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Height (m) and current (A) that the controller saw at the first ``places`` of a lane, each (places,).

    ``z_m``: the height at the first; ``noise_a`` (places * ticks,) is added to the current.
    """
    tip = tip_atoms(spec, recipe)
    sample = sample_atoms(spec, recipe, tip, way.grid)
    between = barrier(spec, recipe)
    weights = np.abs(energy_weights(sample.states, tip.states, recipe.bias_v, between.temperature_k))

    def current(u: float, v: float, z: float) -> float:
        x, y = to_sample(recipe, np.array(u), np.array(v))
        origin = np.array([float(x), float(y), z])
        total = 0.0
        for offset, kind in zip(tip.positions_m, tip.kinds, strict=True):
            distance = np.sqrt(((origin + offset - sample.positions_m) ** 2).sum(axis=1))
            decay = np.exp(-2.0 * between.kappa * (distance - between.contact_m))
            total += float((decay * weights[sample.kinds, kind]).sum())
        return CONTACT_CONDUCTANCE_S * total

    s, ticks, track = pid_settings(recipe), recipe.ticks_per_pixel, way.track
    samples = way.lanes[:places, lane]
    z, lift = z_m, track.lift_m[samples[0]]
    seen = min(current(track.u_m[samples[0]], track.v_m[samples[0]], z - lift), s.rail_a)
    before = _error(seen, s.setpoint_a, s.logarithmic)
    integral = z - s.proportional_m * before
    heights, shown = [], []
    for p, sample_here in enumerate(samples):
        sample_before = samples[max(p - 1, 0)]
        for t in range(ticks):
            share = (t + 1) / ticks
            u, v, lift = (
                values[sample_before] + share * (values[sample_here] - values[sample_before])
                for values in (track.u_m, track.v_m, track.lift_m)
            )
            found = current(u, v, z - lift)
            if noise_a is not None:
                found = abs(found + float(noise_a[p * ticks + t]))
            seen += s.smoothing * (min(found, s.rail_a) - seen)
            error = _error(seen, s.setpoint_a, s.logarithmic)
            integral = min(max(integral + s.integral_m_s * s.tick_s * error, s.z_low_m), s.z_high_m)
            wanted = integral + s.proportional_m * error + s.derivative_m_s * (error - before) / s.tick_s
            wanted = min(max(wanted, s.z_low_m), s.z_high_m)
            z = min(max(wanted, z - s.slew_m_s * s.tick_s), z + s.slew_m_s * s.tick_s)
            before = error
        heights.append(z)
        shown.append(seen)
    return np.array(heights), np.array(shown)


def _error(seen_a: float, setpoint_a: float, logarithmic: bool) -> float:
    share = seen_a / setpoint_a
    return math.log(max(share, LEAST_SHARE)) if logarithmic else share - 1.0
