"""From spectra on any bias axis to what the network sees: resampled, channels side by side, standardised.

Normalisation: every channel of every spectrum is resampled linearly onto the trained axis and brought to
mean 0 and standard deviation 1 by itself.  Shape counts; tip height, setpoint, gain and offset do not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from protocols.messages.data import SweepData

FloatArray = npt.NDArray[np.float64]

NETWORK_POINTS = 128
"""Points of the axis the network sees."""
COARSEST = 2.0
"""A sweep may have steps so many times as long as those of the training spectra."""


class UnfitError(UsageError):
    """A spectrum that the classifier was not trained for; the text says why."""

    code = "unfit-spectrum"


def network_axis(bias_v: npt.ArrayLike) -> FloatArray:
    """The axis of the network for training spectra on ``bias_v``: (NETWORK_POINTS,), ascending, V.

    Raises:
        UsageError: fewer than 8 points, not finite, or not monotonic.
    """
    bias = np.asarray(bias_v, dtype=np.float64)
    steps = np.diff(bias)
    if bias.ndim != 1 or bias.size < 8 or not np.isfinite(bias).all():
        raise UsageError(f"training spectra need a bias axis of at least 8 finite points, got {bias.shape}.")
    if not ((steps > 0).all() or (steps < 0).all()):
        raise UsageError("the bias axis of training spectra must rise or fall throughout.")
    return np.linspace(float(bias.min()), float(bias.max()), NETWORK_POINTS)


def prepare(
    bias_v: npt.ArrayLike,
    spectra: Mapping[str, npt.NDArray[np.generic]],
    channels: tuple[str, ...],
    axis: FloatArray,
) -> npt.NDArray[np.float32]:
    """Network input (n, channels, NETWORK_POINTS) from spectra: channel name -> (n, points).

    The axis must lie inside ``bias_v`` (see check_fit); values are never extrapolated.
    """
    bias = np.asarray(bias_v, dtype=np.float64)
    order = np.argsort(bias)
    blocks = []
    for name in channels:
        values = np.asarray(spectra[name], dtype=np.float64)[:, order]
        blocks.append(_resample(bias[order], values, axis))
    stacked = np.stack(blocks, axis=1)
    mean = stacked.mean(axis=2, keepdims=True)
    spread = stacked.std(axis=2, keepdims=True)
    # A constant channel has no shape: zeros, whatever its rounding noise is.
    flat = spread <= 1e-9 * np.abs(mean)
    standard = np.where(flat, 0.0, (stacked - mean) / np.where(flat, 1.0, spread))
    return standard.astype(np.float32)


def _resample(bias: FloatArray, values: FloatArray, axis: FloatArray) -> FloatArray:
    """Linear interpolation of every row of ``values`` (n, points) onto ``axis``."""
    right = np.clip(np.searchsorted(bias, axis), 1, bias.size - 1)
    share = np.clip((axis - bias[right - 1]) / (bias[right] - bias[right - 1]), 0.0, 1.0)
    resampled: FloatArray = values[:, right - 1] * (1 - share) + values[:, right] * share
    return resampled


def forward_spectrum(data: SweepData) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Bias axis and forward trace of every channel, averaged over the repeats: (points,) each.

    Forward alone, because a lock-in lags the other way on the way back.
    """
    channels = {}
    for channel in data.channels:
        values = np.asarray(channel.values, dtype=np.float64)
        if values.ndim == 3 and values.shape[0] > 0 and values.shape[1] > 0:
            channels[channel.name] = values[:, 0].mean(axis=0)
    return np.asarray(data.bias_v, dtype=np.float64), channels


def check_fit(
    bias_v: FloatArray,
    spectrum: Mapping[str, FloatArray],
    channels: tuple[str, ...],
    axis: FloatArray,
    trained_step_v: float,
) -> None:
    """Whether a spectrum can be shown to a network trained on ``axis`` and ``channels``.

    Raises:
        UnfitError: a channel is missing, the sweep does not cover the trained range, its steps are too
            long, or samples are not finite.
    """
    missing = [name for name in channels if name not in spectrum]
    if missing:
        there = ", ".join(sorted(spectrum)) or "none"
        raise UnfitError(f"trained on {', '.join(channels)}; this spectrum has {there}.")
    steps = np.diff(bias_v)
    if bias_v.size < 8 or not ((steps > 0).all() or (steps < 0).all()):
        raise UnfitError("its bias axis does not rise or fall throughout, or has fewer than 8 points.")
    low, high = float(bias_v.min()), float(bias_v.max())
    slack = trained_step_v / 2
    if low > axis[0] + slack or high < axis[-1] - slack:
        raise UnfitError(
            f"trained from {axis[0]:.3g} to {axis[-1]:.3g} V; this sweep covers {low:.3g} to {high:.3g} V."
        )
    longest = float(np.max(np.abs(steps)))
    if longest > COARSEST * trained_step_v:
        raise UnfitError(
            f"trained with steps of {trained_step_v:.2g} V; this sweep has steps up to {longest:.2g} V."
        )
    for name in channels:
        values = spectrum[name]
        if values.shape != bias_v.shape:
            raise UnfitError(f"{name} has {values.size} samples for {bias_v.size} bias points.")
        if not np.isfinite(values).all():
            raise UnfitError(f"{name} has samples that are missing.")
