"""The instruments: PyMeasure's drivers behind checks.

Every reading ends with ``*IDN?``: its answer is the next line if and only if as many answers came as
questions were asked.  So a reading in which a late reply took the place of an
answer is an error, not a number, unless another answer of the same reading was lost on the way.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymeasure.instruments.lakeshore import LakeShore3xx
from pymeasure.instruments.srs import SR830

from actors.gateway.drivers.serial.adapter import CarefulSerialAdapter
from actors.gateway.drivers.serial.ports import find_port, open_port
from protocols.errors import ConfigError, DriverError
from protocols.files.quantities import format_quantity
from protocols.instrument.auxiliary import (
    MODELS,
    SR830_AMPLITUDE_STEP_V,
    AuxiliaryInstrument,
    Model,
    Quantity,
)
from protocols.messages.auxiliary import AuxiliaryReading, AuxiliaryValue
from protocols.messages.campaign import AuxiliarySection

INTERNAL_REFERENCE = "Internal"
LOCKIN_NOTES = {1: "input overload", 2: "filter overload", 4: "output overload", 8: "reference unlocked"}
"""Bits of LIAS? (SR830 manual, 5-23)."""
TEMPERATURE_NOTES = {
    1: "invalid reading",
    16: "temperature under range",
    32: "temperature over range",
    64: "sensor units zero",
    128: "sensor units over range",
}
"""Bits of RDGST? (Lake Shore 335 and 336 manuals, chapter 6)."""
FREQUENCY_TOLERANCE = 6e-5
"""The SR830 keeps five digits of a frequency, or 0.1 mHz."""
_NO_ANSWER = (ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What PyMeasure raises on a text that it cannot make a value of."""


class InstrumentSettingsError(DriverError):
    """A setting was not taken as it was given, or is no longer what it was."""

    code = "auxiliary-settings"


def open_instrument(section: AuxiliarySection, state: Path) -> AuxiliaryInstrument:
    """Find the port, open it, identify the instrument, set it and read the settings back.

    Raises:
        ConfigError: no such port, or another instrument is there.
        LinkLostError, DeadlineError, DriverError: it cannot be had, is silent, or takes no settings.
    """
    path = find_port(section, state)
    connection = open_port(section, path)
    adapter = careful_adapter(section, connection, path)
    try:
        return instrument_on(section, adapter)
    except BaseException:
        adapter.close()
        raise


def careful_adapter(
    section: AuxiliarySection, connection: Any, path: str, **tools: Any
) -> CarefulSerialAdapter:
    """The adapter for a model; ``tools``: clock and pause, for tests."""
    model = MODELS[section.model]
    return CarefulSerialAdapter(
        connection,
        instrument=f"{section.name} ({model.title})",
        port=path,
        write_termination=model.write_termination,
        read_termination=model.read_termination,
        timeout_s=section.timeout_s,
        **{"pace_s": model.pace_s, **tools},
    )


def instrument_on(section: AuxiliarySection, adapter: CarefulSerialAdapter) -> SerialInstrument:
    """The instrument at the end of an adapter, identified and set.

    Raises:
        ConfigError, DeadlineError, DriverError, LinkLostError: as ``open_instrument``.
    """
    kind = LockInAmplifier if section.model == "sr830" else TemperatureController
    return kind(section, adapter)


