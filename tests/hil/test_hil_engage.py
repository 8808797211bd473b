"""From withdrawn to tunneling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.hil.figures import text_of
from tests.hil.laboratory import Laboratory

READINGS = 8
AGREES = 2.0
"""The mean current lies within this factor of the setpoint: a controller that holds it is far better, one
that oscillates or sees another current is far worse."""


def test_engage(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """Engage: bias and setpoint while withdrawn, then feedback, and the controller holds the setpoint."""
    lab.withdrawn()
    lab.engaged()
    gateway, choices = lab.gateway, lab.plan.choices
    readings = [gateway.reading() for _ in range(READINGS)]
    current = np.array([abs(r.current_a) for r in readings])
    z = np.array([r.z_m for r in readings])
    figures(
        "current",
        f"{text_of(float(current.mean()), 'A')} +- {text_of(float(current.std()), 'A')} at a setpoint of "
        f"{text_of(choices.setpoint_a, 'A')}",
    )
    figures("z", f"{z.mean() * 1e9:.3f} nm +- {z.std() * 1e12:.1f} pm")
    last = readings[-1]
    assert last.feedback
    assert not last.withdrawn
    assert abs(last.bias_v - choices.bias_v) <= lab.limits.bias_tolerance
    assert np.isclose(last.setpoint_a, choices.setpoint_a, rtol=lab.limits.setpoint_tolerance, atol=0)
    assert choices.setpoint_a / AGREES < current.mean() < choices.setpoint_a * AGREES, (
        "the current is not at the setpoint: look at gain, preamplifier range and tip"
    )
    status = gateway.guard()
    assert status.latch == "open"
    ranges = [alarm for alarm in status.alarms if "-range" in alarm]
    assert not ranges, f"too near an end of a range to begin from: {ranges}"


def test_engage_at_the_other_polarity(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """The polarity changes with feedback off, and the tip tunnels at the setpoint again."""
    lab.engaged()
    gateway, plan = lab.gateway, lab.plan
    low, high = lab.limits.bias_min, lab.limits.bias_max
    other = -plan.choices.bias_v
    if not low <= other <= high:
        other = 0.5 * (low if other < 0 else high)
    if abs(other) <= lab.limits.min_feedback_bias:
        pytest.skip("the limits allow one polarity only")
    lab.carry_out(plan.engage(other))
    found = gateway.reading()
    figures("bias", f"{text_of(found.bias_v, 'V')}, current {text_of(found.current_a, 'A')}")
    assert found.feedback
    assert abs(found.bias_v - other) <= lab.limits.bias_tolerance
    lab.carry_out(plan.engage())
