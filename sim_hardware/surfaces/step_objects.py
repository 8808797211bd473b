"""Step edges as the ground truth tells them."""

from __future__ import annotations

import numpy as np

from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.surfaces.features import FWHM_PER_SIGMA
from sim_hardware.surfaces.relief import Step


def step_object(step: Step) -> SurfaceObject:
    """A step; its place is the point of its mean line that is nearest to the origin."""
    return SurfaceObject(
        kind="step",
        form="edge",
        x_m=step.distance_m * float(np.cos(step.angle_rad)),
        y_m=step.distance_m * float(np.sin(step.angle_rad)),
        size_m=step.width_m * FWHM_PER_SIGMA,
        height_m=step.height_m,
        footprint_m=0.0,
        spectrum="",
        detail={"angle_rad": step.angle_rad, "distance_m": step.distance_m},
    )
