"""At the very end: nothing at the electronics is other than it was."""

from __future__ import annotations

from collections.abc import Callable

from protocols.messages.recipes import Move
from tests.hil.as_found import NOT_AVAILABLE
from tests.hil.laboratory import Laboratory

SLOWLY_M_S = 20e-9
"""A simulated surface has craters by now."""


def test_every_setting_is_as_it_was_found(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """Every setting is as it was found, the tip is withdrawn, and the coarse motor made no step unasked."""
    lab.engaged()
    aside = Move(
        x_m=lab.plan.x_m + 0.25 * lab.plan.choices.frame_m,
        y_m=lab.plan.y_m,
        speed_m_s=min(SLOWLY_M_S, lab.limits.tip_speed),
    )
    lab.carry_out(aside)
    left = lab.leave()
    told = [name for name, value in lab.as_found.items() if value != NOT_AVAILABLE]
    figures("settings compared", f"{len(told)} of {len(lab.as_found)}")
    assert not left, f"not given back by the gateway: {left}"
