"""A state machine as a table of data: (state, event) -> (next state, instructions).

The tables hold no time and no input/output.  Whoever runs one feeds it events and carries out the
instructions it gives back; what is not in the table is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from protocols.errors import UsageError


class ImpossibleEventError(UsageError):
    """An event came in a state whose table has no row for it."""

    code = "impossible-event"


@dataclass(frozen=True)
class Row:
    """What an event does in a state."""

    state: str
    instructions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A named table; ``rows[state][event]``.  Construction checks that every target state exists."""

    name: str
    initial: str
    rows: Mapping[str, Mapping[str, Row]]

    def __post_init__(self) -> None:
        states = set(self.rows)
        if self.initial not in states:
            raise UsageError(f"table {self.name}: initial state {self.initial!r} has no rows")
        for state, event, row in self:
            if row.state not in states:
                raise UsageError(f"table {self.name}: {state} --{event}--> {row.state}: no such state")
        frozen = {s: MappingProxyType(dict(events)) for s, events in self.rows.items()}
        object.__setattr__(self, "rows", MappingProxyType(frozen))

    def __iter__(self) -> Iterator[tuple[str, str, Row]]:
        for state, events in self.rows.items():
            for event, row in events.items():
                yield state, event, row

    @property
    def states(self) -> frozenset[str]:
        """Names of all states."""
        return frozenset(self.rows)

    @property
    def events(self) -> frozenset[str]:
        """Names of all events."""
        return frozenset(event for _, event, _ in self)

    def step(self, state: str, event: str) -> Row:
        """The row for ``event`` in ``state``.

        Raises:
            ImpossibleEventError: the table has no such row.
        """
        try:
            return self.rows[state][event]
        except KeyError:
            known = ", ".join(sorted(self.rows.get(state, {}))) or "none"
            raise ImpossibleEventError(
                f"{self.name}: event {event!r} is impossible in state {state!r} (possible: {known})"
            ) from None


class Machine:
    """A table with a present state."""

    def __init__(self, table: Table, state: str | None = None) -> None:
        self.table = table
        self.state = table.initial if state is None else state
        if self.state not in table.states:
            raise UsageError(f"table {table.name} has no state {self.state!r}")

    def feed(self, event: str) -> tuple[str, ...]:
        """Apply ``event``, move on, and return the instructions to carry out."""
        row = self.table.step(self.state, event)
        self.state = row.state
        return row.instructions

    def can(self, event: str) -> bool:
        """Whether the table has a row for ``event`` in the present state."""
        return event in self.table.rows[self.state]
