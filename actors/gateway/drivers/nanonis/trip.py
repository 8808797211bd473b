"""SafeTip as the fast trip: the electronics withdraw the tip by themselves when the current is too high.

A reading over TCP takes up to 0.2 s on real electronics, so the guard's own watch is the slow one.  The
threshold is the guard's: the larger of ``trip_current`` and ten setpoints, below the preamplifier's rail; a
lower one that somebody has switched on already stays.  Within a sweep the current may saturate, which ends
that sweep and not the run, so SafeTip rests meanwhile; the controller holds Z then.
"""

from __future__ import annotations

from actors.gateway.drivers.nanonis.panel import Panel, Setting, same
from protocols.files.quantities import format_quantity

ON_OFF = Setting("SafeTip.OnOff")
PROPS = Setting("SafeTip.Props")

SETPOINTS = 10.0
BELOW_RAIL = 0.99
"""A threshold above the rail would never be reached."""


class FastTrip:
    """SafeTip over one panel.  Not armed before ``arm`` was called once."""

    def __init__(self, rail_a: float) -> None:
        self._rail_a = rail_a
        self._trip_a: float | None = None
        self._threshold_a = 0.0

    @property
    def wanted(self) -> bool:
        """Whether it was ever asked for."""
        return self._trip_a is not None

    def arm(self, panel: Panel, trip_a: float, setpoint_a: float) -> None:
        """Switch it on with the guard's threshold.

        Raises:
            DriverError: it is not on afterwards, or has another threshold.
        """
        self._trip_a = trip_a
        threshold = min(max(trip_a, SETPOINTS * abs(setpoint_a)), BELOW_RAIL * self._rail_a)
        found = panel.read(PROPS)
        lower = 0.0 < found["threshold"] < threshold and not same("f", self._threshold_a, found["threshold"])
        if lower and panel.read(ON_OFF)["status"]:
            threshold = float(found["threshold"])  # the laboratory's own, and stricter
        panel.ensure(PROPS, auto_recovery=False, threshold=threshold)
        panel.ensure(ON_OFF, status=True)
        self._threshold_a = threshold

    def follow(self, panel: Panel, setpoint_a: float) -> None:
        """A new setpoint: move the threshold with it, if armed."""
        if self._trip_a is not None:
            self.arm(panel, self._trip_a, setpoint_a)

    def rest(self, panel: Panel) -> None:
        """Off for the length of a sweep, if armed."""
        if self.wanted:
            panel.ensure(ON_OFF, status=False)

    def changes(self, panel: Panel) -> tuple[str, ...]:
        """What somebody else has changed about it since."""
        if not self.wanted:
            return ()
        if not panel.read(ON_OFF)["status"]:
            return ("SafeTip is off",)
        threshold = panel.read(PROPS)["threshold"]
        if threshold > self._threshold_a * (1 + 1e-6):
            return (
                f"SafeTip's threshold is {format_quantity(threshold, 'A')} instead of "
                f"{format_quantity(self._threshold_a, 'A')}",
            )
        return ()
