"""The simulated microscope as an instrument: how fast it answers, and how much faster than real time it is.

Latency: one question at a time to ``stmsim`` in a process of its own, over its ZeroMQ door and over its
Nanonis TCP door, beside a bare socket that echoes as many bytes.  Real-time factor: instrument seconds per
wall second of frames and sweeps with everything on (atoms or standing waves, PI loop at 20 kHz, noise, creep,
hysteresis, tilt), on a stepped clock, one core.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from actors.gateway.drivers.sim import SimDriver
from protocols.files.state_directory import read_endpoints
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from protocols.nanonis.framing import ClientConnection
from sim_hardware import motions
from sim_hardware.clock import SteppedClock
from sim_hardware.controller import warm_up
from sim_hardware.scanner import PRESETS
from sim_hardware.scanning import frame
from sim_hardware.surfaces.catalogue import SAMPLES
from sim_hardware.sweeping import sweep
from sim_hardware.tip_at_surface import WorldSettings
from sim_hardware.truth import TruthPen
from sim_hardware.world import World
from tests.bench.figures import Figure, Findings

QUESTIONS = 2000
START_S = 60.0
ASKED = "Bias.Get"
PORTS = (16501, 16504)

_PROCESSES = multiprocessing.get_context("spawn")


def findings() -> Findings:
    """Latencies and real-time factors as lines of the common table."""
    raw: dict[str, Any] = {"raw socket": time_echo(QUESTIONS)}
    with simulated() as state:
        raw["Nanonis TCP"] = time_nanonis(PORTS[0], QUESTIONS)
        raw["ZeroMQ"] = time_zeromq(state, QUESTIONS)
    bare = raw["raw socket"]
    beside = f"raw socket, as many bytes: {bare['p50_us']:.0f} / {bare['p99_us']:.0f} us"
    figures = []
    for name, question in (("Nanonis TCP", ASKED), ("ZeroMQ", "SimReadState")):
        for key, title in (("p50_us", "p50"), ("p99_us", "p99")):
            figures.append(
                Figure("instrument", f"{question} over {name}, {title}", raw[name][key], "us", beside)
            )
    raw["real time"] = {name: real_time(name) for name in sorted(SAMPLES)}
    for name, found in raw["real time"].items():
        beside = f"sweep {found['sweep']:.0f} x, frame of {found['frame_wall_s']:.2f} s of one core"
        title = f"{name}: instrument time over wall time, frame 256 x 32 at 0.5 s per line"
        figures.append(Figure("instrument", title, found["frame"], "x", beside))
    return Findings(figures, raw)


def time_nanonis(port: int, count: int) -> dict[str, float]:
    """One question after the other over the Nanonis TCP door."""
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = ClientConnection()

        def ask() -> None:
            link.sendall(wire.send(ASKED))
            while wire.next_response() is None:
                wire.feed(link.recv(4096))

        return _timed(ask, count)


def time_zeromq(state: Path, count: int) -> dict[str, float]:
    """One question after the other over the ZeroMQ door, through the driver."""
    driver = SimDriver(str(read_endpoints(state, "sim")["door"]), "bench")
    try:
        return _timed(driver.state, count)
    finally:
        driver.close()


def time_echo(count: int) -> dict[str, float]:
    """A bare socket that echoes as many bytes as a question has."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_echo, args=(theirs,), daemon=True)
    process.start()
    message = ClientConnection().send(ASKED)
    with socket.create_connection(("127.0.0.1", ours.recv()), timeout=5.0) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> None:
            link.sendall(message)
            got = 0
            while got < len(message):
                got += len(link.recv(4096))

        found = _timed(ask, count)
    process.join(5.0)
    return found


def real_time(sample: str) -> dict[str, float]:
    """Instrument seconds per wall second of a frame and of sweeps over one sample."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        pen = TruthPen(Path(folder) / "truth.jsonl")
        settings = WorldSettings(scanner=PRESETS["usual"])
        world = World(SAMPLES[sample](1), SteppedClock(), pen, 1, settings)
        world.start()
        try:
            return _frame_and_sweeps(world)
        finally:
            world.close()
            pen.close()


def _frame_and_sweeps(world: World) -> dict[str, float]:
    bias = 0.015 if world.surface.name == "fese" else -1.5 if world.surface.name != "au111" else -0.4
    _do(world, "ramp", motions.ramp(bias, 10.0))
    world.set_setpoint(100e-12)
    world.set_feedback(True)
    _do(world, "settle", motions.settle(0.5))
    image = Frame(
        centre_x_m=0.0,
        centre_y_m=0.0,
        width_m=20e-9,
        height_m=2.5e-9,
        pixels=256,
        lines=32,
        bias_v=bias,
        setpoint_a=100e-12,
        line_time_s=0.5,
    )
    small = Frame(**{**{k: getattr(image, k) for k in image.__struct_fields__}, "lines": 1})
    spectrum = SpectrumRecipe(
        stabilise_bias_v=bias,
        stabilise_current_a=100e-12,
        settle_s=0.1,
        z_offset_m=0.0,
        start_v=bias,
        stop_v=-bias,
        points=101,
        dwell_s=10e-3,
        lockin=LockIn(amplitude_v=abs(bias) / 50.0, frequency_hz=977.0, time_constant_s=3e-3),
    )
    _do(world, "frame", frame(small))  # what is compiled or tabulated once is not counted
    _do(world, "sweep", sweep(spectrum))
    wall, instrument = time.perf_counter(), world.clock.now()
    _do(world, "frame", frame(image))
    frame_wall, frame_s = time.perf_counter() - wall, world.clock.now() - instrument
    wall, instrument = time.perf_counter(), world.clock.now()
    for _ in range(10):
        _do(world, "sweep", sweep(spectrum))
    sweep_wall, sweep_s = time.perf_counter() - wall, world.clock.now() - instrument
    return {"frame": frame_s / frame_wall, "frame_wall_s": frame_wall, "sweep": sweep_s / sweep_wall}


def _do(world: World, kind: str, run: motions.Run) -> None:
    activity = world.submit(kind, 0.0, run)
    activity.done.wait(120.0)
    if activity.state != "finished":
        raise RuntimeError(f"the {kind} ended as {activity.state}: {activity.reason}")


@contextmanager
def simulated() -> Iterator[Path]:
    """A simulated microscope in a process of its own with both doors open; yields its state directory."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        command = [
            sys.executable,
            "-m",
            "sim_hardware.stmsim",
            "--state",
            folder,
            "--nanonis-ports",
            f"{PORTS[0]}-{PORTS[1]}",
        ]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            _await_open(state, process)
            yield state
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30.0)


def _await_open(state: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while not (state / "sim" / "endpoints.json").exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"stmsim did not open within {START_S:g} s (status {process.poll()}).")
        time.sleep(0.05)


def _timed(ask: Callable[[], Any], count: int) -> dict[str, float]:
    for _ in range(50):
        ask()
    took = np.empty(count)
    for i in range(count):
        began = time.perf_counter()
        ask()
        took[i] = time.perf_counter() - began
    p50, p99, worst = (float(v) * 1e6 for v in np.percentile(took, [50, 99, 100]))
    return {"p50_us": p50, "p99_us": p99, "worst_us": worst, "count": float(count)}


def _echo(pipe: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        link, _ = server.accept()
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with link:
            while data := link.recv(4096):
                link.sendall(data)
