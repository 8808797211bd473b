"""``NanonisDriver``: ``protocols.instrument.driver.Driver`` over the Nanonis TCP interface."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from actors.gateway.drivers.nanonis import frames, lockin, sweeps
from actors.gateway.drivers.nanonis.channel import ANSWER_S
from actors.gateway.drivers.nanonis.hold import GRACE_S, STOP_ANSWER_S, WINDOWS, Hold
from actors.gateway.drivers.nanonis.identity import rail_a
from actors.gateway.drivers.nanonis.original import OriginalSettings
from actors.gateway.drivers.nanonis.panel import Setting, same
from actors.gateway.drivers.nanonis.readings import SIGNALS_S
from protocols.errors import DriverError
from protocols.files.quantities import format_quantity
from protocols.messages.data import FrameLines, SweepData
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from protocols.nanonis.address import Address, parse_address
from protocols.nanonis.conventions import timeout_ms

log = structlog.get_logger(__name__)

__all__ = ["WINDOWS", "NanonisDriver", "measurement_name", "open_nanonis"]

SWITCH_S = 5.0
"""The Z-controller reads back as switched within this wall time (its switch-off delay included)."""
RELEASE_S = 1.0
"""Wall seconds within which the controller is released after a sweep."""
FOLLOW_S = 1.0
"""Wall seconds within which the current follows a lower setpoint."""
LOOK_S = 0.01
RAMP_STEP_S = 0.01
"""Instrument seconds between the steps of a bias ramp: Bias.Set itself jumps."""
ARRIVED_M = 50e-12
"""How far from its target the tip may read back after a move; beyond that the position is read once more."""
RAIL_ROUNDING = 1e-3
"""Relative difference of two readings of the preamplifier's rail that are the same."""
NAMES = "tp_"
"""Our measurements' names in the electronics begin so; see ``measurement_name``."""

MOVE_SPEED = Setting("FolMe.Speed")
SETPOINT = Setting("ZCtrl.Setpnt")
TIP_SHAPER = Setting("TipShaper.Props")


def open_nanonis(state: Path, endpoint: str, role: str) -> NanonisDriver:
    """Factory of the driver ``nanonis``; "" as endpoint: the usual ports of this computer.

    Raises:
        ConfigError: the endpoint makes no sense.
    """
    address = parse_address(endpoint)
    return NanonisDriver(address, role, OriginalSettings(state / "gateway", address))


def measurement_name(job_id: str) -> str:
    """What a job's sweeps and frames are called in the electronics: file names and their log show it."""
    return NAMES + job_id.replace("/", "--")


