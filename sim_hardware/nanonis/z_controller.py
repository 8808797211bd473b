"""ZCtrl and SafeTip: the Z-controller, its limits, and the fast withdrawal."""

from __future__ import annotations

import math
from typing import Any

from protocols.errors import DriverError
from sim_hardware.approach import Z_SPEED_M_S, home, z_ramp
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry
from sim_hardware.situation import Activity
from sim_hardware.world import World

REGISTRY = Registry()
CONTROLLERS = ("log Current", "Current")
FAST_Z_M_S = 1e-6
"""Speed of Z where a command names a height."""
ARRIVAL_MS = 1500
"""Wall ms that switching on waits for a withdrawal under way."""


def switch(lab: Instrument, on: bool) -> None:
    """Controller on or off; within a scan at the end of the present line."""
    frame = lab.running("frame")
    if frame is not None:
        lab.between_lines(frame, lambda world: _switch_now(world, on))
    elif lab.world.state().feedback != on:
        lab.patiently(lambda: lab.world.set_feedback(on))


def _switch_now(world: World, on: bool) -> None:
    """Within an activity: the world refuses a switch from outside then."""
    with world.lock:
        s = world.situation
        if s.feedback == on or s.retracting or (on and s.shorted):
            return
        world.note("feedback", on=on, bias_v=s.bias_v)
        if not on:
            s.z_m = min(s.z_m + world.controls.controller.tip_lift_m, world.z_range()[1])
        elif s.withdrawn:
            s.withdrawn = s.crashed = False
        world.resume_feedback(on)


@REGISTRY.command("ZCtrl.OnOffSet")
def on_off_set(call: Call, status: bool) -> None:
    """On, or off after the switch-off delay."""
    lab = call.lab
    delay = lab.world.controls.controller.switch_off_delay_s
    if status:
        call.until(lambda: not lab.world.situation.retracting, ARRIVAL_MS)
        switch(lab, True)
    elif delay > 0.0 and lab.world.state().feedback and lab.running("frame") is None:
        lab.begin("switching off", delay, _off_after(delay))
    else:
        switch(lab, False)


def _off_after(seconds: float) -> Any:
    def run(world: World, activity: Activity) -> None:
        world.wait(activity, world.clock.now() + seconds)
        _switch_now(world, False)

    return run


@REGISTRY.command("ZCtrl.OnOffGet")
def on_off_get(call: Call) -> bool:
    """Whether the controller works now."""
    return call.lab.world.situation.feedback


@REGISTRY.command("ZCtrl.StatusGet")
def status_get(call: Call) -> str:
    """What it does."""
    lab, world = call.lab, call.lab.world
    state = world.state()
    with world.lock:
        retracting, tripped = world.situation.retracting, world.controls.safe_tip.tripped
    if tripped:
        return "safe tip"
    if retracting:
        return "withdrawing"
    if lab.running("switching off") is not None:
        return "switching off"
    if state.sweeping or (lab.running("tip shaper", "pulse", "z sweep") and not state.feedback):
        return "hold"
    return "on" if state.feedback else "off"


@REGISTRY.command("ZCtrl.ZPosSet")
def z_set(call: Call, z_position_m: float) -> None:
    """Bring the tip to a height; the controller must be off."""
    lab = call.lab
    if not math.isfinite(z_position_m):
        raise DriverError(f"a Z position of {z_position_m} m is none.")
    if lab.world.state().feedback:
        raise DriverError("the Z-Controller is on: it determines the Z position. Switch it off first.")
    low, high = lab.world.z_range()
    lab.brief("z", z_ramp(min(max(z_position_m, low), high), FAST_Z_M_S))


@REGISTRY.command("ZCtrl.ZPosGet")
def z_get(call: Call) -> float:
    """The tip's height."""
    return call.lab.world.state().z_m


@REGISTRY.command("ZCtrl.SetpntSet")
def setpoint_set(call: Call, setpoint: float) -> None:
    """The setpoint of |I|."""
    call.lab.world.set_setpoint(abs(setpoint))


