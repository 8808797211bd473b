"""Garbage on the ports: servers go on answering, and say how much of it they got."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq
from link_servers import DEADLINE_S, CountedSource, serving_commands, serving_stream

from protocols.links.client import CommandClient
from protocols.links.sockets import connect_dealer
from protocols.links.streams import AsyncStreamClient
from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.codec import encode
from protocols.messages.control import Done, GuardQuery, Hello
from protocols.messages.data import EndOfStream, OpenStream

GARBAGE_S = 1.2
"""How long each server is bombarded."""


def raw_tcp(endpoint: str, rng: random.Random) -> None:
    """Connections that speak no ZMTP, break off in the handshake, or say nothing at all."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    for beginning in (
        rng.randbytes(200),
        greeting[: rng.randrange(1, 64)],
        greeting + rng.randbytes(300),
        b"",
    ):
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
            try:
                connection.sendall(beginning)
            except ConnectionError:
                pass  # hung up on, as it deserves


def zmtp_frames(endpoint: str, rng: random.Random) -> None:
    """Proper connections that send bytes, empty and several frames, and damaged messages."""
    frames: list[list[bytes]] = [[rng.randbytes(rng.randrange(200))] for _ in range(50)]
    frames += [[b""], [b"", b""], [b"a", b"b", b"c"], [b"\x93" * 5000]]
    messages: list[Message] = [Hello(peer="x", protocol=PROTOCOL_VERSION), OpenStream(job_id="x"), Done()]
    for message in messages:
        damaged = bytearray(encode(message, "1"))
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        frames.append([bytes(damaged)])
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        connect_dealer(dealer, endpoint, "garbage")
        dealer.setsockopt(zmq.SNDTIMEO, int(DEADLINE_S * 1000))
        dealer.setsockopt(zmq.LINGER, int(DEADLINE_S * 1000))  # all of it shall arrive
        for parts in frames:
            dealer.send_multipart(parts)


@contextmanager
def bombarded(endpoint: str) -> Iterator[Callable[[], bool]]:
    """Garbage of all sorts from threads, and half-open connections; yields "is it still going on"."""
    over = time.monotonic() + GARBAGE_S
    failures: list[BaseException] = []

    def bombard(throw: Callable[[str, random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        try:
            while time.monotonic() < over:
                throw(endpoint, rng)
        except OSError as error:
            failures.append(error)

    threads = [
        threading.Thread(target=bombard, args=(throw, seed))
        for seed, throw in enumerate((raw_tcp, zmtp_frames))
    ]
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    half_open = [socket.create_connection((host, int(port)), timeout=DEADLINE_S) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: time.monotonic() < over
    finally:
        for thread in threads:
            thread.join(DEADLINE_S)
        for connection in half_open:
            connection.close()
    assert not failures


def test_a_command_server_answers_through_garbage() -> None:
    """During and after the bombardment every request is answered, and the garbage is counted."""
    with serving_commands() as server:
        with CommandClient(server.endpoint, "console", "server") as client, bombarded(server.endpoint) as on:
            while on():
                assert client.request(GuardQuery(), DEADLINE_S) == Done(note="console")
        with CommandClient(server.endpoint, "another", "server") as client:
            assert client.request(GuardQuery(), DEADLINE_S) == Done(note="another")
        counts = server.statistics
    assert counts["malformed"] > 50
    assert counts["unanswered"] == 0
    assert counts["undeliverable"] <= counts["messages"]


def test_a_stream_server_serves_through_garbage() -> None:
    """During and after the bombardment streams arrive whole."""

    async def whole(client: AsyncStreamClient) -> int:
        count = 0
        async for item in client.stream(CountedSource.job_id, silence_timeout_s=DEADLINE_S):
            if isinstance(item, EndOfStream):
                assert item.last_seq == count - 1
            else:
                assert item.seq == count
                count += 1
        return count

    async def main() -> None:
        with serving_stream(CountedSource(50)) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                with bombarded(server.endpoint) as on:
                    while on():
                        assert await whole(client) == 50
                assert await whole(client) == 50
            assert server.statistics["malformed"] > 50
            assert server.statistics["open"] == 0

    asyncio.run(main())
