"""The crowd before a Nanonis port that somebody else occupies: whatever it does, nobody in it is served.

The operating system queues a few connections and ignores the rest; nothing in here may wait for long, and
nothing that is said would change anything if it were heard.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from collections.abc import Sequence

from protocols.nanonis.framing import encode_request
from tests.soak import nanonis_requests as requests
from tests.soak.garbage import Attack, address

QUEUE_S = 0.1
"""How long a connection may take; a full queue takes none."""
HEARD_S = 0.02
QUESTION = encode_request("Bias.Get")


def _try(endpoint: str) -> socket.socket | None:
    """A connection, or None: turned away.

    Raises:
        ConnectionRefusedError: nobody listens there any more.
    """
    try:
        return socket.create_connection(address(endpoint), timeout=QUEUE_S)
    except TimeoutError:
        return None


def _say(endpoint: str, speeches: Sequence[bytes], *, half_close: bool = False, reset: bool = False) -> int:
    """One connection for each; how many were tried.

    Raises:
        AssertionError: a question was answered: the port is not occupied.
    """
    for speech in speeches:
        connection = _try(endpoint)
        if connection is None:
            continue
        with connection:
            try:
                connection.setblocking(False)
                connection.send(speech)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                must_be_silent(endpoint, connection, HEARD_S)
            except (ConnectionError, BlockingIOError):
                pass
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return len(speeches)


def must_be_silent(endpoint: str, connection: socket.socket, patience_s: float) -> bool:
    """Whether the other side has closed the connection; it must not have answered.

    Raises:
        AssertionError: it has.
    """
    if not select.select([connection], [], [], patience_s)[0]:
        return False
    data = connection.recv(4096)
    if any(name.encode() in data for name, _ in requests.READING):
        raise AssertionError(f"{endpoint} serves strangers: who should occupy it has lost it ({data[:60]!r})")
    return not data


def noise(endpoint: str, rng: random.Random) -> int:
    """Random bytes and HTTP."""
    return _say(endpoint, [rng.randbytes(rng.randrange(1, 5000)), b"GET / HTTP/1.1\r\n\r\n"])


def questions(endpoint: str, rng: random.Random) -> int:
    """Whole requests, and damaged ones."""
    whole = b"".join(data for _, data in requests.some_reading(rng, 20))
    return _say(endpoint, [QUESTION, whole, requests.damaged(rng), requests.wrong_size(rng)])


def half_closed(endpoint: str, rng: random.Random) -> int:
    """Questions after which the sending half is closed."""
    return _say(endpoint, [QUESTION, QUESTION[: rng.randrange(40)]], half_close=True)


def resets(endpoint: str, rng: random.Random) -> int:
    """Connections that are reset, with and without words."""
    return _say(endpoint, [b"", QUESTION, QUESTION[: rng.randrange(40)]], reset=True)


def floods(endpoint: str, rng: random.Random) -> int:
    """As much as goes through at once."""
    return _say(endpoint, [b"".join(data for _, data in requests.some_reading(rng, 1000)) * 20], reset=True)


def comers_and_goers(endpoint: str, rng: random.Random) -> int:
    """Connections in a row that say nothing."""
    return _say(endpoint, [b""] * 5)


CROWD: dict[str, Attack] = {
    f"crowd: {attack.__name__.replace('_', ' ')}": attack
    for attack in (noise, questions, half_closed, resets, floods, comers_and_goers)
}


class Queue:
    """Connections that stay before occupied ports: silent, slow, or with a question that nobody answers."""

    def __init__(self, endpoints: Sequence[str], each: int, rng: random.Random) -> None:
        self._endpoints = endpoints
        self._each = each
        self._rng = rng
        self._open: list[tuple[socket.socket, str, bytes]] = []
        self.opened = 0
        self.cut = 0

    def tend(self) -> None:
        """Try again where one was turned away; the slow ones say a byte more.

        Raises:
            AssertionError: one was answered.
            ConnectionRefusedError: nobody listens there any more.
        """
        for endpoint in self._endpoints:
            have = sum(where == endpoint for _, where, _ in self._open)
            for k in range(have, self._each):
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(address(endpoint))
                speech = (b"", QUESTION, self._rng.randbytes(4000))[k % 3]
                self._open.append((connection, endpoint, speech))
                self.opened += 1
        self._open = [one for one in map(self._continue, self._open) if one is not None]

    def _continue(self, one: tuple[socket.socket, str, bytes]) -> tuple[socket.socket, str, bytes] | None:
        connection, endpoint, speech = one
        step = len(speech) if speech == QUESTION else 1
        try:
            if must_be_silent(endpoint, connection, 0.0):
                raise ConnectionResetError
            sent = connection.send(speech[:step]) if speech else 0
        except ConnectionRefusedError:
            connection.close()
            raise
        except BlockingIOError:
            return one
        except OSError as over:
            connection.close()
            self.cut += not isinstance(over, TimeoutError)  # one that never got into the queue is not cut
            return None
        return connection, endpoint, speech[sent:]

    def close(self) -> None:
        """Close them all."""
        for connection, _, _ in self._open:
            connection.close()
        self._open.clear()
