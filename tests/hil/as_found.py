"""The electronics' settings as the tests found them: read before, compared after, set again if need be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Set
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from actors.gateway.drivers import open_driver
from actors.gateway.drivers.nanonis import driver as nanonis
from actors.gateway.drivers.nanonis import frames, lockin, sweeps, trip
from actors.gateway.drivers.nanonis.channel import Channel
from actors.gateway.drivers.nanonis.link import Link
from actors.gateway.drivers.nanonis.panel import Panel, Setting
from protocols.errors import DriverError, TunnelpilotError
from protocols.files.limits_toml import Limits
from protocols.files.state_directory import write_durably
from protocols.instrument.driver import Driver, LentSettings
from protocols.messages.data import InstrumentState
from protocols.nanonis.address import parse_address
from tests.hil.electronics import Electronics

Settings = dict[str, Any]
"""By name; what the electronics refuse to tell is "not available"."""

NOT_AVAILABLE = "not available"
BIAS, SETPOINT, X, Y, LOCKIN = "bias (V)", "setpoint (A)", "x (m)", "y (m)", "modulation on"
OURS = (BIAS, SETPOINT, X, Y, nanonis.SETPOINT.key)
"""What no gateway gives back: a parked tip rests at the limits' bias and stays where it is."""

ONLY_READ = (
    "ZCtrl.GainGet",
    "ZCtrl.LimitsEnabledGet",
    "ZCtrl.LimitsGet",
    "ZCtrl.SwitchOffDelayGet",
    "ZCtrl.TipLiftGet",
    "ZCtrl.WithdrawRateGet",
    "ZCtrl.HomePropsGet",
    "Bias.RangeGet",
    "Bias.CalibrGet",
    "Current.GainsGet",
    "Piezo.RangeGet",
    "Piezo.TiltGet",
    "Piezo.DriftCompGet",
)
"""Nothing of ours may ever change these."""

MOTOR = "Motor.StepCounter"
"""Read only, and changed only where that was allowed."""
MODULES: tuple[ModuleType, ...] = (nanonis, frames, sweeps, lockin, trip)
"""Every setting that the driver touches is a ``Setting`` of one of these."""

RELATIVE = 1e-5


class Reader(Protocol):
    """Settings beyond those that every driver tells."""

    def settings(self) -> Settings:
        """All of them, read now."""

    def set_again(self, name: str, value: Any) -> None:
        """Give one its value back.

        Raises:
            TunnelpilotError: it cannot be.
        """

    def close(self) -> None:
        """Let go of the electronics."""


class NoReader:
    """Electronics of which we know the ``Driver`` alone."""

    def settings(self) -> Settings:
        """None."""
        return {}

    def set_again(self, name: str, value: Any) -> None:
        """There is none."""
        raise DriverError(f"{name} cannot be set.")

    def close(self) -> None:
        """Nothing to let go of."""


class NanonisReader:
    """The panels of Nanonis electronics, over the third port: the driver here uses the first two."""

    def __init__(self, endpoint: str, release: int | None = None) -> None:
        address = parse_address(endpoint)
        self._channel = Channel(Link(address.host, address.ports[2], "settings as found"))
        if release or address.release:
            self._channel.release = release or address.release or 0
        self._panel = Panel(self._channel)

    def settings(self) -> Settings:
        """Everything that the driver may change, and what nobody of ours may."""
        found: Settings = {}
        for setting in driver_settings():
            found[setting.key] = self._read(f"{setting.stem}Get", **setting.device)
        for name in ONLY_READ:
            found[name.removesuffix("Get")] = self._read(name)
        found[MOTOR] = self._read(f"{MOTOR}Get", reset_x=False, reset_y=False, reset_z=False)
        return found

    def set_again(self, name: str, value: Any) -> None:
        """Through the driver's own panel, which reads back."""
        setting = next((s for s in driver_settings() if s.key == name), None)
        if setting is None or not isinstance(value, dict):
            raise DriverError(f"{name} is not ours to set.", "Set it at the electronics.")
        known = self._channel.table[f"{setting.stem}Set"].arguments.names
        wanted = {k: v for k, v in value.items() if k in known and k not in setting.device}
        self._panel.ensure(setting, kept=False, **wanted)

    def close(self) -> None:
        """Free the port."""
        self._channel.link.close()

    def _read(self, name: str, **arguments: Any) -> Any:
        try:
            return {k: plain(v) for k, v in self._channel.ask(name, **arguments).items()}
        except DriverError as problem:
            if problem.details.get("outcome") in ("refused", "not sent") and self._channel.link.free:
                return NOT_AVAILABLE
            raise


def driver_settings() -> Iterator[Setting]:
    """Every setting that the Nanonis driver changes, once."""
    seen = set()
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, Setting) and value.key not in seen:
                seen.add(value.key)
                yield value


