"""How many commits a second the journal takes, directly and through writer and client.

``python tests/bench/bench_journal.py [--quick]`` prints a table; ``run(quick)`` gives the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actors.journal.client import JournalClient
from actors.journal.reader import JournalReader
from actors.journal.schema import run_file
from actors.journal.store import RunStore
from protocols.files.state_directory import read_endpoints
from protocols.messages.records import FrameImage, FrameTaken, OperatorAction, Record, Transform

SMALL = 16_000
"""Bytes of a record, about those of a spectrum."""


def run(quick: bool = False) -> dict[str, float]:
    """Figures by name: commits or records per second, and milliseconds at the 50th and 99th percentile."""
    count = 300 if quick else 3000
    frames = 5 if quick else 40
    with tempfile.TemporaryDirectory(prefix="bench-journal-") as name:
        state = Path(name)
        figures = _named("direct 16 kB", _direct(state, "direct", [_note(k) for k in range(count)]))
        figures |= _named("direct 2 MB frame", _direct(state, "frames", [_frame(k) for k in range(frames)]))
        figures |= _with_writer(state, count, frames)
        began = time.perf_counter()
        with JournalReader(run_file(state, "direct")) as reader:
            read = sum(1 for _ in reader.records())
        figures["read 16 kB, records/s"] = read / (time.perf_counter() - began)
    return figures


def _note(number: int) -> Record:
    body = OperatorAction(command="x" * SMALL, arguments={}, outcome="")
    return Record(key=f"k{number}", actor="bench", body=body)


def _frame(number: int) -> Record:
    image = FrameImage(channel="z", unit="m", bias_v=1.0, values=np.zeros((2, 512, 512), dtype=np.float32))
    place = {"centre_x_m": 0.0, "centre_y_m": 0.0, "width_m": 1e-8, "height_m": 1e-8, "angle_rad": 0.0}
    body = FrameTaken(
        job_id=f"bench/f{number}/a1",
        window=0,
        purpose="survey",
        images=(image,),
        transform=Transform(),
        began_s=0.0,
        ended_s=1.0,
        **place,
    )
    return Record(key=f"f{number}", actor="bench", body=body)


def _direct(state: Path, name: str, records: list[Record]) -> list[float]:
    store = RunStore(run_file(state, name))
    times = [_timed(lambda r=record: store.commit([r])) for record in records]  # type: ignore[misc]
    store.close()
    return times


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _with_writer(state: Path, count: int, frames: int) -> dict[str, float]:
    writer = subprocess.Popen([sys.executable, "-m", "actors.journal.writer", "--state", str(state)])
    try:
        end = time.monotonic() + 30
        while not (state / "journal" / "endpoints.json").exists() and time.monotonic() < end:
            time.sleep(0.02)
        read_endpoints(state, "journal")
        return asyncio.run(_through_client(state, count, frames))
    finally:
        writer.send_signal(signal.SIGTERM)
        writer.wait(20)


async def _through_client(state: Path, count: int, frames: int) -> dict[str, float]:
    client = JournalClient(state, "bench")
    await client.commit("client", [_note(-1)])
    figures: dict[str, float] = {}
    for title, records in (
        ("client 16 kB", [_note(k) for k in range(count)]),
        ("client 2 MB frame", [_frame(k) for k in range(frames)]),
    ):
        times = []
        for record in records:
            began = time.perf_counter()
            await client.commit("client", [record])
            times.append(time.perf_counter() - began)
        figures |= _named(title, times)
    began = time.perf_counter()
    window = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with window:
            await client.commit("pipelined", [_note(number)])

    await asyncio.gather(*(one(k) for k in range(count)))
    figures["client 16 kB, 16 under way, commits/s"] = count / (time.perf_counter() - began)
    await client.close()
    return figures


def _named(title: str, times: list[float]) -> dict[str, float]:
    return {
        f"{title}, commits/s": len(times) / sum(times),
        f"{title}, p50 ms": float(np.percentile(times, 50)) * 1e3,
        f"{title}, p99 ms": float(np.percentile(times, 99)) * 1e3,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds only")
    for name, value in run(parser.parse_args().quick).items():
        print(f"{name:<42} {value:>12.2f}")


if __name__ == "__main__":
    main()
