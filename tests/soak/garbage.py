"""Everything wrong that may arrive at a port: each attack is a function of an endpoint and a generator.

No attack uses a message that would rightly be obeyed (a Stop, a job, a shutdown, a fault of the simulator).
"""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

import msgpack
import msgspec
import zmq

from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.codec import encode
from protocols.messages.control import Done, GuardQuery, Hello, Ping, Refusal, WorkerQuery
from protocols.messages.daemon import DaemonQuery
from protocols.messages.data import CloseStream, GrantCredit, OpenStream
from protocols.messages.jobs import QueryJob
from protocols.messages.simdoor import SimQuery

PATIENCE_S = 5.0
NOBODY = "soak/nobody/a1"

HARMLESS: tuple[Message, ...] = (
    Hello(peer="soak", protocol=PROTOCOL_VERSION),
    Ping(sent_s=1.0),
    GuardQuery(),
    WorkerQuery(),
    DaemonQuery(),
    SimQuery(),
    QueryJob(job_id=NOBODY),
    OpenStream(job_id=NOBODY, credits=4),
    GrantCredit(job_id=NOBODY, credits=2**40),
    CloseStream(job_id=NOBODY),
    Done(note="an answer to nothing"),
    Refusal(code="no", reason="a refusal of nothing"),
)
"""Messages that change nothing wherever they arrive, damaged or whole."""

Attack = Callable[[str, random.Random], int]
"""Sends garbage to an endpoint; how many messages or connections that were."""


# ---- below ZMTP ------------------------------------------------------------------------------------------

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def _ready(kind: bytes = b"DEALER") -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return b"\x04" + bytes([len(body)]) + body


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of tcp://HOST:PORT."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    return host, int(port)


def connect(endpoint: str) -> socket.socket:
    """A bare TCP connection."""
    return socket.create_connection(address(endpoint), timeout=PATIENCE_S)


def _throw(endpoint: str, beginnings: Sequence[bytes]) -> int:
    for beginning in beginnings:
        with connect(endpoint) as connection:
            try:
                connection.sendall(beginning)
                select.select([connection], [], [], 0.002)
            except ConnectionError:
                pass  # hung up on, as it deserves
    return len(beginnings)


def random_bytes(endpoint: str, rng: random.Random) -> int:
    """Connections that speak anything but ZMTP, or break off within its greeting."""
    return _throw(
        endpoint,
        [
            rng.randbytes(rng.randrange(1, 2000)),
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            GREETING[: rng.randrange(1, len(GREETING))],
            GREETING + rng.randbytes(200),
            GREETING.replace(b"NULL", b"PLAI") + _ready(b"REQ"),
        ],
    )