@REGISTRY.command("ZCtrl.SetpntGet")
def setpoint_get(call: Call) -> float:
    """The setpoint of |I|."""
    return call.lab.world.situation.setpoint_a


@REGISTRY.command("ZCtrl.GainSet")
def gain_set(call: Call, p_gain: float, time_constant_s: float, i_gain: float) -> None:
    """P and T; where T is 0 it follows from P and I.  I = P / T."""
    time_constant = time_constant_s
    if time_constant == 0.0 and i_gain:
        time_constant = p_gain / i_gain
    if not (math.isfinite(p_gain) and time_constant > 0.0):
        raise DriverError(f"gains P = {p_gain:g} m, T = {time_constant:g} s make no controller.")
    world = call.lab.world
    with world.lock:
        world.advance()
        world.controls.controller.proportional_m = p_gain
        world.controls.controller.time_constant_s = time_constant
        if world.situation.feedback:
            world.situation.feedback = False
            world.resume_feedback(True)


@REGISTRY.command("ZCtrl.GainGet")
def gain_get(call: Call) -> tuple[float, float, float]:
    """P, T and I."""
    settings = call.lab.world.controls.controller
    return settings.proportional_m, settings.time_constant_s, settings.integral_m_s


@REGISTRY.command("ZCtrl.SwitchOffDelaySet")
def delay_set(call: Call, delay_s: float) -> None:
    """How long Z is averaged before the controller is off."""
    if not 0.0 <= delay_s <= 60.0:
        raise DriverError(f"a switch-off delay of {delay_s:g} s is outside 0 to 60 s.")
    call.lab.world.controls.controller.switch_off_delay_s = delay_s


@REGISTRY.command("ZCtrl.SwitchOffDelayGet")
def delay_get(call: Call) -> float:
    """The switch-off delay."""
    return call.lab.world.controls.controller.switch_off_delay_s


@REGISTRY.command("ZCtrl.TipLiftSet")
def lift_set(call: Call, tip_lift_m: float) -> None:
    """How far the tip goes up when the controller is switched off."""
    if not -1e-6 <= tip_lift_m <= 1e-6:
        raise DriverError(f"a tip lift of {tip_lift_m:g} m is outside -1e-6 to 1e-6 m.")
    call.lab.world.controls.controller.tip_lift_m = tip_lift_m


@REGISTRY.command("ZCtrl.TipLiftGet")
def lift_get(call: Call) -> float:
    """The tip lift."""
    return call.lab.world.controls.controller.tip_lift_m


@REGISTRY.command("ZCtrl.Home")
def go_home(call: Call) -> None:
    """Controller off, and Z to the home position."""
    low, high = call.lab.world.z_range()
    call.lab.begin("home", (high - low) / Z_SPEED_M_S, home())


@REGISTRY.command("ZCtrl.HomePropsSet")
def home_props_set(call: Call, absolute_relative: str | None, home_position_m: float) -> None:
    """Where home is."""
    settings = call.lab.world.controls.controller
    if absolute_relative is not None:
        settings.home_relative = absolute_relative == "relative"
    if math.isfinite(home_position_m):
        settings.home_m = home_position_m


@REGISTRY.command("ZCtrl.HomePropsGet")
def home_props_get(call: Call) -> tuple[str, float]:
    """Where home is."""
    settings = call.lab.world.controls.controller
    return "relative" if settings.home_relative else "absolute", settings.home_m


@REGISTRY.command("ZCtrl.ActiveCtrlSet")
def controller_set(call: Call, controller_index: int) -> None:
    """Which controller works: on the current's logarithm, or on the current."""
    if not 0 <= controller_index < len(CONTROLLERS):
        raise DriverError(f"controller index {controller_index} is outside 0 to {len(CONTROLLERS) - 1}.")
    world = call.lab.world
    with world.lock:
        world.advance()
        world.controls.controller.logarithmic = controller_index == 0
        if world.situation.feedback:
            world.situation.feedback = False
            world.resume_feedback(True)


@REGISTRY.command("ZCtrl.CtrlListGet")
def controller_get(call: Call) -> tuple[tuple[str, ...], int]:
    """All controllers and the active one."""
    return CONTROLLERS, 0 if call.lab.world.controls.controller.logarithmic else 1


