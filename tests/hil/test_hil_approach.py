"""The coarse approach: the only test that moves the coarse motor, and only where that was allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocols.messages import simdoor
from tests.cluster.gateway_harness import await_that
from tests.hil.as_found import AsFound
from tests.hil.coarse import CoarseMotor
from tests.hil.electronics import SimulatedMicroscope
from tests.hil.figures import text_of
from tests.hil.laboratory import Laboratory

STEPS_AWAY = 6
"""Away from the sample, then the electronics find it again by themselves."""
TIP_FOUND = 0.5
"""Share of the setpoint at which the surface counts as found."""


def test_coarse_approach(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """Some coarse steps away from the sample with the tip withdrawn, then the electronics' own approach."""
    if lab.electronics.driver != "nanonis":
        pytest.skip("no coarse motor is known behind this driver")
    if not lab.motion_allowed:
        pytest.skip("this moves the coarse motor: give --allow-motion if it may")
    choices = lab.plan.choices
    lab.end_gateway()
    before = sample_height(lab.microscope)
    held = AsFound(lab.electronics, lab.state)
    try:
        held.require_withdrawn()
        held.driver.set_bias(choices.bias_v, lab.limits.bias_slew)
        held.driver.set_setpoint(choices.setpoint_a)
        held.close_reader()
        with CoarseMotor(lab.electronics.endpoint) as motor:
            motor.away(STEPS_AWAY)
            motor.approach()
            found = held.state()
            figures("found", f"z = {found.z_m * 1e9:.1f} nm, current {text_of(found.current_a, 'A')}")
            assert found.feedback, "the approach has ended without finding the surface"
            assert abs(found.current_a) >= TIP_FOUND * choices.setpoint_a
        await_that("the withdrawn tip", lambda: held.state().withdrawn)
    finally:
        held.close()
        put_sample_back(lab.microscope, before)


def sample_height(microscope: SimulatedMicroscope | None) -> float:
    """Where the simulated sample is (m), in z."""
    if microscope is None:
        return 0.0
    truth = microscope.ask(simdoor.SimTruthQuery())
    assert isinstance(truth, simdoor.SimTruth)
    return truth.drift_m[2]


def put_sample_back(microscope: SimulatedMicroscope | None, height_m: float) -> None:
    """The simulated sample again where the scenarios reckon with it; a real one stays where it was found."""
    if microscope is not None and (moved := sample_height(microscope) - height_m):
        microscope.break_("lose_surface", metres=moved)
