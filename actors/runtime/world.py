"""The instrument's side of a run: simulated microscope if the campaign wants one, and the gateway."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import structlog

from actors.runtime.actor_pool import ActorPool
from actors.runtime.processes import Companion
from actors.runtime.restart_budget import RestartBudget
from protocols.errors import ConfigError, DeadlineError, PeerError, TunnelpilotError
from protocols.files.state_directory import ProcessLock, read_endpoints
from protocols.links.async_client import AsyncCommandClient
from protocols.messages.campaign import Campaign, InstrumentSection
from protocols.messages.control import WorkerQuery, WorkerStatus
from protocols.messages.simdoor import SimQuery, SimStatus
from protocols.nanonis.address import parse_address

OPEN_S = 40.0
"""The simulated microscope builds its surface within this time."""
SERVE_S = 40.0
"""The gateway's worker serves within this time."""
LOOK_S = 0.05
ASK_S = 2.0

log = structlog.get_logger(__name__)


class World:
    """Brings the instrument up for a campaign and keeps it up.

    A simulated microscope that runs already is joined if it is what the campaign asks for; else it is
    replaced, while no run is under way.
    """

    def __init__(self, state: Path, pool: ActorPool, limits: Path | None) -> None:
        self.state, self.pool = state, pool
        self._limits = limits
        self.gateway = Companion("gateway", gateway_arguments(state, limits), state, RestartBudget())
        self._sim_arguments: list[str] = []
        self._lock = asyncio.Lock()
        self.wanted = False

    async def ensure(self, campaign: Campaign, seed: int, time_scale: float) -> None:
        """Everything the campaign's instrument needs runs and answers; idempotent.

        Raises:
            PeerError: it does not come up, or died too often.
            ConfigError: the sample cannot be had.
        """
        async with self._lock:
            self.wanted = True
            if campaign.instrument.starts_simulator:
                await self._ensure_sim(campaign, seed, time_scale)
            self.gateway.arguments = gateway_arguments(self.state, self._limits, campaign.instrument)
            self._refuse_other_electronics(campaign.instrument)
            await self.gateway.ensure()
            await self._await_worker()

    async def replace(self, campaign: Campaign, seed: int, time_scale: float) -> None:
        """Before a new run: a gateway to other electronics ends, and another simulated microscope with its
        gateway."""
        async with self._lock:
            if self._drives_other(campaign.instrument):
                log.info("the gateway drives other electronics: replaced")
                await self.gateway.stop()
            if not campaign.instrument.starts_simulator:
                self._sim_arguments = []  # one that somebody else has started may be what answers there
                return
            if not ProcessLock(self.state, "sim").held_by_somebody():
                return
            status = await self._sim_status()
            if status is None or self._simulates(status, campaign, seed, time_scale):
                return
            log.info("another microscope is simulated: replaced", was=status.sample, seed=status.seed)
            await self.gateway.stop()
            await self.pool.call("sim_hardware", "stop", deadline_s=30.0)
            self._sim_arguments = []

    async def keep(self) -> None:
        """Start again what has died, within the budgets; called now and then while a run is under way.

        Raises:
            PeerError: a budget is spent.
        """
        if not self.wanted or self._lock.locked():
            return
        async with self._lock:
            if self._sim_arguments:
                await self.pool.call("sim_hardware", "keep", self._sim_arguments, deadline_s=30.0)
            await self.gateway.ensure()

    async def worker_status(self) -> WorkerStatus:
        """The worker's own view.

        Raises:
            TunnelpilotError: it does not answer.
        """
        endpoint = str(read_endpoints(self.state, "gateway").get("commands", ""))
        answer = await _ask(endpoint, "stmgate worker", WorkerQuery())
        if not isinstance(answer, WorkerStatus):
            raise PeerError(f"the gateway answered WorkerQuery with {type(answer).__name__}.")
        return answer

    async def stop(self) -> None:
        """Park (the gateway does), and end gateway and simulator."""
        self.wanted = False
        async with self._lock:
            await self.gateway.stop()
            if self._sim_arguments or ProcessLock(self.state, "sim").held_by_somebody():
                await self.pool.call("sim_hardware", "stop", deadline_s=30.0)
                self._sim_arguments = []

    def forgive(self) -> None:
        """A person has looked."""
        self.gateway.budget.reset()

    # ---- which electronics ----

    def _drives_other(self, instrument: InstrumentSection) -> bool:
        """Whether the gateway that runs has another driver or address than the campaign wants."""
        if not self.gateway.runs:
            return False
        try:
            found = read_endpoints(self.state, "gateway")
        except TunnelpilotError:
            return False
        driver, address = str(found.get("driver", "sim")), str(found.get("electronics", ""))
        if instrument.driver != driver:
            return True
        if driver == "nanonis":  # one address can be written in several ways
            return parse_address(address) != parse_address(instrument.address)
        return driver != "sim" and address != instrument.address

    def _refuse_other_electronics(self, instrument: InstrumentSection) -> None:
        """A gateway that a person has started is left alone.

        Raises:
            ConfigError: it drives other electronics than the campaign wants.
        """
        if self._drives_other(instrument):
            found = read_endpoints(self.state, "gateway")
            raise ConfigError(
                f"the gateway that runs with {self.state} drives {found.get('driver')} "
                f"{found.get('electronics')}; the campaign wants {instrument.driver} {instrument.address}.",
                "End that gateway, or use another --state.",
            )

    # ---- the simulated microscope ----

    def _simulates(self, status: SimStatus, campaign: Campaign, seed: int, time_scale: float) -> bool:
        """Whether the simulated microscope that runs is the one that the campaign wants."""
        instrument = campaign.instrument
        if instrument.driver == "nanonis":
            ports = read_endpoints(self.state, "sim").get("nanonis_ports") or []
            if tuple(ports) != parse_address(instrument.address).ports:
                return False
        return _same(status, campaign, seed, time_scale)

    async def _ensure_sim(self, campaign: Campaign, seed: int, time_scale: float) -> None:
        arguments = [
            *("--sample", campaign.instrument.sample),
            *("--seed", str(_sample_seed(campaign, seed))),
            *("--time-scale", str(time_scale)),
            *(("--stepped",) if campaign.lockstep else ()),
            *_nanonis_arguments(campaign.instrument),
        ]
        self._sim_arguments = arguments
        until = time.monotonic() + OPEN_S
        last: Any = "nothing"
        while time.monotonic() < until:
            found = await self.pool.call("sim_hardware", "keep", arguments, deadline_s=30.0)
            if found["ended"]:
                raise PeerError(
                    f"the simulated microscope does not stay up: {found['ended']}.", _sim_log(self.state)
                )
            status = await self._sim_status() if found["running"] and "door" in found else None
            if status is not None:
                if not self._simulates(status, campaign, seed, time_scale):
                    raise ConfigError(
                        f"a simulated microscope with sample {status.sample}, seed {status.seed}, time scale "
                        f"{status.time_scale:g} runs with {self.state}; the campaign wants "
                        f"{' '.join(arguments)}.",
                        "End it, or use another --state.",
                    )
                return
            last = found
            await asyncio.sleep(LOOK_S)
        raise DeadlineError(
            f"the simulated microscope did not open within {OPEN_S:g} s; last: {last}.", _sim_log(self.state)
        )

    async def _sim_status(self) -> SimStatus | None:
        try:
            door = str(read_endpoints(self.state, "sim").get("door", ""))
            answer = await _ask(door, "stmsim", SimQuery())
        except TunnelpilotError:
            return None
        return answer if isinstance(answer, SimStatus) else None

    async def _await_worker(self) -> None:
        until = time.monotonic() + SERVE_S
        last: object = "nothing"
        while time.monotonic() < until:
            try:
                await self.worker_status()
            except TunnelpilotError as silent:
                last = silent
            else:
                return
            await asyncio.sleep(LOOK_S)
            await self.gateway.ensure()
        raise DeadlineError(
            f"the gateway's worker did not serve within {SERVE_S:g} s; last: {last}",
            f"See {self.state / 'gateway'}.",
        )


