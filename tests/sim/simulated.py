"""Helpers of these tests: a world in this process, ``stmsim`` as a process of its own, a flat surface."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actors.gateway.drivers.sim import SimDriver
from protocols.files.state_directory import read_endpoints
from protocols.files.truth_log import TruthEntry, read_truth, truth_path
from sim_hardware import motions
from sim_hardware.situation import Activity
from sim_hardware.surfaces.base import MixtureSurface, SurfaceObject
from sim_hardware.surfaces.spectra import Spectrum
from sim_hardware.world import World

DEADLINE_S = 20.0


def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll a condition that another process or thread brings about; fail when it does not come in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline_s:g} s"
        os.sched_yield()


@dataclass
class Bench:
    """A world of this process with its truth log."""

    world: World
    truth: Path

    def do(self, kind: str, run: motions.Run) -> Activity:
        """Carry an activity out and raise what went wrong."""
        activity = self.world.submit(kind, 0.0, run)
        assert activity.done.wait(DEADLINE_S), f"the {kind} did not end"
        if activity.error is not None:
            raise activity.error
        assert activity.state != "failed", activity.reason
        return activity

    def engage(self, bias_v: float = -1.5, setpoint_a: float = 200e-12) -> None:
        """Bias and setpoint while withdrawn, then the controller, then settling."""
        self.do("ramp", motions.ramp(bias_v, 10.0))
        self.world.set_setpoint(setpoint_a)
        self.world.set_feedback(True)
        self.do("settle", motions.settle(0.5))

    def events(self, event: str) -> list[TruthEntry]:
        """Entries of the truth log so far."""
        self.world.pen.wait_durable(self.world.note("fault", kind="mark"))
        return [entry for entry in read_truth(self.truth) if entry.event == event]


@dataclass
class Stmsim:
    """A running ``stmsim``."""

    state: Path
    process: subprocess.Popen[bytes]
    drivers: list[SimDriver] = field(default_factory=list)

    def driver(self, role: str = "worker", answer_s: float = 2.0) -> SimDriver:
        """A driver that finds the door again after a restart."""
        made = SimDriver(lambda: str(read_endpoints(self.state, "sim")["door"]), role, answer_s)
        self.drivers.append(made)
        return made

    def truth(self) -> list[TruthEntry]:
        """The truth log."""
        return read_truth(truth_path(self.state))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def engage(driver: SimDriver, bias_v: float = -1.5, setpoint_a: float = 200e-12) -> None:
    """Through a driver: bias, setpoint, controller, settling."""
    driver.set_bias(bias_v, 10.0)
    driver.set_setpoint(setpoint_a)
    driver.set_feedback(True)
    driver.settle(0.5)


class Flat(MixtureSurface):
    """A flat surface with one spectrum."""

    name = "flat"
    extent_m = 1e-7
    objects: tuple[SurfaceObject, ...] = ()

    def __init__(self, spectrum: Spectrum | None = None) -> None:
        self.basis = (spectrum or Spectrum("metal", 1.0),)

    def relief(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Zero."""
        return np.zeros(np.shape(x_m))

    def weights(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """One."""
        return np.ones((1, *np.shape(x_m)))
