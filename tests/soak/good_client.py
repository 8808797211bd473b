"""A client that behaves well, on a Nanonis port of its own beside ports under attack: how long it waits.

Run as a process: python -m tests.soak.good_client SECONDS ENDPOINT; one request every so often on one
connection, and now and then a new connection.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

from protocols.nanonis.framing import encode_request
from tests.soak.bombardment import ROOT
from tests.soak.nanonis_garbage import Stranger

PERIOD_S = 0.05
ANEW_AFTER = 20
"""Requests on one connection."""


def measure(seconds: float, endpoint: str) -> tuple[list[float], list[str]]:
    """Round trips (s) of Bias.Get, and what went wrong."""
    until = time.monotonic() + seconds
    found: list[float] = []
    faults: list[str] = []
    while time.monotonic() < until and len(faults) < 20:
        try:
            with Stranger(endpoint) as client:
                for _ in range(ANEW_AFTER):
                    began = time.perf_counter()
                    client.say(encode_request("Bias.Get"))
                    client.must_hear(["Bias.Get"])
                    found.append(time.perf_counter() - began)
                    time.sleep(PERIOD_S)
        except (OSError, AssertionError) as fault:
            faults.append(f"good client: {type(fault).__name__}: {fault}")
    return found, faults


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed; 0 without any."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class GoodClient:
    """The client as a process."""

    def __init__(self, seconds: float, endpoint: str) -> None:
        command = [sys.executable, "-m", "tests.soak.good_client", str(seconds), endpoint]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._seconds = seconds

    def result(self) -> tuple[list[float], list[str]]:
        """Wait for its end; round trips (s) and faults."""
        try:
            out, _ = self._process.communicate(timeout=self._seconds + 60.0)
        finally:
            self.close()
        round_trips, faults = json.loads(out.strip().splitlines()[-1])
        return round_trips, faults

    def close(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(float(sys.argv[1]), sys.argv[2])) + "\n")
