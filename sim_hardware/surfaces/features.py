"""Shapes of point defects: relief and spectral weight about their centre, as closed forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim_hardware.surfaces.base import SurfaceObject

Floats = npt.NDArray[np.float64]

FWHM_PER_SIGMA = 2.354820045030949
TENTH_RADIUS = float(np.sqrt(np.log(10.0)))
"""exp(-(r / w)^2) has fallen to a tenth at r = TENTH_RADIUS * w."""


class Shape(Protocol):
    """Relief (m) and weight (0 to 1) at offsets from the centre; zero beyond ``reach_m``."""

    @property
    def reach_m(self) -> float:
        """Beyond this distance nothing is left of it (less than 0.1 %)."""

    def relief(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Height (m)."""

    def weight(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Share of its own spectrum."""


@dataclass(frozen=True)
class Blob:
    """Sum of Gaussians: ``parts`` are (dx_m, dy_m, sigma_m, height_m); spectral weight exp(-(r / w)^2)."""

    parts: tuple[tuple[float, float, float, float], ...]
    weight_radius_m: float

    @property
    def reach_m(self) -> float:
        """Four standard deviations of the outermost part."""
        outermost = max(float(np.hypot(x, y)) + 4.0 * s for x, y, s, _ in self.parts)
        return max(outermost, 2.7 * self.weight_radius_m)

    def relief(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Height (m)."""
        total = np.zeros(dx_m.shape)
        for x, y, sigma, height in self.parts:
            total += height * np.exp(-((dx_m - x) ** 2 + (dy_m - y) ** 2) / (2.0 * sigma**2))
        return total

    def weight(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Share of its own spectrum."""
        return np.asarray(np.exp(-(dx_m**2 + dy_m**2) / self.weight_radius_m**2))


@dataclass(frozen=True)
class Ring:
    """A round dimple of ``depth_m`` (sigma_m) inside a bright ring of ``rim_m`` at ``radius_m``."""

    depth_m: float
    sigma_m: float
    rim_m: float
    radius_m: float
    rim_width_m: float
    weight_radius_m: float

    @property
    def reach_m(self) -> float:
        """Outside of the ring."""
        return max(self.radius_m + 4.0 * self.rim_width_m, 2.7 * self.weight_radius_m)

    def relief(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Height (m)."""
        r = np.hypot(dx_m, dy_m)
        dimple = -self.depth_m * np.exp(-0.5 * (r / self.sigma_m) ** 2)
        return np.asarray(dimple + self.rim_m * np.exp(-0.5 * ((r - self.radius_m) / self.rim_width_m) ** 2))

    def weight(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Share of its own spectrum."""
        return np.asarray(np.exp(-(dx_m**2 + dy_m**2) / self.weight_radius_m**2))


@dataclass(frozen=True)
class Triangle:
    """A triangular vacancy: a flat-bottomed triangular hole inside a bright triangular rim, brighter in its
    corners.

    ``inradius_m`` is that of the hole's half-depth contour (side = 2 sqrt(3) inradius); ``angle_rad`` turns
    it. The bound state decays as exp(-(r / weight_radius_m)^2).
    """

    depth_m: float
    inradius_m: float
    edge_m: float
    rim_m: float
    rim_inradius_m: float
    rim_width_m: float
    angle_rad: float
    weight_radius_m: float

    @property
    def reach_m(self) -> float:
        """Outside of the rim's corners."""
        return max(2.0 * (self.rim_inradius_m + 3.0 * self.rim_width_m), 2.7 * self.weight_radius_m)

    def _level(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Smoothed largest distance along the three edge normals: constant on triangles."""
        angles = self.angle_rad + 2.0 * np.pi / 3.0 * np.arange(3)
        along = [dx_m * np.cos(a) + dy_m * np.sin(a) for a in angles]
        soft = 0.18e-9
        return np.asarray(soft * np.logaddexp.reduce(np.stack(along) / soft, axis=0))

    def relief(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Height (m)."""
        level = self._level(dx_m, dy_m)
        r = np.hypot(dx_m, dy_m)
        hole = -self.depth_m / (1.0 + np.exp((level - self.inradius_m) / self.edge_m))
        corner = 1.0 - np.cos(3.0 * (np.arctan2(dy_m, dx_m) - self.angle_rad))
        rim = np.exp(-0.5 * ((level - self.rim_inradius_m) / self.rim_width_m) ** 2)
        fade = np.exp(-((r / (2.6 * self.rim_inradius_m)) ** 4))
        return np.asarray(hole + self.rim_m * (0.7 + 0.3 * corner) * rim * fade)

    def weight(self, dx_m: Floats, dy_m: Floats) -> Floats:
        """Share of its own spectrum."""
        return np.asarray(np.exp(-(dx_m**2 + dy_m**2) / self.weight_radius_m**2))


@dataclass(frozen=True)
class Feature:
    """A shape at a place with the index of its spectrum in the surface's basis."""

    x_m: float
    y_m: float
    shape: Shape
    basis: int
    truth: SurfaceObject


class FeatureMap:
    """Sums features at points, taking only those within reach of the points asked for."""

    def __init__(self, features: tuple[Feature, ...], basis_size: int) -> None:
        self.features = features
        self._basis_size = basis_size
        self._x = np.array([f.x_m for f in features])
        self._y = np.array([f.y_m for f in features])
        self._reach = np.array([f.shape.reach_m for f in features])

    def _near(self, x: Floats, y: Floats) -> list[tuple[Feature, npt.NDArray[np.intp]]]:
        if not self.features or x.size == 0:
            return []
        candidates = np.nonzero(
            (self._x > x.min() - self._reach)
            & (self._x < x.max() + self._reach)
            & (self._y > y.min() - self._reach)
            & (self._y < y.max() + self._reach)
        )[0]
        near = []
        for i in candidates:
            reach = self._reach[i]
            inside = np.nonzero((np.abs(x - self._x[i]) < reach) & (np.abs(y - self._y[i]) < reach))[0]
            if inside.size:
                near.append((self.features[i], inside))
        return near

    def relief(self, x_m: Floats, y_m: Floats) -> Floats:
        """Sum of all reliefs (m) at flat arrays of points."""
        total = np.zeros(x_m.shape)
        for feature, at in self._near(x_m, y_m):
            total[at] += feature.shape.relief(x_m[at] - feature.x_m, y_m[at] - feature.y_m)
        return total

    def add_weights(self, weights: Floats, x_m: Floats, y_m: Floats) -> Floats:
        """Mix the features' spectra into ``weights`` (k, n), which stay normalised; changes them in place."""
        for feature, at in self._near(x_m, y_m):
            share = feature.shape.weight(x_m[at] - feature.x_m, y_m[at] - feature.y_m)
            weights[:, at] *= 1.0 - share
            weights[feature.basis, at] += share
        return weights
