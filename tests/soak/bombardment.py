"""Bombards several ports at the same time, from a process of its own; says what it sent.

Run as a process: python -m tests.soak.bombardment SECONDS SEED TARGET ...; a target is KIND+tcp://ADDRESS:PORT.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.garbage import ATTACKS, RAW, Attack, Lingerers
from tests.soak.nanonis_crowd import CROWD, Queue
from tests.soak.nanonis_garbage import SERVED, honest_client

ROOT = Path(__file__).parents[2]
LINGERERS_EACH = 16
QUEUED_EACH = 6
TEND_S = 0.05
BREATH_S = 0.05
"""Between two attacks on one port: garbage shall be everywhere, but this is no contest for two cores."""
MOST_FAULTS = 40

OURS, FOREIGN, NANONIS, OCCUPIED = "ours", "foreign", "nanonis", "occupied"
"""Kinds of ports: our own messages over ZeroMQ; any protocol at all (Ray's); Nanonis, where strangers are
served; one client at a time, and there is one."""

KINDS: Mapping[str, Mapping[str, Attack]] = {
    OURS: ATTACKS,
    FOREIGN: {name: ATTACKS[name] for name in RAW},
    NANONIS: {f"nanonis: {name}": attack for name, attack in SERVED.items()},
    OCCUPIED: CROWD,
}


def targets(kind: str, endpoints: Sequence[str]) -> list[str]:
    """Endpoints as this process wants them."""
    return [f"{kind}+{endpoint}" for endpoint in endpoints]


@dataclass
class Told:
    """What was sent, and what came of it."""

    ports: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    served_s: list[float] = field(default_factory=list)
    """Seconds until an honest client of a Nanonis port had its answer, right after each attack."""

    def fault(self, text: str) -> None:
        """One more thing that went wrong."""
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)


def bombard(seconds: float, seed: int, aimed_at: Sequence[str]) -> Told:
    """Until the time is over; counts by attack, and what went wrong with the attacks."""
    over = threading.Event()
    told = Told(len(aimed_at))
    aims = [(kind, endpoint) for kind, _, endpoint in (target.partition("+") for target in aimed_at)]
    threads = [
        threading.Thread(target=_one_port, args=(kind, endpoint, random.Random(f"{seed} {k}"), over, told))
        for k, (kind, endpoint) in enumerate(aims)
    ]
    rng = random.Random(seed)
    lingerers = Lingerers([e for kind, e in aims if kind in (OURS, FOREIGN)], LINGERERS_EACH, rng)
    queue = Queue([e for kind, e in aims if kind == OCCUPIED], QUEUED_EACH, rng)
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for staying in (lingerers, queue):
            try:
                staying.tend()
            except (OSError, AssertionError) as fault:
                told.fault(f"connections that stay: {fault}")
        time.sleep(TEND_S)
    over.set()
    for thread in threads:
        thread.join(60)
    lingerers.close()
    queue.close()
    told.counts["connections that stay"] = lingerers.opened
    told.counts["of these cut by the server"] = lingerers.cut
    told.counts["crowd: connections that stay"] = queue.opened
    return told


def _one_port(kind: str, endpoint: str, rng: random.Random, over: threading.Event, told: Told) -> None:
    names = list(KINDS[kind])
    while not over.is_set():
        rng.shuffle(names)
        for name in names:
            if over.is_set():
                return
            try:
                told.counts[name] += KINDS[kind][name](endpoint, rng)
                if kind == NANONIS:
                    told.served_s.append(honest_client(endpoint))
            except (OSError, AssertionError) as fault:  # a port that does not take connections has died
                told.fault(f"{endpoint}, {name}: {type(fault).__name__}: {fault}")
            over.wait(BREATH_S)


class Bombardment:
    """The bombardment as a process."""

    def __init__(self, seconds: float, seed: int, aimed_at: Sequence[str]) -> None:
        command = [sys.executable, "-m", "tests.soak.bombardment", str(seconds), str(seed), *aimed_at]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._seconds = seconds

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> Told:
        """Wait for its end; what it sent."""
        try:
            out, _ = self._process.communicate(timeout=self._seconds + 90.0)
        finally:
            self.close()
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return Told(**{**found, "counts": Counter(found["counts"])})

    def close(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    told = bombard(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    sys.stdout.write(json.dumps(vars(told)) + "\n")
