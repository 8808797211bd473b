"""Faults on demand: what the door does wrong when it was asked to."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from protocols.errors import ConfigError
from protocols.messages.simdoor import SimFault

MOST_PLANNED = 1000
SPARED = frozenset({"SimFault", "SimQuery", "SimTruthQuery", "SimSpectrumQuery"})
"""Messages of tests, which no fault of an answer hits."""


@dataclass
class AnswerFaults:
    """What will happen to the next answers, in order, and until when the door is stalled (monotonic s)."""

    planned: deque[tuple[str, float]] = field(default_factory=deque)
    stalled_until_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def plan(self, fault: SimFault, now_s: float) -> None:
        """Take note of a fault that concerns answers.

        Raises:
            ConfigError: more than is sensible.
        """
        if not 0 <= fault.count <= MOST_PLANNED or not 0.0 <= fault.seconds <= 3600.0:
            raise ConfigError(
                f"a fault {fault.count} times for {fault.seconds:g} s is more than is sensible."
            )
        if fault.kind == "stall":
            self.stalled_until_s = now_s + fault.seconds
        else:
            self.planned.extend([(fault.kind, fault.seconds)] * fault.count)

    def next_for(self, kind: str) -> tuple[str, float]:
        """What happens to the answer to a message of this kind: ("" for nothing, seconds)."""
        if kind in SPARED or not self.planned:
            return "", 0.0
        return self.planned.popleft()

    def garbage(self) -> bytes:
        """Bytes that are no message."""
        return self._random.randbytes(self._random.randint(1, 400))


def parse_faults(text: str) -> list[SimFault]:
    """Faults from the command line: "drop:3,delay:2:0.5" is drop 3 answers, then delay 2 by half a second.

    Raises:
        ConfigError: unknown kind or not numbers.
    """
    faults = []
    for part in filter(None, text.split(",")):
        kind, *numbers = part.split(":")
        if kind not in ANSWER_KINDS:
            raise ConfigError(f"there is no fault {kind!r}.", f"Known: {', '.join(ANSWER_KINDS)}.")
        try:
            count = int(numbers[0]) if numbers else 1
            seconds = float(numbers[1]) if len(numbers) > 1 else 0.0
        except ValueError:
            raise ConfigError(f"the fault {part!r} is not KIND[:COUNT[:SECONDS]].") from None
        faults.append(SimFault(kind=kind, count=count, seconds=seconds))  # type: ignore[arg-type]
    return faults


ANSWER_KINDS = ("delay", "drop", "garbage", "stall")
"""Faults that can be planned at the start."""
