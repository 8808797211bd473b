"""Electronics in memory: time is virtual and passes only while they act, so tests never wait for physics.

``FakeElectronics`` is the microscope, ``FakeDriver`` one connection to it.  Every call is written down in
``calls`` as (role, name, argument).  ``hold_sweeps`` makes sweeps and frames wait until the tip is withdrawn,
they are stopped, or ``release`` is called.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from protocols.errors import DriverError
from protocols.instrument.driver import DriverInfo
from protocols.messages.data import Channel, FrameLines, InstrumentState, SweepData
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe

PATIENCE_S = 10.0
"""Longest wait of a held sweep; a test that needs it has failed."""


class FakeElectronics:
    """One microscope: set attributes to make it misbehave."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.calls: list[tuple[str, str, Any]] = []
        self.time_s = 0.0
        self.bias_v = 0.1
        self.setpoint_a = 1e-10
        self.feedback = False
        self.withdrawn = True
        self.x_m = self.y_m = 0.0
        self.z_m = 250e-9
        self.surface_z_m = 0.0
        self.scanning = self.sweeping = self.lockin_on = self.crashed = False
        self.current_a: float | None = None
        """Instead of what feedback gives."""
        self.no_surface = False
        self.hold_sweeps = False
        self.released = False
        self.stopped = False
        self.refuse: dict[str, int] = {}
        """Name of a call -> how often it fails with DriverError (-1: always)."""
        self.ignore_withdraw = 0
        """So many withdrawals are acknowledged and not carried out."""
        self.info = DriverInfo(
            name="fake",
            simulated=True,
            time_scale=1.0,
            x_range_m=(-1e-6, 1e-6),
            y_range_m=(-1e-6, 1e-6),
            z_range_m=(-250e-9, 250e-9),
            bias_range_v=(-10.0, 10.0),
            preamplifier_rail_a=10e-9,
            vertical_drift_m_s=1e-12,
        )

    def names(self, role: str = "") -> list[str]:
        """Names of the calls so far, reads left out."""
        return [
            name for who, name, _ in self.calls if name not in {"state", "info"} and (not role or who == role)
        ]

    def release(self) -> None:
        """Let held sweeps and frames end."""
        with self.changed:
            self.released = True
            self.changed.notify_all()

    def await_call(self, name: str) -> None:
        """Wait until a call of that name has come."""
        with self.changed:
            if not self.changed.wait_for(lambda: any(n == name for _, n, _ in self.calls), PATIENCE_S):
                raise AssertionError(f"no call of {name} within {PATIENCE_S} s; calls: {self.names()}")

    def state(self) -> InstrumentState:
        """As the electronics report it."""
        current = self.current_a
        if current is None:
            found = self.feedback and not self.withdrawn and not self.no_surface
            current = math.copysign(self.setpoint_a, self.bias_v) if found else 0.0
        return InstrumentState(
            time_s=self.time_s,
            bias_v=self.bias_v,
            setpoint_a=self.setpoint_a,
            current_a=current,
            feedback=self.feedback,
            withdrawn=self.withdrawn,
            x_m=self.x_m,
            y_m=self.y_m,
            z_m=self.z_m,
            scanning=self.scanning,
            sweeping=self.sweeping,
            lockin_on=self.lockin_on,
            crashed=self.crashed,
        )


