"""How fast messages travel, and what a slow reader costs.

Round trips of a small command (two processes) for our clients and for bare zmq with msgpack; then 20,000
chunks of 8 KiB to a reader that takes 100 us for each, with the memory of both processes; the same reader
with PUB/SUB beside it.

Run: python tests/bench/bench_messages.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import zmq

from protocols.errors import UsageError
from protocols.links.async_client import AsyncCommandClient
from protocols.links.client import CommandClient
from protocols.links.reactor import Reactor
from protocols.links.server import CommandServer
from protocols.links.streams import AsyncStreamClient, StreamServer
from protocols.messages.codec import encode
from protocols.messages.control import Done
from protocols.messages.data import Channel, Chunk, EndOfStream, FrameLines
from protocols.messages.jobs import JobState, QueryJob

JOB = "bench/f0001/a1"
CHUNK_BYTES = 8192
READER_S = 100e-6
WINDOW = 16
QUESTION = QueryJob(job_id="bench/d0001/a1-0123456789abcdefghi")
"""About 64 bytes as a frame."""

_PROCESSES = multiprocessing.get_context("spawn")


class Source:
    """So many chunks, made when they are asked for."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._values = np.zeros(CHUNK_BYTES, dtype=np.uint8)

    def read(self, job_id: str, seq: int) -> Chunk | EndOfStream | None:
        """As ``StreamSource`` says."""
        if job_id != JOB:
            raise UsageError(f"no such job: {job_id}.")
        if seq == self._chunks:
            return EndOfStream(job_id=JOB, last_seq=seq - 1, state=JobState.FINISHED)
        channel = Channel(name="z", unit="m", values=self._values)
        return Chunk(job_id=JOB, seq=seq, body=FrameLines(rows=(seq,), channels=(channel,), time_s=0.0))


def serve_commands(pipe: Connection) -> None:
    """Answer every request with Done until the pipe says stop."""
    with CommandServer("tcp://127.0.0.1:0", "bench") as server:
        reactor = Reactor()
        reactor.add_commands(server, lambda request: request.reply(Done()))
        pipe.send(server.endpoint)
        while reactor.run_once(0.05) or not pipe.poll():
            pass


def serve_echo(pipe: Connection) -> None:
    """Bare zmq: unpack and pack every message, until the pipe says stop."""
    with zmq.Context.instance().socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        pipe.send(f"tcp://127.0.0.1:{port}")
        while not pipe.poll():
            while router.poll(50):
                identity, data = router.recv_multipart()
                router.send_multipart([identity, msgpack.packb(msgpack.unpackb(data))])


def serve_stream(pipe: Connection, chunks: int) -> None:
    """Serve one stream; at the end report the memory gained meanwhile and the statistics."""
    process = psutil.Process()
    with StreamServer("tcp://127.0.0.1:0", Source(chunks)) as server:
        reactor = Reactor()
        reactor.add_streams(server)
        pipe.send(server.endpoint)
        before = process.memory_info().rss
        peak = before
        while not pipe.poll():
            reactor.run_once(0.05)
            if server.statistics["chunks"] % 256 == 0:
                peak = max(peak, process.memory_info().rss)
        pipe.send((peak - before, server.statistics))