@REGISTRY.command("ZCtrl.Withdraw")
def withdraw(call: Call, wait: bool, timeout_ms: int) -> None:
    """Controller off and Z to its upper limit, whatever runs."""
    world = call.lab.world
    world.withdraw("ZCtrl.Withdraw")
    if wait:
        call.until(lambda: world.situation.withdrawn, timeout_ms)


@REGISTRY.command("ZCtrl.WithdrawRateSet")
def rate_set(call: Call, rate_m_s: float) -> None:
    """Speed of a withdrawal."""
    if not 1e-9 <= rate_m_s <= 1e-2:
        raise DriverError(f"a withdraw rate of {rate_m_s:g} m/s is outside 1e-9 to 1e-2 m/s.")
    world = call.lab.world
    with world.lock:
        world.advance()
        world.controls.withdraw_m_s = rate_m_s


@REGISTRY.command("ZCtrl.WithdrawRateGet")
def rate_get(call: Call) -> float:
    """Speed of a withdrawal."""
    return call.lab.world.controls.withdraw_m_s


@REGISTRY.command("ZCtrl.LimitsEnabledSet")
def limits_enabled_set(call: Call, status: bool) -> None:
    """Whether the limits hold."""
    world = call.lab.world
    with world.lock:
        world.advance()
        world.controls.controller.limits_enabled = status


@REGISTRY.command("ZCtrl.LimitsEnabledGet")
def limits_enabled_get(call: Call) -> bool:
    """Whether the limits hold."""
    return call.lab.world.controls.controller.limits_enabled


@REGISTRY.command("ZCtrl.LimitsSet")
def limits_set(call: Call, z_high_limit_m: float, z_low_limit_m: float) -> None:
    """Limits of Z, used while enabled."""
    if not z_low_limit_m < z_high_limit_m:
        raise DriverError(f"limits of {z_low_limit_m:g} to {z_high_limit_m:g} m leave no room.")
    world = call.lab.world
    with world.lock:
        world.advance()
        world.controls.controller.z_low_m = z_low_limit_m
        world.controls.controller.z_high_m = z_high_limit_m


@REGISTRY.command("ZCtrl.LimitsGet")
def limits_get(call: Call) -> tuple[float, float]:
    """High and low limit; those of the piezo while the limits are not enabled."""
    low, high = call.lab.world.z_range()
    return high, low


# -- SafeTip -------------------------------------------------------------------------------------------------


@REGISTRY.command("SafeTip.OnOffSet")
def safe_set(call: Call, status: bool | None) -> None:
    """Arm or disarm."""
    if status is not None:
        world = call.lab.world
        with world.lock:
            world.controls.safe_tip.on = status
            world.controls.safe_tip.tripped = world.controls.safe_tip.tripped and status


@REGISTRY.command("SafeTip.OnOffGet")
def safe_get(call: Call) -> bool:
    """Whether it is armed."""
    return call.lab.world.controls.safe_tip.on


@REGISTRY.command("SafeTip.SignalGet")
def safe_signal(call: Call) -> float:
    """The current that it watches."""
    return call.lab.world.state().current_a


@REGISTRY.command("SafeTip.PropsSet")
def safe_props_set(call: Call, auto_recovery: bool, auto_pause_scan: bool, threshold: float) -> None:
    """Threshold of |I|, and what happens after a withdrawal."""
    if not threshold > 0.0:
        raise DriverError(f"a threshold of {threshold:g} A is none.")
    safe_tip = call.lab.world.controls.safe_tip
    with call.lab.world.lock:
        safe_tip.threshold_a = threshold
        safe_tip.auto_recovery, safe_tip.auto_pause_scan = auto_recovery, auto_pause_scan


@REGISTRY.command("SafeTip.PropsGet")
def safe_props_get(call: Call) -> tuple[bool, bool, float]:
    """The same."""
    safe_tip = call.lab.world.controls.safe_tip
    return safe_tip.auto_recovery, safe_tip.auto_pause_scan, safe_tip.threshold_a