class FakeDriver:
    """Implements ``protocols.instrument.driver.Driver``."""

    def __init__(self, electronics: FakeElectronics, role: str = "worker") -> None:
        self.electronics = electronics
        self.role = role

    def _called(self, name: str, argument: Any = None) -> FakeElectronics:
        e = self.electronics
        with e.changed:
            e.calls.append((self.role, name, argument))
            e.changed.notify_all()
            left = e.refuse.get(name, 0)
            if left:
                e.refuse[name] = left - 1 if left > 0 else left
                raise DriverError(f"{name} was refused by the fake electronics.")
        return e

    def info(self) -> DriverInfo:
        """Identity."""
        return self.electronics.info

    def state(self) -> InstrumentState:
        """Reading."""
        return self._called("state").state()

    def begin_job(self, job_id: str, kind: str) -> None:
        """Written down."""
        self._called("begin_job", (job_id, kind))

    def end_job(self, job_id: str, outcome: str) -> None:
        """Written down."""
        self._called("end_job", (job_id, outcome))

    def set_bias(self, bias_v: float, slew_v_s: float) -> None:
        """At once, but time passes; through zero with feedback on is a crash."""
        e = self._called("set_bias", bias_v)
        e.time_s += abs(bias_v - e.bias_v) / slew_v_s
        if e.feedback and e.bias_v * bias_v <= 0:
            e.crashed = True
        e.bias_v = bias_v

    def set_setpoint(self, setpoint_a: float) -> None:
        """At once."""
        self._called("set_setpoint", setpoint_a).setpoint_a = setpoint_a

    def set_feedback(self, on: bool) -> None:
        """On finds the surface at once, unless there is none."""
        e = self._called("set_feedback", on)
        e.feedback = on
        if on:
            e.withdrawn = False
            e.z_m = e.info.z_range_m[0] if e.no_surface else e.surface_z_m

    def set_lockin(self, settings: LockIn | None) -> None:
        """At once."""
        self._called("set_lockin", settings).lockin_on = settings is not None

    def settle(self, seconds: float) -> None:
        """Virtual time passes."""
        self._called("settle", seconds).time_s += seconds

    def move(self, x_m: float, y_m: float, speed_m_s: float) -> None:
        """At once, but time passes."""
        e = self._called("move", (x_m, y_m, speed_m_s))
        e.time_s += math.hypot(x_m - e.x_m, y_m - e.y_m) / speed_m_s
        e.x_m, e.y_m = x_m, y_m

    def sweep(self, recipe: SpectrumRecipe) -> SweepData:
        """A straight line; waits while ``hold_sweeps``."""
        e = self._called("sweep", recipe)
        began = e.time_s
        e.sweeping = True
        e.feedback = False
        cut = self._wait(e)
        e.sweeping = False
        e.time_s += recipe.sweep_duration_s
        if not e.withdrawn:
            e.bias_v, e.feedback = recipe.stabilise_bias_v, True
        if cut:
            raise DriverError("the sweep was stopped.")
        bias = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
        directions = 2 if recipe.backward else 1
        values = np.broadcast_to(bias * 1e-9, (recipe.repeats, directions, recipe.points)).copy()
        return SweepData(
            bias_v=bias,
            channels=(Channel(name="current", unit="A", values=values),),
            x_m=e.x_m,
            y_m=e.y_m,
            z_m=e.z_m,
            time_s=began,
        )

    def frame(self, recipe: Frame) -> Iterator[FrameLines]:
        """One line at a time; waits before the last one while ``hold_sweeps``."""
        e = self._called("frame", recipe)
        e.scanning = True
        try:
            for row in range(recipe.lines):
                if row == recipe.lines - 1 and self._wait(e):
                    raise DriverError("the scan was stopped.")
                e.time_s += 2 * recipe.line_time_s
                values = np.full((1, 2, recipe.pixels), float(row), dtype=np.float32)
                yield FrameLines(
                    rows=(row,), channels=(Channel(name="z", unit="m", values=values),), time_s=e.time_s
                )
        finally:
            e.scanning = False

    def pulse(self, bias_v: float, width_s: float, hold_z: bool) -> None:
        """Time passes."""
        self._called("pulse", (bias_v, width_s, hold_z)).time_s += width_s

    def indent(self, depth_m: float, bias_v: float, dwell_s: float) -> None:
        """Time passes."""
        self._called("indent", (depth_m, bias_v, dwell_s)).time_s += dwell_s

    def withdraw(self) -> None:
        """At once."""
        e = self._called("withdraw")
        with e.changed:
            if e.ignore_withdraw:
                e.ignore_withdraw -= 1
                return
            e.withdrawn, e.feedback, e.z_m = True, False, e.info.z_range_m[1]
            e.changed.notify_all()

    def stop(self) -> None:
        """Ends a held sweep or frame."""
        e = self._called("stop")
        with e.changed:
            e.stopped = True
            e.changed.notify_all()

    def close(self) -> None:
        """Nothing to drop."""

    def _wait(self, e: FakeElectronics) -> bool:
        """True if it was cut short."""
        with e.changed:
            if e.hold_sweeps:
                e.stopped = False
                done = e.changed.wait_for(lambda: e.released or e.stopped or e.withdrawn, PATIENCE_S)
                if not done:
                    raise AssertionError("nobody ended a held sweep")
            return e.withdrawn or (e.hold_sweeps and e.stopped)
