"""Motor and AutoApproach: coarse steps, and the approach from beyond the piezo's range."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import DriverError
from sim_hardware.approach import auto_approach
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import PATIENCE_S, Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.situation import Activity
from sim_hardware.world import World

REGISTRY = Registry()

AXES = ("x", "y", "z")
MOST_STEPS = 65535
USUAL_FREQUENCY_HZ = 1000.0
USUAL_AMPLITUDE_V = 100.0
GROUPS = range(6)
STEPS_PER_BITE = 10
"""Steps between looks at a stop."""

_AXIS: dict[str, Any] = {"index": "axis", "indices": range(4)}
REGISTRY.keep(
    Settings(
        "Motor.FreqAmp",
        {"frequency_hz": USUAL_FREQUENCY_HZ, "amplitude_v": USUAL_AMPLITUDE_V},
        {"frequency_hz": (1.0, 50e3), "amplitude_v": (0.0, 400.0)},
        **_AXIS,
    ),
)
"""Axis 0 is the default of all, 1 to 3 are x, y, z."""


@dataclass
class MotorPanel:
    """Where the counters of steps began anew; the motor itself counts in the controls, also an approach's."""

    reset_at: list[int] = field(default_factory=lambda: [0, 0, 0])


def _drive(lab: Instrument, axis: int) -> tuple[float, float]:
    """Frequency (Hz) and amplitude (V) of an axis."""
    with lab.lock:
        place = axis + 1 if lab.was_set("Motor.FreqAmp", axis + 1) else 0
    kept = lab.setting("Motor.FreqAmp", place)
    return kept["frequency_hz"], kept["amplitude_v"]


def _step_m(lab: Instrument, axis: int) -> float:
    """One step: proportional to the amplitude."""
    return float(lab.world.controls.coarse_step_m[axis] * _drive(lab, axis)[1] / USUAL_AMPLITUDE_V)


def _stepping(lab: Instrument, ways: list[tuple[int, int]]) -> Any:
    """Steps on several axes, (axis, signed number), one after the other."""

    def run(world: World, activity: Activity) -> None:
        for axis, steps in ways:
            made, frequency = 0, _drive(lab, axis)[0]
            try:
                while made < abs(steps):
                    bite = min(abs(steps) - made, STEPS_PER_BITE)
                    world.wait(activity, world.clock.now() + bite / frequency)
                    step(lab, axis, int(math.copysign(bite, steps)))
                    made += bite
            finally:
                world.note("motor", axis=AXES[axis], steps=int(math.copysign(made, steps)), of=steps)

    return run


def step(lab: Instrument, axis: int, steps: int) -> None:
    """Steps of one axis, at once."""
    metres = [0.0, 0.0, 0.0]
    metres[axis] = steps * _step_m(lab, axis)
    lab.world.coarse(*metres)
    with lab.world.lock:
        lab.world.controls.coarse_steps[axis] += steps


def _begin(call: Call, ways: list[tuple[int, int]], wait: bool) -> None:
    lab = call.lab
    seconds = sum(abs(steps) / _drive(lab, axis)[0] for axis, steps in ways)
    activity = lab.begin("motor", seconds, _stepping(lab, ways))
    if wait:
        call.finish(activity)


@REGISTRY.command("Motor.StartMove")
def start_move(call: Call, direction: str, number_of_steps: int, group: int, wait: bool) -> None:
    """Coarse steps; "z-" goes toward the sample.  The tip should be withdrawn."""
    if group not in GROUPS:
        raise DriverError(f"group {group} is outside 0 to {GROUPS.stop - 1}.")
    axis, sign = AXES.index(direction[0]), 1 if direction[1] == "+" else -1
    _begin(call, [(axis, sign * number_of_steps)], wait)


@REGISTRY.command("Motor.StartClosedLoop")
def start_closed_loop(
    call: Call,
    absolute_relative: int,
    target_x_m: float,
    target_y_m: float,
    target_z_m: float,
    wait: bool,
    group: int = 0,
) -> None:
    """Go to a position (absolute 1, relative 0) to within half a step."""
    lab = call.lab
    here = lab.world.stage.coarse_position_m
    ways = []
    for axis, target in enumerate((target_x_m, target_y_m, target_z_m)):
        if not math.isfinite(target):
            raise DriverError(f"a target of {target} m is none.")
        way = target - here[axis] if absolute_relative else target
        steps = round(way / _step_m(lab, axis)) if _step_m(lab, axis) else 0
        if abs(steps) > MOST_STEPS:
            raise DriverError(
                f"{AXES[axis]} is {abs(steps)} steps away; the motor goes {MOST_STEPS} at most."
            )
        if steps:
            ways.append((axis, steps))
    _begin(call, ways, wait)


@REGISTRY.command("Motor.StopMove")
def stop_move(call: Call) -> None:
    """Stop stepping."""
    running = call.lab.running("motor")
    if running is not None:
        running.stop("stopped")
        running.done.wait(PATIENCE_S)


@REGISTRY.command("Motor.PosGet")
def position_get(call: Call, group: int = 0, timeout_ms: int = 500) -> tuple[float, float, float]:
    """Where the coarse motor has brought the tip."""
    return call.lab.world.stage.coarse_position_m


@REGISTRY.command("Motor.StepCounterGet")
def counters_get(call: Call, reset_x: int, reset_y: int, reset_z: int) -> tuple[int, int, int]:
    """Steps so far; counters that are to be reset begin anew after this answer."""
    with call.lab.lock, call.lab.world.lock:
        made, began = call.lab.world.controls.coarse_steps, call.lab.of(MotorPanel).reset_at
        x, y, z = (steps - at for steps, at in zip(made, began, strict=True))
        for axis, reset in enumerate((reset_x, reset_y, reset_z)):
            began[axis] = made[axis] if reset else began[axis]
    return x, y, z


# -- auto approach -------------------------------------------------------------------------------------------


@REGISTRY.command("AutoApproach.Open")
def approach_open(call: Call) -> None:
    """Open its window."""
    call.lab.open("AutoApproach")


@REGISTRY.command("AutoApproach.OnOffSet")
def approach_set(call: Call, status: bool) -> None:
    """Begin to approach, or stop."""
    lab = call.lab
    running = lab.running("approach")
    if status and running is None:
        lab.begin("approach", 0.0, auto_approach())
    elif not status and running is not None:
        running.stop("stopped")
        running.done.wait(PATIENCE_S)


@REGISTRY.command("AutoApproach.OnOffGet")
def approach_get(call: Call) -> bool:
    """Whether it approaches."""
    return call.lab.running("approach") is not None
