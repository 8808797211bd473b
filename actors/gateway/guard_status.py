"""What others are told of the gateway: the guard's status answer, and the file of endpoints."""

from __future__ import annotations

import os
import time

from actors.gateway.guard_options import GuardOptions
from actors.gateway.hands import Alarms, Hands
from actors.gateway.latch import Latch
from actors.gateway.lease import LeaseKeeper
from actors.gateway.withdrawal import Parker
from actors.gateway.worker_process import WorkerProcess
from protocols.files.state_directory import publish_endpoints
from protocols.messages.control import GuardStatus


def guard_status(
    *,
    worker: WorkerProcess | None,
    lease: LeaseKeeper,
    parker: Parker,
    latch: Latch,
    hands: Hands,
    alarms: Alarms,
    withdrawal_mark: str,
) -> GuardStatus:
    """How everything stands now."""
    ready = worker.ready if worker else None
    return GuardStatus(
        pid=os.getpid(),
        worker_pid=worker.pid if worker else 0,
        worker_alive=worker is not None and worker.alive,
        epoch=lease.epoch,
        owner=lease.owner if lease.held else "",
        lease_left_s=lease.left_s(time.monotonic()),
        lease=lease.state,
        park=parker.state,
        latch=latch.state,
        latch_reason=latch.reason,
        last_park_reason=parker.reason,
        last_park_cause=parker.cause,
        instrument=hands.instrument,
        alarms=alarms.texts(),
        trips=hands.trips,
        commands_endpoint=ready.commands if ready else "",
        data_endpoint=ready.data if ready else "",
        withdrawal_mark=withdrawal_mark,
    )


def publish_gateway(options: GuardOptions, safety: str, worker: WorkerProcess | None) -> None:
    """Write down where the gateway is reached; a worker that is not ready yet has no endpoints."""
    ready = worker.ready if worker else None
    publish_endpoints(
        options.state,
        "gateway",
        worker_pid=worker.pid if worker and ready else 0,
        safety=safety,
        commands=ready.commands if ready else "",
        data=ready.data if ready else "",
        driver=options.driver,
        electronics=options.driver_endpoint,
    )
