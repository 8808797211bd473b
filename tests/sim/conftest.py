"""A simulated world in this process, and ``stmsim`` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulated import DEADLINE_S, Bench, Stmsim, until

from protocols.files.state_directory import read_endpoints
from protocols.messages.recipes import LockIn, SpectrumRecipe
from sim_hardware.clock import Clock, SteppedClock
from sim_hardware.surfaces.base import Surface
from sim_hardware.tip_at_surface import WorldSettings
from sim_hardware.truth import TruthPen
from sim_hardware.world import World


@pytest.fixture
def recipe() -> SpectrumRecipe:
    """A sweep from -1.5 to 1.5 V there and back with the lock-in on."""
    return SpectrumRecipe(
        stabilise_bias_v=-1.5,
        stabilise_current_a=200e-12,
        settle_s=0.1,
        z_offset_m=0.0,
        start_v=-1.5,
        stop_v=1.5,
        points=121,
        dwell_s=5e-3,
        backward=True,
        lockin=LockIn(amplitude_v=0.02, frequency_hz=977.0, time_constant_s=1e-3),
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes worlds; with a stepped clock unless told otherwise."""
    made: list[Bench] = []

    def make(surface: Surface, clock: Clock | None = None, seed: int = 1, **settings: object) -> Bench:
        path = tmp_path / f"truth{len(made)}.jsonl"
        world = World(
            surface,
            clock or SteppedClock(),
            TruthPen(path),
            seed,
            WorldSettings(**settings),  # type: ignore[arg-type]
        )
        world.start()
        made.append(Bench(world, path))
        return made[-1]

    yield make
    for one in made:
        one.world.close()
        one.world.pen.close()


@pytest.fixture
def stmsim(tmp_path: Path) -> Iterator[Callable[..., Stmsim]]:
    """Starts ``stmsim`` (stepped unless told otherwise) and waits until its door is open."""
    made: list[Stmsim] = []

    def start(*arguments: str, state: Path | None = None) -> Stmsim:
        where = state or tmp_path / "state"
        command = [sys.executable, "-m", "sim_hardware.stmsim", "--state", str(where), *arguments]
        process = subprocess.Popen(command)
        one = Stmsim(where, process)
        made.append(one)

        def is_open() -> bool:
            assert process.poll() is None, f"stmsim ended with {process.returncode}"
            published = where / "sim" / "endpoints.json"
            return published.exists() and read_endpoints(where, "sim")["pid"] == process.pid

        until(is_open, "the door to open")
        return one

    yield start
    for one in made:
        for driver in one.drivers:
            driver.close()
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(DEADLINE_S)
