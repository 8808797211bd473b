"""What the guard concludes from each reading of the electronics: trips, crashes, Z near its ends.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.files.limits_toml import Limits
from protocols.files.quantities import format_quantity
from protocols.instrument.driver import DriverInfo
from protocols.messages.data import InstrumentState

AT_THE_RAIL = 0.995
"""Fraction of the preamplifier's rail from which the current counts as being there."""


@dataclass(frozen=True)
class Finding:
    """Something to act on: a latch cause and the reason with its figures."""

    cause: str
    reason: str


class Watch:
    """Looks at readings in order of time."""

    def __init__(self, limits: Limits, info: DriverInfo) -> None:
        self._limits = limits
        self.info = info
        """Ranges as they are now."""
        self._above_since_s: float | None = None

    def forget(self) -> None:
        """The tip was parked: nothing that was seen before counts."""
        self._above_since_s = None

    def look(self, state: InstrumentState, *, approaching: bool, crash_seen: bool) -> Finding | None:
        """What latches.  ``approaching``: Z is on its way from the withdrawn position, its place means
        nothing.

        A trip needs feedback on and |I| above the larger of ten setpoints and ``trip_current``, or at the
        preamplifier's rail, in at least two readings ``trip_time`` apart on the instrument's clock.  Within a
        sweep the current may saturate: that ends the sweep, not the run.
        """
        if state.crashed and not crash_seen:
            return Finding("crash", "the electronics report a tip crash")
        trip = self._look_at_current(state)
        if trip is not None:
            return trip
        if state.feedback and not state.withdrawn and not approaching:
            return self._look_at_z(state)
        return None

    def range_alarms(self, state: InstrumentState, *, approaching: bool) -> dict[str, str]:
        """Alarms about positions near the ends of a range, by key; runs hold on them."""
        alarms: dict[str, str] = {}
        if state.withdrawn or not state.feedback or approaching:
            return alarms
        for axis, value, (low, high), margin in (
            ("z", state.z_m, self.info.z_range_m, self._limits.z_hold_margin),
            ("x", state.x_m, self.info.x_range_m, self._limits.xy_hold_margin),
            ("y", state.y_m, self.info.y_range_m, self._limits.xy_hold_margin),
        ):
            if min(value - low, high - value) < margin * (high - low):
                advice = "; it needs the coarse motor" if axis == "z" else ""
                alarms[f"{axis}-range"] = (
                    f"{axis}-range: {axis} = {format_quantity(value, 'm')} is within {margin:.0%} of an end "
                    f"of its range ({format_quantity(low, 'm')} to {format_quantity(high, 'm')}){advice}"
                )
        return alarms

    def _look_at_current(self, state: InstrumentState) -> Finding | None:
        threshold = max(10.0 * abs(state.setpoint_a), self._limits.trip_current)
        current = abs(state.current_a)
        above = current > threshold or current >= AT_THE_RAIL * self.info.preamplifier_rail_a
        if not (above and state.feedback and not state.sweeping and not state.withdrawn):
            self._above_since_s = None
            return None
        if self._above_since_s is None:
            self._above_since_s = state.time_s
            return None
        lasted = state.time_s - self._above_since_s
        if lasted < self._limits.trip_time or lasted <= 0.0:
            return None
        return Finding(
            "trip",
            f"|I| = {format_quantity(current, 'A')} for {format_quantity(lasted, 's')} with feedback on "
            f"at a setpoint of {format_quantity(abs(state.setpoint_a), 'A')} "
            f"(trips above {format_quantity(threshold, 'A')})",
        )

    def _look_at_z(self, state: InstrumentState) -> Finding | None:
        low, high = self.info.z_range_m
        margin = self._limits.z_park_margin * (high - low)
        if low + margin <= state.z_m <= high - margin:
            return None
        return Finding(
            "z-end",
            f"z = {format_quantity(state.z_m, 'm')} is at an end of its range "
            f"({format_quantity(low, 'm')} to {format_quantity(high, 'm')}); it needs the coarse motor",
        )