async def _ask(endpoint: str, peer: str, message: Any) -> Any:
    if not endpoint:
        raise PeerError(f"{peer} has not said yet where it listens.")
    async with AsyncCommandClient(endpoint, "stmd", peer) as client:
        return await client.request(message, ASK_S)


def _sample_seed(campaign: Campaign, seed: int) -> int:
    named = campaign.instrument.sample_seed
    return seed if named is None else named


def _same(status: SimStatus, campaign: Campaign, seed: int, time_scale: float) -> bool:
    return (
        status.sample == campaign.instrument.sample
        and status.seed == _sample_seed(campaign, seed)
        and (campaign.lockstep or status.time_scale == time_scale)
        and status.stepped == campaign.lockstep
    )


def gateway_arguments(
    state: Path, limits: Path | None, instrument: InstrumentSection | None = None
) -> tuple[str, ...]:
    """How the gateway is started for a campaign's instrument."""
    arguments = ["-m", "actors.console.stmgate", "--state", str(state)]
    if limits is not None:
        arguments += ["--limits", str(limits)]
    if instrument is not None and instrument.driver != "sim":
        arguments += ["--driver", instrument.driver, "--driver-endpoint", instrument.address]
    return tuple(arguments)


def _nanonis_arguments(instrument: InstrumentSection) -> tuple[str, ...]:
    """What opens the simulated microscope's Nanonis door where the campaign looks for it."""
    if instrument.driver != "nanonis":
        return ()
    address = parse_address(instrument.address)
    ports = ("--nanonis-ports", ",".join(map(str, address.ports)))
    return ports if address.release is None else (*ports, "--nanonis-release", str(address.release))


def _sim_log(state: Path) -> str:
    return f"See {state / 'sim'}."


def journal_writer(state: Path) -> Companion:
    """The process that writes the journal."""
    arguments = ("-m", "actors.journal.writer", "--state", str(state))
    return Companion("journal", arguments, state, RestartBudget())
