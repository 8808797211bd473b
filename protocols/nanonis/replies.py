"""Bodies of responses: a result, then the error block; how it is written, and how it is found.

The block is a status (uint32, 0 when all is well), the size of a description (int32) and the description.
The electronics put it after the result, but when something failed they send zeros for the result, or no
result at all, or stray bytes: so it is looked for where it belongs, then at the beginning, then anywhere.

A server writes ``success``, ``failure`` (the command was understood and failed: zeros, then the block) or
``refusal`` (unknown command, unreadable arguments: the block alone).  Public clients look at the description
alone or at the status alone, so a failure always has a description, and a success never.
"""

from __future__ import annotations

import re
import struct

import msgspec

from protocols.errors import DriverError, MalformedMessageError, UsageError
from protocols.nanonis.commands import Command
from protocols.nanonis.layouts import Layout
from protocols.nanonis.types import Cursor, Value, ascii_text

LARGEST_DESCRIPTION = 64 * 2**10
"""Longest description of an error that we write, in bytes."""

_BLOCK = struct.Struct(">Ii")
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")

UNKNOWN_COMMAND = "Unknown command"
UNREADABLE_ARGUMENTS = "The arguments cannot be read"
MODULE_NOT_AVAILABLE = "Module not available"
"""The feature is not installed."""


def module_closed(module: str) -> str:
    """The reason given while a module's window is not open."""
    return f"Cannot access the {module} module. \nPlease make sure it is running."


def error_description(command: str, reason: str) -> str:
    """The description as the electronics word it: the command in lower case, then the reason; ASCII only."""
    return ascii_text(f"Error in command: {command.lower()}: {reason or 'Unknown reason'}")


class ErrorBlock(msgspec.Struct, frozen=True):
    """A status and its description; ``offset`` is where the block began in the body."""

    status: int
    description: str
    offset: int = 0


def encode_error(status: int = 0, description: str = "") -> bytes:
    """The block's bytes.

    Raises:
        UsageError: an error without a description, a description without an error, or a description too long.
    """
    if bool(status) != bool(description):
        raise UsageError(f"status {status} with the description {description!r}: an error needs both.")
    text = ascii_text(description).encode("ascii")
    if len(text) > LARGEST_DESCRIPTION:
        raise UsageError(f"a description of {len(text)} bytes (limit {LARGEST_DESCRIPTION}).")
    return _BLOCK.pack(status, len(text)) + text


def success(result: bytes = b"") -> bytes:
    """The body when the command was carried out."""
    return result + encode_error()


def failure(command: Command, reason: str) -> bytes:
    """The body when the command was understood and failed: its result in zeros, then the error."""
    return command.result.zeros() + refusal(command.name, reason)


def refusal(name: str, reason: str) -> bytes:
    """The body when the command is unknown or its arguments are unreadable: the error alone."""
    return encode_error(1, error_description(name, reason))


def read_reply(command: Command, body: bytes) -> dict[str, Value]:
    """The result of a command by name.

    If the body does not fit the layout of the command's release, but exactly that of another release, the
    latter's is used, with its own names.

    Raises:
        DriverError: the electronics answered with an error; ``details["description"]`` is their text.
        MalformedMessageError: no error block can be found, or bytes are missing or surplus.
    """
    for layout in (command.result, *command.other_results):
        fitting = _fit(layout, body, f"result of {command.name}")
        if fitting is not None:
            values, block = fitting
            _raise_if_error(command, block)
            return values
    block = find_error(command, body)
    _raise_if_error(command, block)
    raise MalformedMessageError(
        f"result of {command.name}: {block.offset} bytes ({body[:32].hex()}) that fit no known release.",
        "Check the release of the Nanonis software in the driver's settings.",
        command=command.name,
        size=block.offset,
    )


def find_error(command: Command, body: bytes) -> ErrorBlock:
    """The error block of a body: after the result as some release has it, at the beginning, or anywhere.

    Anywhere means: the first place from which a status of 0 or 1, a size and a legible description of that
    size reach exactly to the end; an error is preferred to "all is well", which stray zeros resemble.

    Raises:
        MalformedMessageError: there is none.
    """
    for layout in (command.result, *command.other_results):
        fitting = _fit(layout, body, f"result of {command.name}")
        if fitting is not None:
            return fitting[1]
    candidates = _candidates(body)
    described = [block for block in candidates if block.status == 1 and block.description]
    bare = [block for block in candidates if not block.description]
    if described or bare:
        return (described or bare)[0]
    raise MalformedMessageError(
        f"result of {command.name}: no error block in {len(body)} bytes ({body[:32].hex()}).",
        "Close the connection and open it anew.",
        command=command.name,
        size=len(body),
    )


def block_at(body: bytes, offset: int) -> ErrorBlock | None:
    """The error block that begins at the offset and ends with the body, or None."""
    if not 0 <= offset <= len(body) - _BLOCK.size:
        return None
    status, size = _BLOCK.unpack_from(body, offset)
    if size != len(body) - offset - _BLOCK.size:
        return None
    text = body[offset + _BLOCK.size :]
    if _NO_TEXT.search(text):
        return None
    return ErrorBlock(status, bytes(text).decode("latin-1"), offset)


def _candidates(body: bytes) -> list[ErrorBlock]:
    """All blocks that reach to the end and hold a status of 0 or 1, the one at the beginning first."""
    offset = len(body) - _BLOCK.size
    found = []
    while offset >= 0 and len(body) - offset - _BLOCK.size <= LARGEST_DESCRIPTION:
        block = block_at(body, offset) if body[offset : offset + 3] == b"\0\0\0" else None
        if block is not None and block.status in (0, 1):
            found.append(block)
        offset -= 1
    return found[::-1]


def _fit(layout: Layout, body: bytes, what: str) -> tuple[dict[str, Value], ErrorBlock] | None:
    """The values and the block, if the body is exactly this layout and a block."""
    cursor = Cursor(body)
    try:
        values = layout.take(cursor, what)
    except MalformedMessageError:
        return None
    block = block_at(body, cursor.position)
    return None if block is None else (values, block)


def _raise_if_error(command: Command, block: ErrorBlock) -> None:
    if block.status == 0:
        return
    told = block.description.strip() or "no reason was given"
    raise DriverError(
        f"the electronics refused {command.name}: {told}",
        command=command.name,
        status=block.status,
        description=block.description,
    )
