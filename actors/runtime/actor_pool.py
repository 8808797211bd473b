"""Creates the Ray actors, watches them, and starts dead ones again within a budget."""

from __future__ import annotations

import asyncio
import importlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from actors.runtime.restart_budget import RestartBudget
from protocols.errors import DeadlineError, PeerError

CREATION_DEADLINE_S = 60.0
PING_EVERY_S = 1.0
PING_DEADLINE_S = 15.0
CONCURRENT_CALLS = 16
PENDING_CALLS = 200
"""A tripwire: more calls than this waiting on one actor is a bug of ours and raises at once."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ActorSpec:
    """Name and where the shell's class is."""

    name: str
    module: str
    shell: str


CAMPAIGN_ACTORS = (
    ActorSpec("scan_controller", "actors.scan_controller.actor", "ScanController"),
    ActorSpec("drift_tracker", "actors.drift_tracker.actor", "DriftTracker"),
    ActorSpec("spectroscopy_acquirer", "actors.spectroscopy_acquirer.actor", "SpectroscopyAcquirer"),
    ActorSpec("spectrum_classifier", "actors.spectrum_classifier.actor", "SpectrumClassifier"),
    ActorSpec("dkl_planner", "actors.dkl_planner.actor", "DklPlanner"),
    ActorSpec("zoom_supervisor", "actors.zoom_supervisor.actor", "ZoomSupervisor"),
)


class ActorLostError(PeerError):
    """The actor died during a call, which may or may not have had its effect (our calls are idempotent)."""

    code = "actor-lost"


class BudgetSpentError(PeerError):
    """An actor died too often; a person has to look."""

    code = "budget-spent"


@dataclass
class ActorHealth:
    """What ``stmctl status`` shows of one actor."""

    name: str
    state: str = "starting"
    pid: int = 0
    restarts: int = 0
    last_fault: str = ""
    calls: int = 0
    calls_pending: int = 0
    most_pending: int = 0


@dataclass
class _Slot:
    spec: ActorSpec
    budget: RestartBudget
    health: ActorHealth
    handle: Any = None
    generation: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    window: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_CALLS))
    spent: bool = False


