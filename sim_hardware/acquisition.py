"""What a held tip measures while the bias is swept: the current, and the lock-in's X and Y.

The samples of a sweep are given in the order of time.  The conductance is looked at on a dense grid of
biases, broadened there by the modulation, and scaled by the height at each sample, since a few pm of drift
change its size and not its shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.messages.recipes import LockIn
from sim_hardware.electronics import ElectronicsSettings, averaged_current, lockin_output
from sim_hardware.junction import Junction
from sim_hardware.physics.lockin import OutputFilter, chebyshev_rule

Floats = npt.NDArray[np.float64]

NODES = 33
"""Of the average over the modulation's period."""
STEPS_PER_AMPLITUDE = 8
MOST_DENSE = 4001


@dataclass(frozen=True)
class HeldSweep:
    """A sweep at one place: biases and heights of the samples in time (m,), and how they are averaged."""

    x_m: float
    y_m: float
    bias_v: Floats
    height_m: Floats
    dwell_s: float
    lockin: LockIn | None = None
    lockin_order: int = 1


@dataclass(frozen=True)
class Signals:
    """Noise-free signed current without a rail, and what the electronics show; all (m,), in A.

    ``lockin_x`` and ``lockin_y`` are peak amplitudes, None without a lock-in.
    """

    ideal_a: Floats
    current_a: Floats
    lockin_x_a: Floats | None
    lockin_y_a: Floats | None


def measured(
    junction: Junction, held: HeldSweep, rng: np.random.Generator, electronics: ElectronicsSettings
) -> Signals:
    """Everything a sweep shows, with noise; ``rng`` is that of the measurement."""
    middle = float(np.median(held.height_m))
    biases, back = np.unique(held.bias_v, return_inverse=True)
    profile = junction.bias_profile(held.x_m, held.y_m, biases, middle).at(back)
    ideal = profile.current(held.height_m) * np.sign(held.bias_v)
    current = averaged_current(ideal, held.dwell_s, junction.kappa, rng, electronics)
    current = current + junction.tip.current_offset_a
    if held.lockin is None:
        return Signals(ideal, current, None, None)
    conductance = broadened_conductance(junction, held, middle)
    with np.errstate(invalid="ignore"):
        conductance = conductance * np.exp(-profile.decay_per_m * (held.height_m - middle))
    rail = electronics.rail_a
    x, y = lockin_output(
        np.minimum(np.nan_to_num(conductance), rail / held.lockin.amplitude_v),
        np.clip(ideal, -rail, rail),
        held.lockin.amplitude_v,
        OutputFilter(held.lockin.time_constant_s, held.lockin_order),
        held.dwell_s,
        junction.kappa,
        rng,
        electronics,
    )
    return Signals(ideal, current, x, y)


def broadened_conductance(junction: Junction, held: HeldSweep, height_m: float) -> Floats:
    """dI/dV (S) as the lock-in's modulation broadens it, at a height, for the samples' biases: (m,).

    The average over the modulation of V0 + a sin(wt) weighted with cos^2 (``physics.lockin``).
    """
    assert held.lockin is not None
    amplitude = held.lockin.amplitude_v
    low, high = float(held.bias_v.min()) - amplitude, float(held.bias_v.max()) + amplitude
    count = int(np.clip(np.ceil((high - low) / amplitude * STEPS_PER_AMPLITUDE), 101, MOST_DENSE))
    dense = np.linspace(low, high, count)
    values = junction.conductance(held.x_m, held.y_m, np.full(count, height_m), dense)
    nodes, weights = chebyshev_rule(NODES)
    at = held.bias_v[:, None] + amplitude * nodes
    return np.asarray(np.interp(at, dense, values) @ weights)