class SerialInstrument(ABC):
    """What all have in common: identity, order, ranges, the seal of a reading."""

    def __init__(
        self, section: AuxiliarySection, adapter: CarefulSerialAdapter, wall: Callable[[], float] = time.time
    ) -> None:
        self.section, self.adapter = section, adapter
        self.model: Model = MODELS[section.model]
        self.port = adapter.port
        self.identity = ""
        self.settings: dict[str, float] = {}
        self._wall = wall
        self.driver: Any = self._make_driver()
        self.adapter.in_doubt = (
            "just opened"  # whoever had the port before may have left an answer on its way
        )
        self._put_in_order()
        self.settings = self._apply()
        self._seal()

    @property
    def strays(self) -> int:
        """Bytes that came when none were expected."""
        return self.adapter.strays

    def read(self) -> AuxiliaryReading:
        """One reading; see ``AuxiliaryInstrument``."""
        if self.adapter.in_doubt:
            self._put_in_order()
        wall_s = self._wall()
        values, note = self._read_values()
        self._seal()
        named = {q.name: q for q in self.model.channels}
        for name, value in values.items():
            self._check_range(named[name], value)
        self._check_settings(values)
        reading = AuxiliaryReading(
            instrument=self.section.name,
            wall_s=wall_s,
            values=tuple(
                AuxiliaryValue(quantity=name, value=value, unit=named[name].unit)
                for name, value in values.items()
            ),
            note=note,
        )
        self.adapter.last_reading = reading_words(reading)
        return reading

    def close(self) -> None:
        """Let go of the port."""
        self.adapter.close()

    # ---- what differs ----

    @abstractmethod
    def _make_driver(self) -> Any: ...

    def _greet(self) -> None:  # noqa: B027  (most need nothing)
        """Anything to be said before ``*IDN?``."""

    def _apply(self) -> dict[str, float]:
        """Set what the campaign sets and read it back."""
        return {}

    @abstractmethod
    def _read_values(self) -> tuple[dict[str, float], str]:
        """Value by channel, and what the instrument says of them."""

    # ---- order ----

    def _put_in_order(self) -> None:
        """Drain the line, then ask who is there."""
        self.adapter.recover()
        self._greet()
        said = self._identify()
        if not self.identity:
            if self.model.identity.fullmatch(said) is None:
                raise ConfigError(
                    f"at {self.port} answers {said!r}, which is no {self.model.title} ({self.section.name}).",
                    "Check model and port of this instrument.",
                )
            self.identity = said
        elif said != self.identity:
            self.adapter.doubt(f"the instrument now says it is {said!r}, not {self.identity!r}", said)

    def _identify(self) -> str:
        return str(self.driver.ask("*IDN?")).strip()

    def _seal(self) -> None:
        """The identity must be the next line: then every answer before it belonged to its question."""
        said = self._identify()
        if said != self.identity:
            self.adapter.doubt(
                "an answer came too many: not the identity but an answer to something else", said
            )

    # ---- values ----

    def _number(self, what: str, ask: Callable[[], Any]) -> float:
        """A value of PyMeasure's as a number; it hands out texts and lists where it found none."""
        try:
            value = ask()
        except _NO_ANSWER as odd:
            self.adapter.doubt(f"no {what} can be read from the answer: {odd}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.adapter.doubt(f"the answer is no {what}", str(value))
        return float(value)

    def _check_range(self, quantity: Quantity, value: float) -> None:
        if not quantity.plausible(value):
            self.adapter.doubt(
                f"{quantity.name} = {value:g} {quantity.unit} is outside what the instrument can give "
                f"({quantity.low:g} to {quantity.high:g} {quantity.unit})",
                str(value),
            )

    def _check_settings(self, values: dict[str, float]) -> None:
        for name, value in self.settings.items():
            if name in values and not _same(name, value, values[name]):
                unit = next(q.unit for q in self.model.channels if q.name == name)
                raise InstrumentSettingsError(
                    f"{self.section.name}: {name} is {format_quantity(values[name], unit)}, not the "
                    f"{format_quantity(value, unit)} that the campaign has set: somebody changed it.",
                    "Set it back at the instrument.",
                    instrument=self.section.name,
                    quantity=name,
                )


class LockInAmplifier(SerialInstrument):
    """SR830: X and Y at one instant, with the settings they were taken at."""

    def _make_driver(self) -> Any:
        return SR830(self.adapter)

    def _greet(self) -> None:
        self.driver.write("OUTX 0")  # answers go to the RS232 port

    def _apply(self) -> dict[str, float]:
        section, driver = self.section, self.driver
        wanted: dict[str, float] = {}
        if section.frequency_hz is not None:
            self._require_internal_reference()
            wanted["frequency"] = driver.frequency = section.frequency_hz
        if section.amplitude_v is not None:
            wanted["amplitude"] = driver.sine_voltage = section.amplitude_v
        if section.time_constant_s is not None:
            wanted["time_constant"] = driver.time_constant = section.time_constant_s
        found = {name: self._setting(name) for name in wanted}
        for name, value in wanted.items():
            if not _same(name, value, found[name]):
                unit = next(q.unit for q in self.model.channels if q.name == name)
                raise InstrumentSettingsError(
                    f"{section.name}: {name} was set to {format_quantity(value, unit)} and is "
                    f"{format_quantity(found[name], unit)}.",
                    "The SR830 takes amplitudes in steps of 2 mV, frequencies with five digits, and long "
                    "time constants only below 200 Hz.",
                    instrument=section.name,
                    quantity=name,
                )
        return found

    def _require_internal_reference(self) -> None:
        try:
            source = self.driver.reference_source
        except _NO_ANSWER as odd:
            self.adapter.doubt(f"no reference source can be read from the answer: {odd}")
        if source != INTERNAL_REFERENCE:
            raise InstrumentSettingsError(
                f"{self.section.name}: its reference is external, so no frequency can be set.",
                "Set SOURCE to INTERNAL at the instrument, or leave 'frequency' out.",
            )

    def _setting(self, name: str) -> float:
        attribute = {"amplitude": "sine_voltage"}.get(name, name)
        return self._number(name, lambda: getattr(self.driver, attribute))

    def _read_values(self) -> tuple[dict[str, float], str]:
        try:
            pair = self.driver.snap("x", "y")
        except _NO_ANSWER as odd:
            self.adapter.doubt(f"no x and y can be read from the answer: {odd}")
        if len(pair) != 2:
            self.adapter.doubt("the answer is not x and y", str(pair))
        x, y = pair
        values = {"x": self._number("x", lambda: x), "y": self._number("y", lambda: y)}
        values |= {name: self._setting(name) for name in ("amplitude", "frequency", "time_constant")}
        bits = int(self._number("status", lambda: int(self.driver.ask("LIAS?"))))
        return values, _notes(bits, LOCKIN_NOTES)


class TemperatureController(SerialInstrument):
    """Lake Shore 335 or 336: the temperature of each input that is wanted, if the input says it is valid."""

    def _make_driver(self) -> Any:
        return LakeShore3xx(self.adapter)

    def _read_values(self) -> tuple[dict[str, float], str]:
        values = {}
        for quantity in self.model.quantities(self.section):
            name = quantity.name
            # A reading that is none is 0 K or the last one: the status says so, the number does not.
            bits = int(self._number("status", lambda n=name: int(self.driver.ask(f"RDGST? {n}"))))  # type: ignore[misc]
            if bits:
                raise DriverError(
                    f"{self.section.name} at {self.port}: input {name} gives no temperature: "
                    f"{_notes(bits, TEMPERATURE_NOTES) or f'status {bits}'}; last reading: "
                    f"{self.adapter.last_reading}.",
                    "Look at the sensor and its cable.",
                    instrument=self.section.name,
                    port=self.port,
                )
            channel = getattr(self.driver, f"input_{name}")
            values[name] = self._number("temperature", lambda c=channel: c.kelvin)  # type: ignore[misc]
        return values, ""


def reading_words(reading: AuxiliaryReading) -> str:
    """A reading in words: "A 4.213 K"."""
    parts = [f"{v.quantity} {format_quantity(v.value, v.unit)}" for v in reading.values]
    return ", ".join(parts) + (f" ({reading.note})" if reading.note else "")


def _notes(bits: int, meanings: dict[int, str]) -> str:
    return ", ".join(text for bit, text in meanings.items() if bits & bit)


def _same(name: str, wanted: float, found: float) -> bool:
    match name:
        case "amplitude":
            return abs(found - wanted) < 0.25 * SR830_AMPLITUDE_STEP_V
        case "frequency":
            return abs(found - wanted) <= max(1e-4, FREQUENCY_TOLERANCE * abs(wanted))
        case _:
            return math.isclose(found, wanted, rel_tol=1e-6)
