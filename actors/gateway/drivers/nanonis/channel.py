"""Commands by name on one link: values go out and come back with their meanings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.gateway.drivers.nanonis.link import Link
from protocols.errors import DriverError, MalformedMessageError, UnknownMessageError, UsageError
from protocols.nanonis.codings import to_codes, to_meanings
from protocols.nanonis.commands import RELEASE, Command, CommandTable, table
from protocols.nanonis.replies import read_reply

ANSWER_S = 2.0
"""Wall seconds for any answer that needs no waiting."""


class Channel:
    """A link with the vocabulary of one release.  ``release`` may be set once it is known."""

    def __init__(self, link: Link, release: int = RELEASE) -> None:
        self.link = link
        self.release = release

    @property
    def table(self) -> CommandTable:
        """What the release understands."""
        return table(self.release)

    def knows(self, name: str) -> bool:
        """Whether the release has this command."""
        return name in self.table

    def ask(
        self,
        name: str,
        *,
        answer_s: float = ANSWER_S,
        repeat: bool | None = None,
        urgency: int = 0,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Have a command carried out; its result by name.

        Args:
            name: as in the vendor's manual.
            answer_s: wall seconds until the answer must be there.
            repeat: whether it may be sent again when the connection breaks; None: if it only reads.
            urgency: a less urgent request under way that is not answered soon is given up for it.
            arguments: by name, as they are meant (``protocols.nanonis.codings``).

        Raises:
            DriverError: not carried out, refused, coded impossibly, or no answer in time.
        """
        return self._decoded(*self._raw(name, answer_s, repeat, urgency, arguments))

    def _raw(
        self, name: str, answer_s: float, repeat: bool | None, urgency: int, arguments: dict[str, Any]
    ) -> tuple[Command, bytes]:
        try:
            command = self.table[name]
            body = command.encode_arguments(**to_codes(command.name, arguments, self.release))
        except (UnknownMessageError, UsageError) as impossible:
            raise DriverError(
                f"{name} cannot be said to {self.link}: {impossible.text}",
                impossible.advice,
                awaited=name,
                outcome="impossible",
            ) from impossible
        repeatable = name.endswith("Get") if repeat is None else repeat
        return command, self.link.exchange(command.name, body, answer_s, repeat=repeatable, urgency=urgency)

    def _decoded(self, command: Command, body: bytes) -> dict[str, Any]:
        try:
            return to_meanings(command.name, read_reply(command, body), self.release, result=True)
        except DriverError as refused:
            raise DriverError(
                f"{self.link}: {refused.text}",
                refused.advice,
                **{**refused.details, "awaited": command.name, "outcome": "refused"},
            ) from None
        except MalformedMessageError as nonsense:
            raise DriverError(
                f"{self.link}: {nonsense.text}",
                nonsense.advice,
                **{**nonsense.details, "awaited": command.name, "outcome": "unknown"},
            ) from None


Ask = Callable[..., dict[str, Any]]
"""``Channel.ask``, or something that chooses a channel first."""
