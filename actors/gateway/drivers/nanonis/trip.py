"""SafeTip as the fast trip: the electronics withdraw the tip by themselves when the current is too high.

A reading over TCP takes up to 0.2 s on real electronics, so the guard's own watch is the slow one.  The
threshold is the guard's: the larger of ``trip_current`` and ten setpoints, below the preamplifier's rail; a
lower one of the laboratory's, that was on before, is never raised.  Within a sweep the current may saturate,
which ends that sweep and not the run, and pulses and indentations mean to: SafeTip rests meanwhile.
"""

from __future__ import annotations

import contextlib
import math
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
    """SafeTip over one panel.  Nothing is done to it before ``arm`` was called once.

    ``rail_a``: where the measured current saturates (A) as long as the preamplifier's gain is what it is.
    """

    def __init__(self, rail_a: float) -> None:
        self.rail_a = rail_a
        self._trip_a: float | None = None
        self._setpoint_a = 0.0
        self._threshold_a = 0.0
        self._theirs_a = math.inf
        """The laboratory's own threshold, where it is the stricter one."""

    @property
    def armed(self) -> bool:
        """Whether it was armed once."""
        return self._trip_a is not None

    def arm(self, panel: Panel, trip_a: float, setpoint_a: float) -> None:
        """Switch it on with the guard's threshold.

        Raises:
            DriverError: it is not on afterwards, or has another threshold.
        """
        self._trip_a, self._setpoint_a = trip_a, abs(setpoint_a)
        ours = min(max(trip_a, SETPOINTS * self._setpoint_a), BELOW_RAIL * self.rail_a)
        found = float(panel.read(PROPS)["threshold"])
        not_ours = not same("f", self._threshold_a, found)
        if 0.0 < found < ours and not_ours and panel.read(ON_OFF)["status"]:
            self._theirs_a = found
        threshold = min(ours, self._theirs_a)
        panel.ensure(PROPS, auto_recovery=False, threshold=threshold)
        panel.ensure(ON_OFF, status=True)
        self._threshold_a = threshold

    def follow(self, panel: Panel, setpoint_a: float) -> None:
        """A new setpoint: move the threshold with it, if armed."""
        if self._trip_a is not None:
            self.arm(panel, self._trip_a, setpoint_a)

    def leaves_room(self, setpoint_a: float, current_a: float) -> bool:
        """Whether the threshold of a new setpoint is well above the current that flows (A)."""
        return self._trip_a is None or 2.0 * abs(current_a) < max(self._trip_a, SETPOINTS * abs(setpoint_a))

    @contextlib.contextmanager
    def resting(self, panel: Panel) -> Iterator[None]:
        """Off for as long as this lasts, if armed.

        Raises:
            DriverError: it is not on again afterwards (an error from within goes first).
        """
        if self._trip_a is None:
            yield
            return
        try:
            panel.ensure(ON_OFF, status=False)
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
        found = panel.read(PROPS)
        changed = []
        if not found["threshold"] <= self._threshold_a * (1 + 1e-6):
            changed.append(
                f"SafeTip's threshold is {format_quantity(found['threshold'], 'A')} instead of "
                f"{format_quantity(self._threshold_a, 'A')}"
            )
        if found["auto_recovery"]:
            changed.append("SafeTip recovers by itself")
        return tuple(changed)
