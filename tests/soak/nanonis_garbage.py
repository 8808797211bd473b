"""Everything wrong that a client of a Nanonis port may do while it is served, and what it must still get.

These attacks are for a microscope that nobody works with: what they ask for is carried out, and some of it
makes no sense.  A port serves one client after the other, so each attack leaves, and then somebody honest
comes (``honest_client``).
"""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Sequence

from protocols.errors import MalformedMessageError, TunnelpilotError
from protocols.nanonis.commands import Command
from protocols.nanonis.framing import Response, ResponseReader, encode_request
from protocols.nanonis.replies import read_reply
from tests.soak import nanonis_requests as requests
from tests.soak.garbage import GREETING, PATIENCE_S, Attack, connect

SOON_S = 1.0
"""How long an attack waits for an answer that may rightly take long."""
HELD_S = 0.3
BROKEN = "in the simulated electronics"
"""What an answer says when a command failed for a reason of which nobody thought."""
MOST_UNREAD = 16 * 2**20


class Stranger:
    """One connection to one port."""

    def __init__(self, endpoint: str, receive_buffer: int = 0) -> None:
        self.endpoint = endpoint
        self.socket = connect(endpoint)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._reader = ResponseReader()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.settimeout(PATIENCE_S)
        self.socket.sendall(data)

    def hear(self, patience_s: float = PATIENCE_S) -> Response | None:
        """The next answer; None when the server has closed the connection instead.

        Raises:
            AssertionError: neither within the time, or no answer in form.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                found = self._reader.next_message()
            except MalformedMessageError as nonsense:
                raise AssertionError(f"{self.endpoint} answered nonsense: {nonsense.text}") from None
            if found is not None:
                return found
            self.socket.settimeout(max(until - time.monotonic(), 1e-3))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no answer from {self.endpoint} within {patience_s:g} s") from None
            if not data:
                return None
            self._reader.feed(data)

    def must_hear(self, names: Sequence[str]) -> None:
        """Answers to exactly these requests, in this order."""
        for k, name in enumerate(names):
            found = self.hear()
            if found is None or found.name != name:
                what = "closed the connection" if found is None else f"answered {found.name}"
                raise AssertionError(f"{self.endpoint} {what} at {name}, number {k + 1} of {len(names)}")

    def end_sending(self) -> None:
        """Close one half."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def honest_client(endpoint: str) -> float:
    """Connect, ask one thing, go; seconds until the answer was there.

    Raises:
        AssertionError: no right answer in time.
        OSError: no connection.
    """
    began = time.monotonic()
    with Stranger(endpoint) as client:
        client.say(encode_request("Bias.Get"))
        client.must_hear(["Bias.Get"])
    return time.monotonic() - began


# ---- bytes that are no messages ----------------------------------------------------------------------------


def _throw(endpoint: str, beginnings: Sequence[bytes], rng: random.Random) -> int:
    for beginning in beginnings:
        with Stranger(endpoint) as stranger:
            try:
                stranger.say(beginning)
                select.select([stranger.socket], [], [], 0.002)
            except ConnectionError:
                continue  # hung up on, as it deserves
            if rng.random() < 0.3:
                stranger.reset()
    return len(beginnings)


def noise(endpoint: str, rng: random.Random) -> int:
    """Random bytes, and the beginnings of other protocols."""
    others = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" + rng.randbytes(300),
        GREETING,
    ]
    return _throw(endpoint, [*others, *(rng.randbytes(rng.randrange(1, 5000)) for _ in range(5))], rng)


def damaged_headers(endpoint: str, rng: random.Random) -> int:
    """Requests with a bit, a byte or the whole name changed, after whole ones."""
    whole = b"".join(data for _, data in requests.some_reading(rng, 3))
    return _throw(endpoint, [whole + requests.damaged(rng) + whole for _ in range(8)], rng)


def wrong_sizes(endpoint: str, rng: random.Random) -> int:
    """Bodies announced as negative, as 2^31 - 1 bytes, as just within the limit, or a little off."""
    return _throw(endpoint, [requests.wrong_size(rng) for _ in range(8)], rng)


# ---- messages in strange pieces ----------------------------------------------------------------------------


def split_segments(endpoint: str, rng: random.Random) -> int:
    """Whole requests in pieces cut anywhere: all are answered, in order."""
    chosen = requests.some_reading(rng, 20)
    data = b"".join(one for _, one in chosen)
    with Stranger(endpoint) as stranger:
        while data:
            size = rng.randrange(1, 60)
            stranger.say(data[:size])
            data = data[size:]
            if rng.random() < 0.3:
                select.select([], [], [], 0.001)
        stranger.must_hear([name for name, _ in chosen])
    return len(chosen)


def cut_and_half_closed(endpoint: str, rng: random.Random) -> int:
    """Requests in a row that end anywhere, and then the sending half is closed: whole ones are answered, and
    then the server closes too."""
    chosen = requests.some_reading(rng, 12)
    data = b"".join(one for _, one in chosen)
    cut = rng.randrange(len(data))
    whole, at = 0, 0
    for _, one in chosen:
        at += len(one)
        whole += at <= cut
    with Stranger(endpoint) as stranger:
        stranger.say(data[:cut])
        stranger.end_sending()
        stranger.must_hear([name for name, _ in chosen[:whole]])
        if (more := stranger.hear()) is not None:
            raise AssertionError(f"{endpoint} answered {more.name}, which was never asked whole")
    return len(chosen)


