"""What a run needs of the daemon around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from actors.runtime.actor_pool import ActorPool
from actors.runtime.job_desk import JobDesk
from actors.runtime.processes import Companion
from actors.runtime.tip_ownership import TipOwnership
from actors.runtime.watch_ring import WatchRing
from protocols.messages.records import RunStarted


@dataclass
class Site:
    """The daemon's parts; ``ensure_world`` brings up what the run's instrument needs and is idempotent."""

    state: Path
    pool: ActorPool
    tip: TipOwnership
    desk: JobDesk
    ring: WatchRing
    ensure_world: Callable[[RunStarted], Awaitable[None]]
    auxiliary: Companion | None = None
    """The process that reads auxiliary instruments; None: there is none here."""
