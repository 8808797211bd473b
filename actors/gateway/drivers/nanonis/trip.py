"""SafeTip as the fast trip: the electronics withdraw the tip by themselves when the current is too high.

A reading over TCP takes up to 0.2 s on real electronics, so the guard's own watch is the slow one.  The
threshold is the guard's: the larger of ``trip_current`` and ten setpoints, below the preamplifier's rail; a
lower one that somebody has switched on already stays.  Within a sweep the current may saturate, which ends
that sweep and not the run, and pulses and indentations mean to: SafeTip rests meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from actors.gateway.drivers.nanonis.panel import Panel, Setting, same
from protocols.errors import DriverError
from protocols.files.quantities import format_quantity

log = structlog.get_logger(__name__)

ON_OFF = Setting("SafeTip.OnOff")
PROPS = Setting("SafeTip.Props")

SETPOINTS = 10.0
BELOW_RAIL = 0.99
"""A threshold above the rail would never be reached."""


class FastTrip:
    """SafeTip over one panel.  Nothing is done to it before ``arm`` was called once."""

    def __init__(self, rail_a: float) -> None:
        self._rail_a = rail_a
        self._trip_a: float | None = None
        self._setpoint_a = 0.0
        self._threshold_a = 0.0

    def arm(self, panel: Panel, trip_a: float, setpoint_a: float) -> None:
        """Switch it on with the guard's threshold.

        Raises:
            DriverError: it is not on afterwards, or has another threshold.
        """
        self._trip_a, self._setpoint_a = trip_a, abs(setpoint_a)
        threshold = min(max(trip_a, SETPOINTS * self._setpoint_a), BELOW_RAIL * self._rail_a)
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

    @contextlib.contextmanager
    def resting(self, panel: Panel) -> Iterator[None]:
        """Off for as long as this lasts, if armed.

        Raises:
            DriverError: it is not on again afterwards (an error from within goes first).
        """
        if self._trip_a is None:
            yield
            return
        panel.ensure(ON_OFF, status=False)
        try:
            yield
        except BaseException:
            try:
                self.arm(panel, self._trip_a, self._setpoint_a)
            except DriverError as problem:
                log.warning("SafeTip is not armed again", problem=str(problem))
            raise
        self.arm(panel, self._trip_a, self._setpoint_a)

    def changes(self, panel: Panel) -> tuple[str, ...]:
        """What somebody else has changed about it since."""
        if self._trip_a is None:
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
