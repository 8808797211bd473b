"""Settings that are read before they are written and read back afterwards.

A pair of commands ``XSet`` and ``XGet`` is a ``Setting``.  ``Panel.ensure`` writes only what differs, keeps
what was there before (``original``), reads back, and calls a value that was not taken as it was asked for an
error that names both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.gateway.drivers.nanonis.channel import Channel
from protocols.errors import DriverError, UsageError
from protocols.nanonis.codings import Choice, Keep, codings
from protocols.nanonis.types import as_read_back

ROUNDING = 1e-6
"""Relative difference that counts as the same number: float32 has 6e-8, and electronics reckon with it."""


@dataclass(frozen=True)
class Setting:
    """One pair of commands.  ``device``: fields that say which of several is meant, in both commands."""

    stem: str
    device: Mapping[str, Any] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    """Relative difference that is still the same, by field: what electronics round to their own grid."""

    @property
    def key(self) -> str:
        """Its name on disk, for example "LockIn.ModAmp" or "LockIn.ModAmp 1"."""
        return " ".join([self.stem, *map(str, self.device.values())])


class Panel:
    """The settings of electronics over one channel.

    ``keep`` hears what was there before a change; ``kept`` says whether it was told of a setting already.
    """

    def __init__(
        self,
        channel: Channel,
        keep: Callable[[Setting, Mapping[str, Any]], None] = lambda *_: None,
        kept: Callable[[Setting], bool] = lambda _: True,
    ) -> None:
        self.channel = channel
        self._keep, self._kept = keep, kept

    def read(self, setting: Setting) -> dict[str, Any]:
        """What is set now."""
        return self.channel.ask(f"{setting.stem}Get", **setting.device)

    def tells_all(self, setting: Setting) -> bool:
        """Whether every field that is set can be read, so that setting one does not lose another."""
        table = self.channel.table
        told = table[f"{setting.stem}Get"].result.names
        asked = table[f"{setting.stem}Set"].arguments.names
        return all(name in told or name in setting.device for name in asked)

    def remember(self, *settings: Setting) -> None:
        """Have these kept as they are now: changing one of them will change others of them too."""
        for setting in settings:
            if not self._kept(setting):
                self._keep(setting, self.read(setting))

    def ensure(self, setting: Setting, *, kept: bool = True, **wanted: Any) -> bool:
        """Have these values set; True if they were not already.  ``kept``: remember what was before.

        Raises:
            DriverError: another value came back than was asked for; the text names both.
        """
        found = self.read(setting)
        if not self._differences(setting, wanted, found):
            return False
        if kept:
            self._keep(setting, found)
        self.write(setting, found, wanted)
        back = self.read(setting)
        wrong = self._differences(setting, wanted, back)
        if wrong:
            told = "; ".join(
                f"{name} was asked to be {_text(want)} and is {_text(got)}" for name, want, got in wrong
            )
            raise DriverError(
                f"{self.channel.link}: {setting.stem} was not taken as it was asked for: {told}.",
                "Ask for what the electronics can do, or see who else sets it.",
                setting=setting.stem,
                asked={name: want for name, want, _ in wrong},
                got={name: got for name, _, got in wrong},
            )
        return True

    def changed(self, setting: Setting, **wanted: Any) -> list[str]:
        """What is not (any more) as it is wanted, in words."""
        return [
            f"{name} is {_text(got)} instead of {_text(want)}"
            for name, want, got in self._differences(setting, wanted, self.read(setting))
        ]

    def write(self, setting: Setting, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Set values; fields that are not wanted stay as they were ``found``.

        What can be read but not said (some answers have no counterpart in requests) is left as it is.
        """
        name = f"{setting.stem}Set"
        known = codings(name, self.channel.release)
        values: dict[str, Any] = {}
        for field_name in self.channel.table[name].arguments.names:
            if field_name in setting.device:
                continue
            coding = known.get(field_name)
            if field_name in wanted and _can_be_said(coding, wanted[field_name]):
                values[field_name] = wanted[field_name]
            elif isinstance(coding, Keep) or (isinstance(coding, Choice) and None in coding.in_request):
                values[field_name] = None
            else:
                values[field_name] = found.get(field_name, ())
        self.channel.ask(name, **setting.device, **values)

    def _differences(
        self, setting: Setting, wanted: Mapping[str, Any], found: Mapping[str, Any]
    ) -> list[tuple[str, Any, Any]]:
        """(field, asked, got) of what is not as it is wanted; what Get does not tell is left out."""
        arguments = self.channel.table[f"{setting.stem}Set"].arguments
        return [
            (name, want, found[name])
            for name, want in wanted.items()
            if want is not None
            and name in found
            and name in arguments.names
            and not same(arguments.field(name).code, want, found[name], setting.tolerance.get(name, ROUNDING))
        ]


def _can_be_said(coding: Choice | Keep | None, value: Any) -> bool:
    """Whether a request can carry this meaning."""
    try:
        if coding is not None:
            coding.code(value, answer=False, what="")
    except UsageError:
        return False
    return True


def same(code: str, asked: Any, got: Any, tolerance: float = ROUNDING) -> bool:
    """Whether a value that was read is the one that was asked for, as far as its code can carry it."""
    if code in ("f", "d") and not isinstance(asked, bool | str) and asked is not None:
        if not isinstance(got, int | float):
            return False
        sent = as_read_back(code, asked)
        return (math.isnan(sent) and math.isnan(got)) or math.isclose(sent, got, rel_tol=tolerance, abs_tol=0)
    if isinstance(asked, np.ndarray | list | tuple) and isinstance(got, np.ndarray | list | tuple):
        return list(asked) == list(got)
    return bool(asked == got)


def _text(value: Any) -> str:
    """A value for errors: numbers as precise as float32 is."""
    if isinstance(value, np.ndarray | list | tuple):
        return f"[{', '.join(_text(item) for item in value)}]"
    return f"{value:.7g}" if isinstance(value, float) else str(value)