def slow_senders(endpoint: str, rng: random.Random) -> int:
    """One request, byte by byte with pauses: it is answered."""
    ((name, data),) = requests.some_reading(rng, 1)
    with Stranger(endpoint) as stranger:
        for byte in data:
            stranger.say(bytes([byte]))
            select.select([], [], [], rng.uniform(0.0, 0.02))
        stranger.must_hear([name])
    return 1


def resets(endpoint: str, rng: random.Random) -> int:
    """Connections that are reset at once, within a request, or before its answer is read."""
    count = 12
    for _ in range(count):
        stranger = Stranger(endpoint)
        data = b"".join(one for _, one in requests.some_reading(rng, 5))
        try:
            stranger.say(data[: rng.choice((0, 20, 39, 41, len(data)))])
        except ConnectionError:
            pass
        stranger.reset()
    return count


def leaving_while_waiting(endpoint: str, rng: random.Random) -> int:
    """Who waits for something that does not happen, and leaves in any way: the port is free for the next."""
    ways = ("close", "half", "reset")
    for way in ways:
        stranger = Stranger(endpoint)
        stranger.say(requests.FOR_EVER + requests.LONG_ANSWER)
        select.select([stranger.socket], [], [], rng.uniform(0.0, 0.05))
        if way == "reset":
            stranger.reset()
            continue
        stranger.end_sending()
        if way == "half":
            select.select([stranger.socket], [], [], HELD_S)
        stranger.socket.close()
    return len(ways)


def comers_and_goers(endpoint: str, rng: random.Random) -> int:
    """Many connections in a row that say nothing."""
    count = 50
    for _ in range(count):
        connect(endpoint).close()
    return count


# ---- too much ----------------------------------------------------------------------------------------------


def pipelined(endpoint: str, rng: random.Random) -> int:
    """Hundreds of requests at once, and all answers are read: each comes, in order."""
    chosen = requests.some_reading(rng, 400)
    with Stranger(endpoint) as stranger:
        stranger.say(b"".join(data for _, data in chosen))
        stranger.must_hear([name for name, _ in chosen])
    return len(chosen)


def flood_and_go(endpoint: str, rng: random.Random) -> int:
    """As many requests as the connection takes, and then it is reset."""
    return _stuff(endpoint, requests.some_reading(rng, 200), 0.05)


def answers_unread(endpoint: str, rng: random.Random) -> int:
    """Requests with long answers, none of which is read, until the server takes no more; held for a while."""
    return _stuff(endpoint, [("", requests.LONG_ANSWER)] * 200, HELD_S)


def _stuff(endpoint: str, chosen: Sequence[tuple[str, bytes]], hold_s: float) -> int:
    """Write until nothing goes through any more for ``hold_s``, or 16 MiB have gone; then reset.

    Raises:
        AssertionError: the server took all of it, though it could deliver no answer.
    """
    block = b"".join(one for _, one in chosen)
    sent = 0
    stranger = Stranger(endpoint, receive_buffer=4096)
    stranger.socket.setblocking(False)
    try:
        while select.select([], [stranger.socket], [], hold_s)[1]:
            sent += stranger.socket.send(block)
            if sent > MOST_UNREAD:
                raise AssertionError(f"{endpoint} took {sent / 2**20:.0f} MiB whose answers nobody reads")
    except ConnectionError:
        pass
    finally:
        stranger.reset()
    return sent * len(chosen) // len(block)


# ---- messages that say strange things ----------------------------------------------------------------------


def absurd_counts(endpoint: str, rng: random.Random) -> int:
    """Counts and lengths up to 2^31 - 1 of things that are not there: refused, each at once."""
    chosen = rng.sample([c for c in requests.commands() if requests.takes_arrays(c)], k=12)
    return _answered(endpoint, [(c, requests.with_absurd_counts(c, rng)) for c in chosen])


def strange_values(endpoint: str, rng: random.Random) -> int:
    """Any command with values that nobody means: answered in form, carried out or refused."""
    chosen = rng.sample(list(requests.commands()), k=12)
    return _answered(endpoint, [(c, requests.with_strange_values(c, rng)) for c in chosen])


def _answered(endpoint: str, chosen: Sequence[tuple[Command, bytes]]) -> int:
    """Each on a connection of its own; one that waits for something is left.

    Raises:
        AssertionError: an answer without form, or one that tells of an error in the server's program.
    """
    for command, data in chosen:
        stranger = Stranger(endpoint)
        try:
            stranger.say(data)
            found = stranger.hear(SOON_S)
        except AssertionError as silent:
            if "no answer" not in str(silent):
                raise AssertionError(f"{silent} (after {data[:200]!r})") from None
            found = None
        else:
            if found is None:
                raise AssertionError(f"{endpoint} closed the connection after {data[:200]!r}")
            _check(endpoint, command, found, data)
        finally:
            stranger.reset()
    return len(chosen)


def _check(endpoint: str, command: Command, found: Response, data: bytes) -> None:
    try:
        read_reply(command, found.body)
    except MalformedMessageError as unfit:
        raise AssertionError(f"{endpoint}: {unfit.text} (after {data[:200]!r})") from None
    except TunnelpilotError as refused:
        if BROKEN in str(refused):
            raise AssertionError(f"{endpoint}: {refused} (after {data[:200]!r})") from None


SERVED: dict[str, Attack] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        noise,
        damaged_headers,
        wrong_sizes,
        split_segments,
        cut_and_half_closed,
        slow_senders,
        resets,
        leaving_while_waiting,
        comers_and_goers,
        pipelined,
        flood_and_go,
        answers_unread,
        absurd_counts,
        strange_values,
    )
}
