"""Topographs: twice the same place, and what the drift makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from actors.analysis.registration import Registration, register, remove_plane
from tests.hil.gateway import Image
from tests.hil.laboratory import Laboratory

LARGEST_SHIFT = 0.25
"""Share of the frame within which the second topograph is looked for."""
ABSURD_M_S = 1e-9
"""A drift faster than this (1 nm/s) is none: something moved, or creep of a large move has not died down."""
FRAMES = 3
"""Topographs for the drift, at least."""


def compare(lab: Laboratory, first: Image, second: Image) -> Registration:
    """Forward images against each other."""
    frame = lab.plan.frame()
    pixel = frame.width_m / frame.pixels
    return register(first[0], second[0], pixel, LARGEST_SHIFT * frame.width_m)


def test_two_topographs(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """Two topographs of the same place show the same surface, and forward and backward agree."""
    lab.engaged()
    first, second = lab.topograph(), lab.topograph()
    for image in (first, second):
        assert np.isfinite(image).all(), "pixels are missing"
    corrugation = float(np.std(remove_plane(second[0])))
    hysteresis = float(np.std(remove_plane(second[0] - second[1])))
    found = compare(lab, first, second)
    figures(
        "corrugation (rms)",
        f"{corrugation * 1e12:.1f} pm; forward against backward {hysteresis * 1e12:.1f} pm",
    )
    figures(
        "second against first",
        f"shifted by ({found.shift_x_m * 1e9:.3f}, {found.shift_y_m * 1e9:.3f}) nm +- "
        f"{found.uncertainty_m * 1e9:.3f} nm, correlation {found.correlation:.3f}",
    )
    if found.verdict != "same place":
        why = f"the topographs cannot be registered ({found.note}): take a place with features"
        if lab.microscope is None:
            pytest.skip(why)
        pytest.fail(why)
    assert lab.gateway.guard().latch == "open"


def test_drift(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """The drift is measured with topographs of one place and reported."""
    lab.engaged()
    until = time.monotonic() + lab.plan.choices.drift_s
    while len(lab.frames) < FRAMES or time.monotonic() < until:
        lab.topograph("reference")
    (first, began_s), *others = lab.frames
    shifts, times, uncertain = [], [], []
    for image, taken_s in others:
        found = compare(lab, first, image)
        if found.verdict == "same place":
            shifts.append((found.shift_x_m, found.shift_y_m))
            times.append(taken_s - began_s)
            uncertain.append(found.uncertainty_m)
    vertical = [float(np.nanmean(image[0])) for image, _ in lab.frames]
    seconds = lab.frames[-1][1] - began_s
    figures("vertical", f"{(vertical[-1] - vertical[0]) / seconds * 1e12:+.2f} pm/s over {seconds:.0f} s")
    if not shifts:
        pytest.skip("no two topographs can be registered: the lateral drift cannot be told here")
    t = np.array(times)
    velocity = (t[:, None] * np.array(shifts)).sum(axis=0) / (t**2).sum()
    error = float(np.sqrt(((t * np.array(uncertain)) ** 2).sum()) / (t**2).sum())
    figures(
        "lateral",
        f"({velocity[0] * 1e12:+.2f}, {velocity[1] * 1e12:+.2f}) pm/s +- {error * 1e12:.2f} pm/s from "
        f"{len(t)} shifts",
    )
    fastest = float(np.hypot(*velocity))
    assert fastest < ABSURD_M_S, (
        f"{fastest * 1e9:.2f} nm/s is no drift: wait after large moves, or look for slip"
    )
