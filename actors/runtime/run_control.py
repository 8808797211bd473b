"""A run's state machine with its orders: commands of people and events of the loop come in, both at any time.

The states and their instructions are the table of ``protocols.states.run``.  Every change is journaled in
order; the loop that measures looks at ``state`` and wakes up when it changes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import structlog

from protocols.errors import RefusedError
from protocols.messages.records import RunState
from protocols.states.run import FINAL_RUN_STATES, RUN_TABLE
from protocols.states.table import Machine

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Change:
    """A change of state that is not carried out yet."""

    number: int
    body: RunState
    instructions: tuple[str, ...]


class RunControl:
    """State, reason, and the changes that wait to be journaled and carried out."""

    def __init__(self, state: str, reason: str, written: int) -> None:
        self._machine = Machine(RUN_TABLE, state)
        self.reason = reason
        self._number = written
        self.changes: deque[Change] = deque()
        self.changed = asyncio.Event()
        """For the loop: the state is another one."""
        self.pending = asyncio.Event()
        """For whoever journals: there are changes."""

    @property
    def state(self) -> str:
        """A state of the run table."""
        return self._machine.state

    @property
    def final(self) -> bool:
        """Whether the run is over."""
        return self.state in FINAL_RUN_STATES

    def feed(self, event: str, reason: str) -> bool:
        """Apply an event of the loop; one that means nothing in this state is left out (False)."""
        if not self._machine.can(event):
            log.info("event means nothing now", run_event=event, run_state=self.state, reason=reason)
            return False
        before = self.state
        instructions = self._machine.feed(event)
        if self.state != before or instructions or event == "hold":
            self.reason = reason
            self._number += 1
            body = RunState(state=self.state, reason=reason)
            self.changes.append(Change(self._number, body, instructions))
            self.pending.set()
            log.info("run state", run_event=event, was=before, now=self.state, reason=reason)
        self.changed.set()
        return True

    def again(self, instructions: tuple[str, ...]) -> None:
        """Carry the last change that is in the journal out again: it is known that it was not done whole."""
        body = RunState(state=self.state, reason=self.reason)
        self.changes.append(Change(self._number, body, instructions))
        self.pending.set()

    def order(self, event: str, reason: str) -> None:
        """Apply a person's command.

        Raises:
            RefusedError: it makes no sense in this state.
        """
        if not self._machine.can(event):
            raise RefusedError(
                f"the run is {self.state} ({self.reason or 'no reason given'}): {event} makes no sense now.",
                "Look at 'stmctl status'.",
                refusal_code="state",
            )
        self.feed(event, reason)
