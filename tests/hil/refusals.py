"""What the gateway must refuse, as data: one request beyond each limit, and the limit that it must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from actors.gateway.interlocks import bias_range, x_range, y_range
from protocols.messages.recipes import Engage, Frame, Indentation, Move, Pulse, Recipe, Sweep
from tests.hil.plan import POINTS, Plan

BEYOND = 1.01
"""A request exceeds its limit by so much: enough not to be rounding, too little to be something else."""
STEP_M = 1e-9
STEP_V = 10e-3


@dataclass(frozen=True)
class Refusal:
    """``ask`` makes the request; ``touching``: if it were carried out the tip could touch the sample, so it
    is tried with the tip withdrawn only."""

    title: str
    limit: str
    ask: Callable[[Plan], Recipe]
    touching: bool = False

    def __str__(self) -> str:
        return self.title


def _engage(plan: Plan, **changes: float) -> Engage:
    return msgspec.structs.replace(plan.engage(), **changes)


def _frame(plan: Plan, **changes: float) -> Frame:
    return msgspec.structs.replace(plan.frame(), **changes)


def _sweep(plan: Plan, **changes: Any) -> Sweep:
    return plan.sweep(**{"backward": False, "lockin": None, **changes})


def _move(plan: Plan, **changes: Any) -> Move:
    return msgspec.structs.replace(Move(x_m=plan.x_m, y_m=plan.y_m), **changes)


def _too_fast_a_frame(plan: Plan) -> Frame:
    frame = plan.frame()
    return _frame(plan, line_time_s=frame.width_m / (BEYOND * plan.limits.tip_speed))


def _frame_over_the_edge(plan: Plan) -> Frame:
    return _frame(plan, centre_x_m=x_range(plan.limits, plan.info)[1])


def _too_long_a_dwell(plan: Plan) -> Sweep:
    return _sweep(plan, dwell_s=BEYOND * plan.limits.feedback_off_time_max / POINTS)


def _too_steep_a_sweep(plan: Plan) -> Sweep:
    sweep = plan.sweep().spectrum
    swing = abs(sweep.stop_v - sweep.start_v)
    return _sweep(plan, dwell_s=swing / (POINTS - 1) / (BEYOND * plan.limits.bias_slew))


REFUSALS = (
    Refusal(
        "a bias above bias_max is refused",
        "bias_max",
        lambda plan: _engage(plan, bias_v=bias_range(plan.limits, plan.info)[1] + STEP_V),
    ),
    Refusal(
        "a bias below bias_min is refused",
        "bias_min",
        lambda plan: _engage(plan, bias_v=bias_range(plan.limits, plan.info)[0] - STEP_V),
    ),
    Refusal(
        "feedback at a bias of 0 V is refused",
        "min_feedback_bias",
        lambda plan: _engage(plan, bias_v=0.0),
        touching=True,
    ),
    Refusal(
        "a setpoint above setpoint_max is refused",
        "setpoint_max",
        lambda plan: _engage(plan, setpoint_a=BEYOND * plan.limits.setpoint_max),
    ),
    Refusal(
        "a setpoint below setpoint_min is refused",
        "setpoint_min",
        lambda plan: _engage(plan, setpoint_a=plan.limits.setpoint_min / BEYOND),
    ),
    Refusal(
        "a place beyond x_max is refused",
        "x_max",
        lambda plan: _move(plan, x_m=x_range(plan.limits, plan.info)[1] + STEP_M),
    ),
    Refusal(
        "a place beyond y_min is refused",
        "y_min",
        lambda plan: _move(plan, y_m=y_range(plan.limits, plan.info)[0] - STEP_M),
    ),
    Refusal("a frame that reaches beyond x_max is refused", "x_max", _frame_over_the_edge),
    Refusal(
        "a move faster than tip_speed is refused",
        "tip_speed",
        lambda plan: _move(plan, x_m=plan.x_m + STEP_M, speed_m_s=BEYOND * plan.limits.tip_speed),
    ),
    Refusal("a scan faster than tip_speed is refused", "tip_speed", _too_fast_a_frame),
    Refusal(
        "a spectrum nearer to the sample than z_offset_toward_max is refused",
        "z_offset_toward_max",
        lambda plan: _sweep(plan, z_offset_m=-BEYOND * plan.limits.z_offset_toward_max - 1e-12),
        touching=True,
    ),
    Refusal(
        "a dwell that keeps feedback off longer than feedback_off_time_max is refused",
        "feedback_off_time_max",
        _too_long_a_dwell,
    ),
    Refusal("a sweep steeper than bias_slew is refused", "bias_slew", _too_steep_a_sweep),
    Refusal(
        "a pulse above pulse_bias_max is refused",
        "pulse_bias_max",
        lambda plan: Pulse(bias_v=BEYOND * plan.limits.pulse_bias_max, width_s=1e-6),
        touching=True,
    ),
    Refusal(
        "an indentation deeper than indentation_max is refused",
        "indentation_max",
        lambda plan: Indentation(
            depth_m=BEYOND * plan.limits.indentation_max + 1e-12, bias_v=plan.choices.bias_v, dwell_s=1e-3
        ),
        touching=True,
    ),
)
"""Bias, setpoint, position, speed, Z offset, dwell, and what could touch."""
