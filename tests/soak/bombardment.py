"""Bombards several ports at the same time, from a process of its own; says what it sent.

Run as a process: python -m tests.soak.bombardment SECONDS SEED ENDPOINT ...; an endpoint that is none of
ours is written raw+tcp://ADDRESS:PORT and gets what makes sense at any TCP port.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak.garbage import ATTACKS, RAW, Lingerers

ROOT = Path(__file__).parents[2]
LINGERERS_EACH = 16
TEND_S = 0.05
RAW_PREFIX = "raw+"
BREATH_S = 0.05
"""Between two attacks on one port: garbage shall be everywhere, but this is no contest for two cores."""


def bombard(seconds: float, seed: int, endpoints: list[str]) -> dict[str, Any]:
    """Until the time is over; counts by attack, and what went wrong with the attacks."""
    over = threading.Event()
    counts: Counter[str] = Counter()
    faults: list[str] = []

    def one_port(endpoint: str, number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        names = list(RAW if endpoint.startswith(RAW_PREFIX) else ATTACKS)
        where = endpoint.removeprefix(RAW_PREFIX)
        while not over.is_set():
            rng.shuffle(names)
            for name in names:
                if over.is_set():
                    return
                try:
                    counts[name] += ATTACKS[name](where, rng)
                except (OSError, AssertionError) as fault:  # a port that does not take connections has died
                    if len(faults) < 20:
                        faults.append(f"{endpoint}, {name}: {type(fault).__name__}: {fault}")
                over.wait(BREATH_S)

    threads = [
        threading.Thread(target=one_port, args=(endpoint, number))
        for number, endpoint in enumerate(endpoints)
    ]
    everywhere = [endpoint.removeprefix(RAW_PREFIX) for endpoint in endpoints]
    lingerers = Lingerers(everywhere, LINGERERS_EACH, random.Random(seed))
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            lingerers.tend()
            time.sleep(TEND_S)
    except OSError as fault:
        faults.append(f"connections that stay: {fault}")
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
        lingerers.close()
    counts["connections that stay"] = lingerers.opened
    counts["of these cut by the server"] = lingerers.cut
    return {"ports": len(endpoints), "counts": dict(counts), "faults": faults}


class Bombardment:
    """The bombardment as a process."""

    def __init__(self, seconds: float, seed: int, endpoints: list[str]) -> None:
        command = [sys.executable, "-m", "tests.soak.bombardment", str(seconds), str(seed), *endpoints]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._seconds = seconds

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> dict[str, Any]:
        """Wait for its end; what it sent."""
        try:
            out, _ = self._process.communicate(timeout=self._seconds + 90.0)
        finally:
            self.close()
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return found

    def close(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(bombard(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])) + "\n")
