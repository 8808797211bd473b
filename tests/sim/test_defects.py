"""What can break in the microscope itself, and what the tip then does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from simulated import Bench, Flat

from protocols.errors import ConfigError
from sim_hardware import motions
from sim_hardware.defects import bring_sample, reverse_controller, saturate_preamplifier


def settle(one: Bench, seconds: float) -> None:
    """Let instrument time pass."""
    one.do("settle", motions.settle(seconds))


@pytest.mark.parametrize("metres", [100e-9, -60e-9])
def test_z_follows_a_sample_that_comes_or_goes(bench: Callable[..., Bench], metres: float) -> None:
    """The controller keeps the current, and z has moved by what the sample has, when it stands again."""
    one = bench(Flat())
    one.engage()
    before = one.world.state()
    bring_sample(one.world, metres, 2.0)
    settle(one, 1.0)
    velocity = one.world.stage.drift.velocity(one.world.clock.now())
    assert np.isclose(velocity[2], metres / 2.0, rtol=1e-3, atol=0)
    settle(one, 2.0)
    after = one.world.state()
    assert np.isclose(after.z_m - before.z_m, metres, rtol=1e-3, atol=0)
    assert np.isclose(abs(after.current_a), abs(before.current_a), rtol=0.1, atol=0)
    assert not one.events("crash")


def test_a_sample_does_not_jump_and_stays_within_reason(bench: Callable[..., Bench]) -> None:
    """A motion in no time, or by millimetres, is refused."""
    one = bench(Flat())
    for metres, seconds in ((1e-9, 0.0), (1e-3, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ConfigError):
            bring_sample(one.world, metres, seconds)


def test_a_preamplifier_at_its_rail_drives_the_tip_away(bench: Callable[..., Bench]) -> None:
    """The controller believes the current and retracts to the end of Z; mended, it comes back."""
    one = bench(Flat())
    one.engage()
    found = one.world.state()
    saturate_preamplifier(one.world, True)
    saturate_preamplifier(one.world, True)
    settle(one, 1.0)
    state = one.world.state()
    assert abs(state.current_a) == one.world.electronics.rail_a
    assert state.z_m == one.world.z_range()[1]
    saturate_preamplifier(one.world, False)
    settle(one, 1.0)
    assert np.isclose(one.world.state().z_m, found.z_m, rtol=0, atol=0.1e-9)
    assert not one.events("crash")


@pytest.mark.parametrize(("nudge_m", "ends"), [(0.05e-9, "crash"), (-0.05e-9, "high")])
def test_a_controller_with_the_wrong_sign_runs_away(
    bench: Callable[..., Bench], nudge_m: float, ends: str
) -> None:
    """Whichever way the sample moves a little, the controller makes it worse: contact, or the end of Z."""
    one = bench(Flat())
    one.engage()
    reverse_controller(one.world, True)
    bring_sample(one.world, nudge_m, 0.01)
    settle(one, 1.0)
    if ends == "crash":
        assert one.events("crash")
    else:
        assert one.world.state().z_m == one.world.z_range()[1]
        assert not one.events("crash")


def test_with_the_wrong_sign_a_withdrawn_tip_never_arrives(bench: Callable[..., Bench]) -> None:
    """Without current the controller goes away from the surface and stays; mended, it finds the surface."""
    one = bench(Flat())
    reverse_controller(one.world, True)
    one.engage()
    state = one.world.state()
    assert state.z_m == one.world.z_range()[1]
    assert abs(state.current_a) < 5e-12
    reverse_controller(one.world, False)
    settle(one, 1.0)
    assert abs(one.world.state().current_a) > 100e-12
