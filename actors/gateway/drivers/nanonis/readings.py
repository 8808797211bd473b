"""One reading of the electronics.

Signals take up to 0.2 s on real electronics (the acquisition period), so the four that are needed are asked
for at once; everything else is a setting or a status and comes at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from actors.gateway.drivers.nanonis.channel import Ask
from actors.gateway.drivers.nanonis.identity import Signals
from protocols.errors import DriverError
from protocols.messages.data import InstrumentState

TOP_SHARE = 0.005
"""Within this share of the Z range of its upper limit the tip counts as there."""

IN_FEEDBACK = frozenset({"on", "switching off"})
OFF = frozenset({"off", "safe tip"})
SIGNALS_S = 3.0
"""Wall seconds until signals must be there."""


def read_state(
    ask: Ask, signals: Signals, z_range_m: tuple[float, float], now: Callable[[], float]
) -> InstrumentState:
    """Everything the gateway wants to know; ``now`` gives the instrument time.

    Raises:
        DriverError: something was not answered.
    """
    status = ask("ZCtrl.StatusGet")["status"]
    on = ask("ZCtrl.OnOffGet")["status"]
    bias = ask("Bias.Get")["bias_v"]
    setpoint = ask("ZCtrl.SetpntGet")["setpoint"]
    scanning = ask("Scan.StatusGet")["status"]
    sweeping = _if_there(ask, "BiasSpectr.StatusGet", "status")  # none runs whose window was never opened
    lockin = _if_there(ask, "LockIn.ModOnOffGet", "on_off", modulator_number=1)
    current, x, y, z = read_signals(ask, signals)
    _require_numbers(bias=bias, setpoint=setpoint, current=current, x=x, y=y, z=z)
    low, high = z_range_m
    at_top = z >= high - TOP_SHARE * (high - low)
    return InstrumentState(
        time_s=now(),
        bias_v=bias,
        setpoint_a=abs(setpoint),
        current_a=current,
        feedback=bool(on) and status in IN_FEEDBACK,
        withdrawn=at_top and not on and status in OFF,
        x_m=x,
        y_m=y,
        z_m=z,
        scanning=bool(scanning),
        sweeping=sweeping,
        lockin_on=lockin,
        tripped=status == "safe tip",
    )


def read_signals(ask: Ask, signals: Signals) -> tuple[float, float, float, float]:
    """Current (A), x, y, z (m); in one request where the electronics list them all."""
    wanted = ("current", "x", "y", "z")
    if all(key in signals.places for key in wanted):
        found = ask(
            "Signals.ValsGet",
            answer_s=SIGNALS_S,
            indexes=[signals.places[key] for key in wanted],
            wait_for_newest_data=0,
        )["values"]
        if len(found) != len(wanted):
            raise DriverError(f"Signals.ValsGet answered with {len(found)} values instead of {len(wanted)}.")
        current, x, y, z = (float(value) for value in found)
        return current, x, y, z
    place = ask("FolMe.XYPosGet", answer_s=SIGNALS_S, wait_for_newest_data=False)
    current = ask("Current.Get", answer_s=SIGNALS_S)["current_a"]
    z = ask("ZCtrl.ZPosGet", answer_s=SIGNALS_S)["z_position_m"]
    return current, place["x_m"], place["y_m"], z


def _require_numbers(**values: float) -> None:
    """A reading that is none is above no threshold and near no end: whoever watches would be blind.

    Raises:
        DriverError: names what is NaN or infinite.
    """
    none = [f"{name} ({value})" for name, value in values.items() if not math.isfinite(value)]
    if none:
        raise DriverError(f"the electronics gave no number for {', '.join(none)}.", "Look at its signal.")


def _if_there(ask: Ask, command: str, field: str, **arguments: int) -> bool:
    """Whether something is on; a module that is not there, or not open, is off."""
    try:
        return bool(ask(command, **arguments)[field])
    except DriverError as problem:
        if problem.details.get("outcome") != "refused":
            raise
        return False