def http2_and_tls(endpoint: str, rng: random.Random) -> int:
    """Beginnings of HTTP/2 (as gRPC speaks it) and of TLS, followed by nonsense."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    return _throw(
        endpoint,
        [
            preface + rng.randbytes(300),
            preface + settings + b"\xff\xff\xff\x00\x05\x00\x00\x00\x01" + rng.randbytes(300),
            preface[: rng.randrange(1, len(preface))],
            b"\x16\x03\x01\x02\x00\x01" + rng.randbytes(300),
        ],
    )


def huge_frames(endpoint: str, rng: random.Random) -> int:
    """Frames that claim to be gigabytes long, in whole ZMTP connections."""
    sizes = (2**63 - 1, 2**40, 2**31, 66 * 2**20, 60 * 2**20)
    return _throw(
        endpoint,
        [GREETING + _ready() + b"\x02" + struct.pack(">Q", size) + rng.randbytes(100) for size in sizes],
    )


# ---- below our messages ----------------------------------------------------------------------------------


class Dealer:
    """A zmq connection that sends frames and lets answers lie, or reads them."""

    def __init__(self, endpoint: str, *, reading: bool = True) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self.socket.setsockopt(zmq.LINGER, 1000)
        if not reading:
            self.socket.setsockopt(zmq.RCVHWM, 1)
            self.socket.setsockopt(zmq.RCVBUF, 4096)
        self.socket.connect(endpoint)

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy()

    def send(self, frames: Sequence[Sequence[bytes]]) -> int:
        """Send these messages, as far as the peer takes them in time."""
        sent = 0
        try:
            for parts in frames:
                self.socket.send_multipart(list(parts))
                sent += 1
        except zmq.Again:
            pass  # its queue is full: it is busy with the rest of the garbage
        return sent

    def drain(self) -> list[bytes]:
        """Answers that have come."""
        answers = []
        while self.socket.poll(0):
            answers.append(self.socket.recv_multipart()[-1])
        return answers

    def ask(self, frame: bytes, request_id: str) -> Message | None:
        """The answer to one request, decoded; None if none comes in time."""
        from protocols.messages.codec import decode

        self.socket.send(frame)
        until = time.monotonic() + PATIENCE_S
        while (left := until - time.monotonic()) > 0 and self.socket.poll(int(left * 1000) + 1):
            envelope = decode(self.socket.recv_multipart()[-1])
            if envelope.request_id == request_id:
                return envelope.message
        return None


def garbage_frames(endpoint: str, rng: random.Random) -> int:
    """Random bytes, empty frames, several frames, one long row of nothing."""
    frames: list[list[bytes]] = [[rng.randbytes(rng.randrange(300))] for _ in range(40)]
    frames += [[b""], [b"", b""], [b"a", b"b", b"c"], [b"\x93" * 5000], [rng.randbytes(2**18)], [b"\xc1"]]
    with Dealer(endpoint) as dealer:
        return dealer.send(frames)


def truncated_messages(endpoint: str, rng: random.Random) -> int:
    """Messages of ours that end early, have one byte changed, or too much at their end."""
    frames: list[list[bytes]] = []
    for message in HARMLESS:
        whole = encode(message, str(rng.randrange(10**6)))
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        frames += [[whole[: rng.randrange(len(whole))]], [bytes(damaged)], [whole + rng.randbytes(5)]]
    with Dealer(endpoint) as dealer:
        return dealer.send(frames)


def huge_claims(endpoint: str, rng: random.Random) -> int:
    """msgpack that claims to hold thousands of millions of things, and nests without end."""
    head = b"\x93\x01\xa11"
    claims = [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 100_000,
    ]
    array = msgpack.packb(["<f8", [2**31, 2**31], b""])
    body = {"t": "SimSpectrumQuery", "sample_x_m": 0.0, "sample_y_m": 0.0}
    lying = msgpack.packb([PROTOCOL_VERSION, "1", {**body, "energy_v": msgpack.ExtType(1, array)}])
    with Dealer(endpoint) as dealer:
        return dealer.send([[claim] for claim in claims] + [[head + claim] for claim in claims] + [[lying]])


# ---- messages that are not for here ----------------------------------------------------------------------


def wrong_versions(endpoint: str, rng: random.Random) -> int:
    """Frames and greetings of other protocol versions."""
    frames = [
        [msgpack.packb([version, str(rng.randrange(1000)), {"t": "Ping", "sent_s": 0.0}])]
        for version in (0, 2, 99, -1, 2**62, "1", None)
    ]
    frames += [[encode(Hello(peer="old", protocol=version), "1")] for version in (0, 99, 2**40)]
    with Dealer(endpoint) as dealer:
        return dealer.send(frames)


def unknown_kinds(endpoint: str, rng: random.Random) -> int:
    """Kinds of message that nobody knows: refused by name, with the request's own id.

    Raises:
        AssertionError: one was not refused, or not as unknown.
    """
    kind = f"Teleport{rng.randrange(1000)}"
    with Dealer(endpoint) as dealer:
        dealer.ask(encode(HARMLESS[0], "hello"), "hello")
        answer = dealer.ask(msgpack.packb([PROTOCOL_VERSION, "q", {"t": kind, "where": "moon"}]), "q")
    if not isinstance(answer, Refusal) or answer.code != "unknown-kind" or kind not in answer.reason:
        raise AssertionError(f"{endpoint} answered the unknown kind {kind} with {answer}")
    return 1


def misplaced_messages(endpoint: str, rng: random.Random) -> int:
    """Whole messages of ours that change nothing, most of them at the wrong port."""
    with Dealer(endpoint) as dealer:
        sent = dealer.send([[encode(HARMLESS[0], "0")]])
        sent += dealer.send(
            [[encode(message, str(k))] for k, message in enumerate(rng.sample(HARMLESS, k=len(HARMLESS)))]
        )
        dealer.drain()
    return sent


def many_greetings(endpoint: str, rng: random.Random) -> int:
    """Many peers that greet and go."""
    count = 20
    for k in range(count):
        with Dealer(endpoint) as dealer:
            dealer.send(
                [[encode(Hello(peer=f"{k}" * rng.randrange(1, 200), protocol=PROTOCOL_VERSION), "1")]]
            )
    return count


def answers_unread(endpoint: str, rng: random.Random) -> int:
    """A peer that asks and asks and never reads what it is told."""
    frames = [[encode(HARMLESS[0], "0")]]
    frames += [[encode(msgspec.structs.replace(Ping(), sent_s=float(k)), str(k))] for k in range(1500)]
    with Dealer(endpoint, reading=False) as dealer:
        dealer.socket.setsockopt(zmq.LINGER, 0)
        return dealer.send(frames)


def flood_and_go(endpoint: str, rng: random.Random) -> int:
    """More than any queue holds, as fast as it goes, and then gone in the middle of it."""
    with Dealer(endpoint) as dealer:
        dealer.socket.setsockopt(zmq.LINGER, 50)
        return dealer.send([[rng.randbytes(200)]] * 3000)


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        random_bytes,
        http2_and_tls,
        huge_frames,
        garbage_frames,
        truncated_messages,
        huge_claims,
        wrong_versions,
        unknown_kinds,
        misplaced_messages,
        many_greetings,
        answers_unread,
        flood_and_go,
    )
}


RAW = ("random bytes", "huge frames", "http2 and tls")
"""Attacks that make sense at any TCP port, also at those of Ray."""


# ---- connections that stay -------------------------------------------------------------------------------


class Lingerers:
    """Connections to every port that say nothing, or say it byte by byte, and are opened again when cut."""

    def __init__(self, endpoints: Sequence[str], each: int, rng: random.Random) -> None:
        self._endpoints = endpoints
        self._rng = rng
        self._each = each
        self._open: list[tuple[socket.socket, str, bytes]] = []
        self.opened = 0
        self.cut = 0

    def tend(self) -> None:
        """Open what is missing; every slow one says one byte more."""
        for endpoint in self._endpoints:
            have = sum(where == endpoint for _, where, _ in self._open)
            for k in range(have, self._each):
                connection = connect(endpoint)
                connection.setblocking(False)
                self._open.append((connection, endpoint, self._speech(k)))
                self.opened += 1
        self._open = [one for one in map(self._continue, self._open) if one is not None]

    def _speech(self, k: int) -> bytes:
        """What the k-th one means to say; nothing for half of them."""
        claim = b"\x02" + struct.pack(">Q", 50 * 2**20) + self._rng.randbytes(4000)
        return (b"", GREETING + _ready() + claim, b"", self._rng.randbytes(4000))[k % 4]

    def _continue(self, one: tuple[socket.socket, str, bytes]) -> tuple[socket.socket, str, bytes] | None:
        connection, endpoint, speech = one
        try:
            # the beginning of a proper one is said at once: it shall come past the handshake's deadline
            head = len(GREETING) + 30 if speech.startswith(GREETING) else 1
            connection.send(speech[:head])
            if select.select([connection], [], [], 0)[0] and not connection.recv(4096):
                raise ConnectionResetError
        except BlockingIOError:
            return one
        except OSError:
            connection.close()
            self.cut += 1
            return None
        rest = speech[head:]
        return connection, endpoint, (b"\0" + rest if len(rest) == 0 and speech else rest)

    def close(self) -> None:
        """Close them all."""
        for connection, _, _ in self._open:
            connection.close()
        self._open.clear()
