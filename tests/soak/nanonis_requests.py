"""Requests to a Nanonis port as bytes: whole ones, with strange values, and with lies about their size."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from protocols.nanonis.commands import Command, table
from protocols.nanonis.framing import LARGEST_REQUEST, NAME_BYTES, encode_request
from protocols.nanonis.layouts import COUNT
from protocols.nanonis.types import ELEMENTS, SCALARS

READING: tuple[tuple[str, bytes], ...] = (
    ("Bias.Get", b""),
    ("ZCtrl.StatusGet", b""),
    ("FolMe.XYPosGet", struct.pack(">I", 0)),
    ("Signals.ValsGet", struct.pack(">i4iI", 4, 0, 24, 30, 31, 0)),
    ("Signals.NamesGet", b""),
    ("Piezo.RangeGet", b""),
    ("Scan.FrameGet", b""),
    ("Util.VersionGet", b""),
    ("Nothing.Here", b""),
)
"""Requests that change nothing, and that are answered at once."""

FOR_EVER = encode_request("Scan.WaitEndOfScan", struct.pack(">i", -1))
"""A request that is answered when the next scan ends."""

LONG_ANSWER = encode_request("Signals.NamesGet")
"""A request of 40 bytes with an answer of kilobytes."""

FILES = frozenset(
    {
        *("Piezo.HystFileLoad", "Piezo.HystFileSave", "Util.SessionPathSet", "Util.SettingsLoad"),
        *("Util.SettingsSave", "Util.LayoutLoad", "Util.LayoutSave", "File.datLoad"),
    }
)
"""Commands that take a path: never asked for with random ones."""

INTEGERS = (0, 1, 2, 3, 17, 255, 65535, 2**31 - 1, 2**32 - 1, -1, -2, -(2**31))
FLOATS = (
    0.0,
    1e-12,
    1e-9,
    0.1,
    1.0,
    -1.0,
    1e6,
    1e30,
    -1e30,
    1e-300,
    float("inf"),
    float("-inf"),
    float("nan"),
)
COUNTS = (2**31 - 1, 2**28, 2**20, 65_536, 1000, -1, -(2**31))
"""Counts and lengths of things that are not there."""
TEXTS = (b"", b"a", b"%Y%m%d", b"\xe4\xf6\xfc\xdf" * 8, b"\0\x01\x02", b"long " * 2000, b"..", b"7.5e3")


def some_reading(rng: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Names and whole requests, ready to be sent."""
    chosen = rng.choices(READING, k=count)
    return [(name, encode_request(name, body)) for name, body in chosen]


def header(name: bytes, size: int, flag: int = 1) -> bytes:
    """A header that says whatever one likes."""
    return struct.pack(">32siHH", name[:NAME_BYTES], size, flag, 0)


def damaged(rng: random.Random) -> bytes:
    """One request with something wrong in its header."""
    name, body = rng.choice(READING)
    whole = bytearray(encode_request(name, body))
    match rng.randrange(5):
        case 0:
            whole[rng.randrange(40)] ^= 1 << rng.randrange(8)
        case 1:
            whole[:NAME_BYTES] = rng.randbytes(NAME_BYTES)
        case 2:
            whole[:NAME_BYTES] = bytes(NAME_BYTES)
        case 3:
            whole[4:8] = b"\0\0\0\0"
        case _:
            del whole[rng.randrange(40)]  # everything after it is shifted
    return bytes(whole)


def wrong_size(rng: random.Random) -> bytes:
    """A request that announces another body than it has."""
    name, body = rng.choice(READING)
    sizes = (
        -1,
        -(2**31),
        2**31 - 1,
        LARGEST_REQUEST + 1,
        LARGEST_REQUEST,
        2**20,
        len(body) + 1,
        len(body) + 4000,
    )
    return header(name.encode(), rng.choice(sizes)) + body + rng.randbytes(rng.randrange(2000))


def commands() -> Sequence[Command]:
    """Every command of the newest release that takes no path."""
    known = table()
    return [known[name] for name in known if name not in FILES]


def with_strange_values(command: Command, rng: random.Random) -> bytes:
    """A whole request, decodable, with values that nobody means."""
    return encode_request(command.name, _body(command, rng, lying=False))


def with_absurd_counts(command: Command, rng: random.Random) -> bytes:
    """A request in whose body counts and lengths have nothing to do with what follows them."""
    return encode_request(command.name, _body(command, rng, lying=True))


def takes_arrays(command: Command) -> bool:
    """Whether its arguments have a count or a length anywhere."""
    return any(field.code not in SCALARS for field in command.arguments.fields)


def _body(command: Command, rng: random.Random, *, lying: bool) -> bytes:
    parts = []
    shared = 0
    for field in command.arguments.fields:
        if field.code == COUNT:
            shared = rng.randrange(4)
            parts.append(struct.pack(">i", rng.choice(COUNTS) if lying else shared))
        else:
            parts.append(_value(field.code, rng, shared, lying))
    return b"".join(parts)


def _value(code: str, rng: random.Random, shared: int, lying: bool) -> bytes:
    if code in SCALARS:
        return _scalar(code, rng)
    count = shared if code.startswith("*") else rng.randrange(4)
    told = rng.choice(COUNTS) if lying else count
    element = code.strip("*[]")
    if element in ELEMENTS:
        data = b"".join(_scalar(element, rng) for _ in range(count))
        return data if code.startswith("*") else struct.pack(">i", told) + data
    if code == "S":
        return _text(rng, lying)
    if code in ("M", "MS"):
        rows, columns = (told, rng.choice(COUNTS)) if lying else (count, 2)
        cells = count * 2
        data = b"".join(_text(rng, lying) if code == "MS" else _scalar("f", rng) for _ in range(cells))
        return struct.pack(">ii", rows, columns) + data
    texts = b"".join(_text(rng, lying) for _ in range(count))
    size = struct.pack(">i", rng.choice(COUNTS) if lying else len(texts))
    heads = {"SA": size + struct.pack(">i", told), "BS": size, "*BS": size, "*[S]": struct.pack(">i", told)}
    return heads.get(code, b"") + texts


def _scalar(code: str, rng: random.Random) -> bytes:
    if code == "f" or code == "d":
        value = rng.choice(FLOATS)
        try:
            return struct.pack(SCALARS[code], value)
        except OverflowError:
            return struct.pack(SCALARS[code], 1e30)
    size = struct.calcsize(SCALARS.get(code, ">B"))
    return (rng.choice(INTEGERS) & ((1 << 8 * size) - 1)).to_bytes(size, "big")


def _text(rng: random.Random, lying: bool) -> bytes:
    text = rng.choice(TEXTS)
    return struct.pack(">i", rng.choice(COUNTS) if lying and rng.random() < 0.5 else len(text)) + text
