"""The command table: every documented command with its arguments, its result and their changes over releases.

The table itself is the file ``commands.tsv``.  ``table(release)`` is what one release understands; a command
is found whatever the case of its letters.  Where the electronics' release lies between two known ones, the
layouts of the older one hold until the release that is said to have changed them.
"""

from __future__ import annotations

import enum
import functools
import importlib.resources
from collections.abc import Iterator
from typing import Any

import msgspec

from protocols.errors import MalformedMessageError, UnknownMessageError
from protocols.nanonis.layouts import Layout, parse
from protocols.nanonis.types import Cursor, Value

RELEASE = 14718
"""The newest release whose layouts are known, and the one that our simulated electronics speak."""

KNOWN_RELEASES = (10862, 13742, RELEASE)
"""Releases all of whose commands are known."""


class Missing(enum.Enum):
    """What a server does with arguments that are missing at the end of a request."""

    REFUSE = "refuse"
    """All must be there."""
    OLDER_CLIENTS = "older clients"
    """Those may be missing that an older release did not have: public clients still write that way.  The same
    arguments in an older release's types are read too, if the body has exactly their size."""
    ZERO = "zero"
    """Any may be missing and counts as 0.  Beware: a Bias.Set without a body then sets 0 V."""


class Command(msgspec.Struct, frozen=True):
    """One command as one release understands it."""

    name: str
    arguments: Layout
    result: Layout
    required: int
    """How many argument fields every release has; the ones after them came later."""
    older_arguments: tuple[Layout, ...] = ()
    """Layouts in which older releases have the same arguments with other types."""
    other_results: tuple[Layout, ...] = ()
    """Layouts of the result in other releases, newest first."""

    @property
    def module(self) -> str:
        """The part of the electronics, for example "BiasSpectr"."""
        return self.name.partition(".")[0]

    def encode_arguments(self, *values: Any, **named: Any) -> bytes:
        """The body of a request, from values in order, by name, or both.

        Raises:
            UsageError: a value is missing, unknown, given twice or does not fit its field.
        """
        what = f"arguments of {self.name}"
        return self.arguments.encode(self.arguments.bind(values, named, what), what)

    def decode_arguments(self, body: bytes, missing: Missing = Missing.OLDER_CLIENTS) -> dict[str, Value]:
        """The arguments by name; surplus bytes at the end are ignored.

        Raises:
            MalformedMessageError: the body ends within an argument, or before one that is needed.
        """
        what = f"arguments of {self.name}"
        required = {Missing.REFUSE: None, Missing.OLDER_CLIENTS: self.required, Missing.ZERO: 0}[missing]
        try:
            return self.arguments.decode(body, what, required)
        except MalformedMessageError:
            for layout in () if missing is Missing.REFUSE else self.older_arguments:
                values = _decode_exactly(layout, body, what)
                if values is not None:
                    return values
            raise

    def encode_result(self, *values: Any, **named: Any) -> bytes:
        """The result's bytes (the error block, in ``replies``, comes after them).

        Raises:
            UsageError: as ``encode_arguments``.
        """
        what = f"result of {self.name}"
        return self.result.encode(self.result.bind(values, named, what), what)

    def decode_result(self, data: bytes | memoryview) -> dict[str, Value]:
        """The result by name from exactly its bytes, without the error block.

        Raises:
            MalformedMessageError: there are fewer or more bytes than the result has.
        """
        what = f"result of {self.name}"
        cursor = Cursor(data)
        values = self.result.take(cursor, what)
        if cursor.left:
            raise MalformedMessageError(f"{what}: {cursor.left} bytes too many.", surplus=cursor.left)
        return values


class CommandTable:
    """What one release understands, by name in any case; in the order of the vendor's manual."""

    def __init__(self, release: int, commands: tuple[Command, ...]) -> None:
        self.release = release
        self._commands = {command.name.lower(): command for command in commands}

    def __getitem__(self, name: str) -> Command:
        """The command of that name.

        Raises:
            UnknownMessageError: this release has none; ``details["kind"]`` is the name.
        """
        command = self.find(name)
        if command is None:
            raise UnknownMessageError(
                f"release {self.release} has no command {name[:40]!r}.",
                "Check the spelling, and the release of the Nanonis software.",
                kind=name,
                release=self.release,
            )
        return command

    def find(self, name: str) -> Command | None:
        """The command of that name, or None."""
        return self._commands.get(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._commands

    def __iter__(self) -> Iterator[str]:
        return (command.name for command in self._commands.values())

    def __len__(self) -> int:
        return len(self._commands)


class _Line(msgspec.Struct, frozen=True):
    """One line of the file: the layout of a command over a span of releases, both ends included."""

    name: str
    since: int
    until: int
    arguments: Layout
    result: Layout

    def holds_at(self, release: int) -> bool:
        return self.since <= release <= self.until


@functools.cache
def table(release: int = RELEASE) -> CommandTable:
    """What this release understands; releases newer than the known ones count as the newest."""
    by_name: dict[str, list[_Line]] = {}
    for line in _lines():
        by_name.setdefault(line.name, []).append(line)
    commands = []
    for name, lines in by_name.items():
        present = [line for line in lines if line.holds_at(release)]
        if present:
            line = present[-1]
            others = [other.result for other in reversed(lines) if other is not line]
            commands.append(
                Command(
                    name=name,
                    arguments=line.arguments,
                    result=line.result,
                    required=_required(line, lines),
                    older_arguments=_same_in_other_types(line, lines),
                    other_results=tuple(other for other in others if other != line.result),
                )
            )
    return CommandTable(release, tuple(commands))


def _required(line: _Line, lines: list[_Line]) -> int:
    """How many argument fields the shortest older layout has that this one only continues."""
    older = [other.arguments for other in lines if other.until < line.since]
    begun = [len(layout.fields) for layout in older if layout.is_beginning_of(line.arguments)]
    return min([*begun, len(line.arguments.fields)])


def _same_in_other_types(line: _Line, lines: list[_Line]) -> tuple[Layout, ...]:
    mine = line.arguments
    older = [other.arguments for other in lines if other.until < line.since]
    return tuple(layout for layout in reversed(older) if layout.names == mine.names and layout != mine)


def _decode_exactly(layout: Layout, body: bytes, what: str) -> dict[str, Value] | None:
    cursor = Cursor(body)
    try:
        values = layout.take(cursor, what)
    except MalformedMessageError:
        return None
    return None if cursor.left else values


@functools.cache
def _lines() -> tuple[_Line, ...]:
    text = importlib.resources.files("protocols.nanonis").joinpath("commands.tsv").read_text("ascii")
    found = []
    for row in text.splitlines():
        if row.startswith("#"):
            continue
        name, since, until, arguments, result = row.split("\t")
        found.append(_Line(name, int(since or 0), int(until or 2**31), parse(arguments), parse(result)))
    return tuple(found)
