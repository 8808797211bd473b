"""What can be wrong with a line, on demand."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from protocols.errors import ConfigError

KINDS = ("late", "silent", "garbage", "cut", "terminator", "double", "split", "noise")
"""late: the answer comes ``seconds`` late.  silent: it never comes.  garbage: random bytes instead.  cut: its
second half and terminator are missing.  terminator: it ends with the other characters.  double: twice.
split: in pieces, ``seconds`` apart.  noise: one of its characters is another."""
MOST = 1000
DEFAULT_S = 2.0


@dataclass(frozen=True)
class LineFault:
    """One fault of the next answer."""

    kind: str
    seconds: float = DEFAULT_S


class LineFaults:
    """Faults of the next answers, in order."""

    def __init__(self, seed: int = 0) -> None:
        self.planned: deque[LineFault] = deque()
        self._random = random.Random(seed)

    def plan(self, kind: str, count: int = 1, seconds: float = DEFAULT_S) -> None:
        """The next ``count`` answers are hit.

        Raises:
            ConfigError: no such fault, or more than is sensible.
        """
        if kind not in KINDS:
            raise ConfigError(f"there is no fault {kind!r} of a line.", f"Known: {', '.join(KINDS)}.")
        if not 1 <= count <= MOST or not 0 <= seconds <= 3600:
            raise ConfigError(f"{count} faults of {seconds:g} s are more than is sensible.")
        self.planned.extend([LineFault(kind, seconds)] * count)

    def apply(self, answer: bytes, terminator: bytes) -> list[tuple[float, bytes]]:
        """What is sent instead of ``answer`` and its terminator: (delay in s, bytes) in order."""
        whole = answer + terminator
        if not self.planned:
            return [(0.0, whole)]
        fault = self.planned.popleft()
        match fault.kind:
            case "late":
                return [(fault.seconds, whole)]
            case "silent":
                return []
            case "garbage":
                return [(0.0, self._random.randbytes(self._random.randint(1, 40)))]
            case "cut":
                return [(0.0, answer[: max(len(answer) // 2, 1)])]
            case "terminator":
                return [(0.0, answer + (b"\n" if terminator != b"\n" else b"\r"))]
            case "double":
                return [(0.0, whole + whole)]
            case "split":
                pieces = [whole[k : k + 3] for k in range(0, len(whole), 3)]
                return [(k * fault.seconds / max(len(pieces) - 1, 1), p) for k, p in enumerate(pieces)]
            case _:
                place = self._random.randrange(len(answer)) if answer else 0
                return [(0.0, answer[:place] + b"\x00" + whole[place + 1 :])]


def parse_faults(text: str) -> list[tuple[str, str, int, float]]:
    """(instrument, kind, count, seconds) from "temperature:late:2:1.5,lockin:cut".

    Raises:
        ConfigError: it is not NAME:KIND[:COUNT[:SECONDS]],...
    """
    found = []
    for part in filter(None, text.split(",")):
        fields = part.split(":")
        try:
            count = int(fields[2]) if len(fields) > 2 else 1
            seconds = float(fields[3]) if len(fields) > 3 else DEFAULT_S
            found.append((fields[0], fields[1], count, seconds))
        except (ValueError, IndexError):
            raise ConfigError(f"the fault {part!r} is not NAME:KIND[:COUNT[:SECONDS]].") from None
    return found
