"""Stop: from the message leaving ``stmctl withdraw`` to the retraction that begins in the truth log.

Each trial runs the installed console script against a gateway whose data stream is saturated while two
planners fit on both cores; half of the trials fall into a running sweep of one second.  Message and truth
log carry stamps of the same system-wide monotonic clock.

Run: python -m tests.bench stop [--trials N]
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.files.truth_log import TruthEntry, truth_path
from protocols.links.client import CommandClient
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import Engage, Frame, SpectrumRecipe
from protocols.messages.simdoor import SimReadState
from tests.bench.figures import Figure, Findings, percentiles
from tests.bench.planner_load import planners_fitting
from tests.bench.stream_load import data_stream_saturated
from tests.cluster.gateway_harness import Gateway, Simulator, await_that, gateway

STMCTL = Path(sys.executable).parent / "stmctl"
STAMPED = Path(__file__).parent / "stamped_command.py"
TRIALS = 500
SWEEP_S = 1.0
TARGET_MS = 50.0
PLANNERS = 2
ENGAGE_TRIES = 3
LONGEST_S = 360.0
"""On a machine that is busy otherwise fewer trials are done; their number stands beside the figure."""
FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=10e-9,
    height_m=10e-9,
    pixels=256,
    lines=128,
    bias_v=0.5,
    setpoint_a=5e-11,
    line_time_s=0.01,
)
SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=5e-11,
    settle_s=0.01,
    z_offset_m=0.0,
    start_v=0.5,
    stop_v=0.1,
    points=200,
    dwell_s=SWEEP_S / 200,
)


@dataclass(frozen=True)
class Trial:
    """One stop."""

    latency_s: float
    command_s: float
    round_trip_s: float
    during: str
    """What the microscope did when the retraction began: "sweep", or "" (tunneling, no activity)."""


class TruthTail:
    """Reads a truth log on from where it stopped."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def new(self) -> list[TruthEntry]:
        """Whole entries since the last call."""
        import msgspec

        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [msgspec.json.decode(line, type=TruthEntry) for line in lines if line]

    def retraction(self, after_s: float) -> TruthEntry:
        """Wait for the first retraction after a moment of the monotonic clock."""

        def look() -> TruthEntry | None:
            found = [e for e in self.new() if e.event == "retraction" and e.monotonic_s >= after_s]
            return found[0] if found else None

        return await_that("the retraction in the truth log", look)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Range:
    """Microscope and gateway, brought to the surface before each trial."""

    def __init__(self, sim: Simulator, gate: Gateway, seed: int) -> None:
        self.sim, self.gate = sim, gate
        self.door = CommandClient(sim.door, "bench", "stmsim")
        self.tail = TruthTail(truth_path(sim.state))
        self.rng = random.Random(seed)
        self._jobs = 0

    def close(self) -> None:
        """Close socket and file."""
        self.door.close()
        self.tail.close()

    def engage(self) -> None:
        """Down to tunneling; again if the last stop still reaches it (a machine under load)."""
        for _ in range(ENGAGE_TRIES):
            self._jobs += 1
            self.gate.renew()
            job = f"bench/engage-{self._jobs}/a1"
            self.gate.submit(job, Engage(bias_v=0.5, setpoint_a=5e-11, settle_s=0.02))
            answer = self.gate.final(job)
            if answer.state == "finished":
                return
            self.gate.parked()
        raise RuntimeError(f"engage: {answer.state}, {answer.reason}")

    def saturating_frame(self) -> str:
        """Take the frame whose data are read again and again; its job."""
        job = "bench/f0001/a1"
        self.engage()
        self.gate.submit(job, FRAME)
        answer = await_that("the frame", lambda: self._kept(job), 60.0)
        if answer.state != "finished":
            raise RuntimeError(f"frame: {answer.state}, {answer.reason}")
        return job

    def _kept(self, job: str) -> Any:
        self.gate.renew()
        answer = self.gate.state_of(job)
        return answer if answer.state not in ("ready", "running") else None

    def begin_sweep(self) -> None:
        """A sweep of one second is under way when this returns."""
        self._jobs += 1
        self.gate.sweep(f"bench/d{self._jobs:05d}/a1", spectrum=SPECTRUM)
        await_that("the sweep", self._sweeping)

    def _sweeping(self) -> bool:
        state = self.door.request(SimReadState(), 2.0)
        return isinstance(state, InstrumentState) and state.sweeping

    def trial(self, in_sweep: bool) -> Trial:
        """Engage, be somewhere, stop, measure."""
        self.engage()
        if in_sweep:
            self.begin_sweep()
        time.sleep(self.rng.uniform(0.0, 0.3 if in_sweep else 0.02))
        command = [sys.executable, str(STAMPED), str(STMCTL)]
        command += ["withdraw", "--state", str(self.gate.state), "--json"]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        took = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(f"stmctl withdraw: status {done.returncode}, {done.stderr}")
        told, stamp = done.stdout.strip().splitlines()
        sent_s = float(stamp.split()[1])
        retraction = self.tail.retraction(sent_s)
        if not retraction.detail["moved"]:
            raise RuntimeError("the tip was withdrawn already")
        self.gate.parked("operator")
        return Trial(
            latency_s=retraction.monotonic_s - sent_s,
            command_s=took,
            round_trip_s=json.loads(told)["round_trip_s"],
            during=str(retraction.detail["during"]),
        )


