"""Building blocks for tests of the gateway's parts: limits, recipes, a desk with its executor over fake
electronics."""

from __future__ import annotations

import threading
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from fake_driver import FakeDriver, FakeElectronics

from actors.gateway.executor import Executor
from actors.gateway.gate import Gate
from actors.gateway.job_run import GuardLink
from actors.gateway.queue import Job
from protocols.errors import TunnelpilotError
from protocols.files.limits_toml import Limits, read_limits
from protocols.messages.jobs import Priority
from protocols.messages.recipes import Engage, Frame, LockIn, Recipe, SpectrumRecipe, Sweep

SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=1e-10,
    settle_s=0.05,
    z_offset_m=0.0,
    start_v=-0.5,
    stop_v=0.5,
    points=11,
    dwell_s=0.01,
    lockin=LockIn(amplitude_v=0.005, frequency_hz=900.0, time_constant_s=0.001),
)

FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=20e-9,
    height_m=20e-9,
    pixels=8,
    lines=4,
    bias_v=0.5,
    setpoint_a=1e-10,
    line_time_s=0.05,
)

ENGAGE = Engage(bias_v=0.5, setpoint_a=1e-10, settle_s=0.1)


def shipped_limits(**changes: float) -> Limits:
    """The simulator's limits, some of them changed."""
    path = Path(str(resources.files("actors.gateway").joinpath("limits", "simulator.toml")))
    return msgspec.structs.replace(read_limits(path), **changes)


def sweep_at(x_m: float = 0.0, y_m: float = 0.0, **changes: Any) -> Sweep:
    """A sweep whose spectrum is changed."""
    return Sweep(x_m=x_m, y_m=y_m, spectrum=msgspec.structs.replace(SPECTRUM, **changes))


def job_of(recipe: Recipe, job_id: str = "run/d0001/a1") -> Job:
    """A job that is about to be acted on."""
    job = Job(job_id=job_id, recipe=recipe, epoch=1, priority=Priority.CAMPAIGN, deadline_s=float("inf"))
    job.machine.feed("accept")
    job.machine.feed("start")
    return job


class FakeGuard(GuardLink):
    """Grants every engage and parks when asked, at once and on the caller's thread."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.engaged: list[str] = []
        self.refusal: TunnelpilotError | None = None
        self.bench: Bench | None = None

    def ask_park(self, reason: str, cause: str, latch: str = "") -> None:
        """Written down and carried out."""
        self.asked.append((reason, cause, latch))
        if self.bench is not None:
            self.bench.park(reason)

    def ask_engage(self, job_id: str, withdrawal_mark: str, timeout_s: float) -> None:
        """Granted unless ``refusal`` is set."""
        if self.refusal is not None:
            raise self.refusal

    def engage_done(self, job_id: str) -> None:
        """Written down."""
        self.engaged.append(job_id)


class Bench:
    """An executor over fake electronics, its gate open, the tip withdrawn."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.electronics = FakeElectronics()
        self.limits = limits or shipped_limits()
        self.quiet: list[int] = []
        self.silenced = threading.Event()
        self.gate = Gate(self._quiet)
        self.gate.open(0)
        self.guard = FakeGuard()
        self.guard.bench = self
        self.driver = FakeDriver(self.electronics)
        self.executor = Executor(
            lambda: self.driver, self.electronics.info, self.limits, self.gate, self.guard
        )
        self.lines: list[Any] = []

    def _quiet(self, generation: int) -> None:
        self.quiet.append(generation)
        self.silenced.set()

    def run(self, recipe: Recipe, job_id: str = "run/d0001/a1") -> Any:
        """Act on one recipe; the outcome."""
        return self.executor.run(job_of(recipe, job_id), self.lines.append)

    def engage(self) -> None:
        """Bring the tip to the surface."""
        outcome = self.run(ENGAGE, "run/engage/a1")
        assert outcome.state.value == "finished", outcome
        self.electronics.calls.clear()

    def start(self, recipe: Recipe, job: Job | None = None) -> tuple[threading.Thread, list[Any], Job]:
        """Act on a recipe in a thread of its own."""
        job = job or job_of(recipe)
        outcomes: list[Any] = []
        thread = threading.Thread(target=lambda: outcomes.append(self.executor.run(job, self.lines.append)))
        thread.start()
        return thread, outcomes, job

    def park(self, reason: str = "test", *, await_quiet: bool = False) -> None:
        """What the guard does: close the gate, withdraw, confirm (when the job thread acts no more)."""
        generation = self.gate.generation + 1
        self.executor.tip_parking()
        self.gate.close(generation, reason)
        guard = FakeDriver(self.electronics, "guard")
        guard.withdraw()
        guard.stop()
        if await_quiet and not self.silenced.wait(10.0):
            raise AssertionError("the worker was not quiet within 10 s")
        self.executor.tip_parked()
        self.gate.open(generation)
