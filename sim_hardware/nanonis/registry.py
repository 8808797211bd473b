"""The commands that the door carries out: handlers, and pairs of Set and Get that are plain settings.

A handler gets a ``Call`` and the arguments of its command by name, as they are meant (``codings``): a switch
is a bool, None is "leave it as it is".  It returns nothing, the one value of its result, a tuple of values in
order, or values by name (names that the release's layout lacks are left out).

A ``Settings`` is data: what a pair of commands keeps, with its first values and limits.  Others read it with
``Instrument.setting``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from protocols.errors import DriverError
from protocols.nanonis.commands import RELEASE, table

if TYPE_CHECKING:
    from sim_hardware.nanonis.calls import Call
    from sim_hardware.nanonis.instrument import Instrument

Handler: TypeAlias = Callable[..., Any]
_H = TypeVar("_H", bound=Handler)
Checked: TypeAlias = Callable[["Instrument", dict[str, Any]], dict[str, Any]]
Changed: TypeAlias = Callable[["Instrument", Mapping[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """One pair of commands that keeps values.

    ``stem`` is their name without Set or Get, ``first`` the values at the start by field name.
    """

    stem: str
    first: Mapping[str, Any]
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value; beyond them the command is refused."""
    index: str = ""
    """Field that says which of several devices is meant; each keeps its own values."""
    indices: range = range(1)
    choices: Mapping[str, int] = field(default_factory=dict)
    """Fields that are a place in a list, with its length."""
    check: Checked | None = None
    """Gets the new values before they are kept; returns them as they are kept, or raises."""
    changed: Changed | None = None
    """Called with the kept values after they were set."""
    more: Changed | Callable[[Instrument, dict[str, Any]], dict[str, Any]] | None = None
    """Adds to the values what only Get tells."""


class Registry:
    """All handlers, by command in lower case."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self.settings: dict[str, Settings] = {}

    def command(self, name: str) -> Callable[[_H], _H]:
        """Register the handler of one command."""

        def keep(handler: _H) -> _H:
            self.add(name, handler)
            return handler

        return keep

    def add(self, name: str, handler: Handler) -> None:
        """Register a handler; the command must be in the table, and have none yet."""
        if name.lower() in self._handlers or name not in _known():
            raise ValueError(f"{name}: unknown, or twice")
        self._handlers[name.lower()] = handler

    def keep(self, *pairs: Settings) -> None:
        """Register pairs of Set and Get; where the table has only one of the two, that one."""
        for pair in pairs:
            self.settings[pair.stem] = pair
            if f"{pair.stem}Set" in _known() and f"{pair.stem}set".lower() not in self._handlers:
                self.add(f"{pair.stem}Set", _setter(pair))
            if f"{pair.stem}Get" in _known() and f"{pair.stem}get".lower() not in self._handlers:
                self.add(f"{pair.stem}Get", _getter(pair))

    def include(self, other: Registry) -> None:
        """Take over everything of another registry."""
        for name, handler in other._handlers.items():
            if name in self._handlers:
                raise ValueError(f"{name}: twice")
            self._handlers[name] = handler
        self.settings.update(other.settings)

    def find(self, name: str) -> Handler | None:
        """The handler of a command, or None."""
        return self._handlers.get(name.lower())

    def __len__(self) -> int:
        return len(self._handlers)

    def names(self) -> list[str]:
        """All commands that have a handler, as the table writes them."""
        return [name for name in _known() if name.lower() in self._handlers]


def no_zero(name: str) -> Checked:
    """A check for settings whose field ``name`` is divided by: 0 is refused, as no calibration."""

    def check(_lab: Instrument, values: dict[str, Any]) -> dict[str, Any]:
        if values[name] == 0.0:
            raise DriverError(f"a {name.replace('_', ' ')} of 0 is none.")
        return values

    return check


def _known() -> dict[str, None]:
    return dict.fromkeys(table(RELEASE))


def _place(pair: Settings, arguments: dict[str, Any]) -> int:
    """Which device is meant; taken out of the arguments."""
    if not pair.index:
        return 0
    index = int(arguments.pop(pair.index, pair.indices.start))
    if index not in pair.indices:
        raise DriverError(
            f"{pair.index.replace('_', ' ')} {index} is not in {pair.indices.start}..{pair.indices.stop - 1}"
        )
    return index


def _setter(pair: Settings) -> Handler:
    def set_values(call: Call, **arguments: Any) -> None:
        lab = call.lab
        place = _place(pair, arguments)
        with lab.lock:
            kept = lab.setting(pair.stem, place)
            given = {name: value for name, value in arguments.items() if not _is_no_change(value)}
            wanted = {**kept, **given}
            _check_limits(pair, given)
            if pair.check is not None:
                wanted = pair.check(lab, wanted)
            lab.store_setting(pair.stem, place, wanted)
        if pair.changed is not None:
            pair.changed(lab, {**wanted, pair.index: place} if pair.index else wanted)

    return set_values


def _getter(pair: Settings) -> Handler:
    def get_values(call: Call, **arguments: Any) -> dict[str, Any]:
        place = _place(pair, arguments)
        values = dict(call.lab.setting(pair.stem, place))
        if pair.more is not None:
            values.update(pair.more(call.lab, values) or {})
        return values

    return get_values


def _is_no_change(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_limits(pair: Settings, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        endless = isinstance(value, float) and math.isinf(value)
        if endless and pair.limits.get(name, (0.0, 0.0))[1] != math.inf:
            raise DriverError(f"{name.replace('_', ' ')} is not finite")
        if name in pair.limits:
            low, high = pair.limits[name]
            if not low <= value <= high:
                raise DriverError(f"{name.replace('_', ' ')} {value:g} is outside {low:g} to {high:g}")
        if name in pair.choices and not 0 <= value < pair.choices[name]:
            raise DriverError(f"{name.replace('_', ' ')} {value} is outside 0 to {pair.choices[name] - 1}")
