"""The interface through which the gateway talks to any electronics.

A driver is synchronous.  One thread of the worker uses it; ``withdraw`` and ``stop`` may be called from
another thread during any other call, and the guard holds a driver of its own over its own connection.
Vendors' conventions (clockwise degrees, row 0 at the top) end inside the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import msgspec

from protocols.messages.data import FrameLines, InstrumentState, SweepData
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe


class DriverInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the electronics say of themselves: ranges are (low, high) in SI units."""

    name: str
    simulated: bool
    time_scale: float
    """Instrument seconds per wall second; other than 1 only where ``simulated``."""
    x_range_m: tuple[float, float]
    y_range_m: tuple[float, float]
    z_range_m: tuple[float, float]
    bias_range_v: tuple[float, float]
    preamplifier_rail_a: float
    vertical_drift_m_s: float = 0.0
    """Estimated |dz/dt| used for the limit on time with feedback off."""
    pixel_step: int = 1
    """Pixels per line come in multiples of this; others are refused before anything moves."""


class Driver(Protocol):
    """Every call raises DriverError (with what was awaited, for how long) and honours a deadline."""

    def info(self) -> DriverInfo:
        """Ranges and identity; cheap after the first call."""

    def state(self) -> InstrumentState:
        """Read bias, setpoint, current, controller, position and activity back from the electronics."""

    def begin_job(self, job_id: str, kind: str) -> None:
        """A job starts; simulators write it to their truth log, real electronics may ignore it."""

    def end_job(self, job_id: str, outcome: str) -> None:
        """The job is over."""

    def set_bias(self, bias_v: float, slew_v_s: float) -> None:
        """Ramp the bias; returns when it is there."""

    def set_setpoint(self, setpoint_a: float) -> None:
        """Setpoint of |I|."""

    def set_feedback(self, on: bool) -> None:
        """Z-controller on or off (off holds Z)."""

    def set_lockin(self, settings: LockIn | None) -> None:
        """Configure and switch on the lock-in modulation, or switch it off."""

    def settle(self, seconds: float) -> None:
        """Let instrument time pass."""

    def move(self, x_m: float, y_m: float, speed_m_s: float) -> None:
        """Move laterally; returns on arrival."""

    def sweep(self, recipe: SpectrumRecipe) -> SweepData:
        """One bias spectrum at the present position: hold, offset, sweep, return, release.

        The electronics carry it through by themselves and re-enable the controller at its end, also when
        the client is gone.
        """

    def frame(self, recipe: Frame) -> Iterator[FrameLines]:
        """Scan; yields lines as they are complete.  Closing the iterator stops the scan."""

    def pulse(self, bias_v: float, width_s: float, hold_z: bool) -> None:
        """One bias pulse."""

    def indent(self, depth_m: float, bias_v: float, dwell_s: float) -> None:
        """Controlled contact."""

    def withdraw(self) -> None:
        """Z-controller off and Z to the withdrawn position, at once; also during a sweep or a scan.

        Returns when the retraction has begun.
        """

    def stop(self) -> None:
        """Stop a running sweep or scan; the controller goes where the electronics leave it."""

    def close(self) -> None:
        """Drop the connection.  The electronics go on as they are."""


# What only some electronics can; whoever uses it asks with ``isinstance`` first.


@runtime_checkable
class FastTrip(Protocol):
    """Electronics that withdraw the tip by themselves, faster than anybody can read the current."""

    def arm_trip(self, trip_a: float) -> None:
        """Withdraw when |I| exceeds the larger of this (A) and ten setpoints, from now on; read back.

        Raises:
            DriverError: it is not armed afterwards.
        """


@runtime_checkable
class SharedPanel(Protocol):
    """Electronics at whose panel somebody else may sit too."""

    def foreign_changes(self) -> tuple[str, ...]:
        """What others have changed of that which no ``state`` shows, in words."""


@runtime_checkable
class LentSettings(Protocol):
    """Electronics whose settings are changed for our work and belong to somebody else."""

    def restore_settings(self) -> tuple[str, ...]:
        """Set again what was set before, while the tip is withdrawn; what went wrong, in words."""
