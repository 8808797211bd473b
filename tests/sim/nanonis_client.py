"""A tiny client of the Nanonis door for these tests: one blocking socket on the protocol's own codec."""

from __future__ import annotations

import socket
from typing import Any

from protocols.nanonis.codings import to_codes, to_meanings
from protocols.nanonis.commands import table
from protocols.nanonis.framing import ResponseReader, encode_request
from protocols.nanonis.replies import read_reply

DEADLINE_S = 20.0


class Client:
    """One connection to one port."""

    def __init__(self, port: int, deadline_s: float = DEADLINE_S) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=deadline_s)
        self.reader = ResponseReader()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def raw(self, name: str, body: bytes = b"") -> bytes:
        """Send a request; the body of the answer."""
        self.send(name, body)
        return self.receive(name)

    def send(self, name: str, body: bytes = b"", reply: bool = True) -> None:
        """Send a request."""
        self.socket.sendall(encode_request(name, body, reply))

    def receive(self, name: str) -> bytes:
        """The body of the next answer, which must be one to that command."""
        while (response := self.reader.next_message()) is None:
            data = self.socket.recv(65536)
            assert data, f"the door closed the connection while an answer to {name} was awaited"
            self.reader.feed(data)
        assert response.name == name
        return response.body

    def __call__(self, command: str, *values: Any, **named: Any) -> dict[str, Any]:
        """Carry a command out, with arguments and result as they are meant."""
        entry = table()[command]
        given = to_codes(entry.name, entry.arguments.bind(values, named, command))
        body = self.raw(command, entry.encode_arguments(**given))
        return to_meanings(entry.name, read_reply(entry, body), result=True)

    def one(self, command: str, *values: Any, **named: Any) -> Any:
        """The only value of the result."""
        (value,) = self(command, *values, **named).values()
        return value