class NanonisDriver(Hold):
    """Implements ``Driver``, and ``FastTrip``, ``SharedPanel`` and ``LentSettings`` beside it."""

    def __init__(
        self, address: Address, role: str, originals: OriginalSettings, answer_s: float = ANSWER_S
    ) -> None:
        super().__init__(address, role, originals, answer_s)
        self._job = ""
        self._place: tuple[float, float] | None = None
        self._one_by_one = False

    def foreign_changes(self) -> tuple[str, ...]:
        """What others have changed of that which no reading shows, in words."""
        if not self._trip.armed:
            return ()
        changed = self._trip.changes(self._panel)
        rail = rail_a(self._commands, self._who().signals)
        if not math.isclose(rail, self._trip.rail_a, rel_tol=RAIL_ROUNDING):
            told = f"{format_quantity(rail, 'A')} instead of {format_quantity(self._trip.rail_a, 'A')}"
            changed += (f"the preamplifier's rail is {told}: its gain is another",)
        return changed

    # -- jobs ------------------------------------------------------------------------------------------------

    def begin_job(self, job_id: str, kind: str) -> None:
        """Measurements are named after it from now on."""
        self._job = job_id

    def end_job(self, job_id: str, outcome: str) -> None:
        """The job is over."""
        self._job = ""

    # -- settings --------------------------------------------------------------------------------------------

    def set_bias(self, bias_v: float, slew_v_s: float) -> None:
        """Ramp the bias in small steps; returns when it is there and read back."""
        self._who()
        present = float(self._ask("Bias.Get")["bias_v"])
        if same("f", bias_v, present):
            return
        if present * bias_v <= 0.0 and self._ask("ZCtrl.OnOffGet")["status"]:
            raise DriverError(
                f"the bias is {format_quantity(present, 'V', 6)} and feedback is on: it is not brought to "
                f"{format_quantity(bias_v, 'V', 6)} through 0 V.",
                "Switch feedback off in between; see who else sets the bias.",
            )
        length = abs(bias_v - present)
        steps = max(1, math.ceil(length / (slew_v_s * RAMP_STEP_S)))
        began = self._clock.now()
        for k in range(1, steps + 1):
            share = k / steps
            self._ask("Bias.Set", bias_v=bias_v if k == steps else present + share * (bias_v - present))
            self._clock.wait(began + share * length / slew_v_s - self._clock.now())
        self._require_taken("Bias.Set", "V", bias_v, self._ask("Bias.Get")["bias_v"])

    def set_setpoint(self, setpoint_a: float) -> None:
        """Setpoint of |I|; SafeTip's threshold goes with it."""
        self._who()
        present = abs(float(self._ask("ZCtrl.SetpntGet")["setpoint"]))
        if setpoint_a < present and not same(
            "f", setpoint_a, present
        ):  # the current must have followed before the threshold does
            self._panel.ensure(SETPOINT, kept=False, setpoint=setpoint_a)
            self._await_room_below_trip(setpoint_a)
            self._trip.follow(self._panel, setpoint_a)
            return
        self._trip.follow(self._panel, setpoint_a)
        self._panel.ensure(SETPOINT, kept=False, setpoint=setpoint_a)

    def set_feedback(self, on: bool) -> None:
        """Z-controller on or off; returns when it reads back so."""
        self._who()
        if on and (changed := self.foreign_changes()):
            raise DriverError(
                f"the Z-controller is not switched on: {'; '.join(changed)}.", "See who else is connected."
            )
        if on:
            self._require_no_withdrawal()
        self._ask("ZCtrl.OnOffSet", status=on)
        until = time.monotonic() + SWITCH_S
        while bool(self._ask("ZCtrl.OnOffGet")["status"]) != on:
            if time.monotonic() > until:
                raise DriverError(
                    f"the Z-controller is not {'on' if on else 'off'} {SWITCH_S:g} s after it was switched.",
                    "Look at the electronics.",
                )
            time.sleep(LOOK_S)  # the electronics tell nothing unasked

    def set_lockin(self, settings: LockIn | None) -> None:
        """Configure and switch on the modulation, or switch it off."""
        self._who()
        if settings is None:
            lockin.switch_off(self._panel)
        else:
            lockin.switch_on(self._panel, self._who().signals, settings)

    def arm_trip(self, trip_a: float) -> None:
        """Have the electronics withdraw the tip by themselves above this current (SafeTip)."""
        self._who()
        setpoint = float(self._ask("ZCtrl.SetpntGet")["setpoint"])
        self._trip.rail_a = rail_a(self._commands, self._who().signals)
        self._trip.arm(self._panel, trip_a, setpoint)

    # -- actions ---------------------------------------------------------------------------------------------

    def settle(self, seconds: float) -> None:
        """Let instrument time pass."""
        self._who()
        self._clock.wait(seconds)

    def move(self, x_m: float, y_m: float, speed_m_s: float) -> None:
        """Move laterally; returns on arrival, which is read back."""
        self._who()
        here_x, here_y = self._place or self._read_place(newest=False)
        length = math.hypot(x_m - here_x, y_m - here_y)
        self._panel.ensure(MOVE_SPEED, speed_m_s=speed_m_s, custom_speed=True)
        self._place = None
        self._ask(
            "FolMe.XYPosSet",
            answer_s=GRACE_S + 1.5 * self._wall_s(length / speed_m_s),
            x_m=x_m,
            y_m=y_m,
            wait=True,
        )
        off = math.inf
        for newest in (False, True):
            there_x, there_y = self._read_place(newest)
            off = math.hypot(there_x - x_m, there_y - y_m)
            if off <= ARRIVED_M:
                self._place = (there_x, there_y)
                return
        raise DriverError(
            f"the tip was sent to ({x_m * 1e9:.3f}, {y_m * 1e9:.3f}) nm and is at ({there_x * 1e9:.3f}, "
            f"{there_y * 1e9:.3f}) nm, {format_quantity(off, 'm')} away.",
            "See who else moves it.",
        )

    def sweep(self, recipe: SpectrumRecipe) -> SweepData:
        """One bias spectrum at the present position; stabilised before by the caller.

        Raises:
            DriverError: also when it was stopped or the tip was withdrawn meanwhile.
        """
        who = self._who()
        self._open_windows()
        sweeps.configure(self._panel, who.signals, recipe)
        x_m, y_m = self._read_place(newest=False)
        z = self._ask("ZCtrl.ZPosGet", answer_s=GRACE_S)["z_position_m"]
        began = self._clock.now()
        with self._trip.resting(self._panel):
            bias, channels, saturated = self._swept(recipe)
        self._await_release()
        return SweepData(
            bias_v=bias,
            channels=channels,
            x_m=x_m,
            y_m=y_m,
            z_m=z,
            time_s=began,
            saturated=saturated,
        )

    def frame(self, recipe: Frame) -> Iterator[FrameLines]:
        """Scan; yields lines as they are complete.  Closing the iterator stops the scan."""
        who = self._who()
        self._place = None
        places = frames.configure(self._panel, who.signals, recipe, measurement_name(self._job))
        pause = frames.look_s(who.simulated)
        travel = self._panel.read(MOVE_SPEED)["speed_m_s"]  # at whose speed it goes there is not told
        reach = frames.reach_s(recipe, *self._read_place(newest=False), [travel])
        live = frames.LiveFrame(self._ask, self._stop_scan, self._clock, recipe, places, pause, reach)
        yield from live.lines()
        frames.require_unmoved(self._panel, recipe)

    def pulse(self, bias_v: float, width_s: float, hold_z: bool) -> None:
        """One bias pulse; the bias is read back afterwards."""
        self._who()
        before = float(self._ask("Bias.Get")["bias_v"])
        with self._trip.resting(self._panel):
            self._ask(
                "Bias.Pulse",
                answer_s=GRACE_S + 1.5 * self._wall_s(width_s),
                wait=True,
                width_s=width_s,
                bias_v=bias_v,
                z_hold=hold_z,
                absolute_relative="absolute",
            )
        self._require_taken("Bias.Pulse", "V", before, self._ask("Bias.Get")["bias_v"])

    def indent(self, depth_m: float, bias_v: float, dwell_s: float) -> None:
        """Controlled contact: the tip shaper, down by the depth, wait, up again."""
        self._who()
        speed = 20e-9
        lift_s = max(depth_m / speed, 0.01)
        self._panel.ensure(
            TIP_SHAPER,
            switch_off_delay_s=0.05,
            change_bias=True,
            bias_v=bias_v,
            tip_lift_m=-depth_m,
            lift_time_1_s=lift_s,
            bias_lift_v=bias_v,
            bias_settling_time_s=dwell_s,
            lift_height_m=depth_m,
            lift_time_2_s=lift_s,
            end_wait_time_s=0.05,
            restore_feedback=True,
        )
        patience = GRACE_S + 1.5 * self._wall_s(dwell_s + 2.0 * lift_s + 0.2)
        with self._trip.resting(self._panel):
            self._ask("TipShaper.Start", answer_s=patience + 1.0, wait=True, timeout_ms=timeout_ms(patience))

    # -- inside ----------------------------------------------------------------------------------------------

    def _require_no_withdrawal(self) -> None:
        """Nobody is withdrawing the tip: not a person, not the guard, not the electronics themselves.

        Raises:
            DriverError: it is on its way up.
        """
        status = self._ask("ZCtrl.StatusGet")["status"]
        if status == "withdrawing" or (status == "safe tip" and not self.state().withdrawn):
            raise DriverError(
                f"the Z-controller is not switched on: the tip is being withdrawn ({status}).",
                "Park, then engage.",
            )

    def _await_release(self) -> None:
        """The controller's status comes a little later than a sweep's data."""
        until = time.monotonic() + RELEASE_S
        while self._ask("ZCtrl.StatusGet")["status"] == "hold" and time.monotonic() < until:
            time.sleep(LOOK_S)  # what is still held after this is seen by who reads next

    def _await_room_below_trip(self, setpoint_a: float) -> None:
        """Wait, within reason, until a current that the setpoint before allowed has come down."""
        until = time.monotonic() + FOLLOW_S
        while self._trip.armed and time.monotonic() < until:
            current = float(self._ask("Current.Get", answer_s=SIGNALS_S)["current_a"])
            if self._trip.leaves_room(setpoint_a, current):
                return
            self._clock.wait(LOOK_S)

    def _require_taken(self, command: str, unit: str, asked: float, got: float) -> None:
        if not same("f", asked, got):
            raise DriverError(
                f"{self._commands.link}: {command} was asked for {format_quantity(asked, unit, 6)} and reads "
                f"back as {format_quantity(got, unit, 6)}.",
                "Ask for what the electronics can do, or see who else sets it.",
                asked=asked,
                got=got,
            )

    def _swept(self, recipe: SpectrumRecipe) -> tuple[Any, Any, bool]:
        """The sweep's data; one by one where several come back as their average."""
        rail = self._trip.rail_a
        if recipe.repeats == 1 or not self._one_by_one:
            try:
                return sweeps.spectrum(self._start(recipe), recipe, rail)
            except sweeps.AveragesOnlyError as averaged:
                log.warning("repeats are measured one by one", why=averaged.text)
                self._one_by_one = True
        return self._one_after_the_other(recipe, rail)

    def _one_after_the_other(self, recipe: SpectrumRecipe, rail_a: float) -> tuple[Any, Any, bool]:
        single = sweeps.single(recipe)
        sweeps.configure(self._panel, self._who().signals, single)
        found = [sweeps.spectrum(self._start(single), single, rail_a) for _ in range(recipe.repeats)]
        return found[0][0], sweeps.together([f[1] for f in found]), any(f[2] for f in found)

    def _start(self, recipe: SpectrumRecipe) -> dict[str, Any]:
        """Carry the sweep out; one that does not come back is stopped.

        Raises:
            DriverError: no answer in time, or none at all.
        """
        patience = GRACE_S + 1.5 * self._wall_s(sweeps.expected_s(recipe))
        try:
            return self._ask(
                "BiasSpectr.Start", answer_s=patience, get_data=True, basename=measurement_name(self._job)
            )
        except DriverError as problem:
            if problem.details.get("outcome") == "unknown":
                self._stop_sweep()
            raise

    def _stop_sweep(self) -> None:
        try:
            self._urgent.ask("BiasSpectr.Stop", answer_s=STOP_ANSWER_S, repeat=True)
        except DriverError as problem:
            log.warning("a sweep that does not answer cannot be stopped", problem=str(problem))

    def _stop_scan(self) -> None:
        self._urgent.ask("Scan.Action", answer_s=STOP_ANSWER_S, repeat=True, action="stop", direction="up")
