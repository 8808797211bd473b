"""TipShaper: pushing the tip into the surface and pulling it out again."""

from __future__ import annotations

from typing import Any

from sim_hardware.motions import BREAKING_DEPTH_M, Run, ramp_path, release
from sim_hardware.nanonis import bias
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.z_motion import contact_height, go
from sim_hardware.situation import Activity
from sim_hardware.world import World

REGISTRY = Registry()
_TIME = (0.0, 600.0)
_LIFT = (-1e-6, 1e-6)

REGISTRY.keep(
    Settings(
        "TipShaper.Props",
        {
            "switch_off_delay_s": 0.05,
            "change_bias": False,
            "bias_v": 0.1,
            "tip_lift_m": -1e-9,
            "lift_time_1_s": 0.1,
            "bias_lift_v": 0.1,
            "bias_settling_time_s": 0.1,
            "lift_height_m": 5e-9,
            "lift_time_2_s": 0.1,
            "end_wait_time_s": 0.1,
            "restore_feedback": True,
        },
        {
            "switch_off_delay_s": _TIME,
            "lift_time_1_s": _TIME,
            "bias_settling_time_s": _TIME,
            "lift_time_2_s": _TIME,
            "end_wait_time_s": _TIME,
            "tip_lift_m": _LIFT,
            "lift_height_m": _LIFT,
        },
    ),
)


@REGISTRY.command("TipShaper.Start")
def start(call: Call, wait: bool, timeout_ms: int) -> None:
    """Carry it out."""
    lab = call.lab
    kept = lab.setting("TipShaper.Props")
    seconds = sum(value for name, value in kept.items() if name.endswith("_s"))
    activity = lab.begin("tip shaper", seconds, shape(lab, kept))
    if wait:
        call.finish(activity, timeout_ms)


def shape(lab: Instrument, kept: dict[str, Any]) -> Run:
    """Average Z, controller off, bias, down, bias, up, bias as before, wait, controller on."""
    first = bias.applied(lab, bias.coerced(lab, kept["bias_v"]))
    second = bias.applied(lab, bias.coerced(lab, kept["bias_lift_v"]))

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        before, feedback = s.bias_v, s.feedback
        world.wait(activity, world.clock.now() + kept["switch_off_delay_s"])
        with world.lock:
            world.advance()
            s.feedback = False
            start_z, withdrawn = s.z_m, s.withdrawn
        depth, changed = 0.0, 0
        try:
            if kept["change_bias"]:
                world.play(activity, ramp_path(world, first, 1e-4))
                world.wait(activity, world.clock.now() + kept["bias_settling_time_s"])
            contact = contact_height(world, s.since_s)
            depth = max(0.0, contact - (start_z + kept["tip_lift_m"]))
            _down(world, activity, start_z + kept["tip_lift_m"], kept["lift_time_1_s"], contact)
            if depth > 0.0 and not withdrawn:
                changed = world.change_tip("indentation")
            if not s.shorted:
                world.play(activity, ramp_path(world, second, 1e-4))
            world.wait(activity, world.clock.now() + kept["bias_settling_time_s"])
            _up(world, activity, s.z_m + kept["lift_height_m"], kept["lift_time_2_s"])
            if not s.shorted:
                world.play(activity, ramp_path(world, before, 1e-4))
            world.wait(activity, world.clock.now() + kept["end_wait_time_s"])
        finally:
            world.note("indentation", depth_m=depth, tip_changes=changed, broken=s.shorted)
            if withdrawn and not s.shorted:
                with world.lock:
                    s.bias_v = before
            release(world, activity, before, feedback and bool(kept["restore_feedback"]))

    return run


def _down(world: World, activity: Activity, z_m: float, seconds: float, contact_m: float) -> None:
    """Down to a height; deeper into the surface than it bears is a crash."""
    s = world.situation
    if z_m > contact_m or s.shorted:
        go(world, activity, z_m, seconds)
        return
    touch = min(seconds, 1e-3)
    go(world, activity, contact_m + 1e-12, max(seconds - touch, 0.0))
    if contact_m - z_m > BREAKING_DEPTH_M:
        go(world, activity, contact_m - 1e-12, touch)  # ends in the crash
        return
    world.wait(activity, world.clock.now() + touch)


def _up(world: World, activity: Activity, z_m: float, seconds: float) -> None:
    if not world.situation.shorted:
        go(world, activity, z_m, seconds)
