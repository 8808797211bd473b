"""How unlike the training spectra is this one?  Two distances, calibrated on spectra held back.

Both are Mahalanobis distances to the nearest class with one shared covariance (Lee et al., arXiv:1807.03888):

* in the network's features: a mixture of what the network looks at that no class shows;
* in the spectrum's slow cosines (noise averages out in them): a shape the network never learnt to see.

The score is the larger of the two over its threshold; above 1 the spectrum is unlike all that was learnt.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.fft

FloatArray = npt.NDArray[np.float64]

COSINES = 32
"""Slow cosines per channel: features wider than about a fortieth of the bias range."""
COSINE_FLOOR = 0.1
"""No cosine's scatter is taken for smaller than this (standardised spectrum, orthonormal transform)."""
LARGEST_RANK = 24
QUANTILE = 0.99
MARGIN = 1.25
"""A threshold is this many times the quantile of the spectra held back."""


class NearestClass(msgspec.Struct, frozen=True, kw_only=True):
    """Mahalanobis distance to the nearest class."""

    mean: FloatArray
    """(features,)"""
    whitening: FloatArray
    """(features, rank): whitened = (features - mean) @ whitening."""
    centres: FloatArray
    """(classes, rank): class means of the whitened features."""

    def distance(self, features: FloatArray) -> FloatArray:
        """(n,) from (n, features)."""
        z = (features - self.mean) @ self.whitening
        apart: FloatArray = np.sqrt(((z[:, None, :] - self.centres[None]) ** 2).sum(axis=2)).min(axis=1)
        return apart


class NoveltyModel(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the score needs, as arrays."""

    features: NearestClass
    shapes: NearestClass
    thresholds: FloatArray
    """(2,): of the distance in features and of that in shapes."""

    def score(self, features: npt.ArrayLike, prepared: npt.ArrayLike) -> FloatArray:
        """Scores (n,) from features (n, f) and prepared spectra (n, channels, points); above 1: novel."""
        score: FloatArray = np.max(self.distances(features, prepared) / self.thresholds, axis=1)
        return score

    def distances(self, features: npt.ArrayLike, prepared: npt.ArrayLike) -> FloatArray:
        """(n, 2): distance in features, distance in shapes."""
        inside = self.features.distance(np.asarray(features, dtype=np.float64))
        return np.stack([inside, self.shapes.distance(slow_cosines(prepared))], axis=1)


def slow_cosines(prepared: npt.ArrayLike) -> FloatArray:
    """(n, channels * COSINES) from prepared spectra (n, channels, points)."""
    x = np.asarray(prepared, dtype=np.float64)
    cosines: FloatArray = scipy.fft.dct(x, axis=2, norm="ortho")[:, :, 1 : COSINES + 1]
    return cosines.reshape(x.shape[0], -1)


def fit_novelty(
    features: FloatArray,
    prepared: npt.ArrayLike,
    labels: npt.NDArray[np.int64],
    held_features: FloatArray,
    held_prepared: npt.ArrayLike,
) -> NoveltyModel:
    """Fit on training spectra and set the thresholds on spectra held back.

    Args:
        features: (n, features) of the training spectra.
        prepared: (n, channels, points).
        labels: (n,) class indices.
        held_features: Of the spectra held back.
        held_prepared: Of the spectra held back.
    """
    inside = _nearest_class(features, labels, relative_floor=0.1, rank=LARGEST_RANK)
    shapes = _nearest_class(slow_cosines(prepared), labels, floor=COSINE_FLOOR)
    unset = NoveltyModel(features=inside, shapes=shapes, thresholds=np.ones(2))
    held = unset.distances(held_features, held_prepared)
    thresholds = np.maximum(MARGIN * np.quantile(held, QUANTILE, axis=0), 1e-6)
    return msgspec.structs.replace(unset, thresholds=thresholds)


def _nearest_class(
    x: FloatArray,
    labels: npt.NDArray[np.int64],
    floor: float = 0.0,
    relative_floor: float = 0.0,
    rank: int | None = None,
) -> NearestClass:
    """Class means and shared whitening; scatter below a floor (or share of the largest) is raised."""
    mean = x.mean(axis=0)
    classes = np.unique(labels)
    means = np.stack([x[labels == c].mean(axis=0) for c in classes])
    within = x - means[np.searchsorted(classes, labels)]
    _, scale, axes = np.linalg.svd(within / np.sqrt(len(within)), full_matrices=False)
    kept = min(rank or scale.size, scale.size)
    least = floor**2 + (relative_floor * float(scale[0])) ** 2 + 1e-12
    whitening = axes[:kept].T / np.sqrt(scale[:kept] ** 2 + least)
    return NearestClass(mean=mean, whitening=whitening, centres=(means - mean) @ whitening)