class ActorPool:
    """The actors of one daemon.  ``on_fault(actor, what, action)`` is awaited for every death."""

    def __init__(self, state: Path, specs: tuple[ActorSpec, ...], on_fault: Any) -> None:
        self.state = state
        self._on_fault = on_fault
        self._slots = {
            s.name: _Slot(spec=s, budget=RestartBudget(), health=ActorHealth(s.name)) for s in specs
        }
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    @property
    def health(self) -> list[ActorHealth]:
        """State of every actor."""
        return [slot.health for slot in self._slots.values()]

    @property
    def spent(self) -> list[str]:
        """Actors whose restart budget is spent."""
        return [name for name, slot in self._slots.items() if slot.spent]

    async def start(self) -> None:
        """Create all actors (deadline 60 s) and begin to watch them."""
        await asyncio.gather(*(self._create(slot) for slot in self._slots.values()))
        self._tasks = [asyncio.create_task(self._watch(slot)) for slot in self._slots.values()]

    def forgive(self) -> None:
        """A person has looked: budgets are full again and spent actors are started."""
        for slot in self._slots.values():
            slot.budget.reset()
            slot.spent = False

    async def call(self, actor: str, method: str, *args: Any, deadline_s: float) -> Any:
        """Call an actor and wait for its answer; over a death the call is made again on the new actor.

        All methods of our actors are idempotent (they look into the journal first), which is what makes the
        repetition safe.

        Raises:
            DeadlineError: no answer within ``deadline_s``.
            BudgetSpentError: the actor died too often.
        """
        slot = self._slots[actor]
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        async with slot.window:
            slot.health.calls += 1
            slot.health.calls_pending += 1
            slot.health.most_pending = max(slot.health.most_pending, slot.health.calls_pending)
            try:
                while True:
                    try:
                        return await self._call_once(slot, method, args, until)
                    except ActorLostError as lost:
                        log.warning("call repeated on a new actor", actor=actor, method=method, why=str(lost))
            finally:
                slot.health.calls_pending -= 1

    def abandon(self) -> None:
        """The cluster is broken: nobody is watched or started any more.

        Asking a broken Ray for something blocks the loop for a minute and then ends the process.
        """
        self._closing = True
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Stop watching and end the actors."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        import ray

        for slot in self._slots.values():
            if slot.handle is not None:
                ray.kill(slot.handle)

    async def _call_once(self, slot: _Slot, method: str, args: tuple[Any, ...], until: float) -> Any:
        import ray.exceptions

        name = slot.spec.name
        left = until - asyncio.get_running_loop().time()
        if slot.spent:
            raise BudgetSpentError(
                f"{name} died {slot.health.restarts + 1} times within {slot.budget.window_s:g} s "
                f"(last: {slot.health.last_fault}).",
                "Look at its log, then stmctl resume.",
            )
        try:
            await asyncio.wait_for(slot.ready.wait(), max(left, 0.01))
            generation = slot.generation
            reply = getattr(slot.handle, method).remote(*args)
            return await asyncio.wait_for(
                asyncio.wrap_future(reply.future()), max(until - asyncio.get_running_loop().time(), 0.01)
            )
        except TimeoutError:
            raise DeadlineError(
                f"{name}.{method} gave no answer in time (state {slot.health.state}, pid {slot.health.pid}).",
                "Look at the daemon's log; stmctl resume tries again.",
            ) from None
        except (ray.exceptions.RayActorError, ray.exceptions.ActorUnavailableError) as dead:
            if slot.generation == generation:
                slot.ready.clear()
            raise ActorLostError(f"{name} died during {method}: {_first_line(dead)}") from dead
        except ray.exceptions.RayTaskError as failed:
            cause = failed.cause
            raise cause if isinstance(cause, Exception) else failed from None

    async def _create(self, slot: _Slot) -> None:
        import ray

        spec = slot.spec
        shell = getattr(importlib.import_module(spec.module), spec.shell)
        remote = ray.remote(shell).options(
            name=f"{spec.name}-{slot.generation}-{time.monotonic_ns()}",
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=CONCURRENT_CALLS * 2,
            max_pending_calls=PENDING_CALLS,
            enable_task_events=False,
        )
        handle = remote.remote(str(self.state))
        pid = await asyncio.wait_for(asyncio.wrap_future(handle.begin.remote().future()), CREATION_DEADLINE_S)
        slot.handle = handle
        slot.generation += 1
        slot.health.state, slot.health.pid = "up", pid
        slot.ready.set()
        log.info("actor ready", actor=spec.name, actor_pid=pid)

    async def _watch(self, slot: _Slot) -> None:
        """Ping; on death or silence start anew within the budget."""
        while not self._closing:
            await asyncio.sleep(PING_EVERY_S if slot.ready.is_set() else 0.05)
            if slot.spent:
                continue
            fault = await self._fault_of(slot)
            if fault:
                await self._restart(slot, fault)

    async def _fault_of(self, slot: _Slot) -> str:
        if not slot.ready.is_set():
            return "died during a call"
        try:
            await asyncio.wait_for(asyncio.wrap_future(slot.handle.ping.remote().future()), PING_DEADLINE_S)
        except TimeoutError:
            return f"no answer to a ping for {PING_DEADLINE_S:g} s"
        except Exception as dead:  # noqa: BLE001  Ray raises several unrelated classes for a dead actor
            return _first_line(dead)
        return ""

    async def _restart(self, slot: _Slot, fault: str) -> None:
        import ray

        slot.ready.clear()
        slot.health.last_fault = fault
        name = slot.spec.name
        if not slot.budget.spend(time.monotonic()):
            slot.spent = True
            slot.health.state = "given up"
            await self._on_fault(name, fault, "not started again: restart budget spent")
            return
        slot.health.state = "starting"
        slot.health.restarts += 1
        await self._on_fault(name, fault, "started again")
        try:
            ray.kill(slot.handle)  # a silent one must not act beside its successor
            await self._create(slot)
        except Exception as failed:  # noqa: BLE001  creation fails in many ways; the next round tries again
            slot.health.last_fault = f"could not be started: {_first_line(failed)}"
            log.error("actor could not be started", actor=name, error=_first_line(failed))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]
