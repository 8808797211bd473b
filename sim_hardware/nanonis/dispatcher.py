"""A request to the bytes of its answer: find, decode, carry out, encode; and the forms of failure.

Nothing here knows sockets.  Whatever goes wrong, there is an answer in the form that public clients
understand: zeros for the result and then the error where the command was understood, the error alone where it
was not.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import structlog

from protocols.errors import MalformedMessageError, TunnelpilotError, UsageError
from protocols.nanonis import framing, replies
from protocols.nanonis.codings import PLAIN_SWITCH, codings, to_codes, to_meanings
from protocols.nanonis.commands import RELEASE, Command, Missing, table
from protocols.nanonis.framing import Request
from protocols.nanonis.types import Value
from sim_hardware.nanonis.calls import Call, ClientGoneError, PatientWaiter, Waiter
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry

log = structlog.get_logger()

LONGEST_REASON = 2000


class Dispatcher:
    """Answers requests for one instrument; may be used from several threads at once."""

    def __init__(self, lab: Instrument, registry: Registry, release: int = RELEASE) -> None:
        self.lab = lab
        self.registry = registry
        self.table = table(release)
        self.release = release
        self.statistics: Counter[str] = Counter()
        """Answers by form: "done", "failed", "refused", "unknown", "not available", "broken"."""
        self._counting = threading.Lock()

    def answer(self, request: Request, waiter: Waiter | None = None) -> bytes:
        """The response for the wire; empty if none is wanted.

        Raises:
            ClientGoneError: the client left while the command waited.
        """
        body = self.body(request, waiter or PatientWaiter())
        if not request.reply_wanted:
            return b""
        return framing.encode_response(request.name, body)

    def body(self, request: Request, waiter: Waiter) -> bytes:
        """The body of the response."""
        command = self.table.find(request.name)
        if command is None:
            self._count("unknown")
            return replies.refusal(request.name, replies.UNKNOWN_COMMAND)
        handler = self.registry.find(command.name)
        if handler is None:
            self._count("not available")
            return replies.failure(command, replies.MODULE_NOT_AVAILABLE)
        try:
            arguments = command.decode_arguments(request.body, Missing.OLDER_CLIENTS)
        except MalformedMessageError as unreadable:
            self._count("refused")
            return replies.refusal(command.name, f"{replies.UNREADABLE_ARGUMENTS}: {unreadable.text}")
        if not self.lab.is_open(command.module) and not command.name.endswith("Open"):
            self._count("failed")
            return replies.failure(command, replies.module_closed(self.lab.window_title(command.module)))
        try:
            meant = to_meanings(command.name, self._tolerated(command, arguments), self.release)
            found = handler(Call(self.lab, command.name, waiter), **meant)
            body = replies.success(self._result(command, found))
        except ClientGoneError:
            raise
        except TunnelpilotError as failed:
            self._count("failed")
            return replies.failure(command, str(failed)[:LONGEST_REASON])
        except Exception as bug:
            self._count("broken")
            log.exception("command broken", command=command.name)
            return replies.failure(command, f"{type(bug).__name__} in the simulated electronics: {bug}")
        self._count("done")
        return body

    def _tolerated(self, command: Command, arguments: dict[str, Value]) -> dict[str, Value]:
        """Arguments with the codes that clients use by mistake: where 0 is off and 1 is on, 2 is taken for
        off, which it is in most other commands."""
        known = codings(command.name, self.release)
        return {
            name: 0 if known.get(name) is PLAIN_SWITCH and value == 2 else value
            for name, value in arguments.items()
        }

    def _result(self, command: Command, found: Any) -> bytes:
        names = command.result.names
        if isinstance(found, dict):
            values = {name: found[name] for name in names if name in found}
        elif isinstance(found, tuple) and len(names) != 1:
            values = command.result.bind(found, {}, command.name)
        elif found is None:
            values = {}
        elif len(names) == 1:
            values = {names[0]: found}
        else:
            raise UsageError(f"{command.name}: {found!r} is not its result")
        return command.encode_result(**to_codes(command.name, values, self.release, result=True))

    def _count(self, form: str) -> None:
        with self._counting:
            self.statistics[form] += 1
