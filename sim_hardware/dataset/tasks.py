"""Shards made by several processes at once, as Ray tasks on an embedded cluster of this run.

The settings are those of the daemon's own cluster, which this package may not import: everything on the
loopback interface and behind a token (set before Ray is imported, or it listens on all interfaces), no
statistics sent, one thread to a process, since there are as many processes as cores.  ``address="local"``
keeps away from whatever cluster the machine runs.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from protocols.errors import PeerError
from sim_hardware.dataset.shards import ShardJob, ShardResult, make_shard

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
}
OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's minimum: shards go to the disk, not through Ray."""
RETRIES = 3
"""A shard whose process died is made again; the result is the same."""
PATIENCE_S = 1.0
"""The longest wait for a result between two looks at the terminal's Ctrl-C."""


def make_shards(jobs: Sequence[ShardJob], workers: int, seen: Callable[[int], None]) -> Iterator[ShardResult]:
    """Make shards, in this process alone or by Ray; results come as they are ready.

    ``seen`` hears of images that are done; with Ray only of whole shards.
    """
    if workers == 1 or len(jobs) <= 1:
        for job in jobs:
            yield make_shard(job, seen)
        return
    for result in _by_ray(jobs, min(workers, len(jobs))):
        seen(result.images)
        yield result


def _by_ray(jobs: Sequence[ShardJob], workers: int) -> Iterator[ShardResult]:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    # Below 40 characters: Ray puts sockets with long names in there.
    directory = tempfile.mkdtemp(prefix="tpds-", dir="/tmp")
    ray.init(
        address="local",
        _temp_dir=directory,
        include_dashboard=False,
        num_cpus=workers,
        num_gpus=0,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.ERROR,
    )
    try:
        yield from _collected(ray, ray.remote(num_cpus=1, max_retries=RETRIES)(make_shard), jobs, workers)
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


def _collected(ray: Any, task: Any, jobs: Iterable[ShardJob], workers: int) -> Iterator[ShardResult]:
    """One task a worker, and one more that waits for it."""
    waiting = iter(jobs)
    running: dict[Any, ShardJob] = {}
    while True:
        while len(running) < 2 * workers and (job := next(waiting, None)) is not None:
            running[task.remote(job)] = job
        if not running:
            return
        ready, _ = ray.wait(list(running), timeout=PATIENCE_S)
        for reference in ready:
            job = running.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as failed:
                raise failed.as_instanceof_cause() from None
            except ray.exceptions.RayError as lost:
                raise PeerError(
                    f"the process that made shard {job.shard.name} died {RETRIES + 1} times: {lost}.",
                    "Look at the machine's memory; the same command goes on where this one ended.",
                ) from lost