def measure(trials: int, seed: int = 0, planners: int = PLANNERS) -> dict[str, Any]:
    """All trials; times in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="bench-stop-") as folder:
        sim = Simulator(Path(folder) / "sim", "--time-scale", "1")
        try:
            with gateway(Path(folder) / "gate", sim.door) as gate:
                gate.acquire()
                site = Range(sim, gate, seed)
                try:
                    return _trials(site, trials, planners)
                finally:
                    site.close()
        finally:
            sim.close()


def _trials(site: Range, trials: int, planners: int) -> dict[str, Any]:
    job = site.saturating_frame()
    done: list[Trial] = []
    load: dict[str, Any]
    priority = os.getpriority(os.PRIO_PROCESS, site.gate.process.pid)
    wanted = {"sweep": (trials + 1) // 2, "": trials // 2}
    with planners_fitting(planners), data_stream_saturated(site.gate.endpoint("data"), job) as load:
        began = time.monotonic()
        while any(wanted.values()) and time.monotonic() - began < LONGEST_S:
            trial = site.trial(in_sweep=wanted["sweep"] >= wanted[""])
            if wanted.get(trial.during, 0) > 0:  # a stop that came after the sweep's end counts as the other
                wanted[trial.during] -= 1
                done.append(trial)
        seconds = time.monotonic() - began
    return {
        "trials": len(done),
        "latency_ms": percentiles((t.latency_s for t in done), 1e-3),
        "in_sweep_ms": percentiles((t.latency_s for t in done if t.during == "sweep"), 1e-3),
        "tunneling_ms": percentiles((t.latency_s for t in done if t.during == ""), 1e-3),
        "answer_ms": percentiles((t.round_trip_s for t in done), 1e-3),
        "command_ms": percentiles((t.command_s for t in done), 1e-3),
        "planners": planners,
        "stream": load,
        "guard_niceness": priority,
        "seconds": seconds,
    }


def findings(trials: int = TRIALS) -> Findings:
    """For the table."""
    raw = measure(trials)
    latency, command = raw["latency_ms"], raw["command_ms"]
    stream = raw["stream"]
    rate = stream["bytes"] / stream["seconds"] / 1e6 if stream.get("seconds") else 0.0
    in_sweep, tunneling = raw["in_sweep_ms"]["p99"], raw["tunneling_ms"]["p99"]
    load = f"{raw['trials']} trials, {raw['planners']} planners fitting, stream {rate:.0f} MB/s"
    figures = [
        Figure("stop", "stmctl's message to retraction, p50", latency["p50"], "ms", load),
        Figure(
            "stop",
            "stmctl's message to retraction, p99",
            latency["p99"],
            "ms",
            f"in a 1 s sweep {in_sweep:.1f} ms, tunneling {tunneling:.1f} ms",
            f"p99 < {TARGET_MS:g} ms",
            latency["p99"] < TARGET_MS,
        ),
        Figure(
            "stop",
            "stmctl's message to retraction, worst",
            latency["worst"],
            "ms",
            "quoted: fastest watchdog of a public STM system, 4000 ms or more",
        ),
        Figure("stop", "the whole command, p99", command["p99"], "ms", f"p50 {command['p50']:.0f} ms"),
    ]
    return Findings(figures, raw)
