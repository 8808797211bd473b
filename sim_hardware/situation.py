"""The present situation of electronics and tip, and the activities that change it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import TunnelpilotError
from protocols.messages.data import FrameLines, SweepData
from protocols.messages.recipes import LockIn
from sim_hardware.controller import LoopState


@dataclass
class Situation:
    """The state of electronics and tip; changed only under the world's lock."""

    bias_v: float = 0.0
    setpoint_a: float = 100e-12
    feedback: bool = False
    lockin: LockIn | None = None
    x_m: float = 0.0
    y_m: float = 0.0
    z_m: float = 0.0
    since_s: float = 0.0
    """Instrument time for which ``z_m`` is right."""
    retracting: bool = False
    withdrawn: bool = True
    crashed: bool = False
    shorted: bool = False
    """In metallic contact after a crash; until the tip is withdrawn."""
    lost: bool = False
    loop: LoopState = field(default_factory=LoopState)


class InterruptedActivityError(Exception):
    """An activity was stopped; ``why`` is "withdrawn", "stopped", "safe tip" or "crash"."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass
class Activity:
    """Something the world does.  ``state`` is "running", "finished", "stopped" or "failed"."""

    number: int
    kind: str
    job_id: str
    expected_s: float
    run: Callable[[Any, Activity], None]
    state: str = "running"
    reason: str = ""
    error: TunnelpilotError | None = None
    sweep: SweepData | None = None
    lines: list[FrameLines] = field(default_factory=list)
    interrupt: threading.Event = field(default_factory=threading.Event)
    why: str = ""
    done: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    """While set, a frame rests before its next line."""
    between: deque[Callable[[Any], None]] = field(default_factory=deque)
    """What a frame does with the world before its next line: settings changed from outside meanwhile."""

    def stop(self, why: str) -> None:
        """Tell it to end; the first reason stays."""
        self.why = self.why or why
        self.interrupt.set()