class AsFound:
    """A hold on the electronics beside the gateway: only while no gateway runs, for it takes the ports.

    ``state``: a directory of its own; the settings are written there before anything is touched, and are
    those of an earlier run that was killed if they are there already.
    """

    def __init__(self, electronics: Electronics, state: Path) -> None:
        self._electronics = electronics
        self._path = state / "as_found.json"
        self.driver: Driver = open_driver(
            electronics.driver, state / "as_found", electronics.endpoint, "worker"
        )
        self._reader: Reader = NoReader()
        if electronics.driver == "nanonis":
            self._reader = NanonisReader(electronics.endpoint)
            self._open_windows()

    def read(self) -> Settings:
        """All settings now."""
        state = self.driver.state()
        return {
            BIAS: state.bias_v,
            SETPOINT: state.setpoint_a,
            X: state.x_m,
            Y: state.y_m,
            LOCKIN: state.lockin_on,
            **self._reader.settings(),
        }

    @property
    def interrupted(self) -> bool:
        """Whether an earlier run was ended before it could set everything again."""
        return self._path.exists()

    def remember(self) -> Settings:
        """The settings that are to be there in the end, on disk from now on."""
        if self.interrupted:
            kept: Settings = json.loads(self._path.read_bytes())
            return kept
        found = self.read()
        write_durably(self._path, json.dumps(found, indent=1).encode())
        return found

    def forget(self) -> None:
        """Everything is as it was."""
        self._path.unlink(missing_ok=True)

    def state(self) -> InstrumentState:
        """One reading."""
        return self.driver.state()

    def restore_ours(self, wanted: Settings, limits: Limits) -> None:
        """Bias, setpoint and place, which a park changes or leaves; only while withdrawn.

        Raises:
            TunnelpilotError: the tip is not withdrawn, or a value was not taken.
        """
        state = self.require_withdrawn()
        self.driver.set_bias(float(wanted[BIAS]), limits.bias_slew)
        self.driver.set_setpoint(float(wanted[SETPOINT]))
        if math.hypot(state.x_m - wanted[X], state.y_m - wanted[Y]) > limits.position_tolerance:
            self.driver.move(float(wanted[X]), float(wanted[Y]), limits.tip_speed)
        if isinstance(self.driver, LentSettings):
            problems = self.driver.restore_settings()  # of the move
            if problems:
                raise DriverError(f"not set again: {'; '.join(problems)}.")

    def restore(self, wanted: Settings, names: tuple[str, ...]) -> tuple[str, ...]:
        """Set others again, while withdrawn; what went wrong, in words."""
        self.require_withdrawn()
        problems = []
        for name in names:
            try:
                self._reader.set_again(name, wanted[name])
            except TunnelpilotError as problem:
                problems.append(f"{name}: {problem}")
        return tuple(problems)

    def require_withdrawn(self) -> InstrumentState:
        """The present reading.

        Raises:
            DriverError: the tip is not withdrawn with the controller off.
        """
        state = self.driver.state()
        if state.feedback or not state.withdrawn:
            raise DriverError(
                f"the tip is not withdrawn (Z-controller {'on' if state.feedback else 'off'}, z = "
                f"{state.z_m:.3e} m).",
                "Withdraw it at the electronics, then begin again: the tests leave it withdrawn.",
            )
        return state

    def close_reader(self) -> None:
        """Free the port over which settings are read, for somebody else."""
        self._reader.close()
        self._reader = NoReader()

    def close(self) -> None:
        """Free the ports."""
        self._reader.close()
        self.driver.close()

    def _open_windows(self) -> None:
        """As the driver will: what is behind a closed window cannot be read."""
        channel = getattr(self._reader, "_channel", None)
        if isinstance(channel, Channel):
            for name in nanonis.WINDOWS:
                channel.ask(name)


def differences(
    wanted: Settings, found: Settings, limits: Limits, but: Set[str] = frozenset()
) -> dict[str, str]:
    """What is not as it was: name and "was ..., is ..."; ``but`` names what may be."""
    tolerance = {BIAS: limits.bias_tolerance, X: limits.position_tolerance, Y: limits.position_tolerance}
    return {
        name: f"was {wanted[name]}, is {found.get(name, NOT_AVAILABLE)}"
        for name in wanted
        if name not in but
        and not alike(wanted[name], found.get(name, NOT_AVAILABLE), tolerance.get(name, 0.0))
    }


def alike(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two readings of a setting are the same, as far as float32 and rounding to a grid go."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(alike(a[k], b.get(k)) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        try:
            x, y = float(a), float(b)
        except (TypeError, ValueError):
            return False
        same = (math.isnan(x) and math.isnan(y)) or x == y
        return same or abs(x - y) <= max(tolerance, RELATIVE * max(abs(x), abs(y)))
    return bool(a == b)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
