"""One value of a campaign file: checked against its key, in SI units."""

from __future__ import annotations

import difflib
import re
from typing import Any

from protocols.errors import ConfigError
from protocols.files.campaign_keys import Key
from protocols.files.quantities import DIMENSIONS, parse_quantity

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""Of a campaign or an instrument."""


def key_value(key: Key, given: Any, table: dict[str, Any]) -> Any:
    """The field's value for what the file says; the ConfigError's text says what is wrong."""
    match key.kind:
        case "text":
            return _text(key, given)
        case "choice" | "seek":
            if not isinstance(given, str) or given not in key.choices:
                close = difflib.get_close_matches(str(given), key.choices, n=1, cutoff=0.6)
                hint = f'; did you mean "{close[0]}"?' if close else ""
                raise ConfigError(f"must be {key.allowed()}{hint}")
            return given if key.kind == "choice" else {"largest": 1, "smallest": -1}[given]
        case "switch":
            if not isinstance(given, bool):
                raise ConfigError("must be true or false, without quotes")
            return given
        case "whole":
            if isinstance(given, bool) or not isinstance(given, int):
                raise ConfigError(f"must be a whole number without quotes, {key.allowed()}")
            return in_range(key, given)
        case "number":
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise ConfigError(f"must be a plain number without unit or quotes, {key.allowed()}")
            return in_range(key, float(given))
        case "quantity":
            return in_range(key, quantity(given, key.dimension))
        case "threshold":
            dimension = "current" if table.get("channel") == "current" else "voltage"
            return in_range(key, quantity(given, dimension))
        case "interval":
            if not isinstance(given, list) or len(given) != 2:
                raise ConfigError(f"must be two values, for example {key.example}")
            low, high = (in_range(key, quantity(item, key.dimension)) for item in given)
            if not low < high:
                raise ConfigError("the first value must be below the second")
            return (low, high)
        case "names":
            if not isinstance(given, list) or not given or not all(item in key.choices for item in given):
                raise ConfigError(f"must be a list of {key.allowed()}, for example {key.example}")
            return tuple(dict.fromkeys(given))
        case "lengths":
            if not isinstance(given, list) or not given:
                raise ConfigError(f"must be a list, for example {key.example}")
            return tuple(in_range(key, quantity(item, key.dimension)) for item in given)


def _text(key: Key, given: Any) -> str:
    if not isinstance(given, str):
        raise ConfigError("must be a text in quotes")
    if key.name == "name" and NAME.fullmatch(given) is None:
        raise ConfigError("must be letters, digits, - and _, at most 40, beginning with a letter or digit")
    return given


def quantity(given: Any, dimension: str) -> float:
    """A quantity with its unit, in the dimension's SI unit."""
    if isinstance(given, str):
        return parse_quantity(given, dimension)
    wanted = DIMENSIONS[dimension]
    raise ConfigError(f'has no unit; {wanted.phrase} is needed, in quotes, for example "{wanted.example}"')


def in_range(key: Key, value: float) -> float:
    """The value, if the key allows it."""
    if not key.low <= value <= key.high or (key.above_zero and value == 0):  # also refuses NaN
        raise ConfigError(f"is out of range (allowed: {key.allowed()})")
    return value
