"""Layouts: the fields of a request's arguments or of a response's result, in order.

A layout is written as words separated by spaces: ``name:code`` is a field (codes in ``types``), ``n`` alone
is an int32 that counts the elements of the ``*`` fields that follow it.  A dash is the empty layout.
Names are ours: lower case with the unit at the end (``width_m``, ``timeout_ms``, ``angle_deg``).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from protocols.errors import UsageError
from protocols.nanonis import types
from protocols.nanonis.types import Cursor, Value

COUNT = "n"
"""The code of a count that several fields share; such a field has no name."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Field(msgspec.Struct, frozen=True):
    """One field: our name and its code."""

    name: str
    code: str


class Layout(msgspec.Struct, frozen=True):
    """Fields in the order of the wire."""

    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values, in order, without the shared counts."""
        return tuple(field.name for field in self.fields if field.code != COUNT)

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            UsageError: there is none.
        """
        for field in self.fields:
            if field.name == name and field.code != COUNT:
                return field
        raise UsageError(f"no field {name!r}; there are: {', '.join(self.names) or 'none'}.")

    def encode(self, values: Mapping[str, Any], what: str) -> bytes:
        """The values as bytes; ``what`` names the message in errors.

        Raises:
            UsageError: a value is missing, unknown, unfit, or arrays with a common count differ in length.
        """
        strange = sorted(set(values) - set(self.names))
        missing = [name for name in self.names if name not in values]
        if strange or missing:
            raise UsageError(
                f"{what}: "
                + "; ".join(
                    [f"{name} is not a field" for name in strange]
                    + [f"{name} is missing" for name in missing]
                )
                + f". Fields: {', '.join(self.names) or 'none'}."
            )
        pieces = []
        for place, field in enumerate(self.fields):
            if field.code == COUNT:
                pieces.append(struct.pack(">i", self._common_length(place, values, what)))
            else:
                pieces.append(types.encode(field.code, values[field.name], f"{what}, {field.name}"))
        return b"".join(pieces)

    def bind(self, positional: tuple[Any, ...], named: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Values by name, from values in order and values by name.

        Raises:
            UsageError: too many values, or one is given twice.
        """
        if len(positional) > len(self.names):
            raise UsageError(
                f"{what}: {len(positional)} values for {len(self.names)} fields"
                f" ({', '.join(self.names) or 'none'})."
            )
        values = dict(zip(self.names, positional, strict=False))
        twice = sorted(set(values) & set(named))
        if twice:
            raise UsageError(f"{what}: {', '.join(twice)} given twice.")
        return values | dict(named)

    def decode(self, data: bytes | memoryview, what: str, required: int | None = None) -> dict[str, Value]:
        """The values by name, in order; bytes after the last field are left alone.

        ``required`` fields must be there (all if None); later ones that are wholly absent get their zero.

        Raises:
            MalformedMessageError: the bytes end within a field or before a required one.
        """
        return self.take(Cursor(data), what, required)

    def take(self, cursor: Cursor, what: str, required: int | None = None) -> dict[str, Value]:
        """As ``decode``, from a cursor, which then stands behind the last field."""
        needed = len(self.fields) if required is None else required
        values: dict[str, Value] = {}
        count = 0
        for place, field in enumerate(self.fields):
            absent = cursor.left == 0 and place >= needed and not (types.is_counted(field.code) and count)
            if field.code == COUNT:
                count = 0 if absent else cursor.take_count(what)
            elif absent:
                values[field.name] = types.zero(field.code)
            else:
                values[field.name] = types.decode(field.code, cursor, f"{what}, {field.name}", count)
        return values

    def zeros(self) -> bytes:
        """The bytes of a result in which every number is 0 and nothing else has any content."""
        return self.encode(
            {field.name: types.zero(field.code) for field in self.fields if field.code != COUNT}, ""
        )

    def is_beginning_of(self, other: Layout) -> bool:
        """Whether the other layout only adds fields at the end."""
        return self.fields == other.fields[: len(self.fields)]

    def _common_length(self, place: int, values: Mapping[str, Any], what: str) -> int:
        lengths = {}
        for field in self.fields[place + 1 :]:
            if not types.is_counted(field.code):
                break
            lengths[field.name] = types.length(field.code, values[field.name], f"{what}, {field.name}")
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {number}" for name, number in lengths.items())
            raise UsageError(f"{what}: arrays with a common count differ in length: {told}.")
        return next(iter(lengths.values()))


EMPTY = Layout(())
"""No fields."""


def parse(text: str) -> Layout:
    """A layout from its written form.

    Raises:
        UsageError: unknown code, bad or repeated name, a counted field without a count, or the reverse.
    """
    if text == "-":
        return EMPTY
    fields: list[Field] = []
    for word in text.split():
        name, _, code = word.rpartition(":")
        code = COUNT if word == COUNT else code
        counted_before = bool(fields) and (fields[-1].code == COUNT or types.is_counted(fields[-1].code))
        if code != COUNT and (code not in types.CODES or not _NAME.fullmatch(name)):
            raise UsageError(f"layout {text!r}: {word!r} is no field.")
        if types.is_counted(code) and not counted_before:
            raise UsageError(f"layout {text!r}: {word!r} has no count before it.")
        if fields and fields[-1].code == COUNT and not types.is_counted(code):
            raise UsageError(f"layout {text!r}: a count is followed by {word!r}.")
        fields.append(Field(name, code))
    layout = Layout(tuple(fields))
    if (fields and fields[-1].code == COUNT) or len(set(layout.names)) != len(layout.names):
        raise UsageError(f"layout {text!r}: a count at the end, or a name twice.")
    return layout
