"""Numbers with their unit, as people write them: "12.5nm", "50 pA", "-1.5V", "1nm/s", "30deg".

A bare number is refused.  Units come from pint, one name at a time (a quotient has two); nothing is
evaluated.  pint is imported at the first quantity, not before: most commands of the console need none.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

from protocols.errors import ConfigError


@dataclass(frozen=True)
class Dimension:
    """What a quantity measures: its name in a sentence, its SI unit and an example of how to write it."""

    phrase: str
    unit: str
    example: str


DIMENSIONS: dict[str, Dimension] = {
    "length": Dimension("a length", "m", "12.5nm"),
    "current": Dimension("a current", "A", "50pA"),
    "voltage": Dimension("a voltage", "V", "-1.5V"),
    "time": Dimension("a time", "s", "2.5ms"),
    "frequency": Dimension("a frequency", "Hz", "973Hz"),
    "speed": Dimension("a speed", "m/s", "20nm/s"),
    "drift": Dimension("a drift velocity", "m/s", "50pm/s"),
    "slew": Dimension("a slew rate", "V/s", "5V/s"),
    "angle": Dimension("an angle", "rad", "30deg"),
    "temperature": Dimension("a temperature", "K", "4.2K"),
    "charge": Dimension("a charge", "C", "1fC"),
    "field": Dimension("a magnetic field", "T", "2T"),
}
"""Everything ``parse_quantity`` can be asked for (the last two so that errors can name what was given)."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
_UNIT_NAME = re.compile(r"[^\W\d_]{1,20}|[°]")
_ANGLES = frozenset({"radian", "degree"})
_BASES = _ANGLES | {
    "meter", "angstrom", "micron", "ampere", "volt", "second", "minute", "hour", "hertz",
    "coulomb", "tesla", "kelvin", "electron_volt", "siemens", "ohm", "watt", "gram",
}  # fmt: skip
"""pint's names of the units people use here; it knows more, such as px for a pixel of 1/96 inch."""

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


def parse_quantity(text: str, dimension: str) -> float:
    """The value of ``text`` in the SI unit of ``dimension`` (a key of DIMENSIONS).

    Raises:
        ConfigError: no number, no unit, an unknown unit, or the unit of another dimension; the text says what
            is needed and gives an example.
    """
    wanted = DIMENSIONS[dimension]
    needed = f"{wanted.phrase} is needed, for example '{wanted.example}'."
    shown = text if len(text) <= 40 else text[:37] + "..."
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ConfigError(f"'{shown}' is no number with a unit; {needed}")
    number, unit = match.groups()
    if unit.startswith(","):
        raise ConfigError(f"'{shown}' has a decimal comma; write a point. {needed[0].upper()}{needed[1:]}")
    if not unit:
        raise ConfigError(f"'{shown.strip()}' has no unit; {needed}")
    found = _unit(unit)
    if found is None:
        raise ConfigError(f"'{shown}' has the unknown unit '{unit[:20]}'; {needed}")
    given, factor = found
    if given != wanted.unit:
        raise ConfigError(f"'{shown}' is {_phrase_of(given)}; {needed}")
    value = _times(float(number), factor)
    if not math.isfinite(value):
        raise ConfigError(f"'{shown}' is too large a number; {needed}")
    return value


def format_quantity(value: float, unit: str, digits: int = 4) -> str:
    """``value`` (SI) with the prefix that suits it: ``format_quantity(1.25e-8, "m") == "12.5 nm"``.

    ``unit``: "m", "A", "V", "s", "Hz", "m/s", "V/s", ...; "rad" is shown in degrees, "" as a plain number.
    17 digits read back to the same number within a rounding or two.
    """
    if unit == "rad":
        return f"{math.degrees(value):.{digits}g} deg"
    if not unit:
        return f"{value:.{digits}g}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    exponent = _exponent(value)
    scaled = f"{_scaled(value, exponent):.{digits}g}"
    if abs(float(scaled)) >= 1000 and exponent + 3 in _PREFIXES:  # 999.96 rounds up to 1000
        exponent += 3
        scaled = f"{_scaled(value, exponent):.{digits}g}"
    return f"{scaled} {_PREFIXES[exponent]}{unit}"


def format_place(x_m: float, y_m: float) -> str:
    """Two coordinates in nm: "12.5 nm, -3.1 nm"."""
    return f"{x_m * 1e9:.4g} nm, {y_m * 1e9:.4g} nm"


def _exponent(value: float) -> int:
    exponent = 3 * math.floor(math.log10(abs(value)) / 3)
    return min(max(exponent, min(_PREFIXES)), max(_PREFIXES))


def _scaled(value: float, exponent: int) -> float:
    # A division by an exact power of ten rounds once; a product with 1e-9 would round twice.
    return value * 10.0**-exponent if exponent < 0 else value / 10.0**exponent


@functools.cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()


def _unit(text: str) -> tuple[str, float] | None:
    """(SI unit, factor to it), or None for an unknown unit."""
    numerator, slash, denominator = (part.strip() for part in text.partition("/"))
    if not _known(numerator) or (slash and (not _known(denominator) or _is_angle(denominator))):
        return None
    registry = _registry()
    if _is_angle(numerator):
        return None if slash else ("rad", _factor(registry.Unit(numerator), "rad"))
    unit = registry.Unit(numerator)
    if slash:
        unit = unit / registry.Unit(denominator)
    for dimension in DIMENSIONS.values():
        if dimension.unit != "rad" and unit.dimensionality == registry.Unit(dimension.unit).dimensionality:
            return dimension.unit, _factor(unit, dimension.unit)
    return text, 1.0


def _known(name: str) -> bool:
    if name == "°":
        return True
    if _UNIT_NAME.fullmatch(name) is None:
        return False
    return any(base in _BASES for _, base, _ in _registry().parse_unit_name(name))


def _is_angle(name: str) -> bool:
    return name == "°" or any(base in _ANGLES for _, base, _ in _registry().parse_unit_name(name))


def _factor(unit: Any, si: str) -> float:
    return float(_registry().Quantity(1.0, unit).to(si).magnitude)


def _times(number: float, factor: float) -> float:
    """The product, rounded once where the factor is one over a whole number: 12.5 nm is 1.25e-8 m exactly."""
    inverse = round(1 / factor) if factor < 1 else 0
    if inverse and math.isclose(inverse * factor, 1.0, rel_tol=1e-14):
        return number / inverse
    return number * factor


def _phrase_of(unit: str) -> str:
    for dimension in DIMENSIONS.values():
        if dimension.unit == unit:
            return dimension.phrase
    return f"a quantity in {unit}"