def publish(pipe: Connection, messages: int) -> None:
    """PUB with zmq's own bounds: everything as fast as it goes, then an end mark until the pipe says stop."""
    with zmq.Context.instance().socket(zmq.XPUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        pipe.send(f"tcp://127.0.0.1:{port}")
        publisher.recv()  # the subscription
        body = bytes(CHUNK_BYTES)
        for k in range(messages):
            publisher.send(msgpack.packb([k, body]))
        while not pipe.poll(0.01):
            publisher.send(msgpack.packb([-1, b""]))


class Peer:
    """A server in a process of its own."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        if not self.pipe.poll(60):
            raise RuntimeError("the server did not start within 60 s")
        self.endpoint: str = self.pipe.recv()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.send("stop")
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()


def figures(times_s: list[float]) -> dict[str, float]:
    """p50, p99 and the worst, in microseconds."""
    ordered = sorted(times_s)
    return {
        "p50_us": statistics.median(ordered) * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
        "worst_us": ordered[-1] * 1e6,
        "count": float(len(ordered)),
    }


def time_command_client(count: int) -> dict[str, float]:
    """Round trips of the synchronous client."""
    times = []
    with Peer(serve_commands) as peer, CommandClient(peer.endpoint, "bench", "server") as client:
        for k in range(count + 200):
            began = time.perf_counter()
            client.request(QUESTION, 5.0)
            if k >= 200:
                times.append(time.perf_counter() - began)
    return figures(times)


def time_async_client(count: int) -> dict[str, float]:
    """Round trips of the asynchronous client, one at a time."""

    async def main() -> list[float]:
        times = []
        with Peer(serve_commands) as peer:
            async with AsyncCommandClient(peer.endpoint, "bench", "server") as client:
                for k in range(count + 200):
                    began = time.perf_counter()
                    await client.request(QUESTION, 5.0)
                    if k >= 200:
                        times.append(time.perf_counter() - began)
        return times

    return figures(asyncio.run(main()))


def time_bare(count: int) -> dict[str, float]:
    """Round trips of bare zmq with msgpack, DEALER to ROUTER."""
    times = []
    body = {"t": "QueryJob", "job_id": QUESTION.job_id}
    with Peer(serve_echo) as peer, zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.connect(peer.endpoint)
        for k in range(count + 200):
            began = time.perf_counter()
            dealer.send(msgpack.packb([1, str(k), body]))
            if not dealer.poll(5000):
                raise RuntimeError("no answer within 5 s")
            msgpack.unpackb(dealer.recv())
            if k >= 200:
                times.append(time.perf_counter() - began)
    return figures(times)


def slow_reader(chunks: int) -> dict[str, float]:
    """A reader that spends 100 us on each chunk: what arrived, what was lost, memory gained."""

    async def main(peer: Peer) -> tuple[int, int, float, int]:
        process = psutil.Process()
        got = wrong = peak = 0
        before = process.memory_info().rss
        began = time.perf_counter()
        async with AsyncStreamClient(peer.endpoint, "bench") as client:
            async for item in client.stream(JOB, credits=WINDOW):
                if isinstance(item, EndOfStream):
                    wrong += item.last_seq != chunks - 1
                    continue
                wrong += item.seq != got
                got += 1
                until = time.perf_counter() + READER_S
                while time.perf_counter() < until:
                    pass
                if got % 256 == 0:
                    peak = max(peak, process.memory_info().rss - before)
        return got, wrong, time.perf_counter() - began, peak

    with Peer(serve_stream, chunks) as peer:
        got, wrong, seconds, reader_bytes = asyncio.run(main(peer))
        peer.pipe.send("report")
        sender_bytes, counts = peer.pipe.recv()
    return {
        "chunks": float(chunks),
        "chunk_bytes": float(CHUNK_BYTES),
        "received": float(got),
        "lost": float(chunks - got),
        "out_of_order": float(wrong),
        "sent": float(counts["chunks"]),
        "seconds": seconds,
        "us_per_chunk": seconds / chunks * 1e6,
        "reader_rss_gain_mib": reader_bytes / 2**20,
        "sender_rss_gain_mib": sender_bytes / 2**20,
        "window_mib": WINDOW * CHUNK_BYTES / 2**20,
        "all_chunks_mib": chunks * CHUNK_BYTES / 2**20,
    }


def slow_subscriber(messages: int) -> dict[str, float]:
    """The same reader with PUB/SUB: messages that arrived and that were dropped without a word."""
    got = 0
    began = time.perf_counter()
    with Peer(publish, messages) as peer, zmq.Context.instance().socket(zmq.SUB) as subscriber:
        subscriber.connect(peer.endpoint)
        subscriber.subscribe(b"")
        while True:
            if not subscriber.poll(10_000):
                raise RuntimeError("no message within 10 s")
            if msgpack.unpackb(subscriber.recv())[0] < 0:
                break
            got += 1
            until = time.perf_counter() + READER_S
            while time.perf_counter() < until:
                pass
    seconds = time.perf_counter() - began
    return {
        "messages": float(messages),
        "received": float(got),
        "lost": float(messages - got),
        "seconds": seconds,
    }


def run(quick: bool) -> dict[str, Any]:
    """All measurements; ``quick`` takes a tenth of the messages."""
    count = 500 if quick else 5000
    return {
        "frame_bytes": len(encode(QUESTION, "12345")),
        "round_trip": {
            "CommandClient": time_command_client(count),
            "AsyncCommandClient": time_async_client(count),
            "bare zmq + msgpack": time_bare(count),
        },
        "slow_reader": slow_reader(2000 if quick else 20000),
        "slow_reader_pub_sub": slow_subscriber(20000),
    }


def show(results: dict[str, Any]) -> None:
    """Print the results as tables."""
    print(f"round trip of {results['frame_bytes']} bytes, two processes   p50 us   p99 us  worst us")
    for name, row in results["round_trip"].items():
        print(f"  {name:<40} {row['p50_us']:>9.0f} {row['p99_us']:>8.0f} {row['worst_us']:>9.0f}")
    print(f"slow reader, {READER_S * 1e6:.0f} us per chunk, window {WINDOW}")
    for name, value in results["slow_reader"].items():
        print(f"  {name:<40} {value:>12.5g}")
    print("the same reader with PUB/SUB")
    for name, value in results["slow_reader_pub_sub"].items():
        print(f"  {name:<40} {value:>12.5g}")


def main(arguments: list[str]) -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results = run(options.quick)
    show(results)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
