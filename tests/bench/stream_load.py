"""Keeps a gateway's data socket busy: reads a finished frame again and again, as fast as it comes.

Run as a process: python -m tests.bench.stream_load ENDPOINT JOB; ends when its standard input closes and
then prints how many chunks and bytes it got in how many seconds.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STREAMS = 2
CREDITS = 64


async def read_again_and_again(endpoint: str, job_id: str) -> dict[str, float]:
    """Read until standard input closes."""
    from protocols.links.streams import AsyncStreamClient
    from protocols.messages.data import Chunk, FrameLines

    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    chunks = size = 0
    began = time.monotonic()

    async def one() -> None:
        nonlocal chunks, size
        async with AsyncStreamClient(endpoint, "load") as client:
            while not over.done():
                async for item in client.stream(job_id, credits=CREDITS, silence_timeout_s=20.0):
                    if not isinstance(item, Chunk):
                        continue
                    if chunks == 0:
                        print("streaming", flush=True)
                    chunks += 1
                    if isinstance(item.body, FrameLines):
                        size += sum(channel.values.nbytes for channel in item.body.channels)

    await asyncio.gather(*(one() for _ in range(STREAMS)))
    return {"chunks": chunks, "bytes": size, "seconds": time.monotonic() - began}


@contextmanager
def data_stream_saturated(endpoint: str, job_id: str) -> Iterator[dict[str, Any]]:
    """A process that reads all the time; what it read is in the mapping afterwards."""
    command = [sys.executable, "-m", "tests.bench.stream_load", endpoint, job_id]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    told: dict[str, Any] = {}
    try:
        assert reader.stdout is not None
        if reader.stdout.readline().strip() != "streaming":
            raise RuntimeError("the data stream of the load did not begin")
        yield told
    finally:
        try:
            out, _ = reader.communicate(timeout=30)
            told.update(json.loads(out.strip().splitlines()[-1]) if out.strip() else {})
        except subprocess.TimeoutExpired:
            reader.kill()
            reader.wait()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(read_again_and_again(*sys.argv[1:3]))), flush=True)
